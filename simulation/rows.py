"""opencode's database in memory, indexed, so that a look costs what is open and not what is stored.

`RowStore` is held to the contract of the real stores (`tests/unit/test_store_contract.py`).
"""

import json
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from tests.fakes.store import Columns, FakeStore, MemoryRows, Reading
from tests.support.database import NOW
from watchdog.model.outcome import Row
from watchdog.model.session import CallId, Session, SessionId, TurnId

Tables = dict[str, dict[str, Columns]]
Ids = set[str]
_CLOSED = ("completed", "error")


class IndexedRows(MemoryRows):
    """Rows in dicts, which know what is open in them and what belongs to what.

    Attributes:
        damaged: what the rows that can't be read would hold, by table and id. When opencode writes such a row again,
            it reads again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.damaged: dict[tuple[str, str], str] = {}
        self.open: dict[str, Ids] = {"session": Ids(), "message": Ids(), "part": Ids()}
        self.messages: dict[str, dict[str, None]] = defaultdict(dict)
        self.parts: dict[str, dict[str, None]] = defaultdict(dict)
        self.children: dict[str, dict[str, None]] = defaultdict(dict)
        self.new_parts: list[str] = []
        """Every part that was ever put, in this order."""
        self.places: dict[str, dict[str, int]] = {"session": {}, "message": {}, "part": {}}
        """The place of each row among those of its table: its rowid."""

    def put(self, table: str, **columns: Any) -> None:  # noqa: ANN401 - as in OpencodeRows
        id_ = columns["id"]
        if table == "session" and columns["parent_id"] is not None:
            self.children[columns["parent_id"]][id_] = None
        elif table == "message":
            self.messages[columns["session_id"]][id_] = None
        elif table == "part":
            self.parts[columns["message_id"]][id_] = None
            self.new_parts.append(id_)
        self.places[table][id_] = len(self.places[table])
        super().put(table, **columns)
        self._index(table, id_)

    def set(self, table: str, id_: str, **columns: Any) -> None:  # noqa: ANN401
        row = self.tables[table].get(id_)
        if row is not None and table == "session" and "parent_id" in columns:
            self.children[row["parent_id"]].pop(id_, None)
            self.children[columns["parent_id"]][id_] = None
        super().set(table, id_, **columns)
        self._index(table, id_)

    def copy(self) -> "IndexedRows":
        """What is in it now, as a file of its own."""
        made = IndexedRows()
        made._numbers = self._numbers
        for table, rows in self.tables.items():
            for row in rows.values():
                made.put(table, **row)
        made.damaged = dict(self.damaged)
        return made

    def damage(self, table: str, id_: str, text: str) -> None:
        """Have a row hold something that can't be read."""
        self.damaged[table, id_] = self.get(table, id_)
        self.set(table, id_, data=text)

    def heal(self, table: str, id_: str) -> None:
        """Have a row hold again what it held."""
        if (data := self.damaged.pop((table, id_), None)) is not None:
            self.set(table, id_, data=data)

    def value(self, table: str, id_: str) -> dict[str, Any]:
        """What a row holds, for the process that is about to write it again."""
        self.heal(table, id_)
        value: dict[str, Any] = json.loads(self.get(table, id_))
        return value

    def finish_call(self, call: str, *, at: int = NOW) -> None:
        self.heal("part", call)
        super().finish_call(call, at=at)

    def finish_turn(self, turn: str, *, at: int = NOW) -> None:
        self.heal("message", turn)
        super().finish_turn(turn, at=at)

    def delete(self, table: str, id_: str) -> None:
        row = self.tables[table].get(id_)
        self.damaged.pop((table, id_), None)
        if row is not None:
            self.open[table].discard(id_)
            for index, key in self._indexes(table, row):
                index[key].pop(id_, None)
        super().delete(table, id_)

    def delete_session(self, session_id: str) -> None:
        """Delete a session with all its messages and parts, as opencode does."""
        for message in [*self.messages.pop(session_id, ())]:
            for part in [*self.parts.pop(message, ())]:
                self.delete("part", part)
            self.delete("message", message)
        self.delete("session", session_id)

    def close_call(self, call: str, error: str, *, at: int) -> None:
        """End a call as opencode does at an abort."""
        if self.get("part", call) is not None:
            part = self.value("part", call)
            state = part["state"]
            time = {"start": state.get("time", {}).get("start", at), "end": at}
            part["state"] = {"status": "error", "input": state["input"], "error": error, "time": time}
            self.set("part", call, data=json.dumps(part), time_updated=at)

    def close_turn(self, turn: str, error: str, *, at: int) -> None:
        """End a turn as opencode does at an abort."""
        if self.get("message", turn) is not None:
            message = self.value("message", turn)
            message["time"]["completed"] = at
            message["error"] = {"name": error, "data": {"message": "aborted"}}
            self.set("message", turn, data=json.dumps(message), time_updated=at)

    def _indexes(self, table: str, row: Columns) -> list[tuple[dict[str, dict[str, None]], str]]:
        if table == "session":
            return [(self.children, row["parent_id"])] if row["parent_id"] is not None else []
        return [(self.messages, row["session_id"])] if table == "message" else [(self.parts, row["message_id"])]

    def _index(self, table: str, id_: str) -> None:
        row = self.tables[table].get(id_)
        if row is not None and table != "session":
            (self.open[table].discard if _is_closed(table, row["data"]) else self.open[table].add)(id_)

    def around(self, session_ids: Collection[str]) -> Tables:
        """The rows of some sessions, of all in which anything is open, and of all that belong to these."""
        wanted = {*session_ids}
        wanted.update(self.tables["message"][id_]["session_id"] for id_ in self.open["message"])
        wanted.update(self.tables["part"][id_]["session_id"] for id_ in self.open["part"])
        wanted.update(self._named())
        todo, found = [*wanted], dict[str, None]()
        while todo:
            id_ = todo.pop()
            row = self.tables["session"].get(id_)
            if id_ in found or row is None:
                continue
            found[id_] = None
            todo.extend([row["parent_id"]] if row["parent_id"] is not None else [])
            todo.extend(self.children.get(id_, ()) if id_ in wanted else ())
        return self._tables({*found, *wanted}, messages=self.open["message"], parts=self.open["part"])

    def _named(self) -> Ids:
        """The children that open calls name, and those of which they are the parents."""
        named = Ids()
        for id_ in self.open["part"]:
            row = self.tables["part"][id_]
            named.update(self.children.get(row["session_id"], ()))
            try:
                child = json.loads(row["data"])["state"]["metadata"]["sessionId"]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
            named.update([child] if isinstance(child, str) else [])
        return named

    def alone(self, session_id: str) -> Tables:
        """The rows of one session."""
        open_ones = [id_ for id_ in self.open["part"] if self.tables["part"][id_]["session_id"] == session_id]
        return self._tables({session_id}, messages=(), parts=open_ones)

    def _tables(self, sessions: Ids, *, messages: Collection[str], parts: Collection[str]) -> Tables:
        """The rows of these sessions and some more, in the order in which they were put."""
        messages = {id_ for session in sessions for id_ in self.messages.get(session, ())}.union(messages)
        parts = {id_ for message in messages for id_ in self.parts.get(message, ())}.union(parts)
        wanted = {"session": sessions, "message": messages, "part": parts}
        return {
            table: {id_: rows[id_] for id_ in sorted(wanted[table] & rows.keys(), key=self.places[table].__getitem__)}
            for table, rows in self.tables.items()
        }


class RowStore(FakeStore):
    """A `Store` on indexed rows."""

    content: IndexedRows

    def __init__(self, content: IndexedRows | None = None) -> None:
        super().__init__()
        self.content = content or IndexedRows()
        self._seen_parts: int | None = None

    def forget(self) -> None:
        super().forget()
        self._seen_parts = None

    def open_another(self, content: IndexedRows) -> None:
        """Another file is in the place of the one that was read so far: everything starts over."""
        self.content = content
        self.forget()
        self._remembered.clear()

    async def session(self, session_id: SessionId) -> Session | None:
        self._fail()
        return Reading(self.content.alone(session_id), self._remembered).session(session_id)

    async def below(self, session_ids: Collection[SessionId]) -> frozenset[SessionId]:
        self._fail()
        found: set[SessionId] = set()
        todo: list[str] = [*session_ids]
        while todo:
            new = [SessionId(id_) for id_ in self.content.children.get(todo.pop(), ()) if id_ not in found]
            found.update(new)
            todo.extend(new)
        return frozenset(found)

    async def queued(self, session_id: SessionId) -> tuple[str, ...]:
        return await self._alone(session_id).queued(session_id)

    async def newest_turn(self, session_id: SessionId) -> TurnId | None:
        return await self._alone(session_id).newest_turn(session_id)

    async def turn_rows(self, turn_id: TurnId) -> tuple[Row, ...]:
        self._fail()
        parts = [CallId(id_) for id_ in self.content.parts.get(turn_id, ())]
        return (*(await super().rows(turn_ids=[turn_id])), *(await super().rows(call_ids=parts)))

    def _alone(self, session_id: SessionId) -> FakeStore:
        """A store of this session's messages alone."""
        self._fail()
        alone = FakeStore()
        messages = self.content.tables["message"]
        alone.content.tables["message"] = {id_: messages[id_] for id_ in self.content.messages.get(session_id, ())}
        return alone

    def _reading(self, also: Collection[SessionId] = ()) -> Reading:
        self._remembered &= self.content.open["part"]  # what is closed is not to be read again
        return Reading(self.content.around(also), self._remembered)

    def _all_parts(self) -> Collection[str]:
        return self.content.open["part"]

    def _note_new_parts(self) -> None:
        if self._seen_parts is not None:
            self._remembered.update(self.content.new_parts[self._seen_parts :])
        self._seen_parts = len(self.content.new_parts)


def _is_closed(table: str, data: object) -> bool:
    """Whether nothing can be open in a row; of one that can't be read that is not known."""
    try:
        value: Any = json.loads(data) if isinstance(data, str) else None
        if table == "message":
            completed = value["time"].get("completed") if value["role"] == "assistant" else 0
            return value["role"] == "user" or (isinstance(completed, int | float) and not isinstance(completed, bool))
        return bool(value["type"] != "tool" or value["state"]["status"] in _CLOSED)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
