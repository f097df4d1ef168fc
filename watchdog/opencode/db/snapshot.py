"""One look at opencode's database: its queries, and how the answers become nouns."""

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from watchdog.model.session import CallId, Damage, Session, SessionId, Snapshot, ToolCall, Turn, TurnId
from watchdog.opencode.db.rows import Made, Readings, Record, moment, read_call, read_session, read_turn, tried
from watchdog.strides import in_strides

Fetch = Callable[[str, Mapping[str, object]], Awaitable[Sequence[Record]]]
"""Runs one query with named parameters inside the transaction of the look."""
Suspects = Callable[[Collection[SessionId]], Awaitable[Collection[str]]]
"""Finds the ids of parts of some sessions that may be open although their turn is closed."""

LAST_ROWID: Final = (1 << 63) - 1

Placed = TypeVar("Placed", Turn, ToolCall)


def as_ids(ids: Iterable[str]) -> str:
    """Ids as one parameter, for `json_each`: any number of them, in the order given."""
    return json.dumps(list(dict.fromkeys(ids)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Statements:
    """The queries of a look, in the SQL of one database. Ids are passed as one JSON array.

    Attributes:
        open_messages: the open messages among some ids and after a place.
        open_messages_of_sessions: those of some sessions.
        messages: some messages, open or not.
        open_parts: the open parts among some ids and after a place.
        open_parts_of_messages: those of some messages.
        sessions: some sessions.
        sessions_and_ancestors: the same, with all their ancestors.
        below: the ids of all sessions below some others.
        children: the sessions that began below some others, each since a moment.
        newest: the newest prompt, turn and message of some sessions.
        last_written: when a part of some messages was last written.
        second_generation: how many sessions of opencode 2.x are at work; None where it never opened the database.
    """

    open_messages: str
    open_messages_of_sessions: str
    messages: str
    open_parts: str
    open_parts_of_messages: str
    sessions: str
    sessions_and_ancestors: str
    below: str
    children: str
    newest: str
    last_written: str
    second_generation: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The rows to read if the open rows are known: these, and those inserted since.

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
        ask: the queries.
        readings: the results of the last look's rows.
        open_messages: the messages that are open or can't be read, after the look.
        unread_messages: those of them that can't be read, whose parts were not read either.
        open_parts: the parts that are not cleanly closed, after the look, each with its session.
    """

    fetch: Fetch
    ask: Statements
    readings: Readings = field(default_factory=Readings)
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
        whole = set(known.whole)
        async for record in in_strides(messages):
            id_ = str(record["id"])
            self.open_messages.add(id_)
            if (moment(record["place"]) or 0) > known.turns_after:
                whole.add(id_)
        self.unread_messages = self.open_messages - self._turns.keys()
        await self._read_calls(known.calls, known.calls_after, whole=self._turns.keys() & whole)
        wanted = {*also, *(turn.session_id for turn in self._turns.values())}
        parents = []
        async for call in in_strides(self._calls.values()):
            if call.child_id:
                wanted.add(call.child_id)
            if call.tool == "task":
                parents.append((call.session_id, call.created_ms))
        if parents:
            children = await self.fetch(self.ask.children, {"calls": json.dumps(parents)})
            wanted.update(SessionId(str(row["id"])) for row in children)
        sessions = await self._read_sessions(self.ask.sessions_and_ancestors, {"ids": as_ids(sorted(wanted))})
        await self._report_strays(sessions)
        found = await self._filled(sessions)
        self.readings.end()
        return Snapshot(
            sessions=found, damaged=tuple(self._damaged.values()), second_generation=await self._second_generation()
        )

    async def _second_generation(self) -> int:
        if self.ask.second_generation is None:
            return 0
        (record,) = await self.fetch(self.ask.second_generation, {})
        return int(str(record["sessions"]))

    async def sessions(self, ids: Collection[SessionId], suspects: Collection[str]) -> Mapping[SessionId, Session]:
        """Read some sessions and what is open in them.

        Args:
            ids: the sessions; ids without a session are left out.
            suspects: ids of parts that may be open although their turn is closed.
        """
        await self._read_turns(self.ask.open_messages_of_sessions, {"ids": as_ids(ids)})
        await self._read_calls(suspects, LAST_ROWID, whole=self._turns.keys())
        return await self._filled(await self._read_sessions(self.ask.sessions, {"ids": as_ids(ids)}))

    async def family(self, ids: Collection[SessionId], suspects: Suspects) -> Snapshot:
        """Read some sessions with all that is above and below them, and what their open calls name as children."""
        tree = {*ids}
        while True:
            for query in (self.ask.sessions_and_ancestors, self.ask.below):
                tree.update(
                    SessionId(str(row["id"])) for row in await self.fetch(query, {"ids": as_ids(sorted(tree))})
                )
            sessions = await self.sessions(tree, await suspects(tree))
            named = {call.child_id for call in self._calls.values() if call.child_id} - tree
            if not named:
                return Snapshot(sessions=sessions, damaged=tuple(self._damaged.values()))
            tree |= named

    def _damage(self, table: str, record: Record, problem: str) -> None:
        found = Damage(
            table=table, id=str(record["id"]), session_id=SessionId(str(record["session_id"])), problem=problem
        )
        self._damaged.setdefault((table, found.id), found)

    def _read(self, table: str, read: Callable[[Record], Made], record: Record) -> Made | str:
        """The result of reading a row, or why it can't be read. It depends only on the row."""
        return self.readings.get((table, record["id"]), (*record.values(),), tried, read, record)

    async def _read_turns(self, query: str, parameters: Mapping[str, object]) -> Sequence[Record]:
        records = await self.fetch(query, parameters)
        async for record in in_strides(records):
            turn = self._read("message", read_turn, record)
            if isinstance(turn, str):
                self._damage("message", record, turn)
            elif turn is not None:
                self._turns[turn.id] = turn
                self._places[turn.id] = moment(record["place"]) or 0
        return records

    async def _read_calls(self, ids: Collection[str], after: int, *, whole: Collection[str]) -> None:
        """Read the open parts among some ids, after a rowid, and in whole turns."""
        records: list[Record] = []
        if ids or after < LAST_ROWID:
            records += await self.fetch(self.ask.open_parts, {"ids": as_ids(ids), "after": after})
        if whole:
            records += await self.fetch(self.ask.open_parts_of_messages, {"ids": as_ids(whole)})
        unknown = set()
        async for record in in_strides(records):
            self.open_parts[str(record["id"])] = str(record["session_id"])
            if (turn_id := str(record["message_id"])) not in self._turns:
                unknown.add(turn_id)
        if unknown:
            await self._read_turns(self.ask.messages, {"ids": as_ids(unknown)})
        holding = set()
        async for record in in_strides(records):
            call = self._read("part", read_call, record)
            problem = call if isinstance(call, str) else self._misplaced(call)
            if isinstance(call, str) or problem is not None:
                self._damage("part", record, str(problem))
                continue
            self._calls[call.id] = call
            self._places[call.id] = moment(record["place"]) or 0
            holding.add(call.turn_id)
        self._turns = {id_: turn for id_, turn in self._turns.items() if turn.open or id_ in holding}

    def _misplaced(self, call: ToolCall) -> str | None:
        turn = self._turns.get(call.turn_id)
        if turn is None:
            return "its message is no turn that can be read"
        return None if turn.session_id == call.session_id else "it names another session than its turn"

    async def _read_sessions(self, query: str, parameters: Mapping[str, object]) -> dict[SessionId, Session]:
        sessions = {}
        async for record in in_strides(await self.fetch(query, parameters)):
            session = self._read("session", read_session, record)
            if isinstance(session, str):
                self._damage("session", {**record, "session_id": record["id"]}, session)
            else:
                sessions[session.id] = session
        return sessions

    async def _report_strays(self, sessions: Mapping[SessionId, Session]) -> None:
        open_turns = [turn for turn in self._turns.values() if turn.open]
        rows: Sequence[tuple[str, Iterable[Turn | ToolCall]]] = (
            ("message", open_turns),
            ("part", self._calls.values()),
        )
        for table, each in rows:
            async for row in in_strides(each):
                if row.session_id not in sessions:
                    record = {"id": row.id, "session_id": row.session_id}
                    self._damage(table, record, "its session is missing or can't be read")

    async def _filled(self, sessions: Mapping[SessionId, Session]) -> dict[SessionId, Session]:
        """The sessions with their open rows, and with their last signs of life."""
        if not sessions:
            return {}
        messages: dict[str, None] = dict.fromkeys(self._turns)
        newest: dict[str, Record] = {}
        async for record in in_strides(await self.fetch(self.ask.newest, {"ids": as_ids(sessions)})):
            newest[str(record["session_id"])] = record
            if record["message_id"] is not None:
                messages[str(record["message_id"])] = None
        written: dict[str, int] = {}
        async for record in in_strides(await self.fetch(self.ask.last_written, {"ids": as_ids(messages)})):
            written[str(record["id"])] = moment(record["updated"]) or 0
        calls = await self._by_session(self._calls.values())
        turns = await self._by_session(self._turns.values())
        filled = {}
        async for session in in_strides(sessions.values()):
            filled[session.id] = self._with_rows(
                session, newest[session.id], written, turns(session.id), calls(session.id)
            )
        return filled

    async def _by_session(self, rows: Iterable[Placed]) -> Callable[[SessionId], Sequence[Placed]]:
        """Yields the rows of a session, the oldest first. Most sessions have one row and need no list."""
        alone: dict[SessionId, Placed] = {}
        several: dict[SessionId, list[Placed]] = {}
        async for row in in_strides(rows):
            first = alone.setdefault(row.session_id, row)
            if first is not row:
                several.setdefault(row.session_id, [first]).append(row)

        def of(session_id: SessionId) -> Sequence[Placed]:
            if session_id in several:
                return tuple(sorted(several[session_id], key=self._age))
            return (alone[session_id],) if session_id in alone else ()

        return of

    def _age(self, row: Turn | ToolCall) -> tuple[int, int]:
        return row.created_ms, self._places[row.id]

    def _with_rows(
        self,
        session: Session,
        newest: Record,
        written: Mapping[str, int],
        turns: Sequence[Turn],
        calls: Sequence[ToolCall],
    ) -> Session:
        parts = (*(written.get(turn.id, 0) for turn in turns), written.get(str(newest["message_id"]), 0))
        made_of = (session, (*newest.values(),), parts, turns, calls)
        return self.readings.get(session.id, made_of, _with_rows, session, newest, parts, turns, calls)


def _with_rows(
    session: Session, newest: Record, parts: Sequence[int], turns: Sequence[Turn], calls: Sequence[ToolCall]
) -> Session:
    """A session with its rows, and its last sign of life; `parts` are the times of its messages' last parts."""
    seen = [newest["prompted"], newest["turned"], newest["completed"], *(turn.created_ms for turn in turns)]
    return replace(
        session,
        calls=(*calls,),
        turns=tuple(
            turn if newest["turn_id"] in (None, turn.id) else replace(turn, superseded=True) for turn in turns
        ),
        # A session without a message shows life by its birth.
        last_life_ms=max([session.created_ms, *parts, *(moment(value) or 0 for value in seen)]),
        newest_prompt_id=str(newest["prompt_id"]) if newest["prompt_id"] is not None else None,
        queued_prompts=moment(newest["queued"]) or 0,
    )
