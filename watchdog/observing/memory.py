"""What the watchdog remembers between looks: first sights, waits, looks of proofs, attempts.

Each look's values are folded into the memory; it reads no clock. Only unfinished work is in it: everything about a
call, a turn or a session that is no longer open is forgotten.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from watchdog.judging.attempts import after, process_of
from watchdog.judging.gradual import Gradual
from watchdog.judging.session_tree import Family
from watchdog.model.moments import NEVER, Moment, WallMs
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Attempts, Observation, Process, Stopped
from watchdog.model.session import Activity, CallId, ServerName, Session, SessionId, ToolCall, TurnId
from watchdog.model.verdict import Verdict
from watchdog.observing.asked import Asker, still_asked
from watchdog.timing.sightings import Convert, Sightings, idle_clocks, lives, retries


@dataclass(slots=True)
class CallMemory:
    """The memory of an open call: where its clock starts (which moves on in waits), and its last write."""

    start: Moment
    paused: bool = False
    written_ms: WallMs = 0
    witnessed: bool = False
    """A server that runs it has said whether a human is asked for something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """When a row was first seen as it is, while nobody seemed to execute it."""

    at: Moment
    fingerprint: tuple[int, int]


@dataclass(slots=True)
class Memory:
    """The watchdog's memory between looks; `memory_store` carries it over to the next process.

    Attributes:
        noted_at: the look that was noted last.
        elsewhere: hosts on any machine may run the sessions, and none of their processes can be seen: what is open in
            a session is no evidence against a host that took it over from another.
        heard: for each session that one of these said it is at work on: since when, without a break; None if none did
            at the last look.
        lives: when each session last showed life, according to rows and hosts.
        retries: until when each session waits for its provider, according to servers.
        stopped: the sessions whose calls' clocks stand still because a source is silent that would know better.
        processes: the server that is at work on each session, as a process.
        unwatched: it is another process's memory, and nobody looked for so long that a write in between may have been
            an approval.
    """

    calls: dict[CallId, CallMemory] = field(default_factory=dict)
    asks: dict[str, Moment] = field(default_factory=dict)
    askers: dict[str, Asker] = field(default_factory=dict)
    looks: dict[str, _Look] = field(default_factory=dict)
    attempts: dict[str, Attempts] = field(default_factory=dict)
    let_go: dict[TurnId, ServerName] = field(default_factory=dict)
    claimed_by: dict[SessionId, ServerName] = field(default_factory=dict)
    folded_at: Moment | None = None
    noted_at: Moment = NEVER
    unwatched: bool = False
    elsewhere: bool = False
    heard: dict[SessionId, Moment | None] = field(default_factory=dict)
    lives: Sightings = field(default_factory=Sightings)
    retries: Sightings = field(default_factory=Sightings)
    stopped: dict[SessionId, Stopped] = field(default_factory=dict)
    processes: dict[SessionId, Process] = field(default_factory=dict)

    def fold_gradually(self, observation: Observation, convert: Convert) -> Gradual[Observation]:
        """Take in a look, and complete it with the clocks, looks and attempts that only the memory knows.

        It has to end before the next one begins.

        Args:
            observation: what was gathered, with no clocks in it.
            convert: turns the wall times in it into moments.
        """
        elapsed = 0.0 if self.folded_at is None else max(0.0, observation.now - self.folded_at)
        self.folded_at = observation.now
        family = yield from Family.gradually(observation)
        for session in observation.snapshot.sessions.values():
            yield
            if session.calls:
                self._fold_calls(observation, family, session, elapsed, convert)
        self.unwatched = False
        yield from self._note_stopped(observation)
        self._note_asks(observation)
        yield from self._note_claims(observation)
        yield from self._note_processes(observation)
        yield from self._forget(observation)
        looks = self._valid_looks((yield from _fingerprints(observation, self.looks)))
        shown = yield from lives(observation, self.lives, convert)
        idle = yield from idle_clocks(observation, self.lives, self.heard)
        due = yield from retries(observation, self.retries, convert)
        return replace(
            observation,
            call_clocks={id_: call.start for id_, call in self.calls.items()},
            idle_clocks=idle,
            lives=shown,
            retries=due,
            ask_clocks=dict(self.asks),
            looks={row: look.at for row, look in looks.items()},
            stopped=dict(self.stopped),
            attempts=dict(self.attempts),
            let_go=dict(self.let_go),
        )

    def aside(self, observation: Observation) -> "Memory":
        """A copy that a look at a few sessions may be folded into: what is remembered of others stays out of it."""
        sessions = observation.snapshot.sessions
        named = {*sessions, *(id_ for report in observation.reports for id_ in report.said)}
        ids = [call.id for session in sessions.values() for call in session.calls]
        return replace(
            self,
            calls={id_: replace(self.calls[id_]) for id_ in ids if id_ in self.calls},
            claimed_by={id_: self.claimed_by[id_] for id_ in named if id_ in self.claimed_by},
            lives=self.lives.aside(sessions),
            retries=self.retries.aside(named),
        )

    def state(self) -> object:
        """What changes if there is something new to keep: not the clocks that merely run on."""
        return (
            {id_: None if call.paused else call.start for id_, call in self.calls.items()},
            frozenset(self.asks),
            dict(self.attempts),
            dict(self.let_go),
            dict(self.claimed_by),
        )

    def ids(self) -> frozenset[str]:
        """The ids of all remembered calls, turns and sessions."""
        return frozenset(self.calls) | {key.partition(":")[2] for key in self.attempts}

    def note_let_go(self, turns: Mapping[TurnId, ServerName]) -> None:
        """Remember the turns that a server was at work on, and let go of when it was told to abort."""
        self.let_go.update(turns)

    def forget_settling(self) -> None:
        """Forget the attempts to settle, because a person asks to try it now."""
        self.attempts = {key: tried for key, tried in self.attempts.items() if not key.startswith("settle:")}

    def note_looks_gradually(self, observation: Observation, unclaimed: Collection[str]) -> Gradual[None]:
        """Remember which rows nobody seemed to execute, and since when; a row that changed starts again.

        Of looks that are judged side by side, the last one counts.
        """
        prints = yield from _fingerprints(observation, frozenset(unclaimed))
        if observation.now < self.noted_at:
            return
        self.noted_at = observation.now
        known = self._valid_looks(prints)
        self.looks = {
            row: known.get(row) or _Look(at=observation.now, fingerprint=prints[row])
            for row in unclaimed
            if row in prints
        }

    def note_outcome(
        self,
        verdict: Verdict,
        outcome: Outcome,
        *,
        now: Moment,
        pause_seconds: float,
        most: int,
        attempted: bool = True,
    ) -> bool:
        """Count an attempt.

        Args:
            verdict: what was acted on.
            outcome: how it went.
            now: the moment.
            pause_seconds: the first pause; each further attempt doubles it, up to ten minutes.
            most: how many attempts are made before it is given up.
            attempted: false if nothing was sent or written: a database that was busy is no attempt.

        Returns:
            Whether this was the attempt after which it is given up.
        """
        if outcome.result is Result.RECOVERED or (outcome.result is Result.UNCHANGED and not verdict.row_ids):
            for key in verdict.attempt_keys:
                self.attempts.pop(key, None)
            return False
        if outcome.result is Result.UNCHANGED:
            # Rows that are still open keep their attempts, or they would never be given up.
            return False
        counts = attempted and outcome.result in {Result.INEFFECTIVE, Result.FAILED}
        process = self.processes.get(verdict.cancel_session_id)
        newly = False
        for key in verdict.attempt_keys:
            before = self.attempts.get(key, Attempts(newest_prompt_id=verdict.newest_prompt_id))
            tried = after(before, counts=counts, now=now, pause_seconds=pause_seconds, most=most, process=process)
            newly = newly or (tried.given_up and not before.given_up)
            self.attempts[key] = tried
        return newly

    def _fold_calls(
        self, observation: Observation, family: Family, session: Session, elapsed: float, convert: Convert
    ) -> None:
        """Let the clocks of a session's open calls run on, stand still, or restart."""
        now, youngest = observation.now, _youngest(observation, session)
        witnessed, still = _witnessed(observation, session), self._stands_still(observation, session)
        unsure, other = self._changes_hands(observation, session) if self.elsewhere else (False, False)
        replaced = other and session.id in self.claimed_by
        for call in session.calls:
            known = self.calls.get(call.id)
            waits = still or _waits(family, session, call)
            paused = waits or unsure
            if self.unwatched and known is not None and call.updated_ms != known.written_ms:
                known = None  # it may have waited for an approval while nobody looked, as at first sight
            if known is None:
                # It may have waited for an approval until its row was last written; if it waits now, all the time.
                start = now if waits or replaced else convert.moment_of(max(call.created_ms, call.updated_ms))
                known = self.calls[call.id] = CallMemory(min(now, start))
            elif other or (witnessed and not known.witnessed):
                # Until now nobody said whether a human was asked: it may have waited for one all the time. And what
                # another host left open is no evidence against the one that is at work now.
                known = self.calls[call.id] = CallMemory(now)
            elif paused or known.paused:
                known.start = min(now, known.start + elapsed)
            known.start = max(known.start, youngest)
            known.witnessed |= witnessed
            known.paused = paused
            known.written_ms = call.updated_ms

    def _changes_hands(self, observation: Observation, session: Session) -> tuple[bool, bool]:
        """Whose work a session's rows are, if only the word of hosts counts.

        Returns:
            Whether that is unknown, since no host or more than one says that it is at work on it; and whether a host
            is that was not at the last look.
        """
        names = [report.name for report in observation.reports if session.id in report.said]
        return len(names) != 1, bool(names) and self.claimed_by.get(session.id) not in names

    def _stands_still(self, observation: Observation, session: Session) -> bool:
        """Whether the clocks of all calls of a session stand still.

        They do while it waits for a retry, or while a source is silent that may be asking a human.
        """
        for report in observation.reports:
            for status in report.said.get(session.id, ()):
                if status.activity is Activity.RETRY:
                    return True
        return self._silent(observation, session) is not None

    def _silent(self, observation: Observation, session: Session) -> str | None:
        """Who does not say what the session's clocks need in order to run on."""
        for report in observation.reports:
            if self.claimed_by.get(session.id) == report.name and (why := report.against(session)) is not None:
                return f"{report.name} was at work on it and does not answer now ({why.rstrip('.')})"
            if session.id in report.said and not report.knows_asks(session):
                return f"{report.name} does not say whether a person is asked for something"
        return None

    def _note_stopped(self, observation: Observation) -> Gradual[None]:
        """Remember since when each session's clocks have stood still because a source is silent."""
        found: dict[SessionId, Stopped] = {}
        for session in observation.snapshot.sessions.values():
            yield
            why = self._silent(observation, session) if session.calls else None
            if why is None and session.calls and self.elsewhere and self._changes_hands(observation, session)[0]:
                why = "not exactly one host says that it is at work on it"
            if why is not None:
                since = self.stopped[session.id].since if session.id in self.stopped else observation.now
                found[session.id] = Stopped(why=why, since=since)
        self.stopped = found

    def _note_asks(self, observation: Observation) -> None:
        """Remember since when each ask is known. The asks of a server that does not answer stay."""
        kept, listed = still_asked(observation, self.asks, self.askers)
        self.asks = {id_: self.asks.get(id_, observation.now) for id_ in kept}
        self.askers = {**{id_: asker for id_, asker in self.askers.items() if id_ in kept}, **listed}

    def _note_processes(self, observation: Observation) -> Gradual[None]:
        """Remember which process is at work on each session."""
        found: dict[SessionId, Process] = {}
        for report in observation.reports:
            known: Process | None = None  # one server is at work on all its sessions
            for id_ in report.said:
                yield
                process = process_of(observation.reports, id_)
                if process is not None:
                    known = found[id_] = process if known is None else known
        self.processes = found

    def _note_claims(self, observation: Observation) -> Gradual[None]:
        """Remember which server holds each session; a server that does not answer keeps its sessions.

        So does a host elsewhere that is silent: it may have been cut off, and be at work.
        """
        reports = {report.name: report for report in observation.reports}
        sessions = observation.snapshot.sessions
        claimed: dict[SessionId, list[ServerName]] = {}
        for report in observation.reports:
            for id_ in report.said:
                yield
                claimed.setdefault(id_, []).append(report.name)
        before, now_by = self.claimed_by, dict[SessionId, ServerName]()
        for id_, name in before.items():
            yield
            if id_ in sessions and id_ not in claimed:
                silent = reports[name].against(sessions[id_]) is not None if name in reports else self.elsewhere
                if silent:
                    now_by[id_] = name
        now_by.update((id_, names[-1]) for id_, names in claimed.items())
        self.claimed_by = now_by
        if not self.elsewhere:
            return
        same = {id_ for id_, names in claimed.items() if before.get(id_) in names}
        self.claimed_by.update({id_: before[id_] for id_ in same})
        # Of a host that is heard for the first time nobody knows since when: its own signs of life are all there is.
        now, fresh = observation.now, NEVER
        known: dict[SessionId, Moment | None] = {
            id_: None for id_ in self.heard if id_ in observation.snapshot.sessions
        }
        for id_, names in claimed.items():
            yield
            sure = self.heard.get(id_) if id_ in same else None if id_ in self.heard else fresh
            known[id_] = sure if sure is not None and len(names) == 1 else now
        self.heard = known

    def _valid_looks(self, prints: Mapping[str, tuple[int, int]]) -> Mapping[str, _Look]:
        return {row: look for row, look in self.looks.items() if prints.get(row) == look.fingerprint}

    def _forget(self, observation: Observation) -> Gradual[None]:
        """Drop everything about calls, turns and sessions that are no longer unfinished."""
        sessions = observation.snapshot.sessions
        open_ids: set[str] = {*self.claimed_by}  # also deleted sessions: a server is still at work on them
        for session in sessions.values():
            yield
            open_ids.update(call.id for call in session.calls)
            open_ids.update(turn.id for turn in session.turns)
            if session.has_open_rows:
                open_ids.add(session.id)
        self.calls = {id_: call for id_, call in self.calls.items() if id_ in open_ids}
        self.lives.forget(sessions.keys())
        self.attempts = {key: tried for key, tried in self.attempts.items() if key.partition(":")[2] in open_ids}
        self.let_go = {turn: server for turn, server in self.let_go.items() if turn in open_ids}


def _waits(family: Family, session: Session, call: ToolCall) -> bool:
    """Whether a human is asked for a call, or its child or anything below that waits for a human or a retry."""
    if family.asks_for(session, call):
        return True
    child = family.unfinished_child_of(session, call)
    return child is not None and (family.retry_below(child) or family.human_below(child))


def _witnessed(observation: Observation, session: Session) -> bool:
    """Whether a server that is at work on the session says which asks wait for a human."""
    for report in observation.reports:  # noqa: SIM110 - no generator: it is asked of every session at every look
        if session.id in report.said and report.knows_asks(session):
            return True
    return False


def _youngest(observation: Observation, session: Session) -> Moment:
    """Nothing that a session does can have begun before this: no process that is at work on it was born."""
    births: list[Moment] = []
    for report in observation.reports:
        if session.id in report.said:
            if report.born_ms is None:
                return NEVER
            births.append(observation.now + -max(0.0, observation.seconds_since(report.born_ms)))
    return min(births, default=NEVER)


def _fingerprints(observation: Observation, rows: Collection[str]) -> Gradual[dict[str, tuple[int, int]]]:
    """Values that tell whether some open rows changed."""
    prints: dict[str, tuple[int, int]] = {}
    for session in observation.snapshot.sessions.values() if rows else ():
        yield
        for call in session.calls:
            if call.id in rows:
                prints[call.id] = (call.updated_ms, call.size)
        for turn in session.turns:
            if turn.id in rows:
                prints[turn.id] = (turn.updated_ms, turn.size)
    return prints
