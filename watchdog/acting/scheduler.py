"""Carries verdicts out: several at once, a fixed number at each server, and never two on one session at a time."""

import math
from collections.abc import Awaitable, Callable, Iterable

import anyio
from anyio.abc import TaskGroup

from watchdog.acting.intervention import Remedy
from watchdog.errors import DatabaseUnavailable, NotActing
from watchdog.judging.rulings import Consent
from watchdog.model.interventions import Actor, Intervention
from watchdog.model.outcome import Outcome, Result
from watchdog.model.session import ServerName, SessionId
from watchdog.model.verdict import Verdict, VerdictKind
from watchdog.observing.memory import Memory
from watchdog.ports import Counter
from watchdog.timing.events import Listener
from watchdog.timing.pace import Pace

_ORPHANS_FOR_ONE = 4
"""An orphan mostly waits for a look at everything, which it shares with all others that wait for one."""

_LATELY_SECONDS = 600.0
"""No release takes longer: for this long an outcome also answers a release that was asked for before it ended."""

STOPPING = "This watchdog is stopping, and begins nothing more."

Ended = Callable[[Verdict, Outcome], None]


class Acting:
    """Acts on one database and its servers.

    Each server has a queue of its own, orphans have one, and everything else that no server claims has one, too: a
    server that hangs delays nobody else's.

    Args:
        keep: keeps the memory, after an outcome was counted.
    """

    def __init__(
        self,
        *,
        remedy: Remedy,
        memory: Memory,
        clock: Counter,
        pace: Pace,
        listeners: Listener,
        keep: Callable[[], Awaitable[None]],
    ) -> None:
        self._remedy = remedy
        self._memory = memory
        self._clock = clock
        self._pace = pace
        self._listeners = listeners
        self._keep = keep
        self._queues: dict[ServerName | VerdictKind | None, anyio.CapacityLimiter] = {}
        self._scheduled: dict[SessionId, _UnderWay] = {}
        self._begun: set[SessionId] = set()
        self._ended: dict[SessionId, float] = {}
        self._lately: dict[SessionId, tuple[float, Outcome]] = {}
        """The last intervention on each session lately, and when it ended."""
        self._stopping = False
        self._at_rest = anyio.Event()

    @property
    def scheduled(self) -> frozenset[SessionId]:
        """The sessions that are acted on, or wait for their turn."""
        return frozenset(self._scheduled)

    @property
    def begun(self) -> frozenset[SessionId]:
        """The sessions that are acted on now."""
        return frozenset(self._begun)

    # -- one -------------------------------------------------------------------------------------------------

    async def act(
        self,
        verdict: Verdict,
        *,
        reason: str | None = None,
        actor: Actor = Actor.WATCHDOG,
        consent: Consent | None = None,
    ) -> Outcome:
        """Carry one verdict out, and remember how it went. An error of the watchdog's own is contained."""
        self._listeners.found(verdict)
        counted = _Counted(self, verdict)
        try:
            outcome = await self._remedy.carry_out(
                verdict,
                claimant=self._memory.claimed_by.get(verdict.cancel_session_id),
                consent=consent,
                dry_run=self._pace.dry_run,
                reason=reason,
                actor=actor,
                count=counted,
            )
        except Exception as error:  # noqa: BLE001 - one verdict must not take the others down; it is counted and told
            outcome = self._failed(verdict, error)
        self._tell(counted, outcome)
        return outcome

    async def close(self, intervention: Intervention) -> None:
        """Say how an intervention ended that a crash left begun, and count it if it did not work.

        An error of the watchdog's own is contained here, too: otherwise it would end each start from then on.

        Raises:
            DatabaseUnavailable: nobody can know now how it ended; it stays begun.
        """
        counted = _Counted(self, intervention.verdict)
        ended: Outcome | Exception
        try:
            ended = await self._remedy.resume(intervention, count=counted)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            ended = error
        self._listeners.found(intervention.verdict)  # an act that is reported as ended was reported as begun
        outcome = self._failed(intervention.verdict, ended) if isinstance(ended, Exception) else ended
        self._tell(counted, outcome)

    def _failed(self, verdict: Verdict, error: Exception) -> Outcome:
        """An error of the watchdog's own, reported, as an outcome."""
        self._listeners.failed(verdict, error)
        return Outcome(
            session_id=verdict.session_id,
            kind=verdict.kind,
            result=Result.FAILED,
            steps=(),
            why=f"an error of the watchdog's own: {type(error).__name__}",
        )

    async def count(self, verdict: Verdict, outcome: Outcome, *, attempted: bool = True) -> bool:
        """Count an outcome, and keep the count. Returns whether it is given up now."""
        given_up = self._memory.note_outcome(
            verdict,
            outcome,
            now=self._clock.now(),
            pause_seconds=max(1.0, self._remedy.ladder.abort_grace_seconds),
            most=self._pace.max_attempts,
            attempted=attempted,
        )
        await self._keep()
        return given_up

    def _tell(self, counted: "_Counted", outcome: Outcome) -> None:
        self._listeners.ended(counted.verdict, outcome, given_up=counted.given_up)

    # -- several ---------------------------------------------------------------------------------------------

    def schedule(self, verdicts: Iterable[Verdict], group: TaskGroup, *, seen_at: float, ended: Ended) -> None:
        """Begin to carry verdicts out, each in its turn.

        Args:
            verdicts: what to carry out; a session that is scheduled already, or whose last attempt ended after the
                look, is left for the next look.
            group: the tasks that do it.
            seen_at: when the look behind them began, on the awake clock.
            ended: told of each outcome.
        """
        self._ended = {id_: at for id_, at in self._ended.items() if at >= seen_at}
        if not self._scheduled:
            self._queues.clear()  # a server that is gone needs no queue
        for verdict in verdicts:
            session_id = verdict.cancel_session_id
            if session_id not in self._scheduled and session_id not in self._ended:
                self._scheduled[session_id] = _UnderWay()
                group.start_soon(self._act_in_turn, verdict, ended, name=f"act on {session_id}")

    async def carry_out(self, verdicts: Iterable[Verdict], *, seen_at: float, ended: Ended) -> None:
        """Carry verdicts out, and wait for the end of all of them; see `schedule`."""
        async with anyio.create_task_group() as group:
            self.schedule(verdicts, group, seen_at=seen_at, ended=ended)

    @property
    def stopping(self) -> bool:
        """Whether it begins nothing more."""
        return self._stopping

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True
        if not self._begun:
            self._at_rest.set()

    async def stopped(self) -> None:
        """Wait for the end of everything that began before `stop`."""
        await self._at_rest.wait()

    async def join(self, session_id: SessionId, *, since: float = math.inf) -> Outcome | None:
        """Wait until nothing is under way on a session any more.

        Args:
            since: an intervention that ended after this, on the awake clock, counts as one under way.

        Returns:
            The outcome of that intervention; None if there was none, or if it dropped its verdict.
        """
        while (other := self._scheduled.get(session_id)) is not None:
            await other.ended.wait()
            if other.outcome is not None and other.outcome.result is not Result.UNCHANGED:
                return other.outcome
        ended = self._lately.get(session_id)
        return ended[1] if ended is not None and ended[0] > since else None

    async def act_alone(
        self, verdict: Verdict, *, reason: str | None, actor: Actor, consent: Consent | None = None
    ) -> Outcome:
        """Carry one verdict out in its turn; if its session is already acted on, `join` that.

        Raises:
            NotActing: nothing more is begun, because the watchdog is stopping.
        """
        session_id = verdict.cancel_session_id
        joined = await self.join(session_id)
        if joined is not None:
            return joined
        self._scheduled[session_id] = _UnderWay()
        outcome = await self._in_turn(verdict, reason=reason, actor=actor, consent=consent)
        if outcome is None:
            raise NotActing(STOPPING)
        return outcome

    async def _act_in_turn(self, verdict: Verdict, ended: Ended) -> None:
        outcome = await self._in_turn(verdict)
        if outcome is not None:
            ended(verdict, outcome)

    async def _in_turn(
        self,
        verdict: Verdict,
        *,
        reason: str | None = None,
        actor: Actor = Actor.WATCHDOG,
        consent: Consent | None = None,
    ) -> Outcome | None:
        """Carry out a verdict whose session is scheduled; None if it no longer begins."""
        session_id = verdict.cancel_session_id
        under_way = self._scheduled[session_id]
        try:
            async with self._queue(verdict):
                if self._stopping:
                    return None
                self._begun.add(session_id)
                under_way.outcome = await self.act(verdict, reason=reason, actor=actor, consent=consent)
                return under_way.outcome
        finally:
            now = self._ended[session_id] = self._clock.read().awake_seconds
            self._note_lately(session_id, under_way.outcome, now)
            del self._scheduled[session_id]
            self._begun.discard(session_id)
            under_way.ended.set()
            if self._stopping and not self._begun:
                self._at_rest.set()

    def _note_lately(self, session_id: SessionId, outcome: Outcome | None, now: float) -> None:
        self._lately = {id_: each for id_, each in self._lately.items() if now - each[0] <= _LATELY_SECONDS}
        if outcome is not None and outcome.result is not Result.UNCHANGED:
            self._lately[session_id] = (now, outcome)

    def _queue(self, verdict: Verdict) -> anyio.CapacityLimiter:
        """The queue of a verdict: that of the server that was last heard to be at work on the session."""
        width = self._pace.max_concurrency
        queue: ServerName | VerdictKind | None = self._memory.claimed_by.get(verdict.cancel_session_id)
        if verdict.kind is VerdictKind.ORPHAN:
            queue, width = verdict.kind, width * _ORPHANS_FOR_ONE
        if queue not in self._queues:
            self._queues[queue] = anyio.CapacityLimiter(width)
        return self._queues[queue]


class _UnderWay:
    """One act on a session, from the moment that it is scheduled."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.outcome: Outcome | None = None


class _Counted:
    """Counts the outcome of a verdict, for the listeners that hear of it afterwards."""

    def __init__(self, acting: Acting, verdict: Verdict) -> None:
        self._acting = acting
        self.verdict = verdict
        self.given_up = False

    async def __call__(self, outcome: Outcome, /, *, attempted: bool) -> None:
        self.given_up = await self._acting.count(self.verdict, outcome, attempted=attempted)
