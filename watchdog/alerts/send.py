"""Sends alerts through Apprise. Imported only if receivers are set; the extra `notify` brings Apprise.

Each receiver has a thread and a bounded queue of its own: one that hangs slows neither the loop nor the others, and
ends with the program.
"""

import logging
import threading
from collections.abc import Sequence
from functools import partial
from queue import Queue
from typing import Final

import anyio
import apprise

from watchdog.alerts.alert import Alert
from watchdog.console.logger import logger
from watchdog.errors import SettingsError
from watchdog.shown import stacked

MOST_WAITING: Final = 32
TALKATIVE: Final = ("apprise", "urllib3", "requests")
"""Loggers that log whole addresses, with the secrets in them."""


class Receiver:
    """One address, and its queue.

    Args:
        place: its place in the settings, such as `notify[1]`: never the address.
        service: sends; Apprise made it from the address.
        counts: counts what was sent, failed and was dropped.

    Attributes:
        name: its place and the service's name, for people.
        Whether it took the last alert; None before the first.
    """

    def __init__(self, place: str, service: apprise.NotifyBase, counts: "Counts") -> None:
        self.name = f"{place} ({service.service_name})"
        self._service = service
        self._counts = counts
        self._waiting: Queue[Alert | None] = Queue()
        self._told_drop = False
        self.took: bool | None = None
        self._thread = threading.Thread(target=self._work, name=f"alerts to {place}", daemon=True)
        self._thread.start()

    def offer(self, alert: Alert) -> None:
        """Queue an alert, or drop it: never waits."""
        if self._waiting.qsize() < MOST_WAITING:
            self._told_drop = False
            self._waiting.put_nowait(alert)
            return
        self._counts.add("dropped")
        if not self._told_drop:
            self._told_drop = True
            logger().warning("alert.dropped", receiver=self.name, why=f"{MOST_WAITING} alerts wait for it already")

    def finish(self, seconds: float) -> None:
        """Wait, in this thread, until everything was sent, but not for long."""
        self._waiting.put_nowait(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (alert := self._waiting.get()) is not None:
            problem = self._send(alert)
            self._counts.add("failed" if problem else "sent")
            if problem and self.took is not False:
                logger().warning(
                    "alert.failed", receiver=self.name, why=f"{problem}; further ones are tried, and counted"
                )
            self.took = not problem

    def _send(self, alert: Alert) -> str | None:
        """Send one, in this thread: Apprise's own pool would prevent the program's end. Returns what was wrong."""
        kind, text = apprise.NotifyType(alert.severity.value), apprise.NotifyFormat.TEXT
        try:
            took = self._service.notify(body=alert.body, title=alert.title, notify_type=kind, body_format=text)
        except Exception as error:  # noqa: BLE001 - one service's code must not end the thread; it is counted and told
            return f"an error in Apprise: {type(error).__name__}"
        return None if took else "it did not take an alert"


class Counts:
    """How many alerts were sent, failed and were dropped; several threads count."""

    def __init__(self) -> None:
        self._counts = {"sent": 0, "failed": 0, "dropped": 0}
        self._guard = threading.Lock()

    def add(self, result: str) -> None:
        """Count one."""
        with self._guard:
            self._counts[result] += 1

    def read(self) -> dict[str, int]:
        """The counts so far."""
        with self._guard:
            return dict(self._counts)


class Notifier:
    """Every receiver.

    Args:
        addresses: Apprise URLs.
        source: where they were set, for errors.

    Raises:
        SettingsError: Apprise does not know one of them. The text names its place and does not show it.
    """

    def __init__(self, addresses: Sequence[str], *, source: str) -> None:
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        asset = apprise.AppriseAsset(app_id="opencode-watchdog", app_desc="opencode-watchdog", async_mode=False)
        services = [apprise.Apprise.instantiate(address, asset=asset) for address in addresses]
        wrong = [
            f"{source}: notify[{number}] can't be used: Apprise knows no such service, or a part is missing."
            for number, service in enumerate(services)
            if service is None
        ]
        if wrong:
            raise SettingsError(stacked(*wrong))
        self.counts = Counts()
        self.receivers = [
            Receiver(f"notify[{number}]", service, self.counts)
            for number, service in enumerate(services)
            if service is not None
        ]

    def tell(self, alert: Alert) -> None:
        """Queue an alert for every receiver."""
        for receiver in self.receivers:
            receiver.offer(alert)

    async def finish(self, seconds: float) -> None:
        """Give the queued alerts a moment."""
        async with anyio.create_task_group() as group:
            for receiver in self.receivers:
                group.start_soon(anyio.to_thread.run_sync, partial(receiver.finish, seconds))
