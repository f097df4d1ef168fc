"""What opencode's API sends and takes, read strictly."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import quote

from watchdog.errors import ServerDeclined
from watchdog.model.outcome import Row
from watchdog.model.report import Served
from watchdog.model.session import Activity, Ask, AskKind, ServerName, SessionId, Status, TurnId

_RETRY: Final = Activity.RETRY.value
_IDLE_STATUS: Final = Status(activity=Activity.IDLE)
_BUSY_STATUS: Final = Status(activity=Activity.BUSY)


def read_status(found: object) -> Status:
    """A session's status. One of an unknown kind is busy: in doubt, it lives."""
    kind = found.get("type") if isinstance(found, dict) else None
    if kind == _RETRY and isinstance(found, dict):
        after = found.get("next")
        if not isinstance(after, int | float) or isinstance(after, bool) or not 0 <= after < float("inf"):
            return Status(activity=Activity.RETRY)
        return Status(activity=Activity.RETRY, retry_at_ms=int(after))
    return _IDLE_STATUS if kind == _IDLE_STATUS.activity else _BUSY_STATUS


def read_ask(found: object, kind: AskKind) -> Ask:
    """An ask that waits for a human.

    Raises:
        TypeError: it has another shape.
        KeyError: its id or its session is missing.
    """
    tool = found.get("tool") or {} if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(tool, dict):
        raise TypeError(type(found))
    turn_id, call_ref = tool.get("messageID"), tool.get("callID")
    return Ask(
        id=_text(found["id"]),
        kind=kind,
        session_id=SessionId(_text(found["sessionID"])),
        turn_id=None if turn_id is None else TurnId(_text(turn_id)),
        call_ref=None if call_ref is None else _text(call_ref),
    )


def _text(found: object) -> str:
    if not isinstance(found, str) or not found:
        raise TypeError(type(found))
    return found


def part_of(row: Row) -> dict[str, Any] | None:
    """The row of a part as the API takes it, its ids included; None if it is no part, or can't be read."""
    try:
        found = json.loads(row.data)
    except (ValueError, RecursionError):
        return None
    if row.table != "part" or not isinstance(found, dict):
        return None
    return {**found, "id": row.id, "messageID": row.message_id, "sessionID": row.session_id}


def heed(name: ServerName, served: Served, session_id: SessionId) -> None:
    """Check the proof: nothing is sent because of a proof about another server, or about another session.

    Raises:
        ServerDeclined: the proof is about another one.
    """
    if served.server != name or not served.covers(session_id):
        raise ServerDeclined(f"{name} is not proven to serve the database that session {session_id} is in.")


def read_turn(found: Mapping[str, Any]) -> tuple[Row, ...]:
    """A turn with its parts, in the shape of rows.

    Raises:
        TypeError: it has another shape.
        KeyError: a part of it is missing.
    """
    info, parts = found["info"], found["parts"]
    if not isinstance(info, dict) or not isinstance(parts, list) or not all(isinstance(each, dict) for each in parts):
        raise TypeError(type(found))
    return (
        _row("message", info, turn="id", names=("id", "sessionID")),
        *(_row("part", each, turn="messageID", names=("id", "messageID", "sessionID")) for each in parts),
    )


def _row(table: str, found: Mapping[str, Any], *, turn: str, names: Collection[str]) -> Row:
    """The content of a row, without the ids that have columns of their own."""
    return Row(
        table=table,
        id=_text(found["id"]),
        message_id=TurnId(_text(found[turn])),
        session_id=SessionId(_text(found["sessionID"])),
        created_ms=0,
        updated_ms=0,
        data=json.dumps({name: value for name, value in found.items() if name not in names}),
    )


def session_path(session_id: str) -> str:
    """The route of a session."""
    return f"/session/{quote(session_id, safe='')}"


def message_path(session_id: str, message_id: str) -> str:
    """The route of a message."""
    return f"{session_path(session_id)}/message/{quote(message_id, safe='')}"
