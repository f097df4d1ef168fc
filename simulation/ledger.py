"""What all oracles share: the first thing that must never be, the counts, and the trouble that was."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from simulation.world import World

SETTLE_SECONDS: Final = 90.0
"""How long after some trouble nothing is demanded: the longest pauses of the loop and of a feed, 60 and 30 s."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never be."""

    kind: str
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Trouble that was, from when to when."""

    kind: str
    began: float
    ended: float


class Ledger:
    """What was seen so far.

    Attributes:
        violation: the first one; the world ends with it.
        counts: acts and other figures, by name.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.violation: Violation | None = None
        self.counts: Counter[str] = Counter()
        self.disturbances: list[Disturbance] = []

    def fail(self, kind: str, text: str) -> None:
        """Note that something is as it must never be."""
        if self.violation is None:
            self.violation = Violation(kind, self.world.now, text)
            self.world.log("VIOLATION", kind, text)
            self.world.over.set()

    def count(self, what: str) -> None:
        """Count something for the table."""
        self.counts[what] += 1

    def broken(self, error: BaseException) -> None:
        """The model itself failed."""
        self.fail("model", f"{type(error).__name__}: {error}")
        raise error

    def own_error(self, where: str, error: Exception) -> None:
        """The product failed on its own."""
        parts = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        self.fail("own error", f"{where}: {'; '.join(f'{type(each).__name__}: {each}' for each in parts)}")

    # -- trouble ---------------------------------------------------------------------------------------------------

    def disturbed(self, kind: str, began: float) -> None:
        """Trouble is over."""
        self.disturbances.append(Disturbance(kind, began, self.world.now))
        if len(self.disturbances) > 1_000:  # noqa: PLR2004 - more than any item lives through
            del self.disturbances[:500]

    @property
    def is_calm(self) -> bool:
        """Whether nothing is wrong, and nothing was lately."""
        if self.world.troubles:
            return False
        return not self.disturbances or self.world.now - self.disturbances[-1].ended > SETTLE_SECONDS

    def is_calm_but_for(self, kind: str) -> bool:
        """Whether nothing else is wrong."""
        last = self.disturbances[-1].ended if self.disturbances else -SETTLE_SECONDS * 2
        return not (self.world.troubles.keys() - {kind}) and self.world.now - last > SETTLE_SECONDS
