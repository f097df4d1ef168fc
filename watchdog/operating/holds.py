"""A person's "leave it", and its end."""

from collections.abc import Mapping
from dataclasses import dataclass

from watchdog.model.interventions import Hold
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.ports import History
from watchdog.reporting.documents import moment


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldChange:
    """The result of a hold or of its end.

    Attributes:
        session_id: the session; `EVERYTHING` for all.
        was_on_hold: whether it was on hold before.
        holds: the holds that stand now, everything first.
    """

    session_id: SessionId
    was_on_hold: bool
    holds: tuple[Hold, ...]


async def leave_alone(journal: History, session_id: SessionId, *, length_ms: int | None, now_ms: int) -> HoldChange:
    """Put a session on hold, or everything; for a while, or until somebody ends it (None).

    Raises:
        JournalUnusable: the journal can't be used.
    """
    was = session_id in await journal.holds(now_ms)
    until = None if length_ms is None else now_ms + length_ms
    said = "a person paused everything" if session_id == EVERYTHING else "a person said to leave it alone"
    why = said if until is None else f"{said} until {moment(until)}"
    await journal.hold(Hold(session_id=session_id, since_ms=now_ms, until_ms=until, why=why))
    return await _change(journal, session_id, now_ms, was_on_hold=was)


async def let_go(journal: History, session_id: SessionId, *, now_ms: int) -> HoldChange:
    """End a hold: of a session, or of everything.

    Raises:
        JournalUnusable: the journal can't be used.
    """
    was = session_id in await journal.holds(now_ms)
    await journal.unhold(session_id)
    return await _change(journal, session_id, now_ms, was_on_hold=was)


def in_order(holds: Mapping[SessionId, Hold]) -> tuple[Hold, ...]:
    """Holds in the order of their list: everything first, then the oldest."""
    return tuple(
        sorted(holds.values(), key=lambda hold: (hold.session_id != EVERYTHING, hold.since_ms, hold.session_id))
    )


async def _change(journal: History, session_id: SessionId, now_ms: int, *, was_on_hold: bool) -> HoldChange:
    return HoldChange(session_id=session_id, was_on_hold=was_on_hold, holds=in_order(await journal.holds(now_ms)))
