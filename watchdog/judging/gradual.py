"""Work in small steps: it stops after each item, and its driver says when it goes on. Pure."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

Result = TypeVar("Result")
Gradual: TypeAlias = Generator[None, None, Result]
"""Stops after each item, and returns the result at the end. `strides.gradually` drives it in an event loop."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """The result of a piece of work."""

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
