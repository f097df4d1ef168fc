"""Long work holds the loop for no longer than a slice: measured by a clock that runs with the work, not with time."""

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import watchdog
from tests.support.database import OpencodeFile
from tests.support.waiting import wait_until
from tests.unit.embedding.test_embed import InProcessHost, Notes
from watchdog import strides
from watchdog.journal.codec import dump_state
from watchdog.judging.gradual import Gradual, at_once
from watchdog.model.session import Activity, SessionId, Status
from watchdog.settings.schema import Settings
from watchdog.strides import SLICE_SECONDS, gradually, in_strides

SESSIONS = 600
LINE_SECONDS = SLICE_SECONDS / SESSIONS
"""What a line of Python costs by the clock of these tests: as many lines as there are sessions fill a slice."""
MOST_SLICES = 10
"""A look that is done at a stretch takes over 200 of them."""


class Worked:
    """A clock that shows how much was worked, and what happens in the loop meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done = self.longest = 0.0
        self._since = 0.0
        monkeypatch.setattr(strides, "seconds", lambda: self.done)
        monkeypatch.setattr(strides._Breath, "taken_at", 0.0)  # by this clock

    async def beat(self) -> None:
        """Note, whenever the loop comes round, how much was worked since it did so before."""
        while True:
            self.longest = max(self.longest, self.done - self._since)
            self._since = self.done
            await anyio.lowlevel.checkpoint()

    @contextmanager
    def by_lines(self) -> Iterator[None]:
        """Work is lines of Python, in this thread."""

        def trace(_: FrameType, event: str, __: Any) -> Any:  # noqa: ANN401
            if event == "line":
                self.done += LINE_SECONDS
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


@pytest.fixture
async def worked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worked]:
    found = Worked(monkeypatch)
    beat = asyncio.create_task(found.beat())
    yield found
    beat.cancel()


def work(worked: Worked, items: int, *, each: float) -> Gradual[int]:
    for _ in range(items):
        yield
        worked.done += each
    return items


async def test_work_gives_the_loop_away_once_a_slice_is_used_up(worked: Worked) -> None:
    assert await gradually(work(worked, 1000, each=SLICE_SECONDS / 10)) == 1000
    assert SLICE_SECONDS < worked.longest < 1.3 * SLICE_SECONDS


async def test_pieces_of_work_in_a_row_share_a_slice(worked: Worked) -> None:
    for _ in range(100):
        await gradually(work(worked, 3, each=SLICE_SECONDS / 10))
        async for _ in in_strides(range(3)):
            worked.done += SLICE_SECONDS / 10
    assert SLICE_SECONDS < worked.longest < 1.3 * SLICE_SECONDS


async def test_cheap_items_do_not_give_it_away_each(worked: Worked) -> None:
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            await anyio.lowlevel.checkpoint()
            rounds += 1

    counting = asyncio.create_task(count())
    async for _ in in_strides(range(1000)):
        worked.done += SLICE_SECONDS / 100
    counting.cancel()
    assert 5 <= rounds <= 15


@pytest.mark.parametrize("whole", [True, False])
async def test_what_must_be_whole_is_brought_to_its_end_when_cancelled(worked: Worked, *, whole: bool) -> None:
    done: list[int] = []

    def steps() -> Gradual[None]:
        for number in range(100):
            yield
            worked.done += SLICE_SECONDS
            done.append(number)

    task = asyncio.create_task(gradually(steps(), whole=whole))
    while len(done) < 3:
        await anyio.lowlevel.checkpoint()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(done) == 100) is whole


def test_what_is_kept_is_written_in_pieces_as_in_one() -> None:
    value = {"a": {f"k{number}": {"x": [number, None, 'ü"']} for number in range(1001)}, "b": {}, "c": None, "d": [1]}
    pieces = dump_state(value)
    assert at_once(pieces) == json.dumps(value, separators=(",", ":"))
    assert sum(1 for _ in dump_state(value)) > 10


@pytest.mark.parametrize("slice_seconds", [SLICE_SECONDS, math.inf], ids=["in strides", "at a stretch"])
async def test_a_look_a_judgement_and_a_save_hold_the_loop_for_a_slice_however_much_is_open(
    tmp_path: Path, worked: Worked, monkeypatch: pytest.MonkeyPatch, slice_seconds: float
) -> None:
    """Nothing goes through all sessions at a stretch, but for a few passes that cost each of them one line."""
    rows = OpencodeFile(tmp_path / "opencode.db")
    rows.connection.execute("BEGIN")
    for number in range(SESSIONS):
        session = rows.session(f"ses_{number}", directory=f"/project/{number}")
        rows.call(rows.turn(session, f"msg_{number}"), f"prt_{number}")
    rows.connection.execute("COMMIT")
    host = InProcessHost(rows, {SessionId(f"ses_{n}"): Status(activity=Activity.BUSY) for n in range(SESSIONS)})
    engine, notes = create_async_engine(f"sqlite+aiosqlite:///{rows.path}"), Notes()
    settings = Settings(journal=tmp_path / "journal.db", tool_timeout="off", poll_interval="1h")  # type: ignore[arg-type]
    async with watchdog.running(settings, host=host, engine=engine, listeners=[notes]) as dog:
        await wait_until(lambda: bool(notes.looks), "the first look")
        await wait_until(lambda: dog.watch.search.over, "the search in the background, which is no part of a look")
        monkeypatch.setattr(strides, "SLICE_SECONDS", slice_seconds)
        for change in (
            "UPDATE part SET data = json_set(data, '$.state.status', 'pending'), time_updated = time_updated + 1",
            "UPDATE part SET time_updated = time_updated + 1 WHERE id = 'prt_1'",
        ):
            rows.connection.execute(change)
            worked.longest = 0.0
            with worked.by_lines():
                await asyncio.create_task(dog.watch.assess(full=True))
                await asyncio.create_task(dog.watch.recollection.keep())
            assert (worked.longest < MOST_SLICES * SLICE_SECONDS) is (slice_seconds == SLICE_SECONDS), worked.longest
        assert len(notes.looks[-1].judgement.spared) == SESSIONS
    await engine.dispose()
    rows.close()
