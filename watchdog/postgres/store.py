"""The sessions of a Python server in PostgreSQL: reads in one snapshot each, and writes behind the lease.

There is nothing to follow from look to look, as there is in a SQLite file: two partial indexes hold what is open, so
each look reads all of it, and its cost follows what is open and not what is stored.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Self, TypeVar

from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.errors import DatabaseUnavailable, DatabaseUnsupported, GaveWay, WriteRefused
from watchdog.model.outcome import GuardedWrite, Row
from watchdog.model.session import CallId, Session, SessionId, Snapshot, TurnId
from watchdog.opencode.db.rows import Readings, Record, newest_turn, whole_row
from watchdog.opencode.db.snapshot import Fetch, Known, Look, as_ids
from watchdog.ports import Clock
from watchdog.postgres import queries
from watchdog.postgres.connection import Fence, place_of, transaction, translated
from watchdog.postgres.queries import Data
from watchdog.postgres.triggers import Standing
from watchdog.postgres.writing import GivesWay, Way, Writing
from watchdog.sharing import Batches
from watchdog.strides import in_strides

_ALL_THAT_IS_OPEN: Final = Known(turns=(), turns_after=0, whole=(), calls=(), calls_after=0)
_WHY: Final[Mapping[Way, str]] = {
    "locked": "Somebody else has locked rows in {} that were to be written",
    "slow": "The database {} took longer over a write than others may be kept waiting",
}
_MOMENTS: Final = ("bigint", "integer")
_LOCKED: Final = "55P03"
"""SQLSTATE: somebody else has the lock."""

Id = TypeVar("Id", bound=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long to wait for the database.

    Attributes:
        read_seconds: for a whole look, including the wait for a connection of the pool.
        write_seconds: for one try at a guarded write.
        pauses: after each try, of a write or a look, that gave way to others, in seconds; there is one try more.
    """

    read_seconds: float = 10.0
    write_seconds: float = 10.0
    pauses: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """The facts about a database for a person who checks the set-up."""

    place: str
    size_bytes: int
    server: str
    data: Data


class PostgresStore:
    """The sessions' tables in PostgreSQL. Made by `open`.

    Attributes:
        place: the address, for people.
        reads: how often it was asked whether anything changed (`version`), and read in a transaction (`transaction`).
    """

    def __init__(self, engine: AsyncEngine, *, clock: Clock, fence: Fence | None, limits: Limits, kind: Data) -> None:
        self.place = place_of(engine.url)
        self.reads = {"version": 0, "transaction": 0}
        self._engine = engine
        self._clock = clock
        self._fence = fence
        self._limits = limits
        self._kind = kind
        self._dialect = queries.dialect(kind)
        self._statements: dict[str, TextClause] = {}
        self._readings = Readings()
        self._seen: str | None = None
        self._failed = False
        self._sessions = Batches(self._read_sessions)

    @classmethod
    async def open(
        cls, engine: AsyncEngine, *, clock: Clock, fence: Fence | None = None, limits: Limits | None = None
    ) -> Self:
        """Check that the tables can be watched.

        Args:
            engine: its maker disposes of it.
            clock: times the pauses of a write, and how long it makes others wait.
            fence: the lease behind each write; None if nothing is written, or nobody else acts.
            limits: how long to wait.

        Raises:
            DatabaseUnsupported: a table or a column is missing, or is of another type.
            DatabaseUnavailable: it can't be read just now.
        """
        store = cls(engine, clock=clock, fence=fence, limits=limits or Limits(), kind="jsonb")
        await store._check_tables()
        return store

    async def changed(self) -> bool:
        """See `Store.changed`. The snapshot of the whole server tells: other databases on it count, too."""
        self.reads["version"] += 1
        with translated(self.place, DatabaseUnavailable):
            async with transaction(
                self._engine, seconds=self._limits.read_seconds, isolation_level="AUTOCOMMIT"
            ) as connection:
                (found,) = await self._fetch(connection, queries.VERSION, {})
        return self._seen is None or found["version"] != self._seen

    async def look(
        self,
        *,
        also: Collection[SessionId] = (),
        full: bool = False,
        scan_parts: bool = False,  # noqa: ARG002 - each look finds every open call
    ) -> Snapshot:
        """See `Store.look`. A full one, or one after a failure, checks the tables, too: they may be altered."""
        if full or self._failed:
            await self._check_tables()
        try:
            async with self._seeing(lock=self._dialect.lock) as (fetch, version):
                look = Look(fetch=fetch, ask=self._dialect.look, readings=self._readings)
                snapshot = await look.everything(_ALL_THAT_IS_OPEN, _possible(also))
        except DatabaseUnavailable:
            self._failed = True
            raise
        self._seen, self._failed = version, False
        return snapshot

    @property
    def searched(self) -> bool:
        """See `Store.searched`. The index holds open calls in closed turns, too."""
        return True

    async def search(self) -> bool:
        """See `Store.search`. There is nothing to search for."""
        return False

    def follow(self, ids: Collection[str]) -> None:
        """See `Store.follow`. Every look reads everything that is open."""

    def forget(self) -> None:
        """See `Store.forget`."""
        self._seen = None

    async def session(self, session_id: SessionId) -> Session | None:
        """See `Store.session`."""
        return (await self._sessions.join(session_id)).get(session_id)

    async def family(self, session_ids: Collection[SessionId]) -> Snapshot:
        """See `Store.family`."""
        async with self._reading() as fetch:
            look = Look(fetch=fetch, ask=self._dialect.look)
            return await look.family(_possible(session_ids), partial(self._open_parts, fetch))

    async def directories(self, *, since_ms: int) -> tuple[str, ...]:
        """See `Store.directories`."""
        async with self._reading() as fetch:
            return tuple(
                str(record["directory"]) for record in await fetch(queries.DIRECTORIES, {"since_ms": since_ms})
            )

    async def rows(self, *, call_ids: Collection[CallId] = (), turn_ids: Collection[TurnId] = ()) -> tuple[Row, ...]:
        """See `Store.rows`. For `jsonb` the text is PostgreSQL's own."""
        async with self._reading() as fetch:
            parts = await fetch(queries.WHOLE_PARTS, {"ids": as_ids(_possible(call_ids))})
            messages = await fetch(queries.WHOLE_MESSAGES, {"ids": as_ids(_possible(turn_ids))})
        return tuple(whole_row(record) for record in [*parts, *messages])

    async def below(self, session_ids: Collection[SessionId]) -> frozenset[SessionId]:
        """See `Store.below`."""
        async with self._reading() as fetch:
            found = await fetch(queries.BELOW, {"ids": as_ids(_possible(session_ids))})
        return frozenset(SessionId(str(record["id"])) for record in found)

    async def queued(self, session_id: SessionId) -> tuple[str, ...]:
        """See `Store.queued`."""
        async with self._reading() as fetch:
            found = await fetch(self._dialect.queued, {"ids": as_ids(_possible([session_id]))})
        return tuple(str(record["id"]) for record in found)

    async def turn_rows(self, turn_id: TurnId) -> tuple[Row, ...]:
        """See `Store.turn_rows`."""
        async with self._reading() as fetch:
            messages = await fetch(queries.WHOLE_MESSAGES, {"ids": as_ids(_possible([turn_id]))})
            parts = await fetch(queries.PARTS_OF_MESSAGES, {"ids": as_ids(_possible([turn_id]))})
        return tuple(whole_row(record) for record in [*messages, *parts])

    async def newest_turn(self, session_id: SessionId) -> TurnId | None:
        """See `Store.newest_turn`. Of two of the same millisecond, the one whose id sorts last."""
        async with self._reading() as fetch:
            return newest_turn(await fetch(self._dialect.look.newest, {"ids": as_ids(_possible([session_id]))}))

    async def message_exists(self, session_id: SessionId, message_id: str) -> bool:
        """See `Store.message_exists`."""
        if not _possible([message_id]) or not _possible([session_id]):
            return False
        async with self._reading() as fetch:
            return bool(await fetch(queries.MESSAGE_EXISTS, {"id": message_id, "session": session_id}))

    async def titles(self, session_ids: Collection[SessionId]) -> dict[SessionId, str]:
        """See `Store.titles`."""
        async with self._reading() as fetch:
            found = await fetch(queries.TITLES, {"ids": as_ids(_possible(session_ids))})
        return {SessionId(str(record["id"])): str(record["title"]) for record in found}

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        """See `Store.write`. The lease is locked and checked in the same transaction.

        Raises:
            GaveWay: others want the rows, and did so for some seconds; nothing was written.
            LeaseLost: another watchdog may have taken over; nothing was written.
            WriteRefused: a trigger or a constraint prevents it.
        """
        if not writes:
            return 0
        with translated(self.place, DatabaseUnavailable):
            try:
                return await self._write_in_turn(writes, while_newest)
            except Standing as standing:
                (table, what) = standing.table, standing.what
        async with self._reading() as fetch:
            found = await fetch(queries.TRIGGERS, {"table": table})
        raise WriteRefused.by(table, what, [str(record["name"]) for record in found])

    async def _write_in_turn(self, writes: Sequence[GuardedWrite], while_newest: TurnId | None) -> int:
        """Try again and again to write at a moment when nobody else does."""
        done = await self._write(writes, while_newest)
        for pause in self._limits.pauses:
            if isinstance(done, int):
                break
            await self._clock.sleep(pause)
            done = await self._write(writes, while_newest)
        if isinstance(done, int):
            return done
        raise GaveWay(f"{_WHY[done].format(self.place)}, so nothing was written. It is tried again at a later look.")

    async def _write(self, writes: Sequence[GuardedWrite], while_newest: TurnId | None) -> int | Way:
        async with transaction(self._engine, seconds=self._limits.write_seconds) as connection:
            if self._fence is not None:
                await self._fence.hold(connection)
            try:
                written = await Writing(connection, self._dialect, self._clock).write(writes, while_newest)
            except GivesWay as gives:
                await connection.rollback()
                return gives.way
            if written != len(writes):
                await connection.rollback()
                return 0
            return written

    async def describe(self) -> Description:
        """The facts about it for a person."""
        async with self._reading() as fetch:
            (found,) = await fetch(queries.SIZES, {})
        return Description(
            place=self.place, size_bytes=int(str(found["bytes"])), server=str(found["server"]), data=self._kind
        )

    # -- reading ---------------------------------------------------------------------------------------------

    async def _read_sessions(self, ids: Collection[SessionId]) -> Mapping[SessionId, Session]:
        wanted = _possible(ids)
        async with self._reading() as fetch:
            look = Look(fetch=fetch, ask=self._dialect.look)
            return await look.sessions(wanted, await self._open_parts(fetch, wanted))

    async def _open_parts(self, fetch: Fetch, session_ids: Collection[SessionId]) -> Collection[str]:
        found = await fetch(self._dialect.open_parts_of_sessions, {"ids": as_ids(session_ids)})
        return [str(record["id"]) for record in found]

    async def _check_tables(self) -> None:
        async with self._seeing(lock=None) as (fetch, _):
            tables = _tables(await fetch(queries.COLUMNS_FOUND, {}))
            self._kind = kind = _checked(tables, self.place)
        self._dialect = queries.dialect(kind, tables)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Fetch]:
        """A transaction that sees the database as it is at one moment."""
        async with self._seeing(lock=self._dialect.lock) as (fetch, _):
            yield fetch

    @asynccontextmanager
    async def _seeing(self, *, lock: str | None) -> AsyncIterator[tuple[Fetch, str]]:
        """The same, with the version of what it sees; again and again, while somebody else has a table locked."""
        self.reads["transaction"] += 1
        pauses = iter(self._limits.pauses)
        with translated(self.place, DatabaseUnavailable):
            while True:
                async with transaction(
                    self._engine,
                    seconds=self._limits.read_seconds,
                    isolation_level="REPEATABLE READ",
                    postgresql_readonly=True,
                ) as connection:
                    if lock is None or await self._locks(connection, lock):
                        (begun,) = await self._fetch(connection, queries.READ, {})
                        yield partial(self._fetch, connection), str(begun["version"])
                        return
                pause = next(pauses, None)
                if pause is None:
                    raise DatabaseUnavailable(
                        f"Somebody else has locked a table of {self.place}, for a migration, say, so nothing was "
                        "read. It is tried again at the next look."
                    )
                await self._clock.sleep(pause)

    async def _locks(self, connection: AsyncConnection, lock: str) -> bool:
        """Whether the tables can be locked at once, as readers lock them."""
        try:
            await connection.execute(self._statement(lock))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCKED:
                raise
            await connection.rollback()
            return False
        return True

    async def _fetch(
        self, connection: AsyncConnection, query: str, parameters: Mapping[str, object]
    ) -> Sequence[Record]:
        found = await connection.execute(self._statement(query), dict(parameters))
        columns = (*found.keys(),)
        return [dict(zip(columns, row, strict=True)) async for row in in_strides(found.fetchall())]

    def _statement(self, query: str) -> TextClause:
        if query not in self._statements:
            self._statements[query] = text(query)
        return self._statements[query]


def _tables(columns: Iterable[Record]) -> dict[str, dict[str, str]]:
    """The type of each column of each table."""
    tables: dict[str, dict[str, str]] = {}
    for record in columns:
        tables.setdefault(str(record["table"]), {})[str(record["column"])] = str(record["type"])
    return tables


def _checked(tables: Mapping[str, Mapping[str, str]], place: str) -> Data:
    """The type of `data`.

    Raises:
        DatabaseUnsupported: a table or a column is missing, or is of a type that can't be watched.
    """
    for table, names in queries.COLUMNS.items():
        missing = set(names) - tables.get(table, {}).keys()
        if missing:
            what = f"columns {', '.join(sorted(missing))} in its table" if table in tables else "table"
            raise DatabaseUnsupported(
                f"The database {place} has no {what} `{table}` that this role can see. Its tables must have "
                "opencode's names, in a schema of the role's search_path."
            )
        for name in names:
            if name.startswith("time_") and tables[table][name] not in _MOMENTS:
                raise DatabaseUnsupported(
                    f"The column {table}.{name} of {place} is of type {tables[table][name]}; it has to be a bigint "
                    "with milliseconds since 1970."
                )
    kinds = {tables[table]["data"] for table in ("message", "part")}
    if len(kinds) != 1 or not kinds <= {"jsonb", "json"}:
        raise DatabaseUnsupported(
            f"The columns message.data and part.data of {place} are of type {' and '.join(sorted(kinds))}; both have "
            "to be jsonb, or both json."
        )
    return "jsonb" if "jsonb" in kinds else "json"


def _possible(ids: Collection[Id]) -> list[Id]:
    """Those of some ids that PostgreSQL could hold: its texts have no NUL, and no half of a surrogate pair."""
    return [id_ for id_ in ids if "\0" not in id_ and id_.encode(errors="replace").decode() == id_]
