"""Whether the wall clock was set since this boot, or this container, began: files made at the beginning tell.

The running clock can't be set, and shows when process 1 was born. Some inodes are made at the boot or when a
container starts, and keep the time that the wall clock showed then. If that still fits both clocks now, nobody set
the wall clock in between, within a few seconds. After a pause of a virtual machine, or a step, it does not fit.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PLACES: Final = ("/dev/pts", "/dev/shm", "/dev/null", "/dev/full", "/dev", "/proc/1")  # noqa: S108 - not to be written
EARLY_SECONDS: Final = 1.0
"""How long before the beginning an inode may seem to be made: the clocks are read one after the other."""
USUAL_SECONDS: Final = 2.5
"""How long after the beginning it is usually made. What this misses is less than the margin between births."""
LATE_SECONDS: Final = 5.0
"""How long after the beginning it may be made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Something that was made shortly after a beginning.

    Attributes:
        began_seconds: what the running clock showed at the beginning: 0 for the boot, else the birth of process 1.
        made_seconds: what the wall clock showed when it was made, in seconds since the epoch.
    """

    began_seconds: float
    made_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Steady:
    """Since when, on the running clock, the wall clock was not set; and how much it may still have been set."""

    since_seconds: float
    slack_seconds: float


def traces(places: Iterable[str] = PLACES) -> list[Trace]:
    """Everything that may have been made at the boot, or when process 1 was born."""
    found: list[Trace] = []
    for place in places:
        try:
            made = Path(place).stat().st_ctime_ns / 1e9
        except OSError:
            continue
        found.extend(Trace(began_seconds=began, made_seconds=made) for began in _beginnings())
    return found


def steady(found: Iterable[Trace], *, wall_seconds: float, running_seconds: float) -> Steady | None:
    """Since when the wall clock was not set, as far as traces show: the earliest time that one vouches for."""
    fitting: list[Steady] = []
    for trace in found:
        later = trace.made_seconds - (wall_seconds - running_seconds) - trace.began_seconds
        if -EARLY_SECONDS <= later <= LATE_SECONDS:
            latest = USUAL_SECONDS if later <= USUAL_SECONDS else LATE_SECONDS
            fitting.append(Steady(since_seconds=trace.began_seconds, slack_seconds=latest - max(0.0, later)))
    return min(fitting, key=lambda each: (each.since_seconds, each.slack_seconds), default=None)


def _beginnings(read: Callable[[], str] = lambda: Path("/proc/1/stat").read_text(encoding="utf-8")) -> list[float]:
    try:
        # The program's name is in parentheses and may hold any character; the times come after it.
        ticks = int(read().rpartition(")")[2].split()[19])
        return [0.0, ticks / os.sysconf("SC_CLK_TCK")]
    except (OSError, ValueError, IndexError):
        return [0.0]
