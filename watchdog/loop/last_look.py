"""The last look of a loop, for those who ask between two looks."""

from watchdog.errors import WatchdogError
from watchdog.ports import Clock
from watchdog.timing.events import Assessment, Bystander
from watchdog.timing.pace import silent_seconds


class Latest(Bystander):
    """A listener that keeps the last look.

    Args:
        clock: times the ticks.
        poll_interval_seconds: how often the loop looks.

    Attributes:
        began_ms: when the loop began, by the wall clock.
        assessment: the last look; None before the first.
        acting: whether the watchdog acted on it; None before the first.
        problem: why the database or the journal can't be used now.
    """

    def __init__(self, *, clock: Clock, poll_interval_seconds: float) -> None:
        self._clock = clock
        self.began_ms = clock.read().wall_ms
        self._silent_seconds = silent_seconds(poll_interval_seconds)
        self.assessment: Assessment | None = None
        self.acting: bool | None = None
        self.problem: WatchdogError | None = None
        self._ticked(0.0)

    @property
    def ticking(self) -> bool:
        """Whether the loop began, looked, or could not look and said when it tries again, a short time ago."""
        return self._clock.read().awake_seconds <= self._lives_until

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """Keep a look."""
        self.assessment, self.acting, self.problem = assessment, acting, None
        self._ticked(0.0)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """Keep why there was no look."""
        self.problem = error
        self._ticked(retry_seconds)

    def _ticked(self, pause_seconds: float) -> None:
        self._lives_until = self._clock.read().awake_seconds + self._silent_seconds + pause_seconds
