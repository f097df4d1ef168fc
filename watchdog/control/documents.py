"""The documents that only the HTTP API has."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from watchdog.acting.undo import Undoing
from watchdog.control.access.problems import problem_of
from watchdog.control.shapes import Sessions
from watchdog.model.interventions import Intervention
from watchdog.operating.operations import Answer, Operation
from watchdog.operating.operator import Glance
from watchdog.operating.release import Deletion
from watchdog.reporting.documents import VERSION, deletion_document, moment, outcomes_document, scan_values
from watchdog.reporting.journal_documents import undo_document
from watchdog.reporting.overview_documents import session_lines

API = "/api/v1"


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
