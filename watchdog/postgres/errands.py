"""Aborts that are passed on to the replica that runs the session: put down, claimed, carried out once, answered."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

import anyio
import structlog
from anyio.abc import TaskGroup
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.errors import (
    DatabaseUnavailable,
    LeaseLost,
    ServerAnswerInvalid,
    ServerError,
    ServerSilent,
    ServerUnreachable,
)
from watchdog.model import SessionId
from watchdog.ports import Clock, Server
from watchdog.postgres.connection import Fence, transaction, translated
from watchdog.postgres.line import LINE_SECONDS, Line, Pulse
from watchdog.postgres.own import SCHEMA

CHANNEL: Final = "opencode_watchdog_errand"
_RETRY_SECONDS: Final = 1.0

_PUT: Final = f"""
    INSERT INTO {SCHEMA}.errand (replica, term, asked_at, question)
    VALUES (:replica, :term, clock_timestamp(), :question) RETURNING id
"""  # noqa: S608 - names of our own
NOTIFY: Final = f"SELECT pg_notify('{CHANNEL}', '')"
_ANSWERED: Final = f"SELECT id, answer FROM {SCHEMA}.errand WHERE id = ANY($1::bigint[]) AND answer IS NOT NULL"  # noqa: S608 - as above
_OPEN: Final = f"""
    SELECT id, question FROM {SCHEMA}.errand WHERE replica = $1 AND (answer IS NULL OR answer = $2) ORDER BY id
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
    """What is asked.

    Attributes:
        process: of the one that said that it is at work on the session; no other one carries it out.
        seconds: for how long it may be carried out after it was asked.
    """

    process: str
    session_id: SessionId
    directory: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        problem: why it was not carried out, or what the host said instead of an answer; a sentence.
        number: of the last question to that host before it was over: only what has a higher one was said after it.
    """

    problem: str | None
    number: int


class Requests:
    """Passes aborts on, for a watchdog that holds the lease.

    Args:
        engine: makes a connection for each fenced transaction.
        read: beats after each `look`.
        wake: makes that `look` is called soon.
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
        """Put it down for a replica, and wait for the answer.

        Args:
            name: of the replica, for people.

        Raises:
            LeaseLost: this watchdog may not act any more; nothing was asked.
            ServerError: it could not be put down, or there was no answer in time.
        """
        deadline = self._clock.read().running_seconds + what.seconds
        try:
            id_ = await self._put(replica, what, deadline)
        except LeaseLost:
            raise
        except DatabaseUnavailable as error:
            raise ServerUnreachable(f"The abort could not be passed on to {name}. {error}") from error
        self._awaited[id_] = None
        self._wake()
        try:
            return await self._answer(id_, name, deadline, what.seconds)
        finally:
            del self._awaited[id_]

    async def look(self) -> None:
        """Read the answers that are waited for.

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
        """Put it down, to be begun until the deadline."""
        with translated(self._line.place, DatabaseUnavailable):
            async with transaction(self._engine, seconds=2 * LINE_SECONDS) as connection:
                await self._lease.hold(connection)
                left = replace(what, seconds=max(0.0, deadline - self._clock.read().running_seconds))
                values = {"replica": replica, "term": self._lease.term, "question": json.dumps(asdict(left))}
                id_: int = (await connection.execute(text(_PUT), values)).scalar_one()
                await connection.execute(text(NOTIFY))
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
    """Carries out what others ask of this process, each at most once.

    Args:
        own: the host that aborts.
        process: this process.
        number: of the last question to that host.
        publish: is awaited once something was carried out, before it is answered: publishes what the host says of the
            directory then. Raises DatabaseUnavailable when it can't.
    """

    def __init__(
        self,
        line: Line,
        own: Server,
        clock: Clock,
        *,
        process: str,
        number: Callable[[], int],
        publish: Callable[[str], Awaitable[None]],
    ) -> None:
        self._line = line
        self._own = own
        self._clock = clock
        self._process = process
        self._number = number
        self._publish = publish
        self._claim = json.dumps({"claimed": process})
        self._under_way: set[int] = set()

    async def look(self, replica: str, group: TaskGroup) -> None:
        """Begin what is asked of this process, in tasks of a group.

        A claim whose reply was lost reads as this process's own, and is carried out by a later look.

        Args:
            replica: as which this process is known.

        Raises:
            DatabaseUnavailable: it can't be read.
        """
        for row in await self._line.fetch(_OPEN, replica, self._claim):
            what = _read_question(row["question"])
            if row["id"] not in self._under_way and (what is None or what.process == self._process):
                self._under_way.add(row["id"])
                group.start_soon(self._carry_out, row["id"], what, name=f"errand {row['id']}")

    async def give_up(self) -> None:
        """Answer what was under way when this process was told to stop.

        Raises:
            DatabaseUnavailable: it can't be answered.
        """
        stopped = Answer(problem="It was stopped meanwhile.", number=self._number())
        await self._line.fetch(_GIVE_UP, self._claim, json.dumps(asdict(stopped)))
        await self._line.fetch(NOTIFY)

    async def _carry_out(self, id_: int, what: Abort | None) -> None:
        try:
            sent = self._clock.read().running_seconds
            try:
                claimed = await self._line.fetch(_CLAIM, id_, self._claim)
            except DatabaseUnavailable:
                return  # whether it is claimed or not, the next look that can be taken finds it
            if claimed:
                await self._do(id_, what, claimed[0], sent)
        finally:
            self._under_way.discard(id_)

    async def _do(self, id_: int, what: Abort | None, claimed: Any, sent: float) -> None:  # noqa: ANN401 - a row
        if what is None:
            problem: str | None = "It can't read what was asked: the replicas may be of different versions."
        elif not claimed["current"]:
            problem = "Another watchdog took over since it was asked."
        else:
            problem = await self._abort(what, claimed["age_seconds"], sent)
        structlog.get_logger("watchdog").info(
            "errand.done", errand=id_, session_id=what.session_id if what else None, problem=problem
        )
        await self._reply(id_, what.directory if what else None, Answer(problem=problem, number=self._number()))

    async def _abort(self, what: Abort, age_seconds: float, sent: float) -> str | None:
        """Abort, unless it is too late for it, be it that this process stood still in between."""
        left = what.seconds - age_seconds - (self._clock.read().running_seconds - sent)
        if left <= 0:
            return f"It was asked more than {what.seconds:.3g} s ago."
        try:
            with anyio.fail_after(left):
                await self._own.abort(what.session_id, what.directory)
        except ServerError as error:
            return str(error)
        except TimeoutError:
            return "The host did not answer the abort in time."
        return None

    async def _reply(self, id_: int, directory: str | None, answer: Answer) -> None:
        """Publish what the host says now, then answer, as soon as the database takes it."""
        while True:
            try:
                if directory is not None:
                    await self._publish(directory)
                await self._line.fetch(_ANSWER, id_, json.dumps(asdict(answer)))
                await self._line.fetch(NOTIFY)
            except DatabaseUnavailable:
                await self._clock.sleep(_RETRY_SECONDS)
            else:
                return


def _read_question(question: str) -> Abort | None:
    try:
        value: Mapping[str, Any] = json.loads(question)
        return Abort(
            process=str(value["process"]),
            session_id=SessionId(str(value["session_id"])),
            directory=str(value["directory"]),
            seconds=float(value["seconds"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _read_answer(answer: str) -> Answer | ServerError | None:
    try:
        value: Mapping[str, Any] = json.loads(answer)
        if "claimed" in value:
            return None
        problem = value["problem"]
        return Answer(problem=None if problem is None else str(problem), number=int(value["number"]))
    except (ValueError, KeyError, TypeError):
        return ServerAnswerInvalid("The replica's answer can't be read: the replicas may be of different versions.")
