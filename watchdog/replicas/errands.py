"""Errands: aborts passed on to the replica that runs the session: written, claimed, carried out once, answered."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.console.logger import logger
from watchdog.errors import (
    DatabaseUnavailable,
    LeaseLost,
    ServerAnswerInvalid,
    ServerError,
    ServerSilent,
    ServerUntold,
)
from watchdog.model.report import EVERYWHERE
from watchdog.model.session import SessionId
from watchdog.ports import Clock, Hosting
from watchdog.postgres.connection import Fence, transaction, translated
from watchdog.postgres.line import CHANNEL, ERRAND, LINE_SECONDS, NOTIFY_DONE, Episode, Line, Pulse, own_error
from watchdog.postgres.steps import SCHEMA

_PUT: Final = f"""
    INSERT INTO {SCHEMA}.errand (replica, term, asked_at, question)
    VALUES (:replica, :term, clock_timestamp(), :question) RETURNING id
"""  # noqa: S608 - names of our own
_TELL: Final = f"SELECT pg_notify('{CHANNEL}', :said)"
_ANSWERED: Final = f"SELECT id, answer FROM {SCHEMA}.errand WHERE id = ANY($1::bigint[]) AND answer IS NOT NULL"  # noqa: S608 - as above
_OPEN: Final = f"""
    SELECT id, question FROM {SCHEMA}.errand WHERE replica = $1 AND answer IS NULL
    UNION ALL
    SELECT id, question FROM {SCHEMA}.errand WHERE id = ANY($3::bigint[]) AND answer = $2
    ORDER BY id
"""  # noqa: S608 - as above
_CLAIM: Final = f"""
    UPDATE {SCHEMA}.errand SET answer = $2 FROM {SCHEMA}.lease
    WHERE errand.id = $1 AND (errand.answer IS NULL OR errand.answer = $2) AND lease.name = 'watchdog'
    RETURNING errand.term = lease.term AS current,
        extract(epoch FROM clock_timestamp() - errand.asked_at)::float8 AS age_seconds
"""  # noqa: S608 - as above
_ANSWER: Final = f"UPDATE {SCHEMA}.errand SET answer = $2 WHERE id = $1"  # noqa: S608 - as above
_GIVE_UP: Final = f"UPDATE {SCHEMA}.errand SET answer = $2 WHERE answer = $1"  # noqa: S608 - as above
_SWEEP: Final = f"DELETE FROM {SCHEMA}.errand WHERE asked_at < clock_timestamp() - interval '1 day'"  # noqa: S608 - as above


class TermedFence(Fence, Protocol):
    """The lease, and the term for which this process holds it."""

    @property
    def term(self) -> int | None:
        """None while this process does not hold it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Abort:
    """The order, and what its sender relied on: if that no longer holds, it is not carried out.

    Attributes:
        process: the process that said that it is at work on the session; no other one carries it out.
        asks: the ids of those asks that did not prevent the decision. Any other one prevents it.
        life_ms: a sign of life after this moment prevents it; None if none does.
        seconds: how long after it was sent it may be carried out.
    """

    process: str
    session_id: SessionId
    seconds: float
    asks: tuple[str, ...] = ()
    life_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer to it.

    Attributes:
        problem: why it was not carried out, or the host's error; a sentence.
        spared: the host was told nothing: the sender's grounds no longer hold, or are not known. The problem is a
            clause.
        taken: false if the replica did not take it, for reasons of its own or of time.
    """

    problem: str | None = None
    spared: bool = False
    taken: bool = True


class Requests:
    """Passes aborts on, for a watchdog that holds the lease.

    Args:
        engine: makes a connection for each fenced transaction. Not the line's: that one may have no second one.
        read: beats after each `look`.
        wake: causes a `look` soon.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        line: Line,
        lease: TermedFence,
        clock: Clock,
        *,
        read: Pulse,
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._line = line
        self._lease = lease
        self._clock = clock
        self._read = read
        self._wake = wake
        self._awaited: dict[int, Answer | ServerError | None] = {}

    async def abort(self, name: str, replica: str, what: Abort) -> Answer:
        """Write it for a replica, and wait for the answer.

        Args:
            name: of the replica, for people.

        Raises:
            LeaseLost: this watchdog may no longer act; nothing was asked.
            ServerError: it could not be written, or there was no answer in time.
        """
        deadline = self._clock.read().running_seconds + what.seconds
        try:
            id_ = await self._put(replica, what, deadline)
        except LeaseLost:
            raise
        except DatabaseUnavailable as error:
            raise ServerUntold(f"The abort could not be passed on to {name}. {error}") from error
        self._awaited[id_] = None
        self._wake()
        try:
            return await self._answer(id_, name, deadline, what.seconds)
        finally:
            del self._awaited[id_]

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for an answer."""
        return None in self._awaited.values()

    async def look(self) -> None:
        """Read the answers that somebody waits for.

        Raises:
            DatabaseUnavailable: they can't be read.
        """
        waiting = [id_ for id_, answer in self._awaited.items() if answer is None]
        if waiting:
            for row in await self._line.fetch(_ANSWERED, waiting):
                if row["id"] in self._awaited:
                    self._awaited[row["id"]] = _read_answer(row["answer"])

    async def sweep(self) -> None:
        """Remove the errands of more than a day ago.

        Raises:
            DatabaseUnavailable: they can't be removed.
        """
        await self._line.fetch(_SWEEP)

    async def _put(self, replica: str, what: Abort, deadline: float) -> int:
        """Write it; it may begin until the deadline."""
        with translated(self._line.place, DatabaseUnavailable):
            async with transaction(self._engine, seconds=2 * LINE_SECONDS) as connection:
                await self._lease.hold(connection)
                left = replace(what, seconds=max(0.0, deadline - self._clock.read().running_seconds))
                values = {"replica": replica, "term": self._lease.term, "question": json.dumps(asdict(left))}
                id_: int = (await connection.execute(text(_PUT), values)).scalar_one()
                await connection.execute(text(_TELL), {"said": f"{ERRAND}{what.process}"})
            return id_

    async def _answer(self, id_: int, name: str, deadline: float, seconds: float) -> Answer:
        while (answer := self._awaited[id_]) is None:
            left = deadline - self._clock.read().running_seconds
            if left <= 0:
                raise ServerSilent(f"{name} did not answer within {seconds:g} s.")
            await self._read.wait(left)
        if isinstance(answer, ServerError):
            raise answer
        return answer


class Errands:
    """Carries out others' errands for this process, each at most once.

    Args:
        own: the host that aborts.
        process: this process.
        acts: false in a dry run, which refuses all of them.
    """

    def __init__(
        self,
        line: Line,
        own: Hosting,
        clock: Clock,
        *,
        process: str,
        acts: bool,
    ) -> None:
        self._line = line
        self._acts = acts
        self._own = own
        self._clock = clock
        self._process = process
        self._claim = json.dumps({"claimed": process})
        self._under_way: set[int] = set()
        self._unsure: set[int] = set()  # claimed or not: the reply was lost
        self._episode = Episode("errand")

    async def look(self, replica: str, group: TaskGroup) -> None:
        """Begin the errands of this process, in tasks of a group.

        A claim whose reply was lost reads as this process's own, and a later look carries it out.

        Args:
            replica: the name of this process's replica.

        Raises:
            DatabaseUnavailable: it can't be read.
        """
        unsure = list(self._unsure)
        rows = await self._line.fetch(_OPEN, replica, self._claim, unsure)
        self._unsure.difference_update(unsure)
        for row in rows:
            what = _read_question(row["question"])
            if row["id"] not in self._under_way and (what is None or what.process == self._process):
                self._under_way.add(row["id"])
                group.start_soon(self._carry_out, row["id"], what, name=f"errand {row['id']}")

    async def give_up(self) -> None:
        """Answer the errands that were under way when this process had to stop.

        Raises:
            DatabaseUnavailable: it can't be answered.
        """
        stopped = Answer(problem="It was stopped in the meantime.")
        await self._line.fetch(_GIVE_UP, self._claim, json.dumps(asdict(stopped)))
        await self._line.fetch(NOTIFY_DONE)

    async def _carry_out(self, id_: int, what: Abort | None) -> None:
        try:
            sent = self._clock.read().running_seconds
            try:
                claimed = await self._line.fetch(_CLAIM, id_, self._claim)
            except DatabaseUnavailable:
                self._unsure.add(id_)  # whether it is claimed or not, the next look that can claim it finds it
                return
            if claimed:
                await self._do(id_, what, claimed[0], sent)
        finally:
            self._under_way.discard(id_)

    async def _do(self, id_: int, what: Abort | None, claimed: Any, sent: float) -> None:  # noqa: ANN401 - a row
        if what is None:
            answer = Answer(
                problem="It can't read what was asked: the replicas may be of different versions.", taken=False
            )
        elif not claimed["current"]:
            answer = Answer(problem="Another watchdog took over since it was asked.", taken=False)
        elif not self._acts:
            answer = Answer(problem="It makes a dry run, so it ends nothing.", taken=False)
        else:
            answer = await self._abort(what, claimed["age_seconds"], sent)
        logger().info("errand.done", errand=id_, session_id=what.session_id if what else None, problem=answer.problem)
        await self._reply(id_, answer)

    async def _abort(self, what: Abort, age_seconds: float, sent: float) -> Answer:
        """Abort, unless it is too late, perhaps because this process stood still, or the session is to be spared."""
        left = what.seconds - age_seconds - (self._clock.read().running_seconds - sent)
        if left <= 0:
            return Answer(problem=f"It was asked more than {what.seconds:.3g} s ago.", taken=False)
        told = False
        try:
            with anyio.fail_after(left):
                if (doubt := await self._doubt(what)) is not None:
                    return Answer(problem=doubt, spared=True)
                told = True
                await self._own.abort(self._own.own, what.session_id, EVERYWHERE)
        except ServerError as error:
            return Answer(problem=str(error), spared=not told)
        except TimeoutError:
            if not told:
                return Answer(problem="its host did not say in time what it is at work on", spared=True)
            return Answer(problem="The host did not answer the abort in time.")
        except Exception as error:  # noqa: BLE001 - logged; the server that is watched goes on
            self._episode.failed(error)
            return Answer(problem=own_error(error), spared=not told)
        self._episode.worked()
        return Answer()

    async def _doubt(self, what: Abort) -> str | None:
        """What speaks against it at the last moment: time has passed since its sender last looked."""
        for ask in await self._own.pending_asks(EVERYWHERE):
            if ask.session_id == what.session_id and ask.id not in what.asks:
                return "a person is asked for something in it"
        status = (await self._own.statuses(EVERYWHERE)).get(what.session_id)
        if status is None:
            return "it is not at work on it any more"
        if what.life_ms is not None and (status.last_life_ms or 0) > what.life_ms:
            return "it showed life again"
        return None

    async def _reply(self, id_: int, answer: Answer) -> None:
        await self._line.insist(self._clock, _ANSWER, id_, json.dumps(asdict(answer)))
        await self._line.insist(self._clock, NOTIFY_DONE)


def _read_question(question: str) -> Abort | None:
    try:
        value: Mapping[str, Any] = json.loads(question)
        return Abort(
            process=str(value["process"]),
            session_id=SessionId(str(value["session_id"])),
            seconds=float(value["seconds"]),
            asks=tuple(str(ask) for ask in value["asks"]),
            life_ms=None if value["life_ms"] is None else int(value["life_ms"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _read_answer(answer: str) -> Answer | ServerError | None:
    try:
        value: Mapping[str, Any] = json.loads(answer)
        if "claimed" in value:
            return None
        problem = value["problem"]
        return Answer(
            problem=None if problem is None else str(problem),
            spared=bool(value["spared"]),
            taken=bool(value["taken"]),
        )
    except (ValueError, KeyError, TypeError):
        return ServerAnswerInvalid("The replica's answer can't be read: the replicas may be of different versions.")
