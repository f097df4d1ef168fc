"""What is cancelled in the middle of the journal ends what it began, and keeps no process from ending."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from tests.unit.journal.test_sqlite import VERDICT
from watchdog.journal.sqlite import SqliteJournal

STEPS = 40

LEFT_OPEN = """
import asyncio, sys
from pathlib import Path
from tests.unit.journal.test_sqlite import VERDICT
from watchdog.journal.sqlite import SqliteJournal

async def main():
    journal = await SqliteJournal.open(Path(sys.argv[1]))
    for steps in range(40):
        task = asyncio.create_task(journal.begin(VERDICT, at_ms=1))
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

asyncio.run(main())
"""
"""Cancels as an embedding server does, and closes nothing."""


@pytest.mark.parametrize("what", ["holds", "save", "begin", "open"])
async def test_a_journal_that_is_cancelled_at_any_step_leaves_no_lock_and_stays_of_use(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "j.db"

    async def opened() -> None:
        async with await SqliteJournal.open(path):
            pass

    async with await SqliteJournal.open(path) as journal:
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "holds": lambda: journal.holds(1),
            "save": lambda: journal.save("a", {"b": 1}),
            "begin": lambda: journal.begin(VERDICT, at_ms=1),
            "open": opened,
        }
        for steps in range(STEPS):
            await _cancelled_after(steps, acts[what])
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.execute("COMMIT")
        await acts[what]()
        assert len(await journal.holds(1)) == 0


async def test_what_is_asked_of_it_is_done_though_its_task_was_cancelled_before(tmp_path: Path) -> None:
    async with await SqliteJournal.open(tmp_path / "j.db") as journal:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.begin(VERDICT, at_ms=1)
        assert await journal.count() == 1


def test_a_process_that_was_cancelled_in_the_middle_and_closed_nothing_ends(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    line = [sys.executable, "-c", LEFT_OPEN, str(tmp_path / "j.db")]
    done = subprocess.run(line, cwd=root, timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with closing(sqlite3.connect(tmp_path / "j.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def _cancelled_after(steps: int, act: Callable[[], Awaitable[object]]) -> None:
    """Let it run for so many turns of the event loop, and cancel it."""
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await act()

        group.start_soon(run)
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        group.cancel_scope.cancel()
