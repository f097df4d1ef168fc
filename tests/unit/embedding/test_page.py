"""`docs/embedding.md`: each block of it is run, one after the other, on real databases."""

import asyncio
import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import watchdog
from tests.support.database import OpencodeFile, OpencodeRows
from tests.support.postgres import PostgresRows
from tests.support.program import Program, program

__all__ = ["program"]

ROOT: Final = Path(__file__).resolve().parents[3]
PAGE: Final = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
COMMANDS: Final = re.findall(r"^opencode-watchdog (.*?)(?: +#.*)?$", PAGE, re.MULTILINE)
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

    def __init__(self, rows: OpencodeRows) -> None:
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


async def test_two_hooks_start_and_stop_it_in_tasks_of_their_own(reader: Reader) -> None:
    dog = await asyncio.create_task(reader.names["on_startup"]())
    await reader.serve(dog)
    await asyncio.create_task(reader.names["on_cleanup"]())
    assert "does not run" in str(await stopped(dog))


async def stopped(dog: watchdog.Watchdog) -> watchdog.WatchdogError:
    with pytest.raises(watchdog.WatchdogError) as caught:
        await dog.release("ses_1")
    return caught.value


async def test_two_replicas_in_postgresql_serve_and_the_one_that_observes_passes_a_release_on(
    postgres_url: str, postgres_rows: PostgresRows
) -> None:
    leader, follower = Reader(postgres_rows), Reader(postgres_rows)
    engine, other = create_async_engine(postgres_url), create_async_engine(postgres_url)

    async def beside(dog: watchdog.Watchdog) -> None:
        assert await follower.names["end"](dog, "ses_1") == "unchanged"
        (request,) = postgres_rows.run("SELECT * FROM opencode_watchdog.request")
        assert request is not None

    async def first(dog: watchdog.Watchdog) -> None:
        await leader.serve(dog)
        follower.names["serve"] = beside
        await follower.names["one_of_several"](other)

    leader.names["serve"] = first
    await leader.names["one_of_several"](engine)
    assert leader.served == 1
    for each in (engine, other):
        await each.dispose()
    await leader.names["engine"].dispose()
    await follower.names["engine"].dispose()


async def test_each_command_on_the_page_does_what_it_says(program: Program) -> None:
    assert COMMANDS == ["sql index", "sql schema --role server"]
    index, schema = [await program.run(*command.split()) for command in COMMANDS]
    assert (index.code, index.stdout.count("\nCREATE INDEX CONCURRENTLY")) == (0, 2)
    assert schema.code == 0
    assert "CREATE SCHEMA IF NOT EXISTS opencode_watchdog" in schema.stdout
    assert 'TO "server"' in schema.stdout


def test_the_extra_on_the_page_brings_the_driver() -> None:
    (extra,) = re.findall(r'^pip install "opencode-watchdog\[(\w+)\]"$', PAGE, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [each for each in project["optional-dependencies"][extra] if each.startswith("asyncpg")]


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
