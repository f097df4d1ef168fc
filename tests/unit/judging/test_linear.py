"""Judging and remembering cost work in proportion to what is open: bytecodes are counted, no time is taken."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from tests.fakes.clock import FakeClock
from tests.unit.observations import (
    AT,
    NOW,
    POLICY,
    back,
    busy,
    call,
    holder,
    observation,
    question,
    report,
    session,
    turn,
)
from watchdog.judging.gradual import at_once
from watchdog.judging.judge import judge
from watchdog.model.report import Observation
from watchdog.model.session import Ask, Session, TurnId
from watchdog.model.verdict import VerdictKind
from watchdog.observing.memory import Memory
from watchdog.timing.clock import Countable

FEW = 60
MANY = 4


def work_of(run: Callable[[], object]) -> int:
    """How many bytecodes of Python run."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def held(*sessions: Session, **more: Any) -> Observation:  # noqa: ANN401
    return observation(*sessions, reports=[busy(*(each.id for each in sessions), **more)])


def at_work(number: int, *, age: float = 10, parent: str | None = None, **more: Any) -> Session:  # noqa: ANN401
    id_ = f"ses_{number}"
    calls = [call(f"prt_{number}", session=id_, turn=f"msg_{number}", age=age, **more)]
    return session(id_, parent=parent, age=age + 100 - number / 1e4, calls=calls)


def lone(count: int) -> Observation:
    return held(*map(at_work, range(count)))


def stuck(count: int) -> Observation:
    return held(*(at_work(number, age=100) for number in range(count)))


def silent(count: int) -> Observation:
    sessions = [session(f"ses_{number}") for number in range(count)]
    idle = {str(each.id): 10.0 + number for number, each in enumerate(sessions)}
    return replace(held(*sessions), idle_clocks=observation(*sessions, idle=idle).idle_clocks)


def star(count: int, *, named: bool = True, age: float = 10) -> Observation:
    """One session with many task calls, a child for each."""
    below = [at_work(number, age=age, parent="ses_top") for number in range(count)]
    calls = [
        call(
            f"prt_t{number}",
            session="ses_top",
            turn="msg_top",
            tool="task",
            age=200,
            child_id=each.id if named else None,
        )
        for number, each in enumerate(below)
    ]
    return held(session("ses_top", age=5000, calls=calls), *below)


def chain(count: int, *, age: float = 10) -> Observation:
    """Each session waits on the next one."""
    sessions = [
        at_work(number, tool="task", age=200, child_id=f"ses_{number + 1}", parent=f"ses_{number - 1}")
        for number in range(count - 1)
    ]
    return held(*sessions, at_work(count - 1, age=age, parent=f"ses_{count - 2}"))


def orphans(count: int) -> Observation:
    sessions = [at_work(number, age=100) for number in range(count)]
    served = [each.id for one in sessions for each in one.turns]
    asks = [replace(question(each.id, turn="msg_of_old"), id=f"que_{each.id}") for each in sessions]
    holders = [holder(), holder(101, age=5)]
    return observation(*sessions, reports=[report(served=served, asks=asks)], holders=holders)


def asked(count: int) -> Observation:
    """Everything waits for a human."""
    sessions = [at_work(number) for number in range(count)]
    asks = [replace(question(each.id), id=f"que_{each.id}") for each in sessions]
    return replace(held(*sessions, asks=asks), ask_clocks={ask.id: back(5) for ask in asks})


def many_calls(count: int) -> Observation:
    """One session with many calls, for each of which a human is asked, and as many asks that name none."""
    calls = [call(f"prt_{number}", age=number) for number in range(count)]
    asks: list[Ask] = [
        replace(question("ses_1", turn="msg_1", call_ref=each.call_ref), id=f"que_{each.id}") for each in calls
    ]
    asks += [replace(question("ses_1", turn="msg_1"), id=f"que_{number}") for number in range(count)]
    return held(session(calls=calls), asks=asks)


def many_turns(count: int) -> Observation:
    """One session with an orphaned call in each of many turns."""
    turns = [turn(f"msg_{number}", superseded=number < count - 1) for number in range(count)]
    calls = [call(f"prt_{number}", turn=each.id) for number, each in enumerate(turns)]
    served = [TurnId(each.id) for each in turns]
    return observation(session(turns=turns, calls=calls), reports=[report(served=served)], holders=[holder()])


KINDS: dict[str, Callable[[int], Observation]] = {
    "lone": lone,
    "stuck": stuck,
    "silent": silent,
    "star": star,
    "star_unnamed": lambda count: star(count, named=False),
    "star_stuck": lambda count: star(count, age=100),
    "chain": chain,
    "chain_stuck": lambda count: chain(count, age=100),
    "orphans": orphans,
    "asked": asked,
    "many_calls": many_calls,
    "many_turns": many_turns,
}


def fold(seen: Observation) -> Callable[[], object]:
    """A second look at the same, by a memory that has looks to compare."""
    memory, instant = Memory(), Countable(FakeClock(wall_ms=NOW)).look()

    def look() -> None:
        at_once(memory.fold_gradually(seen, instant))
        at_once(memory.note_looks_gradually(seen, seen.snapshot.open_rows))

    look()
    return look


@pytest.mark.parametrize("kind", KINDS)
def test_judging_is_linear(kind: str) -> None:
    few, many = (KINDS[kind](count) for count in (FEW, FEW * MANY))
    work = work_of(lambda: judge(few, POLICY, AT))
    assert work > FEW * 10
    assert work_of(lambda: judge(many, POLICY, AT)) < 1.2 * MANY * work


@pytest.mark.parametrize("kind", KINDS)
def test_folding_a_look_is_linear(kind: str) -> None:
    few, many = (KINDS[kind](count) for count in (FEW, FEW * MANY))
    work = work_of(fold(few))
    assert work > FEW * 10
    assert work_of(fold(many)) < 1.2 * MANY * work


def test_the_kinds_are_what_they_are_called() -> None:
    kinds = {name: judge(make(FEW), POLICY, AT) for name, make in KINDS.items()}
    found = {name: sorted({each.kind for each in judgement.verdicts}) for name, judgement in kinds.items()}
    assert found["stuck"] == found["star_stuck"] == found["chain_stuck"] == [VerdictKind.STUCK_TOOL]
    assert kinds["orphans"].unclaimed
    assert kinds["many_turns"].unclaimed
    assert {name: len({each.reason for each in judgement.spared}) for name, judgement in kinds.items()}["lone"] == 1


def test_work_that_grows_with_the_square_is_seen() -> None:
    def pairs(count: int) -> int:
        return work_of(lambda: [one for one in range(count) for _ in range(count)])

    assert pairs(FEW * MANY) > 2 * MANY * pairs(FEW)
