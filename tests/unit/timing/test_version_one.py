"""A memory that the first version of the journal's file kept, as it wrote it after sleep, waits and steps."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.clock import FakeClock
from watchdog.judging.gradual import at_once
from watchdog.model.report import Attempts
from watchdog.model.session import CallId
from watchdog.observing.memory import Memory
from watchdog.observing.memory_store import dump, restore, restore_elsewhere
from watchdog.timing.clock import Countable
from watchdog.timing.version_one import migrated

KEPT = json.loads(Path(__file__).with_name("memory_of_version_1.json").read_text(encoding="utf-8"))
DUMP, AGES = KEPT["dump"], KEPT["ages"]
BOOT = "this boot"
LAST = DUMP["timeline"]["last"]


def later(seconds: float, *, step: float = 0.0) -> Countable:
    """The same machine, so much later."""
    hands = FakeClock(wall_ms=LAST["wall_ms"])
    hands.sleep_machine(LAST["running_seconds"] - LAST["awake_seconds"])
    hands.advance(LAST["awake_seconds"] - 1000)
    hands.step((LAST["wall_ms"] - hands.now_ms) / 1000)
    hands.advance(seconds)
    hands.step(step)
    return Countable(hands)


def taken_up(clock: Countable, boot: str = BOOT) -> Memory:
    memory = Memory()
    assert restore(DUMP, memory, clock, boot)
    return memory


@pytest.mark.parametrize(("seconds", "counted"), [(0, 0), (30, 30), (5000, 120)])
@pytest.mark.parametrize("step", [0.0, 3600.0, -3600.0])
def test_every_clock_goes_on_where_the_first_version_saw_it(seconds: float, counted: float, step: float) -> None:
    clock = later(seconds, step=step)
    memory = taken_up(clock)
    for id_, age in AGES.items():
        shown = clock.now() - memory.calls[CallId(id_)].start
        assert shown == pytest.approx(max(0.0, age) + counted, abs=0.1)
    assert clock.now() - memory.asks["que_1"] == pytest.approx(KEPT["asks"]["que_1"] + counted, abs=0.1)


def test_waits_attempts_and_claims_are_taken_over() -> None:
    clock = later(5)
    memory = taken_up(clock)
    assert memory.calls[CallId("prt_2")].paused
    tried = memory.attempts["cancel:prt_1"]
    assert (tried.count, tried.tries, tried.newest_prompt_id) == (2, 2, "msg_prompt")
    assert tried.not_before is not None
    assert tried.not_before - clock.now() == pytest.approx(15)
    given_up = memory.attempts["settle:prt_9"]
    assert given_up.given_up
    assert given_up.not_before is not None
    assert given_up.not_before - clock.now() <= 600
    assert memory.claimed_by.keys() == {"ses_1", "ses_2", "ses_3"}


def test_what_was_never_known_of_the_clock_is_not_known_now() -> None:
    instant_clock = later(30)
    taken_up(instant_clock)
    assert instant_clock.look().steady_since_ms >= 0
    stepped = later(30, step=3600)
    taken_up(stepped)
    instant = stepped.look()
    assert instant.steady_since_ms > instant.at_ms - 1000


def test_of_another_boot_only_the_attempts_are_kept() -> None:
    memory = taken_up(later(5), "another boot")
    assert (memory.calls, memory.asks, memory.claimed_by) == ({}, {}, {})
    assert isinstance(memory.attempts["cancel:prt_1"], Attempts)


def test_another_replica_takes_it_up_too() -> None:
    clock, memory = Countable(FakeClock(wall_ms=LAST["wall_ms"] + 20_000)), Memory()
    assert restore_elsewhere(DUMP, memory, clock)
    assert clock.now() - memory.calls[CallId("prt_1")].start == pytest.approx(AGES["prt_1"] + 20, abs=0.1)


def test_what_is_kept_from_then_on_is_of_the_second_version_and_tells_the_same() -> None:
    clock = later(30)
    memory, again = taken_up(clock), Memory()
    kept = json.loads(json.dumps(at_once(dump(memory, clock, BOOT))))
    assert (kept["version"], "timeline" in kept) == (2, False)
    assert restore(kept, again, clock, BOOT)
    assert {id_: call.start.seconds for id_, call in again.calls.items()} == pytest.approx(
        {id_: call.start.seconds for id_, call in memory.calls.items()}
    )


PLACES = [
    ("timeline",),
    ("timeline", "credits"),
    ("timeline", "credits", 0, "amount_ms"),
    ("timeline", "last"),
    ("timeline", "last", "awake_seconds"),
    ("timeline", "not_credited"),
    ("timeline", "step_ms"),
    ("calls",),
    ("calls", "prt_1"),
    ("calls", "prt_1", "start_ms"),
    ("calls", "prt_1", "paused_ms"),
    ("asks", "que_1", "at_ms"),
    ("attempts", "cancel:prt_1", "not_before_ms"),
    ("folded_at",),
]


@pytest.mark.parametrize("rubbish", ["x", [1], float("nan"), {"a": 1}])
@pytest.mark.parametrize("where", PLACES, ids=lambda each: ".".join(map(str, each)))
def test_one_that_is_damaged_anywhere_is_ignored_whole(where: tuple[Any, ...], rubbish: object) -> None:
    value = copy.deepcopy(DUMP)
    inner: Any = value
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = rubbish
    memory = Memory()
    assert not restore(value, memory, later(5), BOOT)
    assert memory == Memory()


def test_the_value_is_not_changed_by_reading_it() -> None:
    before = copy.deepcopy(DUMP)
    migrated(DUMP)
    assert before == DUMP
