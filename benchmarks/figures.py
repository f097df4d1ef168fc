"""What a measurement yields, as values: figures with their targets, and lines for the plot."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Bound(StrEnum):
    """On which side of its limit a figure is to be."""

    UNDER = "under"
    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a figure is to reach, in the figure's unit."""

    bound: Bound
    limit: float

    def met(self, value: float) -> bool:
        """Whether a value reaches it. What is no number never does."""
        match self.bound:
            case Bound.UNDER:
                return value < self.limit
            case Bound.AT_MOST:
                return value <= self.limit
            case Bound.AT_LEAST:
                return value >= self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        samples: what each round gave, in `unit`; never empty.
        value: what the figure is; the median of the samples where nothing else is said.
        target: what it is to reach; None for a figure that is there to be compared with.
        beside: what it was measured against, in words.
    """

    name: str
    samples: tuple[float, ...]
    value: float
    unit: str
    target: Target | None = None
    beside: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        samples: Sequence[float],
        unit: str,
        *,
        target: Target | None = None,
        beside: str = "",
        value: float | None = None,
    ) -> "Figure":
        """A figure made of samples.

        Raises:
            ValueError: there are none.
        """
        if not samples:
            raise ValueError(f"nothing was measured for {name!r}")
        return cls(
            name=name,
            samples=tuple(samples),
            value=statistics.median(samples) if value is None else value,
            unit=unit,
            target=target,
            beside=beside,
        )

    @property
    def met(self) -> bool | None:
        """Whether it reaches its target; None without one."""
        return None if self.target is None else self.target.met(self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one measurement yields.

    Attributes:
        figures: rows of the table.
        lines: for the plot: milliseconds of processor time by parts, for each way to find out.
        on_clock: the same in PostgreSQL, whose processor time is not this process's: milliseconds on the clock.
    """

    figures: tuple[Figure, ...]
    lines: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    on_clock: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def under(limit: float) -> Target:
    """Less than a limit."""
    return Target(bound=Bound.UNDER, limit=limit)


def at_most(limit: float) -> Target:
    """No more than a limit."""
    return Target(bound=Bound.AT_MOST, limit=limit)


def at_least(limit: float) -> Target:
    """No less than a limit."""
    return Target(bound=Bound.AT_LEAST, limit=limit)


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """The ratio of each round to its neighbour, for rounds that took turns.

    Raises:
        ValueError: they are not as many.
    """
    return tuple(one / other for one, other in zip(above, below, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or the percentage is none.
    """
    if not values or not 0 < percent <= 100:  # noqa: PLR2004 - percent
        raise ValueError("a percentile needs values, and a percentage above 0")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]
