"""An open call or turn as it reads once it is settled: in a shape that every supported opencode can read."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from watchdog.model.outcome import GuardedWrite, Row
from watchdog.model.session import EMPTY, CallStatus
from watchdog.shown import shown

_NEVER_MS = 1 << 63
TURN_ERROR = "MessageAbortedError"
"""Every version knows it, and it keeps the turn's parts in the model's context for the next prompt."""
TURN_FINISH = "tool-calls"
"""What opencode itself writes when a subtask is interrupted.

Without one, the next prompt makes opencode run the subtask or the compaction of the prompt before it again. If it
says that the model was done, versions that compare ids may think that the next prompt is answered.
"""


def settle(
    rows: Iterable[Row], *, text: str, now_ms: int, fates: Mapping[str, str] = EMPTY
) -> tuple[GuardedWrite, ...]:
    """Make the guarded writes that settle these rows. Rows with nothing open in them are left out.

    Args:
        rows: calls and turns, in full, as they are in the database.
        text: the error that people and models will read: who ended it, and why.
        now_ms: when it is settled.
        fates: for each row what became of its command, the sentence after that.
    """
    settled = {"part": settled_call, "message": settled_turn}
    writes = []
    for row in rows:
        said = shown(f"{text} {fates[row.id]}" if row.id in fates else text)
        after = settled[row.table](row, text=said, now_ms=now_ms)
        if after is not None:
            writes.append(GuardedWrite(row=row, after=after))
    return tuple(writes)


def settled_call(row: Row, *, text: str, now_ms: int) -> str | None:
    """The JSON of an open tool call as it reads once it is settled.

    Returns:
        None when the row is no open call, or is damaged.
    """
    part = _object(row.data)
    if part is None or part.get("type") != "tool":
        return None
    state = part.get("state")
    if not isinstance(state, dict) or state.get("status") not in tuple(CallStatus):
        return None
    start = _moment(_member(state, "time", "start"), row.created_ms)
    settled = {
        "status": "error",
        "input": state["input"] if isinstance(state.get("input"), dict) else {},
        "error": text,
        "time": {"start": start, "end": max(now_ms, start)},
    }
    if isinstance(state.get("metadata"), dict):
        settled["metadata"] = state["metadata"]
    return _text({**part, "state": settled})


def settled_turn(row: Row, *, text: str, now_ms: int) -> str | None:
    """The JSON of an open turn as it reads once it is settled. An error or a finish that it already has is kept.

    Returns:
        None when the row is no open turn, or is damaged.
    """
    turn = _object(row.data)
    if turn is None or turn.get("role") != "assistant":
        return None
    time = turn.get("time")
    time = time if isinstance(time, dict) else {}
    if time.get("completed") is not None:
        return None
    created = _moment(time.get("created"), row.created_ms)
    settled = {**turn, "time": {**time, "created": created, "completed": max(now_ms, created)}}
    if turn.get("error") is None:
        settled["error"] = {"name": TURN_ERROR, "data": {"message": text}}
    if not (isinstance(turn.get("finish"), str) and turn["finish"]):
        settled["finish"] = TURN_FINISH
    return _text(settled)


def _object(data: str) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(value: dict[str, Any]) -> str | None:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return None
    # JSON can spell a lone surrogate and UTF-8 can't: then everything is written in ASCII.
    return text if text.isascii() or _is_unicode(text) else json.dumps(value, separators=(",", ":"))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _member(state: dict[str, Any], outer: str, inner: str) -> object:
    value = state.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


def _moment(value: object, otherwise: int) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _NEVER_MS:
        return otherwise
    return value
