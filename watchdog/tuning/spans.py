"""How long something took, many times over: exact quantiles, in eight bytes for each. Pure."""

import math
from array import array
from typing import Final

EDGES: Final = (1_000, 3_000, 10_000, 30_000, 60_000, 180_000, 600_000, 1_800_000, 3_600_000, 10_800_000, 36_000_000)
"""The milliseconds that separate the columns of a distribution."""


class Spans:
    """Durations in milliseconds, none below zero."""

    def __init__(self) -> None:
        self._ms = array("q")
        self._sorted = True

    def __len__(self) -> int:
        return len(self._ms)

    def add(self, milliseconds: int) -> None:
        """Take one more."""
        self._ms.append(max(0, milliseconds))
        self._sorted = False

    def quantile(self, percent: float) -> float | None:
        """The shortest duration, in seconds, that so many percent do not exceed (nearest rank); None without any."""
        if not self._ms:
            return None
        self._sort()
        return self._ms[max(0, math.ceil(len(self._ms) * percent / 100) - 1)] / 1000

    @property
    def longest(self) -> float | None:
        """The longest, in seconds; None without any."""
        return self.quantile(100)

    @property
    def columns(self) -> tuple[int, ...]:
        """How many lie below each of `EDGES`, and above the one before; and how many above the last."""
        found = [0] * (len(EDGES) + 1)
        self._sort()
        place = 0
        for span in self._ms:
            while place < len(EDGES) and span >= EDGES[place]:
                place += 1
            found[place] += 1
        return tuple(found)

    def _sort(self) -> None:
        if not self._sorted:
            self._ms = array("q", sorted(self._ms))
            self._sorted = True
