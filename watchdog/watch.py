"""The loop: look, judge, act, and look again, until it is told to stop."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from watchdog.climb import Ladder
from watchdog.clock import Timeline
from watchdog.errors import DatabaseError, JournalUnusable, ShutdownTimedOut
from watchdog.interventions import Actor
from watchdog.judge import judge, reprove
from watchdog.listening import Assessment, Listener
from watchdog.memory import Memory
from watchdog.model import (
    Judgement,
    Outcome,
    Policy,
    Reproof,
    Result,
    ServerName,
    SessionId,
    TurnId,
    Verdict,
    VerdictKind,
)
from watchdog.observe import Observer
from watchdog.ports import Clock, Fleet, Journal, Owners, Store
from watchdog.recollection import Recollection
from watchdog.remedy import Remedy

__all__ = ["Assessment", "Listener", "Mandate", "Pace", "Watch"]

_LATE_SECONDS = 10.0
_LATE_INTERVALS = 3
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_BACK_OFF_SECONDS = 60.0
_MOST_DOUBLINGS = 16
_FORGET_CREDITS_MS = 30 * 24 * 3600 * 1000


class Mandate(Protocol):
    """The right to act on a database: one watchdog has it at a time."""

    def acquire(self) -> bool:
        """Take it if nobody has it. True while it is held."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often the loop looks, how much it does, and how it stops. Durations in seconds.

    Attributes:
        recover_on_start: settle also the orphans that were there when the watch began.
        journal_retention_seconds: how long interventions are kept; None for ever.
        max_concurrency: how many verdicts are carried out at the same time.
    """

    poll_interval_seconds: float = 5.0
    full_scan_interval_seconds: float = 600.0
    shutdown_grace_seconds: float = 10.0
    max_attempts: int = 3
    max_concurrency: int = 8
    recover_on_start: bool = True
    journal_retention_seconds: float | None = None
    dry_run: bool = False


class Watch:
    """Watches one database and its servers."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        owners: Owners,
        clock: Clock,
        mandate: Mandate,
        journal: Journal,
        boot_id: str,
        policy: Policy,
        pace: Pace,
        ladder: Ladder,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.policy = policy
        self.pace = pace
        self.ladder = ladder
        self.listeners = listeners
        self.clock = clock
        self.mandate = mandate
        self.journal = journal
        self.memory = Memory()
        self.timeline = Timeline()
        self.observer = Observer(
            store=store,
            fleet=fleet,
            owners=owners,
            memory=self.memory,
            reuse_holders_ms=int(policy.orphan_grace_seconds * 500),
        )
        self.remedy = Remedy(
            store=store, fleet=fleet, clock=clock, reprove=self.reprove, ladder=ladder, journal=journal
        )
        self.recollection = Recollection(
            journal=journal, clock=clock, memory=self.memory, timeline=self.timeline, boot_id=boot_id
        )
        self._took_over = False
        self._planned: float | None = None
        self._stood_still = 0.0
        """Whether this is the one who acts, and whose memory is kept."""
        self._began_to_act = False
        self._wakeup = anyio.Event()
        self._acting: set[SessionId] = set()
        self._acted: dict[SessionId, float] = {}
        self._left: frozenset[str] | None = None if not pace.recover_on_start else frozenset()
        self._limiter = anyio.CapacityLimiter(pace.max_concurrency)

    # -- looking ---------------------------------------------------------------------------------------------

    async def assess(
        self,
        *,
        also: Collection[SessionId] = (),
        full: bool = False,
        scan_parts: bool = False,
        fresh: bool = False,
    ) -> Assessment:
        """Look once and judge.

        Raises:
            DatabaseError: the database can't be read.
            JournalUnusable: the journal can't be read, so it is not known what is on hold.
        """
        await self.recollection.recall()
        reading = self.clock.read()
        # Whichever look is the first one after the machine or the process stood still notices it.
        due = self._planned is not None and reading.awake_seconds >= self._planned
        advance = self.timeline.advance(reading, planned_awake_seconds=self._planned if due else None)
        self._planned = None if due else self._planned
        self._stood_still = max(self._stood_still, advance.late_seconds, advance.slept_seconds)
        self.timeline.prune(reading.wall_ms - _FORGET_CREDITS_MS)
        observation = await self.observer.look(
            reading.wall_ms,
            self.timeline.shift,
            awake_seconds=reading.awake_seconds,
            step_ms=self.timeline.step_ms,
            also=also,
            full=full,
            scan_parts=scan_parts,
            fresh=fresh,
        )
        # After the look: `undo` notes its hold before it opens rows again, so whoever sees the rows sees the hold.
        holds = await self.journal.holds(reading.wall_ms)
        observation = replace(observation, on_hold={id_: hold.why for id_, hold in holds.items()})
        judgement = judge(observation, self.policy, reading.wall_ms)
        self.memory.note_looks(observation, judgement.unclaimed)
        slow = self.clock.read().awake_seconds - reading.awake_seconds
        return Assessment(
            observation=observation,
            judgement=judgement,
            advance=advance,
            began_at=reading.awake_seconds,
            slow_seconds=slow,
        )

    async def reprove(
        self, session_id: SessionId, *, let_go: Mapping[TurnId, ServerName] = MappingProxyType({})
    ) -> Reproof:
        """Look afresh, at holders and lock too, and try to prove that nobody executes what is open in a session."""
        self.memory.let_go.update(let_go)
        assessment = await self.assess(also=[session_id], fresh=True)
        return reprove(assessment.observation, self.policy, session_id)

    # -- remembering -----------------------------------------------------------------------------------------

    async def close_begun(self) -> None:
        """Say of each intervention that a crash left begun how it ended, by looking; count it if it did not work."""
        await self.recollection.recall()
        self._took_over = True
        for intervention in await self.journal.begun():
            for listener in self.listeners:
                listener.found(intervention.verdict)  # closing it is under way: what is told to end was told to begin
            counted = _Counted(self, intervention.verdict)
            counted.tell(await self.remedy.resume(intervention, count=counted))

    async def _prune(self) -> None:
        keep = self.pace.journal_retention_seconds
        if keep is not None:
            await self.journal.prune(self.clock.read().wall_ms - int(keep * 1000))

    # -- acting ----------------------------------------------------------------------------------------------

    async def act(self, verdict: Verdict, *, reason: str | None = None, actor: Actor = Actor.WATCHDOG) -> Outcome:
        """Carry one verdict out, and remember how it went. An error of the watchdog's own is contained."""
        for listener in self.listeners:
            listener.found(verdict)
        counted = _Counted(self, verdict)
        try:
            outcome = await self.remedy.carry_out(
                verdict, dry_run=self.pace.dry_run, reason=reason, actor=actor, count=counted
            )
        except Exception as error:  # noqa: BLE001 - one verdict must not take the others down; it is counted and told
            for listener in self.listeners:
                listener.failed(verdict, error)
            outcome = Outcome(
                session_id=verdict.session_id,
                kind=verdict.kind,
                result=Result.FAILED,
                steps=(),
                why=f"an error of the watchdog's own: {type(error).__name__}",
            )
        counted.tell(outcome)
        return outcome

    async def count(self, verdict: Verdict, outcome: Outcome) -> bool:
        """Count an outcome, and keep the count if this is the one who acts. Returns whether it is given up now."""
        given_up = self.memory.note_outcome(
            verdict,
            outcome,
            now_ms=self.clock.read().wall_ms,
            pause_ms=max(1.0, self.ladder.abort_grace_seconds) * 1000,
            most=self.pace.max_attempts,
        )
        if self._took_over:
            with suppress(JournalUnusable):  # the next look says so, and does nothing until it is mended
                await self.recollection.keep()
        return given_up

    # -- the loop --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look again now instead of at the next poll."""
        self._wakeup.set()

    async def run(self, stop: anyio.Event) -> None:
        """Watch until `stop` is set, then let what is under way end.

        Raises:
            ShutdownTimedOut: what was under way did not end within the grace, and was cancelled.
        """
        unfinished: list[SessionId] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._wake_on, stop, name="watch for the stop")
            async with anyio.create_task_group() as acts:
                await self._loop(stop, acts)
                with anyio.move_on_after(self.pace.shutdown_grace_seconds):
                    while self._acting:
                        await self._rest(_SHORTEST_PAUSE_SECONDS)
                unfinished = sorted(self._acting)
                acts.cancel_scope.cancel()
        if unfinished:
            raise ShutdownTimedOut(
                f"stopped while {len(unfinished)} interventions were still under way after "
                f"{self.pace.shutdown_grace_seconds:g} s: {', '.join(unfinished)}"
            )

    async def _wake_on(self, stop: anyio.Event) -> None:
        await stop.wait()
        self.wake()

    async def _loop(self, stop: anyio.Event, acts: TaskGroup) -> None:
        full_at = self.clock.read().awake_seconds
        first, failures = True, 0
        while not stop.is_set():
            self._wakeup = anyio.Event()
            now = self.clock.read().awake_seconds
            full = now >= full_at
            try:
                assessment = await self.assess(full=full, scan_parts=first and self.pace.recover_on_start)
                acting = self.pace.dry_run or self.mandate.acquire()
                if acting and not self.pace.dry_run:
                    assessment = await self._take_over(assessment)
                    await self.recollection.keep()
                    if full:
                        await self._prune()
            except (DatabaseError, JournalUnusable) as error:
                delay = min(self.pace.poll_interval_seconds * 2**failures, _LONGEST_BACK_OFF_SECONDS)
                failures = min(failures + 1, _MOST_DOUBLINGS)
                for listener in self.listeners:
                    listener.unavailable(error, delay)
            else:
                first, failures = False, 0
                if full:
                    full_at = now + self.pace.full_scan_interval_seconds
                self._take_up(assessment, acts, acting=acting)
                delay = self._delay(assessment.judgement)
            if stop.is_set():
                break
            self._planned = self._next_look(now, delay)
            await self._rest(delay)

    async def _take_over(self, assessment: Assessment) -> Assessment:
        """What the one who acts does first: learn what others tried, and close what a crash left begun.

        Returns:
            The look, judged anew with what was learned, so that nothing is tried too often or too soon.
        """
        if self._began_to_act:
            return assessment
        before = self.memory.state()
        await self.recollection.take_over()
        await self.close_begun()
        self._began_to_act = True
        if self.memory.state() == before:
            return assessment
        again = await self.assess()
        slow = max(again.slow_seconds, assessment.slow_seconds)
        return replace(again, advance=assessment.advance, slow_seconds=slow)

    def _take_up(self, assessment: Assessment, acts: TaskGroup, *, acting: bool) -> None:
        """Start to act on the verdicts of a look, unless it came too late or took too long to be trusted."""
        for listener in self.listeners:
            listener.looked(assessment, acting=acting)
        if self._left is None:
            self._left = assessment.observation.snapshot.open_rows
        stood_still, self._stood_still = self._stood_still, 0.0
        slow = self.clock.read().awake_seconds - assessment.began_at
        if max(stood_still, slow) > self._too_late_seconds:
            for listener in self.listeners:
                listener.held_back(assessment.advance, slow)
            return
        if not acting:
            return
        # What a look saw before the last climb on a session ended is out of date.
        self._acted = {id_: ended for id_, ended in self._acted.items() if ended >= assessment.began_at}
        busy = self._acting | self._acted.keys()
        for verdict in assessment.judgement.verdicts:
            due = _without(verdict, self._left) if verdict.kind is VerdictKind.ORPHAN else verdict
            if due.cancel_session_id not in busy and (due.row_ids or not verdict.row_ids):
                self._acting.add(due.cancel_session_id)
                acts.start_soon(self._act_in_turn, due, name=f"act on {due.cancel_session_id}")

    async def _act_in_turn(self, verdict: Verdict) -> None:
        try:
            async with self._limiter:
                outcome = await self.act(verdict)
        finally:
            self._acted[verdict.cancel_session_id] = self.clock.read().awake_seconds
            self._acting.discard(verdict.cancel_session_id)
        if outcome.result is not Result.UNCHANGED:  # or a verdict that is dropped each time would be passed at once
            self.wake()

    @property
    def _too_late_seconds(self) -> float:
        """How late a look may come, and how long it may take, to be acted on."""
        return max(_LATE_INTERVALS * self.pace.poll_interval_seconds, _LATE_SECONDS)

    def _next_look(self, began: float, delay: float) -> float:
        """When the next look is due. One that took far too long stood still in between: that is credited, too."""
        now = self.clock.read().awake_seconds
        return now + delay - (now - began if now - began > self._too_late_seconds else 0.0)

    def _delay(self, judgement: Judgement) -> float:
        """Seconds until the next look: the poll interval, or less if a limit is reached before."""
        poll = self.pace.poll_interval_seconds
        deadline = judgement.next_deadline_ms
        if deadline is None:
            return poll
        left = (deadline - self.clock.read().wall_ms) / 1000
        return max(_SHORTEST_PAUSE_SECONDS, min(poll, left))

    async def _rest(self, seconds: float) -> None:
        """Wait, or until somebody wakes the loop."""
        with anyio.move_on_after(seconds):
            await self._wakeup.wait()
            # What woke the loop often comes in bursts; and a loop that is woken for ever must still breathe.
            await anyio.sleep(_SHORTEST_PAUSE_SECONDS)


class _Counted:
    """Counts how a verdict was carried out, and then tells the listeners."""

    def __init__(self, watch: Watch, verdict: Verdict) -> None:
        self._watch = watch
        self._verdict = verdict
        self._given_up = False

    async def __call__(self, outcome: Outcome) -> None:
        self._given_up = await self._watch.count(self._verdict, outcome)

    def tell(self, outcome: Outcome) -> None:
        for listener in self._watch.listeners:
            listener.ended(self._verdict, outcome, given_up=self._given_up)


def _without(verdict: Verdict, rows: Collection[str]) -> Verdict:
    """The verdict on what is left when some rows are not to be touched."""
    return replace(
        verdict,
        call_ids=tuple(id_ for id_ in verdict.call_ids if id_ not in rows),
        turn_ids=tuple(id_ for id_ in verdict.turn_ids if id_ not in rows),
    )
