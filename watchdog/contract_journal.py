"""What `history`, `undo`, `hold`, `unhold`, `pause` and `resume` print as JSON."""

import json
from collections.abc import Iterable
from typing import Any

from watchdog.contract import VERSION, moment, outcome_fields, step_fields, verdict_fields
from watchdog.interventions import Hold, Intervention, Kept
from watchdog.model import EVERYTHING, SessionId
from watchdog.undo import Undoing


def history_document(
    database: str, journal: str, interventions: Iterable[Intervention], holds: Iterable[Hold]
) -> dict[str, Any]:
    """What `history --json` prints."""
    return {
        "version": VERSION,
        "database": database,
        "journal": journal,
        "interventions": [intervention_fields(each) for each in interventions],
        "on_hold": [hold_fields(each) for each in holds],
    }


def intervention_document(
    database: str, journal: str, intervention: Intervention, kept: Iterable[Kept]
) -> dict[str, Any]:
    """What `history ID --json` prints: the rows whole."""
    return {
        "version": VERSION,
        "database": database,
        "journal": journal,
        "intervention": intervention_fields(intervention),
        "rows": [
            {
                "table": each.row.table,
                "id": each.row.id,
                "message_id": each.row.message_id,
                "session_id": each.row.session_id,
                "before": parsed(each.row.data),
                "after": parsed(each.after),
            }
            for each in kept
        ],
    }


def intervention_fields(intervention: Intervention) -> dict[str, Any]:
    """One intervention."""
    outcome = intervention.outcome
    return {
        "id": intervention.id,
        "began_at": moment(intervention.began_ms),
        "ended_at": None if intervention.ended_ms is None else moment(intervention.ended_ms),
        "actor": intervention.actor.value,
        "reason": intervention.reason,
        "verdict": verdict_fields(intervention.verdict),
        "outcome": None if outcome is None else outcome_fields(outcome),
        "undone_at": None if intervention.undone_ms is None else moment(intervention.undone_ms),
    }


def hold_fields(hold: Hold) -> dict[str, Any]:
    """One hold."""
    return {
        "session_id": hold.session_id,
        "everything": hold.session_id == EVERYTHING,
        "since": moment(hold.since_ms),
        "until": None if hold.until_ms is None else moment(hold.until_ms),
        "why": hold.why,
    }


def holds_document(
    database: str, journal: str, session_id: SessionId, holds: Iterable[Hold], *, was_on_hold: bool
) -> dict[str, Any]:
    """What `hold`, `unhold`, `pause` and `resume` print with `--json`."""
    return {
        "version": VERSION,
        "database": database,
        "journal": journal,
        "session_id": session_id,
        "was_on_hold": was_on_hold,
        "on_hold": [hold_fields(each) for each in holds],
    }


def undo_document(database: str, journal: str, undoing: Undoing) -> dict[str, Any]:
    """What `undo --json` prints."""
    return {
        "version": VERSION,
        "database": database,
        "journal": journal,
        "id": undoing.id,
        "session_id": undoing.session_id,
        "result": undoing.result.value,
        "why": undoing.why,
        "steps": [step_fields(step) for step in undoing.steps],
    }


def parsed(data: str) -> Any:  # noqa: ANN401 - JSON
    """A row's JSON, or its text where that is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data
