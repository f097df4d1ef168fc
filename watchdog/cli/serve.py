"""Puts the HTTP API together if it is switched on; otherwise nothing of it is imported."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType

import anyio
import structlog

from watchdog.composing.own_socket import OwnSocket, listen
from watchdog.composing.sidecar import Sidecar
from watchdog.control.access.token import KeptToken, token_at, token_path, write_privately
from watchdog.control.offer import Control
from watchdog.errors import SettingsError
from watchdog.loop.last_look import Latest
from watchdog.loop.watch import Watch
from watchdog.settings.addresses import Address, parse_address
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded, Settings
from watchdog.timing.clock import SystemClock


@asynccontextmanager
async def controlling(
    loaded: Loaded,
    car: Sidecar,
    *,
    stop: anyio.Event,
    dry_run: bool,
    alerts: Callable[[], Mapping[str, int]] | None,
) -> AsyncIterator[Control]:
    """Answer this user's own programs while the block runs; and offer the HTTP API, if the settings say so.

    Args:
        loaded: the settings.
        car: the watchdog's backend.
        stop: set when the program has to end.
        dry_run: nothing is done, only reported.
        alerts: how many alerts were sent, failed and dropped so far; None without receivers.

    Raises:
        SettingsError: the address is not allowed or taken, or there is no token.
    """
    settings = loaded.settings
    with ExitStack() as stack:
        own = _own_socket(car.path)
        if own is not None:
            stack.callback(own.close)
        if settings.control is None:
            async with _when_asked(settings, car, own, stop=stop, dry_run=dry_run, alerts=alerts) as control:
                yield control
            return
        from watchdog.control.wiring import offered

        _check_reader(settings)
        async with offered(
            settings,
            car,
            address=allowed(loaded),
            token=_token(settings),
            stop=stop,
            dry_run=dry_run,
            alerts=alerts,
            own=own,
        ) as control:
            _remember(settings)
            try:
                yield control
            finally:
                _forget(settings)


def _check_reader(settings: Settings) -> None:
    reader = settings.control_read_token
    if reader is not None and reader.get_secret_value() == secret(settings):
        raise SettingsError(
            "control_read_token is the token that may change things. Choose another one: openssl rand -hex 32."
        )


def _own_socket(database: Path) -> OwnSocket | None:
    """The socket for this user's own programs. It also works without: they look by themselves then."""
    try:
        return listen(database, os.environ, home())
    except (OSError, SettingsError) as error:
        structlog.get_logger("watchdog").info("socket.off", why=str(error))
        return None


@asynccontextmanager
async def _when_asked(
    settings: Settings,
    car: Sidecar,
    own: OwnSocket | None,
    *,
    stop: anyio.Event,
    dry_run: bool,
    alerts: Callable[[], Mapping[str, int]] | None,
) -> AsyncIterator[Control]:
    """Answer this user's own programs. What answers is imported when one asks for the first time."""
    if own is None:
        yield Control()
        return
    latest = Latest(clock=SystemClock(), poll_interval_seconds=settings.poll_interval.total_seconds())
    asked, over, answered = anyio.Event(), anyio.Event(), anyio.Event()

    async def answer(watch: Watch) -> None:
        await anyio.wait_readable(own.listener)
        asked.set()
        try:
            wiring = await anyio.to_thread.run_sync(_wiring)
            await wiring.answer_owner(
                settings, car, watch, own, latest=latest, stop=stop, over=over, dry_run=dry_run, alerts=alerts
            )
        except Exception:  # noqa: BLE001 - whatever it is: the loop goes on, and commands look by themselves
            structlog.get_logger("watchdog").exception("socket.failed")
            own.close()
        answered.set()

    async with anyio.create_task_group() as group:

        def begin(watch: Watch) -> None:
            group.start_soon(answer, watch, name="answer this user's programs")

        yield Control(listeners=(latest,), begin=begin)
        over.set()
        if asked.is_set():
            await answered.wait()
        group.cancel_scope.cancel()


def _wiring() -> ModuleType:
    from watchdog.control import wiring

    return wiring


async def answer_health(loaded: Loaded, over: anyio.Event) -> None:
    """Answer health checks, if the settings say so, until there is a database.

    Raises:
        SettingsError: the address is not allowed or taken.
    """
    if loaded.settings.control is not None:
        from watchdog.control.waiting import answer

        await answer(allowed(loaded), over)


def _remember(settings: Settings) -> None:
    """Note where the last API of this user listens, for `page`; it also works without."""
    try:
        write_privately(_noted_at(), f"{settings.control}\n")
    except (OSError, SettingsError) as error:
        structlog.get_logger("watchdog").warning("control.unnoted", why=str(error))


def _forget(settings: Settings) -> None:
    """Remove the note, unless it is about another API that was started since."""
    try:
        path = _noted_at()
        if path.read_text(encoding="ascii") == f"{settings.control}\n":
            path.unlink()
    except FileNotFoundError:
        return
    except (OSError, ValueError, SettingsError) as error:
        structlog.get_logger("watchdog").warning("control.still_noted", why=str(error))


def _noted_at() -> Path:
    return kept_at().with_name("control-address")


def noted() -> Address | None:
    """The address at which the last API of this user was started."""
    try:
        return parse_address(_noted_at().read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def allowed(loaded: Loaded) -> Address:
    """The address of the settings, if it is allowed.

    Raises:
        SettingsError: other machines reach it, and that was not allowed; or there is none.
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
            "127.0.0.1:4097; or set control_allow_remote = true, and put a proxy with TLS in front of it."
        )
    return address


def secret(settings: Settings) -> str:
    """The token of the settings, or the one in the state folder; the first caller makes that one.

    Raises:
        SettingsError: there is none.
    """
    if settings.control_token is not None:
        return settings.control_token.get_secret_value()
    return token_at(kept_at())


def kept_at() -> Path:
    """Where the token is kept, if it is no setting."""
    return token_path(os.environ, home())


def _token(settings: Settings) -> Callable[[], str | None]:
    """The token now."""
    if settings.control_token is None:
        return KeptToken(kept_at())
    return settings.control_token.get_secret_value
