"""The loop: look, judge, act, and look again, until it has to stop."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup

from watchdog.acting.attempt import Confirm, Ladder, confirmed
from watchdog.acting.intervention import Remedy
from watchdog.acting.recheck import Recheck
from watchdog.acting.scheduler import Acting, Ended
from watchdog.acting.settled import SettledCommands
from watchdog.acting.whole import WholeLook
from watchdog.errors import DatabaseError, JournalUnusable, ShutdownTimedOut
from watchdog.judging.judge import judge_gradually
from watchdog.judging.rulings import Consent
from watchdog.model.interventions import Actor
from watchdog.model.mandate import Mandate
from watchdog.model.outcome import Outcome, Result
from watchdog.model.policy import Policy
from watchdog.model.report import Observation
from watchdog.model.session import SessionId
from watchdog.model.verdict import Judgement, Verdict, VerdictKind
from watchdog.observing.closed_turns import Search
from watchdog.observing.memory import Memory
from watchdog.observing.memory_store import Recollection
from watchdog.observing.observe import Observer
from watchdog.observing.slow_servers import Silences
from watchdog.ports import Clock, Fleet, Journal, Owners, Store
from watchdog.strides import gradually
from watchdog.timing.clock import Countable, Instant
from watchdog.timing.events import Assessment, Listener, Relay
from watchdog.timing.pace import Pace, pause

__all__ = ["Assessment", "Listener", "Pace", "Watch"]

_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_BACK_OFF_SECONDS = 60.0
_MOST_DOUBLINGS = 16


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
        confirm: Confirm = confirmed,
        commands: SettledCommands | None = None,
    ) -> None:
        self.policy = policy
        self.pace = pace
        self.ladder = ladder
        self.listeners = Relay(*listeners)
        self.clock = Countable.of(clock)
        self.mandate = mandate
        self.journal = journal
        self.memory = Memory()
        self.recollection = Recollection(journal=journal, clock=self.clock, memory=self.memory, boot_id=boot_id)
        self.silences = Silences(self.clock)
        self._store = store
        self.observer = Observer(
            store=store,
            fleet=fleet,
            owners=owners,
            fold=self.recollection.fold,
            complete=self.recollection.complete,
            silences=self.silences,
            reuse_holders_seconds=policy.orphan_grace_seconds / 2,
        )
        self.recheck = self._recheck(fleet)
        self.remedy = self._remedy(fleet, confirm, commands)
        self.acting = self._scheduler()
        self.search = Search(store, self.clock, found=self.wake)
        self._whole = WholeLook(self._assess, store)
        self._on_hold: frozenset[SessionId] | None = None
        self._took_over = False  # whether this is the watchdog whose memory is kept
        self._began_in: int | None = None  # the term of the mandate in which it took over
        self._stood_still = 0.0
        self._wakeup, self._hurry = anyio.Event(), anyio.Event()
        self._left: frozenset[str] | None = None if not pace.recover_on_start else frozenset()

    def _remedy(self, fleet: Fleet, confirm: Confirm, commands: SettledCommands | None) -> Remedy:
        return Remedy(
            store=self._store,
            fleet=fleet,
            clock=self.clock,
            recheck=self.recheck,
            ladder=self.ladder,
            journal=self.journal,
            confirm=confirm,
            commands=commands,
        )

    def _scheduler(self) -> Acting:
        return Acting(
            remedy=self.remedy,
            memory=self.memory,
            clock=self.clock,
            pace=self.pace,
            listeners=self.listeners,
            keep=self._keep,
        )

    def _recheck(self, fleet: Fleet) -> Recheck:
        return Recheck(
            self._look_again,
            store=self._store,
            fleet=fleet,
            clock=self.clock,
            policy=lambda: self.policy,
            let_go=self.memory.note_let_go,
            patience_seconds=self.pace.too_late_seconds,
        )

    # -- looking ---------------------------------------------------------------------------------------------

    async def assess(
        self,
        *,
        also: Collection[SessionId] = (),
        full: bool = False,
        scan_parts: bool = False,
        fresh: bool = False,
    ) -> Assessment:
        """Look and judge: what is to be ended is judged together with everything below it.

        Raises:
            DatabaseError: the database can't be read.
            JournalUnusable: the journal can't be read, so nobody knows what is on hold.
        """
        return await self._whole(also, full=full, scan_parts=scan_parts, fresh=fresh)

    async def _assess(
        self, also: Collection[SessionId], *, full: bool = False, scan_parts: bool = False, fresh: bool = False
    ) -> Assessment:
        assessment = await self._judged(
            lambda instant: self.observer.look(instant, also=also, full=full, scan_parts=scan_parts, fresh=fresh)
        )
        await gradually(self.memory.note_looks_gradually(assessment.observation, assessment.judgement.unclaimed))
        return assessment

    async def _judged(self, look: Callable[[Instant], Awaitable[Observation]]) -> Assessment:
        """Look, and judge what was seen."""
        await self._recall()
        # The first look after the machine or the process stood still notices it, whichever it is.
        instant = self.clock.look(patience_seconds=self.pace.too_late_seconds)
        advance = instant.advance
        self._stood_still = max(self._stood_still, advance.late_seconds, advance.slept_seconds)
        observation = await look(instant)
        # After the look: `undo` notes its hold before it opens rows again, so a look that sees the rows sees the
        # hold.
        holds = await self.journal.holds(instant.at_ms)
        self._mind(holds)
        observation = replace(observation, on_hold={id_: hold.why for id_, hold in holds.items()})
        judgement = await gradually(judge_gradually(observation, self.policy, instant.now))
        slow = self.clock.read().awake_seconds - instant.awake_seconds
        return Assessment(
            observation=observation,
            judgement=judgement,
            advance=advance,
            began_at=instant.awake_seconds,
            slow_seconds=slow,
        )

    def _mind(self, on_hold: Collection[SessionId]) -> None:
        """Read everything again after the holds changed: an `undo` may have opened rows again."""
        before, self._on_hold = self._on_hold, frozenset(on_hold)
        if before is not None and before != self._on_hold:
            self._store.forget()
            self.wake()

    async def _look_again(self, session_ids: Sequence[SessionId]) -> Assessment:
        """A fresh look at what is to be ended: at it alone, where no other session could show anything of it."""
        if not self.observer.hears_hosts_alone:
            return await self.assess(also=session_ids, fresh=True)
        return await self._judged(lambda instant: self.observer.look_at(instant, session_ids))

    # -- remembering -----------------------------------------------------------------------------------------

    async def close_begun(self) -> None:
        """Look how each intervention ended that a crash left begun, and say so; count it if it did not work.

        An intervention that this very process is at work on is not one of them: it ends by itself.
        """
        await self._recall()
        self._took_over = True
        own = self.acting.scheduled
        begun = [each for each in await self.journal.begun() if each.verdict.cancel_session_id not in own]
        self._store.follow([id_ for each in begun for id_ in each.verdict.call_ids])
        for intervention in begun:
            await self.acting.close(intervention)

    async def _recall(self) -> None:
        """Take up the memory. Its rows are read by their keys: the search would find them too late."""
        if await self.recollection.recall():
            self._store.follow(self.memory.ids())

    async def _keep(self) -> None:
        """Keep the memory, if this is the watchdog that acts."""
        if self._took_over:
            with suppress(JournalUnusable):  # the next look says so, and does nothing until it is usable again
                await self.recollection.keep()

    async def _prune(self) -> None:
        keep = self.pace.journal_retention_seconds
        if keep is not None:
            await self.journal.prune(self.clock.read().wall_ms - int(keep * 1000))

    # -- acting ----------------------------------------------------------------------------------------------

    async def act(self, verdict: Verdict, *, reason: str | None = None, actor: Actor = Actor.WATCHDOG) -> Outcome:
        """Carry one verdict out, and remember how it went. An error of the watchdog's own is contained."""
        return await self.acting.act(verdict, reason=reason, actor=actor)

    async def act_alone(
        self, verdict: Verdict, *, reason: str | None = None, actor: Actor, consent: Consent | None = None
    ) -> Outcome:
        """Carry one verdict out in its turn, or join an intervention on its session; see `Acting.act_alone`."""
        return await self.acting.act_alone(verdict, reason=reason, actor=actor, consent=consent)

    @property
    def began_to_act(self) -> bool:
        """Whether it has had the right to act, and has closed what a crash left begun."""
        return self._began_in is not None and self._began_in == self.mandate.term

    async def act_on_all(self, assessment: Assessment, verdicts: Sequence[Verdict], ended: Ended) -> None:
        """Carry verdicts of one look out, several at once, and wait for the end of all of them.

        Args:
            ended: told of each outcome, in the order in which they happen.
        """
        await self.acting.carry_out(verdicts, seen_at=assessment.began_at, ended=ended)

    # -- the loop --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look again soon instead of at the next poll."""
        self._wakeup.set()

    def _wake_at_once(self) -> None:
        self._hurry.set()
        self.wake()

    async def run(self, stop: anyio.Event) -> None:
        """Watch until `stop` is set, then let interventions under way end.

        Raises:
            ShutdownTimedOut: an intervention did not end within the grace, and was cancelled.
        """
        unfinished: list[SessionId] = []
        async with self.silences.probing(self.wake), anyio.create_task_group() as group:
            group.start_soon(self._wake_on, stop, name="watch for the stop")
            async with anyio.create_task_group() as acts:
                await self._loop(stop, acts)
                with anyio.move_on_after(self.pace.shutdown_grace_seconds):
                    await self.acting.stopped()
                unfinished = sorted(self.acting.begun)
                acts.cancel_scope.cancel()
        if unfinished:
            raise ShutdownTimedOut(
                f"stopped while {len(unfinished)} interventions were still under way after "
                f"{self.pace.shutdown_grace_seconds:g} s: {', '.join(unfinished)}"
            )

    async def _wake_on(self, stop: anyio.Event) -> None:
        await stop.wait()
        self.acting.stop()
        self._wake_at_once()

    async def _loop(self, stop: anyio.Event, acts: TaskGroup) -> None:
        full_at = self.clock.read().awake_seconds
        failures = 0
        while not stop.is_set():
            self._wakeup, self._hurry = anyio.Event(), anyio.Event()
            now = self.clock.read().awake_seconds
            full = now >= full_at
            try:
                assessment = await self.assess(full=full)
                acting = self.pace.dry_run or self.mandate.acquire()
                if acting and not self.pace.dry_run:
                    assessment = await self._take_over(assessment)
                    await self.recollection.keep()
                    if full:
                        await self._prune()
            except (DatabaseError, JournalUnusable) as error:
                delay = min(self.pace.poll_interval_seconds * 2**failures, _LONGEST_BACK_OFF_SECONDS)
                failures = min(failures + 1, _MOST_DOUBLINGS)
                self.listeners.unavailable(error, delay)
            else:
                failures = 0
                if full:
                    full_at = now + self.pace.full_scan_interval_seconds
                if self.pace.recover_on_start:
                    self.search.go_on(acts)
                self._schedule(assessment, acts, acting=acting)
                delay = self._delay(assessment.judgement)
            if stop.is_set():
                break
            self.clock.plan(self._next_look(now, delay))
            await self._rest(delay, looked_for=self.clock.read().awake_seconds - now)

    async def _take_over(self, assessment: Assessment) -> Assessment:
        """The first thing after it gets the right to act: learn what others tried, and close what a crash left begun.

        Returns:
            The look, judged again with this knowledge, so nothing is tried too often or too soon.
        """
        term = self.mandate.term
        if self._began_in == term:
            return assessment
        before = self.memory.state()
        await self.recollection.take_over()
        self._store.follow(self.memory.ids())
        await self.close_begun()
        self._began_in = term
        if self.memory.state() == before:
            return assessment
        again = await self.assess()
        slow = max(again.slow_seconds, assessment.slow_seconds)
        return replace(again, advance=assessment.advance, slow_seconds=slow)

    def _schedule(self, assessment: Assessment, acts: TaskGroup, *, acting: bool) -> None:
        """Schedule the verdicts of a look, unless it came too late or took too long to be trusted."""
        self.listeners.looked(assessment, acting=acting)
        if self._left is None:
            self._left = assessment.observation.snapshot.open_rows
        stood_still, self._stood_still = self._stood_still, 0.0
        slow = self.clock.read().awake_seconds - assessment.began_at
        if max(stood_still, slow) > self.pace.too_late_seconds:
            self.listeners.held_back(assessment.advance, slow)
            return
        if not acting:
            return
        due = _without(assessment.judgement.verdicts, self._left)
        if self.pace.recover_on_start and any(verdict.rests_on_silence for verdict in due) and not self.search.over:
            # A session that seems silent may have an open call that is not found yet.
            due = [verdict for verdict in due if not verdict.rests_on_silence]
        self.acting.schedule(due, acts, seen_at=assessment.began_at, ended=self._acted)

    def _acted(self, _: Verdict, outcome: Outcome) -> None:
        if outcome.result is Result.UNCHANGED:
            return  # otherwise a verdict that is dropped each time would be passed again at once
        if self.acting.scheduled:
            self.wake()
        else:
            self._wake_at_once()

    def _next_look(self, began: float, delay: float) -> float:
        """When the next look is due.

        If a look took far too long, the process stood still: that time is credited, too.
        """
        now = self.clock.read().awake_seconds
        return now + delay - (now - began if now - began > self.pace.too_late_seconds else 0.0)

    def _delay(self, judgement: Judgement) -> float:
        """Seconds until the next look: the poll interval, or less if a limit is reached before."""
        return self.pace.delay(self.policy, deadline=judgement.next_deadline, now=self.clock.now())

    async def _rest(self, seconds: float, *, looked_for: float) -> None:
        """Wait, or until somebody wakes the loop; after a long look the next one does not follow at once."""
        ended_at = self.clock.read().awake_seconds
        with anyio.move_on_after(seconds):
            await self._wakeup.wait()
            with anyio.move_on_after(pause(looked_for, self.clock.read().awake_seconds - ended_at)):
                await self._hurry.wait()
            # Events that wake the loop often come in bursts; and a loop that is woken all the time must still
            # breathe.
            await anyio.sleep(_SHORTEST_PAUSE_SECONDS)


def _without(verdicts: Iterable[Verdict], rows: Collection[str]) -> list[Verdict]:
    """The verdicts, without the rows of orphans that must not be touched."""
    left = [
        replace(
            verdict,
            call_ids=tuple(id_ for id_ in verdict.call_ids if id_ not in rows),
            turn_ids=tuple(id_ for id_ in verdict.turn_ids if id_ not in rows),
        )
        if verdict.kind is VerdictKind.ORPHAN
        else verdict
        for verdict in verdicts
    ]
    return [verdict for verdict in left if verdict.row_ids or verdict.kind is not VerdictKind.ORPHAN]
