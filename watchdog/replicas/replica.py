"""The replicas of a server: each publishes its host's answers, and the leader goes by them.

The database's clock dates a publication at the moment when it was put together. So a publication that was delayed,
because the process or the network stood still, has its true age, and never replaces a newer one.
"""

from typing import Final, Protocol
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.console.logger import logger
from watchdog.errors import DatabaseUnavailable
from watchdog.model.report import Holders
from watchdog.model.session import ServerName
from watchdog.ports import Clock, Hosting
from watchdog.postgres.line import (
    ANSWERED,
    ASKED,
    CAME,
    CHANNEL,
    DONE,
    ERRAND,
    SAID,
    WANTED,
    Bell,
    Episode,
    Line,
    Pulse,
)
from watchdog.replicas.errands import Requests, TermedFence
from watchdog.replicas.passed_on import PassedOn
from watchdog.replicas.publisher import Publisher
from watchdog.replicas.register import Heard, Register
from watchdog.replicas.remote import Others, RemoteHost
from watchdog.replicas.standards import Limits, Standards

READ_SECONDS: Final = 1.0
"""How often the leader reads the others' publications, if nobody wakes it."""
ASIDE_SECONDS: Final = 2.0
"""How often another replica does, and its errands."""
ABORT_SECONDS: Final = 10.0
SWEEP_SECONDS: Final = 60.0
_FAREWELL_SECONDS: Final = 2.0


class Leasehold(TermedFence, Protocol):
    """The part of the lease that matters here."""

    def acquire(self) -> bool:
        """Whether this process holds it."""
        ...


class Replicas:
    """This replica and the others, as servers that can be asked.

    Args:
        engine: makes one connection that lasts.
        aside: makes one for each abort that is passed on. Another one, as `engine` may have no second connection.
        own: the host of this process; None if it runs no sessions, and so publishes nothing.
        name: of this replica, for people. If another process already has it, a mark is added.
        lease: its holder passes aborts on, and removes old rows.
        limits: the limits by which this replica judges, or would judge if it acted.
        acts: false in a dry run: this one refuses others' errands, too.
        abort_seconds: how long a replica may take to answer an abort.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        aside: AsyncEngine,
        own: Hosting | None,
        name: str,
        clock: Clock,
        lease: Leasehold,
        limits: Limits,
        acts: bool = True,
        abort_seconds: float = ABORT_SECONDS,
    ) -> None:
        self._own = own
        self._clock = clock
        self._lease = lease
        self._process = uuid4().hex
        self._read, self._wake = Pulse(), Bell()
        self._line = Line(engine, channel=CHANNEL, heard=self._notified)
        self._register = Register(self._line, clock)
        self._requests = Requests(aside, self._line, lease, clock, read=self._read, wake=self._wake.ring)
        self.leader: Final = PassedOn(self._line, lease, clock, name=name)
        """The leader, be it this replica or another one."""
        self._standards = Standards(self._line, process=self._process, limits=limits)
        self._publisher: Publisher | None = None
        if own is not None:
            self._publisher = Publisher(
                self._line,
                self._register,
                own,
                name=name,
                process=self._process,
                clock=clock,
                standards=self._standards,
                acts=acts,
            )
        self._others = Others(
            self._register,
            self._requests,
            clock,
            read=self._read,
            wake=self._wake.ring,
            process=self._process,
            acts=lease.acquire,
            abort_seconds=abort_seconds,
        )
        self._hosts: dict[tuple[str, str], RemoteHost] = {}
        self._unread = RemoteHost(self._others, replica="", process="", name=ServerName("the other replicas"))
        self._swept_at: float | None = None

    def servers(self) -> tuple[Hosting, ...]:
        """The own host, and the other replicas that are there; until they are known, one that never answers."""
        own = (self._own,) if self._own is not None else ()
        return (*own, *self._hosts.values()) if self._register.has_read else (*own, self._unread)

    async def refresh(self) -> None:
        """Wait for the first reading of who is there. From then on that is read in the background."""
        if not self._register.has_read:
            await self._others.reading(READ_SECONDS)

    async def discover(self, holders: Holders) -> None:  # noqa: ARG002 - processes elsewhere can't be seen
        """Look for replicas that have come, and forget those that are gone."""
        await self._others.reading(READ_SECONDS)

    async def serve(self) -> None:
        """Publish, read, carry out errands until cancelled. Trouble of any kind is reported once and survived."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_reading, group, name="read what replicas say")
                if self._publisher is not None:
                    group.start_soon(self._publisher.keep_publishing, group, name="publish what the host says")
        finally:
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(_FAREWELL_SECONDS):
                    await self._take_leave()
                await self._line.close()

    async def _take_leave(self) -> None:
        """Let nobody wait for this replica. If the database does not take that, its row grows old."""
        try:
            await self.leader.give_up()
            if self._publisher is not None:
                await self._publisher.take_leave()
        except DatabaseUnavailable as error:
            logger().warning("replicas.not_removed", why=str(error))

    def _notified(self, said: str) -> None:
        """A notification came: there is something to read, or somebody here has to answer, or it is for others."""
        if said.startswith(ASKED):
            asking, *asked = said.removeprefix(ASKED).split()
            if (
                self._publisher is not None
                and asking != self._process
                and self._process in (asked or [self._process])
            ):
                self._publisher.prompt()
        elif said == ANSWERED:
            self.leader.told.beat()
        elif self._concerns_this_one(said):
            self._wake.ring()

    def _concerns_this_one(self, said: str) -> bool:
        """Whether there is something to read here; a notification of another version is for everybody."""
        if said.startswith(ERRAND):
            return said == f"{ERRAND}{self._process}"
        if said in {WANTED, CAME}:
            return self._lease.acquire()
        waits = {SAID: self._others.waiting > 0, DONE: self._requests.waiting}
        return waits.get(said, True)

    async def _keep_reading(self, group: TaskGroup) -> None:
        episode = Episode("replicas.read")
        while True:
            try:
                await self._look(group)
            except Exception as error:  # noqa: BLE001 - logged; the server that is watched goes on
                episode.failed(error)
            else:
                episode.worked()
            self._read.beat()
            await self._wake.wait(READ_SECONDS if self._lease.acquire() else ASIDE_SECONDS)

    async def _look(self, group: TaskGroup) -> None:
        await self._register.read()
        others = [each for _, each in sorted(self._register.present.items()) if each.process != self._process]
        self._hosts = {(each.name, each.process): self._host(each) for each in others}
        if self._publisher is not None:
            self._publisher.noted()
            await self._publisher.carry_out(group)
        await self._requests.look()
        if not self._lease.acquire():
            return
        await self.leader.look(group)
        now = self._clock.read().running_seconds
        if self._swept_at is None or now - self._swept_at >= SWEEP_SECONDS:
            await self._register.sweep()
            await self._requests.sweep()
            await self.leader.sweep()
            if self._publisher is not None:
                await self._standards.compare()
            self._swept_at = now

    def _host(self, heard: Heard) -> RemoteHost:
        known = self._hosts.get((heard.name, heard.process))
        return known or RemoteHost(self._others, replica=heard.name, process=heard.process)
