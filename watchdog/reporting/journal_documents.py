"""What `history`, `undo`, `hold`, `unhold`, `pause` and `resume` print as JSON."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SkipValidation

from watchdog.acting.undo import Undoing, UndoResult
from watchdog.model import interventions as noted
from watchdog.model.outcome import Row
from watchdog.model.session import SessionId, TurnId
from watchdog.reporting.documents import (
    Document,
    MaybeMoment,
    Moment,
    Outcome,
    Shape,
    Step,
    Text,
    Verdict,
    maybe_milliseconds,
    milliseconds,
    read_outcome,
    read_steps,
    read_verdict,
)

Json = Annotated[Any, SkipValidation]


class WithJournal(Document):
    """The common part of all documents of the journal."""

    journal: Text


class Hold(Shape):
    """A hold."""

    session_id: Text
    everything: bool
    since: Moment = Field(validation_alias="since_ms")
    until: MaybeMoment = Field(validation_alias="until_ms")
    why: Text


class Intervention(Shape):
    """One intervention."""

    id: int
    began_at: Moment = Field(validation_alias="began_ms")
    ended_at: MaybeMoment = Field(validation_alias="ended_ms")
    actor: Literal["watchdog", "person"]
    reason: Text | None
    verdict: Verdict
    outcome: Outcome | None
    undone_at: MaybeMoment = Field(validation_alias="undone_ms")


class History(WithJournal):
    """Some interventions, the newest first."""

    interventions: list[Intervention]
    on_hold: list[Hold]


class KeptRow(Shape):
    """A row before and after."""

    table: Literal["message", "part"]
    id: Text
    message_id: Text
    session_id: Text
    before: Json
    after: Json


class OneIntervention(WithJournal):
    """One intervention with its rows."""

    intervention: Intervention
    rows: list[KeptRow]


class Undone(WithJournal):
    """The result of an undo."""

    id: int
    session_id: Text
    result: Literal["undone", "already_undone", "not_undone"]
    why: Text
    steps: list[Step]


class Holds(WithJournal):
    """The result of a hold or of its end."""

    session_id: Text
    was_on_hold: bool
    on_hold: list[Hold]


def history_document(
    database: str, journal: str, interventions: Iterable[noted.Intervention], holds: Iterable[noted.Hold]
) -> dict[str, Any]:
    """What `history --json` prints."""
    where = {"database": database, "journal": journal}
    return History.told({**where, "interventions": [*interventions], "on_hold": [*holds]})


def intervention_document(
    database: str, journal: str, intervention: noted.Intervention, kept: Iterable[noted.Kept]
) -> dict[str, Any]:
    """What `history ID --json` prints: the whole rows."""
    rows = [
        {
            "table": each.row.table,
            "id": each.row.id,
            "message_id": each.row.message_id,
            "session_id": each.row.session_id,
            "before": parsed(each.row.data),
            "after": parsed(each.after),
        }
        for each in kept
    ]
    where = {"database": database, "journal": journal}
    return OneIntervention.told({**where, "intervention": intervention, "rows": rows})


def holds_document(
    database: str, journal: str, session_id: SessionId, holds: Iterable[noted.Hold], *, was_on_hold: bool
) -> dict[str, Any]:
    """What `hold`, `unhold`, `pause` and `resume` print with `--json`."""
    where = {"database": database, "journal": journal, "session_id": session_id}
    return Holds.told({**where, "was_on_hold": was_on_hold, "on_hold": [*holds]})


def undo_document(database: str, journal: str, undoing: Undoing) -> dict[str, Any]:
    """What `undo --json` prints."""
    where = {"database": database, "journal": journal}
    how = {"result": undoing.result.value, "why": undoing.why, "steps": undoing.steps}
    return Undone.told({**where, "id": undoing.id, "session_id": undoing.session_id, **how})


def parsed(data: str) -> Any:  # noqa: ANN401 - JSON
    """A row's JSON, or its text if it is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data


def read_holds(document: Mapping[str, Any]) -> tuple[noted.Hold, ...]:
    """The holds of a document.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    return tuple(
        noted.Hold(
            session_id=SessionId(each["session_id"]),
            since_ms=milliseconds(each["since"]),
            until_ms=maybe_milliseconds(each["until"]),
            why=each["why"],
        )
        for each in document["on_hold"]
    )


def read_interventions(document: Mapping[str, Any]) -> tuple[noted.Intervention, ...]:
    """The interventions of a `History`, as far as people are shown them.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    return tuple(_intervention(each) for each in document["interventions"])


def read_intervention(document: Mapping[str, Any]) -> tuple[noted.Intervention, tuple[noted.Kept, ...]]:
    """One intervention, with its rows, as far as people are shown them.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    return _intervention(document["intervention"]), tuple(_kept(each) for each in document["rows"])


def _intervention(told: Mapping[str, Any]) -> noted.Intervention:
    return noted.Intervention(
        id=noted.InterventionId(told["id"]),
        began_ms=milliseconds(told["began_at"]),
        actor=noted.Actor(told["actor"]),
        verdict=read_verdict(told["verdict"]),
        reason=told["reason"],
        ended_ms=maybe_milliseconds(told["ended_at"]),
        outcome=None if told["outcome"] is None else read_outcome(told["outcome"]),
        undone_ms=maybe_milliseconds(told["undone_at"]),
    )


def _kept(told: Mapping[str, Any]) -> noted.Kept:
    row = Row(
        table=told["table"],
        id=told["id"],
        message_id=TurnId(told["message_id"]),
        session_id=SessionId(told["session_id"]),
        created_ms=0,  # no document has them, and nobody is shown them
        updated_ms=0,
        data=json.dumps(told["before"]),
    )
    return noted.Kept(row=row, after=json.dumps(told["after"]))


def read_undone(document: Mapping[str, Any]) -> Undoing:
    """The result of an undo.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    return Undoing(
        id=noted.InterventionId(document["id"]),
        session_id=SessionId(document["session_id"]),
        result=UndoResult(document["result"]),
        why=document["why"],
        steps=read_steps(document["steps"]),
    )
