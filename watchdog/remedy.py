"""Carries a verdict out, one rung at a time, and says what was really seen.

The ladder: re-read the rows; find the server that holds the session; abort there; wait for the database to show
that the observed rows closed; settle what is left if it is provably an orphan; read again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import anyio

from watchdog.errors import JournalUnusable, ServerError, WatchdogError
from watchdog.interventions import Actor, Intervention, InterventionId, Kept
from watchdog.model import (
    Ask,
    GuardedWrite,
    Outcome,
    Reproof,
    Result,
    ServerName,
    Session,
    SessionId,
    Status,
    Step,
    TurnId,
    Verdict,
    VerdictKind,
)
from watchdog.ports import Clock, Fleet, Journal, Server, Store
from watchdog.proof import stands
from watchdog.settle import settle


class Reprove(Protocol):
    """Looks at a session afresh, holders and lock included, and tries to prove that nobody executes it."""

    async def __call__(
        self, session_id: SessionId, /, *, let_go: Mapping[TurnId, ServerName] = MappingProxyType({})
    ) -> Reproof:
        """Look.

        Args:
            session_id: the session.
            let_go: its turns that a server was at work on, and let go of when it was told to abort.
        """
        ...


_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """The times that the ladder takes.

    Attributes:
        abort_timeout_seconds: how long a server may take to answer an abort.
        abort_grace_seconds: how long the database may take to show that it worked.
    """

    abort_timeout_seconds: float = 10.0
    abort_grace_seconds: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a session is held: the server, and the directory under which it says so."""

    server: Server
    directory: str
    status: Status


class Remedy:
    """Carries verdicts out on one database and its servers."""

    def __init__(
        self, *, store: Store, fleet: Fleet, clock: Clock, reprove: Reprove, ladder: Ladder, journal: Journal
    ) -> None:
        self.store = store
        self.journal = journal
        self.fleet = fleet
        self.clock = clock
        self.reprove = reprove
        self.ladder = ladder

    async def carry_out(
        self,
        verdict: Verdict,
        *,
        dry_run: bool = False,
        reason: str | None = None,
        actor: Actor = Actor.WATCHDOG,
    ) -> Outcome:
        """Climb the ladder for one verdict. Errors of the database and of servers become part of the outcome.

        Args:
            verdict: what to end.
            dry_run: do everything but act.
            reason: a person's words for why, kept in the settled rows.
            actor: who decided, for the journal.
        """
        climb = _Climb(self, verdict, dry_run=dry_run, reason=reason, actor=actor)
        try:
            outcome = await climb.run()
        except JournalUnusable as error:
            # Nothing is done without a record; and nothing was tried, so no attempt counts.
            outcome = climb.outcome(Result.UNREACHABLE, str(error))
        except WatchdogError as error:
            outcome = climb.outcome(Result.FAILED, str(error))
        return await climb.noted(outcome)

    async def resume(self, intervention: Intervention) -> Outcome:
        """Say how an intervention ended that a crash of the watchdog left begun, by looking at the rows.

        It is never carried on: what is still open needs a fresh verdict. Only what was written before the crash and
        perhaps not shown is shown and read back now.
        """
        climb = _Climb(
            self, intervention.verdict, dry_run=False, reason=intervention.reason, actor=intervention.actor
        )
        climb.intervention = intervention.id
        try:
            outcome = await climb.resume([*(await self.journal.kept(intervention.id))])
        except WatchdogError as error:
            outcome = climb.outcome(Result.FAILED, str(error))
        return await climb.noted(outcome)


class _Climb:
    """One verdict on its way up the ladder."""

    def __init__(self, remedy: Remedy, verdict: Verdict, *, dry_run: bool, reason: str | None, actor: Actor) -> None:
        self.remedy = remedy
        self.verdict = verdict
        self.dry_run = dry_run
        self.reason = reason
        self.actor = actor
        self.intervention: InterventionId | None = None
        self.steps: list[Step] = []

    async def run(self) -> Outcome:
        session = await self.remedy.store.session(self.verdict.cancel_session_id)
        against = self._against(session)
        self._step("reread", ok=against is None, detail=against or "still as it was judged")
        if session is None or against is not None:
            return self.outcome(Result.UNCHANGED, against or "the session is gone")
        if self.verdict.kind is VerdictKind.ORPHAN:
            return await self._settle(session)
        if self.verdict.ask is not None:
            return await self._turn_down(session, self.verdict.ask)
        return await self._cancel(session)

    async def resume(self, kept: Sequence[Kept]) -> Outcome:
        session = await self.remedy.store.session(self.verdict.cancel_session_id)
        rows = await self.remedy.store.rows(call_ids=self.verdict.call_ids, turn_ids=self.verdict.turn_ids)
        now = {row.id: row.data for row in rows}
        writes = tuple(GuardedWrite(row=each.row, after=each.after) for each in kept)
        if session is not None and writes and all(now.get(write.row.id) == write.after for write in writes):
            self._step("settle", ok=True, detail="the rows read as they were settled before the watchdog stopped")
            return await self._show(session, writes)
        left = _still_open(session, self.verdict)
        self._step(
            "verify", ok=not left, detail=f"still open: {_names(left)}" if left else "nothing is open any more"
        )
        if left:
            return self.outcome(Result.INEFFECTIVE, "the watchdog stopped in the middle, and it is still open")
        return self.outcome(Result.RECOVERED, self.verdict.why)

    async def noted(self, outcome: Outcome) -> Outcome:
        """Note the outcome of what was begun. An act that was done stays done if that fails; the next start looks."""
        if self.intervention is None:
            return outcome
        try:
            await self.remedy.journal.end(self.intervention, outcome, at_ms=self.remedy.clock.read().wall_ms)
        except JournalUnusable as error:
            self._step("journal", ok=False, detail=str(error))
            return self.outcome(outcome.result, outcome.why)
        return outcome

    async def _begin(self) -> InterventionId:
        """Note, before anything is done, that it begins."""
        if self.intervention is None:
            self.intervention = await self.remedy.journal.begin(
                self.verdict, at_ms=self.remedy.clock.read().wall_ms, actor=self.actor, reason=self.reason
            )
        return self.intervention

    def outcome(self, result: Result, why: str) -> Outcome:
        return Outcome(
            session_id=self.verdict.session_id,
            kind=self.verdict.kind,
            result=result,
            steps=tuple(self.steps),
            why=why,
        )

    # -- rung 1: is it still as it was judged? ---------------------------------------------------------------

    def _against(self, session: Session | None) -> str | None:
        """What changed since the judgement so that the verdict no longer stands."""
        verdict = self.verdict
        if session is None:
            return "the session is gone"
        if session.newest_prompt_id != verdict.newest_prompt_id:
            return "a person has prompted since"
        left = _still_open(session, verdict)
        if verdict.row_ids and not left:
            return "it ended by itself"
        if verdict.released or verdict.kind in {VerdictKind.ORPHAN, VerdictKind.UNANSWERED}:
            return None
        if any(call not in left for call in verdict.call_ids):
            return "the call ended by itself"
        if any(call.id not in verdict.call_ids for call in session.calls if _current(session, call.turn_id)):
            return "the session has begun another call"
        if verdict.rests_on_silence and self._life(session) > verdict.life_ms:
            return "it showed life again"
        return None

    def _life(self, session: Session) -> int:
        heard = (server.life().get(session.id, 0) for server in self.remedy.fleet.servers())
        return max([session.last_life_ms, *heard])

    # -- rungs 2 and 3: find, abort, verify ------------------------------------------------------------------

    async def _cancel(self, session: Session) -> Outcome:
        place, silent = await self._find(session)
        if place is None:
            return await self._without_server(session, silent)
        if self.verdict.rests_on_silence and (place.status.last_life_ms or 0) > self.verdict.life_ms:
            return self.outcome(Result.UNCHANGED, "it showed life again")
        if (spared := await self._last_doubt(place, session)) is not None:
            return spared
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would abort session {session.id} at {place.server.name}")
        await self._begin()
        await self._abort(place, session)
        return await self._verify(place, session)

    async def _last_doubt(self, place: _Place, session: Session) -> Outcome | None:
        """Right before the abort: is a person asked for something, and do the rows still read as they did?"""
        try:
            asks = [ask for where in session.directories for ask in await place.server.pending_asks(where)]
        except ServerError as error:
            self._step("find", ok=False, detail=str(error))
            return self.outcome(
                Result.UNREACHABLE, f"it is not known whether a person is asked for something: {error}"
            )
        now = await self.remedy.store.session(session.id)
        against = self._against(now)
        if against is not None or now is None:
            return self.outcome(Result.UNCHANGED, against or "the session is gone")
        if not self.verdict.released and any(stands(ask, now) for ask in asks):
            return self.outcome(Result.UNCHANGED, "a person is asked for something in it")
        return None

    async def _find(self, session: Session) -> tuple[_Place | None, list[str]]:
        """Find the server that says it is at work on the session, and the servers that say nothing at all."""
        silent: list[str] = []
        for server in self.remedy.fleet.servers():
            for directory in session.directories:
                try:
                    status = (await server.statuses(directory)).get(session.id)
                except ServerError as error:
                    silent.append(str(error))
                    break
                if status is not None:
                    self._step("find", ok=True, detail=f"{server.name} is at work on it")
                    return _Place(server=server, directory=directory, status=status), silent
        self._step("find", ok=False, detail="; ".join(["no server is at work on it", *silent]))
        return None, silent

    async def _without_server(self, session: Session, silent: list[str]) -> Outcome:
        """No server holds it: an orphan is settled, and what another process runs is left to that process."""
        reproof = await self.remedy.reprove(session.id)
        if reproof.orphan is not None and reproof.orphan.confirmed:
            return await self._settle(session, reproof)
        self._step("prove", ok=False, detail=reproof.why)
        if not self.verdict.row_ids:
            return self.outcome(Result.UNCHANGED, "no server is at work on it any more")
        return self.outcome(Result.UNREACHABLE, "; ".join(["no server that answers runs it", reproof.why, *silent]))

    async def _abort(self, place: _Place, session: Session) -> None:
        limit = self.remedy.ladder.abort_timeout_seconds
        detail, ok = f"{place.server.name} answered", True
        with anyio.move_on_after(limit) as scope:
            try:
                await place.server.abort(session.id, place.directory)
            except ServerError as error:
                detail, ok = str(error), False
        if scope.cancelled_caught:
            detail, ok = f"{place.server.name} did not answer within {limit:g} s", False
        self._step("abort", ok=ok, detail=detail)

    async def _verify(self, place: _Place, session: Session) -> Outcome:
        """Wait until the database shows that what was observed is closed: an abort's answer proves nothing."""
        deadline = self.remedy.clock.read().awake_seconds + self.remedy.ladder.abort_grace_seconds
        while True:
            now = await self.remedy.store.session(session.id)
            left = _still_open(now, self.verdict)
            idle = not left and (bool(self.verdict.row_ids) or await self._is_idle(place, session))
            if idle:
                return self._cancelled(session, now)
            if self.remedy.clock.read().awake_seconds >= deadline:
                break
            await self.remedy.clock.sleep(_POLL_SECONDS)
        self._step("verify", ok=False, detail=f"still open after the abort: {_names(left) or session.id}")
        turns = self.verdict.turn_ids if await self._is_idle(place, session) else ()
        reproof = await self.remedy.reprove(session.id, let_go=dict.fromkeys(turns, place.server.name))
        if reproof.orphan is not None and reproof.orphan.confirmed:
            return await self._settle(session, reproof)
        self._step("prove", ok=False, detail=reproof.why)
        return self.outcome(
            Result.INEFFECTIVE, f"{_names(left) or session.id} stayed open after an abort; {reproof.why}"
        )

    async def _is_idle(self, place: _Place, session: Session) -> bool:
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
        place = await self._asking(session, ask)
        if place is None:
            return self.outcome(Result.UNCHANGED, "no server that answers asks it any more")
        server, directory = place
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would turn down a {ask.kind.value} of session {session.id}")
        await self._begin()
        try:
            await server.reject(ask, directory)
        except ServerError as error:
            self._step("reject", ok=False, detail=str(error))
        else:
            self._step("reject", ok=True, detail=f"{server.name} took it")
        deadline = self.remedy.clock.read().awake_seconds + self.remedy.ladder.abort_grace_seconds
        while self.remedy.clock.read().awake_seconds < deadline:
            left = _still_open(await self.remedy.store.session(session.id), self.verdict)
            if not left and await self._asking(session, ask, quiet=True) is None:
                self._step("verify", ok=True, detail="it is asked no more, and its call is closed")
                return self.outcome(Result.RECOVERED, self.verdict.why)
            await self.remedy.clock.sleep(_POLL_SECONDS)
        self._step("verify", ok=False, detail="it is still asked, or its call is still open")
        return self.outcome(Result.INEFFECTIVE, "it was turned down and still waits")

    async def _asking(self, session: Session, ask: Ask, *, quiet: bool = False) -> tuple[Server, str] | None:
        """The server that asks it, and the directory under which it does."""
        for server in self.remedy.fleet.servers():
            for directory in session.directories:
                try:
                    asks = await server.pending_asks(directory)
                except ServerError:
                    continue  # it is looked for at the others; no answer is no evidence
                if any(each.id == ask.id for each in asks):
                    if not quiet:
                        self._step("find", ok=True, detail=f"{server.name} asks it")
                    return server, directory
        return None

    # -- rungs 4 to 6: settle what nobody executes -----------------------------------------------------------

    async def _settle(self, session: Session, reproof: Reproof | None = None) -> Outcome:
        """Write the end of rows that nobody executes, proven once more right before."""
        reproof = reproof or await self.remedy.reprove(session.id)
        self._step("prove", ok=reproof.orphan is not None, detail=reproof.why)
        if reproof.orphan is None or not reproof.orphan.confirmed:
            return self.outcome(Result.UNCHANGED, f"the proof no longer holds: {reproof.why}")
        ids = self.verdict.row_ids & reproof.orphan.row_ids
        rows = await self.remedy.store.rows(
            call_ids=[id_ for id_ in self.verdict.call_ids if id_ in ids],
            turn_ids=[id_ for id_ in self.verdict.turn_ids if id_ in ids],
        )
        writes = settle(rows, text=self._text(), now_ms=self.remedy.clock.read().wall_ms)
        left = _still_open(await self.remedy.store.session(session.id), self.verdict) & ids
        if broken := left - {write.row.id for write in writes}:
            return self.outcome(Result.FAILED, f"{_names(broken)} can't be written in a shape that opencode reads")
        if not writes:
            return self.outcome(Result.UNCHANGED, "it ended by itself")
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would settle {len(writes)} rows: {self.verdict.why}")
        # Once begun, the write is shown and read back even if the watchdog is told to stop.
        with anyio.move_on_after(_SETTLE_SECONDS, shield=True):
            return await self._write(session, writes)
        return self.outcome(Result.FAILED, f"settling took longer than {_SETTLE_SECONDS:g} s")

    async def _write(self, session: Session, writes: tuple[GuardedWrite, ...]) -> Outcome:
        await self.remedy.journal.keep(await self._begin(), writes)
        changed = await self.remedy.store.write(writes)
        self._step("settle", ok=changed > 0, detail=f"{changed} of {len(writes)} rows written")
        if not changed:
            return self.outcome(Result.UNCHANGED, "a row changed at the last moment, so nothing was written")
        return await self._show(session, writes)

    async def _show(self, session: Session, writes: tuple[GuardedWrite, ...]) -> Outcome:
        """Have a server publish the settled calls and read the session back; put all back if it can't be read."""
        server = await self._serving(session, writes)
        if server is not None:
            await self._publish(server, session, writes)
            if await self._unreadable(server, session):
                return await self._put_back(server, session, writes)
        left = _still_open(await self.remedy.store.session(session.id), self.verdict)
        if left:
            self._step("verify", ok=False, detail=f"still open: {_names(left)}")
            return self.outcome(Result.INEFFECTIVE, f"{_names(left)} is open again")
        self._step("verify", ok=True, detail="everything that was observed is closed")
        return self.outcome(Result.RECOVERED, self.verdict.why)

    async def _serving(self, session: Session, writes: Iterable[GuardedWrite]) -> Server | None:
        """A server that is up and really serves this database."""
        turn_id = next(write.row.message_id for write in writes)
        for server in self.remedy.fleet.servers():
            try:
                if await server.serves(session.id, turn_id, session.directory):
                    return server
            except ServerError:
                continue  # a server that is down shows nothing to anybody
        self._step("publish", ok=True, detail="no server is up to show it")
        return None

    async def _publish(self, server: Server, session: Session, writes: Iterable[GuardedWrite]) -> None:
        parts = [write.row.id for write in writes if write.row.table == "part"]
        rows = await self.remedy.store.rows(call_ids=[id_ for id_ in self.verdict.call_ids if id_ in parts])
        after = {write.row.id: write.after for write in writes}
        try:
            for row in rows:
                if row.data == after[row.id]:
                    await server.publish(row, session.directory)
        except ServerError as error:
            self._step("publish", ok=False, detail=str(error))
        else:
            self._step("publish", ok=True, detail=f"{server.name} told its clients of {len(rows)} calls")

    async def _unreadable(self, server: Server, session: Session) -> bool:
        """Whether the server says that it can't read the session's messages."""
        try:
            readable = await server.readable(session.id, session.directory)
        except ServerError as error:
            self._step("read_back", ok=False, detail=str(error))
            return False
        self._step("read_back", ok=readable, detail="the messages read" if readable else "the messages do not read")
        return not readable

    async def _put_back(self, server: Server, session: Session, writes: tuple[GuardedWrite, ...]) -> Outcome:
        """Undo what was written, except where somebody has written since."""
        ours = {write.row.id: write for write in writes}
        rows = await self.remedy.store.rows(call_ids=self.verdict.call_ids, turn_ids=self.verdict.turn_ids)
        back = [
            GuardedWrite(row=row, after=ours[row.id].row.data)
            for row in rows
            if row.id in ours and row.data == ours[row.id].after
        ]
        changed = await self.remedy.store.write(back)
        self._step("put_back", ok=changed > 0, detail=f"{changed} of {len(back)} rows put back")
        return self.outcome(
            Result.FAILED, f"{server.name} could not read session {session.id} afterwards, so its rows were put back"
        )

    # -- words -----------------------------------------------------------------------------------------------

    def _text(self) -> str:
        """What people and models read as the error of a settled row."""
        said = f" ({self.reason})" if self.reason else ""
        return (
            f"Ended by opencode-watchdog{said}: {self.verdict.why}. "
            "A command that it had started may still be running."
        )

    def _step(self, step: str, *, ok: bool, detail: str) -> None:
        self.steps.append(Step(step=step, at_ms=self.remedy.clock.read().wall_ms, ok=ok, detail=detail))


def _current(session: Session, turn_id: str) -> bool:
    return not any(turn.id == turn_id and turn.superseded for turn in session.turns)


def _still_open(session: Session | None, verdict: Verdict) -> frozenset[str]:
    """What of the judged rows is still open."""
    if session is None:
        return frozenset()
    calls = {call.id for call in session.calls}
    turns = {turn.id for turn in session.turns if turn.open}
    return verdict.row_ids & (calls | turns)


def _names(ids: Iterable[str]) -> str:
    return ", ".join(sorted(ids))
