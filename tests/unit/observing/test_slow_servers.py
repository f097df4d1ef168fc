"""Servers that accept and never answer: one look waits for each, and a probe finds out when they answer again."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import FakeServer
from watchdog.errors import ServerAnswerInvalid, ServerError, ServerSilent
from watchdog.model.session import SessionId, Status
from watchdog.observing.questions import Said, ask
from watchdog.observing.slow_servers import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Silences

SECONDS = 60.0
SILENT = ServerSilent("it did not answer within 5 s")


class Asked(FakeServer):
    """A server that keeps where it was asked, and that fails in some places.

    Attributes:
        failing: what it fails with, by directory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.failing: dict[str, ServerError] = {}

    async def statuses(self, directory: str) -> dict[SessionId, Status]:
        self.asked.append(directory)
        if directory in self.failing:
            raise self.failing[directory]
        return await super().statuses(directory)


def trouble(said: Said) -> str | None:
    """What came in the way of an answer, if anything did."""
    return said.problem or next(iter(said.problems.values()), None)


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.server = Asked()
        self.silences = Silences(self.clock)
        self.wakes = 0

    @asynccontextmanager
    async def probing(self) -> AsyncIterator[None]:
        with anyio.fail_after(SECONDS):
            async with self.silences.probing(self._wake):
                yield

    def _wake(self) -> None:
        self.wakes += 1

    async def report(self, *directories: str) -> tuple[set[str], str | None]:
        """What a look says of the server: where it answered, and its problem."""
        report = await ask(self.server, directories, silences=self.silences)
        assert set(report.asks) == set(report.statuses)
        return set(report.statuses), trouble(report)

    async def probe(self) -> float:
        """Let the next probe happen. Returns how long it was waited for."""
        await self.clock.until_sleeping()
        before = self.clock.read().awake_seconds
        await self.clock.advance_to_next()
        await anyio.wait_all_tasks_blocked()
        return self.clock.read().awake_seconds - before


@pytest.fixture
def world() -> World:
    return World()


async def test_who_looks_once_waits_for_each_server(world: World) -> None:
    world.server.failing["/a"] = SILENT
    assert await world.report("/a") == await world.report("/a") == (set(), str(SILENT))
    assert world.server.asked == ["/a", "/a"]


async def test_a_silent_server_is_not_asked_again_by_a_look_and_reads_as_before(world: World) -> None:
    world.server.failing["/a"] = SILENT
    async with world.probing():
        first = await world.report("/a")
        assert await world.report("/a") == first == (set(), str(SILENT))
        assert world.server.asked == ["/a"]


async def test_one_probe_at_a_time_asks_with_growing_pauses(world: World) -> None:
    world.server.failing = {"/a": SILENT, "/b": SILENT}
    async with world.probing():
        await world.report("/a", "/b")
        world.server.asked.clear()
        pauses = [await world.probe() for _ in range(6)]
        assert world.clock.sleepers == 1
        assert world.wakes == 0
    assert pauses == pytest.approx([FIRST_PAUSE_SECONDS, 2, 4, 8, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS])
    assert world.server.asked == ["/a", "/b"] * 3


async def test_when_it_answers_again_a_look_is_woken_which_asks_it_as_ever(world: World) -> None:
    world.server.failing["/a"] = SILENT
    async with world.probing():
        await world.report("/a")
        world.server.failing.clear()
        assert await world.report("/a") == (set(), str(SILENT))  # an answer that nobody has had proves nothing
        await world.probe()
        assert world.wakes == 1
        world.server.asked.clear()
        assert await world.report("/a") == ({"/a"}, None)
        assert world.server.asked == ["/a"]


async def test_what_it_says_to_a_probe_is_never_taken_for_what_it_says_to_a_look(world: World) -> None:
    world.server.busy(SessionId("ses_1"), "/a")
    world.server.failing["/a"] = SILENT
    async with world.probing():
        await world.report("/a")
        world.server.failing.clear()
        await world.probe()
        world.server.failing["/a"] = ServerSilent("silent again")
        assert await world.report("/a") == (set(), "silent again")


async def test_one_that_fails_in_another_way_is_left_to_the_look(world: World) -> None:
    world.server.failing["/a"] = SILENT
    async with world.probing():
        await world.report("/a")
        world.server.failing["/a"] = ServerAnswerInvalid("it answered 500")
        await world.probe()
        assert world.wakes == 1
        assert await world.report("/a") == (set(), "it answered 500")
        assert await world.report("/a") == (set(), "it answered 500")
        assert world.server.asked == ["/a"] * 4


async def test_where_it_answers_it_is_asked_and_where_it_does_not_nobody_waits(world: World) -> None:
    world.server.failing["/a"] = SILENT
    async with world.probing():
        await world.report("/a", "/b")
        world.server.asked.clear()
        assert await world.report("/a", "/b") == ({"/b"}, str(SILENT))
        assert world.server.asked == ["/b"]


async def test_where_nothing_is_unfinished_any_more_there_is_no_problem_and_no_probe(world: World) -> None:
    world.server.failing["/a"] = SILENT
    async with world.probing():
        await world.report("/a")
        assert await world.report() == (set(), None)
        world.server.asked.clear()
        await world.probe()
        assert (world.server.asked, world.clock.sleepers, world.wakes) == ([], 0, 0)
        assert await world.report("/a") == (set(), str(SILENT))
        assert world.server.asked == ["/a"]


async def test_it_ends_with_what_it_is_for(world: World) -> None:
    world.server.failing["/a"] = SILENT
    async with world.probing():
        await world.report("/a")
        await world.clock.until_sleeping()
    assert world.clock.sleepers == 0
    world.server.asked.clear()
    assert await world.report("/a") == (set(), str(SILENT))
    assert world.server.asked == ["/a"]


class Slow(Asked):
    """A server that answers once it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = anyio.Event()

    async def statuses(self, directory: str) -> dict[SessionId, Status]:
        self.asked.append(directory)
        await self.answering.wait()
        return {}


async def test_a_server_that_becomes_slow_delays_no_look_and_is_waited_for_once_it_is_known_how_long_it_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchdog.observing.slow_servers.SHORTEST_PATIENCE_SECONDS", 0.01)
    slow = world.server = Slow()
    slow.answering.set()
    async with world.probing():
        assert math.isinf(world.silences.patience(slow))
        assert await world.report("/a") == ({"/a"}, None)
        slow.answering, slow.asked = anyio.Event(), []
        answered, problem = await world.report("/a")
        assert answered == set()
        assert problem == f"{slow.name} has not answered for 0.01 s."
        await anyio.wait_all_tasks_blocked()
        assert slow.asked == ["/a", "/a"]  # the probe asks at once, and goes on waiting
        assert await world.report("/a") == (set(), problem)
        world.clock.advance(3)
        slow.answering.set()
        await anyio.wait_all_tasks_blocked()
        assert world.wakes == 1
        assert world.silences.patience(slow) == 6
        assert await world.report("/a") == ({"/a"}, None)


@pytest.mark.parametrize("what", ["pending_asks", "vouches"])
async def test_a_look_that_was_cut_short_makes_the_next_one_twice_as_patient_whatever_was_slow(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("watchdog.observing.slow_servers.SHORTEST_PATIENCE_SECONDS", 0.01)
    async with world.probing():
        assert (await world.report("/a"))[1] is None
        once = getattr(world.server, what)

        async def slow(*args: str) -> object:
            await anyio.sleep(0.05)
            return await once(*args)

        monkeypatch.setattr(world.server, what, slow)
        patience = []
        while trouble(await ask(world.server, ["/a"], silences=world.silences)):
            patience.append(world.silences.patience(world.server))
        assert patience[:2] == [0.02, 0.04]
        assert patience == [0.02 * 2**number for number in range(len(patience))]


async def test_who_looks_once_is_patient_without_end(world: World) -> None:
    assert math.isinf(world.silences.patience(world.server))
