"""The watchdog inside a server's own event loop, on a real database with the server's own engine."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import watchdog
from tests.support.database import OpencodeFile, OpencodeRows
from tests.support.waiting import wait_until
from watchdog.embedding.host_server import EmbeddedServer
from watchdog.errors import (
    AlreadyWatched,
    DatabaseError,
    DatabaseMissing,
    ServerAnswerInvalid,
    ServerError,
    ShutdownTimedOut,
    WatchdogError,
)
from watchdog.loop.watch import Assessment
from watchdog.model.outcome import Outcome, Result, Row
from watchdog.model.report import Listener, Served, Shown
from watchdog.model.session import EMBEDDED, Activity, Ask, AskKind, SessionId, Status, TurnId
from watchdog.model.verdict import SpareReason, Verdict, VerdictKind
from watchdog.settings.schema import Settings
from watchdog.timing.clock import Advance, Countable, SystemClock

PLACE = "/project"


@dataclass
class InProcessHost:
    """A server's own sessions."""

    rows: OpencodeRows
    busy: dict[SessionId, Status] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    aborted: list[SessionId] = field(default_factory=list)
    problem: BaseException | None = None
    asked: int = 0

    async def statuses(self) -> dict[SessionId, Status]:
        self.asked += 1
        await self._answer()
        return dict(self.busy)

    async def pending_asks(self) -> list[Ask]:
        await self._answer()
        return list(self.asks)

    async def abort(self, session_id: SessionId) -> None:
        self.aborted.append(session_id)
        await self._answer()
        if self.busy.pop(session_id, None):
            name = session_id.removeprefix("ses_")
            if self.rows.get("part", f"prt_{name}"):
                self.rows.finish_call(f"prt_{name}")
            self.rows.finish_turn(f"msg_{name}")

    async def _answer(self) -> None:
        if self.problem is not None:
            raise self.problem


class Notes:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.looks: list[Assessment] = []
        self.ends: list[Outcome] = []

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        assert acting
        self.looks.append(assessment)

    def held_back(self, advance: Advance, slow_seconds: float) -> None: ...

    def found(self, verdict: Verdict) -> None: ...

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:  # noqa: ARG002
        self.ends.append(outcome)

    def failed(self, verdict: Verdict, error: Exception) -> None: ...

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None: ...

    def reasons(self, session_id: str) -> set[SpareReason]:
        if not self.looks:
            return set()
        return {each.reason for each in self.looks[-1].judgement.spared if each.session_id == session_id}


@dataclass
class World:
    """A database, a host and an engine."""

    path: Path
    rows: OpencodeFile
    engine: AsyncEngine
    host: InProcessHost
    notes: Notes = field(default_factory=Notes)

    def settings(self, **more: Any) -> Settings:  # noqa: ANN401 - settings of many types
        fields: dict[str, Any] = {
            "poll_interval": timedelta(milliseconds=50),
            "tool_timeout": timedelta(seconds=60),
            "idle_timeout": timedelta(seconds=30),
            "orphan_grace": timedelta(seconds=1),
            "abort_grace": timedelta(seconds=1),
            "abort_timeout": timedelta(seconds=60),
            **more,
        }
        return Settings(**{"journal": "off", **fields})

    @asynccontextmanager
    async def running(self, **more: Any) -> AsyncIterator[watchdog.Watchdog]:  # noqa: ANN401
        async with watchdog.running(
            self.settings(**more), host=self.host, engine=self.engine, listeners=[self.notes]
        ) as state:
            yield state

    def unfinished(self, name: str, *, age: float = 3600, tool: str | None = "bash", busy: bool = True) -> SessionId:
        """A session with an open turn, and an open call if a tool is given."""
        began = int((time.time() - age) * 1000)
        session = self.rows.session(f"ses_{name}", at=began, directory=PLACE)
        self.rows.prompt(session, at=began)
        turn = self.rows.turn(session, f"msg_{name}", at=began)
        if tool is not None:
            self.rows.call(turn, f"prt_{name}", at=began, tool=tool)
        if busy:
            self.host.busy[session] = Status(activity=Activity.BUSY, last_life_ms=began)
        return session

    async def result(self) -> Outcome:
        await wait_until(lambda: self.notes.ends, "an outcome")
        return self.notes.ends[0]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    path = tmp_path / "opencode.db"
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    with OpencodeFile(path) as rows:
        yield World(path, rows, engine, InProcessHost(rows))
    await engine.dispose()


async def test_a_hung_call_is_aborted_through_the_host_and_verified_in_the_database(world: World) -> None:
    session = world.unfinished("1")
    async with world.running():
        outcome = await world.result()
    assert outcome.result is Result.RECOVERED
    assert world.host.aborted == [session]
    assert [step.step for step in outcome.steps] == ["reread", "find", "about_to_abort", "abort", "verify"]


async def test_a_silent_session_is_ended_by_the_hosts_word_on_its_last_sign_of_life(world: World) -> None:
    session = world.unfinished("1", tool=None)
    fresh = world.unfinished("2", tool=None)
    world.host.busy[fresh] = Status(activity=Activity.BUSY, last_life_ms=int(time.time() * 1000))
    async with world.running():
        assert (await world.result()).kind is VerdictKind.IDLE_SESSION
        await wait_until(lambda: world.notes.reasons(fresh), "a reason")
    assert world.host.aborted == [session]
    assert world.notes.reasons(fresh) == {SpareReason.RECENTLY_ACTIVE}


async def test_a_host_that_does_not_know_the_last_sign_of_life_is_no_witness_of_silence(world: World) -> None:
    session = world.unfinished("1", tool=None)
    world.host.busy[session] = Status(activity=Activity.BUSY)
    async with world.running():
        await wait_until(lambda: len(world.notes.looks) >= 3, "three looks")
    assert world.notes.reasons(session) == {SpareReason.NO_WITNESS}
    assert world.host.aborted == []


async def test_a_question_is_spared(world: World) -> None:
    session = world.unfinished("1", tool="question")
    world.host.asks = [Ask(id="q", kind=AskKind.QUESTION, session_id=session, turn_id=TurnId("msg_1"))]
    async with world.running():
        await wait_until(lambda: len(world.notes.looks) >= 3, "three looks")
    assert world.notes.reasons(session) == {SpareReason.WAITING_ON_HUMAN}
    assert (world.host.aborted, world.notes.ends) == ([], [])


async def test_what_a_crash_left_is_settled_once_the_host_denies_it_twice(world: World) -> None:
    session = world.unfinished("1", busy=False)
    world.rows.close()  # only this process, which embeds the watchdog, has the database open
    async with world.running():
        outcome = await world.result()
    assert (outcome.session_id, outcome.result, outcome.kind) == (session, Result.RECOVERED, VerdictKind.ORPHAN)
    with OpencodeFile(world.path) as rows:
        assert json.loads(rows.get("part", "prt_1"))["state"]["status"] == "error"


async def test_its_own_process_is_never_taken_for_nobody(world: World) -> None:
    session = world.unfinished("1", age=1, busy=False)
    world.host.problem = RuntimeError("not now")
    async with world.running():
        await wait_until(lambda: len(world.notes.looks) >= 5, "five looks")
        seen = world.notes.looks[-1].observation
        assert seen.holders is not None
        assert [holder.pid for holder in seen.holders.known if holder.embeds_us] == [os.getpid()]
    assert not any(look.judgement.unclaimed for look in world.notes.looks)
    assert SpareReason.WITHIN_LIMIT in world.notes.reasons(session)
    assert world.notes.ends == []


async def test_a_host_that_raises_is_no_evidence_and_does_not_stop_the_loop(world: World) -> None:
    world.unfinished("1")
    world.host.problem = RuntimeError("secret detail")
    async with world.running(tool_timeout=timedelta(seconds=1)) as state:
        await wait_until(lambda: len(world.notes.looks) >= 3, "three looks")
        (degraded,) = world.notes.looks[-1].observation.degraded
        assert "RuntimeError" in degraded
        assert "secret" not in degraded
        assert not any(outcome.result is Result.RECOVERED for outcome in world.notes.ends)
        world.host.problem = None
        world.notes.ends.clear()
        state.watch.memory.attempts.clear()
        await wait_until(lambda: world.host.aborted, "the abort")
        assert (await world.result()).result is Result.RECOVERED
    assert state.failure is None


async def test_an_abort_that_raises_is_told(world: World) -> None:
    world.unfinished("1")
    abort = world.host.abort

    async def breaks(session_id: SessionId) -> None:
        world.host.problem = asyncio.CancelledError()  # as from awaiting a task that was just cancelled
        try:
            await abort(session_id)
        finally:
            world.host.problem = None

    world.host.abort = breaks  # type: ignore[method-assign]
    async with world.running() as state:
        outcome = await world.result()
        assert outcome.result is Result.INEFFECTIVE
        assert ("abort", False) in [(step.step, step.ok) for step in outcome.steps]
        looks = len(world.notes.looks)
        await wait_until(lambda: len(world.notes.looks) > looks, "the loop going on")
    assert state.failure is None


class TestServer:
    """What a host may do instead of answering."""

    async def hangs(self) -> dict[SessionId, Status]:
        await anyio.sleep_forever()
        raise AssertionError

    async def raises(self) -> dict[SessionId, Status]:
        raise ZeroDivisionError

    async def is_cancelled(self) -> dict[SessionId, Status]:
        raise asyncio.CancelledError

    async def answers_nothing(self) -> Any:  # noqa: ANN401 - the wrong type on purpose
        return None

    async def answers_text(self) -> Any:  # noqa: ANN401
        return {"ses_1": "busy"}

    def raises_at_once(self) -> Any:  # noqa: ANN401
        raise ZeroDivisionError

    def answers_without_waiting(self) -> Any:  # noqa: ANN401
        return {}

    @pytest.mark.parametrize(
        "misbehave",
        [
            "hangs",
            "raises",
            "is_cancelled",
            "answers_nothing",
            "answers_text",
            "raises_at_once",
            "answers_without_waiting",
        ],
    )
    async def test_whatever_a_host_does_is_translated(
        self, world: World, misbehave: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("watchdog.embedding.host_calls.ANSWER_SECONDS", 0.05)
        for method in ("statuses", "pending_asks"):
            monkeypatch.setattr(world.host, method, getattr(self, misbehave))
        with anyio.fail_after(60):
            with pytest.raises(ServerError, match="statuses"):
                await EmbeddedServer(world.host, Countable(SystemClock())).statuses()
            with pytest.raises(ServerError, match="pending_asks"):
                await EmbeddedServer(world.host, Countable(SystemClock())).pending_asks()

    async def test_a_cancellation_from_outside_stays_one(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(world.host, "statuses", self.hangs)
        with anyio.move_on_after(0.02) as scope:
            await EmbeddedServer(world.host, Countable(SystemClock())).statuses()
        assert scope.cancelled_caught

    async def test_it_is_a_server_without_a_port_a_feed_or_clients(self, world: World) -> None:
        server = EmbeddedServer(world.host, Countable(SystemClock()))
        assert (server.name, server.leads_to, server.witness(), server.life()) == ("embedded", (), None, {})
        assert server.busy_directories() == ()
        assert await server.vouches()
        assert server.own == Served(server=EMBEDDED, by=Shown.HOST)
        assert await server.copy(SessionId("ses_1"), TurnId("msg_1"), PLACE) is None
        assert await server.listener() == Listener()
        assert await server.readable(server.own, SessionId("ses_1"), PLACE)
        row = Row(
            table="part",
            id="prt_1",
            message_id=TurnId("msg_1"),
            session_id=SessionId("ses_1"),
            created_ms=0,
            updated_ms=0,
            data="{}",
        )
        await server.publish(server.own, row, PLACE)
        with pytest.raises(ServerAnswerInvalid):
            await server.delete_message(server.own, SessionId("ses_1"), "msg_1", PLACE)


class TestGuest:
    """What is the server's stays the server's."""

    async def test_the_engine_is_not_disposed(self, world: World) -> None:
        async with world.engine.connect() as connection:
            pool = world.engine.pool
            async with world.running():
                await wait_until(lambda: world.notes.looks, "a look")
            assert world.engine.pool is pool
            assert (await connection.execute(text("SELECT count(*) FROM session"))).scalar_one() == 0
        async with world.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def test_no_signal_handler_is_changed(self, world: World) -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        async with world.running():
            await wait_until(lambda: world.notes.looks, "a look")
            assert {number: signal.getsignal(number) for number in before} == before

    async def test_logging_stays_as_the_server_set_it_up(self, world: World) -> None:
        before = structlog.get_config()
        async with world.running():
            await wait_until(lambda: world.notes.looks, "a look")
        assert structlog.get_config() == before

    async def test_an_error_of_the_server_itself_comes_out_as_it_is(self, world: World) -> None:
        with pytest.raises(ZeroDivisionError):
            async with world.running():
                raise ZeroDivisionError

    async def test_a_cancellation_of_the_server_comes_through(self, world: World) -> None:
        with anyio.move_on_after(0.1) as scope:
            async with world.running():
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    async def test_it_can_be_left_and_entered_again(self, world: World) -> None:
        for _ in range(2):
            world.notes.looks.clear()
            async with world.running():
                await wait_until(lambda: world.notes.looks, "a look")

    async def test_a_second_one_in_the_same_process_is_refused_and_harms_nothing(self, world: World) -> None:
        async with world.running():
            with pytest.raises(AlreadyWatched):
                async with world.running():
                    pass
            world.notes.looks.clear()
            await wait_until(lambda: world.notes.looks, "a look")

    async def test_a_dry_run_aborts_nothing(self, world: World) -> None:
        world.unfinished("1")
        async with watchdog.running(
            world.settings(), host=world.host, engine=world.engine, listeners=[world.notes], dry_run=True
        ):
            assert (await world.result()).result is Result.DRY_RUN
        assert world.host.aborted == []


class TestFailures:
    async def test_a_loop_that_fails_is_logged_and_kept_and_raised_on_leaving(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        went_on = False

        def breaks(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("watchdog.loop.watch.judge_gradually", breaks)
        with structlog.testing.capture_logs() as logs, pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with world.running() as state:
                await wait_until(lambda: state.failure, "the failure")
                went_on = True
        assert went_on
        assert caught.group_contains(ZeroDivisionError)
        assert [(line["event"], line["log_level"]) for line in logs] == [("watch.failed", "error")]

    async def test_an_error_of_the_server_is_not_hidden_by_one_of_the_loop(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def breaks(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("watchdog.loop.watch.judge_gradually", breaks)
        with structlog.testing.capture_logs(), pytest.raises(KeyError):  # noqa: PT012
            async with world.running() as state:
                await wait_until(lambda: state.failure, "the failure")
                raise KeyError

    async def test_an_abort_that_outlasts_the_shutdown_is_told(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.unfinished("1")
        begun = anyio.Event()

        async def hangs(*_: object) -> None:
            begun.set()
            await anyio.sleep_forever()

        monkeypatch.setattr(world.host, "abort", hangs)
        limits = {"abort_timeout": timedelta(seconds=30), "shutdown_grace": timedelta(seconds=0.1)}
        with pytest.raises(ShutdownTimedOut):
            async with world.running(**limits):
                await begun.wait()

    async def test_a_missing_database_is_said_at_once_and_leaves_nothing_behind(
        self, world: World, tmp_path: Path
    ) -> None:
        place = tmp_path / "elsewhere"
        place.mkdir()
        engine = create_async_engine(f"sqlite+aiosqlite:///{place / 'missing.db'}")
        for _ in range(2):
            with pytest.raises(DatabaseMissing):
                async with watchdog.running(world.settings(), host=world.host, engine=engine):
                    pass
        assert list(place.iterdir()) == []

    async def test_a_database_that_can_not_be_used_can_be_tried_again(self, world: World, tmp_path: Path) -> None:
        path = tmp_path / "later.db"
        path.write_bytes(b"not a database, whatever it says")
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        with pytest.raises(DatabaseError):
            async with watchdog.running(world.settings(), host=world.host, engine=engine):
                pass
        await engine.dispose()
        path.unlink()
        with OpencodeFile(path):
            async with watchdog.running(world.settings(), host=world.host, engine=engine):
                pass
        await engine.dispose()

    @pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
    async def test_an_engine_without_a_file_is_refused_with_what_to_do(self, world: World, url: str) -> None:
        engine = create_async_engine(url)
        with pytest.raises(DatabaseMissing, match="setting `database`"):
            async with watchdog.running(world.settings(), host=world.host, engine=engine):
                pass
        await engine.dispose()

    async def test_the_setting_may_name_the_file_instead(self, world: World) -> None:
        async with world.running(database=world.path):
            await wait_until(lambda: world.notes.looks, "a look")
