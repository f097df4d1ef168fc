"""The worlds of many years: short and busy ones, and as many long and quiet ones."""

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from simulation.ledger import Violation
from simulation.play import play
from simulation.quiet import quiet_days, write_quiet
from simulation.script import Script
from simulation.writing import write

BUSY_DAYS = 0.12
QUIET_EVERY = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldPlan:
    """Which world it is, and how long it lasts."""

    seed: int
    days: float
    quiet: bool = False

    def script(self) -> Script:
        """Its script."""
        return (write_quiet if self.quiet else write)(self.seed, self.days)

    @property
    def again(self) -> str:
        """The command that plays it again."""
        return f"python -m simulation --seed {self.seed} --days {self.days:g}{' --quiet' if self.quiet else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Came:
    """What came of a world, as far as the table of all worlds needs it. See `Played`.

    Attributes:
        cpu_seconds: what it cost.
    """

    plan: WorldPlan
    seconds: float
    lived: float
    sessions: int
    longest_overrun: float
    cpu_seconds: float
    landed: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    void: bool = False
    violation: Violation | None = None


def plan_of(seed: int, days: float = BUSY_DAYS) -> WorldPlan:
    """The world of a seed among many."""
    quiet = seed % QUIET_EVERY == QUIET_EVERY - 1
    return WorldPlan(seed=seed, days=quiet_days(seed) if quiet else days, quiet=quiet)


def play_plan(plan: WorldPlan) -> Came:
    """Play a world, in a process that does nothing else."""
    gc.set_threshold(50_000, 20, 50)  # nearly everything here ends with its look
    began = time.process_time()
    played = play(plan.script())
    return Came(
        plan=plan,
        seconds=played.seconds,
        lived=played.lived,
        sessions=played.sessions,
        longest_overrun=played.longest_overrun,
        cpu_seconds=time.process_time() - began,
        landed=played.landed,
        missed=played.missed,
        counts=played.counts,
        void=played.void,
        violation=played.violation,
    )
