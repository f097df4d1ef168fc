"""The pitfalls of a watchdog that is itself restarted, with the real loop on a real database."""

from tests.fakes.server import AbortBehaviour
from tests.pitfalls.stage import HOUR, MINUTE, Stage
from watchdog.model.outcome import Result
from watchdog.model.verdict import SpareReason, Verdict


async def test_a_watchdog_that_is_restarted_every_minute_acts_max_attempts_times_and_alerts_once(
    stage: Stage,
) -> None:
    """26."""
    work = stage.work(age=MINUTE)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    alerts: list[Verdict] = []
    reasons: set[SpareReason] = set()
    for _ in range(60):
        async with stage.watching(tool_timeout=MINUTE, max_attempts=3) as play:
            reasons = play.reason(work.session)
        alerts += play.diary.alerts
        stage.hands.advance(MINUTE)
    assert len(stage.server.aborted) == 3
    assert len(alerts) == 1
    assert reasons == {SpareReason.GIVEN_UP}


async def test_an_approval_after_three_hours_leaves_the_call_its_whole_time_although_the_watchdog_restarted(
    stage: Stage,
) -> None:
    """28, 26."""
    work = stage.work()
    stage.asking(work)
    for _ in range(3):
        async with stage.watching(tool_timeout=30 * MINUTE):
            pass
        stage.hands.advance(HOUR)
    stage.server.asks_by.clear()
    async with stage.watching(tool_timeout=30 * MINUTE) as play:
        await play.pass_time(29 * MINUTE)
        assert play.diary.finds == []
        await play.pass_time(2 * MINUTE)
        assert play.diary.results == [Result.RECOVERED]


async def test_eight_hours_of_sleep_and_a_restart_of_the_watchdog_kill_nothing(stage: Stage) -> None:
    """5, 26."""
    stage.work()
    async with stage.watching(tool_timeout=30 * MINUTE):
        pass
    stage.hands.sleep_machine(8 * HOUR)
    async with stage.watching(tool_timeout=30 * MINUTE) as play:
        await play.pass_time(29 * MINUTE)
        assert play.diary.finds == []
        await play.pass_time(2 * MINUTE)
        assert play.diary.results == [Result.RECOVERED]
