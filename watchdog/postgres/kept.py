"""One lasting connection: made when it is needed, thrown away without a wait if it does not answer."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_HANG_UP_SECONDS: Final = 1.0


class Kept:
    """The driver's own connection: throwing one of SQLAlchemy's away would need a wait.

    Args:
        engine: what it comes from.
        prepare: gets each new connection before anybody else.
    """

    def __init__(self, engine: AsyncEngine, prepare: Callable[[Any], Awaitable[None]] | None = None) -> None:
        self._engine = engine
        self._prepare = prepare
        self._connection: AsyncConnection | None = None
        self._driver: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is one, as far as is known."""
        return self._driver is not None and not self._driver.is_closed()

    async def driver(self) -> Any:  # noqa: ANN401 - asyncpg's
        """The connection; a new one if the last one is closed."""
        if not self.is_open:
            await self.close()
            try:
                await self._connect()
            except BaseException:
                await self.close()
                raise
        return self._driver

    async def close(self) -> None:
        """Close it at once, also in a cancelled task: it waits for nobody's answer."""
        connection, self._connection = self._connection, None
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.terminate()
        if connection is not None:
            with anyio.move_on_after(_HANG_UP_SECONDS, shield=True):
                await connection.invalidate()
                await connection.close()

    async def _connect(self) -> None:
        self._connection = await self._engine.connect()
        self._driver = (await self._connection.get_raw_connection()).driver_connection
        if self._prepare is not None:
            await self._prepare(self._driver)
