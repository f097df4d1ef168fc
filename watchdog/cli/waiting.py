"""Waits for a database that is not there yet: a sidecar starts before the server that makes it."""

from typing import Final

import anyio

from watchdog.cli.serve import answer_health
from watchdog.composing.files import locate_file
from watchdog.console.logger import logger
from watchdog.errors import DatabaseMissing
from watchdog.settings.schema import Loaded

_AGAIN_SECONDS: Final = 1.0


async def await_database(loaded: Loaded, stop: anyio.Event) -> bool:
    """Wait until there is one. Health checks are answered in the meantime, if the HTTP API is on.

    Returns:
        Whether there is one; False if it was stopped before.

    Raises:
        DatabaseError: there can't be one.
        SettingsError: several could be meant; or the address of the HTTP API can't be used.
    """
    if _is_there(loaded):
        return True
    logger().info("watch.waiting", why="There is no database yet.")
    over = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(answer_health, loaded, over, name="answer health checks")
        while not _is_there(loaded) and not stop.is_set():
            with anyio.move_on_after(_AGAIN_SECONDS):
                await stop.wait()
        over.set()
    return not stop.is_set()


def _is_there(loaded: Loaded) -> bool:
    """Whether it exists. One that can't be looked at counts as existing: opening it will say why."""
    try:
        return locate_file(loaded).stat().st_size > 0
    except (DatabaseMissing, FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
