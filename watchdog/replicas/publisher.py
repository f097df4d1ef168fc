"""Publishes the own host's answers, and carries out others' errands."""

from typing import Final

from anyio.abc import TaskGroup

from watchdog.console.logger import logger
from watchdog.ports import Clock, Hosting
from watchdog.postgres.line import NOTIFY_CAME, NOTIFY_SAID, Bell, Episode, Line
from watchdog.replicas.edition import Edition
from watchdog.replicas.errands import Errands
from watchdog.replicas.publications import Publication, Sayings
from watchdog.replicas.register import GONE_SECONDS, Register
from watchdog.replicas.standards import Standards

BEAT_SECONDS: Final = 3.0
"""How often to publish unasked."""
_TRY_SECONDS: Final = 1.0
_EARLY_SECONDS: Final = 0.1
"""How much sooner than planned it may publish, rather than a whole beat later."""


class Publisher:
    """What a replica does for the others, in tasks of the group that `serve` runs in.

    Args:
        line: reads and answers errands.
        register: the place to publish. Somebody else reads it again and again, and calls `noted`.
        own: the host of this process.
        name: of this replica, for people. If another process already has it, a mark is added.
        process: this process.
        standards: the limits by which it would judge.
        acts: it carries errands out; in a dry run it refuses them.
    """

    def __init__(
        self,
        line: Line,
        register: Register,
        own: Hosting,
        *,
        name: str,
        process: str,
        clock: Clock,
        standards: Standards,
        acts: bool,
    ) -> None:
        self._line = line
        self._register = register
        self._name = name
        self._process = process
        self._clock = clock
        self._standards = standards
        self._sayings = Sayings(own, clock, self._answered)
        self._errands = Errands(line, own, clock, process=process, acts=acts)
        self._wake = Bell()
        self._prompted = False  # somebody waits for the host's answers from now on
        self._late = False  # the host gave an answer after somebody waited for it, which is not published yet
        self._waits = False  # for the host
        self._edition = Edition(process)
        self._published_at: float | None = None

    async def keep_publishing(self, group: TaskGroup) -> None:
        """Publish again and again. Trouble of any kind is reported once, and survived.

        Args:
            group: asks the host in its tasks.
        """
        episode = Episode("replicas.publish")
        while True:
            try:
                if self._late:  # a slow host is not asked again before it has answered
                    await self._publish(prompted=True)
                if self._prompted or self._due():
                    await self._ask_and_publish(group)
            except Exception as error:  # noqa: BLE001 - logged; the server that is watched goes on
                episode.failed(error)
            else:
                episode.worked()
            await self._wake.wait(_TRY_SECONDS)

    async def carry_out(self, group: TaskGroup) -> None:
        """Begin others' errands, in tasks of a group.

        Raises:
            DatabaseUnavailable: it can't be read.
        """
        await self._errands.look(self._name, group)

    async def take_leave(self) -> None:
        """Let nobody wait for this replica any more.

        Raises:
            DatabaseUnavailable: the database does not take that; its row grows old.
        """
        await self._errands.give_up()
        await self._register.remove(self._name, self._process)

    def prompt(self) -> None:
        """Somebody elsewhere waits for the host's answers from now on."""
        self._prompted = True
        self._wake.ring()

    def noted(self) -> None:
        """The register was read: check whether the name is taken."""
        namesake = self._register.heard.get(self._name)
        if namesake is not None and namesake.process != self._process and namesake.age_seconds <= GONE_SECONDS:
            taken, self._name = self._name, f"{self._name} {self._process[:8]}"
            logger().warning("replicas.name_taken", name=taken, instead=self._name)
            self._published_at = None
            self._wake.ring()

    def _due(self) -> bool:
        return self._published_at is None or self._now() - self._published_at >= BEAT_SECONDS - _EARLY_SECONDS

    def _answered(self) -> None:
        if not self._waits:
            self._late = True
            self._wake.ring()

    async def _ask_and_publish(self, group: TaskGroup) -> None:
        prompted, self._prompted = self._prompted, False
        moment = await self._register.moment()
        self._waits = True
        try:
            await self._sayings.refresh(group, moment)
        finally:
            self._waits = False
        await self._publish(prompted=prompted)

    async def _publish(self, *, prompted: bool) -> None:
        """Publish the host's last answer.

        The others hear of the answers that they asked for, and of a new replica.
        """
        self._late = False
        now, first, saying = self._now(), self._published_at is None, self._sayings.now()
        claims = saying.claims if saying is not None and saying.problem is None else None
        change = await self._edition.change(claims, exact=prompted)
        publication = Publication(
            process=self._process,
            edition=change.edition,
            revision=change.revision,
            saying=saying,
            clock_ahead_seconds=round(self._register.clock_ahead_seconds(), 3),
        )
        if not await self._register.publish(self._name, publication, change.text, after=change.after):
            return
        self._edition.confirm(change)
        self._published_at = now
        if change.after < 0:
            await self._register.forget(self._process, but=change.edition)
        if first:
            await self._standards.publish()
            await self._line.fetch(NOTIFY_CAME)
        elif prompted:
            await self._line.fetch(NOTIFY_SAID)

    def _now(self) -> float:
        return self._clock.read().running_seconds
