"""Runs measurements, all or those that are named, and shows what they found."""

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import anyio
import structlog
from rich.console import Console

from benchmarks import report
from benchmarks.bench import REFERENCE, Bench, Measurement, Step
from benchmarks.cluster import missing
from benchmarks.crowd import crowd
from benchmarks.detection import detection
from benchmarks.first import first
from benchmarks.generate import cache_folder, cached, reserved
from benchmarks.judged import judged
from benchmarks.leader import leader
from benchmarks.load import load
from benchmarks.looking_back import tune
from benchmarks.memory import memory
from benchmarks.postgres import postgres
from benchmarks.processes import ROOT, scratch
from benchmarks.resting import cpu
from benchmarks.start import start
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
    "memory": memory,
    "cpu": cpu,
    "load": load,
    "start": start,
    "tune": tune,
    "postgres": postgres,
    "leader": leader,
    "crowd": crowd,
}
IN_POSTGRES = frozenset({"postgres", "leader", "crowd"})
SIZES = (10_000, 100_000, 1_000_000)


def main() -> int:
    """Measure, and show. Returns the exit code: 0 also where a figure missed, since that is what was to be found."""
    arguments = _arguments(sys.argv[1:])
    # The watchdogs inside this process log nothing: what is measured is not the terminal.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    errors = Console(stderr=True)
    folder = cache_folder(dict(os.environ), Path.home())
    try:
        with reserved(folder):
            found = _measured(arguments, folder, errors)
    except BlockingIOError:
        errors.print(f"another benchmark is at work on the databases in {folder}", highlight=False)
        return 1
    report.show([figure for result in found.results.values() for figure in result.figures], Console())
    if arguments.results is not None:
        report.write(found, arguments.results)
        _plot(found, arguments.results / "plot.svg")
    for page in arguments.page:
        report.quote(report.as_markdown(found), page)
    return 0


def _measured(arguments: argparse.Namespace, folder: Path, console: Console) -> report.Report:
    """Make the databases that are missing, and measure one thing after another."""
    names = measurable(arguments.names or list(MEASUREMENTS), missing(), console)
    parts = tuple(sorted(set(arguments.parts or SIZES)))
    began = datetime.now(UTC).isoformat(timespec="seconds")
    databases = {size: _database(folder, generated(size, names), arguments.seed, console) for size in parts}
    results, seconds = {}, {}
    for name in names:
        with scratch() as empty, _shown(name, console) as step:
            started = time.monotonic()
            results[name] = anyio.run(MEASUREMENTS[name], Bench(databases=databases, folder=empty, step=step))
            seconds[name] = time.monotonic() - started
    return report.Report(
        results=results, seconds=seconds, parts=parts, seed=arguments.seed, began=began, commit=_commit()
    )


def generated(size: int, names: Sequence[str]) -> int:
    """How many parts the file has that stands for a size: PostgreSQL copies the rest itself."""
    return size if not set(names) <= IN_POSTGRES or size % REFERENCE else REFERENCE


def measurable(names: Sequence[str], missing: str | None, console: Console) -> list[str]:
    """What can be measured of what is asked for; says what is left out.

    Args:
        names: of measurements.
        missing: why there is no PostgreSQL, or None where there is one.
        console: where to say so.
    """
    left_out = [name for name in names if missing is not None and name in IN_POSTGRES]
    if left_out:
        console.print(f"{', '.join(left_out)}: left out, {missing}", highlight=False)
    return [name for name in names if name not in left_out]


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MEASUREMENTS], metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--parts", type=_parts, action="append", help="a size; several times for several sizes")
    parser.add_argument("--seed", type=int, default=1, help="of the generated databases")
    parser.add_argument("--results", type=Path, help="a folder to write latest.json, latest.md and plot.svg to")
    parser.add_argument(
        "--page", type=Path, action="append", default=[], help="a page to write the table into, where it is marked"
    )
    arguments = parser.parse_args(given)
    if arguments.results is not None and find_spec("matplotlib") is None:
        parser.error("the plot needs matplotlib: `make bench` installs it")
    return arguments


def _parts(text: str) -> int:
    parts = int(text.replace("_", ""))
    if parts < 1:
        raise argparse.ArgumentTypeError("a size is 1 or more")
    return parts


def _database(folder: Path, parts: int, seed: int, console: Console) -> Path:
    """The generated database of a size; says so if it has to be made."""
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


def _plot(found: report.Report, path: Path) -> None:
    """Draw the lines, if any of the measurements gave some."""
    from benchmarks.plot import draw  # noqa: PLC0415 - matplotlib is large, and nothing that is measured needs it

    results = found.results.values()
    lines = {way: points for result in results for way, points in result.lines.items()}
    on_clock = {way: points for result in results for way, points in result.on_clock.items()}
    panels = {"CPU, ms": lines, "PostgreSQL: on the clock, ms": on_clock}
    if shown := {label: ways for label, ways in panels.items() if ways}:
        draw(shown, path)


def _commit() -> str | None:
    """Which sources these are, with a mark if they are changed."""
    line = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match", ""]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.strip() or None if found.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
