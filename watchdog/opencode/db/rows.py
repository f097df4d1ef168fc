"""Rows of opencode's tables as nouns, and the rows that can't be read as one."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from posixpath import join
from typing import Any, TypeAlias, TypeVar

from watchdog.model.leftovers import CommandCall
from watchdog.model.outcome import Row
from watchdog.model.session import CallId, CallStatus, Session, SessionId, ToolCall, Turn, TurnId

Record: TypeAlias = Mapping[str, object]
Made = TypeVar("Made")

_LATEST_MS = (1 << 63) - 1
"""No time is later than this, whatever JSON can spell: no database could hold it."""

LOCAL_WORKSPACES = frozenset({"worktree"})
"""The types of workspaces whose sessions run in the process that has the database open."""
UNKNOWN_WORKSPACE = "unknown"


class Readings:
    """The results of the last look's rows: rows that did not change are not read again.

    So a look at thousands of open sessions makes few new values, and a garbage collector has little to go through.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[object, Any]] = {}
        self._now: dict[Hashable, tuple[object, Any]] = {}

    def get(self, key: Hashable, made_of: object, make: Callable[..., Made], *arguments: object) -> Made:
        """The result of the same row at the last look; otherwise it is made now.

        Args:
            key: whose it is.
            made_of: everything that it depends on.
            make: makes it.
            arguments: the arguments of `make`.
        """
        known = self._last.get(key)
        if known is None or known[0] != made_of:
            known = made_of, make(*arguments)
        self._now[key] = known
        made: Made = known[1]
        return made

    def end(self) -> None:
        """A look at everything is over: forget the results that it did not use."""
        self._last, self._now = self._now, {}


class Unreadable(Exception):
    """A row can't be read as what it should be; the text says why, without any of its content."""


def whole_row(record: Record) -> Row:
    """A whole row. A time that can't be read counts as 0."""
    return Row(
        table=str(record["kind"]),
        id=str(record["id"]),
        message_id=TurnId(str(record["message_id"])),
        session_id=SessionId(str(record["session_id"])),
        created_ms=moment(record["created"]) or 0,
        updated_ms=moment(record["updated"]) or 0,
        data=str(record["data"]),
    )


def remote_workspace(record: Record) -> str | None:
    """The type of the workspace of a session that may run on another machine; None if the session runs here.

    A type that is not known to be local may be anything: opencode's plugins bring further ones.
    """
    if not record.get("workspace"):
        return None
    kind = record.get("workspace_type")
    if not isinstance(kind, str) or not kind:
        return UNKNOWN_WORKSPACE
    return None if kind in LOCAL_WORKSPACES else kind


def newest_turn(records: Sequence[Record]) -> TurnId | None:
    """The newest turn of the one session that `NEWEST` was asked for."""
    return next((TurnId(str(record["turn_id"])) for record in records if record["turn_id"] is not None), None)


def moment(value: object) -> int | None:
    """A time in milliseconds, or None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_MS:
        return None
    return int(value)


def _text(value: object) -> str | None:
    # JSON may spell a lone surrogate, which could not be printed or stored later.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def _fields(record: Record) -> list[object]:
    if not isinstance(record["fields"], str):
        raise Unreadable("its JSON is broken")
    if record["shape"] != "object":
        raise Unreadable("its JSON is no object")
    try:
        fields: list[object] = json.loads(record["fields"])
    except (ValueError, RecursionError):
        raise Unreadable("its JSON can't be read") from None
    return fields


def _row_times(record: Record) -> tuple[int, int]:
    created, updated = moment(record["created"]), moment(record["updated"])
    if created is None or updated is None:
        raise Unreadable("the row's time_created or time_updated is no time")
    return created, updated


def read_turn(record: Record) -> Turn | None:
    """A turn from its row; None for a message that is no turn."""
    role, created_in_json, completed, cwd = _fields(record)
    if not isinstance(role, str):
        raise Unreadable("it has no role")
    if role != "assistant":
        return None
    created, updated = _row_times(record)
    if created_in_json is not None and moment(created_in_json) is None:
        raise Unreadable("its time.created is no time")
    if completed is not None and moment(completed) is None:
        raise Unreadable("its time.completed is no time")
    return Turn(
        id=TurnId(str(record["id"])),
        session_id=SessionId(str(record["session_id"])),
        created_ms=created,
        updated_ms=updated,
        size=moment(record["size"]) or 0,
        open=completed is None,
        cwd=_text(cwd) or None,
    )


def read_call(record: Record) -> ToolCall:
    """An open call from its row."""
    tool, call_ref, status, start, timeout, child = _fields(record)
    if status is None:
        raise Unreadable("it has no state, or a state without a status")
    if status not in tuple(CallStatus):
        raise Unreadable("its status is unknown")
    name = _text(tool)
    if not name:
        raise Unreadable("it has no tool name")
    created, updated = _row_times(record)
    if start is not None and moment(start) is None:
        raise Unreadable("its time.start is no time")
    declared = timeout if moment(timeout) is not None and isinstance(timeout, int | float) else None
    child_id = _text(child)
    return ToolCall(
        id=CallId(str(record["id"])),
        turn_id=TurnId(str(record["message_id"])),
        session_id=SessionId(str(record["session_id"])),
        tool=name,
        status=CallStatus(str(status)),
        created_ms=created,
        updated_ms=updated,
        size=moment(record["size"]) or 0,
        call_ref=_text(call_ref) or None,
        declared_timeout_ms=declared,
        child_id=SessionId(child_id) if child_id else None,
        personal=bool(record.get("personal")),
    )


def read_command_call(record: Record) -> CommandCall:
    """A call that runs a command, with what tells its processes. A call without an end that can be read is open."""
    tool, command, workdir, ended = json.loads(str(record["fields"]))
    directory, cwd = str(record["directory"]), _text(record["cwd"])
    named = _text(workdir)
    folders = {join(directory, named)} if named else {directory, *([cwd] if cwd else [])}
    return CommandCall(
        id=CallId(str(record["id"])),
        session_id=SessionId(str(record["session_id"])),
        tool=_text(tool) or "",
        command=_text(command) or "",
        folders=frozenset(folders),
        created_ms=moment(record["created"]) or 0,
        ended_ms=None if record["is_open"] else moment(ended),
        personal=bool(record["personal"]),
    )


def read_session(record: Record) -> Session:
    """A session from its row, with nothing in it."""
    created, parent = moment(record["created"]), record["parent_id"]
    if created is None or not isinstance(record["directory"], str):
        raise Unreadable("its directory or time_created can't be read")
    return Session(
        id=SessionId(str(record["id"])),
        directory=record["directory"],
        created_ms=created,
        parent_id=SessionId(parent) if isinstance(parent, str) else None,
        remote=remote_workspace(record),
    )


def tried(read: Callable[[Record], Made], record: Record) -> Made | str:
    """The result of reading a row; a text that says why if it can't be read."""
    try:
        return read(record)
    except Unreadable as problem:
        return str(problem)
