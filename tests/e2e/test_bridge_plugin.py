"""The plugin in opencode's engine, without opencode around it: what it passes on, and that it breaks nothing."""

import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil
import pytest

from tests.fakes.clock import FakeClock
from tests.support.binaries import NEWEST, opencode_binary
from tests.support.waiting import wait_until
from watchdog.model.report import Holder
from watchdog.opencode.http.bridged import BridgedServer
from watchdog.opencode.http.bridges import Bridges
from watchdog.opencode.http.doors import find_doors, folders
from watchdog.opencode.http.peers import party_of

ROOT: Final = Path(__file__).resolve().parents[2]
PLUGIN: Final = ROOT / "watchdog" / "bridge" / "plugin.js"
HARNESS: Final = ROOT / "tests" / "support" / "bridge_harness.mjs"
VERSIONS: Final = [NEWEST, "1.2.27"]


@dataclass
class Engine:
    """A process with the plugin in it."""

    process: subprocess.Popen[str]
    home: Path
    environ: Mapping[str, str]

    def loaded(self) -> None:
        """Wait until the plugin was loaded, twice, and said nothing."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "loaded [{},{}]\n"

    async def client(self) -> httpx.AsyncClient:
        """A client of its bridge, which is found as the watchdog finds it."""
        path = await wait_until(lambda: find_doors(folders(self.environ, self.home)).get(self.process.pid), "a door")
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://x")


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="home-") as made:
        (Path(made) / "run").mkdir(mode=0o700)
        yield Path(made)


@contextmanager
def engine(
    home: Path, how: str = "plain", *, version: str = NEWEST, plugin: Path = PLUGIN, **more: str
) -> Iterator[Engine]:
    binary = opencode_binary(version)
    if binary is None:
        pytest.skip(f"no opencode {version}")
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), **more}
    line = [str(binary), str(HARNESS), str(plugin), how]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, env={**environ, "BUN_BE_BUN": "1"}, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield Engine(process, home, environ)
        finally:
            process.kill()


def left_in(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*.sock")]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_question_is_passed_on_to_the_process_with_its_own_password(home: Path, version: str) -> None:
    with engine(home, version=version) as found:
        found.loaded()
        async with await found.client() as client:
            said = (
                await client.patch(
                    "/session/1?directory=/a%2520b", json={"a": "ä"}, headers={"x-opencode-directory": "/mine"}
                )
            ).json()
            assert (said["by"], said["method"], said["path"]) == ("inside", "PATCH", "/session/1?directory=/a%2520b")
            assert json.loads(said["body"]) == {"a": "ä"}
            assert said["headers"] == {"authorization": "Basic of-the-process", "content-type": "application/json"}
            assert (await client.get("/throws")).status_code == 502
            async with client.stream("GET", "/endless") as endless:
                assert endless.headers["content-type"] == "text/event-stream"
                await anext(endless.aiter_lines())
            assert found.process.stdout is not None
            assert {found.process.stdout.readline() for _ in range(2)} == {"aborted\n", "cancelled\n"}
            assert (await client.get("/opencode-watchdog")).json() == {"protocol": 1, "listens": False}
            assert (await client.delete("/opencode-watchdog")).is_success
        await wait_until(lambda: left_in(home) == [], "its socket to be gone")
        assert found.process.poll() is None


SPEAKS: Final = {
    "protocol: 2": False,  # a newer one, which has left the old protocol behind
    "protocol: 2, since: 1": True,  # a newer one that still speaks it
    "protocol: 0": False,  # one that was left there by an older watchdog
}


async def test_a_bridge_of_another_version_is_used_while_both_speak_one_protocol(home: Path) -> None:
    """The plugin itself, as another version of the watchdog would have installed it, and the fleet of this one."""
    for index, (speaks, used) in enumerate(SPEAKS.items()):
        plugin = home / f"plugin-{index}.js"
        plugin.write_text(PLUGIN.read_text(encoding="utf-8").replace("protocol: PROTOCOL", speaks), encoding="utf-8")
        with engine(home, plugin=plugin) as found:
            found.loaded()
            await (await found.client()).aclose()  # its door is there
            pid = found.process.pid
            born_ms = round(psutil.Process(pid).create_time() * 1000)
            holder = Holder(pid=pid, born_ms=born_ms, command="opencode run")
            bridges = Bridges(
                connect=lambda door: BridgedServer(door, clock=FakeClock(), rng=random.Random(3)),  # noqa: S311
                folders=folders(found.environ, home),
                clock=FakeClock(),
                identify=lambda holder: party_of(holder.pid),
            )
            opened = await bridges.open(await bridges.doors(), [holder])
            assert [server.name for server in opened] == ([f"bridge:{pid}"] if used else []), speaks
            for server in opened:
                assert (await server.greet(closing=True)).understood
                await server.aclose()


async def test_where_the_process_listens_itself_it_is_asked_there(home: Path) -> None:
    with engine(home, "listens") as found:
        found.loaded()
        async with await found.client() as client:
            assert (await client.get("/opencode-watchdog")).json() == {"protocol": 1, "listens": True}
            said = (await client.get("/global/health")).json()
            assert (said["by"], said["headers"]["authorization"]) == ("outside", "Basic of-the-process")


async def test_without_a_usable_runtime_folder_the_socket_is_in_the_state_folder(home: Path) -> None:
    (home / "run" / "opencode-watchdog").mkdir(mode=0o755)  # it may be anybody's
    for runtime in (str(home / "run"), str(home / ("x" * 90)), "relative", "/proc/nowhere"):
        with engine(home, XDG_RUNTIME_DIR=runtime) as found:
            found.loaded()
            async with await found.client() as client:
                assert (await client.get("/global/health")).is_success
            state = home / ".local" / "state" / "opencode-watchdog" / "bridges"
            assert (state / f"{found.process.pid}.sock").is_socket()
            assert state.stat().st_mode & 0o777 == 0o700


async def test_a_process_with_a_bridge_ends_by_itself_and_leaves_no_socket(home: Path) -> None:
    with engine(home, "ends") as found:
        _, errors = found.process.communicate(timeout=20)
        assert (found.process.returncode, errors, left_in(home)) == (0, "", [])


@pytest.mark.parametrize("place", ["/proc/nowhere", "file"])
def test_where_no_socket_can_be_opened_the_process_runs_as_without_it(home: Path, place: str) -> None:
    """No folder can be made there; or a file is in its place."""
    (home / "file").write_text("no folder")
    there = str(home / place)
    with engine(home, "ends", XDG_RUNTIME_DIR=there, XDG_STATE_HOME=there) as found:
        found.loaded()
        _, errors = found.process.communicate(timeout=20)
        assert (found.process.returncode, errors, left_in(home)) == (0, "", [])


async def test_in_an_opencode_that_is_built_otherwise_it_answers_nothing_and_breaks_nothing(home: Path) -> None:
    with engine(home, "odd") as found:
        found.loaded()
        async with await found.client() as client:
            assert (await client.get("/global/health")).status_code == 502
        assert found.process.poll() is None
