"""The machine on which everything runs: its clocks, its sleep, its boots."""

import asyncio

import anyio

from simulation.loop import SimulatedLoop
from watchdog.ports import Reading

BASE_MS = 1_700_000_000_000
_BOOTED_SECONDS = 100.0
BIRTHS_EARLY_SECONDS = 0.5
"""By how much a birth seems too early: it is told by the boot time, which is kept in whole seconds."""


class Machine:
    """The clocks of one machine. The loop's time is the awake clock: nothing happens here while it sleeps.

    Args:
        steady: something tells whether the wall clock was set since the boot.
    """

    def __init__(self, loop: SimulatedLoop, *, steady: bool) -> None:
        self._loop = loop
        self._steady = steady
        self._ahead = 0.0  # of the wall clock, beside the running one
        self._slept = 0.0
        self._slept_before_boot = 0.0
        self.booted_at = 0.0
        self.boots = 1
        self._set = False

    @property
    def now(self) -> float:
        """The awake clock since the world began: the truth by which all ages are told."""
        return self._loop.time()

    @property
    def boot_id(self) -> str:
        """What tells one boot from another."""
        return f"boot-{self.boots}"

    @property
    def wall_ms(self) -> int:
        """The wall clock."""
        return BASE_MS + round((self.now + self._slept + self._ahead) * 1000)

    @property
    def running(self) -> float:
        """A clock that runs on in sleep, and that nobody sets, since the boot."""
        return self.now - self.booted_at + self._slept - self._slept_before_boot + _BOOTED_SECONDS

    def read(self) -> Reading:
        """What all clocks show."""
        since = None
        if self._steady and not self._set:
            since = self.wall_ms - round(self.running * 1000)
        return Reading(
            wall_ms=self.wall_ms,
            awake_seconds=self.now - self.booted_at + _BOOTED_SECONDS,
            running_seconds=self.running,
            steady_since_ms=since,
        )

    def born_ms(self, born_running: float) -> int:
        """A birth, by the wall clock as it is set now."""
        return self.wall_ms - round((self.running - born_running + BIRTHS_EARLY_SECONDS) * 1000)

    def sleep(self, seconds: float) -> None:
        """Close the lid, and open it again."""
        self._slept += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock, back if negative. A pause of the virtual machine looks the same from inside."""
        self._ahead += seconds
        self._set = True

    def reboot(self) -> None:
        """Begin anew: the clocks that count from the boot, too."""
        self.booted_at, self._slept_before_boot = self.now, self._slept
        self.boots += 1
        self._set = False


class MachineClock:
    """The `Clock` of a process on the machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self) -> Reading:
        """Read all clocks at once."""
        return self._machine.read()

    async def sleep(self, seconds: float) -> None:
        """Wait for awake time."""
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            await anyio.sleep(seconds)
