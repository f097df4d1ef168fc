import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tests.support.properties import ANY_MACHINE
from watchdog.clock import MOST_CREDITS, SystemClock, Timeline
from watchdog.ports import Clock, Reading

INTERVAL = 5.0
TOLERANCE = 0.11


def look(timeline: Timeline, clock: FakeClock, *, planned: float | None = None) -> Reading:
    timeline.advance(clock.read(), planned_awake_seconds=planned)
    return clock.read()


def age(timeline: Timeline, clock: FakeClock, moment_ms: float, known_since: float | None = None) -> float:
    return (clock.now_ms - timeline.shift(moment_ms, known_since=known_since)) / 1000


def test_the_fake_and_the_real_clock_are_clocks() -> None:
    clocks: list[Clock] = [FakeClock(), SystemClock()]
    for clock in clocks:
        assert clock.read().wall_ms > 0


def test_ordinary_time_is_age() -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    for _ in range(12):
        planned = clock.read().awake_seconds + INTERVAL
        clock.advance(INTERVAL)
        look(timeline, clock, planned=planned)
    assert age(timeline, clock, started.wall_ms) == pytest.approx(60)
    assert timeline.step_ms is None


def test_nine_minutes_of_sleep_add_nothing() -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    clock.sleep_machine(540)
    clock.advance(INTERVAL)
    advance = timeline.advance(clock.read(), planned_awake_seconds=started.awake_seconds + INTERVAL)
    assert advance.slept_seconds == pytest.approx(540)
    assert advance.stepped_seconds == 0
    assert advance.late_seconds == 0
    assert age(timeline, clock, started.wall_ms) == pytest.approx(INTERVAL)
    assert timeline.step_ms is None


def test_a_moment_between_the_look_and_the_sleep_gains_nothing_from_the_sleep() -> None:
    clock, timeline = FakeClock(), Timeline()
    look(timeline, clock)
    clock.advance(1)
    created = clock.now_ms
    clock.sleep_machine(540)
    clock.advance(4)
    look(timeline, clock)
    assert age(timeline, clock, created) == pytest.approx(4)


def test_a_moment_after_the_sleep_never_looks_older_than_it_is() -> None:
    clock, timeline = FakeClock(), Timeline()
    look(timeline, clock)
    clock.sleep_machine(540)
    clock.advance(1)
    created = clock.now_ms
    clock.advance(4)
    look(timeline, clock)
    assert 0 <= age(timeline, clock, created) <= 4
    clock.advance(60)
    look(timeline, clock)
    assert 60 <= age(timeline, clock, created) <= 64


@pytest.mark.parametrize("step", [-7200.0, -100.0, -2.0, 2.0, 100.0, 7200.0])
def test_setting_the_wall_clock_adds_nothing(step: float) -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    clock.advance(2)
    clock.step(step)
    clock.advance(3)
    advance = timeline.advance(clock.read(), planned_awake_seconds=started.awake_seconds + INTERVAL)
    assert advance.stepped_seconds == pytest.approx(step)
    assert advance.slept_seconds == 0
    assert age(timeline, clock, started.wall_ms, started.awake_seconds) == pytest.approx(INTERVAL)
    assert age(timeline, clock, started.wall_ms) <= INTERVAL + 0.001


def test_a_second_step_back_does_not_age_what_came_after_it() -> None:
    clock, timeline = FakeClock(), Timeline()
    created = look(timeline, clock)
    for _ in range(2):
        clock.step(-100)
        clock.advance(INTERVAL)
        created = look(timeline, clock)
    clock.advance(INTERVAL)
    look(timeline, clock)
    assert age(timeline, clock, created.wall_ms) == pytest.approx(INTERVAL)


def test_what_is_older_than_a_step_back_is_exact_without_being_known() -> None:
    clock, timeline = FakeClock(), Timeline()
    created = clock.now_ms
    clock.advance(1000)
    look(timeline, clock)
    clock.step(-100)
    clock.advance(INTERVAL)
    look(timeline, clock)
    assert age(timeline, clock, created) == pytest.approx(1000 + INTERVAL)


def test_a_sleep_and_a_step_back_that_cancel_each_other_are_both_credited() -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    clock.step(-540)
    between = clock.now_ms
    clock.sleep_machine(540)
    clock.advance(INTERVAL)
    look(timeline, clock)
    assert age(timeline, clock, started.wall_ms, started.awake_seconds) == pytest.approx(INTERVAL)
    assert age(timeline, clock, between) <= INTERVAL


@pytest.mark.parametrize("step", [-100.0, 100.0])
def test_a_step_bars_the_comparison_with_births_for_whatever_may_be_older(step: float) -> None:
    clock, timeline = FakeClock(), Timeline()
    look(timeline, clock)
    clock.advance(4)
    last_before = clock.now_ms
    clock.step(step)
    clock.advance(1)
    look(timeline, clock)
    assert timeline.step_ms is not None
    assert timeline.step_ms >= max(last_before, clock.now_ms)
    assert timeline.step_ms <= max(last_before, clock.now_ms) + 1000


@pytest.mark.parametrize(("step", "noted"), [(1.0, False), (-1.0, False), (1.1, True), (-1.1, True)])
def test_only_a_step_of_more_than_a_second_counts_as_one(step: float, noted: bool) -> None:
    clock, timeline = FakeClock(), Timeline()
    look(timeline, clock)
    clock.step(step)
    look(timeline, clock)
    assert (timeline.step_ms is not None) is noted


def test_a_row_created_after_a_step_back_never_looks_older_than_it_is() -> None:
    clock, timeline = FakeClock(), Timeline()
    look(timeline, clock)
    clock.step(-3600)
    clock.advance(INTERVAL)
    look(timeline, clock)
    created = clock.now_ms
    clock.advance(INTERVAL)
    look(timeline, clock)
    assert age(timeline, clock, created) == pytest.approx(INTERVAL)


def test_small_drifts_do_not_add_up() -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    for _ in range(500):
        clock.advance(0.1)
        clock.step(0.04)
        look(timeline, clock)
    assert age(timeline, clock, started.wall_ms) == pytest.approx(50, abs=TOLERANCE)
    assert timeline.step_ms is not None


@pytest.mark.parametrize(("late", "credited"), [(0.2, 0.0), (0.3, 0.3), (12.0, 12.0), (-1.0, 0.0)])
def test_what_a_look_is_late_is_credited_above_a_quarter_second(late: float, credited: float) -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    clock.advance(INTERVAL + late)
    advance = timeline.advance(clock.read(), planned_awake_seconds=started.awake_seconds + INTERVAL)
    assert advance.late_seconds == pytest.approx(credited)
    assert age(timeline, clock, started.wall_ms) == pytest.approx(INTERVAL + late - credited)


def test_a_look_that_was_not_planned_is_not_late() -> None:
    clock, timeline = FakeClock(), Timeline()
    look(timeline, clock)
    clock.advance(100)
    assert timeline.advance(clock.read(), planned_awake_seconds=None).late_seconds == 0


def test_lateness_sleep_and_a_step_at_once_are_each_credited() -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    clock.advance(INTERVAL)
    clock.sleep_machine(540)
    clock.step(-1000)
    clock.advance(3)
    advance = timeline.advance(clock.read(), planned_awake_seconds=started.awake_seconds + INTERVAL)
    assert advance.late_seconds == pytest.approx(3)
    assert advance.slept_seconds == pytest.approx(540)
    assert advance.stepped_seconds == pytest.approx(-1000)
    assert age(timeline, clock, started.wall_ms, started.awake_seconds) == pytest.approx(INTERVAL)


def test_pruning_forgets_only_what_no_later_moment_needs() -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    clock.sleep_machine(100)
    asleep_until = look(timeline, clock)
    timeline.prune(started.wall_ms)
    assert age(timeline, clock, started.wall_ms) == pytest.approx(0)
    timeline.prune(asleep_until.wall_ms + 1)
    assert age(timeline, clock, started.wall_ms) == pytest.approx(100)


def test_credits_beyond_the_bound_are_merged_and_still_credited() -> None:
    clock, timeline = FakeClock(), Timeline()
    started = look(timeline, clock)
    for _ in range(MOST_CREDITS + 500):
        clock.advance(1)
        clock.sleep_machine(10)
        look(timeline, clock)
    assert len(timeline._credits) == MOST_CREDITS
    assert age(timeline, clock, started.wall_ms) == pytest.approx(MOST_CREDITS + 500)


@dataclass(frozen=True, kw_only=True)
class Noted:
    wall_ms: int
    awake_seconds: float
    late_before: float
    at_look: bool


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["advance", "advance", "sleep", "step", "look", "look", "late look", "note"]),
        st.floats(min_value=0.0, max_value=900.0, allow_nan=False),
        st.booleans(),
    ),
    max_size=40,
)


@ANY_MACHINE
@given(EVENTS)
def test_no_history_makes_a_moment_older_than_the_awake_time_since(events: list[tuple[str, float, bool]]) -> None:
    clock, timeline = FakeClock(), Timeline()
    late = 0.0
    first = look(timeline, clock)
    noted = [Noted(wall_ms=first.wall_ms, awake_seconds=first.awake_seconds, late_before=0.0, at_look=True)]
    stepped = False
    for kind, seconds, backward in events:
        if kind == "step" and stepped:  # a step that is undone before the next look can't be seen
            clock.advance(0.001)
            look(timeline, clock)
        stepped = kind == "step" or (stepped and "look" not in kind)
        if kind == "advance":
            clock.advance(seconds)
        elif kind == "sleep":
            clock.sleep_machine(seconds)
        elif kind == "step":
            clock.step(-seconds if backward else seconds)
        else:
            clock.advance(0.001)  # no two looks come at the same moment
            planned = clock.read().awake_seconds
            if kind == "late look":
                clock.advance(seconds)
            now = clock.read()
            if "look" in kind:
                late += timeline.advance(now, planned_awake_seconds=planned).late_seconds
            noted.append(
                Noted(wall_ms=now.wall_ms, awake_seconds=now.awake_seconds, late_before=late, at_look="look" in kind)
            )
    clock.advance(0.001)
    end = look(timeline, clock)
    for moment in noted:
        awake = end.awake_seconds - moment.awake_seconds
        assert age(timeline, clock, moment.wall_ms) <= awake + TOLERANCE
        if moment.at_look:
            exact = age(timeline, clock, moment.wall_ms, moment.awake_seconds)
            assert exact <= awake + TOLERANCE
            assert exact >= awake - (late - moment.late_before) - _doubt(moment, first) - TOLERANCE


def _doubt(moment: Noted, first: Reading) -> float:
    """A moment noted after the first look may count as lying before a credit of the same wall time."""
    return 0.0 if moment.awake_seconds == first.awake_seconds else float("inf")


CHILD = """
import asyncio, sys
from watchdog.clock import SystemClock, Timeline

async def main():
    clock, timeline = SystemClock(), Timeline()
    first = clock.read()
    timeline.advance(first, planned_awake_seconds=None)
    print("ready", flush=True)
    late, now = 0.0, first
    while late < 2.5:
        planned = now.awake_seconds + 0.1  # from the look before, so that a stop at any point is noticed
        await clock.sleep(0.1)
        now = clock.read()
        late += timeline.advance(now, planned_awake_seconds=planned).late_seconds
    age = (now.wall_ms - timeline.shift(first.wall_ms)) / 1000
    print(late, age, now.awake_seconds - first.awake_seconds, flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_process_that_was_really_stopped_credits_the_time() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline().strip() == "ready"
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(3)
            os.kill(child.pid, signal.SIGCONT)
            late, age_seconds, elapsed = (float(word) for word in child.stdout.readline().split())
        finally:
            child.kill()
    assert 2.5 <= late <= elapsed
    assert elapsed > 3
    assert age_seconds < elapsed - 2.5


def test_the_system_clock_agrees_with_itself() -> None:
    clock, timeline = SystemClock(), Timeline()
    first = clock.read()
    timeline.advance(first)
    before = time.time() * 1000
    second = clock.read()
    after = time.time() * 1000
    assert timeline.advance(second).slept_seconds == 0
    assert second.awake_seconds >= first.awake_seconds
    assert second.running_seconds >= first.running_seconds
    assert before - 1 <= second.wall_ms <= after + 1


async def test_the_system_clock_sleeps() -> None:
    clock = SystemClock()
    before = clock.read().awake_seconds
    await clock.sleep(0.02)
    assert clock.read().awake_seconds - before >= 0.02


async def test_the_fake_clock_wakes_a_sleeper_when_its_time_has_come() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.until_sleeping()
    clock.advance(9)
    await asyncio.sleep(0)
    assert not sleeper.done()
    clock.sleep_machine(100)
    await asyncio.sleep(0)
    assert not sleeper.done()
    await clock.advance_to_next()
    await sleeper
    assert clock.sleeps == [10]
    assert clock.sleepers == 0


async def test_the_fake_clock_forgets_a_sleeper_that_is_cancelled() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.until_sleeping()
    sleeper.cancel()
    await asyncio.wait([sleeper])
    assert clock.sleepers == 0


async def test_the_automatic_fake_clock_needs_no_help() -> None:
    clock = FakeClock(auto=True)
    before = clock.read()
    await clock.sleep(30)
    assert clock.read() == replace(
        before,
        wall_ms=before.wall_ms + 30_000,
        awake_seconds=before.awake_seconds + 30,
        running_seconds=before.running_seconds + 30,
    )
