"""Whether the wall clock was set since the boot, or since process 1 was born."""

import pytest

from watchdog.model.policy import Policy
from watchdog.timing.clock import SystemClock
from watchdog.timing.witness import LATE_SECONDS, USUAL_SECONDS, Trace, steady, traces

WALL, RUNNING = 1_800_000_000.0, 40_000.0
BOOT = WALL - RUNNING


def told(*later: float, began: float = 0.0, stepped: float = 0.0) -> float | None:
    """The slack of what some traces vouch for, that were made so much later than a beginning."""
    found = [Trace(began_seconds=began, made_seconds=BOOT + began + each - stepped) for each in later]
    known = steady(found, wall_seconds=WALL, running_seconds=RUNNING)
    return None if known is None else known.slack_seconds


@pytest.mark.parametrize("later", [-0.5, 0.0, 1.6, USUAL_SECONDS - 0.1])
def test_what_was_made_at_the_beginning_vouches_for_the_clock_but_for_what_it_may_have_been_made_later(
    later: float,
) -> None:
    assert told(later) == pytest.approx(USUAL_SECONDS - max(0.0, later))


@pytest.mark.parametrize("later", [USUAL_SECONDS + 0.1, LATE_SECONDS - 0.1])
def test_so_does_what_was_made_late_on_a_slow_machine(later: float) -> None:
    assert told(later) == pytest.approx(LATE_SECONDS - later)


@pytest.mark.parametrize("later", [-1.5, LATE_SECONDS + 0.1, 86_400, -86_400])
def test_what_was_made_at_another_time_vouches_for_nothing(later: float) -> None:
    assert told(later) is None


@pytest.mark.parametrize("step", [8 * 3600, 60, 7, -7, -8 * 3600])
def test_after_a_pause_of_the_machine_or_a_step_nothing_fits(step: float) -> None:
    assert told(0.5, 1.6, stepped=step) is None


@pytest.mark.parametrize("step", [0.4, 1, 2])
def test_a_step_that_is_too_small_to_be_told_is_within_the_slack(step: float) -> None:
    slack = told(USUAL_SECONDS, stepped=step)
    assert slack is not None
    assert slack >= step - 1e-6


@pytest.mark.parametrize("later", [USUAL_SECONDS + 0.1, LATE_SECONDS])
@pytest.mark.parametrize("step", [0.4, 1, 3, 5])
def test_what_the_slack_misses_on_a_slow_machine_is_within_the_margin_of_births(later: float, step: float) -> None:
    slack = told(later, stepped=step)
    assert slack is None or slack + Policy().birth_margin_seconds > step


def test_of_several_the_earliest_beginning_counts_and_one_is_enough() -> None:
    image, boot, container = (
        Trace(began_seconds=0.0, made_seconds=BOOT - 1e6),
        Trace(began_seconds=0.0, made_seconds=BOOT + 2),
        Trace(began_seconds=30_000.0, made_seconds=BOOT + 30_001),
    )
    known = steady([image, container], wall_seconds=WALL, running_seconds=RUNNING)
    assert known is not None
    assert known.since_seconds == 30_000
    known = steady([image, container, boot], wall_seconds=WALL, running_seconds=RUNNING)
    assert known is not None
    assert known.since_seconds == 0


def test_without_a_trace_nothing_is_known() -> None:
    assert steady([], wall_seconds=WALL, running_seconds=RUNNING) is None
    assert traces(["/nowhere"]) == []


def test_the_system_clock_tells_what_this_machine_knows() -> None:
    reading = SystemClock().read()
    known = steady(traces(), wall_seconds=reading.wall_ms / 1000, running_seconds=reading.running_seconds)
    assert (reading.steady_since_ms is None) == (known is None)
    if reading.steady_since_ms is not None:
        assert reading.steady_since_ms <= reading.wall_ms
        assert 0 <= reading.steady_slack_seconds <= LATE_SECONDS
