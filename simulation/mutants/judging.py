"""Bugs in the rules."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from simulation.mutants.planting import Mutant, Patch, always
from simulation.script import Plan
from simulation.writing import Mix
from watchdog.judging import facts, judge, orphan_proof, settled_rows, verdicts
from watchdog.judging.facts import Case
from watchdog.judging.orphan_proof import Proof
from watchdog.judging.session_tree import Family
from watchdog.model.policy import Policy
from watchdog.model.session import Session, ToolCall
from watchdog.model.verdict import SpareReason, Verdict
from watchdog.observing import memory

# The private classes that are patched are named here once.
_Bench: Any = judge._Bench  # noqa: SLF001
_Proving: Any = orphan_proof._Proving  # noqa: SLF001

_stuck, _spare, _turn = verdicts.stuck, _Bench._spare, settled_rows.settled_turn  # noqa: SLF001
_spare_waiting, _judge_calls = _Bench._spare_waiting, _Bench._judge_calls  # noqa: SLF001


def _undeclared(limit: float | None, _: ToolCall, __: Policy) -> float | None:
    return limit


def _one_limit(_: str, policy: Policy) -> float | None:
    return policy.tool_timeout_seconds


def _at_the_parent(case: Case, session: Session, over: list[ToolCall]) -> Verdict:
    verdict = _stuck(case, session, over)
    return verdict if session.parent_id is None else replace(verdict, cancel_session_id=session.parent_id)


def _humans_unseen(bench: Any, session: Session, call: ToolCall, claim: Any) -> Any:  # noqa: ANN401
    spared = _spare_waiting(bench, session, call, claim)
    return None if spared is not None and spared.reason is SpareReason.WAITING_ON_HUMAN else spared


def _siblings_unseen(bench: Any, session: Session, calls: Any, claim: Any) -> None:  # noqa: ANN401
    longest = max(calls, key=lambda call: bench.case.leaf_age(session, call))
    _judge_calls(bench, session, [longest], claim)


def _quiet(bench: Any, session: Session, reason: SpareReason, why: str, *more: Any, **named: Any) -> None:  # noqa: ANN401
    if reason not in {SpareReason.NO_WITNESS, SpareReason.GIVEN_UP}:
        _spare(bench, session, reason, why, *more, **named)


def _without_finish(*args: Any, **named: Any) -> Any:  # noqa: ANN401
    text = _turn(*args, **named)
    return None if text is None else text.replace('"finish"', '"ended"')


_CHILDREN = ("unfinished_child_of", "unfinished_below", "child_of")
_PROVEN = Proof(holds=True, at_once=True, why="it is old")

JUDGING: Final[Mapping[str, Mutant]] = {
    "declared timeout ignored": Mutant(
        "a call is cut within its own timeout", (Patch(facts, "lengthened", _undeclared),)
    ),
    "override ignored": Mutant(
        "tool_timeouts is not asked",
        (Patch(facts, "tool_limit", _one_limit),),
        mix=Mix(setting={"tool_timeouts": {"slow": 7_200.0}, "tool_timeout": 300.0}),
    ),
    "questions ignored": Mutant(
        "a call that waits for a person is taken for hung",
        (Patch(_Bench, "_spare_waiting", _humans_unseen), Patch(memory, "_waits", always(value=False))),
    ),
    "asks ignored": Mutant("asks are not seen at all", (Patch(Family, "asks_for", always(value=False)),)),
    "children ignored": Mutant(
        "nobody waits on a child", tuple(Patch(Family, name, always(None)) for name in _CHILDREN)
    ),
    "siblings ignored": Mutant(
        "healthy work beside a hung call is cut with it", (Patch(_Bench, "_judge_calls", _siblings_unseen),)
    ),
    "retries ignored": Mutant(
        "a wait for the provider is taken for silence",
        (Patch(_Bench, "_waits_out", always(value=False)), Patch(Case, "retry_due", always(None))),
        mix=Mix(setting={"idle_timeout": 200.0}),
    ),
    "the parent is ended": Mutant("the parent of what hangs is ended", (Patch(verdicts, "stuck", _at_the_parent),)),
    "holds ignored": Mutant(
        "what is on hold is ended", (Patch(Case, "hold", always(None)),), mix=Mix(hangs=0.4, more={"hold": 8.0})
    ),
    "old is orphaned": Mutant("age proves that nobody executes it", (Patch(_Proving, "prove", always(_PROVEN)),)),
    "births ignored": Mutant(
        "a process that was there before is excluded by its birth",
        (Patch(orphan_proof, "born_too_late", always(value=True)),),
        mix=Mix(faults=("crash",), an_hour=4.0, setting={"plans": (Plan(), Plan(port=None))}),
    ),
    "no idle rule": Mutant("silence is never ended", (Patch(_Bench, "_judge_idle", always(None)),)),
    "no tool rule": Mutant(
        "hung calls are never ended",
        (Patch(verdicts, "stuck", always(None)), Patch(_Bench, "_judge_calls", always(None))),
    ),
    "no orphans": Mutant("what a crash left is never settled", (Patch(Case, "orphaned", always([])),)),
    "sparing is not said": Mutant(
        "what nobody can tell of is spared without a word", (Patch(_Bench, "_spare", _quiet),)
    ),
    "unknown error name": Mutant(
        "a settled turn has an error that no opencode knows", (Patch(settled_rows, "TURN_ERROR", "Settled"),)
    ),
    "no finish": Mutant(
        "a settled turn runs its old subtask again", (Patch(settled_rows, "settled_turn", _without_finish),)
    ),
    "a deleted one's children ignored": Mutant(
        "a deleted session is ended while a child works",
        (Patch(Family, "unfinished_child_of_deleted", always(None)),),
        mix=Mix(children=0.4, more={"delete": 15.0}),
    ),
}
