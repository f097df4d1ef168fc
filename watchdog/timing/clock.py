"""The machine's clocks, and the countable one.

`Countable` is the only place where wall time becomes countable time. It counts the seconds in which the machine was
awake, this process ran, and looks came as planned:

    now = awake clock - what does not count

Sleep, and steps of the wall clock, never enter: the awake clock does not know them. If a look comes later than
planned, this process was stopped or starved, and so, perhaps, was everything else: the counter stands still from the
moment at which the look was due until it comes.

A wall time is converted once, at first sight, and kept from then on. One anchor caps it: the last look that noticed
something uncountable (sleep, a step, lateness, or it was the first look).

    after the anchor     exact: wall clock and counter moved together since
    before the anchor    its age by the wall clock, less all that was noticed since it is known how that clock moved;
                         what is older counts from there. Where the clock was set back, from the anchor itself.

So an age may come out too small, but never too large by more than the tolerances. A step back that is undone before
the next look can't be seen.
"""

import math
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import anyio

from watchdog.model.moments import Moment, WallMs
from watchdog.ports import Clock, Reading
from watchdog.timing.witness import Trace, steady, traces

DRIFT_TOLERANCE_SECONDS = 0.05
LATENESS_TOLERANCE_SECONDS = 0.25
STEP_SECONDS = 1.0
PLATFORM: str = sys.platform


class SystemClock:
    """The machine's own clocks."""

    @cached_property
    def _traces(self) -> list[Trace]:
        return traces()

    def read(self) -> Reading:
        """Read all clocks at once."""
        wall_ms, running = time.time_ns() // 1_000_000, _running_seconds()
        known = steady(self._traces, wall_seconds=wall_ms / 1000, running_seconds=running)
        return Reading(
            wall_ms=wall_ms,
            awake_seconds=time.monotonic(),
            running_seconds=running,
            steady_since_ms=None if known is None else round(wall_ms - (running - known.since_seconds) * 1000),
            steady_slack_seconds=0.0 if known is None else known.slack_seconds,
        )

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of awake time."""
        await anyio.sleep(seconds)


def boot_id() -> str:
    """Tells one boot of the machine from another; empty if nothing does, and every start counts as a new boot."""
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()  # noqa: S603 - fixed
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _running_seconds() -> float:
    """A clock that runs on in sleep. On macOS that is CLOCK_MONOTONIC; `time.monotonic` is another one there."""
    if PLATFORM == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if PLATFORM == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """What happened between two looks.

    Attributes:
        late_seconds: how much later than planned this look came; 0 if it is too little to mention.
        slept_seconds: how long the machine slept.
        stepped_seconds: how far the wall clock was set, negative for backward.
    """

    late_seconds: float = 0.0
    slept_seconds: float = 0.0
    stepped_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ruler:
    """Measures how old a wall time is at least.

    Attributes:
        since_ms: everything before it counts from here.
        slack_seconds: how much of the time since may not count.
    """

    since_ms: WallMs
    slack_seconds: float = 0.0

    def age(self, wall_ms: WallMs, at_ms: WallMs) -> float:
        """How old a wall time is at another wall time, at least."""
        return (at_ms - max(wall_ms, self.since_ms)) / 1000 - self.slack_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class _Anchor:
    """The last look that noticed something uncountable.

    Attributes:
        wall_ms: what the wall clock showed at it.
        moment: the same look on the countable clock.
        long: since the wall clock was known to go forward only.
        short: since the look before.
    """

    wall_ms: WallMs
    moment: Moment
    long: _Ruler
    short: _Ruler

    def moment_of(self, wall_ms: WallMs) -> Moment:
        """The latest moment at which the wall clock can have shown this time."""
        if wall_ms >= self.wall_ms:
            return self.moment + (wall_ms - self.wall_ms) / 1000
        age = max(0.0, self.long.age(wall_ms, self.wall_ms), self.short.age(wall_ms, self.wall_ms))
        return self.moment + -age

    def moved(self, last: Reading, reading: Reading, now: Moment, advance: Advance) -> "_Anchor":
        """The anchor of a look that noticed something."""
        moved = advance.late_seconds + advance.slept_seconds + advance.stepped_seconds
        here = _Ruler(since_ms=reading.wall_ms)
        if advance.stepped_seconds < 0 or advance.slept_seconds < 0:
            return _Anchor(wall_ms=reading.wall_ms, moment=now, long=here, short=here)
        long = replace(self.long, slack_seconds=self.long.slack_seconds + moved)
        short = _Ruler(since_ms=last.wall_ms, slack_seconds=moved)
        return _Anchor(wall_ms=reading.wall_ms, moment=now, long=long, short=short)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instant:
    """The beginning of a look, on both kinds of clock, and how it turns one kind into the other.

    Attributes:
        at_ms: what the wall clock shows.
        now: what the countable clock shows.
        steady_since_ms: since when the wall clock is known not to have been set by over 1 s. Times before that were
            written before the clock showed it.
        steady_slack_seconds: how wrong that may be.
        awake_seconds: what the awake clock shows.
        advance: what happened since the look before.
        anchor: how wall time is converted at this look.
    """

    at_ms: WallMs
    now: Moment
    steady_since_ms: WallMs
    steady_slack_seconds: float
    awake_seconds: float
    advance: Advance
    anchor: _Anchor

    def moment_of(self, wall_ms: WallMs) -> Moment:
        """Where a wall time lies on the countable clock, as far as this look can tell; no later than the look.

        Ask at first sight of the time, and keep the answer: a later one may be less exact.
        """
        return min(self.now, self.anchor.moment_of(wall_ms))

    def due_at(self, wall_ms: WallMs, *, since_ms: WallMs) -> Moment:
        """When something is due that somebody plans for a wall time.

        It is due as long after the look as it lies ahead. Time that does not count since the wait may have begun,
        such as a sleep or a step, has to be waited for once more; but nobody waits longer than from then on.

        Args:
            wall_ms: what it is planned for.
            since_ms: before this nobody waited for it.
        """
        ahead = (wall_ms - self.at_ms) / 1000
        uncounted = max(0.0, (self.at_ms - since_ms) / 1000 - (self.now - self.moment_of(since_ms)))
        left = max(ahead, min(ahead + uncounted, (wall_ms - since_ms) / 1000))
        return self.now + left if left > 0 else self.moment_of(wall_ms)


class Countable:
    """The countable clock; see the module. It is a `Clock`, too.

    Args:
        clock: the clocks that it reads. One `Countable` goes with one of them: moments of two can't be compared.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._uncounted_seconds = 0.0
        self._planned: float | None = None
        self._horizon = math.inf
        """Beyond this reading of the awake clock nothing counts until the next look."""
        self._last: Reading | None = None
        self._anchor = _Anchor(wall_ms=0, moment=Moment(0.0), long=_Ruler(since_ms=0), short=_Ruler(since_ms=0))
        self._step_seconds = 0.0
        """Steps of the wall clock that no look has noticed yet."""
        self._sleep_seconds = 0.0
        """Sleep of the machine that no look has noticed yet."""
        self._unnoted_seconds = 0.0
        """Steps of the wall clock since the last one that `steady_since_ms` knows of."""
        self._steady_since_ms: WallMs = 0
        self._slack_seconds = 0.0
        """How wrong `steady_since_ms` may be."""

    @classmethod
    def of(cls, clock: Clock) -> "Countable":
        """This clock if it is countable already, else a countable one on it."""
        return clock if isinstance(clock, Countable) else cls(clock)

    def read(self) -> Reading:
        """Read all clocks at once."""
        return self._clock.read()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of awake time."""
        await self._clock.sleep(seconds)

    def now(self) -> Moment:
        """What it shows now."""
        return self.at(self.read())

    def at(self, reading: Reading) -> Moment:
        """What it shows for a reading that was just taken."""
        return Moment(min(reading.awake_seconds, self._horizon) - self._uncounted_seconds)

    def plan(self, awake_seconds: float) -> None:
        """The next look is due at this reading of the awake clock: a delay beyond it does not count."""
        self._planned = awake_seconds
        self._horizon = awake_seconds + LATENESS_TOLERANCE_SECONDS

    def look(self, *, patience_seconds: float = math.inf) -> Instant:
        """Begin a look: notice everything since the last one that does not count.

        Args:
            patience_seconds: how long a planned look may take. Time beyond that does not count until the next look is
                planned.
        """
        reading = self.read()
        last, self._last = self._last, reading
        late = self._lateness(reading, last)
        if self._planned is not None and reading.awake_seconds >= self._planned:
            self._planned, self._horizon = None, reading.awake_seconds + patience_seconds
        self._uncounted_seconds += late
        now, advance = self.at(reading), Advance()
        if last is None:
            self._begin(reading, now)
        else:
            advance = self._notice(last, reading, late)
            if advance != Advance():
                self._anchor = self._anchor.moved(last, reading, now, advance)
        return Instant(
            at_ms=reading.wall_ms,
            now=now,
            steady_since_ms=self._steady_since_ms,
            steady_slack_seconds=self._slack_seconds,
            awake_seconds=reading.awake_seconds,
            advance=advance,
            anchor=self._anchor,
        )

    def dump(self) -> dict[str, Any]:
        """How the clocks moved, for another process of the same boot."""
        return {
            "awake_seconds": self.read().awake_seconds,
            "last": _told(self._last) if self._last else None,
            "steady_since_ms": self._steady_since_ms if self._last else None,
            "steady_slack_seconds": self._slack_seconds,
        }

    def resume(self, last: Reading) -> None:
        """Continue, before the first look, where another process of the same boot looked last.

        Args:
            last: its readings then, and since when it knew the wall clock to be steady.
        """
        if self._last is not None:
            return  # what this process saw itself counts more
        now = self.read()
        told = [each for each in (last.steady_since_ms, now.steady_since_ms, last.wall_ms) if each is not None]
        steady: WallMs | None = told[0]
        wall_seconds, running_seconds = (
            (now.wall_ms - last.wall_ms) / 1000,
            now.running_seconds - last.running_seconds,
        )
        if abs(wall_seconds - running_seconds) > STEP_SECONDS:
            steady = None
        self._last = last
        self._steady_since_ms = max(now.wall_ms, last.wall_ms) + 1 if steady is None else steady
        self._slack_seconds = last.steady_slack_seconds
        here = _Ruler(since_ms=now.wall_ms)
        long, short = here, here
        if steady is not None:
            slack = max(0.0, now.running_seconds - now.awake_seconds) + last.steady_slack_seconds + STEP_SECONDS
            long = _Ruler(since_ms=steady, slack_seconds=slack)
            moved = wall_seconds - (now.awake_seconds - last.awake_seconds)
            short = _Ruler(since_ms=last.wall_ms, slack_seconds=max(0.0, moved))
        self._anchor = _Anchor(wall_ms=now.wall_ms, moment=self.at(now), long=long, short=short)

    def _begin(self, reading: Reading, moment: Moment) -> None:
        """The first look: nobody knows of sleep since the machine booted, nor, unless it is told, of steps."""
        steady, asleep = reading.steady_since_ms, reading.running_seconds - reading.awake_seconds
        here = _Ruler(since_ms=reading.wall_ms)
        self._steady_since_ms, long = reading.wall_ms + 1, here
        if steady is not None:
            self._steady_since_ms, self._slack_seconds = steady, reading.steady_slack_seconds
            slack = (asleep if asleep > DRIFT_TOLERANCE_SECONDS else 0.0) + self._slack_seconds
            long = _Ruler(since_ms=steady, slack_seconds=slack)
        self._anchor = _Anchor(wall_ms=reading.wall_ms, moment=moment, long=long, short=here)

    def _notice(self, last: Reading, reading: Reading, late_seconds: float) -> Advance:
        """Sleep and steps since the last look; amounts too small to mention are carried on to the next one."""
        wall_seconds = (reading.wall_ms - last.wall_ms) / 1000
        running_seconds = reading.running_seconds - last.running_seconds
        self._step_seconds += wall_seconds - running_seconds
        self._sleep_seconds += running_seconds - (reading.awake_seconds - last.awake_seconds)
        advance = Advance(
            stepped_seconds=self._step_seconds if abs(self._step_seconds) > DRIFT_TOLERANCE_SECONDS else 0.0,
            slept_seconds=self._sleep_seconds if abs(self._sleep_seconds) > DRIFT_TOLERANCE_SECONDS else 0.0,
            late_seconds=late_seconds,
        )
        self._step_seconds -= advance.stepped_seconds
        self._sleep_seconds -= advance.slept_seconds
        self._unnoted_seconds += wall_seconds - running_seconds
        if abs(self._unnoted_seconds) > STEP_SECONDS:
            self._unnoted_seconds = 0.0
            before_ms = last.wall_ms + round(running_seconds * 1000)
            self._steady_since_ms = max(self._steady_since_ms, before_ms + 1, reading.wall_ms + 1)
        return advance

    def _lateness(self, reading: Reading, last: Reading | None) -> float:
        if self._planned is None or last is None:
            return 0.0
        late = min(reading.awake_seconds - self._planned, reading.awake_seconds - last.awake_seconds)
        return late if late > LATENESS_TOLERANCE_SECONDS else 0.0


def _told(reading: Reading) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in ("wall_ms", "awake_seconds", "running_seconds")}


def check_numbers(values: Iterable[object]) -> None:
    """Tell usable numbers from anything else that a damaged file may hold.

    Raises:
        ValueError: one is no finite number.
    """
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("a time is no number")


def now_ms() -> int:
    """What the wall clock shows."""
    return SystemClock().read().wall_ms
