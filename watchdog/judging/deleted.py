"""Sessions that were deleted while they ran: a server is at work on them, and they are in no table.

They have no rows, so nothing tells how long a call of theirs may run. Only their silence is known. They get the
longest time that a call or a session may be silent elsewhere; if they wait to try their provider again, from then on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from watchdog.judging.facts import Case
from watchdog.judging.limits import duration
from watchdog.judging.orphan_proof import deleted_at_work
from watchdog.model.moments import NEVER, Moment
from watchdog.model.report import ServerReport
from watchdog.model.session import Activity, Session, SessionId
from watchdog.model.verdict import SpareReason, Verdict, VerdictKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """A session that is known only by a server's word.

    Attributes:
        session: its id, and the folder in which the server says so.
        verdict: it has been silent for too long; None while it is spared.
        spared: why it is left alone, if it is.
        until: when that may change by the mere passing of time.
    """

    session: Session
    verdict: Verdict | None = None
    spared: tuple[SpareReason, str] | None = None
    until: Moment | None = None


def deleted(case: Case) -> Iterator[Deleted]:
    """Judge every session that was deleted while it ran."""
    observation = case.observation
    for report, session_id in deleted_at_work(observation.reports, observation.snapshot):
        yield _judged(case, report, session_id)


def _judged(case: Case, report: ServerReport, session_id: SessionId) -> Deleted:
    where = next(directory for directory, said in sorted(report.statuses.items()) if session_id in said)
    session = Session(id=session_id, directory=where, created_ms=0)
    spared, until, silent = None, None, _silent_since(report, session_id)
    limits = case.policy.idle_timeout_seconds, case.policy.tool_timeout_seconds
    retries = any(status.activity is Activity.RETRY for status in report.said[session_id])
    if (child := case.family.unfinished_child_of_deleted(session_id)) is not None:
        spared = SpareReason.WAITING_ON_CHILD, f"its child session {child} is unfinished"
    elif report.asked.get(session_id) or where not in report.asks:
        spared = SpareReason.WAITING_ON_HUMAN, "a person is asked for something in it, or may be"
    elif silent is None:
        spared = SpareReason.NO_WITNESS, f"nobody hears whether it shows life: {report.name} is not listened to"
    elif None in limits:
        spared = SpareReason.WITHIN_LIMIT, "idle_timeout or tool_timeout is off"
    else:
        limit = max(each for each in limits if each is not None)
        idle = max(0.0, case.now - max(silent, case.retry_due(session) or silent))
        if idle >= limit:
            return Deleted(session=session, verdict=_verdict(session_id, idle, limit))
        until = case.now + (limit - idle)
        if retries:
            spared = SpareReason.RETRYING, "it waits to try its provider again"
        else:
            spared = SpareReason.RECENTLY_ACTIVE, f"it showed life {duration(idle)} ago"
    return Deleted(session=session, spared=(spared[0], f"it was deleted while it ran, and {spared[1]}"), until=until)


def _silent_since(report: ServerReport, session_id: SessionId) -> Moment | None:
    """How long its server has been heard while the session was not; None if it is not heard now."""
    return None if report.witness is None else report.witness.silent_since(report.life.get(session_id, NEVER))


def _verdict(session_id: SessionId, idle: float, limit: float) -> Verdict:
    return Verdict(
        session_id=session_id,
        kind=VerdictKind.IDLE_SESSION,
        cancel_session_id=session_id,
        why=f"it was deleted while it ran, and has shown no life for {duration(idle)}, past the limit of "
        f"{duration(limit)}",
        age_seconds=idle,
        limit_seconds=limit,
        rests_on_silence=True,
    )
