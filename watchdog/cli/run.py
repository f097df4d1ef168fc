"""`run`: the watchdog as a service, from its start to the signal that ends it."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.abc import TaskStatus

from watchdog.alerts.setup import alerting
from watchdog.cli.serve import controlling
from watchdog.cli.waiting import await_database
from watchdog.composing.sidecar import sidecar
from watchdog.console.exits import Exit
from watchdog.console.logger import logger
from watchdog.errors import ShutdownTimedOut
from watchdog.loop.garbage import collect_seldom
from watchdog.loop.systemd import supervised
from watchdog.loop.watch import Assessment
from watchdog.model.outcome import Outcome
from watchdog.model.verdict import Verdict
from watchdog.reporting.log import LogListener
from watchdog.settings.schema import Loaded
from watchdog.timing.clock import SystemClock

_CUT_SECONDS = 0.5
"""How much later than the loop's own grace everything is cut off."""


async def run(loaded: Loaded, *, dry_run: bool, wait: bool) -> Exit:
    """Watch until SIGTERM or SIGINT; a second signal kills. On request, wait for the database first."""
    log = logger()
    stop, clock = anyio.Event(), SystemClock()
    poll_seconds = loaded.settings.poll_interval.total_seconds()
    async with anyio.create_task_group() as group:
        # Before anything is opened: a signal then ends it properly at any moment.
        await group.start(_stop_on_signal, stop, name="wait for a signal")
        if wait and not await await_database(loaded, stop):
            group.cancel_scope.cancel()
            return Exit.FINE
        async with (
            sidecar(loaded, feeds=True) as car,
            alerting(
                loaded, database=car.path, titles=car.store.titles, processes=car.processes, clock=clock
            ) as alerts,
            supervised(
                os.environ, stop=stop, clock=clock, poll_interval_seconds=poll_seconds, dry_run=dry_run
            ) as supervisors,
            controlling(loaded, car, stop=stop, dry_run=dry_run, alerts=alerts.counts) as control,
        ):
            listener = _LogOfRun(car.mandate.beat)
            watch = car.watch(
                listeners=[listener, *supervisors, *alerts.listeners, *control.listeners], dry_run=dry_run
            )
            log.info(
                "watch.started",
                database=str(car.path),
                servers=[server.name for server in car.fleet.servers()],
                dry_run=dry_run,
                poll_seconds=poll_seconds,
            )
            for warning in loaded.warnings:
                log.warning("settings.warning", why=warning)
            control.begin(watch)
            collect_seldom()
            with anyio.CancelScope() as scope:
                group.start_soon(_cut, scope, stop, listener, loaded.settings.shutdown_grace.total_seconds())
                await watch.run(stop)
        log.info("watch.stopped")
        group.cancel_scope.cancel()
    return Exit.FINE


class _LogOfRun(LogListener):
    """The log, which also knows how many interventions are under way, and beats at every look.

    Args:
        beat: shows health checks that the loop is alive.
    """

    def __init__(self, beat: Callable[[int], None]) -> None:
        super().__init__()
        self._beat = beat
        self.under_way = 0
        self.at_rest = anyio.Event()
        self.at_rest.set()

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """A look was taken. A watchdog that only observes beside another one leaves the beat to that one."""
        super().looked(assessment, acting=acting)
        if acting:
            with suppress(OSError):  # a full disk: the health check reports it, and the loop must not die of it
                self._beat(assessment.observation.at_ms)

    def found(self, verdict: Verdict) -> None:
        """An intervention begins."""
        super().found(verdict)
        self.under_way += 1
        if self.at_rest.is_set():
            self.at_rest = anyio.Event()

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """An intervention ended."""
        super().ended(verdict, outcome, given_up=given_up)
        self.under_way -= 1
        if not self.under_way:
            self.at_rest.set()


async def _cut(scope: anyio.CancelScope, stop: anyio.Event, listener: _LogOfRun, grace_seconds: float) -> None:
    """Cut a look short once the watch has to stop: it may wait long for a silent server, and nobody needs it now.

    Interventions get the grace.

    Raises:
        ShutdownTimedOut: an intervention is still under way after it.
    """
    await stop.wait()
    with anyio.move_on_after(grace_seconds + _CUT_SECONDS):
        await listener.at_rest.wait()
    if listener.under_way:
        raise ShutdownTimedOut(f"{listener.under_way} interventions were still under way after {grace_seconds:g} s")
    scope.cancel()


async def _stop_on_signal(stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    """Set `stop` at the first signal; then restore the handlers, so a second one kills."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for received in signals:
            logger().info("watch.stopping", signal=received.name)
            break
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stop.set()
