"""The history in opencode's database: every turn since a moment, with its calls.

It is read in steps of a few hundred messages, each in a short transaction of its own, so that no reader keeps
opencode's log from being written back for long. A step comes as one row of JSON: a row for each part would cost the
driver more than SQLite needs to find it.
"""

# ruff: noqa: S608 - the pieces are constants of this module; every value is a parameter

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from watchdog.model.past import Ending, PastCall, PastTurn, Stretch
from watchdog.opencode.db.queries import PERSONAL, readable
from watchdog.opencode.db.reader import Reader
from watchdog.opencode.db.rows import moment
from watchdog.opencode.db.snapshot import as_ids
from watchdog.strides import in_strides

STEP_MESSAGES: Final = 400
_ABORTED: Final = ("Tool execution aborted", "Task cancelled", "Tool execution was interrupted")
_DECLINED: Final = ("The user rejected permission", "The user dismissed this question")
_SETTLED: Final = "Ended by opencode-watchdog"
_ABORTED_OUTPUT: Final = "User aborted the command"
"""What a shell command's output ends with when somebody aborted it; its status is `completed`."""
_ABORTED_TURN: Final = "MessageAbortedError"
_ERROR_LENGTH: Final = 200
_TAIL: Final = 400


def _time(column: str) -> str:
    return (
        f"CASE WHEN typeof({column}) IN ('integer', 'real') AND {column} BETWEEN 0 AND 9e15"
        f" THEN CAST({column} AS INTEGER) ELSE 'null' END"
    )


def _name(column: str) -> str:
    return f"CASE typeof({column}) WHEN 'text' THEN json_quote({column}) ELSE 'null' END"


_FIELDS_OF_CALL: Final = readable(
    "part",
    "json_extract(part.data, '$.type', '$.tool', '$.state.status', '$.state.time.start', '$.state.time.end',"
    " '$.state.input.timeout', '$.state.metadata.sessionId', '$.state.input.description')",
    "0",
)
# A part without the word is no tool call: nobody needs its id, and its JSON need not be parsed.
_CALL: Final = f"""
    CASE WHEN part.data LIKE '%"tool"%' THEN ',' || {_name("part.id")} || ',' || {_FIELDS_OF_CALL} ELSE '' END
"""
_PARTS: Final = f"""
    (SELECT '[' || group_concat('[' || {_time("part.time_created")} || ',' || {_time("part.time_updated")}
        || {_CALL} || ']') || ']'
    FROM part WHERE part.message_id = message.id)
"""
_FIELDS: Final = readable("message", "json_extract(message.data, '$.role', '$.time.completed', '$.error.name')", "0")
_TURN: Final = (
    f"'[' || {_name('message.id')} || ',' || {_name('message.session_id')} || ',' || {_time('message.time_created')}"
    f" || ',' || {_FIELDS} || ',' || coalesce({_PARTS}, '[]') || ']'"
)
_SINCE: Final = "(typeof(message.time_created) NOT IN ('integer', 'real') OR message.time_created >= :since)"
_STEP: Final = f"""
    SELECT '[' || group_concat({_TURN}) || ']' AS turns FROM message
    WHERE message.rowid > :after AND message.rowid <= :upto AND {_SINCE}
"""
_OF_SESSION: Final = (
    f"SELECT '[' || group_concat({_TURN}) || ']' AS turns FROM message WHERE message.session_id = :id"
)
_UPTO: Final = """
    SELECT max(place) AS upto
    FROM (SELECT rowid AS place FROM message WHERE rowid > :after ORDER BY rowid LIMIT :step)
"""
_FIRST: Final = "SELECT min(rowid) AS first, count(*) AS messages FROM message"
_ERROR: Final = readable("part", f"substr(json_extract(part.data, '$.state.error'), 1, {_ERROR_LENGTH})", "NULL")
_OUTPUT: Final = readable("part", f"substr(json_extract(part.data, '$.state.output'), -{_TAIL})", "NULL")
_ENDS: Final = f"""
    SELECT part.id AS id, {_ERROR} AS error, {_OUTPUT} AS output
    FROM json_each(:ids) AS wanted CROSS JOIN part ON part.id = wanted.value
"""
_PEOPLE: Final = f"""
    SELECT part.id AS id FROM json_each(:ids) AS wanted CROSS JOIN part ON part.id = wanted.value
    WHERE {readable("part", PERSONAL, "0")}
"""

Fields = list[Any]
"""The JSON of a row, as the statements above write it."""
_NOTHING: Final[Fields] = [None, None, None, 0, []]
_NO_FIELDS: Final[Fields] = [None, None, None]
BASH: Final = "bash"
_OPEN: Final = frozenset({"pending", "running"})
_OVER: Final = frozenset({"completed", "error"})


async def count(reader: Reader) -> int:
    """How many messages there are."""
    async with reader.transaction() as fetch:
        (found,) = await fetch(_FIRST, {})
        return int(str(found["messages"]))


async def read_past(reader: Reader, *, since_ms: int, each: Callable[[Stretch], Awaitable[None]]) -> None:
    """Go through the turns that began since a moment, in the order in which they were stored.

    Args:
        reader: of the database.
        since_ms: the moment.
        each: takes a step's turns. SQLite reads the next step meanwhile, if it leaves the loop to others.
    """
    send, receive = anyio.create_memory_object_stream[tuple[int, int, str]](1)
    async with anyio.create_task_group() as group:
        group.start_soon(_fill, reader, since_ms, send)
        async with receive:
            async for after, upto, text in receive:
                await each(await _stretch(reader, await _rows(reader, text, after, upto, since_ms)))


async def read_session(reader: Reader, session_id: str) -> Stretch:
    """The turns of one session."""
    async with reader.transaction() as fetch:
        (found,) = await fetch(_OF_SESSION, {"id": session_id})
    return await _stretch(reader, _decoded(str(found["turns"] or "[]")) or [])


async def _fill(reader: Reader, since_ms: int, send: MemoryObjectSendStream[tuple[int, int, str]]) -> None:
    async with send:
        async with reader.transaction() as fetch:
            (found,) = await fetch(_FIRST, {})
        after = None if found["first"] is None else int(str(found["first"])) - 1
        while after is not None:
            async with reader.transaction() as fetch:
                (place,) = await fetch(_UPTO, {"after": after, "step": STEP_MESSAGES})
                if place["upto"] is None:
                    return
                upto = int(str(place["upto"]))
                (step,) = await fetch(_STEP, {"after": after, "upto": upto, "since": since_ms})
            if step["turns"] is not None:
                await send.send((after, upto, str(step["turns"])))
            after = upto


async def _rows(reader: Reader, text: str, after: int, upto: int, since_ms: int) -> list[Fields | None]:
    """The messages of a step. If one of them spells something that no reader takes, they are read one by one."""
    if (rows := _decoded(text)) is not None:
        return rows
    found: list[Fields | None] = []
    async with reader.transaction() as fetch:
        while (place := (await fetch(_UPTO, {"after": after, "step": 1}))[0]["upto"]) is not None:
            if int(str(place)) > upto:
                break
            (step,) = await fetch(_STEP, {"after": after, "upto": place, "since": since_ms})
            found.extend(_decoded(str(step["turns"] or "[]")) or [None])
            after = int(str(place))
    return found


def _decoded(text: str) -> list[Fields | None] | None:
    try:
        rows: list[Fields | None] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return rows


async def _stretch(reader: Reader, rows: Sequence[Fields | None]) -> Stretch:
    step = _Step()
    async for row in in_strides(rows):
        step.add(row)
    if step.ends or step.people:
        async with reader.transaction() as fetch:
            ends = await fetch(_ENDS, {"ids": as_ids(step.ends)}) if step.ends else ()
            people = await fetch(_PEOPLE, {"ids": as_ids(step.people)}) if step.people else ()
        for record in ends:
            step.ended(str(record["id"]), str(record["error"] or ""), str(record["output"] or ""))
        for record in people:
            step.is_personal(str(record["id"]))
    return Stretch(tuple(step.turns), step.unreadable)


class _Step:
    """The turns of some messages.

    Attributes:
        ends: the calls of which their error, or the end of their output, says how they ended.
        people: the calls that may be a person's own commands.
    """

    def __init__(self) -> None:
        self.turns: list[PastTurn] = []
        self.unreadable = 0
        self.ends: dict[str, tuple[list[PastCall], int]] = {}
        self.people: dict[str, tuple[list[PastCall], int]] = {}

    def add(self, row: Fields | None) -> None:
        """Take a message with its parts; one of a person is no turn."""
        id_, session_id, began, fields, parts = row or _NOTHING
        role, completed, error = fields or _NO_FIELDS
        if role == "user":
            return
        completed_ms = moment(completed)
        if role != "assistant" or id_ is None or session_id is None or began is None:
            self.unreadable += 1
            return
        aborted = error == _ABORTED_TURN
        calls: list[PastCall] = []
        marks: list[int] = []
        for created, updated, *call in parts:
            if created is not None:
                marks.append(created)
            if updated is not None:
                marks.append(updated)
            if call:
                self._add_call(calls, created, *call, aborted=aborted)
        self.turns.append(PastTurn(id_, session_id, began, completed_ms, aborted, calls, marks))

    def _add_call(
        self, calls: list[PastCall], created: int | None, id_: str | None, fields: Fields, *, aborted: bool
    ) -> None:
        if fields and fields[0] != "tool":
            return
        call = _call(id_, created, fields) if fields and id_ is not None else None
        if call is None:
            self.unreadable += 1
            return
        place = calls, len(calls)
        calls.append(call)
        if fields[2] == "error" or (aborted and call.tool == BASH):
            self.ends[call.id] = place
        if call.tool == BASH and not call.declared_seconds and fields[7] is None:
            self.people[call.id] = place

    def ended(self, id_: str, error: str, output: str) -> None:
        """Take the error of a call, and the end of its output."""
        calls, index = self.ends[id_]
        call = calls[index]
        if error.startswith(_ABORTED) or (not error and _ABORTED_OUTPUT in output):
            calls[index] = call._replace(ending=Ending.ABORTED)
        elif error.startswith(_DECLINED):
            calls[index] = call._replace(ending=Ending.DECLINED)
        elif error.startswith(_SETTLED):
            calls[index] = call._replace(ending=Ending.SETTLED)

    def is_personal(self, id_: str) -> None:
        """Take it that a call is a person's own command."""
        calls, index = self.people[id_]
        calls[index] = calls[index]._replace(personal=True)


def _call(id_: str, began: int | None, fields: Fields) -> PastCall | None:
    """A call from its row; None if its name, its status or its times can't be read."""
    _, tool, status, start, end, timeout, child, _ = fields
    if not isinstance(tool, str) or not tool:
        return None
    started, ended = moment(start), moment(end)
    declared = 0.0 if timeout is None or moment(timeout) is None else timeout / 1000
    child_id = _text(child) if isinstance(child, str) and child else None
    if status in _OPEN:
        first = started if began is None else began
        return None if first is None else PastCall(id_, _text(tool), Ending.OPEN, first, None, declared, child_id)
    if status not in _OVER or ended is None or (started is not None and ended < started):
        return None
    if began is None or ended < began:  # an imported session's rows are younger than what they tell
        began = started
    if began is None:
        return None
    return PastCall(id_, _text(tool), Ending.FINISHED, began, ended, declared, child_id)


def _text(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON may spell, and which nobody can store or print."""
    return text if text.isascii() else text.encode(errors="replace").decode()
