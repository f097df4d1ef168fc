"""Bugs in the right to act that several watchdogs share."""

from collections.abc import Mapping
from typing import Any, Final

from simulation.mutants.planting import Mutant, Patch
from simulation.writing import Mix
from watchdog.postgres.lease import Lease

_MIX = Mix(faults=("replica", "crash"), an_hour=30.0, hangs=0.4, setting={"replicas": 3, "poll": 5.0})


async def _unasked(*_: Any, **__: Any) -> None:  # noqa: ANN401
    return None


LEASING: Final[Mapping[str, Mutant]] = {
    "a write is not fenced": Mutant(
        "rows are written without a look at the term", (Patch(Lease, "hold", _unasked),), mix=_MIX
    ),
    "an abort is not confirmed": Mutant(
        "a server is told without a question to the database", (Patch(Lease, "confirm", _unasked),), mix=_MIX
    ),
}
