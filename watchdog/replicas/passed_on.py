"""People's requests to the leader, passed on by any replica or command that they ask.

Each is a row of its own: written, taken on at most once by the leader while it has the lease, carried out, answered.
The caller waits as long as the leader that took it on has the lease.
"""

from typing import Any, Final, NoReturn

import anyio
from anyio.abc import TaskGroup

from watchdog.acting.undo import Undoing
from watchdog.console.logger import logger
from watchdog.errors import (
    DatabaseUnavailable,
    NotActing,
    ServerAnswerInvalid,
    ServerSilent,
    ServerUnreachable,
    WatchdogError,
)
from watchdog.model.interventions import InterventionId
from watchdog.model.mandate import named
from watchdog.model.outcome import Outcome
from watchdog.model.session import SessionId
from watchdog.operating.operations import Answer, OperationKind
from watchdog.operating.requests import UNREAD, CarryOut, Wanted, dump_answer, dump_error, read_answer, read_wanted
from watchdog.ports import Clock
from watchdog.postgres.line import ANSWERED, CHANNEL, WANTED, Line, Pulse, own_error
from watchdog.postgres.steps import SCHEMA
from watchdog.replicas.errands import TermedFence

# ruff: noqa: S608 - names of our own

TAKE_SECONDS: Final = 20.0
"""How long a request may wait until somebody takes it on: longer than it takes to replace a dead leader."""
_LOST_SECONDS: Final = 5.0
"""How long to wait for an answer after the leader that took it on lost the right to act."""
_UNREAD_SECONDS: Final = 30.0
"""How long the database may be away while somebody waits for an answer."""
_ASK_SECONDS: Final = 1.0
_WITHDRAW_SECONDS: Final = 1.0
_MAY_BE_DONE: Final = "It may have been done all the same: `history` shows it."

_PUT: Final = f"""
    WITH put AS (
        INSERT INTO {SCHEMA}.request (asked_by, asked_at, question) VALUES ($1, clock_timestamp(), $2) RETURNING id
    ) SELECT id, pg_notify('{CHANNEL}', '{WANTED}') FROM put
"""
_STATE: Final = f"""
    SELECT request.taken_by, request.answer, lease.holder, lease.expires_at <= clock_timestamp() AS free,
        lease.term = request.term AND lease.expires_at > clock_timestamp() AS holds
    FROM {SCHEMA}.request CROSS JOIN {SCHEMA}.lease WHERE request.id = $1 AND lease.name = 'watchdog'
"""
_WITHDRAW: Final = f"""
    UPDATE {SCHEMA}.request SET taken_by = '', answer = '' WHERE id = $1 AND taken_by IS NULL RETURNING id
"""
_OPEN: Final = f"SELECT id, question, asked_by FROM {SCHEMA}.request WHERE taken_by IS NULL ORDER BY id"
_UNSURE: Final = f"""
    SELECT id, question, asked_by FROM {SCHEMA}.request
    WHERE id = ANY($1::bigint[]) AND taken_by = $2 AND answer IS NULL
"""
_TAKE: Final = f"""
    UPDATE {SCHEMA}.request SET taken_by = $2, term = lease.term FROM {SCHEMA}.lease
    WHERE request.id = $1 AND (taken_by IS NULL OR (taken_by = $2 AND request.term = $3 AND answer IS NULL))
        AND lease.name = 'watchdog' AND lease.term = $3 AND lease.expires_at > clock_timestamp()
    RETURNING extract(epoch FROM clock_timestamp() - asked_at)::float8 AS age_seconds
"""
_ANSWER: Final = f"""
    WITH said AS (UPDATE {SCHEMA}.request SET answer = $2 WHERE id = $1 RETURNING id)
    SELECT pg_notify('{CHANNEL}', '{ANSWERED}') FROM said
"""
_GIVE_UP: Final = f"UPDATE {SCHEMA}.request SET answer = $2 WHERE taken_by = $1 AND answer IS NULL"
_SWEEP: Final = f"DELETE FROM {SCHEMA}.request WHERE asked_at < clock_timestamp() - interval '1 day'"


class PassedOn:
    """Both sides of it. See `requests.Leader`.

    Args:
        name: the name of this replica, for people; it takes requests on under this name.
    """

    def __init__(self, line: Line, lease: TermedFence, clock: Clock, *, name: str) -> None:
        self._line = line
        self._lease = lease
        self._clock = clock
        self._name = name
        self._carry_out: CarryOut | None = None
        self._under_way: set[int] = set()
        self._unsure: set[int] = set()  # taken on or not: the database's answer was lost
        self.told: Final = Pulse()
        """Beats when something was answered."""

    # -- who asks --------------------------------------------------------------------------------------------

    async def release(
        self, session_id: SessionId, *, reason: str | None, below: bool, agreed: tuple[SessionId, ...] = ()
    ) -> tuple[Outcome, ...]:
        """See `Leader.release`."""
        wanted = Wanted(kind=OperationKind.RELEASE, session_id=session_id, reason=reason, below=below, agreed=agreed)
        answer = await self._ask(wanted)
        if not isinstance(answer, tuple):
            raise ServerAnswerInvalid(UNREAD)
        return answer

    async def undo(self, number: InterventionId) -> Undoing:
        """See `Leader.undo`."""
        answer = await self._ask(Wanted(kind=OperationKind.UNDO, number=number))
        if not isinstance(answer, Undoing):
            raise ServerAnswerInvalid(UNREAD)
        return answer

    async def _ask(self, wanted: Wanted) -> Answer:
        """A cancelled caller takes back a request that nobody has taken on yet; otherwise it goes on."""
        try:
            with anyio.CancelScope(shield=True):  # a row that nobody knows of could not be taken back
                put = await self._line.fetch(_PUT, self._name, wanted.dump())
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(f"{error} Whether it was passed on is not known. {_MAY_BE_DONE}") from error
        id_: int = put[0]["id"]
        try:
            return await self._answer(id_)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_WITHDRAW_SECONDS, shield=True):
                await self._withdrawn(id_)
            raise

    async def _answer(self, id_: int) -> Answer:
        asked_at = read_at = self._now()
        lost_at: float | None = None
        while True:
            state = await self._state(id_)
            now = self._now()
            if state is not None:
                read_at = now
                if state["answer"] is not None:
                    return read_answer(state["answer"])
                lost_at = None if state["taken_by"] is None or state["holds"] else lost_at or now
                if state["taken_by"] is None and now - asked_at > TAKE_SECONDS and await self._withdrawn(id_):
                    self._refuse(state)
                if lost_at is not None and now - lost_at > _LOST_SECONDS:
                    who = named(state["taken_by"])
                    raise ServerUnreachable(
                        f"{who[0].upper()}{who[1:]} took it on, and lost the right to act before it answered. "
                        f"{_MAY_BE_DONE}"
                    )
            elif now - read_at > _UNREAD_SECONDS:
                raise ServerSilent(f"The answer can't be read from {self._line.place}. {_MAY_BE_DONE}")
            await self.told.wait(_ASK_SECONDS)

    async def _state(self, id_: int) -> Any | None:  # noqa: ANN401 - a row
        try:
            rows = await self._line.fetch(_STATE, id_)
        except DatabaseUnavailable:
            return None
        if not rows:
            raise ServerUnreachable(f"The request is gone from {self._line.place}. {_MAY_BE_DONE}")
        return rows[0]

    def _refuse(self, state: Any) -> NoReturn:  # noqa: ANN401 - a row
        place, seconds = self._line.place, f"{TAKE_SECONDS:g} s"
        if state["free"]:
            raise NotActing(f"No watchdog acts on {place} at this moment, and none began to within {seconds}.")
        raise NotActing(
            f"Another watchdog ({named(state['holder'])}) acts on {place}, and did not take it on within {seconds}: "
            "it hangs, or is of an older version. Nothing was done; stop that one, or ask it itself."
        )

    async def _withdrawn(self, id_: int) -> bool:
        """Take it back; False if somebody has taken it on, or that is not known."""
        try:
            return bool(await self._line.fetch(_WITHDRAW, id_))
        except DatabaseUnavailable:
            return False

    # -- who acts --------------------------------------------------------------------------------------------

    def answer_for(self, carry_out: CarryOut) -> None:
        """See `Leader.answer_for`."""
        self._carry_out = carry_out

    async def look(self, group: TaskGroup) -> None:
        """Take requests on, in tasks of a group. For the holder of the lease.

        Raises:
            DatabaseUnavailable: it can't be read.
        """
        term = self._lease.term
        if self._carry_out is None or term is None:
            return
        rows = list(await self._line.fetch(_OPEN))
        if self._unsure:
            rows += await self._line.fetch(_UNSURE, list(self._unsure), self._name)
            self._unsure.clear()
        for row in rows:
            if row["id"] not in self._under_way:
                self._under_way.add(row["id"])
                group.start_soon(self._take_on, row, term, self._carry_out, name=f"request {row['id']}")

    async def give_up(self) -> None:
        """Answer the requests that were under way when this process had to stop.

        Raises:
            DatabaseUnavailable: it can't be answered.
        """
        if self._carry_out is not None:
            stopped = ServerUnreachable(f"It was stopped before that was over. {_MAY_BE_DONE}")
            await self._line.fetch(_GIVE_UP, self._name, dump_error(stopped))

    async def sweep(self) -> None:
        """Remove requests of more than a day ago.

        Raises:
            DatabaseUnavailable: it can't be removed.
        """
        await self._line.fetch(_SWEEP)

    async def _take_on(self, row: Any, term: int, carry_out: CarryOut) -> None:  # noqa: ANN401 - a row
        id_: int = row["id"]
        try:
            try:
                taken = await self._line.fetch(_TAKE, id_, self._name, term)
            except DatabaseUnavailable:
                self._unsure.add(id_)
                return
            if taken:
                wanted = read_wanted(row["question"])
                problem = self._problem(wanted, taken[0]["age_seconds"])
                if wanted is None or problem is not None:
                    answer = dump_error(NotActing(problem or ""))
                else:
                    answer = await self._done(row, wanted, carry_out)
                await self._line.insist(self._clock, _ANSWER, id_, answer)
        finally:
            self._under_way.discard(id_)

    def _problem(self, wanted: Wanted | None, age_seconds: float) -> str | None:
        if wanted is None:
            return "The replica that acts can't read the request: the replicas may be of different versions."
        if age_seconds > TAKE_SECONDS:
            return f"It was asked for more than {TAKE_SECONDS:g} s ago, and nobody waits for it."
        return None

    async def _done(self, row: Any, wanted: Wanted, carry_out: CarryOut) -> str:  # noqa: ANN401 - a row
        problem = None
        try:
            answer = dump_answer(await carry_out(wanted))
        except WatchdogError as error:
            problem, answer = str(error), dump_error(error)
        except Exception as error:  # noqa: BLE001 - said in the log; the server that is watched goes on
            problem = own_error(error)
            answer = dump_error(ServerUnreachable(f"It met {problem}. {_MAY_BE_DONE}"))
        logger().info(
            "request.done", request=row["id"], kind=wanted.kind.value, asked_by=row["asked_by"], problem=problem
        )
        return answer

    def _now(self) -> float:
        return self._clock.read().running_seconds
