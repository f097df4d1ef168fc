"""The document that `explain --json` prints: a documented contract, with the version of all the others."""

from typing import Any

from pydantic import Field

from watchdog.explaining import values as explanation
from watchdog.reporting.documents import (
    Document,
    MaybeMoment,
    MaybeRounded,
    Moment,
    PartId,
    Rounded,
    Seconds,
    Shape,
    Text,
)


class Finding(Shape):
    """The judgement's word on a session or a call."""

    name: Text
    stuck: bool
    part_id: PartId
    why: Text
    until: MaybeMoment = Field(validation_alias="until_ms")


class Clock(Shape):
    """One clock."""

    setting: Text
    origin: Text
    age_seconds: MaybeRounded
    limit_seconds: Seconds | None
    remaining_seconds: MaybeRounded
    uncounted_seconds: Rounded
    stands_still: Text | None = Field(validation_alias="still")
    note: Text | None


class Call(Shape):
    """An open call."""

    part_id: Text = Field(validation_alias="id")
    tool: Text
    status: Text
    age_seconds: Rounded
    waits_on_session_id: Text | None = Field(validation_alias="waits_on")


class CallWithClocks(Call):
    """An open call of an explanation."""

    clocks: list[Clock]


class Turn(Shape):
    """A turn of an explanation."""

    message_id: Text = Field(validation_alias="id")
    open: bool
    superseded: bool
    age_seconds: Rounded
    calls: list[CallWithClocks]


class Witness(Shape):
    """The word of one witness."""

    witness: Text = Field(validation_alias="kind")
    who: Text
    says: Text
    stance: Text
    since: MaybeMoment = Field(validation_alias="since_ms")
    pid: int | None
    message_id: Text | None = Field(validation_alias="turn_id")
    part_id: PartId


class ExplainedSession(Shape):
    """One session of an explanation."""

    session_id: Text = Field(validation_alias="id")
    parent_id: Text | None
    depth: int
    asked: bool
    unfinished: bool
    damaged: bool
    findings: list[Finding]
    turns: list[Turn]
    clocks: list[Clock]
    witnesses: list[Witness] = Field(validation_alias="testimonies")


class Explanation(Document):
    """Why one session is stuck or left alone."""

    observed_at: Moment
    session_id: Text
    stuck: bool
    judgement: Text
    advice: list[Text]
    on_hold: list[Text]
    interventions: list[Text]
    notes: list[Text]
    sessions: list[ExplainedSession]


def explain_document(database: str, found: explanation.Explanation) -> dict[str, Any]:
    """What `explain --json` prints."""
    return Explanation.told(
        {
            "database": database,
            "observed_at": found.at_ms,
            "session_id": found.session_id,
            "stuck": found.stuck,
            "judgement": found.sentence,
            "advice": found.advice,
            "on_hold": found.holds,
            "interventions": found.history,
            "notes": found.notes,
            "sessions": found.sessions,
        }
    )
