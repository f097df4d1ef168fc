"""Simulates years: plays one seed after the other, shows what was found, and how to play it again."""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.table import Table

from simulation.ledger import Violation
from simulation.mutants import MUTANTS, hunt
from simulation.play import Played, play
from simulation.shrink import fails_as, shrink, until
from simulation.worlds import play_seed
from simulation.writing import DAY, write

YEAR_SECONDS = 365 * DAY
_SHOWN_EVERY_SECONDS = 10.0
_MOST_VOID = 0.1
"""A run of which more worlds are void than this part of them has failed."""


def main() -> int:
    """Simulate, and show. Returns the exit code: 1 if an oracle spoke, or a mutant was not found."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of what happens
        command = [sys.executable, "-m", "simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})  # noqa: S606 - this very program
    arguments = _arguments(sys.argv[1:])
    if arguments.mutants:
        return _mutants(arguments.jobs, arguments.only)
    if arguments.years is None and arguments.seconds is None and arguments.seed is not None:
        return _one(arguments.seed, arguments.days, shrinks=arguments.shrink)
    return _Years(arguments).run()


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one world; with --years or --seconds, begin with it")
    parser.add_argument("--days", type=float, default=0.12, help="how long each world lasts (default %(default)s)")
    parser.add_argument("--years", type=float, help="go on until so many years were simulated")
    parser.add_argument("--seconds", type=float, help="go on for so long (default 60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--shrink", action="store_true", help="make the script of a failing seed as short as can be")
    parser.add_argument("--mutants", action="store_true", help="plant each bug, and see whether it is found")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this mutant alone")
    return parser.parse_args(argv)


def again(seed: int, days: float) -> str:
    """The command that plays a world again."""
    return f"python -m simulation --seed {seed} --days {days:g}"


def _one(seed: int, days: float, *, shrinks: bool) -> int:
    """Play one world, and tell what led to its end."""
    console = Console()
    played = play(write(seed, days))
    if played.violation is None:
        console.print(f"seed {seed}: {played.seconds / DAY:.2f} days, digest {played.digest}: nothing was found")
        return 0
    for line in played.lines[-200:]:
        print(line)  # as it is, without the marks of a terminal
    _tell(console, seed, days, played.violation)
    if shrinks:
        script = until(played.script, played.violation.at)
        print(shrink(script, fails_as(played.violation.kind)).code())
    return 1


def _tell(console: Console, seed: int, days: float, violation: Violation) -> None:
    console.print(
        f"seed {seed}, {violation.kind} at {violation.at:.1f} s: {violation.text}", style="red", markup=False
    )
    console.print(f"  again: {again(seed, days)}    shorter: {again(seed, days)} --shrink", markup=False)


class _Years:
    """Many worlds, side by side, and the table of what they came to."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.console = Console()
        self.began = time.monotonic()
        self.shown = self.began
        self.worlds = self.sessions = self.void = 0
        self.seconds = self.overrun = 0.0
        self.landed: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.found: list[tuple[int, Violation]] = []

    def run(self) -> int:
        """Play until the years, or the time, are over."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.arguments.jobs, mp_context=context) as pool:
            seeds = iter(range(self.arguments.seed or 0, sys.maxsize))
            waiting = [pool.submit(play_seed, next(seeds), self.arguments.days) for _ in range(self.arguments.jobs)]
            while waiting:
                played = waiting.pop(0).result()
                self._add(played)
                if not self._is_over():
                    waiting.append(pool.submit(play_seed, next(seeds), self.arguments.days))
        self.console.print(self._table())
        return 1 if self.found or self.void > self.worlds * _MOST_VOID else 0

    def _is_over(self) -> bool:
        years, seconds = self.arguments.years, self.arguments.seconds or 60.0
        if years is not None:
            return self.seconds >= float(years) * YEAR_SECONDS
        return time.monotonic() - self.began >= float(seconds)

    def _add(self, played: Played) -> None:
        self.void += played.void
        self.worlds += 1
        self.seconds += played.seconds
        self.sessions += played.sessions
        self.overrun = max(self.overrun, played.longest_overrun)
        self.landed.update(played.landed)
        self.missed.update(played.missed)
        self.counts.update(played.counts)
        if played.violation is not None:
            self.found.append((played.script.seed, played.violation))
            _tell(self.console, played.script.seed, self.arguments.days, played.violation)
        if time.monotonic() - self.shown >= _SHOWN_EVERY_SECONDS:
            self.shown = time.monotonic()
            self.console.print(
                f"{self.seconds / YEAR_SECONDS:.3f} years, {self.worlds} worlds, {sum(self.landed.values())} events, "
                f"{self.counts['aborts']} aborts, {self.counts['settled']} settled, {len(self.found)} found",
                style="dim",
            )

    def _table(self) -> Table:
        table = Table("what", "how much", title="what was simulated")
        for what, how_much in self._lines():
            table.add_row(what, how_much)
        return table

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "worlds (seeds)", f"{self.worlds}, from {self.arguments.seed or 0}"
        yield "simulated years", f"{self.seconds / YEAR_SECONDS:.3f}"
        yield "took", f"{time.monotonic() - self.began:.0f} s, {self.arguments.jobs} side by side"
        yield "sessions", str(self.sessions)
        yield "looks", str(self.counts["looks"])
        for what in sorted(self.landed.keys() | self.missed.keys()):
            missed = f" ({self.missed[what]} could not)" if self.missed[what] else ""
            yield what, f"{self.landed[what]}{missed}"
        for what in sorted(self.counts.keys() - {"looks"}):
            yield what, str(self.counts[what])
        kinds = Counter(violation.kind for _, violation in self.found)
        yield "healthy cut", str(kinds["healthy cut"] + kinds["healthy rewritten"])
        yield "hung left", str(kinds["left hanging"] + kinds["orphan left"] + kinds["not at rest"])
        yield "found in all", str(len(self.found))
        yield "longest overrun of a limit", f"{self.overrun:.1f} s"
        yield "void worlds: most faults could not happen", str(self.void)


def _mutants(jobs: int, only: Sequence[str]) -> int:
    """Plant each bug, and see in how many worlds it is found."""
    console, missed, names = Console(), [], [name for name in MUTANTS if not only or name in only]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        for found in pool.map(hunt, names):
            console.print(found.sentence, style="green" if found.found else "red", markup=False, soft_wrap=True)
            missed += [] if found.found else [found.name]
    console.print(f"{len(names) - len(missed)} of {len(names)} planted bugs were found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
