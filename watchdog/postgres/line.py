"""One long-lived connection for small statements and for notifications, remade whenever it breaks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.console.logger import logger
from watchdog.errors import DatabaseUnavailable, WatchdogError
from watchdog.ports import Clock
from watchdog.postgres.connection import place_of, translated
from watchdog.postgres.kept import Kept

LINE_SECONDS: Final = 3.0
"""How long a statement may take, including the connection if it has to be made."""
_RETRY_SECONDS: Final = 1.0

CHANNEL: Final = "opencode_watchdog_errand"
"""The channel on which replicas tell each other of news."""
CAME: Final = "came"
"""The notification to the leader that there is one replica more."""
NOTIFY_CAME: Final = f"SELECT pg_notify('{CHANNEL}', '{CAME}')"
ERRAND: Final = "errand "
"""The beginning of a notification to a process, whose name follows, that there is an errand for it."""
DONE: Final = "done"
"""The notification to those who wait for the answer to an errand."""
NOTIFY_DONE: Final = f"SELECT pg_notify('{CHANNEL}', '{DONE}')"
SAID: Final = "said"
"""The notification of answers that somebody asked for."""
NOTIFY_SAID: Final = f"SELECT pg_notify('{CHANNEL}', '{SAID}')"
WANTED: Final = "wanted"
"""The notification to the leader that somebody wants something of it."""
ANSWERED: Final = "answered"
"""The notification to those who want something that it was done."""
ASKED: Final = "asked "
"""The beginning of a notification that makes replicas publish what their hosts say.

The asking process follows, and the processes that it asks; all, if none is named.
"""


class Line:
    """A connection on which one statement runs at a time, each in a transaction of its own.

    Args:
        engine: makes the connection.
        channel: the channel to listen to.
        heard: called with the text of each notification, and with nothing once for each connection, before which some
            may have been missed.
    """

    def __init__(self, engine: AsyncEngine, *, channel: str, heard: Callable[[str], None]) -> None:
        self.place = place_of(engine.url)
        self._channel = channel
        self._heard = heard
        self._turn = anyio.Lock()
        self._kept = Kept(engine, self._listen)

    async def fetch(self, statement: str, *values: object) -> Sequence[Any]:
        """Run a statement, and return its rows. After an error the connection is thrown away.

        Args:
            statement: with $1, $2, … for the values.

        Raises:
            DatabaseUnavailable: it failed, or took too long. It may still have been carried out.
        """
        async with self._turn:
            try:
                with translated(self.place, DatabaseUnavailable), anyio.fail_after(LINE_SECONDS):
                    driver = await self._kept.driver()
                    rows: Sequence[Any] = await driver.fetch(statement, *values)
                    return rows
            except BaseException:
                await self._kept.close()
                raise

    async def insist(self, clock: Clock, statement: str, *values: object) -> None:
        """Run a statement that may be run twice, as soon as the database takes it."""
        while True:
            try:
                await self.fetch(statement, *values)
            except DatabaseUnavailable:
                await clock.sleep(_RETRY_SECONDS)
            else:
                return

    async def close(self) -> None:
        """Close the connection, without waiting for a database that does not answer."""
        async with self._turn:
            await self._kept.close()

    async def _listen(self, driver: Any) -> None:  # noqa: ANN401 - asyncpg's
        await driver.add_listener(self._channel, lambda *notification: self._heard(notification[-1]))
        self._heard("")


class Pulse:
    """An event that happens again and again, and that tasks wait for."""

    def __init__(self) -> None:
        self._next = anyio.Event()

    def beat(self) -> None:
        """It happens: all waiting tasks go on."""
        self._next.set()
        self._next = anyio.Event()

    async def wait(self, seconds: float) -> bool:
        """Wait until it happens; returns whether it did within this many seconds."""
        coming = self._next
        with anyio.move_on_after(seconds):
            await coming.wait()
        return coming.is_set()


class Bell:
    """Wakes one task. A ring while that task is at work is heard afterwards."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        """Wake it."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so many seconds."""
        with anyio.move_on_after(seconds):
            await self._rung.wait()
        self._rung = anyio.Event()


class Episode:
    """Logs once that something fails, and once that it works again.

    Args:
        event: names it in the log.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._failing = False

    def failed(self, error: Exception) -> None:
        """It failed, perhaps again.

        The text of an error of the watchdog's own may quote a session, and is not logged.
        """
        if not self._failing and isinstance(error, WatchdogError):
            logger().warning(f"{self._event}.failing", why=str(error))
        elif not self._failing:
            logger().error(f"{self._event}.failing", why=own_error(error))
        self._failing = True

    def worked(self) -> None:
        """It worked."""
        if self._failing:
            logger().info(f"{self._event}.working")
        self._failing = False


def own_error(error: Exception) -> str:
    """An error of the watchdog's own, for people: its type, and where it was raised."""
    frames = extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"an error of the watchdog's own: {type(error).__name__}{where}"
