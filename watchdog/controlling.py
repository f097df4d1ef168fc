"""Puts the HTTP API together, where it is switched on; nothing of it is imported otherwise."""

import os
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Final

import anyio
import structlog

from watchdog.addresses import Address, parse_address
from watchdog.control.offer import Control
from watchdog.control.token import token_at, token_path, write_privately
from watchdog.errors import SettingsError, UsageError
from watchdog.exits import Exit
from watchdog.places import home
from watchdog.render import Screen, note
from watchdog.settings import Loaded, Settings
from watchdog.sidecar import Sidecar

_REACH_SECONDS: Final = 1.0


@asynccontextmanager
async def controlling(
    loaded: Loaded,
    car: Sidecar,
    *,
    stop: anyio.Event,
    dry_run: bool,
    alerts: Callable[[], Mapping[str, int]] | None,
) -> AsyncIterator[Control]:
    """Offer the HTTP API while the block runs, if the settings say so.

    Args:
        loaded: the settings.
        car: what the watchdog works with.
        stop: set when the program is to end.
        dry_run: nothing is done, only said.
        alerts: how many alerts were sent, failed and dropped so far; None without receivers.

    Raises:
        SettingsError: the address is not allowed or taken, or there is no token to be had.
    """
    settings = loaded.settings
    if settings.control is None:
        yield Control()
        return
    from watchdog.control.wiring import offered

    async with offered(
        settings,
        car,
        address=allowed(loaded),
        token=secret(settings),
        stop=stop,
        dry_run=dry_run,
        alerts=alerts,
    ) as control:
        _remember(settings)
        yield control


def _remember(settings: Settings) -> None:
    """Note where the last API of this user listens, for `page`; it can do without."""
    try:
        path = _noted_at()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_privately(path, f"{settings.control}\n")
    except (OSError, SettingsError) as error:
        structlog.get_logger("watchdog").warning("control.unnoted", why=str(error))


def _noted_at() -> Path:
    return token_path(os.environ, home()).with_name("control-address")


def _noted() -> Address | None:
    """Where the last API of this user was started."""
    try:
        return parse_address(_noted_at().read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def allowed(loaded: Loaded) -> Address:
    """The address of the settings, if it may be one.

    Raises:
        SettingsError: it is reached by other machines, and that was not allowed; or there is none.
    """
    address = loaded.settings.control
    if address is None:
        raise SettingsError(
            "No HTTP API is known: none was started here, and no setting says where it is. Start "
            "`opencode-watchdog run --control 127.0.0.1:4097`, or name its address with --control."
        )
    if not address.is_loopback and not loaded.settings.control_allow_remote:
        raise SettingsError(
            f"{loaded.sources['control']}: other machines could reach {address}. Use a loopback address such as "
            "127.0.0.1:4097; or set control_allow_remote = true, and put a proxy with TLS before it."
        )
    return address


def secret(settings: Settings) -> str:
    """The token of the settings, or the one that is kept in the state folder; the first who asks makes it.

    Raises:
        SettingsError: there is none to be had.
    """
    if settings.control_token is not None:
        return settings.control_token.get_secret_value()
    return token_at(token_path(os.environ, home()))


async def page(loaded: Loaded, screen: Screen, *, browse: bool) -> Exit:
    """Print the link of the page, with the token, and open it in a browser if there is one.

    Without an address in the settings it is that of the API that was started last.

    Raises:
        SettingsError: no address is known, or there is no token to be had.
        UsageError: the browser can't be shown the way to it.
    """
    noted = _noted() if loaded.settings.control is None else None
    address = noted or allowed(loaded)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - listened at, not opened
    link = f"http://{Address(host=host, port=address.port)}/#token={secret(loaded.settings)}"
    screen.verbatim(link)
    if not await _is_reached(host, address.port):
        note(f"warning: nothing listens at {address}; start `opencode-watchdog run --control {address}`.")
    elif browse and not await anyio.to_thread.run_sync(webbrowser.open, _opening(link)):
        note("There is no browser here that could be opened: open the link in one.")
    return Exit.FINE


def _opening(link: str) -> str:
    """A file that leads to the link, as a URL: a link among a browser's arguments could be seen by other users."""
    path = token_path(os.environ, home()).with_name("page.html")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_privately(
            path, f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={escape(link)}">\n'
        )
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{path} can't be written ({reason}); open the link that stands above.") from error
    return path.as_uri()


async def _is_reached(host: str, port: int) -> bool:
    with anyio.move_on_after(_REACH_SECONDS):
        try:
            stream = await anyio.connect_tcp(host, port)
        except OSError:
            return False
        await stream.aclose()
        return True
    return False
