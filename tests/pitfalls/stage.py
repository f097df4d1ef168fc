"""The real loop, as the composition puts it together, on a real SQLite file; the rest is played.

Time is the test's own: `play.pass_time(3 * HOUR)` lets three hours pass in the steps in which the loop plans its
looks, so that no look comes late. Every wait is for something that the loop tells.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import anyio

from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeFleet
from tests.fakes.journal import FakeJournal
from tests.fakes.mandate import FakeMandate
from tests.fakes.owners import FakeOwners
from tests.fakes.server import FakeServer, endpoint
from tests.support.database import NOW, OpencodeFile
from watchdog.composing.backend import Backend
from watchdog.errors import WatchdogError
from watchdog.loop.watch import Assessment, Listener, Watch
from watchdog.model.mandate import Mandate
from watchdog.model.moments import Moment
from watchdog.model.outcome import GuardedWrite, Outcome, Result
from watchdog.model.report import Holder, Holders
from watchdog.model.session import Ask, AskKind, CallId, ServerName, SessionId, TurnId
from watchdog.model.verdict import Spared, SpareReason, Verdict
from watchdog.opencode.db.store import Limits, OpencodeDatabase
from watchdog.ports import Clock
from watchdog.settings.schema import Settings
from watchdog.timing.clock import Advance

PLACE: Final = "/project"
ELSEWHERE: Final = "/elsewhere"
MINUTE: Final = 60
HOUR: Final = 3600
PATIENCE: Final = 60.0
"""How many real seconds a test waits for an event before it fails."""

OLD_SERVER: Final = Holder(pid=100, born_ms=0, command="opencode serve", endpoints=(endpoint(4096),))
SECOND_SERVER: Final = Holder(pid=200, born_ms=0, command="opencode serve", endpoints=(endpoint(4097),))


class MeddledDatabase(OpencodeDatabase):
    """The real database, with somebody who does something right before each write."""

    before_write: Callable[[], None] | None = None

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        if self.before_write is not None:
            self.before_write()
        return await super().write(writes, while_newest=while_newest)


class Diary:
    """A listener that writes everything down, and lets a test wait for it."""

    def __init__(self) -> None:
        self.looks: list[Assessment] = []
        self.acting: list[bool] = []
        self.held: list[Advance] = []
        self.finds: list[Verdict] = []
        self.outcomes: list[Outcome] = []
        self.alerts: list[Verdict] = []
        self.failures: list[Exception] = []
        self.outages: list[tuple[str, float]] = []
        self._changed = anyio.Event()

    @property
    def results(self) -> list[Result]:
        return [outcome.result for outcome in self.outcomes]

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        self.acting.append(acting)
        self._note(self.looks, assessment)

    def held_back(self, advance: Advance, slow_seconds: float) -> None:  # noqa: ARG002 - of the listener
        self._note(self.held, advance)

    def found(self, verdict: Verdict) -> None:
        self._note(self.finds, verdict)

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        if given_up:
            self.alerts.append(verdict)
        self._note(self.outcomes, outcome)

    def failed(self, verdict: Verdict, error: Exception) -> None:  # noqa: ARG002
        self._note(self.failures, error)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        self._note(self.outages, (str(error), retry_seconds))

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something is true; it is asked again whenever the loop tells of anything."""
        with anyio.fail_after(PATIENCE):
            while not true():
                await self._changed.wait()

    def _note(self, page: list[Any], line: object) -> None:
        page.append(line)
        self._changed.set()
        self._changed = anyio.Event()


@dataclass(frozen=True, kw_only=True)
class Work:
    """A session that is at work, with its open turn and, unless it only thinks, its open call."""

    session: SessionId
    turn: TurnId
    call: CallId

    @property
    def ref(self) -> str:
        """The model's own id of the call, by which asks name it."""
        return f"ref_{self.call}"


@dataclass(kw_only=True)
class Stage:
    """What a watch is put on."""

    path: Path
    rows: OpencodeFile
    store: MeddledDatabase
    server: FakeServer = field(default_factory=FakeServer)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    owners: FakeOwners = field(default_factory=lambda: FakeOwners(Holders(known=(OLD_SERVER,))))
    mandate: Mandate = field(default_factory=FakeMandate)
    journal: FakeJournal = field(default_factory=FakeJournal)
    hands: FakeClock = field(default_factory=lambda: FakeClock(wall_ms=NOW))
    clock: Clock | None = None
    more: list[Listener] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        with OpencodeFile(path) as rows:
            async with await MeddledDatabase.open(path, limits=Limits(read_seconds=0.2, write_seconds=0.2)) as store:
                stage = cls(path=path, rows=rows, store=store)
                stage.fleet.known.append(stage.server)
                stage.server.on_abort = stage.end
                yield stage

    @asynccontextmanager
    async def watching(self, **settings: object) -> AsyncIterator["Play"]:
        """Run the loop with these settings; what was begun has ended when the block is left."""
        told: dict[str, Any] = {"poll_interval": HOUR, "abort_grace": 1, "idle_timeout": "off", **settings}
        diary = Diary()
        backend = Backend(
            settings=Settings(**told),
            place=str(self.path),
            store=self.store,
            fleet=self.fleet,
            owners=self.owners,
            mandate=self.mandate,
            journal=self.journal,
            clock=self.time,
        )
        watch = backend.watch(listeners=[diary, *self.more])
        stop = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(watch.run, stop)
            try:
                await diary.until(lambda: diary.looks or diary.outages)
                play = Play(stage=self, watch=watch, diary=diary)
                await play.calm()
                yield play
                await play.calm()
            finally:
                stop.set()

    @property
    def time(self) -> Clock:
        """The clock that the loop has: the hands, unless a test brings another."""
        return self.clock or self.hands

    # -- what is on it ---------------------------------------------------------------------------------------

    def work(
        self,
        name: str = "1",
        *,
        tool: str = "bash",
        age: float = 0,
        busy: bool = True,
        server: FakeServer | None = None,
        directory: str = PLACE,
        parent: SessionId | None = None,
        declared: float | None = None,
        status: str = "running",
    ) -> Work:
        """A session with one call that began `age` seconds ago; a server is at work on it, unless told otherwise."""
        at = self.ago(age)
        session = self.rows.session(f"ses_{name}", parent=parent, directory=directory, at=at)
        self.rows.prompt(session, f"msg_user_{name}", at=at)
        turn = self.rows.turn(session, f"msg_turn_{name}", at=at, cwd=directory)
        given = {"command": "sleep 600"} if declared is None else {"command": "sleep", "timeout": declared * 1000}
        call = self.add_call(turn, f"prt_{name}", tool=tool, at=at, status=status, given=given)
        self._serve(session, turn, directory, server, busy=busy)
        return Work(session=session, turn=turn, call=call)

    def add_call(
        self,
        turn: TurnId,
        id_: str,
        *,
        at: int,
        tool: str = "bash",
        status: str = "running",
        given: dict[str, Any] | None = None,
        child: SessionId | None = None,
    ) -> CallId:
        """A call that its model knows by an id which asks can name."""
        state: dict[str, Any] = {"status": status, "input": given or {}}
        if status == "running":
            state["time"] = {"start": at}
        if child is not None:
            state["metadata"] = {"sessionId": child}
        return self.rows.part(
            turn, {"type": "tool", "tool": tool, "callID": f"ref_{id_}", "state": state}, id_, at=at
        )

    def thinking(self, name: str = "1", *, age: float = 0, directory: str = PLACE) -> SessionId:
        """A session whose model is at work: a turn, no call, and nothing more to see in the database."""
        at = self.ago(age)
        session = self.rows.session(f"ses_{name}", directory=directory, at=at)
        self.rows.prompt(session, f"msg_user_{name}", at=at)
        turn = self.rows.turn(session, f"msg_turn_{name}", at=at, cwd=directory)
        self.rows.text(turn, f"prt_{name}", at=at)
        self._serve(session, turn, directory, None, busy=True)
        return session

    def asking(self, work: Work, *, kind: AskKind = AskKind.QUESTION, directory: str = PLACE) -> None:
        """Let a call wait for a human."""
        ask = Ask(id=f"ask_{work.call}", kind=kind, session_id=work.session, turn_id=work.turn, call_ref=work.ref)
        self.server.asks_by.setdefault(directory, []).append(ask)

    def add_server(self, port: int = 4097) -> FakeServer:
        """Another server on the same database."""
        server = FakeServer(
            name=ServerName(f"http://127.0.0.1:{port}"), leads_to=(endpoint(port),), on_abort=self.end
        )
        self.fleet.known.append(server)
        return server

    async def end(self, session: SessionId) -> None:
        """End what is open in a session, as a server does when it is told to abort."""
        now = self.hands.now_ms
        for id_ in self._open("part", session, "$.state.status", ("pending", "running")):
            self.rows.finish_call(id_, at=now)
        for id_ in self._open("message", session, "$.role", ("assistant",)):
            self.rows.finish_turn(id_, at=now)

    def ago(self, seconds: float) -> int:
        """The moment so many seconds before now."""
        return self.hands.now_ms - round(seconds * 1000)

    def back(self, seconds: float) -> Moment:
        """The same on the countable clock, as a feed stamps what it hears."""
        return self.hands.now() + -seconds

    def stored(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table that holds sessions."""
        tables = ("session", "message", "part")
        return {table: self._all(f"SELECT * FROM {table} ORDER BY id") for table in tables}  # noqa: S608

    def _open(self, table: str, session: SessionId, path: str, values: Sequence[str]) -> list[str]:
        query = f"SELECT id FROM {table} WHERE session_id = ? AND json_extract(data, ?) IN (SELECT value FROM json_each(?))"  # noqa: S608, E501
        if table == "message":
            query += " AND json_extract(data, '$.time.completed') IS NULL"
        wanted = "[" + ",".join(f'"{value}"' for value in values) + "]"
        return [row[0] for row in self._all(query, session, path, wanted)]

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self.rows.connection.execute(query, values).fetchall()

    def _serve(
        self, session: SessionId, turn: TurnId, directory: str, server: FakeServer | None, *, busy: bool
    ) -> None:
        runs = server or self.server
        for each in self.fleet.known:
            if isinstance(each, FakeServer):
                each.turns.add((session, turn))
        if busy:
            runs.busy(session, directory)


@dataclass(frozen=True, kw_only=True)
class Play:
    """A loop that runs."""

    stage: Stage
    watch: Watch
    diary: Diary

    async def pass_time(self, seconds: float, *, every: Callable[[], None] | None = None) -> None:
        """Let time pass, in the steps in which the loop plans its looks; `every` is done before each of them."""
        left = seconds
        while left > 0:
            step = min(left, max(self.watch._delay(self.diary.looks[-1].judgement), 0.2))
            if every is not None:
                every()
            self.stage.hands.advance(step)
            left -= step
            await self.look()
            await self.calm()

    async def look(self) -> Assessment:
        """Wake the loop, and wait for a look that begins from now on: a millisecond later than any before."""
        self.stage.hands.advance(0.001)
        now = self.stage.time.read().awake_seconds
        self.watch.wake()
        await self.diary.until(lambda: self.diary.looks[-1].began_at >= now if self.diary.looks else False)
        return self.diary.looks[-1]

    async def calm(self) -> None:
        """Let everything that was begun come to its end, and the loop see what came of it."""
        acted = False
        with anyio.fail_after(PATIENCE):
            while self.watch.acting.scheduled:
                acted = True
                if self.stage.hands.sleepers:
                    self.stage.hands.advance(0.1)
                await anyio.sleep(0.002)
        if acted:
            await self.look()

    @property
    def spared(self) -> tuple[Spared, ...]:
        """What the last look spared."""
        return self.diary.looks[-1].judgement.spared

    @property
    def reasons(self) -> set[SpareReason]:
        """Why, in the last look, anything was spared."""
        return {each.reason for each in self.spared}

    def reason(self, session: SessionId) -> set[SpareReason]:
        """Why that session was spared in the last look."""
        return {each.reason for each in self.spared if each.session_id == session}
