"""One verdict on its way up the ladder: what every rung needs."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from watchdog.acting.recheck import Recheck, Rechecked
from watchdog.acting.settled import SettledCommands
from watchdog.errors import JournalUnusable, LeaseLost, ServerDeclined, ServerError, ServerUntold
from watchdog.judging.rulings import Consent, Dropped
from watchdog.model.deputies import Deputy
from watchdog.model.interventions import Actor, InterventionId
from watchdog.model.outcome import Outcome, Result, Step
from watchdog.model.session import ServerName, Session, TurnId
from watchdog.model.verdict import Verdict
from watchdog.ports import Clock, Fleet, Journal, Store
from watchdog.shown import shown

POLL_SECONDS: Final = 0.1

Confirm = Callable[[], Awaitable[None]]
"""Checks, right before an irreversible act, that the right to act was not lost in the meantime.

Raises `LeaseLost` if it was.
"""


async def confirmed() -> None:
    """The process holds the kernel's lock on a file as long as it lives: there is nobody to ask."""


class Count(Protocol):
    """Counts an outcome, and keeps the count, before the journal says that the intervention ended."""

    async def __call__(self, outcome: Outcome, /, *, attempted: bool) -> None:
        """Count it.

        Args:
            outcome: how it ended.
            attempted: something was sent or written.
        """
        ...


async def uncounted(_: Outcome, /, *, attempted: bool) -> None:
    """Count nothing."""


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
class Tools:
    """What attempts work with.

    Attributes:
        recheck: the one way from a verdict to an act.
        confirm: asked right before a server is told something.
        commands: what settled calls have started; None where nobody can look at processes.
    """

    store: Store
    fleet: Fleet
    clock: Clock
    recheck: Recheck
    ladder: Ladder
    journal: Journal
    confirm: Confirm
    commands: SettledCommands | None


class Attempt:
    """One verdict on its way up the ladder, with the steps that it took.

    Attributes:
        claimant: the server that was at work on the session when it was judged, or last looked at.
        consent: what the person who asked for it agreed to, if a person did.
        dropped_prompts: the queued prompts that an abort dropped.
        told: something was sent, or was written.
        acted: a server was told something, or rows may have been written: from here on it was an attempt.
    """

    def __init__(
        self,
        tools: Tools,
        verdict: Verdict,
        *,
        dry_run: bool,
        reason: str | None,
        actor: Actor,
        claimant: ServerName | None = None,
        consent: Consent | None = None,
    ) -> None:
        self.tools = tools
        self.verdict = verdict
        self.dry_run = dry_run
        # People read it, and no text column of a database holds a NUL or half a surrogate pair.
        self.reason = reason and shown(reason)
        self.actor = actor
        self.claimant = claimant
        self.consent = consent
        self.intervention: InterventionId | None = None
        self.acted = self.told = False
        self.steps: list[Step] = []
        self.dropped_prompts: tuple[str, ...] = ()

    def outcome(self, result: Result, why: str) -> Outcome:
        """How it ended, with the steps so far."""
        return Outcome(
            session_id=self.verdict.session_id,
            kind=self.verdict.kind,
            result=result,
            steps=tuple(self.steps),
            why=why,
            dropped_prompts=self.dropped_prompts,
        )

    async def noted(self, outcome: Outcome, count: Count, *, attempted: bool = True) -> Outcome:
        """Note the outcome of what was begun. If that fails, a finished act stays done; the next start looks.

        It is counted before it is closed: a crash in between may count it twice, and so act less, but never more.
        """
        await count(outcome, attempted=attempted)
        if self.intervention is None:
            return outcome
        try:
            await self.tools.journal.end(self.intervention, outcome, at_ms=self.tools.clock.read().wall_ms)
        except JournalUnusable as error:
            self._step("journal", ok=False, detail=str(error))
            return self.outcome(outcome.result, outcome.why)
        return outcome

    async def _rechecked(self, verdict: Verdict, *, let_go: Iterable[TurnId] = ()) -> Rechecked | Dropped:
        """Take a fresh look, and have the judge pass the verdict again; there is no other way to an act.

        Args:
            let_go: the turns that the server, which was at work on them, let go of when it was told to abort.
        """
        again = await self.tools.recheck.again(
            verdict,
            consent=self.consent,
            claimant=self.claimant,
            let_go=dict.fromkeys(let_go, self.claimant) if self.claimant is not None else {},
        )
        if isinstance(again, Rechecked) and again.claim is not None:
            self.claimant = again.claim.server.name
        return again

    def _drop(self, dropped: Dropped) -> Outcome:
        """How it ends if the judge no longer passes it."""
        self._step("reread", ok=False, detail=dropped.why)
        return self.outcome(Result.UNCHANGED, dropped.why)

    async def _begin(self, about_to: Step | None = None) -> InterventionId:
        """Note, before doing anything, that it begins, and what is about to be sent."""
        if about_to is not None:
            self.steps.append(about_to)
        if self.intervention is None:
            self.intervention = await self.tools.journal.begin(
                self.verdict,
                at_ms=self.tools.clock.read().wall_ms,
                actor=self.actor,
                reason=self.reason,
                about_to=about_to,
            )
        return self.intervention

    async def _end_hold(self) -> None:
        """End the hold on a person's release, now that something was sent or written: before that it stands."""
        if not self.verdict.released or self.consent is None or not self.consent.ends_hold:
            return
        try:
            await self.tools.journal.unhold(self.verdict.cancel_session_id)
        except JournalUnusable as error:
            self._step("journal", ok=False, detail=str(error))

    async def _tell_to_end(self, again: Rechecked) -> Outcome | None:
        """Have the server abort the session, within a time limit. Returns an outcome if the server spares it."""
        limit, place = self.tools.ladder.abort_timeout_seconds, again.place
        detail, ok = f"{place.server.name} answered", True
        self.acted = self.told = True
        with anyio.move_on_after(limit) as scope:
            try:
                await self._end(again)
            except ServerDeclined as error:
                self.acted = self.told = False
                self._step("abort", ok=False, detail=str(error))
                return self.outcome(Result.UNCHANGED, str(error))
            except ServerUntold as error:
                self.acted = self.told = False
                self._step("abort", ok=False, detail=str(error))
                return self.outcome(Result.UNREACHABLE, str(error))
            except LeaseLost:
                self.acted = self.told = False
                raise
            except ServerError as error:
                detail, ok = str(error), False
        if scope.cancelled_caught:
            detail, ok = f"{place.server.name} did not answer within {limit:g} s", False
        self._step("abort", ok=ok, detail=detail)
        await self._end_hold()
        return None

    async def _end(self, again: Rechecked) -> None:
        place, session, verdict = again.place, again.session, again.verdict
        if not isinstance(place.server, Deputy):
            await place.server.abort(place.served, session.id, place.directory)
            return
        await place.server.abort_unless(
            place.served,
            session.id,
            asks=frozenset(ask.id for ask, _ in again.asks),
            life_ms=self.verdict.life_ms if verdict.rests_on_silence else None,
        )

    def _about_to(self, what: str, detail: str) -> Step:
        return Step(step=f"about_to_{what}", at_ms=self.tools.clock.read().wall_ms, ok=True, detail=detail)

    def _step(self, step: str, *, ok: bool, detail: str) -> None:
        self.steps.append(Step(step=step, at_ms=self.tools.clock.read().wall_ms, ok=ok, detail=detail))

    def _text(self) -> str:
        """The text that people and models read as the error of a settled row."""
        said = f" ({self.reason})" if self.reason else ""
        return f"Ended by opencode-watchdog{said}: {self.verdict.why}."


def still_open(session: Session | None, verdict: Verdict) -> frozenset[str]:
    """The judged rows that are still open."""
    if session is None:
        return frozenset()
    calls = {call.id for call in session.calls}
    turns = {turn.id for turn in session.turns if turn.open}
    return verdict.row_ids & (calls | turns)


def names(ids: Iterable[str]) -> str:
    """Some ids, for people."""
    return ", ".join(sorted(ids))
