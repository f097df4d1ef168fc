"""One verdict on its way up the ladder: what every rung needs."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import anyio

from watchdog.errors import JournalUnusable, LeaseLost, ServerDeclined, ServerError, ServerUntold
from watchdog.interventions import Actor, Hold, InterventionId
from watchdog.model import (
    EMBEDDED,
    EVERYTHING,
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
)
from watchdog.ports import Clock, Deputy, Fleet, Journal, Server, Store
from watchdog.sharing import Rounds
from watchdog.shown import shown


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


POLL_SECONDS = 0.1

Confirm = Callable[[], Awaitable[None]]
"""Makes sure, right before something that can't be taken back, that the right to act was not lost meanwhile.

Raises `LeaseLost` when it was.
"""


async def confirmed() -> None:
    """The kernel's lock on a file is held for as long as the process lives: there is nobody to ask."""


Count = Callable[[Outcome], Awaitable[None]]
"""Counts an outcome, and keeps the count, before the journal says that the intervention ended."""


async def uncounted(_: Outcome) -> None:
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
class Place:
    """Where a session is held: the server, and the directory under which it says so."""

    server: Server
    directory: str
    status: Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What climbs work with.

    Attributes:
        holds: what is on hold, read once for all climbs that ask at the same time.
        confirm: asked right before a server is told something.
    """

    store: Store
    fleet: Fleet
    clock: Clock
    reprove: Reprove
    ladder: Ladder
    journal: Journal
    holds: Rounds[None, Mapping[SessionId, Hold]]
    confirm: Confirm


class Climb:
    """One verdict on its way up the ladder, with the steps that it took.

    Attributes:
        claimant: the server that was at work on the session when it was judged, if one was.
        asks: the ids of the asks that were seen at the last moment, and do not stand against it.
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
    ) -> None:
        self.tools = tools
        self.verdict = verdict
        self.dry_run = dry_run
        # People read it, and no database of text holds a NUL or half a surrogate pair.
        self.reason = reason and shown(reason)
        self.actor = actor
        self.claimant = claimant
        self.intervention: InterventionId | None = None
        self.acted = False
        self.asks: frozenset[str] = frozenset()
        self.steps: list[Step] = []

    def outcome(self, result: Result, why: str) -> Outcome:
        """How it ended, with the steps so far."""
        return Outcome(
            session_id=self.verdict.session_id,
            kind=self.verdict.kind,
            result=result,
            steps=tuple(self.steps),
            why=why,
        )

    async def noted(self, outcome: Outcome, count: Count) -> Outcome:
        """Note the outcome of what was begun. An act that was done stays done if that fails; the next start looks.

        It is counted before it is closed: a crash in between may count it twice, and so act less, but never more.
        """
        await count(outcome)
        if self.intervention is None:
            return outcome
        try:
            await self.tools.journal.end(self.intervention, outcome, at_ms=self.tools.clock.read().wall_ms)
        except JournalUnusable as error:
            self._step("journal", ok=False, detail=str(error))
            return self.outcome(outcome.result, outcome.why)
        return outcome

    async def _begin(self) -> InterventionId:
        """Note, before anything is done, that it begins."""
        if self.intervention is None:
            self.intervention = await self.tools.journal.begin(
                self.verdict, at_ms=self.tools.clock.read().wall_ms, actor=self.actor, reason=self.reason
            )
        return self.intervention

    async def _held(self) -> str | None:
        """Why it is to be left alone, if a person has said so since; a person's own act is not held up."""
        if self.actor is Actor.PERSON:
            return None
        holds = await self.tools.holds.join(None)
        ids = (EVERYTHING, self.verdict.session_id, self.verdict.cancel_session_id)
        return next((holds[id_].why for id_ in ids if id_ in holds), None)

    def _changed_hands(self, place: Place) -> bool:
        """Whether another replica than the one that was judged is at work on it: what it does is work of its own."""
        replicas = any(server.name == EMBEDDED for server in self.tools.fleet.servers())
        return replicas and self.claimant not in {None, place.server.name}

    async def _tell_to_end(self, place: Place, session: Session) -> Outcome | None:
        """Have the server abort the session, within a time limit. Returns how it ended if the server spares it."""
        limit = self.tools.ladder.abort_timeout_seconds
        detail, ok = f"{place.server.name} answered", True
        self.acted = True
        with anyio.move_on_after(limit) as scope:
            try:
                await self._end(place, session)
            except ServerDeclined as error:
                self.acted = False
                self._step("abort", ok=False, detail=str(error))
                return self.outcome(Result.UNCHANGED, str(error))
            except ServerUntold as error:
                self.acted = False
                self._step("abort", ok=False, detail=str(error))
                return self.outcome(Result.UNREACHABLE, str(error))
            except LeaseLost:
                self.acted = False
                raise
            except ServerError as error:
                detail, ok = str(error), False
        if scope.cancelled_caught:
            detail, ok = f"{place.server.name} did not answer within {limit:g} s", False
        self._step("abort", ok=ok, detail=detail)
        return None

    async def _end(self, place: Place, session: Session) -> None:
        if not isinstance(place.server, Deputy):
            await place.server.abort(session.id, place.directory)
            return
        await place.server.abort_unless(
            session.id,
            place.directory,
            directories=session.directories,
            asks=self.asks,
            life_ms=self.verdict.life_ms if self.verdict.rests_on_silence else None,
        )

    def _step(self, step: str, *, ok: bool, detail: str) -> None:
        self.steps.append(Step(step=step, at_ms=self.tools.clock.read().wall_ms, ok=ok, detail=detail))

    def _text(self) -> str:
        """What people and models read as the error of a settled row."""
        said = f" ({self.reason})" if self.reason else ""
        return (
            f"Ended by opencode-watchdog{said}: {self.verdict.why}. "
            "A command that it had started may still be running."
        )


def current(session: Session, turn_id: str) -> bool:
    """Whether no newer turn has superseded this one."""
    return not any(turn.id == turn_id and turn.superseded for turn in session.turns)


def still_open(session: Session | None, verdict: Verdict) -> frozenset[str]:
    """What of the judged rows is still open."""
    if session is None:
        return frozenset()
    calls = {call.id for call in session.calls}
    turns = {turn.id for turn in session.turns if turn.open}
    return verdict.row_ids & (calls | turns)


def names(ids: Iterable[str]) -> str:
    """Some ids, for people."""
    return ", ".join(sorted(ids))
