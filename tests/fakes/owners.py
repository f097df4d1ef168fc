"""Who has the database open, as a test says."""

from collections.abc import Callable

from watchdog.model.report import Holders


class FakeOwners:
    """An `Owners` in memory.

    Attributes:
        holders: the answer.
        looks: how often it was asked.
        before_look: called before each answer: what changes in between.
    """

    def __init__(self, holders: Holders | None = None) -> None:
        self.holders = holders or Holders()
        self.looks = 0
        self.before_look: Callable[[], None] | None = None

    async def look(self) -> Holders:
        """Look now."""
        self.looks += 1
        if self.before_look is not None:
            self.before_look()
        return self.holders
