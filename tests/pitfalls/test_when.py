"""One clock: each pitfall of time is a test with its own name, played by the real loop on a real file."""

import json
from dataclasses import replace

import pytest

from tests.pitfalls.stage import HOUR, MINUTE, OLD_SERVER, PLACE, SECOND_SERVER, Stage
from tests.unit.alerts.test_rules import Told
from watchdog.errors import ServerUnreachable
from watchdog.model.outcome import Result
from watchdog.model.report import Holder, Holders
from watchdog.model.session import Activity, SessionId, Status
from watchdog.model.verdict import SpareReason, VerdictKind
from watchdog.settings.receivers import Occasion

LIMIT = 30 * MINUTE


def retrying(stage: Stage, session: SessionId, *, seconds: float) -> None:
    """Let a session wait for its provider, for so long from now, as its server tells by the wall clock."""
    due = stage.hands.now_ms + round(seconds * 1000)
    stage.server.statuses_by[PLACE][session] = Status(activity=Activity.RETRY, retry_at_ms=due)


@pytest.mark.parametrize("happens", ["sleep_machine", "step", "pause_machine", None])
async def test_the_wait_for_a_provider_is_counted_in_awake_time_like_everything_else(
    stage: Stage, happens: str | None
) -> None:
    """42: a retry in half an hour, and `idle_timeout` after it, whatever the wall clock does meanwhile."""
    session = stage.thinking()
    retrying(stage, session, seconds=30 * MINUTE)
    async with stage.watching(idle_timeout=15 * MINUTE, poll_interval=MINUTE) as play:
        await play.pass_time(5 * MINUTE)
        if happens is not None:
            getattr(stage.hands, happens)(HOUR)
        await play.look()
        await play.pass_time(39 * MINUTE)
        assert (play.diary.finds, play.reason(session)) == ([], {SpareReason.RETRYING})
        await play.pass_time(2 * MINUTE)
        assert [each.session_id for each in play.diary.finds] == [session]


@pytest.mark.parametrize("happens", ["sleep_machine", "step", "pause_machine"])
async def test_a_wait_for_a_provider_that_began_since_the_last_look_outlasts_a_sleep_or_a_step(
    stage: Stage, happens: str
) -> None:
    """42: the look that sees it first is the one that notices the sleep."""
    session = stage.thinking()
    async with stage.watching(idle_timeout=15 * MINUTE, poll_interval=MINUTE) as play:
        await play.pass_time(5 * MINUTE)
        retrying(stage, session, seconds=30 * MINUTE)
        getattr(stage.hands, happens)(HOUR)
        await play.look()
        await play.pass_time(44 * MINUTE)
        assert (play.diary.finds, play.reason(session)) == ([], {SpareReason.RETRYING})
        await play.pass_time(2 * MINUTE)
        assert [each.session_id for each in play.diary.finds] == [session]


@pytest.mark.parametrize("happens", ["sleep_machine", "step", "pause_machine"])
async def test_a_wait_for_a_provider_is_waited_out_though_the_watchdog_starts_only_after_a_sleep_or_a_step(
    stage: Stage, happens: str
) -> None:
    """42, 43: nobody knows how long it has lasted, so it may last as long as it was planned from now on."""
    session = stage.thinking()
    retrying(stage, session, seconds=30 * MINUTE)
    getattr(stage.hands, happens)(HOUR)
    async with stage.watching(idle_timeout=15 * MINUTE, poll_interval=MINUTE) as play:
        await play.pass_time(44 * MINUTE)
        assert (play.diary.finds, play.reason(session)) == ([], {SpareReason.RETRYING})
        await play.pass_time(2 * MINUTE)
        assert [each.session_id for each in play.diary.finds] == [session]


@pytest.mark.parametrize("age", [5 * MINUTE, 8 * HOUR])
async def test_at_the_first_look_after_the_machine_was_paused_a_call_is_not_older_than_the_look(
    stage: Stage, age: float
) -> None:
    """43: five awake minutes, a pause of eight hours, and then the watchdog starts."""
    work = stage.work(age=age)
    stage.hands.pause_machine(8 * HOUR)
    async with stage.watching(tool_timeout=LIMIT, poll_interval=MINUTE) as play:
        assert play.reason(work.session) == {SpareReason.WITHIN_LIMIT}
        await play.pass_time(29 * MINUTE)
        assert play.diary.finds == []
        await play.pass_time(2 * MINUTE)
        (verdict,) = play.diary.finds
        assert verdict.age_seconds == pytest.approx(LIMIT, abs=MINUTE)


async def test_a_terminal_ui_that_was_born_before_its_turn_is_not_excluded_after_a_step_of_the_clock(
    stage: Stage,
) -> None:
    """43: births are told by the wall clock as it is set now."""
    work = stage.work(busy=False)
    ui = Holder(pid=7, born_ms=stage.ago(HOUR / 2), command="opencode")
    stage.owners.holders = Holders(known=(ui,))
    async with stage.watching(poll_interval=MINUTE) as play:
        stage.hands.step(HOUR)
        stage.owners.holders = Holders(known=(replace(ui, born_ms=stage.ago(HOUR / 2)),))
        await play.pass_time(10 * MINUTE)
        assert play.diary.finds == []
        # Who was born since then did not begin it.
        stage.owners.holders = Holders(known=(replace(ui, pid=8, born_ms=stage.ago(0)),))
        await play.pass_time(2 * MINUTE)
        assert [each.kind for each in play.diary.finds] == [VerdictKind.ORPHAN]
        assert play.diary.results == [Result.RECOVERED]
    assert work.session


async def test_a_birth_excludes_nobody_at_a_first_look_after_a_pause(stage: Stage) -> None:
    """43: the same before the watchdog ever looked."""
    stage.work(busy=False)
    stage.hands.pause_machine(HOUR)
    ui = Holder(pid=7, born_ms=stage.ago(HOUR / 2), command="opencode")
    stage.owners.holders = Holders(known=(ui,))
    async with stage.watching(poll_interval=MINUTE) as play:
        await play.pass_time(10 * MINUTE)
        assert play.diary.finds == []


@pytest.mark.parametrize("happens", ["sleep_machine", "step"])
async def test_a_task_whose_child_ended_shortly_before_a_sleep_is_not_ended_on_wake(
    stage: Stage, happens: str
) -> None:
    """44: its child's last sign of life is a time of the wall clock, too."""
    child = stage.work("child")
    parent = stage.work("parent", tool="task")
    stage.rows.connection.execute("UPDATE session SET parent_id = ? WHERE id = ?", (parent.session, child.session))
    stage.rows.connection.commit()
    async with stage.watching(tool_timeout=LIMIT, poll_interval=MINUTE) as play:
        await play.pass_time(5 * MINUTE)
        await stage.end(child.session)
        stage.server.statuses_by[PLACE].pop(child.session)
        await play.pass_time(MINUTE)
        getattr(stage.hands, happens)(8 * HOUR)
        await play.look()
        await play.pass_time(20 * MINUTE)
        assert play.diary.finds == []
        await play.pass_time(10 * MINUTE)
        assert [each.kind for each in play.diary.finds] == [VerdictKind.STUCK_TASK]


async def test_a_clock_that_stands_still_is_a_reason_of_its_own_and_is_reported_when_it_stands_too_long(
    stage: Stage,
) -> None:
    """52: the server that was at work on it is dead, and an older terminal UI can't be excluded."""
    told = Told(Occasion.DEGRADED)
    stage.more.append(told.listener)
    work = stage.work()
    stage.owners.holders = Holders(known=(replace(SECOND_SERVER, command="opencode", endpoints=()),))
    async with stage.watching(tool_timeout=LIMIT, poll_interval=MINUTE) as play:
        await play.pass_time(10 * MINUTE)
        assert play.reason(work.session) == {SpareReason.WITHIN_LIMIT}
        stage.server.problem = ServerUnreachable("http://127.0.0.1:4096 can't be reached.")
        await play.pass_time(29 * MINUTE)
        (spared,) = [each for each in play.spared if each.session_id == work.session]
        assert (spared.reason, spared.uneasy) == (SpareReason.CLOCK_STOPPED, False)
        assert "http://127.0.0.1:4096 was at work on it and does not answer now" in spared.why
        assert spared.age_seconds == pytest.approx(10 * MINUTE, abs=2 * MINUTE)
        await play.pass_time(3 * MINUTE)
        (spared,) = [each for each in play.spared if each.session_id == work.session]
        assert spared.uneasy
        told.clock.advance(301)
        await play.look()
        assert any(work.session in alert.body and "has stood still" in alert.body for alert in told.alerts)
        stage.server.problem = None
        await play.pass_time(2 * MINUTE)
        assert play.reason(work.session) == {SpareReason.WITHIN_LIMIT}


async def test_a_clock_that_stands_still_goes_on_standing_over_restarts(stage: Stage) -> None:
    """52: a watchdog that restarts every few minutes says so all the same."""
    work = stage.work()
    stage.owners.holders = Holders(known=(OLD_SERVER,))
    async with stage.watching(tool_timeout=LIMIT, poll_interval=MINUTE) as play:
        await play.pass_time(MINUTE)
    stage.server.problem = ServerUnreachable("http://127.0.0.1:4096 can't be reached.")
    uneasy = False
    for _ in range(17):
        async with stage.watching(tool_timeout=LIMIT, poll_interval=MINUTE) as play:
            await play.pass_time(2 * MINUTE)
            (spared,) = [each for each in play.spared if each.session_id == work.session]
            assert spared.reason is SpareReason.CLOCK_STOPPED
            uneasy = spared.uneasy
    assert uneasy


async def test_of_thousands_of_late_looks_the_last_one_costs_what_the_first_one_did(
    stage: Stage,
) -> None:
    """60: nothing of a late look is kept but what it does not count."""
    work = stage.work()
    sizes = []
    async with stage.watching(tool_timeout=24 * HOUR, poll_interval=1) as play:
        for _ in range(300):
            stage.hands.advance(2)
            await play.look()
            await play.watch.recollection.keep()
            sizes.append(len(json.dumps(stage.journal.values["memory"])))
        assert max(sizes) < 1.1 * min(sizes)
        (spared,) = [each for each in play.spared if each.session_id == work.session]
        assert spared.age_seconds is not None
        assert spared.age_seconds <= 302


def own_command(stage: Stage, *, age: float, **given: object) -> SessionId:
    """A person's own command, with the rows that opencode writes for it."""
    at = stage.ago(age)
    session = stage.rows.session("ses_own", directory=PLACE, at=at)
    prompt = stage.rows.prompt(session, "msg_own", at=at)
    said = {"type": "text", "text": "The following tool was executed by the user", "synthetic": True}
    stage.rows.part(prompt, said, "prt_said", at=at)
    turn = stage.rows.turn(session, "msg_answer", at=at, cwd=PLACE)
    stage.rows.connection.execute(
        "UPDATE message SET data = json_set(data, '$.parentID', ?) WHERE id = ?", (prompt, turn)
    )
    stage.rows.connection.commit()
    stage.add_call(turn, "prt_own", at=at, given={"command": "npm run dev", **given})
    stage.server.busy(session, PLACE)
    return session


async def test_a_persons_own_command_runs_for_as_long_as_it_likes(stage: Stage) -> None:
    session = own_command(stage, age=9 * HOUR)
    async with stage.watching(tool_timeout=LIMIT, poll_interval=MINUTE) as play:
        await play.pass_time(2 * MINUTE)
        assert (play.diary.finds, play.reason(session)) == ([], {SpareReason.WITHIN_LIMIT})


async def test_a_persons_own_command_is_ended_past_a_limit_of_its_own_where_one_is_set(stage: Stage) -> None:
    session = own_command(stage, age=9 * HOUR)
    async with stage.watching(tool_timeout="off", shell_timeout=8 * HOUR) as play:
        await play.pass_time(1)
        assert [each.session_id for each in play.diary.finds] == [session]


@pytest.mark.parametrize("given", [{"description": "starts it"}, {"timeout": 1000}])
async def test_a_models_command_under_a_message_that_opencode_wrote_has_the_limit_of_its_tool(
    stage: Stage, given: dict[str, object]
) -> None:
    session = own_command(stage, age=9 * HOUR, **given)
    async with stage.watching(tool_timeout=LIMIT) as play:
        await play.pass_time(1)
        assert [each.session_id for each in play.diary.finds] == [session]


async def test_a_command_in_a_turn_that_a_model_began_has_the_limit_of_its_tool(stage: Stage) -> None:
    session = own_command(stage, age=9 * HOUR)
    stage.rows.part("msg_answer", {"type": "step-start"}, "prt_step", at=stage.ago(9 * HOUR))
    async with stage.watching(tool_timeout=LIMIT) as play:
        await play.pass_time(1)
        assert [each.session_id for each in play.diary.finds] == [session]
