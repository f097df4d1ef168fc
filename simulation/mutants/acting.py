"""Bugs in what is done, and in who may do it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import anyio

from simulation.mutants.planting import Mutant, Patch, always
from simulation.records import LineJournal, LineMandate
from simulation.writing import Mix
from watchdog.acting import recheck
from watchdog.acting.scheduler import Acting
from watchdog.alerts.rules import GivenUp
from watchdog.judging import attempts
from watchdog.judging.rulings import Consent
from watchdog.model.report import Attempts
from watchdog.observing import memory

_after, _look = attempts.after, GivenUp.look


def _tireless(before: Attempts, **named: Any) -> Attempts:  # noqa: ANN401
    tried = _after(before, **named)
    return replace(tried, given_up=False, not_before=named["now"] + 1.0)


def _impatient(before: Attempts, **named: Any) -> Attempts:  # noqa: ANN401
    tried = _after(before, **named)
    return replace(tried, not_before=named["now"] + 60.0)


def _unchecked(_: Any, __: Any, ___: Any, verdict: Any, ____: Consent) -> Any:  # noqa: ANN401
    return verdict


async def _nothing(*_: Any, **__: Any) -> None:  # noqa: ANN401
    return None


def _wide(_: Any, __: Any) -> anyio.CapacityLimiter:  # noqa: ANN401
    return anyio.CapacityLimiter(math.inf)


def _again_and_again(told: GivenUp, judgement: Any) -> Any:  # noqa: ANN401
    told._told = frozenset()  # noqa: SLF001
    return _look(told, judgement)


_DEAF = Mix(faults=("wedge",), an_hour=12.0, hangs=0.4)
_CROWDED = Mix(
    faults=("lock",), an_hour=12.0, busy=20.0, hangs=0.6, setting={"max_concurrency": 1, "latency": 0.2, "poll": 60.0}
)

ACTING: Final[Mapping[str, Mutant]] = {
    "never given up": Mutant("it tries for ever", (Patch(memory, "after", _tireless),), mix=_DEAF),
    "given up for a minute": Mutant(
        "what was given up is tried each minute", (Patch(memory, "after", _impatient),), mix=_DEAF
    ),
    "no second look": Mutant(
        "what was judged once is done later", (Patch(recheck, "again", _unchecked),), mix=_CROWDED
    ),
    "no record": Mutant(
        "rows are rewritten without a record",
        (Patch(LineJournal, "keep", _nothing),),
        mix=Mix(faults=("crash",), an_hour=12.0),
    ),
    "no lanes": Mutant("everything is done at once", (Patch(Acting, "_queue", _wide),), mix=_CROWDED),
    "no lock": Mutant(
        "two watchdogs act",
        (Patch(LineMandate, "acquire", always(value=True)),),
        mix=Mix(faults=("second",), an_hour=12.0, hangs=0.4),
    ),
    "giving up is not told": Mutant("nobody hears that it gave up", (Patch(GivenUp, "look", always([])),), mix=_DEAF),
    "giving up is told at each look": Mutant(
        "people hear the same again and again", (Patch(GivenUp, "look", _again_and_again),), mix=_DEAF
    ),
}
