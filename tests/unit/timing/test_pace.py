"""When the next look comes: at the poll, at the next limit that is known of, or before one that is not known yet."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.properties import ANY_MACHINE
from watchdog.judging.limits import shortest_limit
from watchdog.model.moments import Moment
from watchdog.model.policy import Policy
from watchdog.timing.pace import SHORTEST_DELAY_SECONDS, Pace, pause

NOW = Moment(1_800_000.0)
OFF = Policy(tool_timeout_seconds=None, task_timeout_seconds=None, idle_timeout_seconds=None)
SLOW = Pace(poll_interval_seconds=3600)


def delay(policy: Policy = OFF, *, pace: Pace = SLOW, deadline: float | None = None) -> float:
    """Seconds until the next look, for a limit that is reached in so many seconds."""
    return pace.delay(policy, deadline=None if deadline is None else NOW + deadline, now=NOW)


@pytest.mark.parametrize(
    "policy",
    [
        replace(OFF, tool_timeout_seconds=7.0),
        replace(OFF, task_timeout_seconds=7.0),
        replace(OFF, task_hard_timeout_seconds=7.0),
        replace(OFF, idle_timeout_seconds=7.0),
        replace(OFF, human_timeout_seconds=7.0),
        replace(OFF, tool_timeout_seconds=9.0, tool_timeouts={"bash": None, "mcp_*": 7.0}),
    ],
)
def test_no_sleep_is_longer_than_a_limit_that_what_begins_right_after_the_look_may_reach(policy: Policy) -> None:
    assert shortest_limit(policy) == 7.0
    assert delay(policy) == 7.0
    assert delay(policy, deadline=100) == 7.0


def test_without_any_limit_it_is_the_poll_interval() -> None:
    assert shortest_limit(OFF) is None
    assert delay() == 3600
    assert delay(pace=Pace(poll_interval_seconds=5)) == 5


def test_a_limit_that_is_known_of_is_not_slept_past_and_not_missed_by_a_tick_of_the_clock() -> None:
    assert 10 < delay(deadline=10) <= 10.005


def test_one_that_is_near_or_past_still_leaves_a_breath() -> None:
    assert delay(deadline=0.001) == delay(deadline=-5) == SHORTEST_DELAY_SECONDS


@ANY_MACHINE
@given(limit=st.floats(0.1, 5000), looked=st.floats(0, 900))
def test_the_look_at_a_limit_reads_a_clock_at_which_it_is_reached(limit: float, looked: float) -> None:
    """Rows tell their times in whole milliseconds, and a limit may end between two of them."""
    deadline = NOW + limit
    now = min(NOW + looked, deadline)
    seconds = SLOW.delay(OFF, deadline=deadline, now=now)
    assert now + seconds >= deadline + 0.001 or seconds >= 3600


def test_a_loop_that_is_woken_all_the_time_rests_for_several_looks_but_not_for_ever() -> None:
    assert pause(0.1, 0.0) == pytest.approx(1.6)
    assert pause(0.1, 0.5) == pytest.approx(1.1)
    assert pause(0.1, 2.0) == 0.0
    assert pause(30.0, 0.0) == 2.0
