"""Reports to systemd: started, alive, stopping, and one line of status. Without its socket it reports nothing.

The protocol is that of sd_notify(3) and sd_watchdog_enabled(3): lines of `NAME=value` in one datagram.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from typing import Final

import anyio

from watchdog.console.logger import logger
from watchdog.errors import JournalUnusable, WatchdogError
from watchdog.ports import Clock
from watchdog.timing.events import Assessment, Bystander, Listener
from watchdog.timing.pace import silent_seconds

_MICROSECONDS: Final = 1_000_000


class Supervisor(Bystander):
    """A listener that tells the program's supervisor what the loop does, and that it lives.

    The loop lives while it ticks: it looked, or could not and said when it will try again. Without that the program
    is restarted.

    Args:
        tell: sends some lines; must not raise.
        clock: times the ticks.
        poll_interval_seconds: how often the loop looks.
        dry_run: nothing is done, only reported.
    """

    def __init__(
        self, tell: Callable[[str], None], *, clock: Clock, poll_interval_seconds: float, dry_run: bool = False
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._dry_run = dry_run
        self._silent_seconds = silent_seconds(poll_interval_seconds)
        self._lives_until = 0.0
        self._ready = False
        self._status = ""

    async def keep_alive(self, every_seconds: float) -> None:
        """Say again and again that the program is alive, but only while the loop ticks.

        Args:
            every_seconds: how often; half of the time after which silence counts as death.
        """
        while True:
            await self._clock.sleep(every_seconds)
            if self._clock.read().awake_seconds <= self._lives_until:
                self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the program ends."""
        self._tell("STOPPING=1\nSTATUS=stopping")

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """Report the state after a look."""
        judgement = assessment.judgement
        stuck = {verdict.session_id for verdict in judgement.verdicts}
        unfinished = stuck | {spared.session_id for spared in judgement.spared}
        who = "dry run" if self._dry_run else "watching" if acting else "another watchdog acts; this one looks"
        self._ticked(f"{who}: {len(unfinished)} unfinished sessions, {len(stuck)} stuck", 0.0)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """Say what can't be used. A restart of the program would not help."""
        what = "journal" if isinstance(error, JournalUnusable) else "database"
        self._ticked(f"the {what} can't be used; trying again", retry_seconds)

    def _ticked(self, status: str, pause_seconds: float) -> None:
        self._lives_until = self._clock.read().awake_seconds + self._silent_seconds + pause_seconds
        lines = [] if self._ready else ["READY=1"]
        lines += [] if status == self._status else [f"STATUS={status}"]
        self._ready, self._status = True, status
        if lines:
            self._tell("\n".join(lines))


@asynccontextmanager
async def supervised(
    environ: Mapping[str, str],
    *,
    stop: anyio.Event,
    clock: Clock,
    poll_interval_seconds: float,
    dry_run: bool = False,
) -> AsyncIterator[tuple[Listener, ...]]:
    """Report to systemd while the block runs, if it gave a socket.

    Args:
        environ: where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are looked up.
        stop: set when the program is to end.
        clock: times the ticks.
        poll_interval_seconds: how often the loop looks.
        dry_run: nothing is done, only reported.
    """
    address = socket_address(environ)
    if address is None:
        yield ()
        return
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as channel:
        channel.settimeout(0)  # a message that can't be sent at once is not sent
        supervisor = Supervisor(
            _Teller(channel, address), clock=clock, poll_interval_seconds=poll_interval_seconds, dry_run=dry_run
        )
        async with anyio.create_task_group() as group:
            group.start_soon(_tell_stop, supervisor, stop, name="tell systemd of the stop")
            silence = watchdog_seconds(environ, os.getpid())
            if silence is not None:
                group.start_soon(supervisor.keep_alive, silence / 2, name="tell systemd of the ticks")
            yield (supervisor,)
            group.cancel_scope.cancel()


def socket_address(environ: Mapping[str, str]) -> str | None:
    """The address of systemd's socket, or None. One that begins with `@` is abstract."""
    named = environ.get("NOTIFY_SOCKET", "")
    if named[:1] == "@":
        return "\0" + named[1:]
    return named if named[:1] == "/" else None


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """After how much silence this process counts as dead; None if nobody waits for its messages."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    seconds = int(microseconds) / _MICROSECONDS if microseconds.isascii() and microseconds.isdigit() else 0.0
    return seconds or None


async def _tell_stop(supervisor: Supervisor, stop: anyio.Event) -> None:
    await stop.wait()
    supervisor.stopping()


class _Teller:
    """Sends datagrams. If nobody is there, that is logged once: the watchdog still does its work."""

    def __init__(self, channel: socket.socket, address: str) -> None:
        self._channel, self._address = channel, address
        self._heard = True

    def __call__(self, lines: str) -> None:
        try:
            self._channel.sendto(lines.encode(), self._address)
        except OSError as error:
            if self._heard:
                reason = (error.strerror or type(error).__name__).lower()
                logger().warning("supervisor.unreachable", why=f"NOTIFY_SOCKET: {reason}")
            self._heard = False
        else:
            self._heard = True
