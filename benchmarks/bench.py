"""What every measurement is given, and the list of measurements."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Result

REFERENCE = 1_000_000
"""The size that the targets are for."""

Step = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What a measurement works on.

    Attributes:
        databases: the generated databases, by their parts, the smallest first; never empty.
        folder: an empty folder for whatever a measurement writes.
        step: called with what is done just now, for people.
    """

    databases: Mapping[int, Path]
    folder: Path
    step: Step

    @property
    def smallest(self) -> int:
        """The parts of the smallest database."""
        return min(self.databases)

    @property
    def reference(self) -> int:
        """The parts of the database that the targets are for, or of the largest one."""
        return REFERENCE if REFERENCE in self.databases else max(self.databases)


Measurement = Callable[[Bench], Awaitable[Result]]


def sized(name: str, parts: int) -> str:
    """The name of a figure that was taken on a database of some size."""
    return f"{name}, {parts:,} parts"
