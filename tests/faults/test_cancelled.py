"""What is cancelled in the middle of the journal leaves no thread behind: it would keep the process from ending."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from tests.support.waiting import wait_until
from tests.unit.test_journal import VERDICT
from watchdog.journal import SqliteJournal

STEPS = 40


@pytest.mark.parametrize("what", ["holds", "save", "begin", "open"])
async def test_a_journal_that_is_cancelled_at_any_step_leaves_no_thread_and_stays_of_use(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "j.db"
    async with await SqliteJournal.open(path) as journal:
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "holds": lambda: journal.holds(1),
            "save": lambda: journal.save("a", {"b": 1}),
            "begin": lambda: journal.begin(VERDICT, at_ms=1),
            "open": lambda: SqliteJournal.open(path),
        }
        for steps in range(STEPS):
            await _cancelled_after(steps, acts[what])
        await acts[what]()
        assert len(await journal.holds(1)) == 0
    await wait_until(lambda: not _threads(), "the end of the threads", seconds=5)


async def _cancelled_after(steps: int, act: Callable[[], Awaitable[object]]) -> None:
    """Let it run for so many turns of the event loop, and cancel it."""
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await act()

        group.start_soon(run)
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        group.cancel_scope.cancel()


def _threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "aiosqlite" in each.name or "_connection_worker" in each.name]
