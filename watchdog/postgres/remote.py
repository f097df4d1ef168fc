"""Other replicas' hosts, as servers that can be asked: by what they published, and by errands."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from watchdog.errors import ServerAnswerInvalid, ServerUnreachable
from watchdog.model import Ask, Row, ServerName, SessionId, Status, TurnId, Witness
from watchdog.ports import Clock
from watchdog.postgres.errands import Abort, Answer, Requests
from watchdog.postgres.line import LINE_SECONDS, Pulse
from watchdog.postgres.publications import Saying
from watchdog.postgres.register import Heard, Register

STALE_SECONDS: Final = 3.0
"""From when on what a replica published is no answer any more."""
FIRST_ANSWER_SECONDS: Final = 2.0
"""How long a question waits until a replica says something of a directory for the first time, or since an abort."""
_READ_SECONDS: Final = 2.0
"""How old a reading may be that answers a question: one is taken every second."""


class Others:
    """Puts questions to the other replicas.

    Args:
        register: read again and again by somebody else.
        requests: passes aborts on.
        clock: tells how long a question has waited.
        read: beats after each reading, also one that failed.
        wake: makes that one is taken soon.
        want: makes that the others are told of a directory of which they are asked.
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
        want: Callable[[str], None],
        abort_seconds: float,
    ) -> None:
        self.register = register
        self._requests = requests
        self._clock = clock
        self._read = read
        self._wake = wake
        self._want = want
        self._abort_seconds = abort_seconds

    async def reading(self, seconds: float) -> bool:
        """Wait for a reading that is not older than this, but not for long. Returns whether there is one."""
        for _ in range(2):  # one may be under way that began too early
            if self.register.age_seconds > seconds:
                self._wake()
                await self._read.wait(LINE_SECONDS)
        return self.register.age_seconds <= seconds

    async def saying(self, host: "RemoteHost", directory: str) -> Saying:
        """What a replica last said of a directory, and after the last abort that it answered.

        Raises:
            ServerError: it says nothing, or not recently, or that its host could not answer.
        """
        self._want(directory)
        asked_at = self._now()
        while True:
            heard = await self._heard(host)
            saying = heard.publication.sayings.get(directory) if heard.publication is not None else None
            if saying is not None and saying.number > host.after:
                return _checked(host.name, heard, saying)
            left = asked_at + FIRST_ANSWER_SECONDS - self._now()
            if left <= 0 and heard.age_seconds > STALE_SECONDS:
                raise ServerUnreachable(f"{host.name} was not heard of for {heard.age_seconds:.0f} s.")
            if left <= 0:
                raise ServerUnreachable(f"{host.name} has not said yet what it is at work on in a directory.")
            await self._read.wait(left)

    async def abort(self, host: "RemoteHost", session_id: SessionId, directory: str) -> Answer:
        """Have a replica abort a session. See `Requests.abort`."""
        what = Abort(process=host.process, session_id=session_id, directory=directory, seconds=self._abort_seconds)
        return await self._requests.abort(host.name, host.replica, what)

    def last(self, host: "RemoteHost") -> Mapping[str, Saying]:
        """What a replica said when it was last read, however long ago."""
        heard = self.register.heard.get(host.replica)
        if heard is None or heard.publication is None or heard.process != host.process:
            return {}
        return heard.publication.sayings

    async def _heard(self, host: "RemoteHost") -> Heard:
        if not await self.reading(_READ_SECONDS):
            raise ServerUnreachable(f"What {host.name} says can't be read from the database.")
        heard = self.register.heard.get(host.replica)
        if heard is None or (heard.publication is not None and heard.process != host.process):
            raise ServerUnreachable(f"{host.name} was stopped or started anew.")
        if heard.publication is None:
            raise ServerAnswerInvalid(
                f"What {host.name} published can't be read: the replicas may be of different versions."
            )
        return heard

    def _now(self) -> float:
        return self._clock.read().running_seconds


def _checked(name: str, heard: Heard, saying: Saying) -> Saying:
    """The saying, if it is an answer and recent enough."""
    if heard.age_seconds > STALE_SECONDS:
        raise ServerUnreachable(f"{name} was not heard of for {heard.age_seconds:.0f} s.")
    if heard.age_seconds + saying.age_seconds > STALE_SECONDS:
        seconds = heard.age_seconds + saying.age_seconds
        raise ServerUnreachable(f"The host of {name} has not answered for {seconds:.0f} s.")
    if saying.problem is not None:
        raise ServerUnreachable(f"{name}: {saying.problem}")
    return saying


class RemoteHost:
    """The host of another replica. It says what it published; what it is asked to end goes there by an errand.

    Args:
        replica: its name in the register.
        process: which process of that name; with another one, nobody knows any more what this one was at work on.
    """

    def __init__(self, others: Others, *, replica: str, process: str, name: ServerName | None = None) -> None:
        self._others = others
        self._name = name or ServerName(f"replica {replica}")
        self.replica: Final = replica
        self.process: Final = process
        self.after = 0
        """The number of the last question to its host before an abort was over: only later ones count."""

    @property
    def name(self) -> ServerName:
        """See `Server.name`."""
        return self._name

    @property
    def port(self) -> int | None:
        """It is asked through the database."""
        return None

    async def statuses(self, directory: str) -> Mapping[SessionId, Status]:
        """See `Host.statuses`."""
        return (await self._others.saying(self, directory)).statuses

    async def pending_asks(self, directory: str) -> Sequence[Ask]:
        """See `Host.pending_asks`."""
        return (await self._others.saying(self, directory)).asks

    async def abort(self, session_id: SessionId, directory: str) -> None:
        """Have the replica abort it, and wait for its answer. What it says from then on, it said afterwards.

        Raises:
            LeaseLost: this watchdog may not act any more; nothing was asked.
            ServerError: the replica did not carry it out, or did not say so in time.
        """
        answer = await self._others.abort(self, session_id, directory)
        self.after = max(self.after, answer.number)
        if answer.problem is not None:
            raise ServerUnreachable(f"{self._name} did not end it. {answer.problem}")

    async def vouches(self) -> bool:
        """The host runs the sessions of its process, so its word about them counts."""
        return True

    async def reject(self, ask: Ask, directory: str) -> None:  # noqa: ARG002
        """Refused: the embedding server turns down its asks itself."""
        raise ServerAnswerInvalid("the embedding server turns down its asks itself")

    async def serves(self, session_id: SessionId, turn_id: TurnId, directory: str) -> bool:  # noqa: ARG002
        """It publishes in this very database."""
        return True

    async def publish(self, row: Row, directory: str) -> None:
        """A replica reads its own database; it has no clients of the watchdog's concern."""

    async def readable(self, session_id: SessionId, directory: str) -> bool:  # noqa: ARG002
        """A replica reads rows in its own way; it is not asked."""
        return True

    async def delete_message(self, session_id: SessionId, message_id: str, directory: str) -> None:  # noqa: ARG002
        """Refused: the embedding server deletes its messages itself."""
        raise ServerAnswerInvalid("the embedding server deletes its messages itself")

    def witness(self) -> Witness | None:
        """It has no feed."""
        return None

    def life(self) -> Mapping[SessionId, int]:
        """The last signs of life that it published, of what it was at work on."""
        statuses = [saying.statuses for saying in self._others.last(self).values()]
        return {
            id_: each.last_life_ms for said in statuses for id_, each in said.items() if each.last_life_ms is not None
        }

    def forget(self, keep: Collection[SessionId]) -> None:
        """Nothing is kept that the replica does not publish."""

    def busy_directories(self) -> Collection[str]:
        """See `witness`."""
        return ()
