"""A real PostgreSQL for tests: clusters in temporary folders, databases of their own, and rows of opencode's shape.

`postgres` is one cluster for each worker, `postgres_url` a fresh database in it with opencode's tables. A test that
stops or kills its server takes `own_cluster`.
"""

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Collection, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeVar

import asyncpg
import psutil
import pytest

from tests.support.database import SCHEMA, OpencodeRows
from tests.support.debian import require

T = TypeVar("T")
Mode = Literal["smart", "fast", "immediate"]
Kind = Literal["jsonb", "json"]

USER: Final = "opencode"
"""Who owns the databases and logs in: no superuser."""
ADMIN: Final = "postgres"
CONNECTIONS: Final = 30
PATIENCE_SECONDS: Final = 60.0
_SIGNALS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_FLAGS: Final = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "autovacuum": "off",  # its transactions would count as changes
    "max_connections": str(CONNECTIONS),
    "shared_buffers": "32MB",
    "log_min_error_statement": "panic",
}
_FIRST_PORT: Final = 20_000
_PORTS: Final = 12_000
"""Below the ports that systems give to outgoing connections: a cluster that restarts finds its own free again."""
_WHEN_ORPHANED: Final = 'cat >/dev/null; read -r pid <"$0/data/postmaster.pid" && kill -QUIT "$pid"; rm -rf "$0"'
"""Ends the server of a test run that was killed: the pipe on its stdin closes."""


class Cluster:
    """A PostgreSQL of its own, in a temporary folder. A context manager that ends it and removes the folder.

    Everything blocks: a test that must go on meanwhile calls it in a thread.

    Args:
        like: another one of this process, whose first state is copied: that is quicker than to make one.
        programs: PostgreSQL's, if not Debian's.

    Attributes:
        folder: all that belongs to it.
        port: on 127.0.0.1, the same after a restart.
    """

    flags: ClassVar[dict[str, str]] = _FLAGS
    """The settings of the server that are not PostgreSQL's own."""

    def __init__(self, like: Self | None = None, programs: Path | None = None) -> None:
        self._like = like
        self._programs = programs or newest_programs()
        self._user = unprivileged()
        self.folder = Path(tempfile.mkdtemp(prefix="owpg-", dir=reachable_folder(self._user)))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._orphaned = subprocess.Popen(
            ["sh", "-c", _WHEN_ORPHANED, str(self.folder)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._thread = _Loop()
        self._talks: dict[str, Talk] = {}

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def _first(self) -> Path:
        """The data folder as it was before its first start."""
        return self.folder / "first"

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """Of the server (the postmaster)."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for talk in self._talks.values():
                talk.close()
            self._thread.close()
            if self._process is not None:
                self.stop("immediate")
            (self.data / "postmaster.pid").unlink(
                missing_ok=True
            )  # one that was killed leaves it: the number of nobody
        finally:
            self._orphaned.communicate()

    # -- the server ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        assert self._process is None, "it is running"
        flags = self.flags | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in flags.items())
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._user,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                self._process = None
                raise AssertionError(f"PostgreSQL did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.01)

    def stop(self, mode: Mode = "fast") -> None:
        """End the server. `smart` waits for its clients, `fast` cuts them off, `immediate` cleans up nothing."""
        assert self._process is not None, "it is not running"
        try:
            self._process.send_signal(_SIGNALS[mode])
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE_SECONDS)
            raise
        finally:
            self._process = None

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start it."""
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """Kill the server and all of its processes at once, as an outage of the machine does."""
        assert self._process is not None, "it is not running"
        server = psutil.Process(self._process.pid)
        server.suspend()  # it must start no more of them meanwhile
        for process in (family := [*server.children(), server]):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(PATIENCE_SECONDS)
        psutil.wait_procs(family, PATIENCE_SECONDS)
        self._process = None

    # -- its databases ---------------------------------------------------------------------------------------

    def url(self, database: str, user: str = USER) -> str:
        """The address of a database, as SQLAlchemy takes it."""
        return f"postgresql+asyncpg://{user}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str, *values: object, database: str = ADMIN) -> list[asyncpg.Record]:
        """Run a statement as the superuser, for whom there is always a connection left."""
        if database not in self._talks:
            self._talks[database] = Talk(self._thread, self.url(database, ADMIN))
        return self._talks[database].run(statement, *values)

    def fresh_database(self, name: str | None = None, template: str | None = None) -> str:
        """Make a database of `USER`'s: empty, or a copy of another to which nobody is connected. Returns its URL."""
        name = name or f"test_{next(self._numbers)}"
        self.run(f'CREATE DATABASE "{name}" OWNER {USER} TEMPLATE "{template or "template0"}"')
        return self.url(name)

    def opencode_database(self, kind: Kind = "jsonb", name: str | None = None) -> str:
        """Make a database with opencode's tables, `data` of a type. Returns its URL."""
        template = f"opencode_{kind}"
        if not self.run("SELECT 1 FROM pg_database WHERE datname = $1", template):
            with _Loop() as thread, Talk(thread, self.fresh_database(template)) as talk:
                talk.script(schema(kind))
            self.run(f"ALTER DATABASE {template} WITH ALLOW_CONNECTIONS false IS_TEMPLATE true")
        return self.fresh_database(name, template)

    def copy(self, database: str, name: str | None = None) -> str:
        """Copy a database, as a dump and its restore do; whoever is connected to it is cut off. Returns its URL."""
        self.cut_off(database)
        return self.fresh_database(name, database)

    def replace(self, database: str, by: str) -> None:
        """Drop a database and give its name to another, as one who restores a backup does."""
        self.drop(database)
        self.cut_off(by)
        self.run(f'ALTER DATABASE "{by}" RENAME TO "{database}"')

    def drop(self, database: str) -> None:
        """Drop a database, if it is there; whoever is connected is cut off."""
        self.cut_off(database)
        self.run(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def cut_off(self, database: str) -> None:
        """End all connections to a database, and return when they are gone."""
        if (talk := self._talks.pop(database, None)) is not None:
            talk.close()
        while self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database):
            time.sleep(0.002)

    def _make(self) -> None:
        if self._user:
            shutil.chown(self.folder, self._user["user"], self._user["group"])
        if self._like is None:
            options = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"]
            self._run([str(self._programs / "initdb"), "-D", str(self._first), "-U", ADMIN, *options])
        first = self._first if self._like is None else self._like._first
        self._run(["cp", "-a", str(first), str(self.data)])
        self.start()
        self.run(f"CREATE ROLE {USER} LOGIN")

    def _run(self, command: list[str]) -> None:
        subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, timeout=PATIENCE_SECONDS, **self._user
        )

    def _ready(self, pid: int) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(pid) and len(lines) > 7 and lines[7].strip() in {"ready", "standby"}


def newest_programs() -> Path:
    """The folder of PostgreSQL's programs. Without them the test is skipped, or fails where CI says so."""
    return Path(os.path.realpath(require("postgres"))).parent


def schema(kind: Kind = "jsonb") -> str:
    """opencode's tables as a Python server has them in PostgreSQL."""
    return SCHEMA.replace(" integer", " bigint").replace("data text", f"data {kind}")


def unprivileged() -> dict[str, Any]:
    """As whom PostgreSQL runs, which refuses root; as arguments of `subprocess`."""
    if os.geteuid() != 0:
        return {}
    names = {each.pw_name for each in pwd.getpwall()}
    found = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def reachable_folder(user: dict[str, Any]) -> Path:
    """The folder for temporary files, if everybody may pass through it to their own; else /tmp."""
    folder = Path(tempfile.gettempdir()).resolve()
    closed = user and not all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))
    return Path("/tmp") if closed else folder  # noqa: S108 - the one that everybody may use


def free_port() -> int:
    """A port on 127.0.0.1 on which nothing listens."""
    for number in range(_PORTS):
        port = _FIRST_PORT + (os.getpid() + number * 17) % _PORTS
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no port is free")


class _Loop:
    """A thread with an event loop, so that a test can talk to a database without one of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgres", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Talk:
    """A connection that is made when it is needed, and made anew when the server cut it. A context manager.

    Args:
        thread: where it lives.
        url: as SQLAlchemy takes it.
    """

    def __init__(self, thread: _Loop, url: str) -> None:
        self._thread = thread
        self._url = url.replace("+asyncpg", "")
        self._connection: asyncpg.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Run a statement in a transaction of its own."""
        return self._thread.run(self._run(statement, values))

    def script(self, statements: str) -> None:
        """Run several statements in one transaction."""
        self._thread.run(self._script(statements))

    def close(self) -> None:
        """Close the connection."""
        self._thread.run(self._close())

    async def _run(self, statement: str, values: tuple[object, ...]) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await (await self._connected()).fetch(statement, *values)
        return found

    async def _script(self, statements: str) -> None:
        await (await self._connected()).execute(statements)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url)
        return self._connection

    async def _close(self) -> None:
        if self._connection is not None:
            await self._connection.close(timeout=PATIENCE_SECONDS)


class PostgresRows(OpencodeRows):
    """Rows of opencode's in PostgreSQL, each written in a transaction of its own. A context manager that closes it.

    `data` is written as a text of JSON and read as one. PostgreSQL refuses what is no JSON, and in any column what is
    not of its type: ValueError.

    Args:
        url: of a database with opencode's tables.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self._thread = _Loop()
        self._talk = Talk(self._thread, url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._talk.close()
        self._thread.close()

    def run(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Run any statement in a transaction of its own."""
        try:
            return self._talk.run(statement, *values)
        except (asyncpg.DataError, asyncpg.exceptions._base.DataError) as error:
            raise ValueError(str(error)) from error

    def script(self, statements: str) -> None:
        """Run several statements in one transaction."""
        self._talk.script(statements)

    def put(self, table: str, **columns: Any) -> None:  # noqa: ANN401
        names, marks = ", ".join(columns), ", ".join(_marks(columns))
        self.run(f"INSERT INTO {table} ({names}) VALUES ({marks})", *columns.values())  # noqa: S608

    def set(self, table: str, id_: str, **columns: Any) -> None:  # noqa: ANN401
        changes = ", ".join(f"{name} = {mark}" for name, mark in zip(columns, _marks(columns), strict=True))
        last = len(columns) + 1
        self.run(f"UPDATE {table} SET {changes} WHERE id = ${last}", *columns.values(), id_)  # noqa: S608

    def delete(self, table: str, id_: str) -> None:
        self.run(f"DELETE FROM {table} WHERE id = $1", id_)  # noqa: S608

    def get(self, table: str, id_: str, column: str = "data") -> Any:  # noqa: ANN401
        value = f"{column}::text" if column == "data" else column
        found = self.run(f"SELECT {value} FROM {table} WHERE id = $1", id_)  # noqa: S608
        return found[0][0] if found else None


def _marks(columns: Collection[str]) -> list[str]:
    """The parameters of a statement. One for JSON takes it as text."""
    return [f"${number}" for number in range(1, len(columns) + 1)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """One cluster for all tests of a worker, which none of them stops."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def postgres_url(postgres: Cluster) -> Iterator[str]:
    """A fresh database with opencode's tables, `data` as jsonb."""
    url = postgres.opencode_database()
    yield url
    postgres.drop(url.rpartition("/")[2])


@pytest.fixture
def postgres_rows(postgres_url: str) -> Iterator[PostgresRows]:
    """The rows of `postgres_url`."""
    with PostgresRows(postgres_url) as rows:
        yield rows


@pytest.fixture
def own_cluster(postgres: Cluster) -> Iterator[Cluster]:
    """A cluster for one test, which may stop and kill it."""
    with Cluster(like=postgres) as cluster:
        yield cluster
