"""The two kinds of time, which can't be mixed up.

Rows and servers have wall milliseconds. Somebody can set that clock, and it runs on while the machine sleeps. Moments
lie on the watchdog's own countable clock (`clock.Countable`), and only their differences mean anything. Every age is
a difference of two moments. Code that compares or subtracts one kind with the other does not type-check.
"""

from dataclasses import dataclass
from typing import TypeAlias

WallMs: TypeAlias = int
"""Milliseconds since the Unix epoch, as a wall clock showed them."""


@dataclass(frozen=True, order=True, slots=True)
class Moment:
    """A moment of countable time, of this process alone."""

    seconds: float

    def __sub__(self, earlier: "Moment") -> float:
        """How many countable seconds lie between the two."""
        return self.seconds - earlier.seconds

    def __add__(self, seconds: float) -> "Moment":
        """The moment so many countable seconds later; earlier if negative."""
        return Moment(self.seconds + seconds)


NEVER = Moment(float("-inf"))
"""Before every other moment."""
