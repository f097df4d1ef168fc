"""The documents that only the HTTP API has."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from watchdog.acting.undo import Undoing
from watchdog.control.access.problems import problem_of
from watchdog.control.shapes import Sessions, Status
from watchdog.model.interventions import Intervention
from watchdog.model.moments import NEVER, Moment
from watchdog.model.report import ServerReport
from watchdog.model.verdict import Spared
from watchdog.operating.glance import Glance, MandateState
from watchdog.operating.operations import Answer, Operation
from watchdog.operating.operator import Operator
from watchdog.operating.release import Deletion
from watchdog.reporting.documents import (
    VERSION,
    damage_sentences,
    deletion_document,
    moment,
    outcomes_document,
    scan_values,
)
from watchdog.reporting.journal_documents import undo_document
from watchdog.reporting.overview_documents import session_lines

API = "/api/v1"
_MOST_UPCOMING: Final = 10


def sessions_document(database: str, glance: Glance, *, program: str, poll_interval_seconds: float) -> dict[str, Any]:
    """The last look of the loop; `program` is our version."""
    observation, judgement = glance.assessment.observation, glance.assessment.judgement
    more = {
        "program": program,
        "now": glance.now_ms,
        "mandate": glance.mandate.value,
        "holder_pid": glance.holder_pid,
        "unavailable": glance.problem,
        "poll_interval_seconds": poll_interval_seconds,
        "on_hold": glance.holds,
        "sessions": session_lines(glance.lines, at_ms=observation.at_ms, titles=glance.titles, acting=glance.acting),
    }
    return Sessions.told({**scan_values(database, observation, judgement), **more})


def status_document(operator: Operator, glance: Glance, *, program: str, journal: str | None) -> dict[str, Any]:
    """What the watchdog of this process is doing; `program` is our version."""
    observation, judgement = glance.assessment.observation, glance.assessment.judgement
    degraded = [*filter(None, [glance.problem]), *observation.degraded, *damage_sentences(observation)]
    waits = sorted((each for each in judgement.spared if each.until is not None), key=_until)
    spared = Counter(reason for _, reason in {(each.session_id, each.reason.value) for each in judgement.spared})
    return Status.told(
        {
            "database": str(operator.database),
            "program": program,
            "journal": journal,
            "pid": os.getpid(),
            "began_at": operator.began_ms,
            "observed_at": observation.at_ms,
            "now": glance.now_ms,
            "mandate": glance.mandate.value,
            "holder_pid": glance.holder_pid,
            "poll_interval_seconds": operator.poll_interval_seconds,
            "ticking": operator.ticking,
            "well": glance.mandate is MandateState.ACTING and operator.ticking and not degraded,
            "stuck": len(judgement.verdicts),
            "ending": sorted(glance.acting),
            "spared": dict(sorted(spared.items())),
            "upcoming": [
                {
                    "session_id": each.session_id,
                    "reason": each.reason.value,
                    "why": each.why,
                    "until": observation.wall_of(_until(each)),
                }
                for each in waits[:_MOST_UPCOMING]
            ],
            "servers": [_server_state(report) for report in observation.reports],
            "degraded": degraded,
            "on_hold": glance.holds,
        }
    )


def _until(spared: Spared) -> Moment:
    return spared.until or NEVER


def _server_state(report: ServerReport) -> dict[str, Any]:
    deaf = report.witness.deaf if report.is_deaf and report.witness is not None else None
    state, why = next(
        ((state, why) for state, why in (("not_shown", report.not_shown), ("silent", report.trouble), ("deaf", deaf))
         if why is not None),
        ("answers", None),
    )  # fmt: skip
    return {"name": report.name, "pid": report.pid, "state": state, "why": why, "sessions": len(report.said)}


def answer_document(database: str, journal: str | None, answer: Answer) -> dict[str, Any]:
    """The result of an operation, as the command of the same name prints it."""
    if isinstance(answer, Undoing):
        return undo_document(database, journal or "", answer)
    if isinstance(answer, Deletion):
        return deletion_document(
            database,
            session_id=answer.session_id,
            message_id=answer.message_id,
            outcomes=answer.outcomes,
            gone=answer.gone,
        )
    return outcomes_document(database, answer)


def operation_document(database: str, journal: str | None, operation: Operation) -> dict[str, Any]:
    """The state of an operation."""
    answer, error = operation.answer, operation.error
    state = "running" if operation.ended_ms is None else "done" if error is None else "failed"
    failure = None if error is None else problem_of(error).document(operation_path(operation.id))
    return {
        "version": VERSION,
        "operation_id": operation.id,
        "kind": operation.kind.value,
        "session_id": operation.session_id,
        "state": state,
        "began_at": moment(operation.began_ms),
        "ended_at": None if operation.ended_ms is None else moment(operation.ended_ms),
        "document": None if answer is None else answer_document(database, journal, answer),
        "problem": failure,
    }


def operation_path(operation_id: str) -> str:
    """The path at which an operation shows its state."""
    return f"{API}/operations/{operation_id}"


def next_page(found: Sequence[Intervention], *, limit: int, session_id: str | None) -> str | None:
    """The path of the page after these interventions, which are one more than the limit asked for."""
    if len(found) <= limit:
        return None
    wanted: dict[str, object] = {"before": found[limit - 1].id, "limit": limit}
    if session_id is not None:
        wanted["session_id"] = session_id
    return f"{API}/interventions?{urlencode(wanted)}"
