"""What the document of `GET /api/v1/sessions` says about each session, beyond what `scan --json` prints."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from watchdog.explaining import overview
from watchdog.explaining import values as explanation
from watchdog.model.session import CallId, SessionId
from watchdog.reporting.documents import MaybeMoment, PartId, Shape, Text
from watchdog.reporting.explain_documents import Call, Clock, Finding


class TickingClock(Clock):
    """One clock of an overview."""

    part_id: Text | None
    fraction: float | None
    until: MaybeMoment


class CallOfMessage(Call):
    """An open call of an overview."""

    message_id: Text


class Wait(Shape):
    """What a session waits for."""

    what: Literal["child", "question", "permission", "retry"]
    session_id: Text
    part_id: PartId
    until: MaybeMoment = Field(validation_alias="until_ms")


class SessionLine(Shape):
    """One session of an overview."""

    session_id: Text
    parent_id: Text | None
    title: Text | None
    directory: Text
    created_at: MaybeMoment
    unfinished: bool
    damaged: bool
    state: Text
    why: Text | None
    findings: list[Finding]
    calls: list[CallOfMessage]
    clocks: list[TickingClock]
    waits_for: list[Wait]
    open_message_ids: list[Text]
    queued_prompts: int
    given_up: bool
    on_hold: bool
    acting: bool


def session_lines(
    lines: Iterable[overview.SessionLine],
    *,
    at_ms: int,
    titles: Mapping[SessionId, str],
    acting: Collection[SessionId],
) -> list[dict[str, Any]]:
    """The sessions of an overview.

    Args:
        at_ms: the moment of the look.
        titles: opencode's titles of the sessions; a missing one is null.
        acting: the sessions that are being ended.
    """
    return [
        SessionLine.told(_line_fields(line, at_ms, titles.get(line.id), acting=line.id in acting)) for line in lines
    ]


def _line_fields(line: overview.SessionLine, at_ms: int, title: str | None, *, acting: bool) -> dict[str, Any]:
    clocks = [(call.id, clock) for turn in line.turns for call in turn.calls for clock in call.clocks]
    return {
        "session_id": line.id,
        "parent_id": line.parent_id,
        "title": title,
        "directory": line.directory,
        "created_at": line.created_ms,
        "unfinished": line.unfinished,
        "damaged": line.damaged,
        "state": line.state,
        "why": line.findings[0].why if line.findings else None,
        "findings": line.findings,
        "calls": [{**Call.told(call), "message_id": turn.id} for turn in line.turns for call in turn.calls],
        "clocks": [
            _ticking(call_id, clock, at_ms) for call_id, clock in [*clocks, *((None, each) for each in line.clocks)]
        ],
        "waits_for": line.waits,
        "open_message_ids": [turn.id for turn in line.turns if turn.open],
        "queued_prompts": line.queued_prompts,
        "given_up": line.given_up,
        "on_hold": line.on_hold,
        "acting": acting,
    }


def _ticking(call_id: CallId | None, clock: explanation.Clock, at_ms: int) -> dict[str, Any]:
    fraction, until = None, None
    if clock.age_seconds is not None and clock.limit_seconds is not None:
        fraction = 1.0 if clock.past else round(clock.age_seconds / clock.limit_seconds, 4)
        until = None if clock.still else at_ms + (clock.limit_seconds - clock.age_seconds) * 1000
    return {"part_id": call_id, **Clock.told(clock), "fraction": fraction, "until": until}
