"""Which servers are asked: the configured ones, and those found on the ports of the database's holders."""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import FakeServer, Handler, endpoint, loopback, over_http, read_request, reply
from tests.support.recorder import recorder
from tests.support.waiting import wait_until
from watchdog.errors import ServerRefused, SettingsError
from watchdog.model.report import Holder, Holders
from watchdog.opencode.http.client import OpencodeServer
from watchdog.opencode.http.fleet import OpencodeFleet
from watchdog.opencode.http.peers import Party, party_of
from watchdog.opencode.http.trust import Trust

BORN = 1_700_000_000_000


class World:
    """A fleet's surroundings."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.made: list[OpencodeServer] = []

    def connect(self, url: str, *, found: Party | None = None) -> OpencodeServer:
        made = OpencodeServer(
            url,
            clock=self.clock,
            rng=random.Random(3),  # noqa: S311
            password="pw",  # noqa: S106
            trust=Trust(expected=found),
        )
        self.made.append(made)
        return made

    @asynccontextmanager
    async def fleet(
        self,
        *urls: str,
        discover: bool = True,
        feeds: bool = False,
        identify: Callable[[Holder], Party | None] | None = None,
    ) -> AsyncIterator[OpencodeFleet]:
        fleet = OpencodeFleet(
            urls, connect=self.connect, clock=self.clock, discover=discover, feeds=feeds, identify=identify or us
        )
        async with anyio.create_task_group() as group:
            fleet.start(group)
            yield fleet
            await fleet.aclose()
        assert all(made._client.is_closed for made in self.made)


def us(_: Holder) -> Party | None:
    """The servers of these tests are in this process, whatever pid a test gives the holder."""
    return party_of(os.getpid())


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def holding(*ports: int, pid: int = 4242, born_ms: int = BORN, embeds_us: bool = False) -> Holders:
    return Holders(
        known=(
            Holder(
                pid=pid,
                born_ms=born_ms,
                command="opencode serve",
                endpoints=tuple(map(endpoint, ports)),
                embeds_us=embeds_us,
            ),
        )
    )


def names(fleet: OpencodeFleet) -> list[str]:
    return [str(server.name) for server in fleet.servers()]


async def test_a_server_on_a_holders_port_is_found_once_and_forgotten_with_its_process() -> None:
    async with loopback(over_http(FakeServer())) as url, World().fleet("http://127.0.0.1:1") as fleet:
        await fleet.discover(holding(port_of(url)))
        assert names(fleet) == ["http://127.0.0.1:1", url]
        found = fleet.servers()[1]
        await fleet.discover(holding(port_of(url), born_ms=BORN + 1500))  # a birth moves a little with the clock
        assert fleet.servers()[1] is found
        await fleet.discover(Holders())
        assert names(fleet) == ["http://127.0.0.1:1"]
        assert found._client.is_closed


async def test_another_process_on_the_same_port_with_the_same_pid_is_another_server() -> None:
    async with loopback(over_http(FakeServer())) as url, World().fleet() as fleet:
        await fleet.discover(holding(port_of(url)))
        found = fleet.servers()[0]
        await fleet.discover(holding(port_of(url), born_ms=BORN + 60_000))
        assert names(fleet) == [url]
        assert fleet.servers()[0] is not found


async def test_a_server_that_closed_its_port_is_forgotten() -> None:
    async with loopback(over_http(FakeServer())) as url, World().fleet() as fleet:
        await fleet.discover(holding(port_of(url)))
        await fleet.discover(holding())
        assert names(fleet) == []


async def test_a_configured_server_is_not_found_a_second_time_under_another_name() -> None:
    async with loopback(over_http(FakeServer())) as url:
        configured = f"http://localhost:{port_of(url)}"
        async with World().fleet(configured) as fleet:
            await fleet.discover(holding(port_of(url)))
            assert names(fleet) == [configured]


async def test_two_names_of_one_port_are_one_server_and_the_unused_one_is_closed() -> None:
    world = World()
    urls = ("http://127.0.0.1:5", "http://localhost:5", "http://10.0.0.1:5", "http://10.0.0.1:5/", "http://[::1]:6")
    async with world.fleet(*urls) as fleet:
        assert names(fleet) == ["http://127.0.0.1:5", "http://10.0.0.1:5", "http://[::1]:6"]


async def test_with_discovery_off_nobody_is_asked() -> None:
    world = World()
    async with loopback(over_http(FakeServer())) as url, world.fleet(discover=False) as fleet:
        await fleet.discover(holding(port_of(url)))
        assert world.made == []


async def test_the_process_that_embeds_the_watchdog_is_not_asked_over_http() -> None:
    async with loopback(over_http(FakeServer())) as url, World().fleet() as fleet:
        await fleet.discover(holding(port_of(url), embeds_us=True))
        assert names(fleet) == []


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(reply({"not": "opencode"}))
    await writer.drain()


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await read_request(reader)
    await asyncio.Event().wait()


@pytest.mark.parametrize("handler", [refuse, hang])
async def test_a_port_that_is_not_opencodes_is_left_alone_for_a_minute(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchdog.opencode.http.fleet.GREETING_SECONDS", 0.1)
    world = World()
    async with loopback(handler) as url, world.fleet() as fleet:
        await fleet.discover(holding(port_of(url)))
        await fleet.discover(holding(port_of(url)))
        assert (names(fleet), len(world.made)) == ([], 1)
        world.clock.advance(61)
        await fleet.discover(holding(port_of(url)))
        assert (names(fleet), len(world.made)) == ([], 2)


async def test_one_that_did_not_answer_in_time_is_asked_again_soon_and_then_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("watchdog.opencode.http.fleet.GREETING_SECONDS", 0.1)
    world = World()
    async with loopback(hang) as url, world.fleet() as fleet:
        made = []
        for seconds in (0, 4, 2, 6, 6, 12, 12, 61):
            world.clock.advance(seconds)
            await fleet.discover(holding(port_of(url)))
            made.append(len(world.made))
    assert made == [1, 1, 2, 2, 3, 3, 4, 5]


async def test_the_password_goes_only_to_a_server_that_asks_for_one() -> None:
    seen: list[bool] = []

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        seen.append("authorization" in request.headers)
        writer.write(reply({"not": "opencode"}))
        await writer.drain()

    async with loopback(watch) as url, World().fleet() as fleet:
        await fleet.discover(holding(port_of(url)))
    assert seen == [False]


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        request = await read_request(reader)
        if request.path == ("global", "event"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            writer.write(b'data: {"payload":{"type":"server.connected","properties":{}}}\n\n')
            await asyncio.Event().wait()
        writer.write(reply({"healthy": True, "version": "1.18.33"}))
        await writer.drain()


def heard(server: OpencodeServer) -> bool:
    return server.witness().connected


async def test_every_feed_is_listened_to_and_ends_with_its_server() -> None:
    async with loopback(stream) as one, loopback(stream) as two, World().fleet(one, feeds=True) as fleet:
        await fleet.discover(holding(port_of(two)))
        first, second = fleet.servers()
        await wait_until(lambda: heard(first) and heard(second), "both feeds")
        await fleet.discover(Holders())
        await wait_until(lambda: not heard(second), "the end of the second feed")
        assert heard(first)


async def test_a_command_that_looks_once_listens_to_nothing() -> None:
    async with loopback(stream) as url, World().fleet(url) as fleet:
        assert await fleet.servers()[0].vouches()
        assert not heard(fleet.servers()[0])
        assert fleet.servers()[0].witness().since is None


async def test_cancelling_in_the_middle_of_a_greeting_leaves_nothing_open() -> None:
    world, asked = World(), anyio.Event()

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await hang(reader, writer)

    async with loopback(hangs) as url, world.fleet() as fleet:
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.discover, holding(port_of(url)))
            await asked.wait()
            group.cancel_scope.cancel()
        assert names(fleet) == []
        assert world.made[0]._client.is_closed


def test_a_wrong_address_is_a_setting_to_correct() -> None:
    world = World()
    with pytest.raises(SettingsError):
        OpencodeFleet(["nonsense"], connect=world.connect, clock=world.clock, discover=True)


class TestAServerThatEnded:
    async def test_it_is_forgotten_at_the_next_look_and_its_feed_ends(self, tmp_path: Path) -> None:
        with recorder(tmp_path, "guarded") as there, recorder(tmp_path, "open", name="other") as other:
            world = World()
            async with world.fleet(other.url, feeds=True, identify=party_behind_pid) as fleet:
                await fleet.discover(holding(there.port, pid=there.process.pid))
                assert names(fleet) == [other.url, there.url]
                found = fleet.servers()[1]
                await wait_until(lambda: heard(found), "the feed of the one that was found")
                await fleet.refresh()
                assert names(fleet) == [other.url, there.url]
                there.end()
                other.end()
                with recorder(tmp_path, "guarded", port=there.port, name="thief") as thief:
                    await fleet.refresh()
                    assert names(fleet) == [other.url]  # the configured one stays
                    assert found._client.is_closed
                    assert not heard(found)
                    assert thief.passwords == []

    async def test_one_whose_process_lives_and_listens_no_more_is_forgotten_too(self) -> None:
        async with World().fleet() as fleet:
            async with loopback(over_http(FakeServer())) as url:
                await fleet.discover(holding(port_of(url)))
                await fleet.refresh()
                assert names(fleet) == [url]
            await fleet.refresh()
            assert names(fleet) == []


async def test_one_that_asks_for_another_password_is_found_and_says_so(tmp_path: Path) -> None:
    with recorder(tmp_path, "greedy") as there:
        async with World().fleet(identify=party_behind_pid) as fleet:
            await fleet.discover(holding(there.port, pid=there.process.pid))
            assert names(fleet) == [there.url]
            with pytest.raises(ServerRefused, match="the password that is set is wrong"):
                await fleet.servers()[0].statuses("/project")


def party_behind_pid(holder: Holder) -> Party | None:
    return party_of(holder.pid)


@pytest.mark.parametrize(
    ("family", "address", "url"),
    [
        (socket.AF_INET, "127.0.0.2", "http://127.0.0.2:{}"),
        (socket.AF_INET, "0.0.0.0", "http://127.0.0.1:{}"),  # noqa: S104 - only for a moment
        (socket.AF_INET6, "::1", "http://[::1]:{}"),
        (socket.AF_INET6, "::", "http://[::1]:{}"),
    ],
)
async def test_a_server_is_asked_where_it_listens(family: int, address: str, url: str) -> None:
    listening = await asyncio.start_server(over_http(FakeServer()), address, 0, family=family)
    async with listening, World().fleet("http://127.0.0.1:1") as fleet:
        port = listening.sockets[0].getsockname()[1]
        holder = Holder(pid=4242, born_ms=BORN, command="opencode serve", endpoints=(endpoint(port, address),))
        await fleet.discover(Holders(known=(holder,)))
        assert names(fleet)[1:] == [url.format(port)]


async def test_a_process_on_two_addresses_of_one_port_is_one_server() -> None:
    async with loopback(over_http(FakeServer())) as url, World().fleet() as fleet:
        both = (endpoint(port_of(url), "::1"), endpoint(port_of(url)))
        await fleet.discover(
            Holders(known=(Holder(pid=4242, born_ms=BORN, command="opencode serve", endpoints=both),))
        )
        assert names(fleet) == [url]
