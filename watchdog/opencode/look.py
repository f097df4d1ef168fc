"""One look at opencode's database: which queries are asked, and how the answers become nouns."""

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from watchdog.model import CallId, CallStatus, Damage, Row, Session, SessionId, Snapshot, ToolCall, Turn, TurnId

Record = Mapping[str, object]
Fetch = Callable[[str, Mapping[str, object]], Awaitable[Sequence[Record]]]
"""Runs one query with named parameters inside the transaction of the look."""


LAST_ROWID = (1 << 63) - 1
_LATEST_MS = (1 << 63) - 1
"""No time is later, whatever JSON can spell: no database could hold it."""

LOCAL_WORKSPACES = frozenset({"worktree"})
"""The types of workspaces whose sessions run in the process that has the database open."""
UNKNOWN_WORKSPACE = "unknown"


def as_ids(ids: Iterable[str]) -> str:
    """Ids as one parameter, for `json_each`: any number of them, in the order given."""
    return json.dumps(list(dict.fromkeys(ids)))


def whole_row(record: Record) -> Row:
    """A whole row. A time that can't be read counts as 0."""
    return Row(
        table=str(record["kind"]),
        id=str(record["id"]),
        message_id=TurnId(str(record["message_id"])),
        session_id=SessionId(str(record["session_id"])),
        created_ms=_moment(record["created"]) or 0,
        updated_ms=_moment(record["updated"]) or 0,
        data=str(record["data"]),
    )


def remote_workspace(record: Record) -> str | None:
    """The type of the workspace of a session that may run on another machine; None for one that runs here.

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


def _moment(value: object) -> int | None:
    """A time in milliseconds, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_MS:
        return None
    return int(value)


def _text(value: object) -> str | None:
    # JSON may spell a lone surrogate, which could not be printed or stored later.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


class _Unreadable(Exception):
    """A row can't be read as what it should be; the text says why, without any of its content."""


def _fields(record: Record) -> list[object]:
    if not isinstance(record["fields"], str):
        raise _Unreadable("its JSON is broken")
    if record["shape"] != "object":
        raise _Unreadable("its JSON is no object")
    try:
        fields: list[object] = json.loads(record["fields"])
    except (ValueError, RecursionError):
        raise _Unreadable("its JSON can't be read") from None
    return fields


def _row_times(record: Record) -> tuple[int, int]:
    created, updated = _moment(record["created"]), _moment(record["updated"])
    if created is None or updated is None:
        raise _Unreadable("the row's time_created or time_updated is no time")
    return created, updated


def read_turn(record: Record) -> Turn | None:
    """A turn from its row; None for a message that is no turn."""
    role, created_in_json, completed, cwd = _fields(record)
    if not isinstance(role, str):
        raise _Unreadable("it has no role")
    if role != "assistant":
        return None
    created, updated = _row_times(record)
    if created_in_json is not None and _moment(created_in_json) is None:
        raise _Unreadable("its time.created is no time")
    if completed is not None and _moment(completed) is None:
        raise _Unreadable("its time.completed is no time")
    return Turn(
        id=TurnId(str(record["id"])),
        session_id=SessionId(str(record["session_id"])),
        created_ms=created,
        updated_ms=updated,
        size=_moment(record["size"]) or 0,
        open=completed is None,
        cwd=_text(cwd) or None,
    )


def read_call(record: Record) -> ToolCall:
    """An open call from its row."""
    tool, call_ref, status, start, timeout, child = _fields(record)
    if status is None:
        raise _Unreadable("it has no state, or a state without a status")
    if status not in tuple(CallStatus):
        raise _Unreadable("its status is unknown")
    name = _text(tool)
    if not name:
        raise _Unreadable("it has no tool name")
    created, updated = _row_times(record)
    if start is not None and _moment(start) is None:
        raise _Unreadable("its time.start is no time")
    declared = timeout if _moment(timeout) is not None and isinstance(timeout, int | float) else None
    child_id = _text(child)
    return ToolCall(
        id=CallId(str(record["id"])),
        turn_id=TurnId(str(record["message_id"])),
        session_id=SessionId(str(record["session_id"])),
        tool=name,
        status=CallStatus(str(status)),
        created_ms=created,
        updated_ms=updated,
        size=_moment(record["size"]) or 0,
        call_ref=_text(call_ref) or None,
        declared_timeout_ms=declared,
        child_id=SessionId(child_id) if child_id else None,
        personal=bool(record.get("personal")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Statements:
    """What a look asks, in the SQL of one database. Ids are passed as one JSON array.

    Attributes:
        open_messages: the open messages among some ids and after a place.
        open_messages_of_sessions: those of some sessions.
        messages: some messages, open or not.
        open_parts: the open parts among some ids and after a place.
        open_parts_of_messages: those of some messages.
        sessions: some sessions.
        sessions_and_ancestors: the same, with all that is above them.
        children: the sessions that began below some others, each since a moment.
        newest: of some sessions, the newest prompt, turn and message.
        last_written: when a part of some messages was last written.
    """

    open_messages: str
    open_messages_of_sessions: str
    messages: str
    open_parts: str
    open_parts_of_messages: str
    sessions: str
    sessions_and_ancestors: str
    children: str
    newest: str
    last_written: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """Which rows to read when it is known what was open: these, and what was inserted since.

    Attributes:
        turns: ids of messages that may be open.
        turns_after: the rowid after which messages are new.
        whole: those of the turns whose parts are not known yet.
        calls: ids of parts that may be open.
        calls_after: the rowid after which parts are new.
    """

    turns: Collection[str]
    turns_after: int
    whole: Collection[str]
    calls: Collection[str]
    calls_after: int


@dataclass(kw_only=True)
class Look:
    """One look at what is unfinished, made of a handful of queries in one transaction.

    Attributes:
        ask: what is asked.
        open_messages: the messages that are open or can't be read, after the look.
        unread_messages: those of them that can't be read, whose parts were not read either.
        open_parts: the parts that are not cleanly closed, after the look, each with its session.
    """

    fetch: Fetch
    ask: Statements
    open_messages: set[str] = field(default_factory=set)
    unread_messages: set[str] = field(default_factory=set)
    open_parts: dict[str, str] = field(default_factory=dict)
    _damaged: dict[tuple[str, str], Damage] = field(default_factory=dict)
    _turns: dict[TurnId, Turn] = field(default_factory=dict)
    _calls: dict[CallId, ToolCall] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    async def everything(self, known: Known, also: Collection[SessionId]) -> Snapshot:
        """Read every unfinished session with its relatives, and those of `also`."""
        messages = await self._read_turns(
            self.ask.open_messages, {"ids": as_ids(known.turns), "after": known.turns_after}
        )
        self.open_messages = {str(record["id"]) for record in messages}
        self.unread_messages = self.open_messages - self._turns.keys()
        new = {str(record["id"]) for record in messages if (_moment(record["place"]) or 0) > known.turns_after}
        await self._read_calls(known.calls, known.calls_after, whole=self._turns.keys() & {*known.whole, *new})
        wanted: set[str] = {*also, *(turn.session_id for turn in self._turns.values())}
        wanted.update(call.child_id for call in self._calls.values() if call.child_id)
        parents = [(c.session_id, c.created_ms) for c in self._calls.values() if c.tool == "task"]
        if parents:
            children = await self.fetch(self.ask.children, {"calls": json.dumps(parents)})
            wanted.update(str(row["id"]) for row in children)
        sessions = await self._read_sessions(self.ask.sessions_and_ancestors, {"ids": as_ids(sorted(wanted))})
        self._report_strays(sessions)
        return Snapshot(sessions=await self._filled(sessions), damaged=tuple(self._damaged.values()))

    async def sessions(self, ids: Collection[SessionId], suspects: Collection[str]) -> Mapping[SessionId, Session]:
        """Read some sessions and what is open in them.

        Args:
            ids: the sessions; one that there is not is left out.
            suspects: ids of parts that may be open although their turn is closed.
        """
        await self._read_turns(self.ask.open_messages_of_sessions, {"ids": as_ids(ids)})
        await self._read_calls(suspects, LAST_ROWID, whole=self._turns.keys())
        return await self._filled(await self._read_sessions(self.ask.sessions, {"ids": as_ids(ids)}))

    def _damage(self, table: str, record: Record, problem: str) -> None:
        found = Damage(
            table=table, id=str(record["id"]), session_id=SessionId(str(record["session_id"])), problem=problem
        )
        self._damaged.setdefault((table, found.id), found)

    async def _read_turns(self, query: str, parameters: Mapping[str, object]) -> Sequence[Record]:
        records = await self.fetch(query, parameters)
        for record in records:
            try:
                turn = read_turn(record)
            except _Unreadable as problem:
                self._damage("message", record, str(problem))
                continue
            if turn is not None:
                self._turns[turn.id] = turn
                self._places[turn.id] = _moment(record["place"]) or 0
        return records

    async def _read_calls(self, ids: Collection[str], after: int, *, whole: Collection[str]) -> None:
        """Read the open parts among some ids, after a rowid, and in whole turns."""
        records: list[Record] = []
        if ids or after < LAST_ROWID:
            records += await self.fetch(self.ask.open_parts, {"ids": as_ids(ids), "after": after})
        if whole:
            records += await self.fetch(self.ask.open_parts_of_messages, {"ids": as_ids(whole)})
        self.open_parts = {str(record["id"]): str(record["session_id"]) for record in records}
        unknown = {str(record["message_id"]) for record in records} - self._turns.keys()
        if unknown:
            await self._read_turns(self.ask.messages, {"ids": as_ids(unknown)})
        for record in records:
            try:
                call = self._placed(read_call(record))
            except _Unreadable as problem:
                self._damage("part", record, str(problem))
            else:
                self._calls[call.id] = call
                self._places[call.id] = _moment(record["place"]) or 0
        holding = {call.turn_id for call in self._calls.values()}
        self._turns = {id_: turn for id_, turn in self._turns.items() if turn.open or id_ in holding}

    def _placed(self, call: ToolCall) -> ToolCall:
        turn = self._turns.get(call.turn_id)
        if turn is None:
            raise _Unreadable("its message is no turn that can be read")
        if turn.session_id != call.session_id:
            raise _Unreadable("it names another session than its turn")
        return call

    async def _read_sessions(self, query: str, parameters: Mapping[str, object]) -> dict[SessionId, Session]:
        sessions = {}
        for record in await self.fetch(query, parameters):
            created = _moment(record["created"])
            if created is None or not isinstance(record["directory"], str):
                self._damage(
                    "session", {**record, "session_id": record["id"]}, "its directory or time_created can't be read"
                )
                continue
            session_id = SessionId(str(record["id"]))
            parent = record["parent_id"]
            sessions[session_id] = Session(
                id=session_id,
                directory=record["directory"],
                created_ms=created,
                parent_id=SessionId(parent) if isinstance(parent, str) else None,
                remote=remote_workspace(record),
            )
        return sessions

    def _report_strays(self, sessions: Mapping[SessionId, Session]) -> None:
        open_turns = [turn for turn in self._turns.values() if turn.open]
        for table, rows in (("message", open_turns), ("part", self._calls.values())):
            for row in rows:
                if row.session_id not in sessions:
                    record = {"id": row.id, "session_id": row.session_id}
                    self._damage(table, record, "its session is missing or can't be read")

    async def _filled(self, sessions: Mapping[SessionId, Session]) -> dict[SessionId, Session]:
        if not sessions:
            return {}
        found = await self.fetch(self.ask.newest, {"ids": as_ids(sessions)})
        newest = {str(record["session_id"]): record for record in found}
        messages = [
            *self._turns,
            *(str(record["message_id"]) for record in found if record["message_id"] is not None),
        ]
        written = {
            str(record["id"]): _moment(record["updated"]) or 0
            for record in await self.fetch(self.ask.last_written, {"ids": as_ids(messages)})
        }
        calls: dict[SessionId, list[ToolCall]] = defaultdict(list)
        for call in sorted(self._calls.values(), key=self._age):
            calls[call.session_id].append(call)
        turns: dict[SessionId, list[Turn]] = defaultdict(list)
        for turn in sorted(self._turns.values(), key=self._age):
            turns[turn.session_id].append(turn)
        return {
            id_: _with_rows(session, newest[id_], written, turns[id_], calls[id_])
            for id_, session in sessions.items()
        }

    def _age(self, row: Turn | ToolCall) -> tuple[int, int]:
        return row.created_ms, self._places[row.id]


def _with_rows(
    session: Session, newest: Record, written: Mapping[str, int], turns: Sequence[Turn], calls: Sequence[ToolCall]
) -> Session:
    seen = [newest["prompted"], newest["turned"], newest["completed"], *(turn.created_ms for turn in turns)]
    parts = [written.get(id_, 0) for id_ in (*(turn.id for turn in turns), str(newest["message_id"]))]
    return replace(
        session,
        calls=tuple(calls),
        turns=tuple(replace(turn, superseded=newest["turn_id"] not in (None, turn.id)) for turn in turns),
        # A session without a message shows life by its birth.
        last_life_ms=max([session.created_ms, *parts, *(_moment(value) or 0 for value in seen)]),
        newest_prompt_id=str(newest["prompt_id"]) if newest["prompt_id"] is not None else None,
        queued_prompts=_moment(newest["queued"]) or 0,
    )
