"""`docs/examples/server.py` as a process under uvicorn, driven over HTTP: what hangs is ended, what lives is not.

It is alone here, on a SQLite file or in PostgreSQL; `test_example_replicas.py` runs several of it.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.waiting import SECONDS, wait_until

ROOT: Final = Path(__file__).resolve().parents[3]
LIMITS: Final = """{
    "poll_interval": "100ms", "tool_timeout": "60s", "tool_timeouts": {"hang": "1s", "question": "3s"},
    "idle_timeout": "2s", "orphan_grace": "500ms", "abort_timeout": "60s", "abort_grace": "60s",
    "shutdown_grace": "30s"
}"""
HANG: Final = {"tool": "hang"}
ABORTED: Final = "MessageAbortedError"


@dataclass(kw_only=True)
class Server:
    """The example as a process."""

    process: "subprocess.Popen[bytes]"
    err: Path

    def log(self) -> str:
        """What it wrote so far, with what a person who reads it is told."""
        return self.err.read_text(encoding="utf-8", errors="replace")

    def told(self) -> str:
        """The last of its lines about what it did, without the looks and requests in between."""
        lines = [line for line in self.log().splitlines() if "watch.looked" not in line and '"GET ' not in line]
        return "\n".join([f"-- process {self.process.pid}", *lines[-25:]])

    def url(self) -> str | None:
        """Where it listens, once it does."""
        assert self.process.poll() is None, self.log()
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", self.log())
        return None if found is None else found[1]

    def stop(self, number: signal.Signals) -> None:
        """End it, and wait for that."""
        self.process.send_signal(number)
        self.process.wait(timeout=SECONDS)


@contextmanager
def started(folder: Path, database: str | None = None, limits: str = LIMITS) -> Iterator[Server]:
    """Start it, on the database of a folder unless another one is given; what is left of it is killed."""
    line = [sys.executable, "-m", "uvicorn", "server:app", "--app-dir", str(ROOT / "docs/examples"), "--port", "0"]
    database = database or str(folder / "server.db")
    more = {"SERVER_DATABASE": database, "SERVER_LIMITS": limits, "PYTHONPATH": str(ROOT)}
    err = folder / f"stderr-{len(list(folder.glob('stderr-*')))}"
    with err.open("wb") as file:
        process = subprocess.Popen(line, cwd=folder, env={**os.environ, **more}, stdout=file, stderr=file)
    try:
        yield Server(process=process, err=err)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").fresh_database()
    with started(tmp_path_factory.mktemp("example"), url) as running:
        yield running


class Client:
    """Asks the server, as a program over HTTP does."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def begin(self, work: Mapping[str, Any]) -> str:
        return str((await self.http.post("/sessions", json=work)).raise_for_status().json()["id"])

    async def read(self, session: str) -> Any:  # noqa: ANN401 - JSON
        return (await self.http.get(f"/sessions/{session}")).raise_for_status().json()

    async def ended(self, session: str) -> Any:  # noqa: ANN401
        async def look() -> Any:  # noqa: ANN401
            found = await self.read(session)
            return found if "completed" in found["turn"]["time"] else None

        return await wait_until(look, f"the end of {session}")

    async def calling(self, session: str) -> None:
        """Wait until its call is open."""

        async def look() -> bool:
            return states(await self.read(session)) == ["running"]

        await wait_until(look, "the call")

    async def children(self, session: str, count: int) -> list[str]:
        async def look() -> list[str] | None:
            found = (await self.http.get(f"/sessions/{session}/children")).raise_for_status().json()
            return found if len(found) == count else None

        return await wait_until(look, "the children")


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    url = await wait_until(server.url, "the server", explain=server.log)
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as http:
        yield Client(http)


def states(found: Mapping[str, Any]) -> list[str]:
    """How each call of a session reads."""
    return [call["state"]["status"] for call in found["calls"]]


async def test_what_hangs_or_went_silent_is_ended_and_what_lives_is_not(client: Client) -> None:
    stream = await client.begin({"tool": "stream", "seconds": 6})
    question = await client.begin({"tool": "question"})
    silent = await client.begin({"tool": "silent", "seconds": 0.2})
    hung = await client.begin(HANG)
    short = await client.begin({"tool": "sleep", "seconds": 0.2})

    found = await client.ended(short)
    assert (states(found), found["turn"].get("error")) == (["completed"], None)
    found = await client.ended(hung)
    assert (states(found), found["turn"]["error"]["name"]) == (["error"], ABORTED)
    found = await client.ended(silent)
    assert found["turn"]["error"]["name"] == ABORTED
    found = await client.ended(stream)  # three times as long as a session may be silent
    assert found["turn"].get("error") is None
    found = await client.read(question)  # as long as the stream, and a human is asked
    assert (states(found), "completed" in found["turn"]["time"]) == (["running"], False)
    (await client.http.post(f"/sessions/{question}/answer")).raise_for_status()
    found = await client.ended(question)
    assert (states(found), found["turn"].get("error")) == (["completed"], None)


async def test_a_parent_goes_on_when_its_hung_child_is_ended(client: Client) -> None:
    parent = await client.begin({"tool": "task", "children": [HANG, {"tool": "sleep", "seconds": 0.2}]})
    children = await client.children(parent, 2)
    found = await client.ended(parent)
    assert (sorted(states(found)), found["turn"].get("error")) == (["completed", "error"], None)
    ends = [(await client.ended(child))["turn"].get("error", {}).get("name") for child in children]
    assert sorted(str(end) for end in ends) == [ABORTED, "None"]


async def test_a_release_over_http_ends_a_session_at_once(client: Client) -> None:
    session = await client.begin({"tool": "question"})  # it would wait for ever
    await client.calling(session)
    answer = await client.http.post(f"/sessions/{session}/release")
    assert answer.raise_for_status().json() == {"results": ["recovered"]}
    assert states(await client.ended(session)) == ["error"]
    assert (await client.http.post("/sessions/ses_missing/release")).status_code == httpx.codes.CONFLICT


async def test_after_a_crash_the_next_start_settles_what_was_open_and_ends_cleanly(tmp_path: Path) -> None:
    with started(tmp_path) as first:
        url = await wait_until(first.url, "the server", explain=first.log)
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as http:
            session = await Client(http).begin({"tool": "question"})
            await Client(http).calling(session)
        first.stop(signal.SIGKILL)
    with started(tmp_path) as second:
        url = await wait_until(second.url, "the server", explain=second.log)
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as http:
            found = await Client(http).ended(session)
            other = await Client(http).begin(
                {"tool": "sleep", "seconds": 600}
            )  # it is at work when the server is told to stop
            await Client(http).calling(other)
        second.stop(signal.SIGTERM)
        assert (states(found), found["turn"]["error"]["name"]) == (["error"], ABORTED)
        assert "Application shutdown complete" in second.log()
        assert "Traceback" not in second.log()
