"""The right to act on a database, and who has it."""

from typing import Protocol


class Mandate(Protocol):
    """The right to act on a database, and who has it."""

    def acquire(self) -> bool:
        """Take it if nobody has it. True while it is held."""
        ...

    @property
    def term(self) -> int | None:
        """Grows each time that it is taken; None while it is not held."""
        ...

    def holder(self) -> int | str | None:
        """The pid that the leader wrote down; in PostgreSQL, the name of the replica."""
        ...


def named(holder: int | str | None) -> str:
    """Who acts, for people: a pid, or the name of a replica."""
    if isinstance(holder, str):
        return f"replica {holder}"
    return f"pid {holder}" if holder else "of unknown pid"
