"""What an embedding server passes that can't be used is refused in a sentence, which says what to pass instead."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool, Pool, StaticPool

import watchdog
from tests.support.database import OpencodeFile
from tests.support.waiting import wait_until
from tests.unit.embedding.test_embed import InProcessHost, Notes
from watchdog.errors import SettingsError, UsageError

IN_POSTGRES = "postgresql+asyncpg://me:hush@127.0.0.1:1/name"


def of_another_driver(url: str, driver: str) -> AsyncEngine:
    """One as that driver would make it, which need not be installed."""
    engine = create_async_engine(url)
    engine.dialect.driver = driver
    return engine


UNFIT: dict[str, tuple[Callable[[], object], str]] = {
    "sync": (lambda: create_engine("sqlite:///opencode.db"), r"of the type sqlalchemy\.engine\.base\.Engine, .*sync"),
    "session": (
        lambda: AsyncSession(create_async_engine(IN_POSTGRES)),
        r"AsyncSession, and has to be an AsyncEngine",
    ),
    "maker": (lambda: async_sessionmaker(create_async_engine(IN_POSTGRES)), r"neither .* nor a session"),
    "address": (lambda: IN_POSTGRES, r"of the type builtins\.str, .* or an address"),
    "psycopg": (
        lambda: of_another_driver(IN_POSTGRES, "psycopg"),
        r"uses the driver psycopg: .* by asyncpg alone\. .* for the watchdog, create_async_engine\(\"postgresql\+as",
    ),
    "aiosqlcipher": (
        lambda: of_another_driver("sqlite+aiosqlite:///opencode.db", "aiosqlcipher"),
        r"uses the driver aiosqlcipher: .* by aiosqlite alone",
    ),
    "one connection": (lambda: create_async_engine(IN_POSTGRES, poolclass=StaticPool), "has a StaticPool: .* share"),
}


@pytest.mark.parametrize("kind", UNFIT)
async def test_an_engine_that_is_unfit_is_refused_with_what_to_pass(tmp_path: Path, kind: str) -> None:
    make, says = UNFIT[kind]
    unfit: Any = make()
    with OpencodeFile(tmp_path / "opencode.db") as rows, pytest.raises(SettingsError, match=says) as refused:
        async with watchdog.running(watchdog.Settings(), host=InProcessHost(rows), engine=unfit):
            pytest.fail("it runs")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("pool", [NullPool, StaticPool, None])
async def test_on_a_file_any_pool_is_fit(tmp_path: Path, pool: type[Pool] | None) -> None:
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        rows.turn(rows.session())
        url, notes = f"sqlite+aiosqlite:///{rows.path}", Notes()
        one = {"pool_size": 1, "max_overflow": 0} if pool is None else {"poolclass": pool}
        engine = create_async_engine(url, **one)
        settings = watchdog.Settings(journal=tmp_path / "journal.db")
        async with watchdog.running(settings, host=InProcessHost(rows), engine=engine, listeners=[notes]) as dog:
            await wait_until(lambda: len(notes.looks) >= 1, "a look", explain=lambda: str(dog.failure))
        assert len(notes.looks[0].observation.snapshot.sessions) == 1
        await engine.dispose()


def test_a_loop_of_another_kind_is_refused(tmp_path: Path) -> None:
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        context = watchdog.running(watchdog.Settings(), host=InProcessHost(rows))
        begins = context.__aenter__()
        with pytest.raises(UsageError, match=r"of asyncio or uvloop, .* such as trio's\. Run the server on asyncio"):
            begins.send(None)  # as any loop would begin it: here runs none of asyncio's


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop has none for Windows")
def test_it_runs_under_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed: it is no dependency")
    uvloop.run(test_on_a_file_any_pool_is_fit(tmp_path, None))
