"""Planted bugs: each has to be found by the oracles, within a stated number of worlds.

A mutant that survives shows a part that the world is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from simulation.mutants.acting import ACTING
from simulation.mutants.judging import JUDGING
from simulation.mutants.leasing import LEASING
from simulation.mutants.observing import OBSERVING
from simulation.mutants.planting import Mutant
from simulation.mutants.requesting import REQUESTING
from simulation.play import play
from simulation.writing import write

MUTANTS: Final[Mapping[str, Mutant]] = {**JUDGING, **OBSERVING, **ACTING, **REQUESTING, **LEASING}
DAYS: Final = 0.07
"""How long each world lasts that is searched for them."""


@dataclass(frozen=True, slots=True)
class Hunted:
    """What came of the search for one mutant."""

    name: str
    found: bool
    sentence: str


def hunt(name: str) -> Hunted:
    """Plant a bug, and play worlds until an oracle speaks that says nothing without it."""
    mutant = MUTANTS[name]
    landed = 0
    for number in range(mutant.seeds):
        script = write(mutant.first_seed + number, DAYS, mutant.mix)
        with mutant.planted():
            played = play(script)
        landed += sum(played.landed.values())
        found = played.violation
        if found is not None and play(script).violation is None:
            sentence = f"{name}: found in world {number + 1} of {mutant.seeds} ({found.kind}: {found.text})"
            return Hunted(name, found=True, sentence=sentence)
    void = "; nothing happened in these worlds" if not landed else ""
    return Hunted(name, found=False, sentence=f"{name}: NOT found in {mutant.seeds} worlds ({mutant.what}){void}")
