"""What a running watchdog shows at a glance, and what it may do."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from watchdog.explaining.overview import SessionLine
from watchdog.model.interventions import Hold
from watchdog.model.session import SessionId
from watchdog.timing.events import Assessment


class MandateState(StrEnum):
    """What a watchdog may do."""

    ACTING = "acting"
    OBSERVING = "observing"
    DRY_RUN = "dry_run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """The last look, for people.

    Attributes:
        lines: every unfinished session, and every session above one.
        titles: opencode's titles; none if they can't be read.
        acting: the sessions that are being ended now.
        mandate: what this watchdog may do.
        holder_pid: the pid of the watchdog that acts, if that is another one and its pid is known.
        problem: why the database or the journal can't be used now.
        holds: the holds; none while the journal can't be read.
        now_ms: when this was put together.
    """

    assessment: Assessment
    lines: tuple[SessionLine, ...]
    titles: Mapping[SessionId, str]
    acting: Collection[SessionId]
    mandate: MandateState
    holder_pid: int | None
    problem: str | None
    holds: tuple[Hold, ...]
    now_ms: int
