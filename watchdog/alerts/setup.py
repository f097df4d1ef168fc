"""Puts the alerts together if receivers are set; otherwise Apprise is not imported."""

import platform
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from watchdog.alerts.alert import Alert, Severity
from watchdog.alerts.desk import Desk, Titles
from watchdog.alerts.left_over import watch_left_overs
from watchdog.alerts.rules import Alerts
from watchdog.console import formats as logs
from watchdog.console.exits import Exit
from watchdog.errors import SettingsError, UsageError
from watchdog.ports import Clock, Processes
from watchdog.reporting.documents import VERSION
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen
from watchdog.settings.receivers import Occasion
from watchdog.settings.schema import Loaded
from watchdog.timing.events import Listener

if TYPE_CHECKING:
    from watchdog.alerts.send import Notifier

LAST_WORDS_SECONDS: Final = 3.0
"""How long the end of the program may wait for queued alerts."""
_SENDING_SECONDS: Final = 30.0


def open_notifier(loaded: Loaded) -> "Notifier":
    """The receivers of the settings.

    Raises:
        SettingsError: one of them is no receiver, or Apprise is not installed.
    """
    source = loaded.sources["notify"]
    try:
        from watchdog.alerts.send import Notifier
    except ModuleNotFoundError as error:
        if error.name != "apprise":
            raise
        raise SettingsError(
            f"{source}: notify needs Apprise, which is not installed: pip install 'opencode-watchdog[notify]' "
            "(from the project's folder: pip install '.[notify]')."
        ) from error
    return Notifier([each.get_secret_value() for each in loaded.settings.notify], source=source)


def problem_with_receivers(loaded: Loaded) -> str | None:
    """Why the receivers of the settings can't be used; None if they can, or if there are none."""
    try:
        if loaded.settings.notify:
            open_notifier(loaded)
    except SettingsError as error:
        return str(error)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Alerting:
    """Alerts according to the settings.

    Attributes:
        listeners: those that hear what the loop does; none without receivers.
        counts: how many alerts were sent, failed and dropped so far; None without receivers.
    """

    listeners: tuple[Listener, ...] = ()
    counts: Callable[[], Mapping[str, int]] | None = None


@asynccontextmanager
async def alerting(
    loaded: Loaded, *, database: Path, titles: Titles, processes: Processes | None, clock: Clock
) -> AsyncIterator[Alerting]:
    """Alert the receivers of the settings while the block runs; at its end, messages that wait get a moment.

    Raises:
        SettingsError: they can't be used.
    """
    settings = loaded.settings
    if not settings.notify:
        yield Alerting()
        return
    notifier = open_notifier(loaded)
    desk = Desk(
        notifier.tell,
        titles=titles,
        clock=clock,
        quiet=settings.notify_quiet,
        origin=_origin(),
        database=str(database),
    )
    alerts = Alerts(
        desk.take,
        clock=clock,
        occasions=settings.notify_on,
        degraded_after_seconds=settings.notify_degraded_after.total_seconds(),
        waiting_after_seconds=settings.notify_waiting_after.total_seconds(),
    )
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(desk.run, name="pass alerts on")
            if processes is not None and Occasion.LEFTOVERS in settings.notify_on:
                every = settings.full_scan_interval.total_seconds()
                look = partial(watch_left_overs, processes, alerts.left_over, clock=clock, every_seconds=every)
                group.start_soon(look, name="look for left-over commands")
            yield Alerting(listeners=(alerts,), counts=notifier.counts.read)
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(LAST_WORDS_SECONDS):
                await desk.flush()  # in quiet hours, too: afterwards nobody would
            await notifier.finish(LAST_WORDS_SECONDS)


async def check_notify(loaded: Loaded, screen: Screen) -> Exit:
    """Send a message to each receiver, and say which took it.

    Raises:
        SettingsError: they can't be used.
        UsageError: there are none.
    """
    if not loaded.settings.notify:
        raise UsageError("no receiver is set: name one with the setting notify, such as json://localhost:8080/alerts")
    logs.configure(level="error", log_format=loaded.settings.log_format.value)  # the answer below says who took it
    notifier = open_notifier(loaded)
    alert = Alert(title=f"{_origin()}: a test", body="Alerts arrive here.", severity=Severity.INFO)
    notifier.tell(alert)
    async with busy("waiting for the receivers"):
        await notifier.finish(_SENDING_SECONDS)
    return _tell(screen, {receiver.name: receiver.took is True for receiver in notifier.receivers})


def _tell(screen: Screen, taken: dict[str, bool]) -> Exit:
    fine = all(taken.values())
    if screen.as_json:
        screen.document(
            {"version": VERSION, "receivers": [{"name": name, "taken": took} for name, took in taken.items()]}
        )
    else:
        rows = [(name, ("took it", "green") if took else ("did not take it", "red")) for name, took in taken.items()]
        screen.rows("receivers", ("receiver", ""), rows)
    return Exit.FINE if fine else Exit.UNUSABLE


def _origin() -> str:
    return f"opencode-watchdog on {platform.node() or 'an unnamed machine'}"
