"""The search through closed turns for open calls, in the background."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from anyio.abc import TaskGroup

from watchdog.errors import DatabaseError
from watchdog.ports import Clock, Store

PAUSE_SECONDS: Final = 0.02
"""The pause between two steps: the search is in nobody's way, neither on the database nor in the event loop."""


class Search:
    """Goes through all parts a step at a time: once, and again each time that the store has started over.

    Args:
        store: the store to search.
        clock: waits between the steps.
        found: told at the end if there is something new to look at, or somebody waited for it.
    """

    def __init__(self, store: Store, clock: Clock, found: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._found = found
        self._under_way = False
        self._awaited = False

    @property
    def over(self) -> bool:
        """Whether nothing is left to find. A caller that hears that something is will be told at the end."""
        self._awaited |= not self._store.searched
        return self._store.searched

    def go_on(self, group: TaskGroup) -> None:
        """Search in a task of the group, unless everything is searched or one is under way."""
        if not self._under_way and not self._store.searched:
            self._under_way = True
            group.start_soon(self._run, name="search closed turns for open calls")

    async def _run(self) -> None:
        try:
            with suppress(DatabaseError):  # a look meets and reports it, too; the search goes on after it
                while await self._store.search():
                    await self._clock.sleep(PAUSE_SECONDS)
                if self._awaited or await self._store.changed():
                    self._awaited = False
                    self._found()
        finally:
            self._under_way = False
