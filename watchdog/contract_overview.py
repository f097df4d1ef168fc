"""What the document of `GET /api/v1/sessions` says of each session, beyond what `scan --json` prints."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from watchdog.contract import told_moment
from watchdog.contract_explain import clock_fields, finding_fields
from watchdog.explanation import Clock
from watchdog.model import CallId, SessionId
from watchdog.overview import SessionLine, Wait


def session_lines(
    lines: Iterable[SessionLine],
    *,
    at_ms: int,
    titles: Mapping[SessionId, str],
    acting: Collection[SessionId],
) -> list[dict[str, Any]]:
    """The sessions of an overview.

    Args:
        at_ms: the moment of the look.
        titles: what opencode calls the sessions; one that is missing is null.
        acting: the sessions that are being ended.
    """
    return [_line_fields(line, at_ms, titles.get(line.id), acting=line.id in acting) for line in lines]


def _line_fields(line: SessionLine, at_ms: int, title: str | None, *, acting: bool) -> dict[str, Any]:
    clocks = [(call.id, clock) for turn in line.turns for call in turn.calls for clock in call.clocks]
    return {
        "session_id": line.id,
        "parent_id": line.parent_id,
        "title": title,
        "directory": line.directory,
        "created_at": told_moment(line.created_ms),
        "unfinished": line.unfinished,
        "damaged": line.damaged,
        "state": line.state,
        "why": line.findings[0].why if line.findings else None,
        "findings": [finding_fields(finding) for finding in line.findings],
        "calls": [
            {
                "part_id": call.id,
                "message_id": turn.id,
                "tool": call.tool,
                "status": call.status.value,
                "age_seconds": round(call.age_seconds, 1),
                "waits_on_session_id": call.waits_on,
            }
            for turn in line.turns
            for call in turn.calls
        ],
        "clocks": [
            _ticking(call_id, clock, at_ms) for call_id, clock in [*clocks, *((None, each) for each in line.clocks)]
        ],
        "waits_for": [_wait_fields(wait) for wait in line.waits],
        "open_message_ids": [turn.id for turn in line.turns if turn.open],
        "queued_prompts": line.queued_prompts,
        "given_up": line.given_up,
        "on_hold": line.on_hold,
        "acting": acting,
    }


def _ticking(call_id: CallId | None, clock: Clock, at_ms: int) -> dict[str, Any]:
    fraction, until = None, None
    if clock.age_seconds is not None and clock.limit_seconds is not None:
        fraction = 1.0 if clock.past else round(clock.age_seconds / clock.limit_seconds, 4)
        until = None if clock.still else at_ms + (clock.limit_seconds - clock.age_seconds) * 1000
    return {"part_id": call_id, **clock_fields(clock), "fraction": fraction, "until": told_moment(until)}


def _wait_fields(wait: Wait) -> dict[str, Any]:
    return {
        "what": wait.what.value,
        "session_id": wait.session_id,
        "part_id": wait.call_id,
        "until": told_moment(wait.until_ms),
    }
