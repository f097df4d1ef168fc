"""Bugs in what people ask for, in what is asked of people, and in what is made of files that changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from simulation.mutants.planting import Mutant, Patch, always
from simulation.script import Plan
from simulation.writing import Mix
from watchdog.acting import undo
from watchdog.judging import judge, orphan_proof, rulings
from watchdog.judging.session_tree import Family
from watchdog.observing.memory import Memory

_Bench: Any = judge._Bench  # noqa: SLF001
_Undo: Any = undo._Attempt  # noqa: SLF001
_hold, _note_asks = _Undo._hold, Memory._note_asks  # noqa: SLF001


def _held_for_a_moment(attempt: Any) -> Any:  # noqa: ANN401
    return replace(_hold(attempt), until_ms=0)


def _asked_long_ago(memory: Any, observation: Any) -> None:  # noqa: ANN401
    _note_asks(memory, observation)
    memory.asks = {id_: since + -300.0 for id_, since in memory.asks.items()}


_UNDOING = Mix(faults=("crash",), an_hour=12.0, hangs=0.4, more={"undo": 30.0, "prompt": 3.0})
_ASKING = Mix(asks=0.4, setting={"human_timeout": 1_500.0})
_REMOTE = Mix(setting={"plans": (Plan(), Plan(port=None, remote=True))}, hangs=0.02)

REQUESTING: Final[Mapping[str, Mutant]] = {
    "release takes all": Mutant(
        "what a person waits for below a released session ends with it",
        (Patch(rulings, "living_below", always(())),),
        mix=Mix(asks=0.4, children=0.4, more={"release": 15.0}),
    ),
    "undone over": Mutant(
        "rows are put back over what was done since", (Patch(undo, "_changes", always("")),), mix=_UNDOING
    ),
    "undone without a hold": Mutant(
        "what was undone is settled again", (Patch(_Undo, "_hold", _held_for_a_moment),), mix=_UNDOING
    ),
    "turned down early": Mutant(
        "people have less time than they were given", (Patch(Memory, "_note_asks", _asked_long_ago),), mix=_ASKING
    ),
    "never turned down": Mutant("nothing is turned down", (Patch(_Bench, "_judge_asks", always(None)),), mix=_ASKING),
    "remote ignored": Mutant(
        "what another machine works on is taken for nobody's",
        tuple(Patch(each, "elsewhere", always(None)) for each in (judge, orphan_proof)),
        mix=_REMOTE,
    ),
    "damage ignored": Mutant(
        "what can't be read is taken for nothing",
        (Patch(Family, "damaged", always(value=False)),),
        mix=Mix(faults=("damage",), an_hour=12.0),
    ),
}
