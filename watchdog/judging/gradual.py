"""Work that is done little by little: it stops after each item, and whoever drives it says when it goes on. Pure."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

Result = TypeVar("Result")
Gradual: TypeAlias = Generator[None, None, Result]
"""Stops after each item, and returns what came of it all. `strides.gradually` drives it in an event loop."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What came of a piece of work."""

    result: Result


def step(work: Gradual[Result]) -> Done[Result] | None:
    """Do it up to the next stop; None while it is not done."""
    try:
        next(work)
    except StopIteration as stopped:
        return Done(stopped.value)
    return None


def at_once(work: Gradual[Result]) -> Result:
    """Do it without a pause."""
    while (done := step(work)) is None:
        pass
    return done.result
