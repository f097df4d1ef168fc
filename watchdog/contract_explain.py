"""The document that `explain --json` prints: a documented contract, with the version of all the others."""

from typing import Any

from watchdog.contract import VERSION, moment, told_moment
from watchdog.explanation import CallPage, Clock, Explanation, Finding, SessionPage, Testimony, TurnPage


def explain_document(database: str, explanation: Explanation) -> dict[str, Any]:
    """What `explain --json` prints."""
    return {
        "version": VERSION,
        "database": database,
        "observed_at": moment(explanation.at_ms),
        "session_id": explanation.session_id,
        "stuck": explanation.stuck,
        "judgement": explanation.sentence,
        "advice": list(explanation.advice),
        "on_hold": list(explanation.holds),
        "interventions": list(explanation.history),
        "notes": list(explanation.notes),
        "sessions": [_session_fields(page) for page in explanation.sessions],
    }


def _session_fields(page: SessionPage) -> dict[str, Any]:
    return {
        "session_id": page.id,
        "parent_id": page.parent_id,
        "depth": page.depth,
        "asked": page.asked,
        "unfinished": page.unfinished,
        "damaged": page.damaged,
        "findings": [finding_fields(finding) for finding in page.findings],
        "turns": [_turn_fields(turn) for turn in page.turns],
        "clocks": [clock_fields(clock) for clock in page.clocks],
        "witnesses": [_testimony_fields(testimony) for testimony in page.testimonies],
    }


def finding_fields(finding: Finding) -> dict[str, Any]:
    """What the judgement says of a session or a call."""
    return {
        "name": finding.name,
        "stuck": finding.stuck,
        "part_id": finding.call_id,
        "why": finding.why,
        "until": told_moment(finding.until_ms),
    }


def _turn_fields(turn: TurnPage) -> dict[str, Any]:
    return {
        "message_id": turn.id,
        "open": turn.open,
        "superseded": turn.superseded,
        "age_seconds": round(turn.age_seconds, 1),
        "calls": [_call_fields(call) for call in turn.calls],
    }


def _call_fields(call: CallPage) -> dict[str, Any]:
    return {
        "part_id": call.id,
        "tool": call.tool,
        "status": call.status.value,
        "age_seconds": round(call.age_seconds, 1),
        "waits_on_session_id": call.waits_on,
        "clocks": [clock_fields(clock) for clock in call.clocks],
    }


def clock_fields(clock: Clock) -> dict[str, Any]:
    """One clock."""
    return {
        "setting": clock.setting.value,
        "origin": clock.origin,
        "age_seconds": _seconds(clock.age_seconds),
        "limit_seconds": clock.limit_seconds,
        "remaining_seconds": _seconds(clock.remaining_seconds),
        "uncounted_seconds": round(clock.uncounted_seconds, 1),
        "stands_still": clock.still,
        "note": clock.note,
    }


def _testimony_fields(testimony: Testimony) -> dict[str, Any]:
    return {
        "witness": testimony.kind.value,
        "who": testimony.who,
        "says": testimony.says,
        "stance": testimony.stance.value,
        "since": told_moment(testimony.since_ms),
        "pid": testimony.pid,
        "message_id": testimony.turn_id,
        "part_id": testimony.call_id,
    }


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
