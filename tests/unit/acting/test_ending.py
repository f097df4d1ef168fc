"""The end of a left-over command: real processes, and a real journal."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.support.database import OpencodeFile
from tests.support.left_over import Opencode, opencode, session, until
from tests.support.waiting import wait_until
from tests.unit.judging.test_leftovers import call, command, member
from watchdog.acting import ending
from watchdog.acting.ending import Ending
from watchdog.acting.settled import Fates, SettledCommands
from watchdog.errors import JournalUnusable
from watchdog.journal.sqlite import SqliteJournal
from watchdog.model.interventions import Actor
from watchdog.model.leftovers import Asked, Commands, LeftOver, Member, Settled
from watchdog.model.outcome import Result, Row
from watchdog.model.report import Holder, Holders
from watchdog.model.session import CallId, SessionId, TurnId
from watchdog.model.verdict import VerdictKind
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.processes import commands, leftovers
from watchdog.opencode.processes.commands import Table
from watchdog.opencode.processes.leftovers import ProcessCommands
from watchdog.opencode.processes.stat import Stat
from watchdog.timing.clock import SystemClock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="left-over commands are told on Linux only")


@pytest.fixture
def dead() -> Iterator[Opencode]:
    """An opencode; whoever uses it lets it die."""
    with opencode() as found:
        yield found


class House:
    """What ends commands, on a database and a journal of its own.

    Attributes:
        holders: who has the database open, in the place of the kernel's word.
    """

    def __init__(self, store: OpencodeDatabase, journal: SqliteJournal) -> None:
        self.journal = journal
        self.holders = Holders()
        self.processes = ProcessCommands(
            database=store.path, calls=store.command_calls, holders=self._known, clock=SystemClock()
        )

    async def _known(self) -> Holders:
        return self.holders

    def ending(self, *, grace_seconds: float = 5.0) -> Ending:
        return Ending(
            processes=self.processes, journal=self.journal, clock=SystemClock(), grace_seconds=grace_seconds
        )

    async def left(self, pid: int) -> LeftOver:
        (found,) = [each for each in (await self.processes.look()).left if each.command.first.pid == pid]
        return found

    async def asked(self, pid: int) -> tuple[LeftOver, Asked]:
        left = await self.left(pid)
        return left, asked(left)


def asked(left: LeftOver) -> Asked:
    """A person's word to end it."""
    return Asked(pid=left.identity[0], birth=left.identity[1])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    path = tmp_path / "opencode.db"
    with OpencodeFile(path):
        pass
    async with (
        await OpencodeDatabase.open(path) as store,
        await SqliteJournal.open(tmp_path / "journal.db") as journal,
    ):
        yield House(store, journal)


async def test_the_whole_command_ends_and_the_journal_has_it(house: House, dead: Opencode, tmp_path: Path) -> None:
    pid, other = dead.start("sleep 80.25 | cat; sleep 80.5", tmp_path), dead.start("sleep 80.75", tmp_path)
    await wait_until(lambda: len(session(pid)) == 3, "the command")
    dead.die()

    outcome = await house.ending().end(*await house.asked(pid), actor=Actor.PERSON)

    assert outcome.result is Result.RECOVERED
    assert [step.step for step in outcome.steps] == ["reread", "terminate", "verify"]
    assert session(pid) == []
    assert session(other) == [other]
    (noted,) = await house.journal.interventions()
    assert (noted.verdict.kind, noted.actor, noted.outcome) == (VerdictKind.LEFT_OVER, Actor.PERSON, outcome)
    assert "80.25" not in noted.verdict.why, "a command line is shown only to who asks for it"


async def test_what_does_not_listen_to_term_is_killed_after_the_grace(
    house: House, dead: Opencode, tmp_path: Path
) -> None:
    pid = dead.start("trap '' TERM; while :; do sleep 0.1; done", tmp_path)
    await wait_until(lambda: len(session(pid)) == 2, "the command")
    dead.die()

    outcome = await house.ending(grace_seconds=0.3).end(*await house.asked(pid), actor=Actor.WATCHDOG)

    assert outcome.result is Result.RECOVERED
    assert [step.step for step in outcome.steps][:3] == ["reread", "terminate", "kill"]
    assert session(pid) == []


async def test_the_first_process_is_the_first_to_get_each_signal(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = [4711, 4790, 4712, 4760, 4713, 4740, 4714, 4720]
    members = {pid: member("x", pid=pid) for pid in pids}
    stats = {
        pid: Stat(pid=pid, parent=1, session=4711, terminal=False, birth=100, memory_bytes=0, ended=False)
        for pid in sorted(pids)
    }
    seen = Table(stats=stats, marks={4711: 4700}, unreadable=frozenset(), others=0, hides=False, elsewhere=False)
    monkeypatch.setattr(commands, "read_table", lambda: seen)
    monkeypatch.setattr(commands, "_member", lambda stat: members[stat.pid])
    sent: list[tuple[int, int]] = []

    def send(_: LeftOver, each: Member, number: int) -> bool:
        sent.append((number, each.pid))
        if number == signal.SIGKILL:
            del stats[each.pid]
        return True

    monkeypatch.setattr(leftovers, "send", send)
    left = LeftOver(command=command(*members.values()), why="its opencode is gone")
    await ending._Attempt(house.processes, FakeClock(auto=True), 0.1).end(left)

    assert sent == [(signal.SIGTERM, pid) for pid in pids] + [(signal.SIGKILL, pid) for pid in pids]


async def test_what_has_ended_meanwhile_is_no_act(house: House, dead: Opencode, tmp_path: Path) -> None:
    pid = dead.start("sleep 81.25", tmp_path)
    until(pid, "sleep 81.25")
    dead.die()
    left = await house.left(pid)
    os.kill(pid, 9)
    dead.commands[0].wait()

    outcome = await house.ending().end(left, asked(left), actor=Actor.PERSON)

    assert outcome.result is Result.UNCHANGED
    assert await house.journal.interventions() == ()


async def test_another_process_of_the_same_pid_is_left_alone(house: House, dead: Opencode, tmp_path: Path) -> None:
    pid = dead.start("sleep 81.5", tmp_path)
    until(pid, "sleep 81.5")
    dead.die()
    left = await house.left(pid)
    first = replace(left.command.first, birth=left.command.first.birth - 1)
    looked_at_before = replace(left, command=replace(left.command, members=(first,)))

    outcome = await house.ending().end(looked_at_before, asked(looked_at_before), actor=Actor.PERSON)

    assert outcome.result is Result.UNCHANGED
    assert session(pid) == [pid]


async def test_an_opencode_that_began_to_run_in_it_meanwhile_spares_it(
    house: House, dead: Opencode, tmp_path: Path
) -> None:
    pid = dead.start("sleep 81.75", tmp_path)
    until(pid, "sleep 81.75")
    dead.die()
    left = await house.left(pid)
    house.holders = Holders(known=(Holder(pid=pid, born_ms=0, command="opencode"),))

    outcome = await house.ending().end(left, asked(left), actor=Actor.PERSON)

    assert outcome.result is Result.UNCHANGED
    assert "an opencode runs in it" in outcome.why
    assert session(pid) == [pid]


async def test_without_a_journal_nothing_is_ended(
    house: House, dead: Opencode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = dead.start("sleep 82.25", tmp_path)
    until(pid, "sleep 82.25")
    dead.die()

    async def full(*_: object, **__: object) -> None:
        raise JournalUnusable("The disk is full.")

    monkeypatch.setattr(house.journal, "begin", full)
    with pytest.raises(JournalUnusable):
        await house.ending().end(*await house.asked(pid), actor=Actor.PERSON)
    assert session(pid) == [pid]


async def test_what_belongs_to_no_settled_call_is_not_ended_with_one(
    house: House, dead: Opencode, tmp_path: Path
) -> None:
    pid = dead.start("sleep 82.5", tmp_path)
    until(pid, "sleep 82.5")
    dead.die()
    settled = Settled(call_ids=frozenset({CallId("prt_1")}))

    outcome = await house.ending().end(await house.left(pid), settled, actor=Actor.WATCHDOG)

    assert outcome.result is Result.UNCHANGED
    assert session(pid) == [pid]


async def test_an_error_of_the_end_leaves_the_calls_settled(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    left = LeftOver(command=command(), call=call(), why="its opencode is gone")

    async def full(*_: object, **__: object) -> None:
        raise JournalUnusable("The disk is full.")

    ending = house.ending()
    monkeypatch.setattr(ending, "end", full)
    ends = SettledCommands(house.processes, SystemClock(), ending)
    fates = Fates(seen=Commands(left=(left,)))
    told = await ends.end(Settled(call_ids=frozenset({CallId("prt_1")})), fates, actor=Actor.WATCHDOG)
    assert told == ((False, "The disk is full."),)


async def test_calls_that_are_settled_within_seconds_share_a_look(house: House) -> None:
    looks: list[int | None] = []

    async def look(*, since_ms: int | None = None, to_tell: bool = False) -> Commands:
        assert to_tell
        looks.append(since_ms)
        return Commands(complete=True)

    house.processes.look = look  # type: ignore[method-assign]
    clock = FakeClock()
    found = SettledCommands(house.processes, clock)
    day = 24 * 60 * 60 * 1000

    async def asked_for(created_ms: int) -> str:
        row = Row(
            table="part", id="prt_1", message_id=TurnId("msg_1"), session_id=SessionId("ses_1"), updated_ms=0,
            created_ms=created_ms, data='{"state": {"input": {"command": "sleep 1"}}}',
        )  # fmt: skip
        return (await found.fates([row])).sentences["prt_1"]

    assert await asked_for(2 * day + 5) == await asked_for(2 * day + 9) == "No process of its command was found."
    await asked_for(3 * day)
    assert looks == [2 * day]
    await asked_for(day)
    clock.advance(6)
    await asked_for(3 * day)
    assert looks == [2 * day, day, 3 * day]
