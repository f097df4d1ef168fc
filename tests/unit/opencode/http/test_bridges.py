"""Processes that can't be asked where they listen are asked through the bridge in them: here that is this process."""

import asyncio
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import psutil
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import FakeServer, endpoint, loopback, over_http, read_request, reply
from watchdog.errors import ServerUnreachable
from watchdog.model.report import Holder, Holders, Listener, Served
from watchdog.model.session import Activity, SessionId, Status
from watchdog.observing.serving import NotShown, by_process
from watchdog.opencode.http.bridged import BridgedServer
from watchdog.opencode.http.bridges import REFUSAL_SECONDS, Bridges
from watchdog.opencode.http.client import OpencodeServer
from watchdog.opencode.http.doors import Door, find_doors, folders, trouble_with
from watchdog.opencode.http.fleet import OpencodeFleet
from watchdog.opencode.http.peers import Party, party_behind, party_of
from watchdog.opencode.http.trust import Trust

PROJECT = "/project"
BUSY = {SessionId("ses_1"): Status(activity=Activity.BUSY)}
US = f"bridge:{os.getpid()}"
GREETING = {"protocol": 1}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where bridges open their sockets: in a short path."""
    with tempfile.TemporaryDirectory() as base:
        made = Path(base) / "opencode-watchdog"
        made.mkdir(mode=0o700)
        yield made


class World:
    """A fleet with the bridges of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()

    def connect(self, url: str, *, found: Party | None = None) -> OpencodeServer:
        return OpencodeServer(url, clock=self.clock, rng=random.Random(3), trust=Trust(expected=found))  # noqa: S311

    def cross(self, door: Door) -> BridgedServer:
        return BridgedServer(door, clock=self.clock, rng=random.Random(3))  # noqa: S311

    @asynccontextmanager
    async def fleet(self, *urls: str) -> AsyncIterator[OpencodeFleet]:
        bridges = Bridges(
            connect=self.cross, folders=[self.folder], clock=self.clock, identify=lambda _: party_of(os.getpid())
        )
        fleet = OpencodeFleet(
            urls,
            connect=self.connect,
            clock=self.clock,
            discover=True,
            feeds=False,
            identify=lambda _: party_of(os.getpid()),
            bridges=bridges,
        )
        yield fleet
        await fleet.aclose()

    @asynccontextmanager
    async def bridge(self, fake: FakeServer, *, greeting: object = GREETING) -> AsyncIterator[Path]:
        path = self.folder / f"{os.getpid()}.sock"
        async with loopback(over_http(fake, greeting=greeting), at=path):
            yield path
        path.unlink(missing_ok=True)


def us(*ports: int) -> Holder:
    """This process as one that has the database open."""
    born_ms = int(psutil.Process().create_time() * 1000)
    return Holder(
        pid=os.getpid(), born_ms=born_ms, command="opencode", endpoints=tuple(endpoint(port) for port in ports)
    )


def holding(*ports: int) -> Holders:
    return Holders(known=(us(*ports),))


def names(fleet: OpencodeFleet) -> list[str]:
    return [str(server.name) for server in fleet.servers()]


def busy() -> FakeServer:
    return FakeServer(statuses_by={PROJECT: dict(BUSY)})


async def asks_for_a_password(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(reader)
        writer.write(reply({}, status=401))


async def test_a_process_that_listens_nowhere_is_asked_through_its_bridge(folder: Path) -> None:
    world = World(folder)
    async with world.bridge(busy()), world.fleet() as fleet:
        await fleet.discover(holding())
        (server,) = fleet.servers()
        assert (server.name, server.leads_to) == (US, ())
        assert await server.statuses(PROJECT) == BUSY
        assert await server.version() == "1.18.33"
        shown = by_process(server, await server.listener(), holding())
        assert isinstance(shown, Served)
        assert (shown.server, shown.pid) == (US, os.getpid())

        await fleet.discover(Holders())
        assert names(fleet) == []
        with pytest.raises(ServerUnreachable):
            await server.statuses(PROJECT)


async def test_the_bridge_of_a_process_without_this_database_is_not_asked(folder: Path) -> None:
    world = World(folder)
    async with world.bridge(busy()) as path, world.fleet() as fleet:
        other = Holder(pid=1, born_ms=0, command="opencode")
        await fleet.discover(Holders(known=(other,)))
        assert names(fleet) == []
        party = party_of(os.getpid())
        assert party is not None
        async with world.cross(Door(path=path, party=party)) as server:
            shown = by_process(server, await server.listener(), Holders(known=(other,)))
            assert not isinstance(shown, Served), shown


async def test_where_a_process_answers_at_its_address_its_bridge_is_not_used(folder: Path) -> None:
    world = World(folder)
    async with world.bridge(FakeServer()), loopback(over_http(FakeServer())) as url:
        port = int(url.rpartition(":")[2])
        async with world.fleet() as fleet:
            await fleet.discover(holding(port))
            assert names(fleet) == [url]
        async with world.fleet(url) as fleet:
            await fleet.discover(holding(port))
            assert names(fleet) == [url]
        async with world.fleet() as fleet:  # it listens later than it opened its bridge
            await fleet.discover(holding())
            assert names(fleet) == [US]
            await fleet.discover(holding(port))
            assert names(fleet) == [url]


async def test_a_server_that_asks_for_a_password_is_asked_through_its_bridge_and_counts_once(folder: Path) -> None:
    world = World(folder)
    async with loopback(asks_for_a_password) as url:
        port = int(url.rpartition(":")[2])
        for configured in ([], [url]):
            async with world.fleet(*configured) as fleet:
                await fleet.discover(holding(port))
                assert names(fleet) == [url]
                async with world.bridge(FakeServer()):  # it loads its plugins at the first request about a folder
                    await fleet.discover(holding(port))
                    assert names(fleet) == [US]
                await fleet.refresh()
                assert names(fleet) == [url]


@pytest.mark.parametrize(
    ("greeting", "used"),
    [
        ({"protocol": 1, "listens": False}, True),
        ({"protocol": 7, "since": 1}, True),
        ({"protocol": 7}, False),
        ({"protocol": 7, "since": 2}, False),
        ({"protocol": 0}, False),
        ({"protocol": "1"}, False),
        ([1], False),
    ],
)
async def test_a_bridge_of_another_version_is_used_if_it_still_speaks_the_same(
    folder: Path, greeting: object, used: bool
) -> None:
    world = World(folder)
    async with world.fleet() as fleet:
        async with world.bridge(FakeServer(), greeting=greeting):
            await fleet.discover(holding())
            assert names(fleet) == ([US] if used else [])
        await fleet.refresh()
        async with world.bridge(FakeServer()):  # the process was restarted with another one
            world.clock.advance(REFUSAL_SECONDS + 1)
            await fleet.discover(holding())
            assert names(fleet) == [US]


async def test_a_bridge_that_never_answers_holds_nothing_up(folder: Path) -> None:
    async def silent(*_: object) -> None:
        await anyio.sleep_forever()

    world = World(folder)
    async with loopback(silent, at=folder / f"{os.getpid()}.sock"), world.fleet() as fleet:
        await fleet.discover(holding())
        assert names(fleet) == []


async def test_nothing_is_sent_to_another_process_that_took_over_a_socket(folder: Path) -> None:
    asked: list[str] = []

    async def overheard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append("/".join((await read_request(reader)).path))
        writer.write(reply({"protocol": 1}))

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:  # noqa: ASYNC220
        party = party_of(other.pid)
        assert party is not None
        path = folder / f"{other.pid}.sock"
        async with loopback(overheard, at=path), World(folder).cross(Door(path=path, party=party)) as server:
            with pytest.raises(ServerUnreachable, match="opened its socket, and now pid"):
                await server.greet()
        other.kill()
    assert asked == []


# The sockets.


def test_doors_are_the_sockets_that_somebody_answers_by_the_process_that_opened_them(folder: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as opened, closing(socket.socket(socket.AF_UNIX)) as named:
        opened.bind(str(folder / "77.sock"))  # its name proves nothing
        opened.listen()
        named.bind(str(folder / "run.sock"))
        named.listen()
        (folder / "78.sock").write_text("no socket")
        (folder / "79.sock").symlink_to(folder / "77.sock")
        assert find_doors([folder, folder / "nowhere"]) == {os.getpid(): folder / "77.sock"}


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_is_about_to_open_is_not(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    for pid in (ended.pid, os.getpid()):
        with closing(socket.socket(socket.AF_UNIX)) as left:
            left.bind(str(folder / f"{pid}.sock"))
    assert find_doors([folder]) == {}
    assert [path.name for path in folder.iterdir()] == [f"{os.getpid()}.sock"]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o755, 0o710])
def test_in_a_folder_that_is_not_this_users_alone_no_door_counts(folder: Path, mode: int) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as opened:
        opened.bind(str(folder / "77.sock"))
        opened.listen()
        folder.chmod(mode)
        assert find_doors([folder]) == {}
        assert str(folder) in str(trouble_with(folder))


def test_a_folder_that_others_may_replace_is_none(folder: Path) -> None:
    assert trouble_with(folder) is None
    folder.parent.chmod(0o777)
    assert str(folder.parent) in str(trouble_with(folder))
    folder.parent.chmod(0o777 | stat.S_ISVTX)
    assert trouble_with(folder) is None


def test_a_folder_of_somebody_else_is_none(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, -1)
    assert str(folder) in str(trouble_with(folder))


def test_doors_are_looked_for_where_bridges_open_them(tmp_path: Path) -> None:
    state = tmp_path / ".local" / "state" / "opencode-watchdog" / "bridges"
    usual = Path(f"/run/user/{os.geteuid()}/opencode-watchdog")
    assert folders({"XDG_RUNTIME_DIR": "/run/mine"}, tmp_path) == (Path("/run/mine/opencode-watchdog"), state)
    assert folders({}, tmp_path) == (usual, state)
    assert folders({"XDG_RUNTIME_DIR": "relative"}, tmp_path) == (usual, state)
    assert folders({"XDG_STATE_HOME": "/else"}, tmp_path) == (
        usual,
        Path("/else/opencode-watchdog/bridges"),
        state,
    )
    assert folders({}, None) == (usual,)


def test_what_another_process_holds_is_not_taken_for_a_proof() -> None:
    """A bridge's process that has another database open is on that one."""
    party = party_behind(us())
    assert party is not None
    server = World(Path("/")).cross(Door(path=Path("/none"), party=party))
    listener = Listener(
        sockets=(frozenset([os.getpid()]),), hidden=False, databases=frozenset([os.getpid()]), what="x"
    )
    assert isinstance(by_process(server, listener, Holders()), NotShown)
