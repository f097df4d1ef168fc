"""How a bug is planted: an attribute of a product's object is another one for a while."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from simulation.writing import ANY, Mix

SEEDS: Final = 8
"""Within so many worlds a planted bug is to be found, unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One attribute, and what it is instead."""

    where: Any
    name: str
    instead: Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug.

    Attributes:
        what: what is wrong, for people.
        seeds: within how many worlds it has to be found.
        first_seed: the first of them.
        mix: what these worlds are full of.
    """

    what: str
    patches: tuple[Patch, ...]
    seeds: int = SEEDS
    first_seed: int = 0
    mix: Mix = ANY

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Plant it for as long as the block runs."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.callback(setattr, patch.where, patch.name, patch.where.__dict__[patch.name])
                setattr(patch.where, patch.name, patch.instead)
            yield


def always(value: Any) -> Any:  # noqa: ANN401 - whatever the patched function returns
    """A function that returns the same whatever it is asked."""

    def instead(*_: Any, **__: Any) -> Any:  # noqa: ANN401
        return value

    return instead
