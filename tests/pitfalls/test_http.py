"""The wire: who is told a password, what is asked again, and what a server that misbehaves does to a watchdog."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import loopback, read_request
from tests.support.recorder import Recorder, recorder
from watchdog.errors import ServerError, ServerRefused, ServerUnreachable
from watchdog.model import Holder, Holders, SessionId
from watchdog.opencode.peers import party_of
from watchdog.opencode.server import OpencodeServer
from watchdog.opencode.trust import Trust

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


Ask = Callable[[OpencodeServer], Awaitable[object]]


async def _listens(server: OpencodeServer) -> None:
    assert await server.feed.sample(20) is None


ASKS: dict[str, Ask] = {
    "a question": lambda it: it.statuses(FOLDER),
    "a version": lambda it: it.version(),
    "an abort": lambda it: it.abort(S1, FOLDER),
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
                    pid = other.process.pid
                    it.know(Holders(known=(Holder(pid=pid, born_ms=0, command="opencode serve"),)))
                    assert await it.statuses(FOLDER) == {}

    async def test_a_redirect_carries_nothing_and_is_not_followed(self, tmp_path: Path) -> None:
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
