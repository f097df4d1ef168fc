"""What outlived its opencode is told once, when two looks have seen it."""

from collections.abc import Sequence

import anyio
import pytest

from tests.fakes.clock import FakeClock
from tests.unit.judging.test_leftovers import command, member
from watchdog.alerts.alert import Alert, Severity
from watchdog.alerts.left_over import LeftOvers, watch_left_overs
from watchdog.errors import DatabaseUnavailable
from watchdog.model.leftovers import Commands, LeftOver, Member


def left(pid: int) -> LeftOver:
    return LeftOver(command=command(member("sleep", pid=pid)), why="its opencode is gone")


def test_each_is_told_once_when_two_looks_have_seen_it() -> None:
    known = LeftOvers()
    assert known.look([left(7)]) is None
    first = known.look([left(7), left(8)])
    assert first is not None
    assert first.title == "a command outlived what started it"
    assert first.body.split("\n") == ["pid 7: its opencode is gone", "opencode-watchdog leftovers"]
    second = known.look([left(7), left(8)])
    assert second is not None
    assert "pid 8" in second.body
    assert "pid 7" not in second.body
    assert known.look([left(7), left(8)]) is None


def test_many_are_one_message() -> None:
    known = LeftOvers()
    many = [left(pid) for pid in range(100, 113)]
    assert known.look(many) is None
    told = known.look(many)
    assert told is not None
    assert (told.title, told.severity) == ("13 commands outlived what started them", Severity.INFO)
    assert len(told.body.split("\n")) == 10 + 2


class Looks:
    """`ports.Processes` with a script of looks."""

    def __init__(self, *looks: Sequence[LeftOver] | DatabaseUnavailable) -> None:
        self._looks = [*looks]

    async def look(self, *, since_ms: int | None = None, to_tell: bool = False) -> Commands:
        assert (since_ms, to_tell) == (None, True)
        found = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(found, DatabaseUnavailable):
            raise found
        return Commands(left=tuple(found), complete=True)

    async def members(self, left: LeftOver) -> Sequence[Member]:
        raise NotImplementedError

    async def send(self, left: LeftOver, member: Member, *, kill: bool) -> bool:
        raise NotImplementedError


@pytest.mark.parametrize("trouble", [[], [DatabaseUnavailable("it is locked")]])
async def test_it_goes_on_after_a_look_that_could_not_be_taken(trouble: list[DatabaseUnavailable]) -> None:
    told: list[Alert] = []
    clock = FakeClock()
    processes = Looks([left(7)], *trouble, [left(7)])
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await watch_left_overs(processes, told.append, clock=clock, every_seconds=60)

        group.start_soon(watch)
        for _ in range(4):
            await clock.until_sleeping()
            clock.advance(60)
            await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert len(told) == 1
