"""Hosts that raise, hang or block, and hosts made of functions: what comes of them, and what the log says."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import structlog

import watchdog
from tests.fakes.clock import FakeClock
from tests.support.waiting import wait_until
from tests.unit.test_embed import PLACE, World, world
from tests.unit.test_embedding import named
from watchdog.clock import Countable, SystemClock
from watchdog.embedded import EmbeddedServer
from watchdog.errors import ServerAnswerInvalid, ServerError, ServerSilent, ServerUnreachable
from watchdog.hosting import Measured, Questions, Seldom
from watchdog.model import Activity, Ask, Result, SessionId, Status

__all__ = ["world"]

ONE = SessionId("ses_1")
BUSY = {ONE: Status(activity=Activity.BUSY)}


def nobody_asks(_: str) -> list[Ask]:
    return []


def nothing_ends(*_: str) -> None:
    return None


def host(statuses: Any) -> watchdog.CallableHost:  # noqa: ANN401 - good and bad ones
    return watchdog.CallableHost(statuses=statuses, pending_asks=nobody_asks, abort=nothing_ends)


async def asked(statuses: Any, *, seconds: float | None = 5.0) -> Any:  # noqa: ANN401
    return await Questions(host(statuses), SystemClock()).ask("statuses", PLACE, seconds=seconds)


class TestCallableHost:
    async def test_plain_functions_and_coroutine_functions_make_a_host(self) -> None:
        aborted = []

        async def statuses(directory: str) -> Mapping[SessionId, Status]:
            await anyio.lowlevel.checkpoint()
            return BUSY if directory == PLACE else {}

        def abort(session_id: SessionId, directory: str) -> str:
            aborted.append((session_id, directory))
            return "of no meaning"

        made: watchdog.Host = watchdog.CallableHost(statuses=statuses, pending_asks=nobody_asks, abort=abort)
        assert await made.statuses(PLACE) == BUSY
        assert await made.statuses("/elsewhere") == {}
        assert await made.pending_asks(PLACE) == []
        await made.abort(ONE, PLACE)
        assert aborted == [(ONE, PLACE)]

    async def test_its_sessions_are_watched_and_ended(self, world: World) -> None:
        session = world.unfinished("1")
        ended = []

        def abort(session_id: SessionId, _: str) -> None:
            ended.append(session_id)
            world.host.busy.clear()
            world.rows.finish_call("prt_1")
            world.rows.finish_turn("msg_1")

        made = watchdog.CallableHost(
            statuses=lambda directory: dict(world.host.busy) if directory == PLACE else {},
            pending_asks=nobody_asks,
            abort=abort,
        )
        async with watchdog.running(world.settings(), host=made, engine=world.engine, listeners=[world.notes]):
            assert (await world.result()).result is Result.RECOVERED
        assert ended == [session]


class TestQuestions:
    async def test_what_it_raises_names_the_function_and_the_place_and_not_the_words(self) -> None:
        def raises(_: str) -> dict[SessionId, Status]:
            raise RuntimeError("secret")

        with pytest.raises(ServerUnreachable) as caught:
            await asked(partial(raises))
        assert "raises)" in str(caught.value)
        assert "RuntimeError at test_hosting.py:" in str(caught.value)
        assert "secret" not in str(caught.value)

    async def test_what_hangs_is_timed_out_and_named(self) -> None:
        cancelled = anyio.Event()

        async def hangs(_: str) -> dict[SessionId, Status]:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()
            raise AssertionError

        with pytest.raises(ServerSilent, match=r"hangs\) could not answer within 0.05 s"):
            await asked(hangs, seconds=0.05)
        assert cancelled.is_set()

    async def test_what_blocks_is_named_with_the_time_and_is_no_answer_past_its_limit(self) -> None:
        async def blocks(_: str) -> dict[SessionId, Status]:
            await anyio.lowlevel.checkpoint()
            time.sleep(0.7)  # noqa: ASYNC251 - on purpose
            return BUSY

        with structlog.testing.capture_logs() as logs:
            assert await asked(blocks) == BUSY
            with pytest.raises(ServerSilent, match=r"blocks\) took \d+\.\d s to answer, and may take 0\.2 s"):
                await asked(blocks, seconds=0.2)
        lines = named(logs, "host.blocked")
        assert [line["log_level"] for line in lines] == ["warning", "warning"]
        assert all(line["function"].endswith("blocks") and line["question"] == "statuses" for line in lines)
        assert all(0.7 <= line["seconds"] < 60 for line in lines)

    async def test_what_waits_long_without_blocking_is_not_said_to_block(self) -> None:
        clock = FakeClock()

        async def waits(_: str) -> dict[SessionId, Status]:
            asyncio.get_running_loop().call_soon(clock.advance, 3.0)  # while others have their turn
            await asyncio.sleep(0)
            return BUSY

        with structlog.testing.capture_logs() as logs:
            assert await Questions(host(waits), clock).ask("statuses", PLACE, seconds=5.0) == BUSY
        assert clock.now_ms == FakeClock().now_ms + 3000
        assert logs == []

    async def test_an_answer_of_another_type_is_none_and_names_the_function(self) -> None:
        server = EmbeddedServer(host(lambda _: None), Countable(SystemClock()))
        with pytest.raises(ServerAnswerInvalid, match=r"<lambda>\) gave no mapping"):
            await server.statuses(PLACE)

    async def test_a_host_without_one_of_the_functions_is_contained(self) -> None:
        with pytest.raises(ServerUnreachable, match=r"statuses .*AttributeError"):
            await EmbeddedServer(object(), Countable(SystemClock())).statuses(PLACE)  # type: ignore[arg-type]

    async def test_a_method_an_object_and_a_partial_have_names(self) -> None:
        class Callable:
            def method(self, _: str) -> dict[SessionId, Status]:
                raise ZeroDivisionError

            def __call__(self, _: str) -> dict[SessionId, Status]:
                raise ZeroDivisionError

        for function, name in [
            (Callable().method, r"Callable\.method\)"),
            (Callable(), r"Callable\)"),
            (partial(Callable().method), r"Callable\.method\)"),
        ]:
            with pytest.raises(ServerError, match=name):
                await asked(function)

    async def test_the_log_of_a_running_watchdog_names_what_raises(self, world: World) -> None:
        world.unfinished("1", age=1)
        world.host.problem = RuntimeError("secret")
        with structlog.testing.capture_logs() as logs:
            async with world.running():
                await wait_until(lambda: len(world.notes.looks) >= 3, "three looks")
        said = [str(line) for line in logs if "InProcessHost.statuses" in str(line)]
        assert len(said) == 1, said  # once, and not at each look
        assert "secret" not in str(logs)


class TestMeasured:
    async def test_each_stretch_is_measured_and_waiting_is_none(self) -> None:
        clock, told = FakeClock(), list[float]()

        async def work() -> str:
            clock.advance(2)
            await asyncio.sleep(0)
            clock.advance(3)
            return "done"

        assert await Measured(work(), lambda: clock.read().awake_seconds, told.append) == "done"
        assert told == [2, 3]

    async def test_a_cancellation_and_an_error_reach_what_is_awaited(self) -> None:
        told: list[float] = []
        seen: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise ZeroDivisionError from None

        async def measured() -> None:
            await Measured(work(), time.monotonic, told.append)

        task = asyncio.create_task(measured())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(ZeroDivisionError):
            await task
        assert seen == ["cancelled"]
        assert len(told) == 2


def test_what_goes_wrong_again_and_again_is_said_seldom() -> None:
    clock = FakeClock()
    seldom = Seldom(clock)
    said = []
    for seconds, how_much in [(0, 1.0), (1, 1.5), (1, 2.0), (1, 3.0), (60, 0.5), (1, 0.6)]:
        clock.advance(seconds)
        said.append(seldom.may_say("loop", how_much))
    assert said == [True, False, True, False, True, False]
    assert seldom.may_say("another", 0.1)
