"""The clock that counts: what is no age, and where wall time lies on it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tests.support.properties import ANY_MACHINE
from watchdog.model.moments import Moment
from watchdog.ports import Clock
from watchdog.timing.clock import Countable, Instant, SystemClock

INTERVAL = 5.0
TOLERANCE = 0.11


@dataclass
class World:
    hands: FakeClock
    counter: Countable

    def look(self, *, planned: float | None = None) -> Instant:
        if planned is not None:
            self.counter.plan(planned)
        return self.counter.look()


@pytest.fixture
def world() -> World:
    hands = FakeClock()
    return World(hands, Countable(hands))


def test_the_fake_and_the_real_clock_are_clocks() -> None:
    clocks: list[Clock] = [FakeClock(), SystemClock(), Countable(FakeClock())]
    for clock in clocks:
        assert clock.read().wall_ms > 0


def test_awake_time_counts_as_it_passes(world: World) -> None:
    first = last = world.look()
    for _ in range(12):
        planned = world.hands.read().awake_seconds + INTERVAL
        world.hands.advance(INTERVAL)
        last = world.look(planned=planned)
    assert last.now - first.now == pytest.approx(60)
    assert last.moment_of(first.at_ms) == Moment(first.now.seconds)


@pytest.mark.parametrize("seconds", [1, 540, 8 * 3600])
def test_what_the_machine_sleeps_does_not_count(world: World, seconds: float) -> None:
    first = world.look()
    world.hands.advance(2)
    world.hands.sleep_machine(seconds)
    world.hands.advance(3)
    last = world.look(planned=first.awake_seconds + INTERVAL)
    assert last.advance.slept_seconds == pytest.approx(seconds)
    assert last.now - first.now == pytest.approx(INTERVAL)


@pytest.mark.parametrize("seconds", [3600, -3600, 0.4, -0.4])
def test_a_step_of_the_wall_clock_does_not_count(world: World, seconds: float) -> None:
    first = world.look()
    world.hands.advance(2)
    world.hands.step(seconds)
    world.hands.advance(3)
    last = world.look(planned=first.awake_seconds + INTERVAL)
    assert last.advance.stepped_seconds == pytest.approx(seconds, abs=0.001)
    assert last.now - first.now == pytest.approx(INTERVAL)


@pytest.mark.parametrize(("late", "uncounted"), [(0.2, 0.0), (0.3, 0.3), (12.0, 12.0), (-1.0, 0.0)])
def test_what_a_look_is_late_does_not_count_above_a_quarter_second(
    world: World, late: float, uncounted: float
) -> None:
    first = world.look()
    world.hands.advance(INTERVAL + late)
    last = world.look(planned=first.awake_seconds + INTERVAL)
    assert last.advance.late_seconds == pytest.approx(uncounted)
    assert last.now - first.now == pytest.approx(INTERVAL + late - uncounted)


def test_a_look_that_nobody_planned_is_never_late(world: World) -> None:
    first = world.look()
    world.hands.advance(1000)
    assert world.look().now - first.now == pytest.approx(1000)


def test_while_a_look_that_is_due_does_not_come_the_counter_stands_still(world: World) -> None:
    """What is stamped before the look notices must not lie in the future of it."""
    first = world.look()
    world.counter.plan(first.awake_seconds + INTERVAL)
    world.hands.advance(3600)
    stamped = world.counter.now()
    assert 0 <= stamped - world.look().now <= 0.25
    assert stamped - first.now == pytest.approx(INTERVAL, abs=0.25)


def test_a_look_that_takes_longer_than_its_patience_stops_the_counter(world: World) -> None:
    first = world.look()
    world.counter.plan(first.awake_seconds)
    world.counter.look(patience_seconds=10)
    world.hands.advance(3600)
    assert world.counter.now() - first.now == pytest.approx(10)


class TestFirstSight:
    def test_what_is_written_between_looks_is_as_old_as_it_is(self, world: World) -> None:
        world.look()
        world.hands.advance(3)
        wrote = world.hands.now_ms
        world.hands.advance(4)
        last = world.look()
        assert last.now - last.moment_of(wrote) == pytest.approx(4)

    def test_before_a_sleep_counts_what_lay_before_the_sleep_at_most(self, world: World) -> None:
        first = world.look()
        world.hands.advance(3)
        wrote = world.hands.now_ms
        world.hands.advance(2)
        world.hands.sleep_machine(3600)
        world.hands.advance(1)
        last = world.look()
        assert 0 <= last.now - last.moment_of(wrote) <= 3 + TOLERANCE
        assert last.now - last.moment_of(first.at_ms - 100_000) == pytest.approx(106)

    def test_after_a_step_back_what_was_written_before_it_counts_from_the_look(self, world: World) -> None:
        world.look()
        world.hands.advance(3)
        wrote = world.hands.now_ms
        world.hands.step(-3600)
        last = world.look()
        assert (last.moment_of(wrote), last.moment_of(wrote - 10_000_000)) == (last.now, last.now)

    def test_a_time_of_the_future_is_now(self, world: World) -> None:
        first = world.look()
        assert first.moment_of(first.at_ms + 10**9) == first.now

    def test_what_is_due_is_due_after_what_is_left(self, world: World) -> None:
        first = world.look()
        assert first.due_at(first.at_ms + 1_800_000, since_ms=first.at_ms - 1000) == first.now + 1800
        assert first.due_at(first.at_ms - 5000, since_ms=first.at_ms - 6000) == first.moment_of(first.at_ms - 5000)

    def test_at_a_first_look_after_a_pause_of_the_machine_nothing_is_older_than_the_look(self, world: World) -> None:
        wrote = world.hands.now_ms
        world.hands.advance(300)
        world.hands.pause_machine(8 * 3600)
        first = world.look()
        assert first.moment_of(wrote) == first.now
        assert first.steady_since_ms > wrote

    def test_at_a_first_look_where_the_clock_was_never_set_everything_is_as_old_as_it_says(
        self, world: World
    ) -> None:
        first = world.look()
        assert first.now - first.moment_of(first.at_ms - 5_000_000) == pytest.approx(5000)
        assert first.steady_since_ms == 0

    def test_what_was_slept_before_a_first_look_does_not_count(self, world: World) -> None:
        world.hands.advance(60)
        world.hands.sleep_machine(8 * 3600)
        first = world.look()
        assert first.now - first.moment_of(first.at_ms - 9 * 3_600_000) == pytest.approx(3600)


class TestSteady:
    @pytest.mark.parametrize("step", [3600, -3600, 1.5, -1.5])
    def test_a_step_of_over_a_second_is_noted_at_the_latest_time_it_can_have_been(
        self, world: World, step: float
    ) -> None:
        world.look()
        world.hands.advance(3)
        before = world.hands.now_ms
        world.hands.step(step)
        world.hands.advance(2)
        steady = world.look().steady_since_ms
        assert max(before, world.hands.now_ms) < steady <= max(before, world.hands.now_ms) + 2001

    @pytest.mark.parametrize("step", [0.9, -0.9])
    def test_less_than_a_second_is_not(self, world: World, step: float) -> None:
        world.look()
        world.hands.step(step)
        assert world.look().steady_since_ms == 0

    def test_a_clock_that_is_slewed_for_long_is(self, world: World) -> None:
        last = world.look()
        for _ in range(200):
            world.hands.advance(INTERVAL)
            world.hands.step(0.01)
            last = world.look()
        assert last.steady_since_ms > 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["advance", "advance", "sleep", "step", "look", "look", "late look", "stop in a look", "note"]
        ),
        st.floats(min_value=0.0, max_value=900.0, allow_nan=False),
        st.booleans(),
    ),
    max_size=40,
)


@dataclass(kw_only=True)
class Noted:
    """A wall time that was written at some moment, and where it was first seen to lie."""

    wall_ms: int
    alive_since: float
    seen: Moment | None = None


class History:
    """What happens to a machine, and the wall times that are written meanwhile."""

    def __init__(self) -> None:
        self.hands = FakeClock()
        self.counter = Countable(self.hands)
        self.late = 0.0
        self.noted: list[Noted] = []
        self.disturbed = False
        self.stepped = False
        self.first = self.last = self.counter.look()

    @property
    def alive(self) -> float:
        """The awake time, without what looks came late."""
        return self.hands.read().awake_seconds - self.late

    def happen(self, kind: str, seconds: float, *, backward: bool) -> None:
        self.disturbed = self.disturbed or kind in {"sleep", "step", "late look", "stop in a look"}
        if kind == "advance":
            self.hands.advance(seconds)
        elif kind == "sleep":
            self.hands.sleep_machine(seconds)
        elif kind == "step":
            if self.stepped:  # a step that is undone before the next look can't be seen
                self.look()
            self.stepped = True
            self.hands.step(-seconds if backward else seconds)
        elif kind == "note":
            self.hands.advance(0.001)
            self.noted.append(Noted(wall_ms=self.hands.now_ms, alive_since=self.alive))
        else:
            self.look(late=seconds if kind == "late look" else 0.0, slow=seconds if "stop" in kind else 0.0)

    def look(self, *, late: float = 0.0, slow: float = 0.0) -> None:
        """Look as the loop does, and plan the next look as it does."""
        self.hands.advance(0.001)  # no two looks come at the same moment
        self.counter.plan(self.hands.read().awake_seconds)
        self.hands.advance(late)
        self.last, self.stepped = self.counter.look(patience_seconds=10), False
        self.late += self.last.advance.late_seconds
        for each in self.noted:
            each.seen = each.seen or self.last.moment_of(each.wall_ms)
        self.hands.advance(slow)
        if slow > 10:
            self.counter.plan(self.last.awake_seconds + INTERVAL)


@ANY_MACHINE
@given(EVENTS)
def test_no_history_makes_anything_older_than_it_was_alive(events: list[tuple[str, float, bool]]) -> None:
    """What counts is the awake time, without what a look came late."""
    history = History()
    for kind, seconds, backward in events:
        before = history.counter.now()
        history.happen(kind, seconds, backward=backward)
        assert history.counter.now() >= before + (-10 - TOLERANCE)
    history.look()
    for each in history.noted:
        assert each.seen is not None
        age, alive = history.last.now - each.seen, history.alive - each.alive_since
        assert -TOLERANCE <= age <= max(0.0, alive) + TOLERANCE
        if not history.disturbed:
            assert age == pytest.approx(alive, abs=0.002)
    assert history.last.now - history.first.now <= history.alive - 1000.0 + TOLERANCE


def test_a_thousand_late_looks_leave_no_more_behind_than_one(world: World) -> None:
    """60."""
    sizes = []
    for _ in range(1000):
        planned = world.hands.read().awake_seconds + 1
        world.hands.advance(2)
        world.look(planned=planned)
        sizes.append((len(str(world.counter.dump())) < 300, len(vars(world.counter))))
    assert set(sizes) == {(True, sizes[0][1])}


MIXED = """
from watchdog.model.moments import Moment
def wrong(moment: Moment, created_ms: int, other: Moment) -> None:
    moment < created_ms
    created_ms >= moment
    moment - created_ms
    created_ms - moment
    max(moment, created_ms) - other
    min([moment, created_ms]) - other
def right(moment: Moment, other: Moment) -> float:
    return (moment + 5.0) - other if moment < other else 0.0
"""


def test_a_comparison_or_a_difference_of_the_two_kinds_of_time_does_not_type_check(tmp_path: Path) -> None:
    (tmp_path / "mixed.py").write_text(MIXED)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(tmp_path / "mixed.py"),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    lines = {int(line.split(":")[1]) for line in found.stdout.splitlines() if "mixed.py" in line and "error" in line}
    assert lines == set(range(4, 10)), found.stdout


CHILD = """
import asyncio
from watchdog.timing.clock import Countable, SystemClock

async def main():
    clock = Countable(SystemClock())
    first = last = clock.look()
    print("ready", flush=True)
    late = 0.0
    while late < 2.5:
        clock.plan(last.awake_seconds + 0.1)  # from the look before, so that a stop at any point is noticed
        await clock.sleep(0.1)
        last = clock.look()
        late += last.advance.late_seconds
    print(late, last.now - first.now, last.awake_seconds - first.awake_seconds, flush=True)

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
    clock = SystemClock()
    counter = Countable(clock)
    counter.look()
    first = clock.read()
    before = time.time() * 1000
    second = clock.read()
    after = time.time() * 1000
    assert counter.look().advance.slept_seconds == 0
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
