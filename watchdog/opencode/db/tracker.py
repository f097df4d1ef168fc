"""The rows that a look reads: the new ones by their rowids, the open ones by their keys.

`PRAGMA data_version` says whether anybody committed anything; if not, nothing is read. If so, a look reads the rows
inserted since (opencode only ever inserts at the end of a table) and the rows that were open when they were last
read. So its cost follows what changed and what is open, not what is stored.

It remembers a place in each table: the last row's rowid and id. A database that was vacuumed or restored has another
row there, or none; a replaced one is another file. Then everything starts over.

Open turns are found by reading the whole of `message` once, in steps, each a transaction of its own; again with each
full look. Open calls in closed turns are found by the search: small steps over the whole of `part`, whenever there
is time.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from watchdog.errors import DatabaseUnavailable
from watchdog.model.outcome import GuardedWrite
from watchdog.model.session import Session, SessionId, Snapshot
from watchdog.opencode.db import queries
from watchdog.opencode.db.reader import Reader
from watchdog.opencode.db.rows import Readings, Record
from watchdog.opencode.db.snapshot import LAST_ROWID, Fetch, Known, Look

_BEFORE_ALL: Final = -1 << 63
_MOST_STARTS: Final = 5
_ANY_SESSION: Final = ""
"""For a part that was not read yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """How far a table was read: the rowid of the last row that was seen, and its id; None before the first row."""

    rowid: int = _BEFORE_ALL
    id: object = None


class Tracker:
    """Follows one database from look to look.

    Args:
        reader: reads it.
        step_rows: how many rowids one step goes through.
        search_rows: how many rowids one step of the search goes through.
    """

    def __init__(self, reader: Reader, *, step_rows: int, search_rows: int) -> None:
        self._reader = reader
        self._step_rows = step_rows
        self._search_rows = search_rows
        self._version: tuple[int, int] | None = None
        self._readings = Readings()
        self._file = reader.file
        self._forgotten = False
        self._turns: set[str] = set()
        self._calls: dict[str, str] = {}
        self._whole: set[str] = set()
        self._followed_calls: dict[str, str] = {}
        self._followed_turns: set[str] = set()
        """The rows to follow since a transaction last began; a look under way does not know of them yet."""
        self._places: dict[str, Place] = {}
        self._searched = Place()
        self._search_is_over = False
        self._reset()

    def _reset(self) -> None:
        """Read every turn, and search all parts, again. Open rows are still read by their keys in the meantime."""
        self._version = None
        self._whole.clear()
        self._places = {"message": Place()}
        self._searched, self._search_is_over = Place(), False

    @property
    def searched(self) -> bool:
        """Whether all closed turns were searched for open calls."""
        return self._search_is_over and not self._forgotten

    def forget(self) -> None:
        """See `Store.forget`. A look that is under way is finished first."""
        self._forgotten = True

    def follow(self, ids: Iterable[str]) -> None:
        """See `Store.follow`."""
        self._followed_calls = dict.fromkeys(ids, _ANY_SESSION) | self._followed_calls

    def follow_written(self, writes: Collection[GuardedWrite]) -> None:
        """Read these rows in the next look, in whatever state they are."""
        for write in writes:
            if write.row.table == "part":
                self._followed_calls[write.row.id] = write.row.session_id
            else:
                self._followed_turns.add(write.row.id)

    async def changed(self) -> bool:
        """See `Store.changed`."""
        version = await self._reader.version()
        unknown = version is None or self._forgotten or self._is_told or self._reader.shares_connection
        return unknown or version != self._version

    async def look(self, *, also: Collection[SessionId], full: bool) -> Snapshot:
        """Read what is unfinished; every turn again if `full`."""
        for _ in range(_MOST_STARTS):
            found = await self._catch_up(also, full=full)
            if found is not None:
                return found
        raise DatabaseUnavailable("The database is being rewritten as a whole, again and again.")

    async def sessions(self, ids: Collection[SessionId]) -> Mapping[SessionId, Session]:
        """Read some sessions and what is open in them."""
        async with self._reader.transaction() as fetch:
            self._begin()
            return await Look(fetch=fetch, ask=self._reader.ask).sessions(ids, await self._suspects(ids))

    async def family(self, ids: Collection[SessionId]) -> Snapshot:
        """See `Store.family`."""
        async with self._reader.transaction() as fetch:
            self._begin()
            return await Look(fetch=fetch, ask=self._reader.ask).family(ids, self._suspects)

    async def _suspects(self, session_ids: Collection[SessionId]) -> Collection[str]:
        wanted = frozenset[str](session_ids) | {_ANY_SESSION}
        return [id_ for id_, session in self._calls.items() if session in wanted]

    async def search(self) -> bool:
        """Do one step of the search. Returns whether there is more to do."""
        return await self._search(self._search_rows)

    async def search_all(self) -> None:
        """Do the whole search again."""
        self._searched, self._search_is_over = Place(), False
        while await self._search(self._step_rows):
            pass

    async def _search(self, rows: int) -> bool:
        async with self._reader.transaction() as fetch:
            self._begin()
            if self._search_is_over:
                return False
            seen = await fetch(queries.LAST_UPTO["part"], {"upto": self._searched.rowid})
            if self._searched.id is not None and (not seen or seen[0]["id"] != self._searched.id):
                self._searched = Place()  # rows have moved: those that were read may be behind the place now
            place, found = await _step(fetch, "part", self._searched, rows)
            if not found.keys() <= self._calls.keys():
                self._calls |= found
                self._version = None
            # The looks read the rows after the last look's place: a search that followed it would never arrive.
            self._search_is_over = place is None or place.rowid >= self._rowids()["part"] > _BEFORE_ALL
            self._searched = place or self._searched
            return not self._search_is_over

    # -- catching up -----------------------------------------------------------------------------------------

    async def _catch_up(self, also: Collection[SessionId], *, full: bool) -> Snapshot | None:
        """Go forward in steps until little is left, and look. None if it had to start over."""
        while True:
            async with self._reader.transaction() as fetch:
                self._begin()
                if full:
                    self._places["message"], full = Place(), False
                (tails,) = await fetch(queries.TAILS, self._rowids())
                if not self._stands(tails):
                    self._reset()
                    return None
                # The turns name the rows of `part` from before the first look, and the search finds the others.
                self._places.setdefault("part", _last(tails, "part"))
                table = next((each for each in ("message", "part") if self._is_behind(tails, each)), None)
                if table is None:
                    return await self._look(fetch, tails, also)
                await self._go_on(fetch, table)

    async def _go_on(self, fetch: Fetch, table: str) -> None:
        place, found = await _step(fetch, table, self._places[table], self._step_rows)
        if table == "part":
            self._calls |= found
        else:
            self._turns |= found.keys()
            self._whole |= found.keys()
        self._places[table] = place or self._places[table]

    async def _look(self, fetch: Fetch, tails: Record, also: Collection[SessionId]) -> Snapshot:
        look = Look(fetch=fetch, ask=self._reader.ask, readings=self._readings)
        known = Known(
            turns=self._turns,
            turns_after=self._places["message"].rowid,
            whole=self._whole,
            calls=self._calls,
            calls_after=self._places["part"].rowid,
        )
        snapshot = await look.everything(known, also)
        self._turns, self._calls, self._whole = look.open_messages, look.open_parts, look.unread_messages
        self._places = {table: _last(tails, table) for table in ("message", "part")}
        self._version = self._reader.connection, int(str(tails["version"]))
        return snapshot

    @property
    def _is_told(self) -> bool:
        return bool(self._followed_calls or self._followed_turns)

    def _begin(self) -> None:
        """Take up the rows to follow that were named since the last transaction began."""
        if self._is_told:
            self._version = None
        self._calls = self._followed_calls | self._calls
        self._turns |= self._followed_turns
        self._followed_calls, self._followed_turns = {}, set()
        self._start_over_if_due()

    def _start_over_if_due(self) -> None:
        if self._forgotten or self._reader.file != self._file:
            self._file, self._forgotten = self._reader.file, False
            self._reset()

    def _rowids(self) -> Mapping[str, int]:
        return {table: self._places.get(table, Place()).rowid for table in ("message", "part")}

    def _stands(self, tails: Record) -> bool:
        """Whether the last rows that were read are still where they were."""
        return all(place.id == tails[f"{table}_id"] for table, place in self._places.items())

    def _is_behind(self, tails: Record, table: str) -> bool:
        """Whether there are more new rows than one look should read."""
        first, last = tails[f"{table}_next"], tails[f"{table}_last"]
        return isinstance(first, int) and isinstance(last, int) and last - first >= self._step_rows


def _last(tails: Record, table: str) -> Place:
    rowid = tails[f"{table}_last"]
    return Place(rowid=rowid, id=tails[f"{table}_last_id"]) if isinstance(rowid, int) else Place()


async def _step(fetch: Fetch, table: str, after: Place, rows: int) -> tuple[Place | None, dict[str, str]]:
    """Find the open rows among the next few rowids after a place.

    If rowids have gaps, the step begins at the next existing row.

    Returns:
        The place that was reached, None at the end of the table; and the found ids, each with its session.
    """
    (next_,) = await fetch(queries.NEXT[table], {"after": after.rowid})
    if not isinstance(next_["place"], int):
        return None, {}
    upto = min(next_["place"] + rows - 1, LAST_ROWID)
    (last,) = await fetch(queries.LAST_UPTO[table], {"upto": upto})
    found = await fetch(queries.OPEN_IN_STEP[table], {"after": after.rowid, "upto": upto})
    place = Place(rowid=int(str(last["place"])), id=last["id"])
    return place, {str(record["id"]): str(record["session_id"]) for record in found}
