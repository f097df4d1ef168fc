"""The effect of a table's own triggers and constraints on a write."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError

_RAISED: Final = "P0"
_CONSTRAINTS: Final = "23"
_TRIGGERED: Final = "27"


class Standing(Exception):
    """Something in the table itself prevents a write; the transaction is given up."""

    def __init__(self, table: str, what: str) -> None:
        super().__init__(table, what)
        self.table = table
        self.what = what


@contextmanager
def standing_against(table: str) -> Iterator[None]:
    """Tell an error of a trigger or a constraint from any other.

    Raises:
        Standing: it is one.
    """
    try:
        yield
    except DBAPIError as error:
        state = str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")
        if not state.startswith((_RAISED, _CONSTRAINTS, _TRIGGERED)):
            raise
        raise Standing(table, "refuses it") from error
