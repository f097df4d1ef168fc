"""The right to act, as a test grants it."""

from watchdog.errors import DatabaseError


class FakeMandate:
    """Had, unless a test says otherwise."""

    def __init__(self) -> None:
        self.granted = True
        self.problem: DatabaseError | None = None
        self.term: int | None = 1

    def acquire(self) -> bool:
        if self.problem is not None:
            raise self.problem
        return self.granted

    def holder(self) -> int | None:
        return None if self.granted else 1
