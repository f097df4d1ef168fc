"""Answers health checks while there is no database yet, in place of the HTTP API."""

import anyio
from starlette.types import Receive, Scope, Send

from watchdog.control.access.connections import Connections
from watchdog.control.health import Health, told
from watchdog.control.server import listen_at, serve
from watchdog.settings.addresses import Address


async def answer(address: Address, over: anyio.Event) -> None:
    """Say that the program is alive, and not ready, until the wait is over.

    Raises:
        SettingsError: the address is taken, or is none of this machine's.
    """
    await serve(_says, address, listen_at(address), over, connections=Connections())


async def _says(scope: Scope, receive: Receive, send: Send) -> None:
    alive = scope["path"] == "/healthz"
    health = Health() if alive else Health(reasons=("There is no database yet.",))
    await told(health)(scope, receive, send)
