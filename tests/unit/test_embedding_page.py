"""`docs/embedding.md`: each block of it is run, one after the other, on a real database."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import watchdog
from tests.support.database import OpencodeFile

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
HEAVY: Final = (
    "aiosqlite",
    "anyio",
    "fastapi",
    "httpx",
    "psutil",
    "pydantic",
    "sqlalchemy",
    "starlette",
    "structlog",
)


class Reader:
    """Does what a reader of the page does, in the names that its blocks make."""

    def __init__(self, rows: OpencodeFile) -> None:
        self.rows = rows
        self.served = 0
        self.names: dict[str, Any] = {"__name__": "page", "serve": self.serve}
        for block in BLOCKS:
            exec(compile(block, "docs/embedding.md", "exec", dont_inherit=True), self.names)  # noqa: S102 - our page

    def begin(self, name: str) -> watchdog.SessionId:
        """A session at work, which closes its rows when it is cancelled."""
        now = int(time.time() * 1000)
        session = self.rows.session(f"ses_{name}", at=now)
        turn = self.rows.turn(session, at=now)
        call = self.rows.call(turn, f"prt_{name}", at=now)

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.rows.finish_call(call, at=now)
                self.rows.finish_turn(turn, at=now)
                del self.names["sessions"].tasks[session]

        self.names["sessions"].tasks[session] = asyncio.create_task(work())
        return session

    async def serve(self, dog: watchdog.Watchdog) -> None:
        """What stands for the server on the page: it streams, and a person ends what hangs."""
        self.served += 1
        session = self.begin(str(self.served))

        async def pieces() -> AsyncIterator[str]:
            yield "Well, "
            yield "well."

        assert await self.names["stream"](dog, session, pieces()) == "Well, well."
        assert session in dog._server.life()
        assert await self.names["end"](dog, session) == "recovered"
        assert json.loads(self.rows.get("part", f"prt_{self.served}"))["state"]["status"] == "completed"
        assert "no session" in await self.names["end"](dog, "ses_missing")


@pytest.fixture
async def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        reader = Reader(rows)
        yield reader
        await reader.names["engine"].dispose()


@pytest.mark.parametrize("way", ["inside_a_context", "under_a_task_group"])
async def test_each_way_to_run_it_watches_touches_and_releases(reader: Reader, way: str) -> None:
    await reader.names[way]()
    assert reader.served == 1


async def test_an_application_watches_itself_while_it_runs(reader: Reader) -> None:
    app = reader.names["app"]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http,
    ):
        session = reader.begin("1")
        answer = await http.post(f"/sessions/{session}/release")
        assert answer.raise_for_status().json() == "recovered"
        dog = app.state.watchdog
    assert await reader.names["end"](dog, session) == str(await stopped(dog))


async def stopped(dog: watchdog.Watchdog) -> watchdog.WatchdogError:
    with pytest.raises(watchdog.WatchdogError) as caught:
        await dog.release("ses_1")
    return caught.value


async def test_an_application_without_a_state_is_one_too(reader: Reader) -> None:
    lifespan = watchdog.lifespan(reader.names["settings"], host=reader.names["host"], engine=reader.names["engine"])
    async with lifespan(object()):
        pass


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("import watchdog; dir(watchdog)", set()),
        ("import watchdog; watchdog.lifespan; watchdog.Watchdog", {*HEAVY} - {"fastapi", "starlette", "httpx"}),
    ],
)
def test_importing_it_stays_light_and_brings_no_web_framework(line: str, allowed: set[str]) -> None:
    tell = f"import sys; before = set(sys.modules); {line}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {*HEAVY} <= allowed


def test_everything_that_is_offered_is_there_and_nothing_else() -> None:
    assert all(getattr(watchdog, name) is not None for name in watchdog.__all__)
    assert set(watchdog.__all__) <= set(dir(watchdog))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = watchdog.nonsense
