"""What a replica publishes of its host: when it was asked, and a claim for each session that it mentioned."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import anyio
from anyio.abc import TaskGroup

from watchdog.errors import ServerError
from watchdog.model.report import EVERYWHERE
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status, TurnId
from watchdog.ports import Clock, Hosting
from watchdog.postgres.line import Episode, own_error
from watchdog.sharing import Batches
from watchdog.strides import in_strides

HOST_SECONDS: Final = 0.5
"""How long a publication waits for the host. A later answer goes into the next one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """A host's words on its sessions: what each one does, and what it asks."""

    statuses: Mapping[SessionId, Status] = field(default_factory=dict)
    asks: Mapping[SessionId, tuple[Ask, ...]] = field(default_factory=dict)

    def all_asks(self) -> Sequence[Ask]:
        """The asks of all sessions."""
        return [ask for asks in self.asks.values() for ask in asks]


@dataclass(frozen=True, kw_only=True, slots=True)
class Saying:
    """A host's answer.

    Attributes:
        asked_at: the reading of the database's clock before the host was asked, in seconds since the epoch.
        age_seconds: how long before it was published the host was asked.
        problem: why it gave no answer, as a sentence. Then there are no claims.
    """

    asked_at: float
    age_seconds: float = 0.0
    claims: Claims = field(default_factory=Claims)
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What one process publishes.

    Attributes:
        process: tells it from every other one, even from one with the same name.
        saying: its host's last answer; None before the first one.
        edition: the edition of its claims.
        revision: the last of the changes to them. Both are set when it is written.
        clock_ahead_seconds: how far its wall clock is ahead of the database's.
    """

    process: str
    saying: Saying | None = None
    edition: str = ""
    revision: int = -1
    clock_ahead_seconds: float = 0.0


def dump(publication: Publication) -> str:
    """In stored form, without its claims. It begins with `beginning` of its process."""
    said = {"process": publication.process, "edition": publication.edition, "revision": publication.revision}
    saying = publication.saying
    if saying is not None:
        said["saying"] = [saying.asked_at, saying.age_seconds, saying.problem]
    return json.dumps({**said, "clock_ahead_seconds": publication.clock_ahead_seconds})


def beginning(process: str) -> str:
    """The beginning of everything that a process publishes."""
    return json.dumps({"process": process}).removesuffix("}")


def load(text: str) -> Publication:
    """From the stored form, perhaps of another version; the claims are elsewhere.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text)
        return Publication(
            process=str(value["process"]),
            edition=str(value["edition"]),
            revision=int(value["revision"]),
            saying=_saying(*value["saying"]) if "saying" in value else None,
            clock_ahead_seconds=_seconds(value["clock_ahead_seconds"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("it is no publication") from error


def dump_id(session_id: SessionId) -> str:
    """In stored form: whatever ids a host gives its sessions, PostgreSQL can take that."""
    return json.dumps(session_id)[1:-1]


def dump_claim(status: Status | None, asks: tuple[Ask, ...]) -> str:
    """The claim on one session, in stored form."""
    does = None if status is None else [status.activity, status.retry_at_ms, status.last_life_ms]
    return json.dumps([does, [[each.id, each.kind, each.turn_id, each.call_ref] for each in asks]])


async def merged(known: Claims, changes: str) -> Claims:
    """Claims with changes: `dump_claim` by `dump_id` for each that changed; null if there is none any more.

    Raises:
        ValueError: they can't be read.
    """
    statuses, asks = dict(known.statuses), dict(known.asks)
    try:
        async for id_, claim in in_strides(json.loads(changes).items()):
            session_id = SessionId(json.loads(f'"{id_}"'))
            statuses.pop(session_id, None)
            asks.pop(session_id, None)
            does, asked = json.loads(claim) if claim is not None else (None, ())
            if does is not None:
                statuses[session_id] = _status(*does)
            if asked:
                asks[session_id] = tuple(_ask(session_id, *each) for each in asked)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("they are no claims") from error
    return Claims(statuses=statuses, asks=asks)


def _saying(asked_at: float, age_seconds: float, problem: str | None) -> Saying:
    return Saying(asked_at=_seconds(asked_at), age_seconds=_seconds(age_seconds), problem=_text(problem))


def _status(activity: str, retry_at_ms: int | None, last_life_ms: int | None) -> Status:
    return Status(activity=Activity(activity), retry_at_ms=_whole(retry_at_ms), last_life_ms=_whole(last_life_ms))


def _ask(session_id: SessionId, id_: str, kind: str, turn_id: str | None, call_ref: str | None) -> Ask:
    turn = TurnId(str(turn_id)) if turn_id is not None else None
    return Ask(id=str(id_), kind=AskKind(kind), session_id=session_id, turn_id=turn, call_ref=_text(call_ref))


def _seconds(value: float) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError("it is no number of seconds")
    return seconds


def _whole(value: int | None) -> int | None:
    return None if value is None else int(value)


def _text(value: str | None) -> str | None:
    return None if value is None else str(value)


class Sayings:
    """The own host's answers, asked for again and again; a late one is kept for the next publication.

    Args:
        own: the host. If it raises, or hangs, that is its answer.
        clock: says how old an answer is.
        answered: is called after each answer.
    """

    def __init__(self, own: Hosting, clock: Clock, answered: Callable[[], None]) -> None:
        self._own = own
        self._answered = answered
        self._now: Callable[[], float] = lambda: clock.read().running_seconds
        self._rounds: Batches[float, None] = Batches(lambda moments: self._ask(max(moments)))
        self._said: tuple[float, Saying] | None = (
            None  # after what the running clock showed before the host was asked
        )
        self._episode = Episode("replicas.ask")

    async def refresh(self, group: TaskGroup, at: float) -> None:
        """Ask, unless a question is under way, and wait for the answer, but not for long.

        Args:
            group: asks in a task, which goes on after the time is over.
            at: an earlier reading of the database's clock.
        """
        if self._rounds.waiting:
            return
        answered = anyio.Event()

        async def join() -> None:
            await self._rounds.join(at)
            answered.set()

        group.start_soon(join, name="ask the own host")
        with anyio.move_on_after(HOST_SECONDS):
            await answered.wait()

    def now(self) -> Saying | None:
        """The last answer, with its age."""
        if self._said is None:
            return None
        at, saying = self._said
        return replace(saying, age_seconds=round(max(0.0, self._now() - at), 3))

    async def _ask(self, asked_at: float) -> None:
        at = self._now()
        try:
            statuses = await self._own.statuses(EVERYWHERE)
            asks: dict[SessionId, tuple[Ask, ...]] = {}
            for ask in await self._own.pending_asks(EVERYWHERE):
                asks[ask.session_id] = (*asks.get(ask.session_id, ()), ask)
            saying = Saying(asked_at=asked_at, claims=Claims(statuses=dict(statuses), asks=asks))
        except ServerError as error:
            saying = Saying(asked_at=asked_at, problem=str(error))
        except Exception as error:  # noqa: BLE001 - logged; the server that is watched goes on
            self._episode.failed(error)
            saying = Saying(asked_at=asked_at, problem=own_error(error))
        else:
            self._episode.worked()
        self._said = at, saying
        self._answered()
