"""A server in this process whose sessions hang, its watchdog, and a PostgreSQL that keeps a book of every write.

The server has an engine as servers do, which its watchdog shares, and closes the rows of what was aborted on
connections of its own, again and again until the database takes it. A trigger notes each write of a row: who made it,
and whether the journal had the row by then.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import asyncpg
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import watchdog
from tests.support.postgres import Cluster, PostgresRows
from tests.support.waiting import wait_until
from watchdog.errors import WatchdogError
from watchdog.model.interventions import Intervention
from watchdog.model.outcome import Outcome, Result
from watchdog.model.session import Activity, Ask, SessionId, Status
from watchdog.model.verdict import Verdict
from watchdog.postgres import own
from watchdog.postgres.connection import own_engine
from watchdog.postgres.journal import PostgresJournal
from watchdog.settings.schema import Settings
from watchdog.timing.events import Bystander

PLACE: Final = "/srv/project"
PATIENCE: Final = 40.0
SERVER: Final = "server"
"""What the server's own connections call themselves."""
SHARED: Final = "server-and-watchdog"
"""What those call themselves that its engine makes, or its watchdog in the same way."""
TROUBLE: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
NOT_FOR_PEOPLE: Final = re.compile(
    r"\b(SELECT|UPDATE|INSERT|WHERE|BEGIN|CAST)\b|\$\d|ses_|msg_|prt_|asyncpg|sqlalche|Traceback|\[SQL|[{}]"
)
"""Of a statement, of its values or of the code."""

_BOOK: Final = """
    CREATE TABLE written (
        number bigint GENERATED ALWAYS AS IDENTITY, "table" text, id text, who text, kept boolean, data text
    );
    CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO written ("table", id, who, kept, data) VALUES (
            TG_TABLE_NAME, NEW.id, current_setting('application_name'),
            EXISTS (SELECT FROM opencode_watchdog.kept_row WHERE kept_row.id = NEW.id), NEW.data::text
        );
        RETURN NEW;
    END $$;
    CREATE TRIGGER note_write AFTER UPDATE ON message FOR EACH ROW EXECUTE FUNCTION note_write();
    CREATE TRIGGER note_write AFTER UPDATE ON part FOR EACH ROW EXECUTE FUNCTION note_write()
"""
_CLOSE_PART: Final = """
    UPDATE part SET data = $2 WHERE id = $1 AND data #>> '{state,status}' = 'running'
"""
_CLOSE_MESSAGE: Final = """
    UPDATE message SET data = $2 WHERE id = $1 AND data #>> '{time,completed}' IS NULL
"""


class Server:
    """A host whose sessions hang until they are aborted. One is at work until its rows are closed.

    Args:
        url: of the database.

    Attributes:
        aborts: how often each session was aborted.
        at_statuses, at_abort: happen before it answers.
    """

    def __init__(self, url: str) -> None:
        self.busy: dict[SessionId, Status] = {}
        self.aborts: Counter[SessionId] = Counter()
        self.at_statuses: Callable[[], Awaitable[None]] | None = None
        self.at_abort: Callable[[], Awaitable[None]] | None = None
        self._url = url.replace("+asyncpg", "")

    async def statuses(self) -> dict[SessionId, Status]:
        if self.at_statuses is not None:
            await self.at_statuses()
        return dict(self.busy)

    async def pending_asks(self) -> list[Ask]:
        return []

    async def abort(self, session_id: SessionId) -> None:
        self.aborts[session_id] += 1
        if self.at_abort is not None:
            await self.at_abort()
        if session_id in self.busy:
            await self._close(session_id.removeprefix("ses_"))
        self.busy.pop(session_id, None)

    async def _close(self, name: str) -> None:
        while True:
            try:
                await self._try_to_close(name)
            except TROUBLE:
                await asyncio.sleep(0.05)
            else:
                return

    async def _try_to_close(self, name: str) -> None:
        at = int(time.time() * 1000)
        state = {"status": "error", "input": {}, "error": "aborted", "time": {"start": at, "end": at}}
        call = {"type": "tool", "tool": "bash", "callID": "call", "state": state}
        turn = {"role": "assistant", "time": {"created": at, "completed": at}, "path": {"cwd": PLACE}}
        connection = await asyncpg.connect(self._url, timeout=5, server_settings={"application_name": SERVER})
        try:
            async with connection.transaction():
                await connection.execute(_CLOSE_PART, f"prt_{name}", json.dumps(call), timeout=5)
                await connection.execute(_CLOSE_MESSAGE, f"msg_{name}", json.dumps(turn), timeout=5)
        finally:
            connection.terminate()


class Notes(Bystander):
    """What the watchdog told: the sentences of what it could not use, and how verdicts ended."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.ends: list[Outcome] = []
        self.failures: list[Exception] = []
        self.given_up: list[SessionId] = []
        self.looks = 0

    def looked(self, *_: object, **__: object) -> None:
        self.looks += 1

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        self.ends.append(outcome)
        if given_up:
            self.given_up.append(verdict.session_id)

    def failed(self, verdict: Verdict, error: Exception) -> None:  # noqa: ARG002
        self.failures.append(error)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:  # noqa: ARG002
        self.troubles.append(str(error))

    @property
    def sentences(self) -> set[str]:
        """Everything that a person may read of trouble."""
        steps = {step.detail for end in self.ends for step in end.steps if not step.ok and step.step == "journal"}
        whys = {end.why for end in self.ends if "database" in end.why}
        return {*self.troubles, *steps, *whys}


@dataclass(kw_only=True)
class Site:
    """A database, and a server whose watchdog runs in it.

    Attributes:
        sessions: those that hang or hung, and are to be ended.
        healthy: those that are well, and are not.
        others: more servers on the same database.
    """

    cluster: Cluster
    url: str
    rows: PostgresRows
    server: Server
    notes: Notes = field(default_factory=Notes)
    sessions: list[SessionId] = field(default_factory=list)
    healthy: list[SessionId] = field(default_factory=list)
    others: list[Server] = field(default_factory=list)

    @property
    def servers(self) -> list[Server]:
        """All that are on the database."""
        return [self.server, *self.others]

    @property
    def name(self) -> str:
        """Of the database."""
        return self.url.rpartition("/")[2]

    def admin(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Run a statement in it as the superuser."""
        return self.cluster.run(statement, *values, database=self.name)

    async def change(self, statement: str) -> None:
        """Change what the watchdog may have locked, in one transaction. What waits must not hold up the watchdog."""
        await asyncio.to_thread(self.rows.script, statement)

    def copied(self) -> str:
        """Copy the database as it is now, while nobody gets in. Returns the name of the copy."""
        name = f"{self.name}_older"
        self.cluster.run(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS false')
        self.cluster.copy(self.name, name)
        self.cluster.run(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS true')
        return name

    def restored(self, older: str) -> None:
        """Put a copy of another time in its place."""
        self.rows.close()
        self.cluster.replace(self.name, older)
        self.rows = PostgresRows(self.url)

    # -- what happens to it ----------------------------------------------------------------------------------

    def setting(self, name: str, value: str | None) -> None:
        """Change what every new connection to it begins with, and cut those that there are."""
        change = f"RESET {name}" if value is None else f"SET {name} = '{value}'"
        self.cluster.run(f'ALTER DATABASE "{self.name}" {change}')
        self.cut()

    def cut(self) -> int:
        """Cut the connections that the watchdog uses. Returns how many there were."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2"
        return len(self.cluster.run(query, self.name, SHARED))

    def connections(self) -> int:
        """How many connections the engine and its watchdog have."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2"
        return int(self.cluster.run(query, self.name, SHARED)[0][0])

    # -- sessions --------------------------------------------------------------------------------------------

    def hang(self, name: str, *, server: Server | None = None) -> SessionId:
        """A session that has hung for an hour at a server, this one's own if none is given."""
        session = self.left(name)
        self.take_up(session, server=server)
        return session

    def take_up(self, session: SessionId, *, server: Server | None = None) -> None:
        """A server goes on with a session, which hangs."""
        (server or self.server).busy[session] = Status(activity=Activity.BUSY)
        self.sessions.append(session)

    def work(self, name: str) -> SessionId:
        """A session that is well, and at work on something long."""
        session = self.left(name, tool="build")
        self.server.busy[session] = Status(activity=Activity.BUSY)
        self.healthy.append(session)
        return session

    def left(self, name: str, *, tool: str = "bash") -> SessionId:
        """A session that nobody is at work on, left open by a crash: only a release settles it."""
        began = int((time.time() - 3600) * 1000)
        session = self.rows.session(f"ses_{name}", at=began, directory=PLACE)
        turn = self.rows.turn(session, f"msg_{name}", at=began, cwd=PLACE)
        self.rows.call(turn, f"prt_{name}", at=began, tool=tool)
        return session

    def open_rows(self) -> set[str]:
        """The rows of the sessions that are not closed."""
        found = self.admin(
            "SELECT id FROM part WHERE data #>> '{state,status}' = 'running'"
            " UNION ALL SELECT id FROM message WHERE data #>> '{time,completed}' IS NULL"
        )
        well = {session.replace("ses_", kind) for session in self.healthy for kind in ("prt_", "msg_")}
        return {str(row["id"]) for row in found} - well

    async def all_ended(self, what: str = "the end of all that hangs") -> None:
        """Wait until nothing is open any more."""
        await wait_until(lambda: not self.open_rows(), what, seconds=PATIENCE, explain=self.explain)

    async def trouble(self, *words: str) -> None:
        """Wait until the watchdog says that it can't use the database, in a sentence with one of some words."""

        def told() -> bool:
            return any(word in sentence for sentence in self.notes.troubles for word in words)

        await wait_until(told, f"word of it: {words}", seconds=PATIENCE, explain=self.explain)

    async def released(self, dog: watchdog.Watchdog, session: SessionId) -> tuple[Outcome, ...]:
        """Release a session as a person does, who tries again while the database can't be used."""
        while True:
            try:
                outcomes = await dog.release(session, reason="a person tries again")
            except WatchdogError as error:
                self.notes.troubles.append(str(error))
            else:
                if outcomes[0].result in {Result.RECOVERED, Result.UNCHANGED}:
                    return outcomes
            await asyncio.sleep(0.1)

    async def goes_on(self) -> None:
        """One more session hangs, and is ended."""
        self.hang(f"after{len(self.sessions)}")
        await self.all_ended("the end of what hangs afterwards")

    def explain(self) -> str:
        """What a failed wait says."""
        ends = [(end.session_id, end.result.value, end.why) for end in self.notes.ends[-8:]]
        told = f"failures {self.notes.failures}, given up {self.notes.given_up}"
        return f"open {self.open_rows()}\ntroubles {self.notes.troubles[-5:]}\nends {ends}\n{told}"

    # -- the watchdog ----------------------------------------------------------------------------------------

    def engine(self, *, through: int | None = None, **options: Any) -> AsyncEngine:  # noqa: ANN401 - SQLAlchemy's
        """An engine as a server has one, which reaches the database by another port, if one is given."""
        url = self.url.replace(f":{self.cluster.port}/", f":{through or self.cluster.port}/")
        arguments = {"server_settings": {"application_name": SHARED}, **options.pop("connect_args", {})}
        return create_async_engine(url, connect_args=arguments, **options)

    @asynccontextmanager
    async def watched(self, **more: Any) -> AsyncIterator[watchdog.Watchdog]:  # noqa: ANN401 - see `replica`
        """Watch the server until the block is left, after which nothing of it is left over."""
        async with self.nothing_left(), self.replica(**more) as dog:
            yield dog

    @asynccontextmanager
    async def replica(
        self,
        *,
        engine: AsyncEngine | None = None,
        server: Server | None = None,
        **settings: Any,  # noqa: ANN401 - of many types
    ) -> AsyncIterator[watchdog.Watchdog]:
        """Watch a server until the block is left; this one, and with an engine of its own, if none is given."""
        engine = engine or self.engine()
        try:
            async with watchdog.running(
                _settings(**settings), host=server or self.server, engine=engine, listeners=[self.notes]
            ) as dog:
                yield dog
            assert dog.failure is None
            assert isinstance(engine.pool, QueuePool)
            assert engine.pool.checkedout() == 0
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def nothing_left(self) -> AsyncIterator[None]:
        """No task that begins in the block is left after it, and no connection."""
        tasks = asyncio.all_tasks()
        yield

        def left() -> list[object]:
            found = [task.get_coro() for task in asyncio.all_tasks() - tasks]
            return [each for each in found if not getattr(each, "__qualname__", "").startswith("TcpProxy.")]

        # The driver gives a connection that it throws away two seconds, in tasks of its own.
        await wait_until(lambda: not left(), "the end of all tasks", explain=lambda: str(left()))
        await wait_until(lambda: self.connections() == 0, "the end of all connections", seconds=PATIENCE)

    # -- what must be true in the end ------------------------------------------------------------------------

    async def check(self, *, twice: Iterable[SessionId] = ()) -> None:
        """Every session was ended, once; the rows and the journal say the same; nothing is left of anything.

        Args:
            twice: sessions that were open once more, and so were aborted again.
        """
        assert not self.open_rows()
        assert {id_ for server in self.servers for id_ in server.busy} == set(self.healthy)
        aborts = sum((server.aborts for server in self.servers), Counter[SessionId]())
        assert aborts == Counter([*self.sessions, *twice])
        await self.check_book()
        for sentence in self.notes.sentences:
            assert not NOT_FOR_PEOPLE.search(sentence), sentence
            assert sentence.endswith("."), sentence
        assert (self.notes.failures, self.notes.given_up) == ([], [])

    async def check_book(self) -> None:
        """Each row was written once; by the watchdog only after the journal had it, and as the journal has it."""
        book = self.admin("SELECT * FROM written ORDER BY number")
        assert [
            row for row, count in Counter((each["table"], each["id"]) for each in book).items() if count > 1
        ] == []
        mine = {each["id"]: each for each in book if each["who"] == SHARED}
        assert all(each["kept"] for each in mine.values())
        kept = self.admin("SELECT id, after FROM opencode_watchdog.kept_row")
        after = {each["id"]: json.loads(each["after"]) for each in kept}
        for id_, each in mine.items():
            assert json.loads(each["data"]) == after[id_], id_

    async def settled_begun(self) -> list[Intervention]:
        """Start the watchdog once more, which closes what was left begun. Returns all interventions."""
        async with self.watched():
            await wait_until(lambda: not self.begun(), "the end of what was begun", seconds=PATIENCE)
        engine = own_engine(self.url)
        found = list(await (await PostgresJournal.open(engine)).interventions())
        await engine.dispose()
        assert all(each.outcome is not None for each in found)
        return found

    def term(self) -> int:
        """The newest term of the lease."""
        return int(self.admin("SELECT term FROM opencode_watchdog.lease")[0][0])

    def begun(self) -> int:
        """How many interventions have no outcome."""
        query = "SELECT count(*) FROM opencode_watchdog.intervention WHERE ended_ms IS NULL"
        return int(self.admin(query)[0][0])


@asynccontextmanager
async def site(cluster: Cluster, url: str | None = None) -> AsyncIterator[Site]:
    """A database with the book, and a server on it."""
    url = url or cluster.opencode_database()
    engine = own_engine(url)
    await own.prepare(engine)
    await engine.dispose()
    found = Site(cluster=cluster, url=url, rows=PostgresRows(url), server=Server(url))
    try:
        found.rows.script(_BOOK)
        yield found
    finally:
        found.rows.close()


def recovered(interventions: Iterable[Intervention]) -> Counter[SessionId]:
    """How often the journal says of each session that it was ended."""
    return Counter(
        each.verdict.session_id
        for each in interventions
        if each.outcome is not None and each.outcome.result is Result.RECOVERED
    )


def _settings(**more: Any) -> Settings:  # noqa: ANN401 - settings of many types
    fields: dict[str, Any] = {
        "poll_interval": timedelta(milliseconds=100),
        # A call that is first seen while its host is silent is as old as that look.
        "tool_timeout": timedelta(seconds=1),
        "tool_timeouts": {"build": timedelta(hours=6)},
        "idle_timeout": timedelta(minutes=30),
        "orphan_grace": timedelta(seconds=1),
        "abort_grace": timedelta(seconds=1),
        "abort_timeout": timedelta(seconds=60),
        "lease_duration": timedelta(seconds=3),
        **more,
    }
    return Settings(**fields)
