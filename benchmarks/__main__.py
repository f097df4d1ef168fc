"""Runs measurements, all or those that are named, and shows what they found."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import structlog
from rich.console import Console

from benchmarks import report
from benchmarks.bench import Bench, Measurement, Step
from benchmarks.detection import detection
from benchmarks.first import first
from benchmarks.generate import cache_folder, cached
from benchmarks.judged import judged
from benchmarks.processes import ROOT, scratch
from benchmarks.stuck import hanging, stuck
from benchmarks.ticks import changed, idle, served

MEASUREMENTS: Mapping[str, Measurement] = {
    "idle": idle,
    "served": served,
    "changed": changed,
    "first": first,
    "judged": judged,
    "detection": detection,
    "stuck": stuck,
    "hanging": hanging,
}
SIZES = (10_000, 100_000, 1_000_000)


def main() -> int:
    """Measure, and show. Returns the exit code: 0 also where a figure missed, since that is what was to be found."""
    arguments = _arguments(sys.argv[1:])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    console, errors = Console(), Console(stderr=True)
    parts = tuple(sorted(set(arguments.parts or SIZES)))
    began = datetime.now(UTC).isoformat(timespec="seconds")
    databases = {size: _database(size, arguments.seed, errors) for size in parts}
    results, seconds = {}, {}
    for name in arguments.names or MEASUREMENTS:
        with scratch() as folder, _shown(name, errors) as step:
            started = time.monotonic()
            results[name] = anyio.run(MEASUREMENTS[name], Bench(databases=databases, folder=folder, step=step))
            seconds[name] = time.monotonic() - started
    found = report.Report(
        results=results, seconds=seconds, parts=parts, seed=arguments.seed, began=began, commit=_commit()
    )
    report.show([figure for result in results.values() for figure in result.figures], console)
    if arguments.results is not None:
        report.write(found, arguments.results)
    return 0


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MEASUREMENTS], metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--parts", type=_parts, action="append", help="a size; several times for several sizes")
    parser.add_argument("--seed", type=int, default=1, help="of the generated databases")
    parser.add_argument("--results", type=Path, help="a folder to write latest.json, latest.md and plot.svg to")
    return parser.parse_args(given)


def _parts(text: str) -> int:
    parts = int(text.replace("_", ""))
    if parts < 1:
        raise argparse.ArgumentTypeError("a size is 1 or more")
    return parts


def _database(parts: int, seed: int, console: Console) -> Path:
    """The generated database of a size; says so if it has to be made."""
    folder = cache_folder(dict(os.environ), Path.home())
    with _shown(f"{parts:,} parts", console) as step:
        return cached(folder, parts, seed, lambda done: step(f"generated {done:,}"))


@contextmanager
def _shown(name: str, console: Console) -> Iterator[Step]:
    """Show what is done: a line that changes on a terminal, else one line at the end."""
    began = time.monotonic()
    if console.is_terminal:
        with console.status(name) as status:
            yield lambda text: status.update(f"{name}: {text}")
    else:
        yield lambda _: None
    console.print(f"{name}: {time.monotonic() - began:.1f} s", highlight=False)


def _commit() -> str | None:
    """Which sources these are, with a mark if they are changed."""
    line = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match", ""]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.strip() or None if found.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
