"""Many worlds, side by side, and the table of what they came to. What was played can be kept, and gone on with."""

import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from simulation.ledger import Violation
from simulation.worlds import Came, WorldPlan, plan_of, play_plan
from simulation.writing import DAY

YEAR_SECONDS: Final = 365 * DAY
_SHOWN_EVERY_SECONDS: Final = 10.0
_MOST_VOID: Final = 0.1
"""A run of which more worlds are void than this part of them has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """How much to simulate.

    Attributes:
        first: the first seed.
        years: go on until so many were simulated, by the calendar; None to go by `seconds` alone.
        seconds: go on for so long at most; None for no end.
        jobs: how many processes play side by side.
        days: how long each busy world lasts.
        kept: a file that keeps what came of each world, a line of JSON each; a later run goes on from there.
    """

    first: int
    years: float | None
    seconds: float | None
    jobs: int
    days: float
    kept: Path | None = None


class Years:
    """Plays worlds until that is enough."""

    def __init__(self, wish: Wish, console: Console) -> None:
        self.wish = wish
        self.console = console
        self.began = self.shown = time.monotonic()
        self.came: list[Came] = [] if wish.kept is None else _read(wish.kept)

    def run(self) -> int:
        """Play, and show the table. Returns 1 if an oracle spoke, or if too many worlds were void."""
        played = {each.plan.seed for each in self.came}
        seeds = (seed for seed in count(self.wish.first) if seed not in played)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.wish.jobs, mp_context=context) as pool:
            first = 0 if self.came and self._is_over() else self.wish.jobs
            waiting = [pool.submit(play_plan, self._plan(next(seeds))) for _ in range(first)]
            while waiting:
                self._add(waiting.pop(0).result())
                if not self._is_over():
                    waiting.append(pool.submit(play_plan, self._plan(next(seeds))))
        self.console.print(table(self.came, time.monotonic() - self.began, self.wish.jobs))
        void = sum(each.void for each in self.came)
        return 1 if any(each.violation for each in self.came) or void > len(self.came) * _MOST_VOID else 0

    def _plan(self, seed: int) -> WorldPlan:
        return plan_of(seed, self.wish.days)

    def _is_over(self) -> bool:
        if self.wish.seconds is not None and time.monotonic() - self.began >= self.wish.seconds:
            return True
        return self.wish.years is not None and _lived(self.came) >= self.wish.years * YEAR_SECONDS

    def _add(self, came: Came) -> None:
        self.came.append(came)
        if self.wish.kept is not None:
            with self.wish.kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(came)) + "\n")
        if came.violation is not None:
            tell(self.console, came.plan, came.violation)
        if time.monotonic() - self.shown >= _SHOWN_EVERY_SECONDS:
            self.shown = time.monotonic()
            landed, counts = _totals(self.came)
            self.console.print(
                f"{_lived(self.came) / YEAR_SECONDS:.2f} years, {len(self.came)} worlds, {landed.total()} events, "
                f"{counts['aborts']} aborts, {counts['settled']} settled, "
                f"{sum(each.violation is not None for each in self.came)} found",
                style="dim",
            )


def tell(console: Console, plan: WorldPlan, violation: Violation) -> None:
    """Show what an oracle said, and how to hear it again."""
    words = f"seed {plan.seed}, {violation.kind} at {violation.at:.1f} s: {violation.text}"
    console.print(words, style="red", markup=False, soft_wrap=True)
    console.print(f"  again: {plan.again}    shorter: {plan.again} --shrink", markup=False, soft_wrap=True)


def table(came: list[Came], took: float, jobs: int) -> Table:
    """What all worlds came to."""
    shown = Table("what", "how much", title="what was simulated")
    for what, how_much in _lines(came, took, jobs):
        shown.add_row(what, how_much)
    return shown


def _lines(came: list[Came], took: float, jobs: int) -> Iterator[tuple[str, str]]:
    seeds, cpu = [each.plan.seed for each in came], sum(each.cpu_seconds for each in came)
    quiet = sum(each.plan.quiet for each in came)
    lived, awake = _lived(came) / YEAR_SECONDS, sum(each.seconds for each in came) / YEAR_SECONDS
    landed, counts = _totals(came)
    missed = sum((Counter(each.missed) for each in came), Counter[str]())
    yield "worlds", f"{len(came)} (seeds {min(seeds)} to {max(seeds)}), {quiet} of them quiet"
    yield "simulated years", f"{lived:.3f} by the calendar, {awake:.3f} of them awake"
    yield "took", f"{took:.0f} s this time, {jobs} side by side; {cpu / 3600:.2f} h of CPU in all"
    yield "years in an hour of CPU", f"{lived * 3600 / cpu:.2f}"
    yield "sessions", str(sum(each.sessions for each in came))
    yield "looks", f"{counts['looks']}, {1000 * cpu / max(1, counts['looks']):.2f} ms each with all around them"
    for what in sorted(landed.keys() | missed.keys()):
        yield what, f"{landed[what]}{f' ({missed[what]} could not)' if missed[what] else ''}"
    for what in sorted(counts.keys() - {"looks"}):
        yield what, str(counts[what])
    kinds = Counter(each.violation.kind for each in came if each.violation is not None)
    worst = max(came, key=lambda each: each.longest_overrun)
    yield "healthy cut", str(kinds["healthy cut"] + kinds["healthy rewritten"])
    yield "hung left", str(kinds["left hanging"] + kinds["orphan left"] + kinds["not at rest"])
    yield "found in all", ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items())) or "nothing"
    yield "longest overrun of a limit", f"{worst.longest_overrun:.1f} s (seed {worst.plan.seed})"
    yield "void worlds: most faults could not happen", str(sum(each.void for each in came))


def _lived(came: list[Came]) -> float:
    return sum(each.lived for each in came)


def _totals(came: list[Came]) -> tuple[Counter[str], Counter[str]]:
    """What landed, and what the product did."""
    landed, counts = Counter[str](), Counter[str]()
    for each in came:
        landed.update(each.landed)
        counts.update(each.counts)
    return landed, counts


def _read(path: Path) -> list[Came]:
    """What earlier runs kept."""
    if not path.exists():
        return []
    try:
        return [_came(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError, KeyError) as error:
        sys.exit(f"{path} was not written by a simulation of this version ({error}). Name another file.")


def _came(value: dict[str, Any]) -> Came:
    plan, violation = value.pop("plan"), value.pop("violation")
    found = None if violation is None else Violation(**violation)
    return Came(plan=WorldPlan(**plan), violation=found, **value)
