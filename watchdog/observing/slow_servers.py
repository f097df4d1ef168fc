"""Servers that accept a question and never answer, or are slow: a look waits no longer than makes sense."""

import math
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import TaskGroup

from watchdog.errors import ServerError, ServerSilent
from watchdog.ports import Clock, Server

SHORTEST_PATIENCE_SECONDS: Final = 1.0
"""How long a look waits at least for a server that answered before."""
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 10.0


class _CutShort(ServerSilent):
    """It might have answered if the look had waited longer."""


class Silences:
    """Where a server did not answer in time, and its last problem there, while a probe asks it again and again.

    Outside of `probing` nothing is kept: a single look waits for each server.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._problems: dict[Server, dict[str, str]] = {}
        self._took: WeakKeyDictionary[Server, float] = WeakKeyDictionary()
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
        self._took.clear()

    def patience(self, server: Server) -> float:
        """How many seconds a look waits for a server: twice as long as its last answer took.

        A server that is asked for the first time may take all of its own time limit: without its answer nobody knows
        whether a human was asked, and clocks would have to restart.
        """
        if self._group is None:
            return math.inf
        return max(SHORTEST_PATIENCE_SECONDS, 2 * self._took.get(server, math.inf))

    @contextmanager
    def patient(self, server: Server) -> Iterator[None]:
        """Wait for a server as long as makes sense.

        Raises:
            ServerSilent: it did not answer until then.
        """
        seconds = self.patience(server)
        try:
            with anyio.fail_after(None if math.isinf(seconds) else seconds):
                yield
        except TimeoutError:
            raise _CutShort(f"{server.name} has not answered for {seconds:.3g} s.") from None

    def learn(self, server: Server, began_at: float, errors: Collection[ServerError]) -> None:
        """Learn from the results of everything that a look asked a server, since a moment of the awake clock.

        If an answer was cut short, the next look is twice as patient, up to the server's own limit.
        """
        if self._group is None:
            return
        if any(isinstance(error, _CutShort) for error in errors):
            self._took[server] = self.patience(server)
        elif not errors:
            self._took[server] = self.now() - began_at

    def now(self) -> float:
        """What the awake clock shows."""
        return self._clock.read().awake_seconds

    def problem(self, server: Server, directory: str) -> str | None:
        """Why a server need not be asked about a directory now: its last failure there."""
        return self._problems.get(server, {}).get(directory)

    def note(self, server: Server, directory: str, error: ServerSilent) -> None:
        """A server did not answer in time. If it was cut short, it is probed at once: it has more time then."""
        if self._group is None:
            return
        if server not in self._problems:
            self._problems[server] = {}
            pause = 0.0 if isinstance(error, _CutShort) else FIRST_PAUSE_SECONDS
            self._group.start_soon(self._probe, server, pause, name=f"probe {server.name}")
        self._problems[server][directory] = str(error)

    def forget(self, server: Server, *, but: Collection[str]) -> None:
        """Probe only what somebody still asks for: without unfinished work nobody is asked anything."""
        silent = self._problems.get(server, {})
        for directory in [each for each in silent if each not in but]:
            del silent[directory]

    async def _probe(self, server: Server, pause: float) -> None:
        """Ask a silent server for one directory after another until it answers, or says why it doesn't."""
        silent = self._problems[server]
        while True:
            await self._clock.sleep(pause)
            pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            directory = next(iter(silent), None)
            if directory is None:
                break
            began = self.now()
            try:
                await server.statuses(directory)
            except ServerSilent as error:
                if silent.pop(directory, None) is not None:
                    silent[directory] = str(error)  # at the end: the next one's turn
            except ServerError:
                break  # it says something: the look that it wakes asks what
            else:
                self._took[server] = max(self._took.get(server, 0.0), self.now() - began)
                break
        del self._problems[server]
        if silent:
            self._wake()
