"""The machine on which everything runs: its clocks, its sleep, its boots."""

import asyncio

import anyio

from simulation.loop import SimulatedLoop
from watchdog.ports import Reading

BASE_MS = 1_700_000_000_000
_BOOTED_SECONDS = 100.0
APART_SECONDS = 0.9
"""How wrong the wall clocks of replicas may be: two of them are apart by less than two seconds."""
BIRTHS_EARLY_SECONDS = 0.5
"""By how much a birth seems too early: it is told by the boot time, which is kept in whole seconds."""


class Machine:
    """The clocks of one machine. The loop's time is the awake clock: nothing happens here while it sleeps.

    Args:
        steady: something tells whether the wall clock was set since the boot.
        drift: by how much faster than the running clock the wall clock goes.
        ahead: by how much its wall clock is ahead of the truth.
    """

    def __init__(self, loop: SimulatedLoop, *, steady: bool, drift: float = 0.0, ahead: float = 0.0) -> None:
        self._loop = loop
        self._steady = steady
        self._drift = drift
        self._ahead = ahead  # of the wall clock, beside the running one
        self._dozed = 0.0
        self._slept = 0.0
        self._slept_before_boot = 0.0
        self.booted_at = 0.0
        self.boots = 1
        self._set = False
        self._read: tuple[float, Reading] | None = None
        """What was read last, and when: most who read the clocks do so at the same moment."""

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
        return BASE_MS + round((self.lived * (1 + self._drift) + self._ahead) * 1000)

    @property
    def lived(self) -> float:
        """How long the world has lasted, awake and asleep."""
        return self.now + self._slept

    @property
    def running(self) -> float:
        """A clock that runs on in sleep, and that nobody sets, since the boot."""
        return self.now - self.booted_at + self._slept - self._slept_before_boot + _BOOTED_SECONDS

    def read(self) -> Reading:
        """What all clocks show."""
        now = self.now
        if self._read is not None and self._read[0] == now:
            return self._read[1]
        wall_ms, running, since = self.wall_ms, self.running, None
        if self._steady and not self._set:
            since = wall_ms - round(running * 1000)
        reading = Reading(
            wall_ms=wall_ms,
            awake_seconds=now - self._dozed - self.booted_at + _BOOTED_SECONDS,
            running_seconds=running,
            steady_since_ms=since,
        )
        self._read = now, reading
        return reading

    def born_ms(self, born_running: float) -> int:
        """A birth, by the wall clock as it is set now."""
        return self.wall_ms - round((self.running - born_running + BIRTHS_EARLY_SECONDS) * 1000)

    def sleep(self, seconds: float) -> None:
        """Close the lid, and open it again."""
        self._slept += seconds
        self._read = None

    def dozed(self, seconds: float) -> None:
        """It slept alone, while the world went on, and wakes."""
        self._dozed += seconds
        self._read = None

    def step(self, seconds: float) -> None:
        """Set the wall clock, back if negative. A pause of the virtual machine looks the same from inside."""
        self._ahead += seconds
        self._set, self._read = True, None

    def reboot(self) -> None:
        """Begin anew: the clocks that count from the boot, too."""
        self.booted_at, self._slept_before_boot = self.now, self._slept
        self.boots += 1
        self._set, self._read = False, None


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
