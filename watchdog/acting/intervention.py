"""Carries a verdict out, one rung at a time, and says what was really seen.

The ladder: have the judge pass it again; abort at the server that holds the session; wait for the database to show
that the observed rows closed; settle what is left if it is provably an orphan; read again. Only the judge says what
may be done: right before each act it is asked again.
"""

from collections.abc import Sequence

from watchdog.acting.attempt import (
    POLL_SECONDS,
    Confirm,
    Count,
    Ladder,
    Tools,
    confirmed,
    names,
    still_open,
    uncounted,
)
from watchdog.acting.recheck import Place, Recheck, Rechecked, Seen
from watchdog.acting.settled import SettledCommands
from watchdog.acting.settling import Settling
from watchdog.errors import DatabaseUnavailable, JournalUnusable, ServerError, WatchdogError
from watchdog.judging.rulings import Consent, Dropped, settled_with
from watchdog.model.interventions import Actor, Intervention, Kept
from watchdog.model.outcome import GuardedWrite, Outcome, Result
from watchdog.model.session import Ask, ServerName
from watchdog.model.verdict import Verdict, VerdictKind
from watchdog.ports import Clock, Fleet, Journal, Store


class Remedy:
    """Carries verdicts out on one database and its servers."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        clock: Clock,
        recheck: Recheck,
        ladder: Ladder,
        journal: Journal,
        commands: SettledCommands | None = None,
        confirm: Confirm = confirmed,
    ) -> None:
        self.ladder = ladder
        self._tools = Tools(
            store=store,
            fleet=fleet,
            clock=clock,
            recheck=recheck,
            ladder=ladder,
            journal=journal,
            confirm=confirm,
            commands=commands,
        )

    async def carry_out(
        self,
        verdict: Verdict,
        *,
        claimant: ServerName | None = None,
        consent: Consent | None = None,
        dry_run: bool = False,
        reason: str | None = None,
        actor: Actor = Actor.WATCHDOG,
        count: Count = uncounted,
    ) -> Outcome:
        """Attempt the ladder for one verdict. Errors of the database and of servers become part of the outcome.

        An error of the watchdog's own is raised, after the intervention is closed with it.

        Args:
            verdict: what to end.
            claimant: the server that was at work on the session when it was judged.
            consent: what the person who asked for it agreed to, if a person did.
            dry_run: do everything but act.
            reason: a person's words, kept in the settled rows.
            actor: who decided, for the journal.
            count: counts the outcome, right before the journal closes the intervention.
        """
        attempt = _WholeAttempt(
            self._tools,
            verdict,
            dry_run=dry_run,
            reason=reason,
            actor=actor,
            claimant=claimant,
            consent=consent,
        )
        try:
            outcome = await attempt.run()
        except JournalUnusable as error:
            # Nothing is done without a record; and if nothing was tried, no attempt counts.
            return await attempt.broken_off(error, count)
        except DatabaseUnavailable as error:
            return await attempt.broken_off(error, count)
        except WatchdogError as error:
            outcome = attempt.outcome(Result.FAILED, str(error))
        except Exception as error:
            await attempt.noted(attempt.outcome(Result.FAILED, _own(error)), count)
            raise
        return await attempt.noted(outcome, count)

    async def resume(self, intervention: Intervention, *, count: Count = uncounted) -> Outcome:
        """Look at the rows to say how an intervention ended that a crash of the watchdog left begun.

        It is never carried on: what is still open needs a fresh verdict. Only rows that were written before the crash
        and perhaps not published are published and read back now. An error of the watchdog's own is raised, after the
        intervention is closed with it.

        Raises:
            DatabaseUnavailable: nothing can be read just now; the intervention stays begun.
        """
        attempt = _WholeAttempt(
            self._tools, intervention.verdict, dry_run=False, reason=intervention.reason, actor=intervention.actor
        )
        attempt.intervention = intervention.id
        if intervention.about_to is not None:
            attempt.steps.append(intervention.about_to)
        try:
            outcome = await attempt.resume([*(await self._tools.journal.kept(intervention.id))])
        except DatabaseUnavailable:
            raise
        except WatchdogError as error:
            outcome = attempt.outcome(Result.FAILED, str(error))
        except Exception as error:
            await attempt.noted(attempt.outcome(Result.FAILED, _own(error)), count)
            raise
        # If nothing was done, a fresh verdict need not wait.
        return await attempt.noted(outcome, uncounted if outcome.result is Result.UNCHANGED else count)


def _own(error: Exception) -> str:
    return f"an error of the watchdog's own: {type(error).__name__}"


class _WholeAttempt(Settling):
    """An attempt from the first rung."""

    async def run(self) -> Outcome:
        again = await self._rechecked(self.verdict)
        if isinstance(again, Dropped):
            return self._drop(again)
        self._step("reread", ok=True, detail="still as it was judged")
        if self.verdict.kind is VerdictKind.ORPHAN:
            return await self._settle(self.verdict, again)
        if self.verdict.ask is not None:
            return await self._turn_down(self.verdict.ask, again)
        return await self._cancel(again)

    async def broken_off(self, error: WatchdogError, count: Count) -> Outcome:
        """How it ends if the database or the journal can't be used. If nothing was done, that was no attempt."""
        outcome = self.outcome(Result.FAILED if self.acted else Result.UNREACHABLE, str(error))
        return await self.noted(outcome, count, attempted=self.told)

    # -- rungs 2 and 3: abort, verify ------------------------------------------------------------------------

    async def _cancel(self, again: Rechecked) -> Outcome:
        if again.claim is None:
            return self._without_server(again)
        where = again.claim.server.name
        self._step("find", ok=True, detail=f"{where} is at work on it")
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would abort session {again.session.id} at {where}")
        await self._begin(self._about_to("abort", f"session {again.session.id} at {where}"))
        # Until this moment a person may have been asked, or may have set a hold.
        last = await self._rechecked(self.verdict)
        if isinstance(last, Dropped):
            return self._drop(last)
        if last.claim is None:
            return self._without_server(last)
        waiting = await self.tools.store.queued(last.session.id) if last.session.queued_prompts else ()
        await self.tools.confirm()
        return await self._tell_to_end(last) or await self._verify(last, waiting)

    def _without_server(self, again: Rechecked) -> Outcome:
        """No server holds it: a session that another process runs is left to that process."""
        self._step("find", ok=False, detail="; ".join(["no server is at work on it", *again.silent]))
        if not self.verdict.row_ids:
            return self.outcome(Result.UNCHANGED, "no server is at work on it any more")
        self._step("prove", ok=False, detail=again.may_run)
        return self.outcome(Result.UNREACHABLE, "; ".join([again.may_run, *again.silent]))

    async def _verify(self, again: Rechecked, waiting: Sequence[str]) -> Outcome:
        """Wait until the database shows that the observed rows closed: the answer to an abort proves nothing.

        Args:
            waiting: the prompts that were queued when the abort was sent.
        """
        deadline = self.tools.clock.read().awake_seconds + self.tools.ladder.abort_grace_seconds
        while True:
            left = still_open(await self.tools.store.session(again.session.id), self.verdict)
            if not left and (self.verdict.row_ids or await self._is_idle(again)):
                return await self._cancelled(again, waiting)
            if self.tools.clock.read().awake_seconds >= deadline:
                break
            await self.tools.clock.sleep(POLL_SECONDS)
        self._step("verify", ok=False, detail=f"still open after the abort: {names(left) or again.session.id}")
        rest = settled_with(self.verdict, left)
        settles = await self._rechecked(rest, let_go=self.verdict.turn_ids if await self._is_idle(again) else ())
        if isinstance(settles, Rechecked):
            return await self._settle(rest, settles)
        self._step("prove", ok=False, detail=settles.why)
        return self.outcome(
            Result.INEFFECTIVE, f"{names(left) or again.session.id} stayed open after an abort; {settles.why}"
        )

    async def _is_idle(self, again: Rechecked) -> bool:
        """Whether the server let go of the session, in every directory."""
        place = again.place
        try:
            busy = [again.session.id in await place.server.statuses(each) for each in place.folders(again.session)]
        except ServerError:
            return False
        return not any(busy)

    async def _cancelled(self, again: Rechecked, waiting: Sequence[str]) -> Outcome:
        detail = "everything that was observed is closed"
        if waiting:
            left = await self.tools.store.queued(again.session.id)
            self.dropped_prompts = tuple(id_ for id_ in waiting if id_ in left)
        if dropped := self.dropped_prompts:
            count = f"{len(dropped)} queued prompt{'' if len(dropped) == 1 else 's'}"
            detail += f"; {count} went with it: {', '.join(dropped)}"
        self._step("verify", ok=True, detail=detail)
        return self.outcome(Result.RECOVERED, self.verdict.why)

    # -- what nobody answers ---------------------------------------------------------------------------------

    async def _turn_down(self, ask: Ask, again: Rechecked) -> Outcome:
        """Reject a question or a permission at the server that still asks it, and wait until its call has closed."""
        place = again.asked(ask)
        if place is None:
            return self.outcome(Result.UNCHANGED, "no server that answers asks it any more")
        self._step("find", ok=True, detail=f"{place.server.name} asks it")
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would turn down a {ask.kind.value} of session {again.session.id}")
        await self._begin(self._about_to("reject", f"a {ask.kind.value} of session {again.session.id}"))
        last = await self._rechecked(self.verdict)
        if isinstance(last, Dropped):
            return self._drop(last)
        place = last.asked(ask)
        if place is None:
            return self.outcome(Result.UNCHANGED, "no server that answers asks it any more")
        await self.tools.confirm()
        return await self._turned_down(last, ask, place, taken=await self._reject(last, ask, place))

    async def _reject(self, again: Rechecked, ask: Ask, place: Place) -> bool:  # noqa: ARG002 - no act without the judge
        self.acted = self.told = True
        try:
            await place.server.reject(place.served, ask, place.directory)
        except ServerError as error:
            self._step("reject", ok=False, detail=str(error))
            return False
        self._step("reject", ok=True, detail=f"{place.server.name} took it")
        return True

    async def _turned_down(self, again: Rechecked, ask: Ask, place: Place, *, taken: bool) -> Outcome:
        """Wait until it is no longer asked and its call is closed. A server that does not answer proves nothing."""
        deadline = self.tools.clock.read().awake_seconds + self.tools.ladder.abort_grace_seconds
        while True:
            left = still_open(await self.tools.store.session(again.session.id), self.verdict)
            gone = await self._asks_no_more(again, ask, place)
            if gone and not taken:
                self._step("verify", ok=True, detail="it is asked no more")
                return self.outcome(Result.UNCHANGED, "it was answered at the last moment")
            if gone and not left:
                self._step("verify", ok=True, detail="it is asked no more, and its call is closed")
                return self.outcome(Result.RECOVERED, self.verdict.why)
            if self.tools.clock.read().awake_seconds >= deadline:
                break
            await self.tools.clock.sleep(POLL_SECONDS)
        detail = f"its call {names(left)} is still open" if gone else "it is still asked, as far as is known"
        self._step("verify", ok=False, detail=detail)
        return self.outcome(Result.INEFFECTIVE, f"it was turned down, and {detail}")

    async def _asks_no_more(self, again: Rechecked, ask: Ask, place: Place) -> bool:
        """Whether the server that asked it says, for every directory, that it no longer asks it."""
        try:
            asks = [await place.server.pending_asks(each) for each in place.folders(again.session)]
        except ServerError:
            return False
        return all(each.id != ask.id for answer in asks for each in answer)

    # -- what a crash left begun -----------------------------------------------------------------------------

    async def resume(self, kept: Sequence[Kept]) -> Outcome:
        """Look at the rows of what a crash left begun; publish what was written and perhaps not published."""
        if self.verdict.kind is VerdictKind.LEFT_OVER:
            return self.outcome(Result.UNCHANGED, "it stopped in the middle: `leftovers` shows what is still there")
        session = await self.tools.store.session(self.verdict.cancel_session_id)
        if session is None:
            return self.outcome(Result.UNCHANGED, "the session is gone")
        rows = await self.tools.store.rows(call_ids=self.verdict.call_ids, turn_ids=self.verdict.turn_ids)
        now = {row.id: row for row in rows}
        writes = tuple(GuardedWrite(row=each.row, after=each.after) for each in kept)
        if writes and all(each.row.id in now and now[each.row.id].says(each.after) for each in writes):
            self.acted = True
            self._step("settle", ok=True, detail="the rows read as they were settled before the watchdog stopped")
            return await self._show(session, await self.tools.recheck.seen(session.id), writes)
        left = still_open(session, self.verdict)
        detail = f"still open: {names(left)}" if left else "nothing that was observed is open any more"
        self._step("verify", ok=not left, detail=detail)
        if left and self.verdict.kind is VerdictKind.ORPHAN:
            return self.outcome(Result.UNCHANGED, "the watchdog stopped before anything was written")
        if left or self._goes_on(await self.tools.recheck.seen(session.id)):
            return self.outcome(Result.INEFFECTIVE, "the watchdog stopped in the middle, and it is still open")
        if self.verdict.kind is VerdictKind.ORPHAN:
            return self.outcome(Result.UNCHANGED, "it ended by itself")
        return self.outcome(Result.RECOVERED, self.verdict.why)

    def _goes_on(self, seen: Seen) -> bool:
        """Without rows to tell: whether it is still asked, or a server is still at work on it."""
        if self.verdict.ask is not None:
            return seen.asked(self.verdict.ask) is not None or bool(seen.silent)
        return not self.verdict.row_ids and bool(seen.claims or seen.silent)
