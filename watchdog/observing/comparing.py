"""Whether a server's copy of a turn is of the same rows, although they may change while it is read."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from watchdog.model.outcome import Row


class Likeness(StrEnum):
    """How a copy reads beside the rows."""

    SAME = "same"
    OTHER = "other"
    UNSURE = "unsure"


def compared(before: Sequence[Row], copy: Sequence[Row], after: Sequence[Row]) -> Likeness:
    """Compare a copy with the rows as they were before and after it was read.

    It is the same if each of its rows reads as either, or as something in between. If the rows did not change,
    anything else is another database; if they did, nobody can tell.
    """
    old, new, found = _by_id(before), _by_id(after), _by_id(copy)
    if old and old.keys() <= found.keys() <= new.keys() and all(_fits(id_, old, found, new) for id_ in found):
        return Likeness.SAME
    return Likeness.OTHER if old == new else Likeness.UNSURE


def _fits(id_: str, old: Mapping[str, Any], found: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return _between(old.get(id_, new[id_]), found[id_], new[id_])


def _by_id(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of each row, by its id; the text of a row that can't be read."""
    found: dict[str, Any] = {}
    for row in rows:
        try:
            said: Any = json.loads(row.data)
        except (ValueError, RecursionError):
            said = row.data
        found[row.id] = {"table": row.table, "turn": row.message_id, "session": row.session_id, "data": said}
    return found


def _between(old: object, found: object, new: object) -> bool:
    """Whether it reads as the old or the new value, or as something between them: output that grew, time that ran."""
    if _same(found, old) or _same(found, new):
        return True
    if isinstance(old, dict) and isinstance(found, dict) and isinstance(new, dict):
        names = old.keys() & new.keys()
        return names <= found.keys() <= old.keys() | new.keys() and all(
            _between(old.get(name, new.get(name)), found[name], new.get(name, old.get(name))) for name in found
        )
    if isinstance(old, str) and isinstance(found, str) and isinstance(new, str):
        return found.startswith(old) and new.startswith(found)
    if isinstance(old, int | float) and isinstance(found, int | float) and isinstance(new, int | float):
        return not any(isinstance(each, bool) for each in (old, found, new)) and old <= found <= new
    return False


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401 - JSON
    """Equality that does not take `true` for a 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
