"""How often the loop looks, and how long it rests in between."""

import math
from dataclasses import dataclass
from typing import Final

from watchdog.judging.limits import shortest_limit
from watchdog.model.moments import Moment
from watchdog.model.policy import Policy

_LATE_SECONDS: Final = 10.0
_LATE_INTERVALS: Final = 3
SHORTEST_DELAY_SECONDS: Final = 0.02
"""Before a deadline that is near, or past: a loop that is always due must still breathe."""
_CLOCK_STEP_SECONDS: Final = 0.002
"""A sleep may end a little early, and rows have times in whole milliseconds; so may a look at the deadline."""
_SILENT_SECONDS: Final = 30.0
_SILENT_INTERVALS: Final = 3
_PAUSE_IN_LOOKS: Final = 16
_LONGEST_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often the loop looks, how much it does, and how it stops. Durations in seconds.

    Attributes:
        recover_on_start: also settle the orphans that were there when the watch began.
        journal_retention_seconds: how long interventions are kept; None for forever.
        max_concurrency: how many verdicts are carried out at the same time at one server, and without a server; four
            times as many for orphans.
    """

    poll_interval_seconds: float = 5.0
    full_scan_interval_seconds: float = 600.0
    shutdown_grace_seconds: float = 10.0
    max_attempts: int = 3
    max_concurrency: int = 8
    recover_on_start: bool = True
    journal_retention_seconds: float | None = None
    dry_run: bool = False

    @property
    def too_late_seconds(self) -> float:
        """How late a look may come, and how long it may take, and still be acted on."""
        return max(_LATE_INTERVALS * self.poll_interval_seconds, _LATE_SECONDS)

    def delay(self, policy: Policy, *, deadline: Moment | None, now: Moment) -> float:
        """Seconds until the next look: the poll interval, or less if a limit is reached before.

        Nobody knows yet what begins right after a look: so no sleep is longer than the shortest limit.

        Args:
            policy: the limits.
            deadline: when the next known limit is reached.
            now: the moment.
        """
        longest = min(self.poll_interval_seconds, shortest_limit(policy) or math.inf)
        if deadline is None:
            return longest
        left = deadline - now + _CLOCK_STEP_SECONDS
        return min(longest, max(SHORTEST_DELAY_SECONDS, left))


def silent_seconds(poll_interval_seconds: float) -> float:
    """Seconds without a look after which the loop counts as dead for a supervisor of the watchdog."""
    return max(_SILENT_INTERVALS * poll_interval_seconds, _SILENT_SECONDS)


def pause(look_seconds: float, since_seconds: float) -> float:
    """Seconds that a loop which is woken again and again still rests: looking takes a small share of its time.

    Args:
        look_seconds: how long the last look took.
        since_seconds: how long ago it ended.
    """
    return max(0.0, min(_PAUSE_IN_LOOKS * look_seconds, _LONGEST_PAUSE_SECONDS) - since_seconds)
