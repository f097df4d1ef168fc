"""Other replicas' hosts, as servers that can be asked: through their publications, and by errands."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from watchdog.errors import DatabaseUnavailable, ServerAnswerInvalid, ServerDeclined, ServerUnreachable, ServerUntold
from watchdog.model.moments import Moment
from watchdog.model.report import EVERYWHERE, Served
from watchdog.model.session import Ask, ServerName, SessionId, Status
from watchdog.ports import Clock
from watchdog.postgres.line import LINE_SECONDS, Pulse
from watchdog.replicas.errands import Abort, Answer, Requests
from watchdog.replicas.plain_host import PlainHost
from watchdog.replicas.publications import Publication, Saying
from watchdog.replicas.register import Heard, Register
from watchdog.sharing import Batches

STALE_SECONDS: Final = 3.0
"""After this time a replica's publication is no answer any more."""
LATELY_SECONDS: Final = 6.0
"""The same for an unasked one: its host is asked at each beat, and may be slow; then others read it."""
FIRST_ANSWER_SECONDS: Final = 2.0
"""How long a question waits for a host's answer that came after it."""
_ASK_SECONDS: Final = 0.3
"""How often to read in the meantime, if nobody reports news."""
APART_SECONDS: Final = 2.0
"""How far two replicas' wall clocks may be apart: signs of life are times of one, and compared with the other."""
_READ_SECONDS: Final = 2.0
"""How old a reading may be that answers a question; an older one is repeated."""


class Others:
    """Puts questions to the other replicas.

    Args:
        register: read again and again by somebody else.
        requests: sends aborts on as errands.
        clock: says how long a question has waited.
        read: beats after each reading, also a failed one.
        wake: causes a reading soon.
        process: this process.
        acts: whether this process has the right to act.
        abort_seconds: how long a replica may take to answer an abort.
    """

    def __init__(
        self,
        register: Register,
        requests: Requests,
        clock: Clock,
        *,
        read: Pulse,
        wake: Callable[[], None],
        process: str,
        acts: Callable[[], bool],
        abort_seconds: float,
    ) -> None:
        self.acts: Final = acts
        self.waiting = 0
        """How many questions wait for a publication."""
        self.register = register
        self._requests = requests
        self._clock = clock
        self._read = read
        self._wake = wake
        self._abort_seconds = abort_seconds
        self._asking: Batches[str, float] = Batches(lambda others: register.ask(process, others))

    async def reading(self, seconds: float) -> bool:
        """Wait for a reading that is not older than this, but not for long. Returns whether there is one."""
        for _ in range(2):  # one may be under way that began too early
            if self.register.age_seconds > seconds:
                self._wake()
                await self._read.wait(LINE_SECONDS)
        return self.register.age_seconds <= seconds

    async def saying(self, host: "RemoteHost") -> Saying:
        """A replica's answer: its host was asked after this question came.

        Raises:
            ServerError: it did not answer in time, or its host could not answer, or its clock is wrong.
        """
        until = self._now() + FIRST_ANSWER_SECONDS
        self.waiting += 1
        try:
            await self._heard(host)  # a replica that is not there is not asked
            asked_at = await self._asked(host)
            while True:
                heard, publication = await self._heard(host)
                saying = publication.saying
                left = until - self._now()
                if (saying is not None and saying.asked_at > asked_at) or left <= 0:
                    self._check_clocks(host, publication)
                    return _checked(host.name, heard, saying, asked_at)
                if not await self._read.wait(min(left, _ASK_SECONDS)):
                    self._wake()
        finally:
            self.waiting -= 1

    async def lately(self, host: "RemoteHost") -> Saying:
        """A replica's unasked words.

        Raises:
            ServerError: it said nothing lately, or its host could not answer, or its clock is wrong.
        """
        heard, publication = await self._heard(host)
        self._check_clocks(host, publication)
        return _checked(host.name, heard, publication.saying, -math.inf, LATELY_SECONDS)

    def mentions(self, host: "RemoteHost", session_ids: Collection[SessionId]) -> bool:
        """Whether a replica's last words are about some sessions."""
        heard = self.register.heard.get(host.replica)
        saying = heard.publication.saying if heard is not None and heard.publication is not None else None
        return saying is not None and any(
            id_ in saying.claims.statuses or id_ in saying.claims.asks for id_ in session_ids
        )

    async def abort(self, host: "RemoteHost", what: Abort) -> Answer:
        """Have a replica abort a session. See `Requests.abort`."""
        return await self._requests.abort(host.name, host.replica, replace(what, seconds=self._abort_seconds))

    async def _asked(self, host: "RemoteHost") -> float:
        """Make a replica publish again. Replicas that several questions need at the same time are asked at once."""
        try:
            return await self._asking.join(host.process)
        except DatabaseUnavailable as error:
            raise ServerUnreachable(f"What {host.name} says can't be read from the database.") from error

    def _check_clocks(self, host: "RemoteHost", publication: Publication) -> None:
        ahead = publication.clock_ahead_seconds - self.register.clock_ahead_seconds()
        if abs(ahead) > APART_SECONDS:
            side = "ahead of" if ahead > 0 else "behind"
            raise ServerUnreachable(
                f"The clock of {host.name} is {abs(ahead):.0f} s {side} this one's: set the clocks."
            )

    async def _heard(self, host: "RemoteHost") -> tuple[Heard, Publication]:
        if not await self.reading(_READ_SECONDS):
            raise ServerUnreachable(f"What {host.name} says can't be read from the database.")
        heard = self.register.heard.get(host.replica)
        if heard is None or (heard.publication is not None and heard.process != host.process):
            raise ServerUnreachable(f"{host.name} was stopped or restarted.")
        if heard.publication is None:
            raise ServerAnswerInvalid(
                f"What {host.name} published can't be read: the replicas may be of different versions."
            )
        return heard, heard.publication

    def _now(self) -> float:
        return self._clock.read().running_seconds


def _checked(
    name: str, heard: Heard, saying: Saying | None, asked_at: float, recent_seconds: float = STALE_SECONDS
) -> Saying:
    """The saying, if it answers a question of a moment, and is recent by all clocks."""
    if heard.age_seconds > recent_seconds:
        raise ServerUnreachable(f"{name} was not heard of for {heard.age_seconds:.0f} s.")
    if saying is None:
        raise ServerUnreachable(f"{name} has not said yet what it is at work on.")
    if saying.problem is not None:
        raise ServerUnreachable(f"{name}: {saying.problem}")
    seconds = heard.age_seconds + saying.age_seconds
    if saying.asked_at <= asked_at or seconds > recent_seconds:
        raise ServerUnreachable(f"The host of {name} has not answered for {seconds:.0f} s.")
    return saying


class RemoteHost(PlainHost):
    """The host of another replica. Its publication gives its answers; an abort goes there as an errand.

    Args:
        replica: its name in the register.
        process: the process with that name; of another one nobody knows what it is at work on.
    """

    def __init__(self, others: Others, *, replica: str, process: str, name: ServerName | None = None) -> None:
        self._others = others
        self._name = name or ServerName(f"replica {replica}")
        self.replica: Final = replica
        self.process: Final = process

    @property
    def name(self) -> ServerName:
        """See `Server.name`."""
        return self._name

    async def statuses(self, directory: str = EVERYWHERE) -> Mapping[SessionId, Status]:  # noqa: ARG002 - all at once
        """See `Host.statuses`."""
        return (await self._others.saying(self)).claims.statuses

    async def pending_asks(self, directory: str = EVERYWHERE) -> Sequence[Ask]:  # noqa: ARG002 - as above
        """See `Host.pending_asks`."""
        return (await self._others.saying(self)).claims.all_asks()

    def led_from_here(self) -> bool:
        """See `Deputy.led_from_here`."""
        return self._others.acts()

    def mentions(self, session_ids: Collection[SessionId]) -> bool:
        """See `Deputy.mentions`."""
        return self._others.mentions(self, session_ids)

    async def lately(self) -> tuple[Mapping[SessionId, Status], Sequence[Ask]]:
        """See `Deputy.lately`."""
        claims = (await self._others.lately(self)).claims
        return claims.statuses, claims.all_asks()

    async def abort(self, served: Served, session_id: SessionId, directory: str = EVERYWHERE) -> None:  # noqa: ARG002
        """See `Deputy.abort_unless`: here with no known asks, and whatever signs of life it shows."""
        await self.abort_unless(served, session_id, asks=(), life_ms=None)

    async def abort_unless(
        self,
        served: Served,  # noqa: ARG002 - it speaks through this very database
        session_id: SessionId,
        *,
        asks: Collection[str],
        life_ms: int | None,
    ) -> None:
        """See `Deputy.abort_unless`.

        Raises:
            LeaseLost: this watchdog may no longer act; nothing was asked.
            ServerDeclined: the replica found that it has to spare it.
            ServerError: the replica did not carry it out, or did not say so in time.
        """
        what = Abort(
            process=self.process,
            session_id=session_id,
            seconds=0.0,
            asks=tuple(asks),
            life_ms=life_ms,
        )
        answer = await self._others.abort(self, what)
        if answer.spared:
            raise ServerDeclined(f"{self._name} spared it: {answer.problem}")
        if not answer.taken:
            raise ServerUntold(f"{self._name} did not end it. {answer.problem}")
        if answer.problem is not None:
            raise ServerUnreachable(f"{self._name} did not end it. {answer.problem}")

    def life(self) -> Mapping[SessionId, Moment]:
        """There is no feed: its publication includes each session's signs of life."""
        return {}

    def forget(self, keep: Collection[SessionId]) -> None:
        """It keeps only what the replica publishes."""
