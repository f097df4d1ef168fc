"""The clocks, and what to add to a moment so that its age is awake time.

The arithmetic of `Timeline`. Between two looks, 0 and 1, the wall clock moved by `W1 - W0`, the running clock by
`R1 - R0` and the awake clock by `A1 - A0`. What the wall clock moved beyond the awake clock is no age of anything:
somebody set the clock, or the machine slept. How much later than planned look 1 came is no age either: this process
was stopped or starved, and so, perhaps, was everything else.

    step     = (W1 - W0) - (R1 - R0)      credited beyond 50 ms; what is less is carried on to the next look
    sleep    = (R1 - R0) - (A1 - A0)      likewise
    lateness = A1 - planned               credited beyond 250 ms, at most A1 - A0

A credit moves every moment before it, so that `now - shift(moment)` is the moment's awake age:

    forward (sleep, lateness, a step forward):   shift(t) = min(t + credit, W1)   for t before W1
    backward (a step back):                      shift(t) = t + credit            for t before the floor

The rule is that an age may come out too small, never too large (by more than the tolerances). Hence the `min`: a
moment between the two looks may lie before or after the sleep, and counts as if it lay before. And hence the floor:
it is the lowest time that the wall clock can have shown since the step back. Times above it may be shown twice, and
a moment among them may be of the second pass, which needs no credit. A caller that has known the moment since before
the step says so (`known_since`), and the age is exact. What can't be seen is a step back that is undone before the
next look.
"""

import math
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from watchdog.ports import Reading

DRIFT_TOLERANCE_SECONDS = 0.05
LATENESS_TOLERANCE_SECONDS = 0.25
FLOOR_MARGIN_MS = 2000 * DRIFT_TOLERANCE_SECONDS
"""A step back lands this close to its floor: what drifts unseen must not pass below."""
STEP_SECONDS = 1.0
MOST_CREDITS = 1000
PLATFORM: str = sys.platform


class SystemClock:
    """The machine's own clocks."""

    def read(self) -> Reading:
        """Read all clocks at once."""
        return Reading(
            wall_ms=time.time_ns() // 1_000_000, awake_seconds=time.monotonic(), running_seconds=_running_seconds()
        )

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of awake time."""
        await anyio.sleep(seconds)


def boot_id() -> str:
    """What tells one boot of the machine from another; empty where nothing does, and every start is a new boot."""
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()  # noqa: S603 - fixed
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _running_seconds() -> float:
    """A clock that runs on in sleep. On macOS that is CLOCK_MONOTONIC, and `time.monotonic` is another one."""
    if PLATFORM == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if PLATFORM == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """What happened between two looks.

    Attributes:
        late_seconds: how much later than planned this look came; 0 when it is not worth a credit.
        slept_seconds: how long the machine slept.
        stepped_seconds: how far the wall clock was set, backward if negative.
    """

    late_seconds: float = 0.0
    slept_seconds: float = 0.0
    stepped_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Credit:
    """Time that is no age.

    Attributes:
        before_ms: the wall clock at the look before it.
        at_ms: the wall clock at the look that noted it.
        at_awake_seconds: the awake clock at that look.
        floor_ms: the lowest time that the wall clock can have shown since, for a step back.
    """

    before_ms: float
    at_ms: float
    at_awake_seconds: float
    amount_ms: float
    floor_ms: float

    def shift(self, shifted_ms: float, moment_ms: float, *, lay_before: bool) -> float:
        """Move a moment that the credits before this one have moved to `shifted_ms`."""
        if lay_before:
            return min(shifted_ms + self.amount_ms, self.at_ms)
        if self.amount_ms >= 0:
            return min(shifted_ms + self.amount_ms, self.at_ms) if shifted_ms < self.at_ms else shifted_ms
        return shifted_ms + self.amount_ms if moment_ms < self.floor_ms else shifted_ms


class Timeline:
    """What to credit to every moment for sleep, clock steps and lateness. See the module for the arithmetic."""

    def __init__(self) -> None:
        self._credits: deque[_Credit] = deque()
        self._last: Reading | None = None
        self._step_seconds = 0.0
        """What the wall clock was set that is not credited yet."""
        self._sleep_seconds = 0.0
        """What the machine slept that is not credited yet."""
        self._unnoted_seconds = 0.0
        """What the wall clock was set since the last step that `step_ms` knows of."""
        self._step_ms: int | None = None

    @property
    def step_ms(self) -> int | None:
        """Rows created before this moment can't be compared with births: the wall clock was set by over 1 s.

        It is the larger of what the wall clock shows after the step and the latest it can have shown before.
        """
        return self._step_ms

    def advance(self, reading: Reading, *, planned_awake_seconds: float | None = None) -> Advance:
        """Take the clocks of a new look, and note what is to be credited since the one before.

        Args:
            reading: the clocks now.
            planned_awake_seconds: what the awake clock should have shown when this look was due; None for a look
                that was not planned, such as the first.
        """
        last, self._last = self._last, reading
        if last is None:
            # Nobody knows when the machine slept since it booted: what is older than this look may all have slept.
            asleep = reading.running_seconds - reading.awake_seconds
            self._note(reading, reading, asleep if asleep > DRIFT_TOLERANCE_SECONDS else 0.0)
            return Advance()
        wall_seconds = (reading.wall_ms - last.wall_ms) / 1000
        running_seconds = reading.running_seconds - last.running_seconds
        awake_seconds = reading.awake_seconds - last.awake_seconds
        self._step_seconds += wall_seconds - running_seconds
        self._sleep_seconds += running_seconds - awake_seconds
        advance = Advance(
            stepped_seconds=self._step_seconds if abs(self._step_seconds) > DRIFT_TOLERANCE_SECONDS else 0.0,
            slept_seconds=self._sleep_seconds if abs(self._sleep_seconds) > DRIFT_TOLERANCE_SECONDS else 0.0,
            late_seconds=_lateness(reading, awake_seconds, planned_awake_seconds),
        )
        self._step_seconds -= advance.stepped_seconds
        self._sleep_seconds -= advance.slept_seconds
        for seconds in (advance.stepped_seconds, advance.slept_seconds, advance.late_seconds):
            self._note(last, reading, seconds)
        self._note_step(last, reading, wall_seconds - running_seconds)
        return advance

    def shift(self, at_ms: float, *, known_since: float | None = None) -> float:
        """Move a moment forward by all credits noted after it: `now` minus the result is its awake age.

        Args:
            at_ms: a moment as the wall clock showed it then.
            known_since: what the awake clock showed at the look that first saw the moment, for an exact age after
                the wall clock was set back. Without it, the age may come out too small, never too large.
        """
        shifted = float(at_ms)
        for credit in self._credits:
            lay_before = known_since is not None and known_since < credit.at_awake_seconds
            shifted = credit.shift(shifted, at_ms, lay_before=lay_before)
        return shifted

    def dump(self) -> dict[str, Any]:
        """Everything that is noted, for another process of the same boot."""
        return {
            "credits": [asdict(credit) for credit in self._credits],
            "last": asdict(self._last) if self._last else None,
            "not_credited": [self._step_seconds, self._sleep_seconds, self._unnoted_seconds],
            "step_ms": self._step_ms,
        }

    def restore(self, value: Mapping[str, Any]) -> None:
        """Take up what another process of the same boot noted: what happened since is found at the next look.

        Raises:
            KeyError, TypeError, ValueError: it is not what `dump` gave.
        """
        noted = deque(_Credit(**credit) for credit in value["credits"])
        last = Reading(**value["last"]) if value["last"] else None
        step, sleep, unnoted = value["not_credited"]
        step_ms = value["step_ms"]
        for part in (*value["credits"], value["last"] or {}):
            check_numbers(part.values())
        check_numbers([step, sleep, unnoted, step_ms or 0])
        self._step_seconds, self._sleep_seconds, self._unnoted_seconds = step, sleep, unnoted
        self._credits, self._last, self._step_ms = noted, last, step_ms

    def prune(self, before_ms: float) -> None:
        """Forget the credits that no moment at or after `before_ms` needs."""
        while self._credits and max(self._credits[0].before_ms, self._credits[0].at_ms) < before_ms:
            self._credits.popleft()

    def _note_step(self, last: Reading, reading: Reading, stepped_seconds: float) -> None:
        self._unnoted_seconds += stepped_seconds
        if abs(self._unnoted_seconds) > STEP_SECONDS:
            self._unnoted_seconds = 0.0
            before_ms = last.wall_ms + round((reading.running_seconds - last.running_seconds) * 1000)
            self._step_ms = max(self._step_ms or 0, before_ms, reading.wall_ms)

    def _note(self, last: Reading, reading: Reading, seconds: float) -> None:
        if seconds == 0:
            return
        amount_ms = seconds * 1000
        floor_ms = last.wall_ms + amount_ms - FLOOR_MARGIN_MS
        if amount_ms < 0:
            self._credits = deque(replace(each, floor_ms=min(each.floor_ms, floor_ms)) for each in self._credits)
        self._credits.append(
            _Credit(
                before_ms=last.wall_ms,
                at_ms=reading.wall_ms,
                at_awake_seconds=reading.awake_seconds,
                amount_ms=amount_ms,
                floor_ms=floor_ms,
            )
        )
        if len(self._credits) > MOST_CREDITS:
            self._credits.appendleft(_merged(self._credits.popleft(), self._credits.popleft()))


def check_numbers(values: Iterable[object]) -> None:
    """Tell numbers that can be reckoned with from whatever a damaged file may hold.

    Raises:
        ValueError: one is no finite number.
    """
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("a time is no number")


def _lateness(reading: Reading, awake_seconds: float, planned_awake_seconds: float | None) -> float:
    if planned_awake_seconds is None:
        return 0.0
    late = min(reading.awake_seconds - planned_awake_seconds, awake_seconds)
    return late if late > LATENESS_TOLERANCE_SECONDS else 0.0


def _merged(first: _Credit, second: _Credit) -> _Credit:
    """One credit for two: too much for moments between them, and a backward step is forgotten."""
    return _Credit(
        before_ms=max(first.before_ms, second.before_ms),
        at_ms=max(first.at_ms, second.at_ms),
        at_awake_seconds=second.at_awake_seconds,
        amount_ms=max(first.amount_ms, 0.0) + max(second.amount_ms, 0.0),
        floor_ms=min(first.floor_ms, second.floor_ms),
    )
