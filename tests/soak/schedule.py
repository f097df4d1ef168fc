"""When what goes wrong: drawn from a seed, so that a run can be had again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """What goes wrong."""

    STOP_WATCHDOG = "SIGSTOP watchdog"
    KILL_WATCHDOG = "kill -9 watchdog"
    KILL_SERVER = "kill -9 server"
    KILL_UNSEEN = "kill -9 server, watchdog stopped"
    LOCK = "database locked"
    CUT = "feed cut"
    ERRORS = "500s"
    HALVES = "half replies"


PROCESSES: Final = (Fault.STOP_WATCHDOG, Fault.KILL_WATCHDOG, Fault.KILL_SERVER, Fault.LOCK)
NETWORK: Final = (Fault.CUT, Fault.ERRORS, Fault.HALVES)
SERVER_KILLS: Final = (Fault.KILL_SERVER, Fault.KILL_UNSEEN)

# Seconds. A lock must be shorter than opencode's own patience with one (5 s): longer ones break opencode itself. A
# server comes back later than the margin between births and their doubt: through a proxy only births are proof.
_LASTS: Final = {
    Fault.STOP_WATCHDOG: (2.0, 6.0),
    Fault.KILL_WATCHDOG: (0.0, 2.0),
    Fault.KILL_SERVER: (4.0, 6.0),
    Fault.KILL_UNSEEN: (4.0, 5.0),
    Fault.LOCK: (1.0, 3.0),
    Fault.CUT: (2.0, 6.0),
    Fault.ERRORS: (2.0, 5.0),
    Fault.HALVES: (2.0, 5.0),
}
_CALM_AFTER_ROUNDS: Final = 3
_RARE_EVERY: Final = 4
_AFTER_A_SERVER_KILL_SECONDS: Final = 8.0
"""More quiet than usual, so that what hangs anew has the time to reach its limit."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One fault: how long after the one before it began or, for the first, after the start, and how long it lasts."""

    at: float
    fault: Fault
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.fault.value} ({self.seconds:.1f} s)"


def draw(seed: int, seconds: float) -> tuple[list[Trouble], list[Trouble]]:
    """The faults of the processes and those of the network; the two run beside each other."""
    processes = list(_track(random.Random(f"{seed} processes"), PROCESSES, seconds))  # noqa: S311 - no secret
    network = list(_track(random.Random(f"{seed} network"), NETWORK, seconds))  # noqa: S311
    return processes, network


def _track(rng: random.Random, kinds: tuple[Fault, ...], seconds: float) -> Iterator[Trouble]:
    """Each kind once a round, in an order of its own; after a few rounds the watchdog also gets time to grow old."""
    at, rounds = rng.uniform(6.0, 9.0), 0
    while True:
        rare = rounds >= _CALM_AFTER_ROUNDS and rounds % _RARE_EVERY
        wanted = [kind for kind in kinds if not (rare and kind is Fault.KILL_WATCHDOG)]
        rng.shuffle(wanted)
        for each in wanted:
            kind = SERVER_KILLS[rounds % 2] if each is Fault.KILL_SERVER else each
            lasts = rng.uniform(*_LASTS[kind])
            if at + lasts > seconds:
                return
            yield Trouble(at=at, fault=kind, seconds=lasts)
            at += lasts + rng.uniform(3.0, 7.0) + (_AFTER_A_SERVER_KILL_SECONDS if kind in SERVER_KILLS else 0.0)
        rounds += 1
