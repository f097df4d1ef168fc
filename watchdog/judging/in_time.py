"""Calls that are left alone because they are within their limits, or because their clocks can't reach them."""

from functools import lru_cache

from watchdog.judging.facts import Case
from watchdog.judging.limits import duration
from watchdog.model.session import Session, ToolCall
from watchdog.model.verdict import Spared, SpareReason

_limit_text = lru_cache(maxsize=64)(duration)


def in_time(case: Case, session: Session, call: ToolCall) -> Spared | None:
    """Why a leaf call is left alone that is within its limit; None if it is past it."""
    age, limit = case.leaf(session, call)
    if limit is not None and age >= limit:
        return None
    if limit is not None and session.id in case.observation.stopped:
        return _stopped(case, session, call, age, limit)
    of = ", and has no limit" if limit is None else f" of {_limit_text(limit)}"
    return Spared(
        session_id=session.id,
        reason=SpareReason.WITHIN_LIMIT,
        call_id=call.id,
        why=f"the {call.tool} call has run for {duration(age)}{of}",
        age_seconds=age,
        limit_seconds=limit,
        until=None if limit is None else case.now + (limit - age),
    )


def _stopped(case: Case, session: Session, call: ToolCall, age: float, limit: float) -> Spared:
    """Its clock stands still and may do so forever: it has to be reported."""
    stopped = case.observation.stopped[session.id]
    seconds = max(0.0, case.now - stopped.since)
    at = f"{duration(age)} of {_limit_text(limit)}"
    return Spared(
        session_id=session.id,
        reason=SpareReason.CLOCK_STOPPED,
        call_id=call.id,
        why=f"the clock of the {call.tool} call has stood still for {duration(seconds)}, at {at}: {stopped.why}",
        age_seconds=age,
        limit_seconds=limit,
        stopped_seconds=seconds,
    )
