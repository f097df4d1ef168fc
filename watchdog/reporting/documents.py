"""The program's JSON, printed or over HTTP: a documented contract. `VERSION` changes when it breaks.

Each shape is written once. It is filled from the value of the same name, by the names of its fields or those beside
them; the OpenAPI document shows it, too.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SkipValidation

from watchdog.model import outcome, report, session, verdict

VERSION: Final = 1


def moment(at_ms: float) -> str:
    """A moment as text: ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def told_moment(at_ms: float | None) -> str | None:
    """A moment as text; None if it is unknown, or if no calendar has it (a damaged row's)."""
    try:
        return None if at_ms is None else moment(at_ms)
    except (OverflowError, ValueError, OSError):
        return None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


Text = Annotated[str, SkipValidation]
"""Any text: a row may hold half a surrogate pair, which no validator accepts."""
_ISO = Field(description="ISO 8601, UTC", examples=["2026-01-01T00:00:00.000Z"])
Moment = Annotated[str, BeforeValidator(lambda at: at if isinstance(at, str) else moment(at)), _ISO]
MaybeMoment = Annotated[str | None, BeforeValidator(lambda at: at if isinstance(at, str) else told_moment(at)), _ISO]
_SECONDS = Field(description="seconds")
Seconds = Annotated[float, _SECONDS]
Rounded = Annotated[float, BeforeValidator(_rounded), _SECONDS]
MaybeRounded = Annotated[float | None, BeforeValidator(_rounded), _SECONDS]
PartId = Annotated[Text | None, Field(validation_alias="call_id")]


class Shape(BaseModel):
    """The common part of all shapes."""

    model_config = ConfigDict(from_attributes=True, validate_by_name=True, extra="forbid")

    @classmethod
    def told(cls, value: object) -> dict[str, Any]:
        """A value as JSON; a value that is no shape yet becomes one by its attributes."""
        return cls.model_validate(value).model_dump(warnings=False)


class Document(Shape):
    """The common part of all documents."""

    version: Literal[1] = VERSION
    database: Text


class Verdict(Shape):
    """One session that will never end by itself."""

    session_id: Text
    kind: Text
    message_id: Text | None
    part_id: PartId
    tool: Text | None
    age_seconds: Rounded
    limit_seconds: Seconds | None
    cancel_session_id: Text
    why: Text


class Spared(Shape):
    """Something unfinished that is left alone."""

    session_id: Text
    reason: Text
    part_id: PartId
    why: Text


class Step(Shape):
    """One step of an intervention."""

    step: Text
    at: Moment = Field(validation_alias="at_ms")
    ok: bool
    detail: Text


class Outcome(Shape):
    """How an intervention ended: in `outcomes`, and as the fields of the `outcome` log event."""

    session_id: Text
    kind: Text
    result: Text
    steps: list[Step]
    why: Text
    dropped_prompts: list[Text]


class Counts(Shape):
    """The counts of a scan."""

    unfinished_sessions: int
    open_tool_calls: int
    damaged_rows: int


class Scan(Document):
    """What `scan --json` prints."""

    observed_at: Moment
    degraded: list[Text]
    counts: Counts
    verdicts: list[Verdict]
    spared: list[Spared]


class Outcomes(Document):
    """The outcomes of a release."""

    outcomes: list[Outcome]


class Recovery(Outcomes):
    """What `recover --json` prints: only it says what it left alone."""

    spared: list[Spared]


class Deletion(Outcomes):
    """The result of a deletion."""

    session_id: Text
    message_id: Text
    deleted: bool


def scan_values(database: str, observation: report.Observation, judgement: verdict.Judgement) -> dict[str, Any]:
    """The values of a `Scan`."""
    sessions = observation.snapshot.sessions.values()
    unfinished = {each.session_id for each in judgement.verdicts} | {each.session_id for each in judgement.spared}
    return {
        "database": database,
        "observed_at": observation.at_ms,
        "degraded": [*observation.degraded, *damage_sentences(observation)],
        "counts": {
            "unfinished_sessions": len(unfinished | {each.id for each in sessions if each.has_open_rows}),
            "open_tool_calls": sum(len(session.calls) for session in sessions),
            "damaged_rows": len(observation.snapshot.damaged),
        },
        "verdicts": judgement.verdicts,
        "spared": judgement.spared,
    }


def scan_document(database: str, observation: report.Observation, judgement: verdict.Judgement) -> dict[str, Any]:
    """What `scan --json` prints."""
    return Scan.told(scan_values(database, observation, judgement))


def outcomes_document(
    database: str, outcomes: Iterable[outcome.Outcome], spared: Iterable[verdict.Spared] | None = None
) -> dict[str, Any]:
    """What `recover --json` and `release --json` print."""
    document = {"database": database, "outcomes": [*outcomes]}
    return Outcomes.told(document) if spared is None else Recovery.told({**document, "spared": [*spared]})


def deletion_document(
    database: str, *, session_id: session.SessionId, message_id: str, outcomes: Iterable[outcome.Outcome], gone: bool
) -> dict[str, Any]:
    """What `delete-message --json` prints."""
    ids = {"session_id": session_id, "message_id": message_id}
    return Deletion.told({"database": database, "outcomes": [*outcomes], **ids, "deleted": gone})


def damage_sentences(observation: report.Observation) -> list[str]:
    """The rows that can't be read, a sentence each."""
    return [
        f"{damage.table} {damage.id} of session {damage.session_id} is left alone: {damage.problem}"
        for damage in observation.snapshot.damaged
    ]


# -- read again ----------------------------------------------------------------------------------------------------


def milliseconds(text: str) -> int:
    """The moment that `moment` has told.

    Raises:
        ValueError: it is no such text.
    """
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def maybe_milliseconds(text: str | None) -> int | None:
    """The same; None stays."""
    return None if text is None else milliseconds(text)


def read_judgement(document: Mapping[str, Any]) -> verdict.Judgement:
    """The judgement of a `Scan`, as far as people are shown it.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    return verdict.Judgement(
        verdicts=tuple(read_verdict(each) for each in document["verdicts"]),
        spared=tuple(
            verdict.Spared(
                session_id=session.SessionId(each["session_id"]),
                reason=verdict.SpareReason(each["reason"]),
                call_id=each["part_id"],
                why=each["why"],
            )
            for each in document["spared"]
        ),
    )


def read_outcomes(document: Mapping[str, Any]) -> tuple[outcome.Outcome, ...]:
    """The outcomes of a document.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    return tuple(read_outcome(each) for each in document["outcomes"])


def read_verdict(told: Mapping[str, Any]) -> verdict.Verdict:
    """One verdict, as far as people are shown it."""
    return verdict.Verdict(
        session_id=session.SessionId(told["session_id"]),
        kind=verdict.VerdictKind(told["kind"]),
        cancel_session_id=session.SessionId(told["cancel_session_id"]),
        why=told["why"],
        age_seconds=told["age_seconds"],
        limit_seconds=told["limit_seconds"],
        message_id=told["message_id"],
        call_id=told["part_id"],
        tool=told["tool"],
    )


def read_outcome(told: Mapping[str, Any]) -> outcome.Outcome:
    """One outcome."""
    return outcome.Outcome(
        session_id=session.SessionId(told["session_id"]),
        kind=verdict.VerdictKind(told["kind"]),
        result=outcome.Result(told["result"]),
        steps=read_steps(told["steps"]),
        why=told["why"],
        dropped_prompts=tuple(told["dropped_prompts"]),
    )


def read_steps(steps: Iterable[Mapping[str, Any]]) -> tuple[outcome.Step, ...]:
    """The steps of an outcome, or of an undo."""
    return tuple(
        outcome.Step(step=each["step"], at_ms=milliseconds(each["at"]), ok=each["ok"], detail=each["detail"])
        for each in steps
    )
