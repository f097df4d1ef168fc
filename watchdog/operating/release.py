"""What a person asks to end: a session with everything open in it, or a message that can't be deleted."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import anyio

from watchdog.errors import NoSuchMessage, NoSuchSession, ServerError, ServerUnreachable
from watchdog.judging.orphan_proof import claims
from watchdog.judging.rulings import Consent, Living, living_below, release, release_deleted, runs_deleted
from watchdog.judging.session_tree import Family
from watchdog.loop.watch import Watch
from watchdog.model.interventions import Actor
from watchdog.model.moments import NEVER, Moment
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Observation, Served
from watchdog.model.session import Session, SessionId
from watchdog.model.verdict import SpareReason, VerdictKind
from watchdog.ports import Fleet, Server, Store
from watchdog.timing.events import Assessment

_PATIENCE_IN_GRACES = 4
_SHORTEST_WAIT_SECONDS = 0.25
_BUSY_SECONDS = 5.0
_FINE = frozenset({Result.RECOVERED, Result.UNCHANGED})

Agreed = Callable[[Assessment, Session, Sequence[Living]], bool]
"""Asks a person whether to end a session, with what lives below it, and raises if they say no.

True if they were asked, and so took time to think."""


class Progress(Protocol):
    """Shows a waiting person what is going on; each step shows as long as its context is open."""

    def looking(self) -> AbstractAsyncContextManager[object]:
        """The database and its servers are looked at."""
        ...

    def ending(self) -> AbstractAsyncContextManager[object]:
        """Something is being ended, and the database is read to see it end."""
        ...

    def waiting(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A second look comes in so many seconds."""
        ...


class Unseen:
    """Nobody waits to see it."""

    def looking(self) -> AbstractAsyncContextManager[object]:
        """See `Progress.looking`."""
        return nullcontext()

    def ending(self) -> AbstractAsyncContextManager[object]:
        """See `Progress.ending`."""
        return nullcontext()

    def waiting(self, seconds: float) -> AbstractAsyncContextManager[object]:  # noqa: ARG002
        """See `Progress.waiting`."""
        return nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletion:
    """How the deletion of a message went.

    Attributes:
        outcomes: those of the release before it, the session's own first.
        gone: the message is no longer in the database.
    """

    session_id: SessionId
    message_id: str
    outcomes: tuple[Outcome, ...]
    gone: bool


class Releasing:
    """Ends the sessions that a person names, on one watch."""

    def __init__(self, watch: Watch, store: Store, fleet: Fleet, *, progress: Progress | None = None) -> None:
        self._watch = watch
        self._store = store
        self._fleet = fleet
        self._progress = progress or Unseen()

    async def release(
        self,
        session_id: SessionId,
        *,
        reason: str | None,
        agreed: Agreed | None = None,
        below: bool = False,
        consented: Collection[SessionId] = (),
        ends_hold: bool = True,
    ) -> tuple[Outcome, ...]:
        """End now whatever is open in a session, and what nobody executes below it.

        The person who is asked sees what lives below it. Nothing changes until they agreed: a hold ends once it acts.

        Args:
            session_id: the session; its own outcome is the first.
            reason: the person's words, kept in what is ended.
            agreed: asks a person first; None when they have said so already.
            below: end what lives below it, too.
            consented: those below it that the person already saw, and said may end with it.
            ends_hold: a person who says "end it" no longer says "leave it".

        Raises:
            NoSuchSession: the database has none with that id.
            DatabaseError: the database can't be used.
            JournalUnusable: the journal can't be used.
        """
        began_at = self._watch.clock.read().awake_seconds
        # If the loop is already at work on it, that is the request; and it changes what a look would show.
        joined = await self._watch.acting.join(session_id, since=began_at)
        try:
            assessment, session = await self._look_at(session_id)
        except NoSuchSession:
            return (joined or await self._release_deleted(session_id, reason, agreed),)
        shown = self._shown(assessment, session, below=below)
        if agreed is not None and agreed(assessment, session, shown):
            # It went on while the person was thinking.
            assessment, session = await self._look_at(session_id)
        else:
            shown = ()
        saw = frozenset(each.session_id for each in shown).union(consented)
        consent = Consent(below=None if below else saw, ends_hold=ends_hold)
        task = _Task(reason=reason, consent=consent, began_at=began_at)
        outcomes = [joined or await self._release_one(assessment, session, task)]
        # A session below an orphan is an orphan too, and nobody else will end it. Work that a server ran below the
        # session ended with it.
        if outcomes[0].result is Result.RECOVERED or (below and outcomes[0].result is Result.UNCHANGED):
            for child_id in sorted(Family(assessment.observation).below(session)):
                outcomes += await self._release_below(child_id, task)
        return tuple(outcomes)

    async def ask_first(self, session_id: SessionId, agreed: Agreed | None, *, below: bool) -> tuple[SessionId, ...]:
        """Ask a person if another watchdog will end it. Returns the sessions below that they saw and agreed to."""
        if agreed is None:
            return ()
        try:
            assessment, session = await self._look_at(session_id)
        except NoSuchSession:
            return ()  # it may have been deleted while it runs; the leader knows
        shown = self._shown(assessment, session, below=below)
        return tuple(each.session_id for each in shown) if agreed(assessment, session, shown) else ()

    async def _release_deleted(self, session_id: SessionId, reason: str | None, agreed: Agreed | None) -> Outcome:
        """End a session that was deleted while it ran, if a server is still at work on it."""
        assessment = await self._watch.assess(also=[session_id], fresh=True)
        if not runs_deleted(assessment.observation, session_id):
            raise NoSuchSession(session_id)
        if agreed is not None:
            why = f"session {session_id} was deleted, and a server is still at work on it"
            gone = Session(id=session_id, directory="", created_ms=0)
            agreed(assessment, gone, (Living(session_id=session_id, why=why, of_its_own=True),))
        async with self._progress.ending():
            return await self._watch.act_alone(
                release_deleted(session_id), reason=reason, actor=Actor.PERSON, consent=Consent()
            )

    def _shown(self, assessment: Assessment, session: Session, *, below: bool) -> tuple[Living, ...]:
        """The sessions that live below a session, and would end with it."""
        settles = release(assessment.observation, self._watch.policy, session).kind is VerdictKind.ORPHAN
        return () if settles and not below else living_below(assessment.observation, self._watch.policy, session)

    async def _release_below(self, child_id: SessionId, task: "_Task") -> list[Outcome]:
        """End what is open in a session below a released one, if nobody executes it or the person said so."""
        assessment = await self._watch.assess(also=[child_id], fresh=True)
        child = assessment.observation.snapshot.sessions.get(child_id)
        if child is None or not (child.has_open_rows or is_claimed(assessment.observation, child)):
            return []
        verdict = release(assessment.observation, self._watch.policy, child)
        if task.consent.below is None or (verdict.kind is VerdictKind.ORPHAN and not self._held(assessment, child)):
            return [await self._release_one(assessment, child, replace(task, consent=_FOR_BELOW))]
        signs = "; ".join(signs_of_life(assessment, child)) or "somebody may be at work on it"
        why = f"it was left alone: {signs}; a release with `below` ends it, too"
        return [_unchanged(child, verdict.kind, why)]

    def _held(self, assessment: Assessment, child: Session) -> bool:
        return child.id in assessment.observation.on_hold

    async def delete_message(
        self, session_id: SessionId, message_id: str, *, agreed: Agreed | None = None
    ) -> Deletion:
        """Release a session if it is busy, delete one of its messages through the server that has it, and verify.

        Raises:
            NoSuchSession: the database has none with that id.
            NoSuchMessage: the session has none with that id.
            ServerError: no server that answers has the message, or it would not delete it.
            DatabaseError: the database can't be used.
            JournalUnusable: the journal can't be used.
        """
        assessment, session = await self._look_at(session_id)
        if not await self._store.message_exists(session.id, message_id):
            raise NoSuchMessage(f"Session {session_id} has no message {message_id}.")
        busy = session.has_open_rows or is_claimed(assessment.observation, session)
        outcomes = await self.release(session.id, reason="to delete a message", agreed=agreed, ends_hold=busy)
        gone = False
        if all(outcome.result in _FINE for outcome in outcomes):
            await _delete(*await self._server_that_has(session), session, message_id)
            gone = not await self._store.message_exists(session.id, message_id)
        return Deletion(session_id=session.id, message_id=message_id, outcomes=outcomes, gone=gone)

    async def _look_at(self, session_id: SessionId) -> tuple[Assessment, Session]:
        async with self._progress.looking():
            assessment = await self._watch.assess(also=[session_id], fresh=True)
        session = assessment.observation.snapshot.sessions.get(session_id)
        if session is None:
            raise NoSuchSession(session_id)
        return assessment, session

    async def _release_one(self, assessment: Assessment, session: Session, task: "_Task") -> Outcome:
        """Attempt the ladder for one session; if a proof needs a second look, wait for it."""
        clock, policy = self._watch.clock, self._watch.policy
        give_up_at = clock.read().awake_seconds + _PATIENCE_IN_GRACES * policy.orphan_grace_seconds
        while True:
            joined = await self._watch.acting.join(session.id, since=task.began_at)
            if joined is not None:
                return joined
            verdict = release(assessment.observation, policy, session)
            if not verdict.row_ids and not is_claimed(assessment.observation, session):
                return _unchanged(session, verdict.kind, "nothing is open in it, and no server is at work on it")
            # A row that keeps changing is never confirmed: the ladder then says that the proof does not hold.
            if verdict.confirmed or clock.read().awake_seconds > give_up_at:
                async with self._progress.ending():
                    return await self._watch.act_alone(
                        verdict, reason=task.reason, actor=Actor.PERSON, consent=task.consent
                    )
            looks = self._watch.memory.looks
            first = max((looks[row].at for row in verdict.row_ids if row in looks), default=NEVER)
            await self._wait_until(first + policy.orphan_grace_seconds)
            assessment, session = await self._look_at(session.id)

    async def _wait_until(self, until: Moment) -> None:
        left = until - self._watch.clock.now()
        if left <= 0:
            await anyio.sleep(_SHORTEST_WAIT_SECONDS)
            return
        async with self._progress.waiting(left):
            await anyio.sleep(left + 0.01)

    async def _server_that_has(self, session: Session) -> tuple[Server, Served]:
        seen = await self._watch.recheck.seen(session.id)
        if seen.serving:
            return seen.serving[0]
        raise ServerUnreachable(
            " ".join(["No server that answers has this message, and only a server can delete it.", *seen.silent])
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A person's request.

    Attributes:
        began_at: when it began, on the awake clock: interventions on it since then count as this request.
    """

    reason: str | None
    consent: Consent
    began_at: float


_FOR_BELOW = Consent(below=None)
"""For a session below a released one: everything below it was seen, or has its own turn."""


def _unchanged(session: Session, kind: VerdictKind, why: str) -> Outcome:
    return Outcome(session_id=session.id, kind=kind, result=Result.UNCHANGED, steps=(), why=why)


def signs_of_life(assessment: Assessment, session: Session) -> list[str]:
    """Why a session may be alive; nothing if it is stuck, or if nobody could end it anyway."""
    if any(each.cancel_session_id == session.id for each in assessment.judgement.verdicts):
        return []
    harmless = {SpareReason.FIRST_LOOK}
    if not is_claimed(assessment.observation, session):
        harmless.add(SpareReason.NO_WITNESS)
    return list(
        dict.fromkeys(
            each.why
            for each in assessment.judgement.spared
            if each.session_id == session.id and each.reason not in harmless
        )
    )


def is_claimed(observation: Observation, session: Session) -> bool:
    """Whether a server says that it is at work on a session."""
    return any(claims(report, session) for report in observation.reports)


async def _delete(server: Server, served: Served, session: Session, message_id: str) -> None:
    """Delete a message; a server may call a session busy for a moment after it let go of it."""
    with anyio.move_on_after(_BUSY_SECONDS):
        while True:
            try:
                return await server.delete_message(served, session.id, message_id, session.directory)
            except ServerError as error:
                if "busy" not in str(error):
                    raise
            await anyio.sleep(0.2)
    return await server.delete_message(served, session.id, message_id, session.directory)
