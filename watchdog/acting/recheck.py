"""The one way from a verdict to an act: a fresh look at the session and everything below it, and the same judge.

Every act takes a `Rechecked`, and only a `Recheck` makes one.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Protocol

from watchdog.judging.facts import Case
from watchdog.judging.rulings import Consent, Dropped, again, open_rows
from watchdog.model.policy import Policy
from watchdog.model.report import EVERYWHERE, Observation, Served
from watchdog.model.session import Ask, ServerName, Session, SessionId, Status, TurnId
from watchdog.model.verdict import Verdict
from watchdog.ports import Clock, Fleet, Server, Store
from watchdog.sharing import Batches
from watchdog.timing.events import Assessment

_TRIES: Final = 3
_NOBODY: Mapping[TurnId, ServerName] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a session is held, or an ask is listed: the server, and the directory under which it says so.

    Attributes:
        served: it is proven to serve this database, for this session.
        status: what it says of the session; None if the place is an ask's.
    """

    server: Server
    served: Served
    directory: str
    status: Status | None = None

    def folders(self, session: Session) -> list[str]:
        """Where to ask the server to hear everything that it says of the session."""
        return [EVERYWHERE] if self.directory == EVERYWHERE else sorted({self.directory, *session.directories})


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A session as a fresh look showed it.

    Attributes:
        session: None when it is gone.
        claims: the servers that say that they are at work on it.
        asks: what is asked in it, each with the place that lists it.
        serving: the servers that are up, each with the proof that it serves this database.
        silent: what prevented an answer, a sentence each.
        may_run: who may be at work on it, if no server says so: a clause for people.
    """

    session: Session | None
    claims: tuple[Place, ...]
    asks: tuple[tuple[Ask, Place], ...]
    serving: tuple[tuple[Server, Served], ...]
    silent: tuple[str, ...]
    may_run: str

    def asked(self, ask: Ask) -> Place | None:
        """Where an ask is still listed."""
        return next((place for each, place in self.asks if each.id == ask.id), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rechecked(Seen):
    """A verdict that the judge has passed again, on a look that began after somebody asked for it.

    Attributes:
        verdict: as it was passed again.
        claim: the server at which the session is to be ended; None if no server says that it is at work on it.
    """

    session: Session
    verdict: Verdict
    claim: Place | None

    @property
    def place(self) -> Place:
        """Where the session is to be ended.

        Raises:
            ValueError: no server says that it is at work on it.
        """
        if self.claim is None:
            raise ValueError(f"no server says that it is at work on {self.session.id}")
        return self.claim


class Look(Protocol):
    """Takes a fresh look at some sessions and everything below them.

    Earlier knowledge does not count as an answer.
    """

    async def __call__(self, session_ids: Sequence[SessionId], /) -> Assessment:
        """Look."""
        ...


Serving = Callable[[SessionId], Awaitable[Sequence[tuple[Server, Served]]]]
"""Takes a fresh look, and says which servers are up and proven to serve this database, for a session."""


class Recheck:
    """Passes verdicts on for an intervention, if the same judge passes them again.

    Callers that ask at the same time share a look, which began after they asked.

    Args:
        look: takes a fresh look.
        policy: the judge's policy.
        let_go: is told which turns a server let go of at our abort.
        patience_seconds: a look that took longer, because the machine or the process stood still, is repeated.
    """

    def __init__(
        self,
        look: Look,
        *,
        store: Store,
        fleet: Fleet,
        clock: Clock,
        policy: Callable[[], Policy],
        let_go: Callable[[Mapping[TurnId, ServerName]], None],
        patience_seconds: float,
    ) -> None:
        self._look = look
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._policy = policy
        self._let_go = let_go
        self._patience_seconds = patience_seconds
        self._batches = Batches(self._look_for_all)

    async def again(
        self,
        verdict: Verdict,
        *,
        consent: Consent | None = None,
        claimant: ServerName | None = None,
        let_go: Mapping[TurnId, ServerName] = _NOBODY,
    ) -> Rechecked | Dropped:
        """Take a fresh look, and have the judge pass a verdict again.

        Args:
            consent: what the person who asked for it agreed to.
            claimant: the server that was at work on it when it was judged; another server's work needs a new verdict.
            let_go: the turns that a server was at work on, and let go of when it was told to abort.

        Raises:
            DatabaseError: the database can't be read.
            JournalUnusable: the journal can't be read, so nobody knows what is on hold.
        """
        self._let_go(let_go)
        for _ in range(_TRIES):
            assessment = await self._batches.join(verdict.cancel_session_id)
            passed = again(
                assessment.observation, assessment.judgement, self._policy(), verdict, consent or Consent()
            )
            if isinstance(passed, Dropped):
                return passed
            seen = self._seen(assessment.observation, verdict.cancel_session_id)
            if await self._still_so(seen, verdict.cancel_session_id):
                return self._passed(verdict, passed, seen, claimant)
        return Dropped(why="it changes while it is looked at")

    async def _still_so(self, seen: Seen, session_id: SessionId) -> bool:
        """Whether nothing began, ended or was prompted while the servers were asked, which takes a while."""
        before, now = seen.session, await self._store.session(session_id)
        if before is None or now is None:
            return before is now
        return (now.newest_prompt_id, open_rows(now)) == (before.newest_prompt_id, open_rows(before))

    def _passed(
        self, verdict: Verdict, passed: Verdict, seen: Seen, claimant: ServerName | None
    ) -> Rechecked | Dropped:
        claim = _claim(seen, claimant)
        if not verdict.released and (changed := _changed_hands(verdict, claim, claimant)) is not None:
            return Dropped(why=changed)
        told: Any = {field.name: getattr(seen, field.name) for field in fields(Seen)}
        if seen.session is None:  # it was deleted while it ran: there is only the server's word of it
            where = claim.directory if claim is not None else ""
            told["session"] = Session(id=verdict.cancel_session_id, directory=where, created_ms=0)
        return Rechecked(**told, verdict=passed, claim=claim)

    async def seen(self, session_id: SessionId) -> Seen:
        """Take a fresh look, and say what is seen of a session, without any act on it.

        Raises:
            DatabaseError, JournalUnusable: as `again`.
        """
        return self._seen((await self._batches.join(session_id)).observation, session_id)

    async def serving(self, session_id: SessionId) -> Sequence[tuple[Server, Served]]:
        """See `Serving`.

        Raises:
            DatabaseError, JournalUnusable: as `again`.
        """
        return (await self.seen(session_id)).serving

    async def _look_for_all(self, session_ids: Sequence[SessionId]) -> Assessment:
        ids = sorted(set(session_ids))
        began = self._clock.read().running_seconds
        assessment = await self._look(ids)
        if self._clock.read().running_seconds - began > self._patience_seconds:
            return await self._look(ids)  # such an old look is no look from right before an act
        return assessment

    def _seen(self, observation: Observation, session_id: SessionId) -> Seen:
        session = observation.snapshot.sessions.get(session_id)
        servers = {server.name: server for server in self._fleet.servers()}
        reports = [report for report in observation.reports if report.name in servers]
        shown = [
            (report, servers[report.name], served)
            for report in reports
            if isinstance(served := report.shown_for(session_id), Served)
        ]
        against = [why for report in reports for why in (report.trouble, report.not_shown) if why is not None]
        return Seen(
            session=session,
            claims=tuple(
                Place(server=server, served=served, directory=directory, status=statuses[session_id])
                for report, server, served in shown
                for directory, statuses in report.statuses.items()
                if session_id in statuses
            ),
            asks=tuple(
                (ask, Place(server=server, served=served, directory=directory))
                for report, server, served in shown
                for directory, asks in report.asks.items()
                for ask in asks
                if ask.session_id == session_id
            ),
            serving=tuple((server, served) for report, server, served in shown if report.trouble is None),
            silent=tuple(dict.fromkeys(against)),
            may_run="" if session is None else self._who_may_run(observation, session),
        )

    def _who_may_run(self, observation: Observation, session: Session) -> str:
        turn = next((turn for turn in reversed(session.turns) if turn.open), None) or next(
            reversed(session.turns), None
        )
        return Case(observation, self._policy(), observation.now).who_may_run(session, turn)


def _claim(seen: Seen, claimant: ServerName | None) -> Place | None:
    """Where the session is to be ended: if several are at work on it, at the one that was when it was judged."""
    if not seen.claims:
        return None
    return next((place for place in seen.claims if place.server.name == claimant), seen.claims[0])


def _changed_hands(verdict: Verdict, claim: Place | None, claimant: ServerName | None) -> str | None:
    """Whether a server is at work on it now that was not when it was judged: its work is another one."""
    if claim is None:
        return None
    if not verdict.claimed:
        return "a server answers for it now, so it is judged again"
    if claimant not in {None, claim.server.name}:
        return f"{claim.server.name} is at work on it now, so it is judged again"
    return None
