"""How a server leaves its watchdog: with any error, by any cancellation, and from any task."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from typing import Any

import anyio
import pytest
import structlog

import watchdog
from tests.support.waiting import SECONDS, wait_until
from tests.unit.embedding.test_embed import World, world
from watchdog.errors import NotActing, UsageError
from watchdog.model.outcome import Result

__all__ = ["world"]

LEAVE: list[BaseException] = [
    SystemExit(3),
    KeyboardInterrupt(),
    pytest.fail.Exception("a test of the server's failed"),
    pytest.skip.Exception("nothing to do"),
    asyncio.CancelledError("of what the block awaited"),
    BaseExceptionGroup("the server's own", [SystemExit(3)]),
    ValueError("an ordinary one"),
]


def each(errors: list[BaseException]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("error", errors, ids=[type(error).__name__ for error in errors])


def dog_of(world: World) -> watchdog.Watchdog:
    return watchdog.Watchdog(world.settings(), host=world.host, engine=world.engine, listeners=[world.notes])


class TestErrors:
    """What leaves the block is what was raised in it: no group, and nothing swallowed."""

    @each(LEAVE)
    @pytest.mark.parametrize("way", ["running", "lifespan"])
    async def test_it_comes_out_as_what_it_is(self, world: World, way: str, error: BaseException) -> None:
        def context() -> AbstractAsyncContextManager[Any]:
            if way == "running":
                return world.running()
            return watchdog.lifespan(world.settings(), host=world.host, engine=world.engine)(object())

        with pytest.raises(type(error)) as caught:  # noqa: PT012
            async with context():
                await asyncio.sleep(0)
                raise error
        assert caught.value is error
        async with world.running():  # and nothing is held any more
            pass

    @each(LEAVE[:2])
    async def test_beside_serve_an_asyncio_group_gives_it_bare(self, world: World, error: BaseException) -> None:
        with pytest.raises(type(error)) as caught:  # noqa: PT012
            async with asyncio.TaskGroup() as group:
                group.create_task(dog_of(world).serve())
                await wait_until(lambda: world.notes.looks, "a look")
                raise error
        assert caught.value is error

    @each([*LEAVE[:3], *LEAVE[-1:]])
    async def test_beside_serve_nothing_of_the_watchdogs_joins_it_in_the_servers_group(
        self, world: World, error: BaseException
    ) -> None:
        with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
            async with anyio.create_task_group() as group:
                await group.start(dog_of(world).serve)
                raise error
        assert caught.value.exceptions == (error,)

    async def test_one_of_the_watchdogs_own_tasks_comes_out_as_what_it_is_too(self, world: World) -> None:
        error = pytest.fail.Exception("no verdict was to be found here")

        def found(_: object) -> None:
            raise error

        world.notes.found = found  # type: ignore[method-assign,assignment]
        world.unfinished("1")
        with structlog.testing.capture_logs() as logs, pytest.raises(pytest.fail.Exception) as caught:  # noqa: PT012
            async with world.running() as dog:
                await wait_until(lambda: dog.failure, "the failure")
                with pytest.raises(NotActing, match="failed"):
                    await dog.release("ses_1")
        assert caught.value is error
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["watch.failed"]
        with structlog.testing.capture_logs(), pytest.raises(pytest.fail.Exception), anyio.fail_after(SECONDS):
            await dog_of(world).serve()

    async def test_it_outweighs_a_cancellation_that_comes_while_the_watchdog_ends(self, world: World) -> None:
        world.unfinished("1")
        begun, go_on = anyio.Event(), anyio.Event()

        async def waits(*_: object) -> None:
            begun.set()
            await go_on.wait()

        world.host.abort = waits  # type: ignore[method-assign,assignment]

        async def serves() -> None:
            async with world.running():
                await begun.wait()
                raise ValueError("the server's own")

        task = asyncio.create_task(serves())
        await begun.wait()
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        go_on.set()
        with pytest.raises(ValueError, match="the server's own"):
            await task

    def test_a_process_that_exits_inside_does_so_with_its_code_and_says_nothing(self, world: World) -> None:
        done = subprocess.run(
            [sys.executable, "-c", EXITS, str(world.path)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


EXITS = textwrap.dedent("""
    import asyncio, sys
    import watchdog
    from pathlib import Path

    async def main():
        host = watchdog.CallableHost(statuses=lambda *_: {}, pending_asks=lambda *_: [], abort=lambda *_: None)
        async with watchdog.running(watchdog.Settings(database=Path(sys.argv[1]), journal="off"), host=host):
            sys.exit(3)

    asyncio.run(main())
""")


class TestCancellation:
    """It means what it meant: whoever cancelled learns that it came through, and the task can go on."""

    async def test_a_timeout_of_asyncio_is_one(self, world: World) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), world.running():
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    async def test_a_scope_of_anyio_is_left_by_it(self, world: World) -> None:
        with anyio.CancelScope() as scope:
            async with world.running():
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        await asyncio.sleep(0)

    async def test_the_failure_of_a_sibling_ends_the_block_and_comes_out_alone(self, world: World) -> None:
        async def fails() -> None:
            await wait_until(lambda: world.notes.looks, "a look")
            raise ValueError

        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with asyncio.TaskGroup() as group, world.running():
                group.create_task(fails())
                await asyncio.Event().wait()
        assert [type(error) for error in caught.value.exceptions] == [ValueError]

    async def test_one_that_comes_while_it_opens_leaves_nothing_behind(self, world: World) -> None:
        for steps in range(0, 40, 4):
            task = asyncio.create_task(dog_of(world).serve())
            for _ in range(steps):
                await asyncio.sleep(0.0005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with world.running():
            assert [one.get_name() for one in asyncio.all_tasks() if one.get_name() == "watchdog"] == ["watchdog"]

    async def test_whoever_cancels_the_watchdogs_own_task_reads_of_it_in_the_log(self, world: World) -> None:
        with structlog.testing.capture_logs() as logs:
            async with world.running() as dog:
                (own,) = [task for task in asyncio.all_tasks() if task.get_name() == "watchdog"]
                own.cancel()
                await wait_until(own.done, "the end of the task")
                with pytest.raises(NotActing, match="does not run"):
                    await dog.release("ses_1")
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["watch.cancelled"]


async def in_a_task_of_its_own(step: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the step gives
    """As a framework does that starts in one task and stops in another."""

    async def takes_it() -> Any:  # noqa: ANN401 - as above
        return await step()

    return await asyncio.create_task(takes_it())


class TestTasks:
    """It may be started in one task and left in another, as frameworks with two hooks do."""

    async def test_it_watches_between_a_hook_that_starts_it_and_one_that_stops_it(self, world: World) -> None:
        session = world.unfinished("1")
        stack = AsyncExitStack()
        dog = await in_a_task_of_its_own(lambda: stack.enter_async_context(world.running()))
        assert (await world.result()).result is Result.RECOVERED
        assert world.host.aborted == [session]
        await in_a_task_of_its_own(stack.aclose)
        with pytest.raises(NotActing, match="does not run"):
            await dog.release(session)

    @pytest.fixture
    async def dog(self, world: World) -> AsyncIterator[watchdog.Watchdog]:
        async with world.running() as dog:
            yield dog

    async def test_a_fixture_may_hold_it(self, world: World, dog: watchdog.Watchdog) -> None:
        session = world.unfinished("1", age=1)
        (outcome,) = await dog.release(session)
        assert outcome.result is Result.RECOVERED

    async def test_a_generator_that_nobody_finishes_ends_it(self, world: World) -> None:
        async def forgotten() -> AsyncIterator[None]:
            async with world.running():
                yield

        generator = forgotten()
        await anext(generator)
        del generator
        await wait_until(lambda: not own_tasks(), "the end of the watchdog")
        async with world.running():
            pass

    async def test_a_hook_that_stops_it_may_be_in_a_hurry(self, world: World) -> None:
        world.unfinished("1")
        begun = anyio.Event()

        async def hangs(*_: object) -> None:
            begun.set()
            await anyio.sleep_forever()

        world.host.abort = hangs  # type: ignore[method-assign,assignment]
        stack = AsyncExitStack()
        await in_a_task_of_its_own(
            lambda: stack.enter_async_context(world.running(shutdown_grace=timedelta(seconds=0.1)))
        )
        await begun.wait()
        with pytest.raises(watchdog.WatchdogError, match="ses_1"):
            await in_a_task_of_its_own(stack.aclose)

    async def test_in_another_event_loop_it_is_said_what_to_do(self, world: World) -> None:
        context = world.running()
        dog = await context.__aenter__()

        def elsewhere(step: Callable[[], Any]) -> None:
            async def takes_it() -> None:
                await step()

            asyncio.run(takes_it())

        with pytest.raises(UsageError, match=r"another event loop.*run_coroutine_threadsafe"):
            await asyncio.to_thread(elsewhere, lambda: dog.release("ses_1"))
        with pytest.raises(UsageError, match="another event loop"):
            await asyncio.to_thread(elsewhere, lambda: context.__aexit__(None, None, None))
        await wait_until(lambda: not own_tasks(), "the end of the watchdog")


def own_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "watchdog"]
