"""Servers that accept a question and never answer: only the first look waits for one."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup

from watchdog.errors import ServerError, ServerSilent
from watchdog.ports import Clock, Server

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 10.0


class Silences:
    """Where a server did not answer in time, and its last problem there, while a probe asks it again and again.

    Outside of `probing` nothing is kept: whoever looks once waits for each server.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._problems: dict[Server, dict[str, str]] = {}
        self._group: TaskGroup | None = None
        self._wake: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def probing(self, wake: Callable[[], None]) -> AsyncIterator[None]:
        """Keep silences, and probe them in the background, until the block is left.

        Args:
            wake: called when a server answers again, or fails in another way, so that it is worth a look.
        """
        async with anyio.create_task_group() as group:
            self._group, self._wake = group, wake
            try:
                yield
            finally:
                self._group = None
                group.cancel_scope.cancel()
        self._problems.clear()

    def problem(self, server: Server, directory: str) -> str | None:
        """Why a server need not be asked about a directory now: what it last failed with there."""
        return self._problems.get(server, {}).get(directory)

    def note(self, server: Server, directory: str, error: ServerSilent) -> None:
        """A server did not answer in time."""
        if self._group is None:
            return
        if server not in self._problems:
            self._problems[server] = {}
            self._group.start_soon(self._probe, server, name=f"probe {server.name}")
        self._problems[server][directory] = str(error)

    def forget(self, server: Server, *, but: Collection[str]) -> None:
        """Probe only what is still asked for: where nothing is unfinished, nobody is asked anything."""
        silent = self._problems.get(server, {})
        for directory in [each for each in silent if each not in but]:
            del silent[directory]

    async def _probe(self, server: Server) -> None:
        """Ask a silent server for one directory after another until it answers, or says why it doesn't."""
        silent, pause = self._problems[server], FIRST_PAUSE_SECONDS
        while True:
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            directory = next(iter(silent), None)
            if directory is None:
                break
            try:
                await server.statuses(directory)
            except ServerSilent as error:
                if silent.pop(directory, None) is not None:
                    silent[directory] = str(error)  # at the end: the next one's turn
            except ServerError:
                break  # it says something: the look that is woken asks what
            else:
                break
        del self._problems[server]
        if silent:
            self._wake()
