"""The document that `explain --json` prints: a documented contract, with the version of all the others."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from watchdog.explaining import values as explanation
from watchdog.model.session import CallId, CallStatus, SessionId, TurnId
from watchdog.model.verdict import UNEASY
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
    maybe_milliseconds,
    milliseconds,
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


# -- read again ----------------------------------------------------------------------------------------------------


def read_explanation(document: Mapping[str, Any]) -> explanation.Explanation:
    """The explanation of a document.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    return explanation.Explanation(
        session_id=SessionId(document["session_id"]),
        at_ms=milliseconds(document["observed_at"]),
        sentence=document["judgement"],
        stuck=document["stuck"],
        sessions=tuple(_session(each) for each in document["sessions"]),
        advice=tuple(document["advice"]),
        notes=tuple(document["notes"]),
        holds=tuple(document["on_hold"]),
        history=tuple(document["interventions"]),
    )


def _session(page: Mapping[str, Any]) -> explanation.SessionPage:
    return explanation.SessionPage(
        id=SessionId(page["session_id"]),
        parent_id=page["parent_id"],
        depth=page["depth"],
        asked=page["asked"],
        unfinished=page["unfinished"],
        damaged=page["damaged"],
        findings=tuple(
            explanation.Finding(
                name=each["name"],
                stuck=each["stuck"],
                why=each["why"],
                call_id=each["part_id"],
                uneasy=each["name"] in UNEASY,
                until_ms=maybe_milliseconds(each["until"]),
            )
            for each in page["findings"]
        ),
        turns=tuple(_turn(each) for each in page["turns"]),
        clocks=tuple(_clock(each) for each in page["clocks"]),
        testimonies=tuple(
            explanation.Testimony(
                kind=explanation.WitnessKind(each["witness"]),
                who=each["who"],
                says=each["says"],
                stance=explanation.Stance(each["stance"]),
                since_ms=maybe_milliseconds(each["since"]),
                pid=each["pid"],
                turn_id=each["message_id"],
                call_id=each["part_id"],
            )
            for each in page["witnesses"]
        ),
    )


def _turn(turn: Mapping[str, Any]) -> explanation.TurnPage:
    return explanation.TurnPage(
        id=TurnId(turn["message_id"]),
        open=turn["open"],
        superseded=turn["superseded"],
        age_seconds=turn["age_seconds"],
        calls=tuple(
            explanation.CallPage(
                id=CallId(each["part_id"]),
                tool=each["tool"],
                status=CallStatus(each["status"]),
                age_seconds=each["age_seconds"],
                clocks=tuple(_clock(clock) for clock in each["clocks"]),
                waits_on=each["waits_on_session_id"],
            )
            for each in turn["calls"]
        ),
    )


def _clock(clock: Mapping[str, Any]) -> explanation.Clock:
    return explanation.Clock(
        setting=explanation.Setting(clock["setting"]),
        origin=clock["origin"],
        age_seconds=clock["age_seconds"],
        limit_seconds=clock["limit_seconds"],
        still=clock["stands_still"],
        uncounted_seconds=clock["uncounted_seconds"],
        note=clock["note"],
    )
