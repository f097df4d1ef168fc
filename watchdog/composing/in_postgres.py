"""The way into the modules that need PostgreSQL's driver, for a database there."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.errors import DatabaseUnsupported
from watchdog.settings.schema import Settings

if TYPE_CHECKING:
    from watchdog.composing.replica import Replica


def replica(
    settings: Settings,
    engine: AsyncEngine | None,
    **situation: Any,  # noqa: ANN401 - as there
) -> "AbstractAsyncContextManager[Replica]":
    """See `replica.replica` and `Situation`. That module is imported only for a database in PostgreSQL.

    Raises:
        DatabaseUnsupported: the driver is not installed.
    """
    with with_driver():
        from watchdog.composing import replica as opened

    return opened.replica(settings, engine, opened.Situation(**situation))


@contextmanager
def with_driver() -> Iterator[None]:
    """Import a module that needs PostgreSQL's driver.

    Raises:
        DatabaseUnsupported: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise DatabaseUnsupported(
            "A database in PostgreSQL needs the extra `postgres`, which is not installed: "
            'pip install "opencode-watchdog[postgres]".'
        ) from error
