"""What a crash left begun is closed at the start; whoever counts what is under way must come out even."""

import anyio

from tests.unit.loop.test_watch import World
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict, VerdictKind


async def test_what_is_told_to_end_was_told_to_begin_also_when_a_crash_came_between() -> None:
    world = World()
    verdict = Verdict(
        kind=VerdictKind.ORPHAN,
        session_id=SessionId("ses_gone"),
        cancel_session_id=SessionId("ses_gone"),
        age_seconds=1.0,
        why="nobody executes it",
    )
    await world.journal.begin(verdict, at_ms=0)
    diary, stop = world.diary, anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.watch().run, stop)
        await diary.until(lambda: diary.ends)
        stop.set()

    assert [each.session_id for each in diary.finds] == [outcome.session_id for outcome, _ in diary.ends]
