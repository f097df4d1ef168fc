"""Puts the HTTP API together, and serves it while the loop runs."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from starlette.types import ASGIApp

from watchdog.composing.own_socket import OwnSocket
from watchdog.composing.sidecar import Sidecar
from watchdog.control.access.connections import Connections
from watchdog.control.access.gate import Bounds, Gate, Names, OwnersGate
from watchdog.control.access.keys import Keys
from watchdog.control.app import OPEN_PATHS, make_app
from watchdog.control.events import Events
from watchdog.control.health import Doctor
from watchdog.control.offer import Control
from watchdog.control.routes import Services
from watchdog.control.server import listen_at, serve, serve_at
from watchdog.journal.sqlite import SqliteJournal
from watchdog.loop.last_look import Latest
from watchdog.loop.watch import Watch
from watchdog.operating.operations import Operations
from watchdog.operating.operator import Operator
from watchdog.reporting.metrics import Metrics
from watchdog.settings.addresses import Address
from watchdog.settings.schema import Settings
from watchdog.timing.clock import SystemClock

_LAST_ANSWERS_SECONDS: Final = 3.0
"""How long what was asked for may take once the loop is over."""
_OF_ONE_COMMAND: Final = Bounds(rate=10, burst=50, patience_seconds=45)
"""How much one process may ask at the socket. While it waits there, a stop of the watchdog does not cut it off."""


class _Parts:
    """The parts that hear the loop before it runs, and answer for it afterwards."""

    def __init__(
        self,
        settings: Settings,
        car: Sidecar,
        *,
        dry_run: bool,
        alerts: Callable[[], Mapping[str, int]] | None,
        latest: Latest | None = None,
    ) -> None:
        self.car = car
        self.clock = SystemClock()
        self.program = version("opencode-watchdog")
        self.configured = [server.name for server in car.fleet.servers()]
        self.latest = latest or Latest(clock=self.clock, poll_interval_seconds=settings.poll_interval.total_seconds())
        self._operator: Operator | None = None
        self.events = Events(dry_run=dry_run)
        self.metrics = Metrics(
            version=self.program,
            servers=self.configured,
            clock=self.clock,
            reads=lambda: car.store.reads,
            alerts=alerts,
            dry_run=dry_run,
        )

    def operator(self, watch: Watch, group: TaskGroup) -> Operator:
        """The one who carries out all requests, wherever they come in; they run in tasks of the group."""
        car = self.car
        self._operator = self._operator or Operator(
            database=str(car.path),
            watch=watch,
            latest=self.latest,
            store=car.store,
            fleet=car.fleet,
            owners=car.owners,
            mandate=car.mandate,
            journal=car.journal,
            operations=Operations(group, self.clock),
        )
        return self._operator

    async def end_work(self) -> None:
        """Wait a while for the end of what was asked for."""
        if self._operator is not None:
            with anyio.move_on_after(_LAST_ANSWERS_SECONDS):
                await self._operator.operations.over()

    def app(self, watch: Watch, group: TaskGroup, gate: Gate, connections: Connections) -> ASGIApp:
        """The application on a loop, behind a gate."""
        car = self.car
        services = Services(
            operator=self.operator(watch, group),
            events=self.events,
            journal=str(car.journal.path) if isinstance(car.journal, SqliteJournal) else None,
            metrics=self.metrics.render,
            admits=gate.admits,
            program=self.program,
            patience_seconds=gate.bounds.patience_seconds,
        )
        doctor = Doctor(self.latest, configured=self.configured, servers=car.fleet.servers)
        return make_app(services, doctor, gate, self.clock, connections)


@asynccontextmanager
async def offered(
    settings: Settings,
    car: Sidecar,
    *,
    address: Address,
    token: Callable[[], str | None],
    stop: anyio.Event,
    dry_run: bool,
    alerts: Callable[[], Mapping[str, int]] | None,
    own: OwnSocket | None = None,
    bounds: Bounds | None = None,
) -> AsyncIterator[Control]:
    """Offer the HTTP API while the block runs.

    Args:
        address: where to listen.
        own: the socket for this user's own programs, if there is one.
        token: the token now.
        stop: set when the program is to end.
        dry_run: nothing is done, only reported.
        alerts: how many alerts were sent, failed and dropped so far; None without receivers.
        bounds: how much a client may ask.

    Raises:
        SettingsError: the address is taken, or is none of this machine's.
    """
    parts = _Parts(settings, car, dry_run=dry_run, alerts=alerts)
    gate = _gate(Keys(token), settings, address, bounds or Bounds())
    with listen_at(address) as listener:
        async with _until_answered(parts) as tasks:

            def begin(watch: Watch) -> None:
                connections = Connections()
                app = parts.app(watch, tasks.work, gate, connections)
                served = partial(serve, app, address, listener, tasks.end, connections=connections)
                tasks.serving.start_soon(served, name="serve the HTTP API")
                if own is not None:
                    _serve_owner(parts, watch, own, tasks)
                tasks.work.start_soon(_end_events, parts, stop, name="end the events of the HTTP API")
                structlog.get_logger("watchdog").info("control.listening", url=f"http://{address}/")

            yield Control(listeners=(parts.latest, parts.events, parts.metrics), begin=begin)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tasks:
    """The tasks that serve, those that do what was asked for, and what ends the serving."""

    serving: TaskGroup
    work: TaskGroup
    end: anyio.Event


@asynccontextmanager
async def _until_answered(parts: _Parts) -> AsyncIterator[_Tasks]:
    """Serve while the block runs, and until everybody who asked for something has the answer."""
    end = anyio.Event()
    async with anyio.create_task_group() as serving:
        async with anyio.create_task_group() as work:
            yield _Tasks(serving=serving, work=work, end=end)
            await parts.end_work()
            work.cancel_scope.cancel()  # whoever still waits is told that it stopped
        end.set()


def _serve_owner(parts: _Parts, watch: Watch, own: OwnSocket, tasks: _Tasks) -> None:
    connections = Connections()
    gate = OwnersGate(keys=Keys(lambda: None), names=Names(), bounds=_OF_ONE_COMMAND, open_paths=())
    app = parts.app(watch, tasks.work, gate, connections)
    served = partial(serve_at, app, own.path, own.listener, tasks.end, connections=connections)
    tasks.serving.start_soon(served, name="serve this user's programs")


async def _end_events(parts: _Parts, stop: anyio.Event) -> None:
    await stop.wait()
    parts.events.end()


async def answer_owner(
    settings: Settings,
    car: Sidecar,
    watch: Watch,
    own: OwnSocket,
    *,
    latest: Latest,
    stop: anyio.Event,
    over: anyio.Event,
    dry_run: bool,
    alerts: Callable[[], Mapping[str, int]] | None,
) -> None:
    """Answer this user's own programs until the loop is over, with the same API and without an address.

    Args:
        latest: has the last look.
        stop: set when the program is to end.
        over: set when the loop has ended.
    """
    parts = _Parts(settings, car, dry_run=dry_run, alerts=alerts, latest=latest)
    watch.listeners.add(parts.events, parts.metrics)
    async with _until_answered(parts) as tasks:
        _serve_owner(parts, watch, own, tasks)
        await _end_events(parts, stop)
        await over.wait()


def _gate(keys: Keys, settings: Settings, address: Address, bounds: Bounds) -> Gate:
    names = Names(
        hosts=(address.host, *settings.control_hosts),
        any_address=settings.control_allow_remote,
        origins=settings.control_origins,
    )
    reader = settings.control_read_token
    return Gate(
        keys=keys,
        names=names,
        bounds=bounds,
        open_paths=OPEN_PATHS,
        reader=None if reader is None else reader.get_secret_value(),
    )
