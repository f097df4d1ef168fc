"""What others fell into, each as a test of its own: the real loop on a real SQLite file.

The number in a docstring is the entry's. Those that a real server shows are in `test_pitfalls_e2e.py`; some are in
both, and some only there in full.
"""

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

import watchdog
from tests.fakes.clock import FakeClock
from tests.fakes.server import AbortBehaviour, endpoint
from tests.pitfalls.stage import (
    ELSEWHERE,
    HOUR,
    MINUTE,
    OLD_SERVER,
    PLACE,
    SECOND_SERVER,
    Diary,
    Stage,
    Work,
)
from tests.support.database import OpencodeFile
from tests.support.program import Program, program
from tests.support.waiting import wait_until
from watchdog.errors import DatabaseUnsupported, ServerUnreachable
from watchdog.model.outcome import Result
from watchdog.model.report import Holder, Holders
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status
from watchdog.model.verdict import SpareReason, Verdict, VerdictKind
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.file.identity import find_database
from watchdog.opencode.processes.lock import DatabaseLock, lock_path
from watchdog.ports import Reading
from watchdog.reporting.log import LogListener
from watchdog.settings.schema import Settings
from watchdog.timing.clock import SystemClock

__all__ = ["program"]

LONG = 20 * MINUTE
"""A limit of those tests in which hours pass: the loop looks at least once in each."""

RECOVERED = Result.RECOVERED
GONE = Holders()
"""No process has the database open."""


# -- 1, 34: what can't be watched ----------------------------------------------------------------------------


@pytest.mark.parametrize("generation", ["2.x", "before 1.2"])
@pytest.mark.parametrize("command", ["run", "recover", "scan"])
async def test_a_database_of_an_unknown_generation_is_named_and_never_reported_as_nothing_stuck(
    program: Program, generation: str, command: str
) -> None:
    """1."""
    folder = program.home / ".local" / "share" / "opencode"
    folder.mkdir(parents=True)
    if generation == "2.x":
        with OpencodeFile(folder / "opencode.db") as rows:
            rows.connection.execute("CREATE TABLE session_v2 (id text PRIMARY KEY)")
    else:
        (folder / "storage" / "session").mkdir(parents=True)
        (folder / "storage" / "session" / "ses_1.json").write_text("{}")
        with pytest.raises(DatabaseUnsupported):
            find_database({}, program.home)

    finished = await program.run(command)

    assert finished.code not in {0, 1}, finished
    assert generation in finished.stderr
    assert finished.stdout == ""


async def test_an_upgrade_to_an_unknown_generation_under_a_running_watchdog_is_an_outage(stage: Stage) -> None:
    """1."""
    stage.work()
    async with stage.watching(tool_timeout=MINUTE) as play:
        looks = len(play.diary.looks)
        stage.rows.connection.execute("CREATE TABLE session_v2 (id text PRIMARY KEY)")
        stage.hands.advance(2 * MINUTE)
        play.watch.wake()
        await play.diary.until(lambda: play.diary.outages)
        assert "opencode 2.x" in play.diary.outages[0][0]
        assert (len(play.diary.looks), play.diary.finds) == (looks, [])


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "virtiofs", "fuse", "fuse.sshfs"])
async def test_a_database_on_a_mount_from_another_kernel_is_refused_and_not_touched(
    tmp_path: Path, kind: str
) -> None:
    """34."""
    path = tmp_path / "opencode.db"
    with OpencodeFile(path) as rows:
        rows.session()
    before = _files(tmp_path)

    with pytest.raises(DatabaseUnsupported, match=kind):
        await OpencodeDatabase.open(path, filesystem_type=lambda _: kind)

    assert _files(tmp_path) == before
    async with await OpencodeDatabase.open(path, filesystem_type=lambda _: "ext4") as database:
        assert (await database.describe()).sessions == 1


def _files(folder: Path) -> dict[str, bytes]:
    """What is in a folder. Nobody has the database open now."""
    return {each.name: each.read_bytes() for each in folder.iterdir()}


# -- 2, 28: humans -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tool"), [(AskKind.QUESTION, "question"), (AskKind.PERMISSION, "bash")])
async def test_what_waits_for_hours_for_a_human_who_is_away_is_left_in_any_directory_and_in_a_child(
    stage: Stage, kind: AskKind, tool: str
) -> None:
    """2."""
    parent = stage.work("parent", tool="task")
    here, child = stage.work("here", tool=tool), stage.work("child", tool=tool, parent=parent.session)
    there = stage.work("there", tool=tool, directory=ELSEWHERE)
    for work, place in ((here, PLACE), (child, PLACE), (there, ELSEWHERE)):
        stage.asking(work, kind=kind, directory=place)
    before = stage.stored()
    async with stage.watching(tool_timeout=LONG, task_timeout=LONG, idle_timeout=LONG) as play:
        await play.pass_time(5 * HOUR)
        for work in (here, child, there, parent):
            assert play.reason(work.session) == {SpareReason.WAITING_ON_HUMAN}
        assert (play.diary.finds, stage.stored()) == ([], before)

        stage.server.asks_by.clear()
        await play.look()
        await play.pass_time(LONG - 1)
        assert play.diary.finds == []
        await play.pass_time(1)
        assert {verdict.session_id for verdict in play.diary.finds} == {each.session for each in (here, child, there)}


async def test_an_approval_after_three_hours_leaves_the_call_its_whole_time(stage: Stage) -> None:
    """28, in one life of the watchdog."""
    work = stage.work()
    stage.asking(work, kind=AskKind.PERMISSION)
    async with stage.watching(tool_timeout=LONG) as play:
        await play.pass_time(3 * HOUR)
        stage.server.asks_by.clear()
        await play.look()
        await play.pass_time(LONG - 1)
        assert play.reason(work.session) == {SpareReason.WITHIN_LIMIT}
        assert play.diary.finds == []
        await play.pass_time(1)
        assert play.diary.results == [Result.RECOVERED]


async def test_a_watchdog_that_starts_after_an_approval_counts_from_when_the_row_was_written_then(
    stage: Stage,
) -> None:
    """28: nobody saw the wait."""
    work = stage.work(age=3 * HOUR)
    stage.rows.set("part", work.call, time_updated=stage.ago(0))
    async with stage.watching(tool_timeout=MINUTE) as play:
        await play.pass_time(MINUTE - 1)
        assert play.diary.finds == []
        await play.pass_time(1)
        assert play.diary.results == [Result.RECOVERED]


# -- 3, 17, 31, 33: who executes it --------------------------------------------------------------------------


async def test_when_one_server_restarts_the_calls_of_another_one_on_the_database_are_untouched(stage: Stage) -> None:
    """3."""
    lost, theirs = stage.work("lost", age=HOUR, busy=False), stage.work("theirs", age=HOUR, busy=False)
    restarted = Holder(pid=101, born_ms=stage.ago(0), command="opencode serve", endpoints=(endpoint(4096),))
    stage.owners.holders = Holders(known=(restarted, SECOND_SERVER))
    before = stage.stored()
    async with stage.watching(tool_timeout="off", orphan_grace=30) as play:
        await play.pass_time(2 * HOUR)
        assert (play.diary.finds, stage.stored()) == ([], before)
        assert play.reasons == {SpareReason.WITHIN_LIMIT}

        other = stage.add_server()
        other.turns |= {(work.session, work.turn) for work in (lost, theirs)}
        other.busy(theirs.session, PLACE)
        await play.look()
        await play.pass_time(MINUTE)
        assert [(verdict.session_id, verdict.kind) for verdict in play.diary.finds] == [
            (lost.session, VerdictKind.ORPHAN)
        ]
        assert stage.rows.get("part", theirs.call) in [row[-1] for row in before["part"]]
    assert play.diary.results == [Result.RECOVERED]


@pytest.mark.parametrize(
    ("pid", "born_seconds", "gone"),
    [
        pytest.param(100, -60.0, False, id="the process that began it"),
        pytest.param(100, 5.0, False, id="its pid, born within the margin"),
        pytest.param(100, 5.001, True, id="its pid, used again"),
        pytest.param(300, -60.0, False, id="another process with the same command line"),
        pytest.param(300, 60.0, True, id="another process with the same command line, born later"),
    ],
)
async def test_a_process_is_its_pid_and_its_birth_and_never_its_command_line(
    stage: Stage, pid: int, born_seconds: float, gone: bool
) -> None:
    """17."""
    work = stage.work(age=HOUR, busy=False)
    stage.server.vouching = False
    born = round(stage.ago(HOUR) + born_seconds * 1000)
    stage.owners.holders = Holders(known=(Holder(pid=pid, born_ms=born, command=OLD_SERVER.command),))
    async with stage.watching(tool_timeout="off", orphan_grace=30, birth_margin=5) as play:
        await play.pass_time(MINUTE)
        assert play.diary.results == ([Result.RECOVERED] if gone else [])
        assert play.reason(work.session) == (set() if gone else {SpareReason.WITHIN_LIMIT})


async def test_the_idle_answer_of_a_server_of_another_database_is_no_evidence(stage: Stage) -> None:
    """31."""
    stage.work(age=HOUR, busy=False)
    stage.server.shown = False
    before = stage.stored()
    async with stage.watching(tool_timeout="off", orphan_grace=30) as play:
        await play.pass_time(2 * HOUR)
        assert play.reasons == {SpareReason.WITHIN_LIMIT}
        assert (play.diary.finds, stage.stored()) == ([], before)

        stage.server.shown = True
        await play.look()
        await play.pass_time(29)
        assert play.diary.finds == []
        await play.pass_time(1)
    assert play.diary.results == [Result.RECOVERED]


class SilentHost:
    """A server that hosts sessions itself, and does not answer for them until it is told to."""

    def __init__(self) -> None:
        self.answers = False

    async def statuses(self) -> dict[SessionId, Status]:
        if not self.answers:
            raise RuntimeError
        return {}

    async def pending_asks(self) -> list[Ask]:
        return []

    async def abort(self, session_id: SessionId) -> None:
        raise AssertionError(session_id)


async def test_a_watchdog_embedded_in_a_server_does_not_take_its_own_process_for_nobody(tmp_path: Path) -> None:
    """33: with the real processes, of which this one was born long after the row."""
    path, host, diary = tmp_path / "opencode.db", SilentHost(), Diary()
    told: dict[str, Any] = {"database": path, "poll_interval": 0.05, "orphan_grace": 0.05, "tool_timeout": "off"}
    settings = Settings(**told, sole_owner=True)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    with OpencodeFile(path) as rows:
        work = Work(
            session=(session := rows.session(at=1)),
            turn=(turn := rows.turn(session, at=2)),
            call=rows.call(turn, at=3),
        )
        before = rows.get("part", work.call)
        async with watchdog.running(settings, host=host, engine=engine, listeners=[diary]):
            await diary.until(lambda: len(diary.looks) > 5)
            holders = diary.looks[-1].observation.holders
            assert holders is not None
            assert [holder.embeds_us for holder in holders.known] == [True]
            assert (diary.finds, rows.get("part", work.call)) == ([], before)

            host.answers = True
            await diary.until(lambda: diary.outcomes)
        assert diary.results == [Result.RECOVERED]
        assert "this server" in diary.finds[0].why
    await engine.dispose()


# -- 4, 19, 20, 21, 26: aborts -------------------------------------------------------------------------------


async def test_an_abort_that_answered_true_while_the_call_still_runs_is_ineffective_and_never_a_success(
    stage: Stage,
) -> None:
    """4."""
    work = stage.work(age=MINUTE)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    before = stage.stored()
    async with stage.watching(tool_timeout=MINUTE) as play:
        assert play.diary.results == [Result.INEFFECTIVE]
        assert work.call in play.diary.outcomes[0].why
        assert stage.stored() == before
        assert play.reason(work.session) == {SpareReason.COOLING_DOWN}

        stage.server.abort_behaviour = AbortBehaviour.WORKS
        await play.pass_time(MINUTE)
        assert play.diary.results == [Result.INEFFECTIVE, Result.RECOVERED]


async def test_an_abort_at_a_server_that_does_not_run_the_session_is_noticed(stage: Stage) -> None:
    """19: it says that it is at work on the session, and agrees to the abort; another process executes it."""
    work = stage.work(age=MINUTE)
    stage.server.on_abort = None
    stage.owners.holders = Holders(known=(OLD_SERVER, Holder(pid=300, born_ms=0, command="opencode run")))
    before = stage.stored()
    async with stage.watching(tool_timeout=MINUTE) as play:
        assert stage.server.aborted == [(work.session, PLACE)]
        assert play.diary.results[0] is Result.INEFFECTIVE
        assert "opencode run (pid 300)" in play.diary.outcomes[0].why
        await play.pass_time(MINUTE)
        assert play.diary.results[-1] is Result.UNREACHABLE
        assert Result.RECOVERED not in play.diary.results
        assert stage.stored() == before


@pytest.mark.parametrize("place", [PLACE, ELSEWHERE])
async def test_an_abort_goes_to_the_directory_under_which_the_session_is_held(stage: Stage, place: str) -> None:
    """19: in any other directory it would be agreed to, and do nothing."""
    work = stage.work(age=MINUTE, busy=False)
    turn = json.loads(stage.rows.get("message", work.turn))
    stage.rows.set("message", work.turn, data=json.dumps({**turn, "path": {"cwd": ELSEWHERE, "root": "/"}}))
    stage.server.busy(work.session, place)
    async with stage.watching(tool_timeout=MINUTE) as play:
        assert play.diary.results == [Result.RECOVERED]
        assert stage.server.aborted == [(work.session, place)]


async def test_a_wedge_that_persists_gets_three_actions_then_one_alert_and_then_one_action_an_hour(
    stage: Stage,
) -> None:
    """20."""
    work = stage.work(age=LONG)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    stage.more.append(LogListener())
    with capture_logs() as logs:
        async with stage.watching(tool_timeout=LONG, max_attempts=3) as play:
            await play.pass_time(HOUR / 2)
            assert play.diary.results == [Result.INEFFECTIVE] * 3
            assert len(stage.server.aborted) == 3
            assert play.reason(work.session) == {SpareReason.GIVEN_UP}
            await play.pass_time(24 * HOUR)
            assert len(play.diary.finds) == len(stage.server.aborted) == 3 + 24
    assert len(play.diary.alerts) == 1
    assert [(line["log_level"], line["session_id"]) for line in logs if line["event"] == "verdict.given_up"] == [
        ("error", work.session)
    ]


async def test_an_abort_that_hangs_has_its_own_time_limit_and_the_loop_goes_on(stage: Stage) -> None:
    """21."""
    stage.server.abort_behaviour = AbortBehaviour.HANGS
    async with stage.watching(tool_timeout=MINUTE, abort_timeout=6) as play:
        hung = stage.work("hung", age=MINUTE)
        await play.look()
        await wait_until(lambda: stage.server.aborted, "the abort")
        stage.server.abort_behaviour = AbortBehaviour.WORKS
        other = stage.work("other", age=MINUTE)
        for _ in range(3):
            await play.look()
        await play.diary.until(lambda: play.diary.outcomes)
        assert [outcome.session_id for outcome in play.diary.outcomes] == [other.session]
        await play.calm()
        ended = next(outcome for outcome in play.diary.outcomes if outcome.session_id == hung.session)
        assert ended.result is Result.INEFFECTIVE
        [abort] = [step for step in ended.steps if step.step == "abort"]
        assert (abort.ok, "did not answer within 6 s" in abort.detail) == (False, True)


async def test_caps_cool_downs_and_attempt_counts_survive_what_interrupts_the_loop(stage: Stage) -> None:
    """26, in one life of the watchdog: the database and the server come and go."""
    work = stage.work(age=LONG)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    aside = stage.path.with_name("aside.db")
    async with stage.watching(tool_timeout=LONG, max_attempts=3) as play:
        assert len(stage.server.aborted) == 1
        for _ in range(2):
            stage.path.rename(aside)
            outages = len(play.diary.outages)
            play.watch.wake()
            await play.diary.until(lambda seen=outages: len(play.diary.outages) > seen)  # type: ignore[misc]
            aside.rename(stage.path)
            await play.look()
            stage.server.problem = ServerUnreachable("restarting")
            await play.look()
            stage.server.problem = None
            assert play.reasons <= {SpareReason.COOLING_DOWN, SpareReason.GIVEN_UP, SpareReason.NO_WITNESS}
            await play.pass_time(10 * MINUTE)
        assert len(stage.server.aborted) == 3
        await play.pass_time(24 * HOUR)
        assert len(stage.server.aborted) == 3 + 24  # one an hour
        assert play.reason(work.session) == {SpareReason.GIVEN_UP}
    assert len(play.diary.alerts) == 1


# -- 5, 18: time and outages ---------------------------------------------------------------------------------


class Sleeper:
    """The machine's own clocks, as they read after the machine has slept."""

    def __init__(self) -> None:
        self.real = SystemClock()
        self.slept = 0.0

    def read(self) -> Reading:
        now = self.real.read()
        return Reading(
            wall_ms=now.wall_ms + round(self.slept * 1000),
            awake_seconds=now.awake_seconds,
            running_seconds=now.running_seconds + self.slept,
            steady_since_ms=now.steady_since_ms,
        )

    async def sleep(self, seconds: float) -> None:
        await self.real.sleep(seconds)


async def test_nothing_is_killed_when_the_host_wakes_from_nine_minutes_of_sleep(stage: Stage) -> None:
    """5: on the real clocks."""
    stage.clock = clock = Sleeper()
    stage.hands = FakeClock(wall_ms=clock.read().wall_ms)
    young, old = stage.work("young", age=MINUTE), stage.work("old", age=9 * MINUTE - 1)
    async with stage.watching(tool_timeout=9 * MINUTE, poll_interval=0.05) as play:
        assert play.diary.finds == []
        clock.slept = 9.0 * MINUTE
        play.watch.wake()
        await play.diary.until(lambda: play.diary.held)
        looks = len(play.diary.looks)
        assert play.diary.held[0].slept_seconds == pytest.approx(9 * MINUTE, abs=1)
        await play.diary.until(lambda: play.diary.outcomes)
        assert len(play.diary.looks) > looks
        [verdict] = play.diary.finds
        assert verdict.session_id == old.session
        assert 9 * MINUTE <= verdict.age_seconds < 10 * MINUTE
        assert play.reason(young.session) == {SpareReason.WITHIN_LIMIT}


async def test_a_locked_database_kills_nothing_and_is_tried_again(stage: Stage) -> None:
    """18: a peer holds the write lock."""
    stage.work(busy=False)
    stage.owners.holders = GONE
    before = stage.stored()
    stage.rows.connection.execute("BEGIN IMMEDIATE")
    async with stage.watching() as play:
        assert play.diary.results == [Result.FAILED]
        assert "locked" in play.diary.outcomes[0].why
        assert stage.stored() == before
        stage.rows.connection.execute("ROLLBACK")
        await play.pass_time(MINUTE)
        assert play.diary.results == [Result.FAILED, Result.RECOVERED]


@asynccontextmanager
async def moved_away(stage: Stage) -> AsyncIterator[None]:
    """Nobody finds the database."""
    aside = stage.path.with_name("aside.db")
    stage.path.rename(aside)
    yield
    aside.rename(stage.path)


@asynccontextmanager
async def kept_by_a_peer(stage: Stage) -> AsyncIterator[None]:
    """A peer has the database for itself: nobody else can even read."""
    await stage.store.disconnect()
    stage.rows.close()
    with closing(sqlite3.connect(stage.path, isolation_level=None)) as peer:
        peer.execute("PRAGMA locking_mode = EXCLUSIVE")
        peer.execute("INSERT INTO project VALUES ('p', '/')")
        yield
    stage.rows = OpencodeFile(stage.path)


@pytest.mark.parametrize(("outage", "words"), [(moved_away, "is gone"), (kept_by_a_peer, "is locked")])
async def test_while_the_database_can_not_be_read_the_watchdog_backs_off_and_says_so_once(
    stage: Stage, outage: Callable[[Stage], AbstractAsyncContextManager[None]], words: str
) -> None:
    """18."""
    work = stage.work(age=MINUTE)
    stage.more.append(LogListener())
    with capture_logs() as logs:
        async with AsyncExitStack() as lasting:
            async with outage(stage):
                watching = stage.watching(tool_timeout=MINUTE, poll_interval=0.05)
                play = await lasting.enter_async_context(watching)
                await play.diary.until(lambda: len(play.diary.outages) > 3)
                assert words in play.diary.outages[0][0]
                assert [pause for _, pause in play.diary.outages[:4]] == [0.05, 0.1, 0.2, 0.4]
                assert stage.server.aborted == []
            await play.diary.until(lambda: play.diary.outcomes)
    assert stage.server.aborted == [(work.session, PLACE)]
    events = [line["event"] for line in logs]
    assert (events.count("database.unavailable"), events.count("database.recovered")) == (1, 1)


async def test_a_server_that_is_down_for_five_minutes_costs_no_call_its_life_and_shows_as_degraded(
    stage: Stage,
) -> None:
    """18."""
    stage.work(age=30)
    async with stage.watching(tool_timeout=MINUTE, orphan_grace=10) as play:
        stage.server.problem = ServerUnreachable("nobody answers")
        await play.pass_time(5 * MINUTE)
        assert list(play.diary.looks[-1].observation.degraded) == ["nobody answers"]
        assert play.diary.finds == []
        stage.server.problem = None
        await play.look()
        assert list(play.diary.looks[-1].observation.degraded) == []
        await play.pass_time(29)
        assert play.diary.finds == []
        await play.pass_time(2)
        assert play.diary.results == [Result.RECOVERED]


# -- 6, 7, 32: work that is healthy --------------------------------------------------------------------------


async def test_a_parent_that_is_silent_while_its_child_streams_is_spared(stage: Stage) -> None:
    """6."""
    parent = stage.work("parent", tool="task")
    child = stage.work("child", parent=parent.session)
    stage.rows.finish_call(child.call)

    def stream() -> None:
        stage.server.signs[child.session] = stage.back(0)

    limits = {"tool_timeout": 600, "task_timeout": 600, "idle_timeout": 600}
    async with stage.watching(poll_interval=300, **limits) as play:
        await play.pass_time(3 * HOUR, every=stream)
        assert play.diary.finds == []
        assert play.reason(parent.session) == {SpareReason.WAITING_ON_CHILD}

        stream()
        await play.pass_time(599)
        assert play.diary.finds == []
        await play.pass_time(1)
        assert play.diary.results == [Result.RECOVERED]
        assert stage.server.aborted == [(child.session, PLACE)]


async def test_a_call_that_is_silent_within_its_declared_timeout_or_its_override_is_spared(stage: Stage) -> None:
    """7."""
    bash = stage.work("bash", declared=20 * MINUTE)
    mcp = stage.work("mcp", tool="mcp_render")
    limits = {"tool_timeouts": {"mcp_*": "15m"}, "declared_timeout_grace": 60}
    async with stage.watching(tool_timeout=5 * MINUTE, **limits) as play:
        await play.pass_time(15 * MINUTE - 1)
        assert play.diary.finds == []
        await play.pass_time(1)
        assert [verdict.session_id for verdict in play.diary.finds] == [mcp.session]
        await play.pass_time(6 * MINUTE - 2)
        assert len(play.diary.finds) == 1
        await play.pass_time(2)
        assert [verdict.session_id for verdict in play.diary.finds] == [mcp.session, bash.session]


async def test_a_hung_tool_beside_healthy_work_waits_for_that_to_end(stage: Stage) -> None:
    """32."""
    hung = stage.work()
    healthy = stage.add_call(hung.turn, "prt_healthy", tool="build", at=stage.ago(0))
    async with stage.watching(tool_timeout=LONG, tool_timeouts={"build": "10h"}) as play:
        await play.pass_time(9 * HOUR)
        assert (play.diary.finds, stage.server.aborted) == ([], [])
        assert play.reasons == {SpareReason.WAITING_ON_SIBLING, SpareReason.WITHIN_LIMIT}
        stage.rows.finish_call(healthy, at=stage.ago(0))
        done = stage.rows.get("part", healthy)
        await play.look()
        await play.calm()
        assert play.diary.results == [Result.RECOVERED]
        assert stage.rows.get("part", healthy) == done


# -- 8, 9, 10, 11, 14, 24, 25, 30: silence -------------------------------------------------------------------


async def test_a_long_healthy_stream_without_database_writes_is_not_idle(stage: Stage) -> None:
    """8."""
    session = stage.thinking()
    before = stage.stored()

    def stream() -> None:
        stage.server.signs[session] = stage.back(0)

    async with stage.watching(idle_timeout=600, poll_interval=300) as play:
        await play.pass_time(3 * HOUR, every=stream)
        assert (play.reasons, stage.stored()) == ({SpareReason.RECENTLY_ACTIVE}, before)
        stream()
        await play.pass_time(599)
        assert play.diary.finds == []
        await play.pass_time(1)
        assert play.diary.finds[0].kind is VerdictKind.IDLE_SESSION


async def test_titles_and_usage_counters_every_two_seconds_do_not_start_the_idle_clock_anew(stage: Stage) -> None:
    """9. The pings of a real feed are in the end-to-end test."""
    session = stage.thinking()

    def chatter() -> None:
        now = stage.ago(0)
        turn = json.loads(stage.rows.get("message", "msg_turn_1"))
        usage = {"tokens": {"input": now}, "cost": now}
        stage.rows.set("message", "msg_turn_1", data=json.dumps({**turn, **usage}), time_updated=now)
        stage.rows.set("session", session, title=f"A title at {now}", time_updated=now)

    async with stage.watching(idle_timeout=MINUTE, poll_interval=2) as play:
        await play.pass_time(58, every=chatter)
        assert play.diary.finds == []
        await play.pass_time(2, every=chatter)
        assert [verdict.kind for verdict in play.diary.finds] == [VerdictKind.IDLE_SESSION]
        assert play.diary.results == [Result.RECOVERED]


async def test_a_session_that_retries_in_twenty_minutes_is_not_idle(stage: Stage) -> None:
    """10."""
    session = stage.thinking()
    retry = Status(activity=Activity.RETRY, retry_at_ms=stage.ago(0) + 20 * MINUTE * 1000)
    stage.server.statuses_by = {PLACE: {session: retry}}
    async with stage.watching(idle_timeout=MINUTE) as play:
        await play.pass_time(21 * MINUTE - 1)
        assert (play.diary.finds, play.reasons) == ([], {SpareReason.RETRYING})
        await play.pass_time(1)
        assert [verdict.kind for verdict in play.diary.finds] == [VerdictKind.IDLE_SESSION]


async def test_a_compaction_that_is_silent_for_minutes_is_spared(stage: Stage) -> None:
    """11: with the limit as it is set out of the box."""
    stage.thinking()
    turn = json.loads(stage.rows.get("message", "msg_turn_1"))
    compacting = {"mode": "compaction", "agent": "compaction", "summary": True}
    stage.rows.set("message", "msg_turn_1", data=json.dumps({**turn, **compacting}))
    out_of_the_box = Settings().idle_timeout
    async with stage.watching(idle_timeout=out_of_the_box) as play:
        await play.pass_time(15 * MINUTE - 1)
        assert (play.diary.finds, play.reasons) == ([], {SpareReason.RECENTLY_ACTIVE})
        await play.pass_time(1)
        assert len(play.diary.finds) == 1


async def test_after_three_idle_hours_the_clock_starts_with_the_new_prompt(stage: Stage) -> None:
    """14."""
    session = stage.thinking(age=3 * HOUR)
    stage.rows.finish_turn("msg_turn_1", at=stage.ago(3 * HOUR))
    stage.server.signs[session] = stage.back(3 * HOUR)
    stage.rows.prompt(session, "msg_new", at=stage.ago(0))
    async with stage.watching(idle_timeout=MINUTE) as play:
        await play.pass_time(MINUTE - 1)
        assert (play.diary.finds, play.reasons) == ([], {SpareReason.RECENTLY_ACTIVE})
        await play.pass_time(1)
        assert play.diary.finds[0].age_seconds == pytest.approx(MINUTE, abs=1)


async def test_the_activity_of_a_sibling_or_of_a_file_clears_no_verdict(stage: Stage, tmp_path: Path) -> None:
    """24."""
    silent, sibling = stage.thinking("silent", directory=str(tmp_path)), stage.thinking("sibling")
    stage.rows.set("session", sibling, directory=str(tmp_path))
    stage.server.busy(sibling, str(tmp_path))

    def bustle() -> None:
        stage.server.signs[sibling] = stage.back(0)
        stage.rows.text(stage.rows.turn(sibling, at=stage.ago(0), completed_at=stage.ago(0)), at=stage.ago(0))
        (tmp_path / "notes.txt").write_text(str(stage.ago(0)))

    async with stage.watching(idle_timeout=MINUTE, poll_interval=10) as play:
        await play.pass_time(MINUTE - 1, every=bustle)
        assert play.diary.finds == []
        await play.pass_time(1, every=bustle)
        assert [verdict.session_id for verdict in play.diary.finds] == [silent]
        assert play.diary.results == [Result.RECOVERED]


async def test_a_turn_that_never_finishes_after_its_last_tool_completed_is_caught_by_the_idle_rule(
    stage: Stage,
) -> None:
    """25."""
    work = stage.work()
    stage.rows.finish_call(work.call)
    async with stage.watching(tool_timeout="off", idle_timeout=MINUTE) as play:
        await play.pass_time(MINUTE - 1)
        assert (play.diary.finds, play.reasons) == ([], {SpareReason.RECENTLY_ACTIVE})
        await play.pass_time(1)
        assert [verdict.kind for verdict in play.diary.finds] == [VerdictKind.IDLE_SESSION]
        assert play.diary.results == [Result.RECOVERED]


async def test_a_model_that_streams_the_arguments_of_a_call_for_minutes_is_spared(stage: Stage) -> None:
    """30: no row changes and no event comes."""
    stage.work(tool="write", status="pending")
    async with stage.watching(tool_timeout=30 * MINUTE, idle_timeout=MINUTE) as play:
        await play.pass_time(30 * MINUTE - 1)
        assert (play.diary.finds, play.reasons) == ([], {SpareReason.WITHIN_LIMIT})
        await play.pass_time(1)
        assert [verdict.kind for verdict in play.diary.finds] == [VerdictKind.STUCK_TOOL]


# -- 12, 13: races -------------------------------------------------------------------------------------------


async def test_a_call_that_completes_between_look_and_write_changes_no_row_and_that_is_fine(stage: Stage) -> None:
    """12."""
    work = stage.work(busy=False)
    stage.owners.holders = GONE
    written: list[str] = []

    def complete() -> None:
        if not written:
            stage.rows.finish_call(work.call)
            written.append(stage.rows.get("part", work.call))

    stage.store.before_write = complete
    async with stage.watching() as play:
        await play.diary.until(lambda: len(play.diary.outcomes) == 2)
        assert play.diary.results == [Result.UNCHANGED, Result.RECOVERED]
        assert play.diary.failures == []
    assert [stage.rows.get("part", work.call)] == written
    assert "completed" in json.loads(stage.rows.get("message", work.turn))["time"]


class Interloper(Diary):
    """Does something at the moment at which a verdict is about to be carried out."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def found(self, verdict: Verdict) -> None:
        super().found(verdict)
        if len(self.finds) == 1:
            self.act()


@pytest.mark.parametrize("moment", ["before the ladder", "right before the abort"])
async def test_a_late_action_does_not_hit_the_turn_of_a_person_who_aborted_and_prompted_again(
    stage: Stage, moment: str
) -> None:
    """13."""
    work = stage.work()
    asks = stage.server.pending_asks

    def prompt_again() -> None:
        now = stage.ago(0)
        stage.rows.finish_call(work.call, at=now)
        stage.rows.finish_turn(work.turn, at=now)
        stage.rows.prompt(work.session, "msg_again", at=now)
        turn = stage.rows.turn(work.session, "msg_new", at=now)
        stage.rows.call(turn, "prt_new", at=now)

    async def asked(directory: str) -> tuple[Ask, ...]:
        found = await asks(directory)
        if interloper.finds and stage.rows.get("part", "prt_new") is None:
            prompt_again()
        return found

    late = moment == "right before the abort"
    interloper = Interloper((lambda: None) if late else prompt_again)
    if late:
        stage.server.pending_asks = asked  # type: ignore[method-assign]
    stage.more.append(interloper)
    async with stage.watching(tool_timeout=MINUTE) as play:
        await play.pass_time(MINUTE)
        assert (play.diary.results, stage.server.aborted) == ([Result.UNCHANGED], [])
        await play.pass_time(MINUTE - 1)
        assert stage.server.aborted == []
        await play.pass_time(1)
        assert play.diary.results == [Result.UNCHANGED, Result.RECOVERED]


async def test_a_late_action_does_not_drop_a_prompt_that_a_person_queued_meanwhile(stage: Stage) -> None:
    """13: the hung call is still open."""
    work = stage.work()

    def queue() -> None:
        stage.rows.prompt(work.session, "msg_again", at=stage.ago(0))

    stage.more.append(Interloper(queue))
    async with stage.watching(tool_timeout=MINUTE) as play:
        await play.pass_time(MINUTE)
        first = play.diary.outcomes[0]
        assert (first.result, first.why) == (Result.UNCHANGED, "a person has prompted since")
        assert [step.step for step in first.steps] == ["reread"]


# -- 15, 16, 29: repairs -------------------------------------------------------------------------------------


async def test_a_repair_covers_pending_and_running_calls_and_the_completion_of_the_turn(stage: Stage) -> None:
    """15."""
    running = stage.work("1", busy=False)
    pending = stage.add_call(running.turn, "prt_2", at=stage.ago(0), status="pending")
    alone = stage.thinking("alone")
    stage.server.statuses_by.clear()
    stage.owners.holders = GONE
    async with stage.watching() as play:
        assert play.diary.results == [Result.RECOVERED] * 2
    for call in (running.call, pending):
        state = json.loads(stage.rows.get("part", call))["state"]
        assert state["status"] == "error"
        assert state["time"]["end"] >= state["time"]["start"]
    for turn in (running.turn, f"msg_turn_{alone.removeprefix('ses_')}"):
        assert json.loads(stage.rows.get("message", turn))["time"]["completed"] >= stage.ago(MINUTE)


async def test_a_repaired_session_is_at_work_on_its_next_prompt_as_any_other(stage: Stage) -> None:
    """16. That a real server takes the prompt is in the end-to-end test."""
    work = stage.work(age=HOUR, busy=False)
    stage.owners.holders = GONE
    async with stage.watching(tool_timeout=MINUTE) as play:
        assert play.diary.results == [Result.RECOVERED]
        assert play.spared == ()
        stage.rows.prompt(work.session, "msg_next", at=stage.ago(0))
        stage.rows.call(stage.rows.turn(work.session, at=stage.ago(0)), at=stage.ago(0))
        stage.server.busy(work.session, PLACE)
        await play.look()
        await play.pass_time(MINUTE - 1)
        assert play.reasons == {SpareReason.WITHIN_LIMIT}
        assert len(play.diary.finds) == 1


async def test_rows_that_make_a_session_unreadable_are_put_back_exactly_as_they_were(stage: Stage) -> None:
    """29."""
    work = stage.work(busy=False, status="pending")
    stage.server.unreadable.add(work.session)
    stage.owners.holders = GONE
    before = stage.stored()
    async with stage.watching(max_attempts=3) as play:
        await play.pass_time(HOUR)
        assert play.diary.results == [Result.FAILED] * 3
        assert {step.step for step in play.diary.outcomes[0].steps} >= {"settle", "read_back", "put_back"}
        assert stage.stored() == before


# -- 22, 23, 35: rows of all kinds ---------------------------------------------------------------------------


async def test_five_hundred_old_exempt_rows_do_not_hide_the_one_that_is_stuck(stage: Stage) -> None:
    """22."""
    stage.rows.connection.execute("BEGIN")
    for number in range(500):
        stage.work(f"old{number}", tool="serve", age=10 * HOUR)
    stage.rows.connection.execute("COMMIT")
    limits = {"tool_timeout": MINUTE, "tool_timeouts": {"serve": "off"}}
    async with stage.watching(orphan_grace=30, **limits) as play:
        assert (play.diary.finds, len(play.spared)) == ([], 500)
        stuck, lost = stage.work("stuck"), stage.work("lost", busy=False)
        await play.look()
        await play.pass_time(MINUTE)
        ended = {(outcome.session_id, outcome.kind) for outcome in play.diary.outcomes if outcome.result is RECOVERED}
        assert ended == {(stuck.session, VerdictKind.STUCK_TOOL), (lost.session, VerdictKind.ORPHAN)}
        assert len(play.spared) == 500


async def test_rows_that_can_not_be_read_are_contained_and_reported_and_no_exemption_vanishes(stage: Stage) -> None:
    """23: a tool without a name, a tool that nobody knows, and broken JSON."""
    nameless, broken = stage.work("nameless", tool="", age=HOUR), stage.work("broken", age=HOUR)
    stage.rows.set("part", broken.call, data='{"type":"tool","tool":"serve","state":{"status":"runn')
    unknown, exempt = stage.work("unknown", tool="frobnicate", age=HOUR), stage.work("exempt", tool="serve", age=HOUR)
    before = stage.stored()
    stage.more.append(LogListener())
    with capture_logs() as logs:
        limits = {"tool_timeout": MINUTE, "idle_timeout": MINUTE, "tool_timeouts": {"serve": "off"}}
        async with stage.watching(**limits) as play:
            await play.pass_time(HOUR)
            assert [verdict.session_id for verdict in play.diary.finds] == [unknown.session]
            damaged = play.diary.looks[-1].observation.snapshot.damaged
            assert {each.id for each in damaged} == {nameless.call, broken.call}
            assert play.reason(nameless.session) == play.reason(broken.session) == {SpareReason.NO_WITNESS}
            assert play.reason(exempt.session) == {SpareReason.WITHIN_LIMIT}
    told = [line["why"] for line in logs if line["event"] == "watch.degraded"]
    assert len([why for why in told if nameless.call in why or broken.call in why]) == 2
    kept = {nameless.call, broken.call, exempt.call}
    assert [row for row in stage.stored()["part"] if row[0] in kept] == [
        row for row in before["part"] if row[0] in kept
    ]


@pytest.mark.parametrize("ids", [("a", "m", "z"), ("z", "m", "a")], ids=["ids that ascend", "ids that descend"])
async def test_nothing_depends_on_the_order_of_ids(stage: Stage, ids: tuple[str, str, str]) -> None:
    """35: the older turn is the older one, and the newest prompt the newest, however their ids sort."""
    first, second, third = ids
    session = stage.rows.session(f"ses_{second}", at=stage.ago(HOUR))
    stage.rows.prompt(session, f"msg_p{first}", at=stage.ago(HOUR))
    old_turn = stage.rows.turn(session, f"msg_{first}", at=stage.ago(HOUR))
    old = stage.rows.call(old_turn, f"prt_{first}", at=stage.ago(HOUR))
    stage.rows.prompt(session, f"msg_p{second}", at=stage.ago(0))
    turn = stage.rows.turn(session, f"msg_{second}", at=stage.ago(0))
    call = stage.rows.call(turn, f"prt_{second}", at=stage.ago(0))
    stage.server.busy(session, PLACE)
    stage.server.turns |= {(session, old_turn), (session, turn)}
    seen: list[str | None] = []

    def prompt_again() -> None:
        stage.rows.prompt(session, f"msg_p{third}", at=stage.ago(0))

    async with stage.watching(tool_timeout=MINUTE, orphan_grace="10h") as play:
        await play.pass_time(MINUTE - 1)
        assert {each.call_id: each.reason for each in play.spared if each.call_id} == {
            old: SpareReason.WAITING_ON_SIBLING,
            call: SpareReason.WITHIN_LIMIT,
        }
        seen.append(play.diary.looks[-1].observation.snapshot.sessions[session].newest_prompt_id)
        prompt_again()
        await play.look()
        seen.append(play.diary.looks[-1].observation.snapshot.sessions[session].newest_prompt_id)
        assert seen == [f"msg_p{second}", f"msg_p{third}"]
        await play.pass_time(1)
        [verdict] = play.diary.finds
        assert (verdict.call_ids, verdict.turn_ids) == ((call,), (turn,))


# -- 27: two watchdogs ---------------------------------------------------------------------------------------

_HOLD = (
    "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print(); sys.stdin.read()"
)


@asynccontextmanager
async def another_watchdog(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has the right to act."""
    pipe = asyncio.subprocess.PIPE
    line = [sys.executable, "-c", _HOLD, str(lock_path(path))]
    process = await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_second_of_two_watchdogs_sees_that_it_is_not_alone_and_takes_over_when_the_first_dies(
    stage: Stage,
) -> None:
    """27."""
    stage.work(age=MINUTE)
    stage.mandate = lock = DatabaseLock(stage.path)
    stage.more.append(LogListener())
    try:
        with capture_logs() as logs:
            async with another_watchdog(stage.path) as first, stage.watching(tool_timeout=MINUTE) as play:
                await play.pass_time(HOUR)
                assert set(play.diary.acting) == {False}
                assert (play.diary.finds, stage.server.aborted) == ([], [])
                assert len([line for line in logs if line["event"] == "watch.observing"]) == 1
                first.kill()
                await first.wait()
                await play.look()
                await play.calm()
                assert play.diary.results == [Result.RECOVERED]
    finally:
        lock.close()
