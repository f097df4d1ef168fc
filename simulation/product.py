"""The product in the world: the loop, judge, memory, ladder and alerts as they are, in a process of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from simulation.fleet import LineFleet, LineOwners
from simulation.loop import PROCESS
from simulation.machine import Machine
from simulation.ports import Line, LineStore
from simulation.records import LineJournal, LineMandate
from simulation.replicas import LineLease
from simulation.script import Setting
from watchdog.acting.attempt import Ladder, confirmed
from watchdog.alerts.alert import Alert
from watchdog.alerts.rules import Alerts
from watchdog.errors import DatabaseUnavailable, JournalUnusable, LeaseLost, WatchdogError
from watchdog.loop.last_look import Latest
from watchdog.loop.watch import Watch
from watchdog.model.mandate import Mandate
from watchdog.model.outcome import Outcome
from watchdog.model.policy import Policy
from watchdog.model.verdict import Verdict
from watchdog.observing.memory_store import REPLICAS
from watchdog.operating.operations import Answer, Operations
from watchdog.operating.operator import Operator
from watchdog.settings.receivers import Occasion
from watchdog.timing.events import Assessment, Bystander
from watchdog.timing.pace import Pace

if TYPE_CHECKING:
    from simulation.world import World

DEGRADED_AFTER_SECONDS = 300.0


def policy_of(setting: Setting) -> Policy:
    """What the judge is told to allow."""
    return Policy(
        tool_timeout_seconds=setting.tool_timeout,
        task_timeout_seconds=setting.task_timeout,
        idle_timeout_seconds=setting.idle_timeout,
        human_timeout_seconds=setting.human_timeout,
        tool_timeouts=setting.tool_timeouts,
        orphan_grace_seconds=setting.orphan_grace,
    )


def pace_of(setting: Setting) -> Pace:
    """How often it looks."""
    return Pace(
        poll_interval_seconds=setting.poll,
        full_scan_interval_seconds=setting.full_scan,
        max_attempts=setting.max_attempts,
        max_concurrency=setting.max_concurrency,
        journal_retention_seconds=setting.retention,
    )


class Telltale(Bystander):
    """Tells the oracles what the loop says of itself."""

    def __init__(self, product: "Product") -> None:
        self._product = product

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """See `Listener.looked`."""
        if not self._product.line.dead:
            self._product.world.oracles.looked(self._product, assessment, acting=acting)

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """See `Listener.ended`."""
        if not self._product.line.dead:
            self._product.world.oracles.ended(verdict, outcome, given_up=given_up)

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """See `Listener.failed`."""
        if self._product.line.dead:
            return
        if isinstance(error, LeaseLost):
            self._product.world.log("lease lost", verdict.cancel_session_id)
        else:
            self._product.world.oracles.own_error(f"on {verdict.cancel_session_id}", error)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """See `Listener.unavailable`."""
        if not self._product.line.dead:
            self._product.world.log("unavailable", type(error).__name__, round(retry_seconds, 3))


class Product:
    """A watchdog's process, from its start until it is killed or ends.

    Attributes:
        machine: where it runs.
        lease: its right to act, if it is one of several.
    """

    def __init__(self, world: "World", number: int, machine: Machine) -> None:
        self.world = world
        self.number = number
        self.machine = machine
        self.line = Line(world, number, machine)
        self.lease = LineLease(self.line, world.database, self._wake) if world.setting.replicas else None
        self.line.lease = self.lease
        self.began_at = world.now
        self.fleet = LineFleet(self.line, self._wake)
        setting = world.setting
        alerts = Alerts(
            self._tell,
            clock=self.line.clock,
            occasions=[Occasion.GIVEN_UP, Occasion.DEGRADED],
            degraded_after_seconds=DEGRADED_AFTER_SECONDS,
            waiting_after_seconds=900,
        )
        self._store, self._owners = LineStore(self.line), LineOwners(self.line)
        self._mandate: Mandate = self.lease or LineMandate(self.line, world.lock_file)
        self._journal = LineJournal(self.line, world.journal)
        self._latest = Latest(clock=self.line.clock, poll_interval_seconds=setting.poll)
        self.watch = Watch(
            store=self._store,
            fleet=self.fleet,
            owners=self._owners,
            clock=self.line.clock,
            mandate=self._mandate,
            journal=self._journal,
            boot_id=machine.boot_id if self.lease is None else REPLICAS,
            policy=policy_of(setting),
            pace=pace_of(setting),
            ladder=Ladder(abort_grace_seconds=setting.abort_grace),
            listeners=[Telltale(self), alerts, self._latest],
            confirm=confirmed if self.lease is None else self.lease.confirm,
        )
        self._stop = anyio.Event()
        self._operator: Operator | None = None
        self._asked: set[asyncio.Task[None]] = set()
        self.task = asyncio.get_running_loop().create_task(self._run(), context=self._context())

    def _context(self) -> Context:
        context = copy_context()
        context.run(PROCESS.set, self.number)
        return context

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self.fleet.start(group)
                if self.lease is not None:
                    await self._take_part(self.lease, group)
                self._operator = self._made_operator(Operations(group, self.line.clock))
                await self.watch.run(self._stop)
                group.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - an oracle says that it must not happen
            self.world.oracles.own_error("the loop", error)

    async def _take_part(self, lease: LineLease, group: TaskGroup) -> None:
        """Take the lease, or wait for it."""
        with suppress(DatabaseUnavailable, JournalUnusable):
            await lease.open()
        group.start_soon(lease.keep)

    def _made_operator(self, operations: Operations) -> Operator:
        return Operator(
            database="opencode.db",
            watch=self.watch,
            latest=self._latest,
            store=self._store,
            fleet=self.fleet,
            owners=self._owners,
            mandate=self._mandate,
            journal=self._journal,
            operations=operations,
        )

    def ask(self, request: Callable[[Operator], Awaitable[Answer]], then: Callable[[Answer | None], None]) -> bool:
        """Have a person ask it for something. Returns whether it listens.

        Args:
            request: what they ask for.
            then: is told of the answer; of None if there was none.
        """
        if self._operator is None or self.line.dead:
            return False
        work = self._answer(request(self._operator), then)
        task = self.world.loop.create_task(work, context=self._context())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return True

    async def _answer(self, request: Awaitable[Answer], then: Callable[[Answer | None], None]) -> None:
        answer = None
        try:
            answer = await request
        except WatchdogError as error:
            self.world.log("refused", type(error).__name__, error)
        except Exception as error:  # noqa: BLE001 - as above
            self.world.oracles.own_error("a request", error)
        finally:
            then(answer)

    def kill(self) -> None:
        """End it at this very moment, wherever it is."""
        self.line.dead = True
        self.world.loop.continue_process(self.number)
        self.task.cancel()

    def stop(self) -> None:
        """Tell it to stop."""
        self._stop.set()

    def _wake(self) -> None:
        if not self.line.dead:
            self.watch.wake()

    def _tell(self, alert: Alert) -> None:
        if not self.line.dead:
            self.world.oracles.told(self.number, alert)
