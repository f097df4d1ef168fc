"""What the host of a replica says, as it is published: asked, written down, and read again."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from watchdog.errors import ServerError
from watchdog.model import Activity, Ask, AskKind, SessionId, Status, TurnId
from watchdog.ports import Clock, Hosting
from watchdog.postgres.line import Episode, own_error
from watchdog.sharing import Rounds

HOST_SECONDS: Final = 0.5
"""How long a publication waits for the host. What it says later is in the next one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saying:
    """What a host said of one directory.

    Attributes:
        asked_at: what the database's clock showed before the host was asked, in seconds since the epoch.
        age_seconds: how long before it was published the host was asked.
        problem: why it gave no answer, as a sentence. The rest is empty then.
    """

    asked_at: float
    age_seconds: float
    statuses: Mapping[SessionId, Status] = field(default_factory=dict)
    asks: tuple[Ask, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What one process publishes.

    Attributes:
        process: tells it from every other one, also from one of the same name.
        wanted: the directories of which it wants to know what the others do in them.
        sayings: what its host said, by directory.
        clock_ahead_seconds: how far its wall clock is ahead of the database's.
    """

    process: str
    wanted: frozenset[str] = frozenset()
    sayings: Mapping[str, Saying] = field(default_factory=dict)
    clock_ahead_seconds: float = 0.0


def dump(publication: Publication) -> str:
    """As it is kept. It begins with `beginning` of its process."""
    sayings = {directory: _saying_fields(saying) for directory, saying in publication.sayings.items()}
    said = {"process": publication.process, "wanted": sorted(publication.wanted), "sayings": sayings}
    return json.dumps({**said, "clock_ahead_seconds": publication.clock_ahead_seconds})


def beginning(process: str) -> str:
    """How everything begins that a process publishes."""
    return json.dumps({"process": process}).removesuffix("}")


def load(text: str) -> Publication:
    """As it was written, perhaps by another version.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text)
        sayings = {str(directory): _saying(fields) for directory, fields in value["sayings"].items()}
        wanted = frozenset(str(directory) for directory in value["wanted"])
        ahead = _seconds(value["clock_ahead_seconds"])
        return Publication(process=str(value["process"]), wanted=wanted, sayings=sayings, clock_ahead_seconds=ahead)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("it is no publication") from error


def _saying_fields(saying: Saying) -> dict[str, Any]:
    statuses = {id_: [each.activity, each.retry_at_ms, each.last_life_ms] for id_, each in saying.statuses.items()}
    asks = [[each.id, each.kind, each.session_id, each.turn_id, each.call_ref] for each in saying.asks]
    said = {"statuses": statuses, "asks": asks, "problem": saying.problem}
    return {"asked_at": saying.asked_at, "age_seconds": saying.age_seconds, **said}


def _saying(fields: Mapping[str, Any]) -> Saying:
    return Saying(
        asked_at=_seconds(fields["asked_at"]),
        age_seconds=_seconds(fields["age_seconds"]),
        statuses={SessionId(str(id_)): _status(*each) for id_, each in fields["statuses"].items()},
        asks=tuple(_ask(*each) for each in fields["asks"]),
        problem=_text(fields["problem"]),
    )


def _status(activity: str, retry_at_ms: int | None, last_life_ms: int | None) -> Status:
    return Status(activity=Activity(activity), retry_at_ms=_whole(retry_at_ms), last_life_ms=_whole(last_life_ms))


def _ask(id_: str, kind: str, session_id: str, turn_id: str | None, call_ref: str | None) -> Ask:
    turn = TurnId(str(turn_id)) if turn_id is not None else None
    return Ask(
        id=str(id_), kind=AskKind(kind), session_id=SessionId(str(session_id)), turn_id=turn, call_ref=_text(call_ref)
    )


def _seconds(value: float) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError("it is no number of seconds")
    return seconds


def _whole(value: int | None) -> int | None:
    return None if value is None else int(value)


def _text(value: str | None) -> str | None:
    return None if value is None else str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """A saying, and what the running clock showed before the host was asked."""

    saying: Saying
    at: float


class Sayings:
    """What the own host says of some directories: each is asked in a task of its own, so that none waits for another.

    Args:
        own: the host. Where it raises, or hangs, that is what is said.
        clock: tells how old an answer is.
        answered: is called after each answer.
    """

    def __init__(self, own: Hosting, clock: Clock, answered: Callable[[], None]) -> None:
        self._own = own
        self._answered = answered
        self._now: Callable[[], float] = lambda: clock.read().running_seconds
        self._rounds: dict[str, Rounds[float, None]] = {}
        self._said: dict[str, _Said] = {}
        self._episodes: dict[str, Episode] = {}

    async def refresh(self, directories: Collection[str], group: TaskGroup, at: float) -> None:
        """Ask of these directories from now on, and wait for the answers, but not for long.

        Args:
            group: asks in its tasks, which go on when the time is over.
            at: what the database's clock showed before now.
        """
        answered = []
        for directory in directories:
            rounds = self._rounds.get(directory)
            if rounds is None:
                rounds = self._rounds[directory] = self._made(directory)
            answered.append(anyio.Event())
            group.start_soon(_joined, rounds, at, answered[-1], name="ask the own host")
        with anyio.move_on_after(HOST_SECONDS):
            for event in answered:
                await event.wait()

    def idle(self, directories: Collection[str]) -> list[str]:
        """Those of some directories of which no question is under way."""
        return [each for each in directories if each not in self._rounds or not self._rounds[each].waiting]

    def keep(self, directories: Collection[str]) -> None:
        """Forget what was said of all directories but these."""
        self._said = {each: said for each, said in self._said.items() if each in directories}
        self._rounds = {each: found for each, found in self._rounds.items() if found.waiting or each in directories}
        self._episodes = {each: found for each, found in self._episodes.items() if each in directories}

    def now(self) -> dict[str, Saying]:
        """What was last said of each directory, with its age."""
        at = self._now()
        return {
            directory: Saying(
                asked_at=said.saying.asked_at,
                age_seconds=round(max(0.0, at - said.at), 3),
                statuses=said.saying.statuses,
                asks=said.saying.asks,
                problem=said.saying.problem,
            )
            for directory, said in self._said.items()
        }

    def _made(self, directory: str) -> Rounds[float, None]:
        return Rounds(lambda moments: self._ask(directory, max(moments)))

    async def _ask(self, directory: str, asked_at: float) -> None:
        at = self._now()
        try:
            statuses = dict(await self._own.statuses(directory))
            asks = tuple(await self._own.pending_asks(directory))
        except ServerError as error:
            saying = Saying(asked_at=asked_at, age_seconds=0.0, problem=str(error))
        except Exception as error:  # noqa: BLE001 - logged; the server that is watched goes on
            self._episodes.setdefault(directory, Episode("replicas.ask")).failed(error)
            saying = Saying(asked_at=asked_at, age_seconds=0.0, problem=own_error(error))
        else:
            saying = Saying(asked_at=asked_at, age_seconds=0.0, statuses=statuses, asks=asks)
            if directory in self._episodes:
                self._episodes[directory].worked()
        self._said[directory] = _Said(saying=saying, at=at)
        self._answered()


async def _joined(rounds: Rounds[float, None], at: float, answered: anyio.Event) -> None:
    await rounds.join(at)
    answered.set()
