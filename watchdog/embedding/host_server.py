"""A host in this process as a server for the ladder, and the signs of life that it gives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from watchdog.embedding import host_calls as hosting
from watchdog.errors import ServerAnswerInvalid
from watchdog.model.moments import Moment, WallMs
from watchdog.model.report import EVERYWHERE, Holders, Served
from watchdog.model.session import EMBEDDED, Activity, Ask, AskKind, ServerName, SessionId, Status
from watchdog.ports import Counter, Host, Server
from watchdog.replicas.plain_host import PlainHost
from watchdog.strides import in_strides

MOST_STRANGERS: Final = 5_000
LATEST_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_NO_STATUSES: Final = "gave no mapping of session ids to Status"
_NO_ASKS: Final = "gave no sequence of Ask"

_Touch = tuple[WallMs, Moment]


class Touches:
    """The last sign of life of each session that gave one, until the session is over.

    A session is remembered as long as looks find it unfinished. A session that no look saw yet is remembered until
    the end of a look that began after the touch; if there are too many of those, the ones touched longest ago make
    room.
    """

    def __init__(self, clock: Counter) -> None:
        self._clock = clock
        self._known: dict[SessionId, _Touch] = {}
        self._strangers: dict[SessionId, _Touch] = {}

    def note(self, session_id: SessionId) -> None:
        """A session shows life now."""
        now = self._clock.read().wall_ms, self._clock.now()
        if session_id in self._known:
            self._known[session_id] = now
            return
        self._strangers.pop(session_id, None)  # the one touched longest ago comes first
        self._strangers[session_id] = now
        if len(self._strangers) > MOST_STRANGERS:
            del self._strangers[next(iter(self._strangers))]

    def last(self) -> dict[SessionId, WallMs]:
        """When each was last touched, by the wall clock."""
        return {id_: at_ms for id_, (at_ms, _) in {**self._known, **self._strangers}.items()}

    def moments(self) -> dict[SessionId, Moment]:
        """When each was last touched."""
        return {id_: moment for id_, (_, moment) in {**self._known, **self._strangers}.items()}

    def forget(self, keep: Collection[SessionId]) -> None:
        """A look ended: forget all sessions but these, and those that were first touched during it."""
        known = {id_: at for id_, at in self._known.items() if id_ in keep}
        self._known, self._strangers = known | self._strangers, {}


class EmbeddedServer(PlainHost):
    """A host in this process, as a server for the ladder. Its exceptions are translated, and contained.

    The silence of a touched session has a witness: it lasts since the last touch.

    Args:
        host: answers for the sessions of this process.
        clock: times its answers and its sessions' signs of life.
    """

    def __init__(self, host: Host, clock: Counter) -> None:
        self._questions = hosting.Questions(host, clock)
        self.touches = Touches(clock)

    @property
    def name(self) -> ServerName:
        """See `Server.name`."""
        return EMBEDDED

    async def statuses(self, directory: str = EVERYWHERE) -> Mapping[SessionId, Status]:  # noqa: ARG002 - all at once
        """See `Host.statuses`."""
        answer: Any = await self._questions.ask("statuses", seconds=hosting.ANSWER_SECONDS)
        if not isinstance(answer, Mapping):
            raise ServerAnswerInvalid(f"{self._questions.name('statuses')} {_NO_STATUSES}")
        touched, found = self.touches.last(), dict[SessionId, Status]()
        async for id_, status in in_strides(answer.items()):
            if not isinstance(status, Status):
                raise ServerAnswerInvalid(f"{self._questions.name('statuses')} {_NO_STATUSES}")
            if not isinstance(id_, str) or not _is_sound(status):
                raise ServerAnswerInvalid(
                    f"{self._questions.name('statuses')} gave a Status with something in it that can't be: its "
                    "session's id is a str, its activity an Activity, and its times are milliseconds since the "
                    "epoch, or None"
                )
            if status.activity is not Activity.IDLE:
                found[SessionId(id_)] = _with_life(status, touched.get(SessionId(id_)))
        return found

    async def pending_asks(self, directory: str = EVERYWHERE) -> Sequence[Ask]:  # noqa: ARG002 - as above
        """See `Host.pending_asks`."""
        answer: Any = await self._questions.ask("pending_asks", seconds=hosting.ANSWER_SECONDS)
        if not isinstance(answer, Sequence):
            raise ServerAnswerInvalid(f"{self._questions.name('pending_asks')} {_NO_ASKS}")
        async for each in in_strides(answer):
            if not isinstance(each, Ask):
                raise ServerAnswerInvalid(f"{self._questions.name('pending_asks')} {_NO_ASKS}")
            if not _is_text(each.id, each.session_id) or not _is_whole(each):
                raise ServerAnswerInvalid(
                    f"{self._questions.name('pending_asks')} gave an Ask with something in it that can't be: its "
                    "kind is an AskKind, and its ids are str; those of its turn and call may be None"
                )
        return list[Ask](answer)

    async def abort(self, served: Served, session_id: SessionId, directory: str = EVERYWHERE) -> None:  # noqa: ARG002
        """See `Host.abort`."""
        await self._questions.ask("abort", session_id, seconds=None)

    def life(self) -> Mapping[SessionId, Moment]:
        """When each session was last touched."""
        return self.touches.moments()

    def forget(self, keep: Collection[SessionId]) -> None:
        """See `Touches.forget`."""
        self.touches.forget(keep)


class EmbeddedFleet:
    """The one server that is this process."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def servers(self) -> Sequence[Server]:
        """See `Fleet.servers`."""
        return (self._server,)

    async def refresh(self) -> None:
        """It ends with this process."""

    async def discover(self, holders: Holders) -> None:
        """There is nobody else to look for."""


def _is_sound(status: Any) -> bool:  # noqa: ANN401 - its fields may be of any type
    times = (status.retry_at_ms, status.last_life_ms)
    return isinstance(status.activity, Activity) and all(each is None or _is_time(each) for each in times)


def _is_time(value: object) -> bool:
    """Whether a calendar has this time. Anything that is no number compares as false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LATEST_MS


def _is_whole(ask: Any) -> bool:  # noqa: ANN401 - as above
    return isinstance(ask.kind, AskKind) and all(
        each is None or _is_text(each) for each in (ask.turn_id, ask.call_ref)
    )


def _is_text(*values: object) -> bool:
    return all(isinstance(each, str) for each in values)


def _with_life(status: Status, touched_ms: int | None) -> Status:
    if touched_ms is None:
        return status
    return replace(status, last_life_ms=max(touched_ms, status.last_life_ms or 0))
