"""What the program prints as JSON: a documented contract. `VERSION` changes when it breaks."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from watchdog.model import Judgement, Observation, Outcome, SessionId, Spared, Step, Verdict

VERSION = 1


def moment(at_ms: float) -> str:
    """A moment as text: ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def told_moment(at_ms: float | None) -> str | None:
    """A moment as text; None where none is known, or for one of a damaged row that no calendar has."""
    try:
        return None if at_ms is None else moment(at_ms)
    except (OverflowError, ValueError, OSError):
        return None


def scan_document(database: str, observation: Observation, judgement: Judgement) -> dict[str, Any]:
    """What `scan --json` prints."""
    sessions = observation.snapshot.sessions.values()
    unfinished = {each.session_id for each in judgement.verdicts} | {each.session_id for each in judgement.spared}
    return {
        "version": VERSION,
        "database": database,
        "observed_at": moment(observation.at_ms),
        "degraded": [*observation.degraded, *damage_sentences(observation)],
        "counts": {
            "unfinished_sessions": len(unfinished | {each.id for each in sessions if each.has_open_rows}),
            "open_tool_calls": sum(len(session.calls) for session in sessions),
            "damaged_rows": len(observation.snapshot.damaged),
        },
        "verdicts": [verdict_fields(verdict) for verdict in judgement.verdicts],
        "spared": [spared_fields(spared) for spared in judgement.spared],
    }


def outcomes_document(
    database: str, outcomes: Iterable[Outcome], spared: Iterable[Spared] | None = None
) -> dict[str, Any]:
    """What `recover --json` and `release --json` print; only `recover` says what it left alone."""
    document: dict[str, Any] = {
        "version": VERSION,
        "database": database,
        "outcomes": [outcome_fields(outcome) for outcome in outcomes],
    }
    return document if spared is None else {**document, "spared": [spared_fields(each) for each in spared]}


def deletion_document(
    database: str, *, session_id: SessionId, message_id: str, outcomes: Iterable[Outcome], gone: bool
) -> dict[str, Any]:
    """What `delete-message --json` prints."""
    document = outcomes_document(database, outcomes)
    return {**document, "session_id": session_id, "message_id": message_id, "deleted": gone}


def damage_sentences(observation: Observation) -> list[str]:
    """The rows that can't be read, a sentence each."""
    return [
        f"{damage.table} {damage.id} of session {damage.session_id} is left alone: {damage.problem}"
        for damage in observation.snapshot.damaged
    ]


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """One verdict."""
    return {
        "session_id": verdict.session_id,
        "kind": verdict.kind.value,
        "message_id": verdict.message_id,
        "part_id": verdict.call_id,
        "tool": verdict.tool,
        "age_seconds": round(verdict.age_seconds, 1),
        "limit_seconds": verdict.limit_seconds,
        "cancel_session_id": verdict.cancel_session_id,
        "why": verdict.why,
    }


def spared_fields(spared: Spared) -> dict[str, Any]:
    """Something that is spared."""
    return {
        "session_id": spared.session_id,
        "reason": spared.reason.value,
        "part_id": spared.call_id,
        "why": spared.why,
    }


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """One outcome, in `outcomes` and as the fields of the `outcome` log event."""
    return {
        "session_id": outcome.session_id,
        "kind": outcome.kind.value,
        "result": outcome.result.value,
        "steps": [step_fields(step) for step in outcome.steps],
        "why": outcome.why,
        "dropped_prompts": list(outcome.dropped_prompts),
    }


def step_fields(step: Step) -> dict[str, Any]:
    """One step."""
    return {"step": step.step, "at": moment(step.at_ms), "ok": step.ok, "detail": step.detail}
