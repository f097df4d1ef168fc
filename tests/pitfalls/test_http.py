"""The wire: who is told a password, what is asked again, and what a server that misbehaves does to a watchdog."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import loopback, read_request, reply
from tests.support.database import OpencodeFile
from tests.support.program import Program, path, program, rows
from tests.support.recorder import Recorder, recorder
from tests.support.waiting import wait_until
from watchdog.errors import ServerError, ServerRefused, ServerUnreachable
from watchdog.model.report import Holder, Holders, Served, ServerReport, Shown
from watchdog.model.session import Ask as PendingAsk
from watchdog.model.session import AskKind, SessionId, TurnId
from watchdog.observing.observe import trouble_of
from watchdog.opencode.http.client import OpencodeServer
from watchdog.opencode.http.peers import party_of
from watchdog.opencode.http.trust import Trust

__all__ = ["path", "program", "rows"]

PASSWORD = "hunter2"  # noqa: S105 - it must go to one only
FOLDER = "/home/someone/project"
S1 = SessionId("ses_1")


def asking(url: str, *, found: Recorder | None = None, clock: FakeClock | None = None) -> OpencodeServer:
    """A server as the watchdog sees it: configured, or found as that process."""
    party = None if found is None else party_of(found.process.pid)
    return OpencodeServer(
        url,
        clock=clock or FakeClock(),
        rng=random.Random(1),  # noqa: S311
        password=PASSWORD,
        trust=Trust(expected=party),
        timeout_seconds=20,
    )


@asynccontextmanager
async def redirecting(to: str) -> AsyncIterator[str]:
    """A server that wants to be asked elsewhere, with what must not be shown in the address."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            where = to.replace("://", f"://me:{PASSWORD}@")
            head = f"HTTP/1.1 302 Found\r\nlocation: {where}/login?token={PASSWORD}#x\r\ncontent-length: 0\r\n\r\n"
            writer.write(head.encode())
            await writer.drain()

    async with loopback(handle) as url:
        yield url


def shown(it: OpencodeServer) -> Served:
    """That it serves the database is not what these tests are about."""
    return Served(server=it.name, by=Shown.PROCESS)


Ask = Callable[[OpencodeServer], Awaitable[object]]


async def _listens(server: OpencodeServer) -> None:
    assert await server.feed.sample(20) is None


ASKS: dict[str, Ask] = {
    "a question": lambda it: it.statuses(FOLDER),
    "a version": lambda it: it.version(),
    "an abort": lambda it: it.abort(shown(it), S1, FOLDER),
    "the feed": _listens,
}
each_ask = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
found_or_configured = pytest.mark.parametrize("found", [True, False], ids=["found", "configured"])


async def tried(ask: Ask, it: OpencodeServer) -> None:
    """Ask, whatever comes of it."""
    try:
        await ask(it)
    except (ServerError, AssertionError):
        return


class TestThePasswordGoesOnlyToAServerThatAskedForOneAndIsWhoItWas:
    @found_or_configured
    @each_ask
    async def test_one_that_does_not_ask_is_told_nothing(self, tmp_path: Path, ask: Ask, *, found: bool) -> None:
        with recorder(tmp_path, "open") as there:
            async with asking(there.url, found=there if found else None) as it:
                await tried(ask, it)
            assert there.requests
            assert there.passwords == []

    @found_or_configured
    @pytest.mark.parametrize("mode", ["guarded", "guarded-closing"])
    @pytest.mark.parametrize("ask", [ASKS["a question"], ASKS["the feed"]], ids=["a question", "the feed"])
    async def test_one_that_asks_is_told_after_it_asked(
        self, tmp_path: Path, ask: Ask, mode: str, *, found: bool
    ) -> None:
        with recorder(tmp_path, mode) as there:
            async with asking(there.url, found=there if found else None) as it:
                await ask(it)
            assert "authorization" not in there.requests[0]
            assert len(there.passwords) == 1

    async def test_a_kept_connection_on_which_it_asked_needs_no_second_refusal(self, tmp_path: Path) -> None:
        with recorder(tmp_path, "guarded") as there:
            async with asking(there.url) as it:
                for _ in range(3):
                    await it.version()
                    await it.statuses(FOLDER)
            assert [("authorization" in each) for each in there.requests] == [False, True, True, True, True]

    async def test_each_new_connection_is_asked_without_it_first(self, tmp_path: Path) -> None:
        clock = FakeClock()
        with recorder(tmp_path, "guarded") as there:
            async with asking(there.url, clock=clock) as it:
                await it.statuses(FOLDER)
                clock.advance(3_600)
                await it.statuses(FOLDER)
            assert [("authorization" in each) for each in there.requests] == [False, True, False, True]

    @found_or_configured
    @each_ask
    @pytest.mark.parametrize("mode", ["open", "guarded", "greedy", "greedy-closing"])
    async def test_a_program_that_took_its_port_is_told_nothing(
        self, tmp_path: Path, ask: Ask, mode: str, *, found: bool
    ) -> None:
        with recorder(tmp_path, "guarded") as there:
            async with asking(there.url, found=there if found else None) as it:
                await it.statuses(FOLDER)
                await _listens(it)
                assert len(there.passwords) == 2
                there.end()
                with recorder(tmp_path, mode, port=there.port, name="thief") as thief:
                    await tried(ask, it)  # the first may meet a kept connection, the second a new one
                    await tried(ask, it)
                    assert thief.passwords == []
                    assert bool(thief.requests) is not found  # to one that was found, nothing at all is sent

    async def test_what_is_wrong_is_said(self, tmp_path: Path) -> None:
        with recorder(tmp_path, "guarded") as there:
            async with asking(there.url) as it, asking(there.url, found=there) as known:
                await it.version()
                await known.version()
                there.end()
                with recorder(tmp_path, "greedy", port=there.port, name="thief") as thief:
                    with pytest.raises(
                        ServerRefused, match=f"not sent to it: it was .*{there.process.pid}.*now it is"
                    ):
                        await it.statuses(FOLDER)
                    with pytest.raises(ServerUnreachable, match=f"now .* \\(pid {thief.process.pid}\\) listens"):
                        await known.statuses(FOLDER)

    async def test_a_configured_server_that_was_started_anew_is_told(self, tmp_path: Path) -> None:
        with recorder(tmp_path, "guarded") as there:
            async with asking(there.url) as it:
                await it.statuses(FOLDER)
                there.end()
                with recorder(tmp_path, "guarded", port=there.port) as again:
                    assert await it.statuses(FOLDER) == {}
                    assert len(again.passwords) == 2

    async def test_another_program_that_has_the_database_open_is_told(self, tmp_path: Path) -> None:
        with recorder(tmp_path, "guarded") as there:
            async with asking(there.url) as it:
                await it.statuses(FOLDER)
                there.end()
                with recorder(tmp_path, "guarded", port=there.port, name="upgraded") as other:
                    with pytest.raises(ServerRefused):
                        await it.statuses(FOLDER)
                    party = party_of(other.process.pid)
                    assert party is not None
                    born_ms = round(party.process.create_time() * 1000)
                    holder = Holder(pid=other.process.pid, born_ms=born_ms, command="opencode serve")
                    it.know(Holders(known=(replace(holder, born_ms=born_ms - 60_000),)))
                    with pytest.raises(ServerRefused):
                        await it.statuses(FOLDER)  # an earlier process of its pid had it open
                    it.know(Holders(known=(holder,)))
                    assert await it.statuses(FOLDER) == {}

    async def test_a_redirect_carries_nothing_and_is_not_followed(self, tmp_path: Path) -> None:
        """65: and is called a redirect."""
        with recorder(tmp_path, "open", name="elsewhere") as elsewhere:
            async with redirecting(elsewhere.url) as url, asking(url) as it:
                with pytest.raises(ServerError) as caught:
                    await it.statuses(FOLDER)
                assert f"answered 302, a redirect to {elsewhere.url}/login, which is not followed" in str(
                    caught.value
                )
                assert PASSWORD not in str(caught.value)
                assert await it.feed.sample(20) == "its event stream answered 302"
            assert elsewhere.requests == []


class Closing:
    """A server that closes a kept connection at the next request on it, without a word or after a part of one.

    Attributes:
        asked: the requests that came, with the number of their connection.
        parting: what it says before it closes.
    """

    def __init__(self, parting: bytes = b"", *, first: bool = False) -> None:
        self.asked: list[tuple[int, str]] = []
        self.parting = parting
        self.first = first
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        if not self.first:
            await self._answer(number, reader, writer)
        request = await read_request(reader)
        self.asked.append((number, request.method))
        writer.write(self.parting)
        await writer.drain()

    async def _answer(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        self.asked.append((number, request.method))
        writer.write(reply([] if request.path[0] in {"question", "permission"} else {}))
        await writer.drain()


class TestAKeptConnectionThatTheOtherSideClosesJustThenIsAskedOnceMoreOnANewOne:
    """66."""

    async def test_a_question_is(self) -> None:
        there = Closing()
        async with loopback(there.handle) as url, asking(url) as it:
            assert await it.statuses(FOLDER) == {}
            assert await it.statuses(FOLDER) == {}
            assert there.asked == [(1, "GET"), (1, "GET"), (2, "GET")]

    @pytest.mark.parametrize(
        "act",
        [
            lambda it: it.abort(shown(it), S1, FOLDER),
            lambda it: it.delete_message(shown(it), S1, TurnId("msg_1"), FOLDER),
            lambda it: it.reject(shown(it), PendingAsk(id="que_1", kind=AskKind.QUESTION, session_id=S1), FOLDER),
            lambda it: it._ask("PATCH", "/session/ses_1/message/msg_1/part/prt_1", FOLDER, content=b"{}"),
        ],
        ids=["abort", "delete", "reject", "publish"],
    )
    async def test_what_changes_something_never_is(self, act: Ask) -> None:
        there = Closing()
        async with loopback(there.handle) as url, asking(url) as it:
            assert await it.statuses(FOLDER) == {}
            with pytest.raises(ServerUnreachable):
                await act(it)
            assert [number for number, _ in there.asked] == [1, 1]

    async def test_one_that_was_kept_for_long_is_not_used_for_what_is_sent_once(self) -> None:
        there, clock = Closing(), FakeClock()
        async with loopback(there.handle) as url, asking(url, clock=clock) as it:
            assert await it.statuses(FOLDER) == {}
            clock.advance(3)
            with pytest.raises(ServerError, match="did not agree"):
                await it.abort(shown(it), S1, FOLDER)
            assert there.asked == [(1, "GET"), (2, "POST")]

    async def test_a_question_is_not_asked_again_once_a_byte_came(self) -> None:
        there = Closing(b"HTTP/1.1 200")
        async with loopback(there.handle) as url, asking(url) as it:
            assert await it.statuses(FOLDER) == {}
            with pytest.raises(ServerError):
                await it.statuses(FOLDER)
            assert there.asked == [(1, "GET"), (1, "GET")]

    async def test_a_question_on_a_new_connection_is_not_asked_again(self) -> None:
        there = Closing(first=True)
        async with loopback(there.handle) as url, asking(url) as it:
            with pytest.raises(ServerUnreachable):
                await it.statuses(FOLDER)
            assert there.asked == [(1, "GET")]

    async def test_one_that_was_closed_while_nobody_asked_is_not_used(self) -> None:
        """The system knows that it is closed before anything is sent."""
        asked: list[str] = []

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await read_request(reader)).method)
            writer.write(reply(True))
            await writer.drain()

        async with loopback(once) as url, asking(url) as it:
            for _ in range(3):
                await it.abort(shown(it), S1, FOLDER)
        assert asked == ["POST"] * 3


class TestAnEventStreamThatAProxyHoldsBackIsDegradedAndSaidByCheck:
    """56."""

    @staticmethod
    async def _held_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A proxy that buffers: the head of the stream comes, and nothing else."""
        while True:
            request = await read_request(reader)
            if request.path == ("global", "event"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
                await writer.drain()
                await asyncio.Event().wait()
            healthy = {"healthy": True, "version": "1.18.33"}
            writer.write(reply([] if request.path[0] in {"question", "permission"} else healthy))
            await writer.drain()

    async def test_it_is_degraded_after_as_long_as_a_connection_may_be_silent(self) -> None:
        clock = FakeClock()
        async with (
            loopback(self._held_back) as url,
            asking(url, clock=clock) as it,
            anyio.create_task_group() as group,
        ):
            await group.start(it.feed.run)
            assert it.witness().deaf is None
            clock.advance(34)
            assert trouble_of(ServerReport(name=it.name, witness=it.witness())) is None
            clock.advance(2)
            said = trouble_of(ServerReport(name=it.name, witness=it.witness()))
            assert said is not None
            assert said.startswith(f"{url} answers, but ")
            assert "the idle rule is off" in said
            # A problem of its answers says more.
            assert (
                trouble_of(ServerReport(name=it.name, witness=it.witness(), problem="It is down.")) == "It is down."
            )
            group.cancel_scope.cancel()

    async def test_it_is_no_more_once_something_is_heard(self) -> None:
        clock, heard = FakeClock(), asyncio.Event()

        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            await heard.wait()
            writer.write(b'data: {"payload":{"type":"server.connected","properties":{}}}\n\n')
            await writer.drain()
            await asyncio.Event().wait()

        async with loopback(late) as url, asking(url, clock=clock) as it, anyio.create_task_group() as group:
            await group.start(it.feed.run)
            clock.advance(36)
            assert it.witness().deaf is not None
            heard.set()
            await wait_until(lambda: it.witness().connected, "the feed")
            assert it.witness().deaf is None
            group.cancel_scope.cancel()

    async def test_a_look_that_listens_to_nothing_says_nothing_of_it(self) -> None:
        clock = FakeClock()
        async with loopback(self._held_back) as url, asking(url, clock=clock) as it:
            clock.advance(3_600)
            assert it.witness().deaf is None

    async def test_check_says_so_and_what_it_costs(self, program: Program, rows: OpencodeFile) -> None:
        async with loopback(self._held_back) as url:
            done = await program.run("check", "--database", rows.path, "--server", url)
        assert f"{url} answers, but its event stream delivered nothing within 3 s" in done.stdout
        assert "the idle rule is off" in done.stdout
