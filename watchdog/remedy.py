"""Carries a verdict out, one rung at a time, and says what was really seen.

The ladder: re-read the rows; find the server that holds the session; abort there; wait for the database to show
that the observed rows closed; settle what is left if it is provably an orphan; read again.
"""

from collections.abc import Sequence
from functools import partial

from watchdog.climb import (
    POLL_SECONDS,
    Confirm,
    Count,
    Ladder,
    Place,
    Reprove,
    Tools,
    confirmed,
    current,
    names,
    still_open,
    uncounted,
)
from watchdog.errors import DatabaseUnavailable, JournalUnusable, ServerError, WatchdogError
from watchdog.interventions import Actor, Intervention, Kept
from watchdog.model import (
    Ask,
    GuardedWrite,
    Outcome,
    Result,
    ServerName,
    Session,
    Verdict,
    VerdictKind,
)
from watchdog.moments import NEVER
from watchdog.ports import Clock, Fleet, Journal, Server, Store
from watchdog.proof import stands
from watchdog.settling import Settling
from watchdog.sharing import Rounds, first, gathered


class Remedy:
    """Carries verdicts out on one database and its servers."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        clock: Clock,
        reprove: Reprove,
        ladder: Ladder,
        journal: Journal,
        confirm: Confirm = confirmed,
    ) -> None:
        self.ladder = ladder
        self._tools = Tools(
            store=store,
            fleet=fleet,
            clock=clock,
            reprove=reprove,
            ladder=ladder,
            journal=journal,
            holds=Rounds(lambda _: journal.holds(clock.read().wall_ms)),
            confirm=confirm,
        )

    async def carry_out(
        self,
        verdict: Verdict,
        *,
        claimant: ServerName | None = None,
        dry_run: bool = False,
        reason: str | None = None,
        actor: Actor = Actor.WATCHDOG,
        count: Count = uncounted,
    ) -> Outcome:
        """Climb the ladder for one verdict. Errors of the database and of servers become part of the outcome.

        An error of the watchdog's own is raised, once the intervention is closed with it.

        Args:
            verdict: what to end.
            claimant: the server that was at work on the session when it was judged; it is asked first.
            dry_run: do everything but act.
            reason: a person's words for why, kept in the settled rows.
            actor: who decided, for the journal.
            count: counts the outcome, right before the journal closes the intervention.
        """
        climb = _Ascent(self._tools, verdict, dry_run=dry_run, reason=reason, actor=actor, claimant=claimant)
        try:
            outcome = await climb.run()
        except JournalUnusable as error:
            # Nothing is done without a record; and if nothing was tried, no attempt counts.
            outcome = climb.outcome(Result.FAILED if climb.acted else Result.UNREACHABLE, str(error))
        except DatabaseUnavailable as error:
            outcome = climb.outcome(Result.FAILED if climb.acted else Result.UNREACHABLE, str(error))
        except WatchdogError as error:
            outcome = climb.outcome(Result.FAILED, str(error))
        except Exception as error:
            await climb.noted(climb.outcome(Result.FAILED, _own(error)), count)
            raise
        return await climb.noted(outcome, count)

    async def resume(self, intervention: Intervention, *, count: Count = uncounted) -> Outcome:
        """Say how an intervention ended that a crash of the watchdog left begun, by looking at the rows.

        It is never carried on: what is still open needs a fresh verdict. Only what was written before the crash and
        perhaps not shown is shown and read back now. An error of the watchdog's own is raised, once the
        intervention is closed with it.

        Raises:
            DatabaseUnavailable: nothing can be read just now; the intervention stays begun.
        """
        climb = _Ascent(
            self._tools, intervention.verdict, dry_run=False, reason=intervention.reason, actor=intervention.actor
        )
        climb.intervention = intervention.id
        try:
            outcome = await climb.resume([*(await self._tools.journal.kept(intervention.id))])
        except DatabaseUnavailable:
            raise
        except WatchdogError as error:
            outcome = climb.outcome(Result.FAILED, str(error))
        except Exception as error:
            await climb.noted(climb.outcome(Result.FAILED, _own(error)), count)
            raise
        # Where nothing was done, a fresh verdict need not wait.
        return await climb.noted(outcome, uncounted if outcome.result is Result.UNCHANGED else count)


def _own(error: Exception) -> str:
    return f"an error of the watchdog's own: {type(error).__name__}"


class _Ascent(Settling):
    """A climb from the first rung."""

    async def run(self) -> Outcome:
        session = await self.tools.store.session(self.verdict.cancel_session_id)
        against = self._against(session)
        self._step("reread", ok=against is None, detail=against or "still as it was judged")
        if session is None or against is not None:
            return self.outcome(Result.UNCHANGED, against or "the session is gone")
        if self.verdict.kind is VerdictKind.ORPHAN:
            return await self._settle(session)
        if self.verdict.ask is not None:
            return await self._turn_down(session, self.verdict.ask)
        return await self._cancel(session)

    # -- rung 1: is it still as it was judged? ---------------------------------------------------------------

    def _against(self, session: Session | None) -> str | None:
        """What changed since the judgement so that the verdict no longer stands."""
        verdict = self.verdict
        if session is None:
            return "the session is gone"
        if session.newest_prompt_id != verdict.newest_prompt_id:
            return "a person has prompted since"
        left = still_open(session, verdict)
        if verdict.row_ids and not left:
            return "it ended by itself"
        if verdict.released or verdict.kind in {VerdictKind.ORPHAN, VerdictKind.UNANSWERED}:
            return None
        if any(call not in left for call in verdict.call_ids):
            return "the call ended by itself"
        if any(call.id not in verdict.call_ids for call in session.calls if current(session, call.turn_id)):
            return "the session has begun another call"
        if verdict.rests_on_silence and self._showed_life(session):
            return "it showed life again"
        return None

    def _showed_life(self, session: Session) -> bool:
        """Whether a row or a feed shows life that was not known when it was judged."""
        heard = max([server.life().get(session.id, NEVER) for server in self.tools.fleet.servers()], default=NEVER)
        return session.last_life_ms > self.verdict.life_ms or heard > (self.verdict.heard or NEVER)

    # -- rungs 2 and 3: find, abort, verify ------------------------------------------------------------------

    async def _cancel(self, session: Session) -> Outcome:
        place, silent = await self._find(session)
        if place is None:
            return await self._without_server(session, silent)
        if not (self.verdict.claimed or self.verdict.released):
            return self.outcome(Result.UNCHANGED, "a server answers for it now, so it is judged anew")
        if not self.verdict.released and self._changed_hands(place):
            return self.outcome(Result.UNCHANGED, f"{place.server.name} is at work on it now, so it is judged anew")
        if self.verdict.rests_on_silence and (place.status.last_life_ms or 0) > self.verdict.life_ms:
            return self.outcome(Result.UNCHANGED, "it showed life again")
        if (held := await self._held()) is not None:
            return self.outcome(Result.UNCHANGED, held)
        if not self.dry_run:
            await self._begin()
        # Until this moment a person may have been asked, or have said to leave it.
        if (spared := await self._last_doubt(place, session)) is not None:
            return spared
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would abort session {session.id} at {place.server.name}")
        await self.tools.confirm()
        return await self._tell_to_end(place, session) or await self._verify(place, session)

    async def _last_doubt(self, place: Place, session: Session) -> Outcome | None:
        """Right before the abort: is it on hold, is a person asked for something, do the rows read as they did?"""
        if (held := await self._held()) is not None:
            return self.outcome(Result.UNCHANGED, held)
        try:
            answers = await gathered(*(partial(place.server.pending_asks, where) for where in session.directories))
        except ServerError as error:
            self._step("find", ok=False, detail=str(error))
            return self.outcome(
                Result.UNREACHABLE, f"it is not known whether a person is asked for something: {error}"
            )
        now = await self.tools.store.session(session.id)
        against = self._against(now)
        if against is not None or now is None:
            return self.outcome(Result.UNCHANGED, against or "the session is gone")
        if not self.verdict.released and any(stands(ask, now) for answer in answers for ask in answer):
            return self.outcome(Result.UNCHANGED, "a person is asked for something in it")
        self.asks = frozenset(ask.id for answer in answers for ask in answer if ask.session_id == session.id)
        return None

    async def _find(self, session: Session) -> tuple[Place | None, list[str]]:
        """Find the server that says it is at work on the session, and the servers that say nothing at all."""
        servers = self.tools.fleet.servers()
        silent: list[str] = []
        # As a rule the one that was at work on it still is: the others need not be asked.
        place = await self._at_work([each for each in servers if each.name == self.claimant], session, silent)
        if place is None:
            place = await self._at_work([each for each in servers if each.name != self.claimant], session, silent)
        if place is None:
            self._step("find", ok=False, detail="; ".join(["no server is at work on it", *silent]))
        else:
            self._step("find", ok=True, detail=f"{place.server.name} is at work on it")
        return place, silent

    async def _at_work(self, servers: Sequence[Server], session: Session, silent: list[str]) -> Place | None:
        """The first of some servers that says it is at work on the session; those that fail are noted in `silent`."""

        async def ask(server: Server) -> Place | None:
            for directory in session.directories:
                try:
                    status = (await server.statuses(directory)).get(session.id)
                except ServerError as error:
                    silent.append(str(error))
                    return None
                if status is not None:
                    return Place(server=server, directory=directory, status=status)
            return None

        return await first(*(partial(ask, server) for server in servers))

    async def _without_server(self, session: Session, silent: list[str]) -> Outcome:
        """No server holds it: an orphan is settled, and what another process runs is left to that process."""
        reproof = await self.tools.reprove(session.id)
        if reproof.settles(self.verdict) is not None:
            return await self._settle(session, reproof)
        self._step("prove", ok=False, detail=reproof.why)
        if not self.verdict.row_ids:
            return self.outcome(Result.UNCHANGED, "no server is at work on it any more")
        if not still_open(await self.tools.store.session(session.id), self.verdict):
            return self.outcome(Result.UNCHANGED, "it ended by itself")
        return self.outcome(Result.UNREACHABLE, "; ".join(["no server that answers runs it", reproof.why, *silent]))

    async def _verify(self, place: Place, session: Session) -> Outcome:
        """Wait until the database shows that what was observed is closed: an abort's answer proves nothing."""
        deadline = self.tools.clock.read().awake_seconds + self.tools.ladder.abort_grace_seconds
        while True:
            now = await self.tools.store.session(session.id)
            left = still_open(now, self.verdict)
            idle = not left and (bool(self.verdict.row_ids) or await self._is_idle(place, session))
            if idle:
                return self._cancelled(session, now)
            if self.tools.clock.read().awake_seconds >= deadline:
                break
            await self.tools.clock.sleep(POLL_SECONDS)
        self._step("verify", ok=False, detail=f"still open after the abort: {names(left) or session.id}")
        turns = self.verdict.turn_ids if await self._is_idle(place, session) else ()
        reproof = await self.tools.reprove(session.id, let_go=dict.fromkeys(turns, place.server.name))
        if reproof.settles(self.verdict) is not None:
            return await self._settle(session, reproof)
        self._step("prove", ok=False, detail=reproof.why)
        return self.outcome(
            Result.INEFFECTIVE, f"{names(left) or session.id} stayed open after an abort; {reproof.why}"
        )

    async def _is_idle(self, place: Place, session: Session) -> bool:
        """Whether the server let go of the session, in every directory."""
        try:
            where = {place.directory, *session.directories}
            return not any([session.id in await place.server.statuses(directory) for directory in sorted(where)])
        except ServerError:
            return False

    def _cancelled(self, before: Session, now: Session | None) -> Outcome:
        detail = "everything that was observed is closed"
        dropped = now.queued_prompts if now is not None and before.queued_prompts else 0
        if dropped:
            detail += f"; {dropped} queued prompt{'' if dropped == 1 else 's'} went with it"
        self._step("verify", ok=True, detail=detail)
        return self.outcome(Result.RECOVERED, self.verdict.why)

    # -- what nobody answers ---------------------------------------------------------------------------------

    async def _turn_down(self, session: Session, ask: Ask) -> Outcome:
        """Reject a question or a permission at the server that still asks it, and wait until its call closed."""
        place, _ = await self._asking(session, ask)
        if place is None:
            return self.outcome(Result.UNCHANGED, "no server that answers asks it any more")
        server, directory = place
        self._step("find", ok=True, detail=f"{server.name} asks it")
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would turn down a {ask.kind.value} of session {session.id}")
        await self._begin()
        await self.tools.confirm()
        self.acted = True
        try:
            await server.reject(ask, directory)
        except ServerError as error:
            self._step("reject", ok=False, detail=str(error))
            taken = False
        else:
            self._step("reject", ok=True, detail=f"{server.name} took it")
            taken = True
        return await self._turned_down(session, ask, taken=taken)

    async def _turned_down(self, session: Session, ask: Ask, *, taken: bool) -> Outcome:
        """Wait until it is asked no more and its call is closed. A server that does not answer proves nothing."""
        deadline = self.tools.clock.read().awake_seconds + self.tools.ladder.abort_grace_seconds
        while True:
            left = still_open(await self.tools.store.session(session.id), self.verdict)
            place, silent = await self._asking(session, ask)
            gone = place is None and not silent
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

    async def _asking(self, session: Session, ask: Ask) -> tuple[tuple[Server, str] | None, bool]:
        """The server that asks it, and the directory under which it does; and whether any server was silent."""

        async def ask_at(server: Server) -> tuple[str | None, bool]:
            silent = False
            for directory in session.directories:
                try:
                    asks = await server.pending_asks(directory)
                except ServerError:
                    silent = True  # it is looked for in the others; no answer is no evidence
                    continue
                if any(each.id == ask.id for each in asks):
                    return directory, silent
            return None, silent

        servers = self.tools.fleet.servers()
        answers = await gathered(*(partial(ask_at, server) for server in servers))
        places = [(server, where) for server, (where, _) in zip(servers, answers, strict=True) if where is not None]
        return (places[0] if places else None), any(silent for _, silent in answers)

    # -- what a crash left begun -----------------------------------------------------------------------------

    async def resume(self, kept: Sequence[Kept]) -> Outcome:
        """Look at the rows of what a crash left begun; show what was written and perhaps not shown."""
        session = await self.tools.store.session(self.verdict.cancel_session_id)
        if session is None:
            return self.outcome(Result.UNCHANGED, "the session is gone")
        rows = await self.tools.store.rows(call_ids=self.verdict.call_ids, turn_ids=self.verdict.turn_ids)
        now = {row.id: row for row in rows}
        writes = tuple(GuardedWrite(row=each.row, after=each.after) for each in kept)
        if writes and all(each.row.id in now and now[each.row.id].says(each.after) for each in writes):
            self.acted = True
            self._step("settle", ok=True, detail="the rows read as they were settled before the watchdog stopped")
            return await self._show(session, writes)
        left = still_open(session, self.verdict)
        detail = f"still open: {names(left)}" if left else "nothing that was observed is open any more"
        self._step("verify", ok=not left, detail=detail)
        if left and self.verdict.kind is VerdictKind.ORPHAN:
            return self.outcome(Result.UNCHANGED, "the watchdog stopped before anything was written")
        if left or await self._goes_on(session):
            return self.outcome(Result.INEFFECTIVE, "the watchdog stopped in the middle, and it is still open")
        if self.verdict.kind is VerdictKind.ORPHAN:
            return self.outcome(Result.UNCHANGED, "it ended by itself")
        return self.outcome(Result.RECOVERED, self.verdict.why)

    async def _goes_on(self, session: Session) -> bool:
        """Where no row tells: whether it is still asked, or a server is still at work on it."""
        if self.verdict.ask is not None:
            place, silent = await self._asking(session, self.verdict.ask)
            return place is not None or silent
        if self.verdict.row_ids:
            return False
        found, silences = await self._find(session)
        return found is not None or bool(silences)
