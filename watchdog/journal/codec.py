"""The form of verdicts, outcomes and rows in the journal."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from itertools import islice
from typing import Any, Final, Protocol

from watchdog.judging.gradual import Gradual
from watchdog.model.interventions import Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.outcome import Outcome, Result, Row, Step
from watchdog.model.session import Ask, AskKind, SessionId, TurnId
from watchdog.model.verdict import Verdict, VerdictKind

_ABOUT_TO = "about_to"
_COMPACT: Final = (",", ":")
_PIECE: Final = 100
"""How many members of an object are written at a time."""


class Fields(Protocol):
    """A row of a journal: its columns by their names."""

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401 - whatever the column holds
        """The value of a column."""
        ...


def dump(value: Verdict | Outcome) -> str:
    """A verdict or an outcome in the journal's form."""
    return json.dumps(asdict(value), separators=_COMPACT, ensure_ascii=False)


def dump_state(value: Mapping[str, Any]) -> Gradual[str]:
    """The memory in the journal's form: as `json.dumps` gives it, in pieces."""
    members = []
    for name, part in value.items():
        yield
        text = json.dumps(part, separators=_COMPACT) if not isinstance(part, dict) else (yield from _in_pieces(part))
        members.append(f"{json.dumps(name)}:{text}")
    return f"{{{','.join(members)}}}"


def _in_pieces(value: Mapping[str, Any]) -> Gradual[str]:
    members, pieces = iter(value.items()), []
    while piece := dict(islice(members, _PIECE)):
        yield
        pieces.append(json.dumps(piece, separators=_COMPACT)[1:-1])
    return f"{{{','.join(pieces)}}}"


def dump_begun(verdict: Verdict, about_to: Step | None) -> str:
    """A verdict in the journal's form, with what is about to be sent; an older reader leaves that out."""
    begun = asdict(verdict) if about_to is None else {**asdict(verdict), _ABOUT_TO: asdict(about_to)}
    return json.dumps(begun, separators=_COMPACT, ensure_ascii=False)


def read_intervention(row: Fields) -> Intervention:
    """An intervention from its row. Fields of a newer watchdog are left out.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it can't be read.
    """
    verdict = json.loads(row["verdict"])
    about_to = verdict.get(_ABOUT_TO)
    return Intervention(
        id=InterventionId(row["id"]),
        began_ms=row["began_ms"],
        actor=Actor(row["actor"]),
        verdict=_verdict(verdict),
        reason=row["reason"],
        about_to=Step(**known(Step, about_to)) if about_to else None,
        ended_ms=row["ended_ms"],
        outcome=read_outcome(json.loads(row["outcome"])) if row["outcome"] else None,
        undone_ms=row["undone_ms"],
    )


def read_begun(rows: Iterable[Fields]) -> tuple[Intervention, ...]:
    """The interventions from their rows. An unreadable one is named in the log, and left as it is."""
    found: list[Intervention] = []
    for row in rows:
        try:
            found.append(read_intervention(row))
        except (KeyError, TypeError, ValueError, AttributeError):
            why = "it can't be read: a newer watchdog may have written it; that one closes it"
            # Most commands read the journal and log nothing: they need not pay for structlog.
            logging.getLogger("watchdog").warning("journal.unreadable: intervention %s: %s", row["id"], why)
    return tuple(found)


def known(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    """The values that a dataclass knows."""
    names = {field.name for field in fields(kind)}
    return {name: each for name, each in value.items() if name in names}


def _verdict(value: dict[str, Any]) -> Verdict:
    lists = {"call_ids": tuple(value["call_ids"]), "turn_ids": tuple(value["turn_ids"])}
    ask = value.get("ask")
    asked = Ask(**{**known(Ask, ask), "kind": AskKind(ask["kind"])}) if ask else None
    return Verdict(**{**known(Verdict, value), **lists, "kind": VerdictKind(value["kind"]), "ask": asked})


def read_outcome(value: dict[str, Any]) -> Outcome:
    """An outcome from its fields."""
    return Outcome(
        session_id=SessionId(value["session_id"]),
        kind=VerdictKind(value["kind"]),
        result=Result(value["result"]),
        steps=tuple(Step(**known(Step, step)) for step in value["steps"]),
        why=value["why"],
        dropped_prompts=tuple(value.get("dropped_prompts") or ()),
    )


def read_kept(row: Fields) -> Kept:
    """A kept row of opencode's from the journal's."""
    return Kept(
        row=Row(
            table=row["table"],
            id=row["id"],
            message_id=TurnId(row["message_id"]),
            session_id=SessionId(row["session_id"]),
            created_ms=row["created_ms"],
            updated_ms=row["updated_ms"],
            data=row["before"],
        ),
        after=row["after"],
    )


def read_hold(row: Fields) -> Hold:
    """A hold from its row."""
    return Hold(
        session_id=SessionId(row["session_id"]), since_ms=row["since_ms"], until_ms=row["until_ms"], why=row["why"]
    )
