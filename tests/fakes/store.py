"""opencode's database in memory, held to the same contract as the real one (`tests/unit/test_store_contract.py`).

It reads rows with plain loops over all of them, so that it can also check the SQL of the real one.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tests.support.database import OpencodeRows
from watchdog.errors import DatabaseError
from watchdog.model.outcome import GuardedWrite, Row
from watchdog.model.session import CallId, CallStatus, Damage, Session, SessionId, Snapshot, ToolCall, Turn, TurnId

Columns = dict[str, Any]


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True, kw_only=True)
class _Bad(Exception):
    problem: str


class MemoryRows(OpencodeRows):
    """Rows in dicts, filled like an `OpencodeFile`."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, dict[str, Columns]] = {"session": {}, "message": {}, "part": {}}
        self.commits = 0

    def put(self, table: str, **columns: Any) -> None:  # noqa: ANN401 - as in OpencodeRows
        self.tables[table][columns["id"]] = columns
        self.commits += 1

    def set(self, table: str, id_: str, **columns: Any) -> None:  # noqa: ANN401
        if id_ in self.tables[table]:
            self.tables[table][id_].update(columns)
        self.commits += 1

    def delete(self, table: str, id_: str) -> None:
        self.tables[table].pop(id_, None)
        self.commits += 1

    def get(self, table: str, id_: str, column: str = "data") -> Any:  # noqa: ANN401
        row = self.tables[table].get(id_)
        return None if row is None else row[column]


class FakeStore:
    """A `Store` in memory.

    Attributes:
        content: what is in it; tests fill it.
        failure: raised by every method of `Store` while it is set.
        written: every write that was asked for, with what it returned.
        before_write: called before each write: what somebody else does between look and write.
    """

    def __init__(self) -> None:
        self.content = MemoryRows()
        self.failure: DatabaseError | None = None
        self.written: list[tuple[tuple[GuardedWrite, ...], int]] = []
        self.before_write: Callable[[], None] | None = None
        self._seen: int | None = None
        self._remembered: set[str] = set()
        self._parts: frozenset[str] | None = None
        self._searched = False

    async def changed(self) -> bool:
        self._fail()
        return self.content.commits != self._seen

    async def look(
        self,
        *,
        also: Collection[SessionId] = (),
        full: bool = False,  # noqa: ARG002 - every row is read each time
        scan_parts: bool = False,
    ) -> Snapshot:
        self._fail()
        self._seen = self.content.commits
        if scan_parts:
            await self.search()
        self._note_new_parts()
        return self._reading(also).snapshot(also)

    @property
    def searched(self) -> bool:
        return self._searched

    async def search(self) -> bool:
        self._fail()
        known = len(self._reading().calls)
        self._remembered.update(self._all_parts())
        if len(self._reading().calls) > known:
            self._seen = None
        self._searched = True
        return False

    def follow(self, ids: Collection[str]) -> None:
        self._remembered |= set(ids)

    def forget(self) -> None:
        self._remembered = {call.id for call in self._reading().calls}
        self._seen, self._parts, self._searched = None, None, False

    async def session(self, session_id: SessionId) -> Session | None:
        self._fail()
        return self._reading([session_id]).session(session_id)

    async def family(self, session_ids: Collection[SessionId]) -> Snapshot:
        self._fail()
        tree, reading = {*session_ids}, self._reading(session_ids)
        while True:
            kin = await self.below(tree)
            parents = [self.content.get("session", id_, "parent_id") for id_ in tree]
            kin |= {parent for parent in parents if parent in self.content.tables["session"]}
            kin |= {call.child_id for call in reading.calls if call.child_id and call.session_id in tree}
            if kin <= tree:
                break
            tree |= kin
            reading = self._reading(tree)
        found = {id_: session for id_ in tree if (session := reading.session(id_)) is not None}
        damaged = tuple(each for each in reading.damaged.values() if each.session_id in tree)
        return Snapshot(sessions=found, damaged=damaged)

    async def directories(self, *, since_ms: int) -> tuple[str, ...]:
        self._fail()
        live = [row for row in self.content.tables["session"].values() if row["time_updated"] >= since_ms]
        live.sort(key=lambda row: -row["time_updated"])
        return tuple(dict.fromkeys(row["directory"] for row in live))

    async def rows(self, *, call_ids: Collection[CallId] = (), turn_ids: Collection[TurnId] = ()) -> tuple[Row, ...]:
        self._fail()
        wanted = [("part", id_) for id_ in call_ids] + [("message", id_) for id_ in turn_ids]
        found = [
            (table, self.content.tables[table][id_]) for table, id_ in wanted if id_ in self.content.tables[table]
        ]
        return tuple(
            Row(
                table=table,
                id=row["id"],
                message_id=row["message_id"] if table == "part" else row["id"],
                session_id=row["session_id"],
                created_ms=row["time_created"],
                updated_ms=row["time_updated"],
                data=row["data"],
            )
            for table, row in found
        )

    async def below(self, session_ids: Collection[SessionId]) -> frozenset[SessionId]:
        self._fail()
        found: set[SessionId] = set()
        todo = list(session_ids)
        while todo:
            parent = todo.pop()
            rows = self.content.tables["session"].values()
            new = [row["id"] for row in rows if row["parent_id"] == parent and row["id"] not in found]
            found.update(new)
            todo.extend(new)
        return frozenset(found)

    async def queued(self, session_id: SessionId) -> tuple[str, ...]:
        self._fail()
        rows = [row for row in self.content.tables["message"].values() if row["session_id"] == session_id]
        rows = sorted((row for row in rows if _is_time(row["time_created"])), key=lambda row: row["time_created"])
        roles = [_role(_parsed(row["data"])) for row in rows]
        after = len(roles) - roles[::-1].index("assistant") if "assistant" in roles else 0
        return tuple(row["id"] for row, role in list(zip(rows, roles, strict=True))[after:] if role == "user")

    async def turn_rows(self, turn_id: TurnId) -> tuple[Row, ...]:
        self._fail()
        parts = [CallId(id_) for id_, row in self.content.tables["part"].items() if row["message_id"] == turn_id]
        messages = await self.rows(turn_ids=[turn_id])
        return (*messages, *(await self.rows(call_ids=parts)))

    async def newest_turn(self, session_id: SessionId) -> TurnId | None:
        self._fail()
        rows = [row for row in self.content.tables["message"].values() if row["session_id"] == session_id]
        turns = [row for row in rows if _is_time(row["time_created"]) and _role(_parsed(row["data"])) == "assistant"]
        return max(enumerate(turns), key=lambda each: (each[1]["time_created"], each[0]))[1]["id"] if turns else None

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        self._fail()
        if self.before_write is not None:
            self.before_write()
        count = len(writes) if all(self.content.get(w.row.table, w.row.id) == w.row.data for w in writes) else 0
        if while_newest is not None and await self.newest_turn(writes[0].row.session_id) != while_newest:
            count = 0
        for write in writes[:count]:
            self.content.set(write.row.table, write.row.id, data=write.after)
        self.written.append((tuple(writes), count))
        return count

    async def message_exists(self, session_id: SessionId, message_id: str) -> bool:
        self._fail()
        found: bool = self.content.get("message", message_id, "session_id") == session_id
        return found

    async def titles(self, session_ids: Collection[SessionId]) -> dict[SessionId, str]:
        self._fail()
        known = {id_: self.content.get("session", id_, "title") for id_ in session_ids}
        return {id_: title[:300] for id_, title in known.items() if isinstance(title, str)}

    def _reading(self, also: Collection[SessionId] = ()) -> "Reading":  # noqa: ARG002 - every row is read each time
        return Reading(self.content.tables, self._remembered)

    def _all_parts(self) -> Collection[str]:
        return self.content.tables["part"].keys()

    def _note_new_parts(self) -> None:
        parts = frozenset(self.content.tables["part"])
        if self._parts is not None:
            self._remembered |= parts - self._parts
        self._parts = parts

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class Reading:
    """One look, row by row. A row's place in its dict is its rowid."""

    def __init__(self, tables: dict[str, dict[str, Columns]], remembered: Collection[str]) -> None:
        self.tables = tables
        self.damaged: dict[tuple[str, str], Damage] = {}
        self.parsed = {id_: _parsed(row["data"]) for id_, row in tables["message"].items()}
        self.turns = self._all_turns()
        self.calls = self._all_calls(remembered)

    def snapshot(self, also: Collection[SessionId]) -> Snapshot:
        wanted = {*also} | {call.session_id for call in self.calls} | {t.session_id for t in self.turns if t.open}
        wanted |= {call.child_id for call in self.calls if call.child_id}
        for call in self.calls:
            wanted |= {SessionId(id_) for id_, row in self.tables["session"].items() if self._started(call, row)}
        todo, sessions = [*wanted], dict[SessionId, Session]()
        while todo:
            id_ = todo.pop()
            session = None if id_ in sessions else self.session(id_)
            if session is not None:
                sessions[id_] = session
                todo += [session.parent_id] if session.parent_id else []
        for table, rows in (("message", [t for t in self.turns if t.open]), ("part", self.calls)):
            for row in rows:
                if row.session_id not in sessions:
                    self._damage(table, self.tables[table][row.id], "its session is missing")
        return Snapshot(sessions=sessions, damaged=tuple(self.damaged.values()))

    def session(self, id_: SessionId) -> Session | None:
        row = self.tables["session"].get(id_)
        if row is None:
            return None
        calls = tuple(call for call in self.calls if call.session_id == id_)
        holding = {call.turn_id for call in calls}
        messages = self._messages(id_)
        prompts = [m for m in messages if _role(self.parsed[m["id"]]) == "user"]
        answers = [m for m in messages if _role(self.parsed[m["id"]]) == "assistant"]
        turns = tuple(
            replace(turn, superseded=bool(answers) and answers[-1]["id"] != turn.id)
            for turn in self.turns
            if turn.session_id == id_ and (turn.open or turn.id in holding)
        )
        return Session(
            id=id_,
            directory=row["directory"],
            created_ms=row["time_created"],
            parent_id=row["parent_id"],
            remote=row.get("workspace"),
            turns=turns,
            calls=calls,
            last_life_ms=max([row["time_created"], *self._life(turns, messages[-1:], prompts[-1:], answers[-1:])]),
            newest_prompt_id=prompts[-1]["id"] if prompts else None,
            queued_prompts=len(
                [m for m in prompts if not answers or messages.index(m) > messages.index(answers[-1])]
            ),
        )

    def _messages(self, session_id: str) -> list[Columns]:
        found = [row for row in self.tables["message"].values() if row["session_id"] == session_id]
        return sorted((row for row in found if not isinstance(row["time_created"], str)), key=_created)

    def _life(
        self, turns: Sequence[Turn], newest: Sequence[Columns], prompt: Sequence[Columns], answer: Sequence[Columns]
    ) -> list[int]:
        written_in = {turn.id for turn in turns} | {row["id"] for row in newest}
        times = [row["time_created"] for row in (*prompt, *answer)] + [turn.created_ms for turn in turns]
        times += [_at(self.parsed[row["id"]], "time", "completed") for row in answer]
        times += [row["time_updated"] for row in self.tables["part"].values() if row["message_id"] in written_in]
        return [int(time) for time in times if _is_time(time)]

    def _started(self, call: ToolCall, session: Columns) -> bool:
        mine: bool = session["parent_id"] == call.session_id and session["time_created"] >= call.created_ms
        return call.tool == "task" and mine

    def _all_turns(self) -> list[Turn]:
        turns = []
        for row in sorted(self.tables["message"].values(), key=_created):
            try:
                turn = _turn(row, self.parsed[row["id"]])
            except _Bad as bad:
                self._damage("message", row, bad.problem)
            else:
                turns += [turn] if turn else []
        return turns

    def _all_calls(self, remembered: Collection[str]) -> list[ToolCall]:
        turns = {turn.id: turn for turn in self.turns}
        calls = []
        for row in sorted(self.tables["part"].values(), key=_created):
            turn = turns.get(row["message_id"])
            if row["id"] not in remembered and (turn is None or not turn.open):
                continue
            try:
                call = _call(row, turn)
            except _Bad as bad:
                self._damage("part", row, bad.problem)
            else:
                calls += [call] if call else []
        return calls

    def _damage(self, table: str, row: Columns, problem: str) -> None:
        damage = Damage(table=table, id=row["id"], session_id=row["session_id"], problem=problem)
        self.damaged.setdefault((table, row["id"]), damage)


def _created(row: Columns) -> tuple[bool, Any]:
    return isinstance(row["time_created"], str), row["time_created"]


@lru_cache(maxsize=4096)
def _parsed(data: str | bytes) -> object:
    """A row's JSON, which nobody here changes."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _at(value: object, *path: str) -> Any:  # noqa: ANN401 - JSON
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _role(message: object) -> object:
    return _at(message, "role")


def _check_times(row: Columns, *more: object) -> None:
    if not all(_is_time(time) for time in (row["time_created"], row["time_updated"])):
        raise _Bad(problem="the row has no times")
    if not all(time is None or _is_time(time) for time in more):
        raise _Bad(problem="a time is no time")


def _turn(row: Columns, message: object) -> Turn | None:
    completed = _at(message, "time", "completed")
    if not isinstance(_role(message), str):
        if isinstance(completed, int | float) and not isinstance(completed, bool):
            return None
        raise _Bad(problem="it is no message")
    if _role(message) != "assistant":
        return None
    if not _is_time(completed):
        _check_times(row, _at(message, "time", "created"), completed)
    return Turn(
        id=row["id"],
        session_id=row["session_id"],
        created_ms=row["time_created"],
        updated_ms=row["time_updated"],
        size=len(row["data"]),
        open=completed is None,
        cwd=_at(message, "path", "cwd"),
    )


def _call(row: Columns, turn: Turn | None) -> ToolCall | None:
    part = _parsed(row["data"])
    status = _at(part, "state", "status")
    if isinstance(part, dict) and (part.get("type") != "tool" or status in ("completed", "error")):
        return None
    if status not in tuple(CallStatus) or not _at(part, "tool"):
        raise _Bad(problem="it is no call")
    if turn is None or turn.session_id != row["session_id"]:
        raise _Bad(problem="it belongs to no such turn")
    _check_times(row, _at(part, "state", "time", "start"))
    return ToolCall(
        id=row["id"],
        turn_id=row["message_id"],
        session_id=row["session_id"],
        tool=_at(part, "tool"),
        status=CallStatus(status),
        created_ms=row["time_created"],
        updated_ms=row["time_updated"],
        size=len(row["data"]),
        call_ref=_at(part, "callID"),
        declared_timeout_ms=_at(part, "state", "input", "timeout"),
        child_id=_at(part, "state", "metadata", "sessionId"),
    )
