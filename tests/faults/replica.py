"""A replica as a process of its own: it holds the lease when it can, and then ends sessions, each of them once.

Started as `python -m tests.faults.replica NAME URL HOST_URL SECONDS SIGNS`. `URL` is the database, perhaps by way of
something that can fail; `HOST_URL` stands for the host that runs the sessions, which is reached whatever becomes of
the database. `SIGNS` is a file of two bytes: see `Signs`.

To end a session it asks the database whether it may, tells the host to abort it (a row in `aborted`, which is there
at once), and notes behind the fence that it is settled (a row in `settled`). It looks whether the one and the other
was done before; nothing but the lease keeps two replicas from doing it at the same time.
"""

import asyncio
import mmap
import os
import sys
from pathlib import Path
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.errors import WatchdogError
from watchdog.postgres.connection import own_engine, transaction
from watchdog.postgres.lease import Lease
from watchdog.timing.clock import SystemClock

PAUSE_SECONDS: Final = 0.01
TABLES: Final = """
    CREATE TABLE work (session bigint PRIMARY KEY);
    CREATE TABLE aborted (
        id bigint GENERATED ALWAYS AS IDENTITY, session bigint, term bigint, name text, pid bigint,
        at timestamptz DEFAULT clock_timestamp()
    );
    CREATE TABLE settled (LIKE aborted INCLUDING ALL);
    CREATE INDEX ON aborted (session);
    CREATE INDEX ON settled (session);
"""
_NEXT: Final = """
    SELECT session, EXISTS (SELECT 1 FROM aborted WHERE aborted.session = work.session) AS aborted
    FROM work WHERE NOT EXISTS (SELECT 1 FROM settled WHERE settled.session = work.session) ORDER BY session LIMIT 1
"""
_IS_SETTLED: Final = text("SELECT 1 FROM settled WHERE session = :session")
_SETTLE: Final = text("INSERT INTO settled (session, term, name, pid) VALUES (:session, :term, :name, :pid)")
_ABORT: Final = "INSERT INTO aborted (session, term, name, pid) VALUES ($1, $2, $3, $4)"
TROUBLE: Final = (
    WatchdogError,
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended the connection while this process was stopped
    OSError,
)


class Signs:
    """Two bytes that a test reads from outside, also of a process that is stopped or was killed.

    Between the last look at the own clock and the act nothing can guard an act that can't be taken back: who is
    stopped right there acts late. So it is told when that is, for a test that stops it somewhere else.
    """

    SIZE: Final = 2

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self.SIZE)

    @property
    def acting(self) -> bool:
        """Whether it is about to act, with nothing left that could stop it."""
        return bool(self._map[0])

    @acting.setter
    def acting(self, value: bool) -> None:
        self._map[0] = int(value)

    @property
    def late(self) -> int:
        """How many acts took so long that the lease may have been over before they were done."""
        return self._map[1]

    def was_late(self) -> None:
        """Count one more."""
        self._map[1] += 1

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()


class Replica:
    """What ends sessions while it has the lease."""

    def __init__(self, lease: Lease, engine: AsyncEngine, host: asyncpg.Connection, name: str, signs: Signs) -> None:
        self._lease = lease
        self._engine = engine
        self._host = host
        self._name = name
        self._signs = signs

    async def work(self, seconds: float) -> None:
        """End one session after the other. Never ends."""
        while True:
            try:
                acted = self._lease.acquire() and await self._end_one(seconds)
            except TROUBLE as error:
                print(f"{self._name}: {error}", file=sys.stderr, flush=True)
                acted = False
            if not acted:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _end_one(self, seconds: float) -> bool:
        async with transaction(self._engine, seconds=seconds) as connection:
            found = (await connection.execute(text(_NEXT))).mappings().one_or_none()
        if found is None:
            return False
        if not found["aborted"]:
            await self._lease.confirm()
            await self._abort(found["session"])
        async with transaction(self._engine, seconds=seconds) as connection:
            term = self._lease.term
            await self._lease.hold(connection)
            if (await connection.execute(_IS_SETTLED, {"session": found["session"]})).first() is None:
                values = {"session": found["session"], "term": term, "name": self._name, "pid": os.getpid()}
                await connection.execute(_SETTLE, values)
        return True

    async def _abort(self, session: int) -> None:
        self._signs.acting = True
        try:
            if self._lease.acquire():
                await self._host.execute(_ABORT, session, self._lease.term, self._name, os.getpid())
                if not self._lease.acquire():
                    self._signs.was_late()
        finally:
            self._signs.acting = False


async def main(name: str, url: str, host_url: str, seconds: float, signs: Signs) -> None:
    """Run until it is killed."""
    signs.acting = False
    lease = Lease(own_engine(url), clock=SystemClock(), name=name, seconds=seconds)
    host = await asyncpg.connect(host_url.replace("+asyncpg", ""))
    replica = Replica(lease, own_engine(url), host, name, signs)
    await lease.open()
    async with asyncio.TaskGroup() as group:
        group.create_task(lease.keep())
        group.create_task(replica.work(seconds))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), Signs(Path(sys.argv[5]))))
