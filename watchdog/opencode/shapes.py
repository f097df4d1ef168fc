"""What opencode's API sends and takes, read strictly."""

import json
from typing import Any, Final
from urllib.parse import quote

from watchdog.model import Activity, Ask, AskKind, Row, SessionId, Status, TurnId

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
    """A part's row as the API takes it, its ids included; None when it is no part, or can't be read."""
    try:
        found = json.loads(row.data)
    except (ValueError, RecursionError):
        return None
    if row.table != "part" or not isinstance(found, dict):
        return None
    return {**found, "id": row.id, "messageID": row.message_id, "sessionID": row.session_id}


def session_path(session_id: str) -> str:
    """The route of a session."""
    return f"/session/{quote(session_id, safe='')}"


def message_path(session_id: str, message_id: str) -> str:
    """The route of a message."""
    return f"{session_path(session_id)}/message/{quote(message_id, safe='')}"
