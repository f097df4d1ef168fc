"""Hosts that raise, hang or block, and hosts made of functions: what comes of them, and what the log says."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import structlog

import watchdog
from tests.fakes.clock import FakeClock
from tests.support.waiting import wait_until
from tests.unit.embedding.test_embed import World, world
from tests.unit.embedding.test_hosts import named
from watchdog.embedding.host_calls import Measured, Questions, Seldom
from watchdog.embedding.host_server import EmbeddedServer
from watchdog.errors import ServerAnswerInvalid, ServerError, ServerSilent, ServerUnreachable, WatchdogError
from watchdog.model.outcome import Result
from watchdog.model.session import Activity, Ask, SessionId, Status
from watchdog.timing.clock import Countable, SystemClock

__all__ = ["world"]

ONE = SessionId("ses_1")
BUSY = {ONE: Status(activity=Activity.BUSY)}


def nobody_asks() -> list[Ask]:
    return []


def nothing_ends(_: str) -> None:
    return None


def host(statuses: Any) -> watchdog.CallableHost:  # noqa: ANN401 - good and bad ones
    return watchdog.CallableHost(statuses=statuses, pending_asks=nobody_asks, abort=nothing_ends)


async def asked(statuses: Any, *, seconds: float | None = 5.0) -> Any:  # noqa: ANN401
    return await Questions(host(statuses), SystemClock()).ask("statuses", seconds=seconds)


class TestCallableHost:
    async def test_plain_functions_and_coroutine_functions_make_a_host(self) -> None:
        aborted = []

        async def statuses() -> Mapping[SessionId, Status]:
            await anyio.lowlevel.checkpoint()
            return BUSY

        def abort(session_id: SessionId) -> str:
            aborted.append(session_id)
            return "of no meaning"

        made: watchdog.Host = watchdog.CallableHost(statuses=statuses, pending_asks=nobody_asks, abort=abort)
        assert await made.statuses() == BUSY
        assert await made.pending_asks() == []
        await made.abort(ONE)
        assert aborted == [ONE]

    async def test_its_sessions_are_watched_and_ended(self, world: World) -> None:
        session = world.unfinished("1")
        ended = []

        def abort(session_id: SessionId) -> None:
            ended.append(session_id)
            world.host.busy.clear()
            world.rows.finish_call("prt_1")
            world.rows.finish_turn("msg_1")

        made = watchdog.CallableHost(
            statuses=lambda: dict(world.host.busy),
            pending_asks=nobody_asks,
            abort=abort,
        )
        async with watchdog.running(world.settings(), host=made, engine=world.engine, listeners=[world.notes]):
            assert (await world.result()).result is Result.RECOVERED
        assert ended == [session]


class TestQuestions:
    async def test_what_it_raises_names_the_function_and_the_place_and_not_the_words(self) -> None:
        def raises() -> dict[SessionId, Status]:
            raise RuntimeError("secret")

        with pytest.raises(ServerUnreachable) as caught:
            await asked(partial(raises))
        assert "raises)" in str(caught.value)
        assert "RuntimeError at test_host_calls.py:" in str(caught.value)
        assert "secret" not in str(caught.value)

    async def test_what_hangs_is_timed_out_and_named(self) -> None:
        cancelled = anyio.Event()

        async def hangs() -> dict[SessionId, Status]:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()
            raise AssertionError

        with pytest.raises(ServerSilent, match=r"hangs\) could not answer within 0.05 s"):
            await asked(hangs, seconds=0.05)
        await wait_until(cancelled.is_set, "that it is cancelled")

    async def test_what_blocks_is_named_with_the_time_and_is_no_answer_past_its_limit(self) -> None:
        async def blocks() -> dict[SessionId, Status]:
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

        async def waits() -> dict[SessionId, Status]:
            asyncio.get_running_loop().call_soon(clock.advance, 3.0)  # while others have their turn
            await asyncio.sleep(0)
            return BUSY

        with structlog.testing.capture_logs() as logs:
            assert await Questions(host(waits), clock).ask("statuses", seconds=5.0) == BUSY
        assert clock.now_ms == FakeClock().now_ms + 3000
        assert logs == []

    async def test_an_answer_of_another_type_is_none_and_names_the_function(self) -> None:
        server = EmbeddedServer(host(lambda: None), Countable(SystemClock()))
        with pytest.raises(ServerAnswerInvalid, match=r"<lambda>\) gave no mapping"):
            await server.statuses()

    async def test_an_answer_that_can_not_be_read_is_none_and_names_function_and_place(self) -> None:
        class Changing(dict[SessionId, Status]):
            def items(self) -> Any:  # noqa: ANN401 - it never gives any
                raise RuntimeError("dictionary changed size during iteration")

        class Cut(list[Ask]):
            def __iter__(self) -> Iterator[Ask]:
                raise OSError("words of the host")

        odd = watchdog.CallableHost(statuses=Changing, pending_asks=Cut, abort=lambda _: Changing())
        server = EmbeddedServer(odd, Countable(SystemClock()))
        place = r"could not answer: {} at test_host_calls\.py:\d+$"
        with pytest.raises(ServerUnreachable, match="Changing\\) " + place.format("RuntimeError")):
            await server.statuses()
        with pytest.raises(ServerUnreachable, match="Cut\\) " + place.format("OSError")):
            await server.pending_asks()
        await Questions(odd, SystemClock()).ask("abort", ONE, seconds=None)  # nobody reads that answer

    async def test_a_method_an_object_and_a_partial_have_names(self) -> None:
        class Callable:
            def method(self) -> dict[SessionId, Status]:
                raise ZeroDivisionError

            def __call__(self) -> dict[SessionId, Status]:
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


class TestHostsOfAnotherForm:
    """The form that took a directory is refused when the watchdog is made, and so is what lacks a function."""

    @pytest.mark.parametrize(
        ("what", "old"),
        [
            ("statuses", lambda directory: {}),  # noqa: ARG005
            ("pending_asks", lambda directory: []),  # noqa: ARG005
            ("abort", lambda session_id, directory: None),  # noqa: ARG005
            ("abort", lambda: None),
        ],
    )
    def test_a_function_that_takes_something_else_is_refused_in_a_sentence(
        self, what: str, old: Callable[..., Any]
    ) -> None:
        functions: dict[str, Any] = {"statuses": dict, "pending_asks": nobody_asks, "abort": nothing_ends, what: old}
        with pytest.raises(WatchdogError) as caught:
            watchdog.Watchdog(watchdog.Settings(), host=watchdog.CallableHost(**functions))
        assert f"the host's {what} (tests.unit.embedding.test_host_calls." in str(caught.value)
        assert "take the parameter `directory` out, and answer for every session" in str(caught.value)

    def test_so_is_a_method(self) -> None:
        class Old:
            async def statuses(self, directory: str) -> dict[SessionId, Status]:  # noqa: ARG002
                return {}

        with pytest.raises(
            WatchdogError, match=r"Old\.statuses\) can't be called as statuses\(\), missing .*'directory'"
        ):
            watchdog.Watchdog(watchdog.Settings(), host=Old())  # type: ignore[arg-type]

    def test_a_host_that_lacks_one_is_told_which(self) -> None:
        with pytest.raises(WatchdogError, match=r"The host object has no function statuses\(\): give it one"):
            watchdog.Watchdog(watchdog.Settings(), host=object())  # type: ignore[arg-type]

    def test_a_parameter_that_need_not_be_given_and_a_function_without_a_signature_are_fine(self) -> None:
        class Optional:
            async def statuses(self, directory: str = "") -> dict[SessionId, Status]:  # noqa: ARG002
                return {}

            async def pending_asks(self, *_: str) -> list[Ask]:
                return []

            abort = type  # a class whose signature nothing tells

        watchdog.Watchdog(watchdog.Settings(), host=Optional())  # type: ignore[arg-type]


class Blocked:
    """A host function that waits in a thread, which nothing can cut short, until the test lets it go.

    Args:
        wait: waits in a thread.
    """

    def __init__(self, wait: Callable[[Callable[[], object]], Awaitable[object]] = anyio.to_thread.run_sync) -> None:
        self.gate = threading.Event()
        self.calls = 0
        self.inside = 0
        self._wait = wait

    async def __call__(self, *_: object) -> Any:  # noqa: ANN401
        self.calls += 1
        await self._wait(self._inside)
        return {}

    def _inside(self) -> None:
        self.inside += 1
        self.gate.wait()
        self.inside -= 1


async def in_a_pool(work: Callable[[], object]) -> object:
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def below_a_timeout(work: Callable[[], object]) -> object:
    async with asyncio.timeout(60):
        return await asyncio.to_thread(work)


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    made = Blocked()
    yield made
    made.gate.set()


@pytest.fixture(params=[anyio.to_thread.run_sync, asyncio.to_thread, in_a_pool, below_a_timeout])
def blocked_anyhow(request: pytest.FixtureRequest) -> Iterator[Blocked]:
    made = Blocked(request.param)
    yield made
    made.gate.set()


class TestThreads:
    async def test_what_waits_in_a_thread_is_left_behind_at_its_limit_and_not_asked_again(
        self, blocked_anyhow: Blocked
    ) -> None:
        blocked = blocked_anyhow
        questions = Questions(host(blocked), SystemClock())
        with pytest.raises(ServerSilent, match=r"Blocked\) could not answer within 0.05 s"):
            await questions.ask("statuses", seconds=0.05)
        for _ in range(3):
            with pytest.raises(ServerSilent, match=r"Blocked\) has not ended since it was last asked"):
                await questions.ask("statuses", seconds=60.0)
        assert (blocked.calls, blocked.inside) == (1, 1)
        assert await questions.ask("pending_asks", seconds=5.0) == []
        blocked.gate.set()
        await wait_until(lambda: not blocked.inside, "its end")
        assert await questions.ask("statuses", seconds=5.0) == {}

    async def test_what_waits_for_something_in_the_loop_is_cancelled_and_asked_again(self) -> None:
        calls = 0

        async def waits() -> dict[SessionId, Status]:
            nonlocal calls
            calls += 1
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        questions = Questions(host(waits), SystemClock())
        for _ in range(3):
            with pytest.raises(ServerSilent, match=r"could not answer within 0.05 s"):
                await questions.ask("statuses", seconds=0.05)
        assert calls == 3

    async def test_who_asks_meanwhile_shares_the_next_answer(self) -> None:
        calls, gate = 0, anyio.Event()

        async def counts() -> dict[SessionId, Status]:
            nonlocal calls
            calls += 1
            await gate.wait()
            return dict(BUSY) if calls > 1 else {}

        questions, answers = Questions(host(counts), SystemClock()), list[Any]()

        async def ask() -> None:
            answers.append(await questions.ask("statuses", seconds=60.0))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await wait_until(lambda: calls, "the first question")
            for _ in range(5):
                group.start_soon(ask)
            await anyio.lowlevel.checkpoint()
            gate.set()
        assert (calls, answers) == (2, [{}, *[BUSY] * 5])

    @pytest.mark.parametrize("what", ["statuses", "pending_asks"])
    async def test_looks_go_on_and_the_shutdown_ends_in_its_grace(
        self, world: World, blocked: Blocked, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("watchdog.embedding.host_calls.ANSWER_SECONDS", 0.1)
        world.unfinished("1")
        setattr(world.host, what, blocked)
        async with world.running() as dog:
            await wait_until(lambda: len(world.notes.looks) >= 5, "looks", explain=lambda: str(dog.failure))
        assert (world.host.aborted, {each.result for each in world.notes.ends} & {Result.RECOVERED}) == ([], set())
        assert any("could not answer" in said for said in world.notes.looks[0].observation.degraded)
        assert (blocked.calls, blocked.inside) == (1, 1)  # left behind, and never asked again

    async def test_an_abort_that_waits_in_a_thread_is_left_behind_too(self, world: World, blocked: Blocked) -> None:
        world.unfinished("1")
        world.host.abort = blocked  # type: ignore[method-assign,assignment]
        async with world.running(abort_timeout=timedelta(seconds=0.1), abort_grace=timedelta(seconds=0.1)):
            assert (await world.result()).result is Result.INEFFECTIVE
        assert blocked.inside == 1


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
