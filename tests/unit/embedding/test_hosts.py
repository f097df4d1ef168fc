"""What an embedding server does with its watchdog: touch, release, lifespan, its own task group; and is clumsy."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest
import structlog

import watchdog
from tests.fakes.clock import FakeClock
from tests.support.waiting import wait_until
from tests.unit.embedding.test_embed import PLACE, World, world
from watchdog.embedding.host_server import MOST_STRANGERS, EmbeddedServer, Touches
from watchdog.errors import AlreadyWatched, DatabaseMissing, NoSuchSession, NotActing, ShutdownTimedOut
from watchdog.model.outcome import Result
from watchdog.model.session import Activity, Ask, SessionId, Status
from watchdog.model.verdict import SpareReason, VerdictKind

__all__ = ["world"]

ONE, TWO = SessionId("ses_1"), SessionId("ses_2")
IDLE = timedelta(seconds=1)


def named(logs: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    """The lines of one event."""
    return [line for line in logs if line["event"] == event]


class TestTouch:
    async def test_a_touched_session_is_not_idle_before_its_timeout_from_the_last_touch(self, world: World) -> None:
        session = world.unfinished("1", tool=None)
        world.host.busy[session] = Status(activity=Activity.BUSY)
        touched = aborted = 0.0
        abort = world.host.abort

        async def timed(session_id: SessionId) -> None:
            nonlocal aborted
            aborted = time.time()
            await abort(session_id)

        world.host.abort = timed  # type: ignore[method-assign]
        async with world.running(idle_timeout=IDLE) as dog:
            until = time.monotonic() + 2 * IDLE.total_seconds()
            while time.monotonic() < until or len(world.notes.looks) < 3:
                touched = time.time()
                dog.touch(session)
                await anyio.sleep(0.05)
            assert world.host.aborted == []
            assert world.notes.reasons(session) == {SpareReason.RECENTLY_ACTIVE}
            outcome = await world.result()
        assert (outcome.kind, outcome.result) == (VerdictKind.IDLE_SESSION, Result.RECOVERED)
        # The touch is noted in whole milliseconds.
        assert aborted - touched >= IDLE.total_seconds() - 0.001

    async def test_a_touch_outweighs_an_older_word_of_the_host_and_not_a_newer_one(self, world: World) -> None:
        clock = FakeClock()
        server = EmbeddedServer(world.host, clock)
        server.touches.note(ONE)
        server.touches.note(TWO)
        now = clock.now_ms
        world.host.busy = {
            ONE: Status(activity=Activity.BUSY, last_life_ms=now - 1),
            TWO: Status(activity=Activity.BUSY, last_life_ms=now + 1),
            SessionId("ses_3"): Status(activity=Activity.BUSY),
        }
        said = await server.statuses(PLACE)
        assert [said[id_].last_life_ms for id_ in sorted(said)] == [now, now + 1, None]
        assert server.life() == {ONE: clock.now(), TWO: clock.now()}

    async def test_a_touch_at_the_last_moment_drops_the_verdict(self, world: World) -> None:
        session = world.unfinished("1", tool=None)
        world.host.busy[session] = Status(activity=Activity.BUSY)
        asks = world.host.pending_asks
        async with world.running(idle_timeout=IDLE) as dog:
            dog.touch(session)

            async def touches() -> list[Ask]:
                if dog.watch.acting.begun:  # it is asked once more, right before the abort
                    dog.touch(session)
                return await asks()

            world.host.pending_asks = touches  # type: ignore[method-assign]
            outcome = await world.result()
            assert outcome.result is Result.UNCHANGED
            assert outcome.why.startswith("it showed life ")
        assert world.host.aborted == []

    async def test_a_loop_that_was_blocked_does_not_count_as_silence(self, world: World) -> None:
        session = world.unfinished("1", tool=None)
        world.host.busy[session] = Status(activity=Activity.BUSY)
        with structlog.testing.capture_logs() as logs:
            async with world.running(idle_timeout=IDLE) as dog:
                dog.touch(session)
                recently = {SpareReason.RECENTLY_ACTIVE}
                await wait_until(lambda: world.notes.reasons(session) == recently, "a look that knows of the touch")
                time.sleep(1.5 * IDLE.total_seconds())  # noqa: ASYNC251 - on purpose
                looks = len(world.notes.looks)
                await wait_until(lambda: len(world.notes.looks) > looks + 1, "two looks")
                after = world.notes.looks[looks : looks + 2]
        assert {each.reason for look in after for each in look.judgement.spared} == recently
        assert not any(look.judgement.verdicts for look in after)
        (line,) = named(logs, "loop.blocked")
        assert line["log_level"] == "warning"
        assert 1.3 <= line["seconds"] < 60

    def test_what_is_over_is_forgotten_and_what_a_look_did_not_see_yet_is_not(self) -> None:
        touches = Touches(FakeClock())
        touches.note(ONE)
        touches.forget([])  # the look had read the database before the session began
        touches.note(TWO)
        touches.forget([ONE])
        assert set(touches.last()) == {ONE, TWO}
        touches.forget([TWO])
        assert set(touches.last()) == {TWO}
        touches.forget([])
        assert touches.last() == {}

    def test_sessions_that_no_look_finds_are_bounded_and_take_no_room_from_those_it_does(self) -> None:
        touches = Touches(FakeClock())
        touches.note(ONE)
        touches.forget([])
        for number in range(MOST_STRANGERS + 10):
            touches.note(SessionId(f"ses_x{number}"))
        touches.note(ONE)
        last = touches.last()
        assert len(last) == MOST_STRANGERS + 1
        assert ONE in last
        assert SessionId("ses_x9") not in last
        assert SessionId("ses_x10") in last


class TestRelease:
    async def test_it_ends_a_session_that_is_within_every_limit(self, world: World) -> None:
        session = world.unfinished("1", age=1)
        other = world.unfinished("2", age=1)
        async with world.running() as dog:
            (outcome,) = await dog.release(session, reason="to try the way out")
        assert (outcome.session_id, outcome.result) == (session, Result.RECOVERED)
        assert world.host.aborted == [session]
        assert other in world.host.busy
        assert json.loads(world.rows.get("part", "prt_1"))["state"]["status"] == "completed"

    async def test_two_at_once_are_one(self, world: World) -> None:
        session = world.unfinished("1", age=1)
        async with world.running() as dog, anyio.create_task_group() as group:
            group.start_soon(dog.release, session)
            await dog.release(session)
        assert world.host.aborted == [session]
        assert len(world.notes.ends) == 1

    async def test_it_joins_what_the_loop_is_doing(self, world: World) -> None:
        session = world.unfinished("1")
        begun, go_on, abort = anyio.Event(), anyio.Event(), world.host.abort

        async def waits(session_id: SessionId) -> None:
            begun.set()
            await go_on.wait()
            await abort(session_id)

        world.host.abort = waits  # type: ignore[method-assign]
        async with world.running(abort_timeout=timedelta(seconds=60)) as dog, anyio.create_task_group() as group:
            await begun.wait()
            answers: list[tuple[watchdog.Outcome, ...]] = []

            async def release() -> None:
                answers.append(await dog.release(session))

            group.start_soon(release)
            await wait_until(lambda: dog._inside and dog._inside._operator, "the operator")
            await anyio.sleep(0.1)
            go_on.set()
        assert [outcome.kind for outcome in answers[0]] == [VerdictKind.STUCK_TOOL]
        assert world.host.aborted == [session]

    async def test_it_goes_on_although_whoever_waits_is_cancelled(self, world: World) -> None:
        session = world.unfinished("1", age=1)
        begun, go_on, abort = anyio.Event(), anyio.Event(), world.host.abort

        async def waits(session_id: SessionId) -> None:
            begun.set()
            await go_on.wait()
            await abort(session_id)

        world.host.abort = waits  # type: ignore[method-assign]
        async with world.running(abort_timeout=timedelta(seconds=60)) as dog:
            waiting = asyncio.create_task(dog.release(session))
            await begun.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            go_on.set()
            assert (await world.result()).result is Result.RECOVERED

    async def test_one_that_is_under_way_when_the_context_is_left_is_finished(self, world: World) -> None:
        session = world.unfinished("1", age=1)
        begun, abort = anyio.Event(), world.host.abort

        async def slow(session_id: SessionId) -> None:
            begun.set()
            await anyio.sleep(0.2)
            await abort(session_id)

        world.host.abort = slow  # type: ignore[method-assign]
        async with world.running() as dog:
            waiting = asyncio.create_task(dog.release(session))
            await begun.wait()
        (outcome,) = await waiting
        assert outcome.result is Result.RECOVERED

    async def test_what_can_not_be_released_is_said(self, world: World) -> None:
        dog = watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine)
        with pytest.raises(NotActing, match="does not run"):
            await dog.release("ses_1")
        async with world.running() as dog:
            with pytest.raises(NoSuchSession):
                await dog.release("ses_missing")
        with pytest.raises(NotActing, match="does not run"):
            await dog.release("ses_1")

    async def test_a_loop_that_failed_before_its_first_look_leaves_nobody_waiting(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def breaks(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("watchdog.loop.watch.judge_gradually", breaks)
        with structlog.testing.capture_logs(), pytest.raises(ExceptionGroup):  # noqa: PT012
            async with world.running() as dog:
                with pytest.raises(NotActing, match="failed"):
                    await dog.release("ses_1")

    async def test_a_dry_run_says_what_it_would_do(self, world: World) -> None:
        session = world.unfinished("1", age=1)
        async with watchdog.running(world.settings(), host=world.host, engine=world.engine, dry_run=True) as dog:
            (outcome,) = await dog.release(session)
        assert outcome.result is Result.DRY_RUN
        assert world.host.aborted == []


class TestServe:
    async def test_under_a_task_group_it_runs_until_that_is_cancelled(self, world: World) -> None:
        session = world.unfinished("1")
        dog = watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine, listeners=[world.notes])
        for _ in range(2):  # it can be started again
            async with anyio.create_task_group() as group:
                assert await group.start(dog.serve) is dog
                await wait_until(lambda: world.notes.looks, "a look")
                group.cancel_scope.cancel()
            assert dog.failure is None
        assert world.host.aborted == [session]
        async with world.engine.connect():  # the engine is the server's own, and is not disposed
            pass

    async def test_cancelled_it_finishes_the_abort_that_it_began(self, world: World) -> None:
        session = world.unfinished("1")
        begun, abort = anyio.Event(), world.host.abort

        async def slow(session_id: SessionId) -> None:
            begun.set()
            await anyio.sleep(0.3)
            await abort(session_id)

        world.host.abort = slow  # type: ignore[method-assign]
        dog = watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine, listeners=[world.notes])
        async with anyio.create_task_group() as group:
            await group.start(dog.serve)
            await begun.wait()
            group.cancel_scope.cancel()
        assert world.host.aborted == [session]
        assert [outcome.result for outcome in world.notes.ends] == [Result.RECOVERED]

    async def test_an_asyncio_task_ends_as_cleanly(self, world: World) -> None:
        dog = watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine, listeners=[world.notes])
        task = asyncio.create_task(dog.serve())
        await wait_until(lambda: world.notes.looks, "a look")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with world.running():  # and nothing is held any more
            pass

    async def test_a_failure_of_the_loop_comes_out_at_once(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def breaks(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("watchdog.loop.watch.judge_gradually", breaks)
        dog = watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine)
        with structlog.testing.capture_logs() as logs, anyio.fail_after(60), pytest.raises(ExceptionGroup) as caught:
            await dog.serve()
        assert caught.group_contains(ZeroDivisionError)
        assert len(named(logs, "watch.failed")) == 1

    async def test_a_host_that_hangs_delays_the_end_by_no_look(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("watchdog.embedding.host_calls.ANSWER_SECONDS", 600)
        world.unfinished("1")
        asked = anyio.Event()

        async def hangs() -> dict[SessionId, Status]:
            asked.set()
            await anyio.sleep_forever()
            raise AssertionError

        world.host.statuses = hangs  # type: ignore[method-assign]
        dog = watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine)
        task = asyncio.create_task(dog.serve())
        await asked.wait()
        task.cancel()
        # The host may take 10 min to answer; nothing is under way, so nobody waits for it.
        done, _ = await asyncio.wait([task], timeout=60)
        assert done == {task}

    async def test_a_look_and_an_abort_that_both_hang_are_cut_after_the_grace(self, world: World) -> None:
        session = world.unfinished("1")
        begun, asked, statuses = anyio.Event(), anyio.Event(), world.host.statuses

        async def hangs(*_: object) -> None:
            begun.set()
            await anyio.sleep_forever()

        async def hangs_later() -> dict[SessionId, Status]:
            if begun.is_set():
                asked.set()
                await anyio.sleep_forever()
            return await statuses()

        world.host.abort, world.host.statuses = hangs, hangs_later  # type: ignore[method-assign,assignment]
        limits = {"abort_timeout": timedelta(seconds=60), "shutdown_grace": timedelta(seconds=0.1)}
        with structlog.testing.capture_logs(), pytest.raises(ShutdownTimedOut, match=session):
            async with world.running(**limits):
                await asked.wait()

    async def test_two_at_once_are_refused(self, world: World) -> None:
        async with world.running():
            dog = watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine)
            with pytest.raises(AlreadyWatched):
                await dog.serve()

    async def test_without_an_engine_the_setting_names_the_file(self, world: World) -> None:
        session = world.unfinished("1")
        async with watchdog.running(world.settings(database=world.path), host=world.host, listeners=[world.notes]):
            assert (await world.result()).session_id == session
        with pytest.raises(DatabaseMissing, match="engine"):
            await watchdog.Watchdog(world.settings(), host=world.host).serve()
