"""Work that is done little by little: it stops after each item, and whoever drives it says when it goes on. Pure."""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")
Gradual: TypeAlias = Generator[None, None, Result]
"""Stops after each item, and returns what came of it all. `strides.gradually` drives it in an event loop."""


def at_once(work: Gradual[Result]) -> Result:
    """Do it without a pause."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: Result = done.value
            return result
