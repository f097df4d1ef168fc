"""A clock whose hands a test moves."""

import asyncio

from watchdog.model.moments import Moment, WallMs
from watchdog.ports import Reading

START_MS = 1_700_000_000_000


class FakeClock:
    """Wall, awake and running clock move separately; a sleeper wakes when the awake clock passes its deadline.

    Nobody ever set the wall clock, until a test does: what is read at a first look is as old as its rows say.

    Args:
        auto: a sleep moves the clocks itself and ends at once.
    """

    def __init__(self, *, wall_ms: float = START_MS, auto: bool = False) -> None:
        self._steady_since_ms: WallMs | None = 0
        self._wall_ms = float(wall_ms)
        self._awake_seconds = 1000.0
        self._running_seconds = 1000.0
        self._auto = auto
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._fell_asleep = asyncio.Event()
        self.sleeps: list[float] = []
        """The length of every sleep that was asked for."""

    @property
    def now_ms(self) -> int:
        """The wall clock."""
        return round(self._wall_ms)

    @property
    def sleepers(self) -> int:
        """How many tasks sleep now."""
        return len(self._sleepers)

    def read(self) -> Reading:
        """Read all clocks at once."""
        return Reading(
            wall_ms=self.now_ms,
            awake_seconds=self._awake_seconds,
            running_seconds=self._running_seconds,
            steady_since_ms=self._steady_since_ms,
        )

    def now(self) -> Moment:
        """Countable time where no look ever comes late."""
        return Moment(self._awake_seconds)

    def advance(self, seconds: float) -> None:
        """Let ordinary time pass, and wake the sleepers that are due."""
        self._wall_ms += seconds * 1000
        self._awake_seconds += seconds
        self._running_seconds += seconds
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._awake_seconds]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._awake_seconds]
        for _, wakeup in due:
            wakeup.set()

    def sleep_machine(self, seconds: float) -> None:
        """Close the lid: the awake clock stands still."""
        self._wall_ms += seconds * 1000
        self._running_seconds += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock, backward if negative. From now on nothing tells a first look how it moved."""
        self._wall_ms += seconds * 1000
        self._steady_since_ms = None

    def pause_machine(self, seconds: float) -> None:
        """Pause the virtual machine: the wall clock is set when it goes on, and no other clock knows of it."""
        self.step(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait until a test has moved the awake clock by `seconds`."""
        self.sleeps.append(seconds)
        if self._auto:
            self.advance(seconds)
            await asyncio.sleep(0)
            return
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = (self._awake_seconds + seconds, asyncio.Event())
        self._sleepers.append(sleeper)
        self._fell_asleep.set()
        try:
            await sleeper[1].wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    async def until_sleeping(self, count: int = 1) -> None:
        """Wait until at least `count` tasks sleep."""
        while len(self._sleepers) < count:
            self._fell_asleep.clear()
            await self._fell_asleep.wait()

    async def advance_to_next(self) -> None:
        """Wait for a sleeper, then let exactly as much time pass as the first of them needs."""
        await self.until_sleeping()
        self.advance(max(0.0, min(deadline for deadline, _ in self._sleepers) - self._awake_seconds))
        await asyncio.sleep(0)
