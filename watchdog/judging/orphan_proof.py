"""The proof that nobody executes an open turn: every process that has the database open is excluded."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from watchdog.model.policy import Policy
from watchdog.model.report import Holder, Holders, Observation, ServerReport, Shown
from watchdog.model.session import EMBEDDED, Ask, Session, SessionId, Snapshot, Turn, TurnId


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Whether a turn is provably executed by nobody.

    Attributes:
        holds: every process that could execute it is excluded.
        at_once: one look is enough: no process has the database open at all, or the server that was at work on
            the turn let go of it at an abort of ours.
        why: what excludes them, or what stands in the way: a clause for people.
        blockers: the processes and servers that are not excluded.
    """

    holds: bool
    why: str
    at_once: bool = False
    blockers: tuple[str, ...] = ()


def claims(report: ServerReport, session: Session) -> bool:
    """Whether the server says that it is at work on the session."""
    return session.id in report.said


def deleted_at_work(
    reports: Iterable[ServerReport], snapshot: Snapshot, *, for_a_person: bool = False
) -> Iterator[tuple[ServerReport, SessionId]]:
    """The sessions that were deleted while they run, each with the server that is at work on it.

    Only the word of a server whose process is seen counts here: a host may run sessions that it has not stored yet. A
    session whose row can't be read is not deleted.

    Args:
        for_a_person: somebody asked for one of them, so a host's word counts, too.
    """
    damaged = {each.session_id for each in snapshot.damaged}
    for report in reports:
        if report.served is not None and (for_a_person or report.served.by is Shown.PROCESS):
            # The snapshot may be large; what a server says is short.
            unknown = [each for each in report.said if each not in snapshot.sessions and each not in damaged]
            yield from ((report, session_id) for session_id in sorted(unknown))


def standing(asks: Collection[Ask], session: Session) -> list[Ask]:
    """The asks whose answer somebody in this session may still wait for.

    Servers go on listing the asks of aborted work: an ask that names a call or a turn which is no longer open is left
    over. Models may restart the numbers of their calls in each turn, so a turn and an id together name a call. An ask
    that names neither counts, and so does one whose call can't be seen in an open turn.
    """
    if not asks:
        return []
    calls: set[tuple[TurnId | None, str | None]] = {(call.turn_id, call.call_ref) for call in session.calls}
    # An ask that names no turn is matched by its call; an ask that names nothing may be about anything.
    named = calls | {(None, ref) for _, ref in calls} | {(None, None)}
    turns = {turn.id for turn in session.turns if turn.open and not turn.superseded}
    return [
        ask
        for ask in asks
        if ask.session_id == session.id and ((ask.turn_id, ask.call_ref) in named or ask.turn_id in turns)
    ]


def stands(ask: Ask, session: Session) -> bool:
    """Whether somebody may still wait for the answer to an ask of this session."""
    return bool(standing([ask], session))


def describe(holder: Holder) -> str:
    """A process, for people."""
    if holder.embeds_us:
        return f"this server (pid {holder.pid})"
    return f"{holder.command} (pid {holder.pid})"


def began_ms(session: Session, turn: Turn) -> int:
    """When the youngest open row of a turn was created: whoever executes the turn was alive by then."""
    return max([turn.created_ms, *(call.created_ms for call in session.calls if call.turn_id == turn.id)])


def prove(observation: Observation, policy: Policy, session: Session, turn: Turn) -> Proof:
    """Try to prove that nobody executes the turn and the open calls in it.

    Age does not count here: another process may share the database and be at work.
    """
    return prove_each(observation, policy, session, [turn])[0]


def prove_each(observation: Observation, policy: Policy, session: Session, turns: Iterable[Turn]) -> list[Proof]:
    """The proof of each of some turns of a session, as `prove` gives it."""
    proving = _Proving(observation, policy, session)
    return [proving.prove(turn) for turn in turns]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What a server answered about one session.

    Attributes:
        idle: it gave every answer that was needed, and is not at work on the session.
        asks: it has an ask for the session that still stands.
    """

    report: ServerReport
    idle: bool
    asks: bool

    def denies(self, turn: Turn, observation: Observation) -> bool:
        report = self.report
        let_go = observation.let_go.get(turn.id) == report.name
        return (
            self.idle
            and (report.vouches or (let_go and report.known))
            and report.serves(turn.session_id)
            and (let_go or not self.asks)
        )


def _answer(report: ServerReport, session: Session) -> _Answer:
    idle = (
        report.against(session) is None
        and not claims(report, session)
        and all(map(report.answered, session.directories))
    )
    return _Answer(report=report, idle=idle, asks=bool(standing(report.asked.get(session.id, ()), session)))


class _Proving:
    """The proofs of one session's turns: facts that they share are looked up once."""

    def __init__(self, observation: Observation, policy: Policy, session: Session) -> None:
        self._observation = observation
        self._policy = policy
        self._session = session
        self._busy = tuple(report.name for report in observation.reports if claims(report, session))

    def prove(self, turn: Turn) -> Proof:
        if (remote := elsewhere(self._session)) is not None:
            return Proof(holds=False, why=remote, blockers=("a remote workspace",))
        if self._session.parent_id is not None and self._session.parent_id not in self._observation.snapshot.sessions:
            return Proof(
                holds=False,
                why="the session that started it was deleted, and nobody can say on which machine that ran",
                blockers=("a deleted parent",),
            )
        if self._busy and not turn.superseded:
            who = "the host" if self._busy[0] == EMBEDDED else self._busy[0]
            return Proof(holds=False, why=f"{who} says that it is at work on it", blockers=self._busy)
        holders = self._observation.holders
        if holders is None:
            return Proof(holds=False, why="it is not known which processes have the database open")
        if holders.refusal is not None:
            return Proof(holds=False, why=holders.refusal, blockers=("a process that has the file elsewhere",))
        if not holders.known and holders.complete:
            return Proof(holds=True, at_once=True, why="no process has the database open")
        began = max(turn.created_ms, self._youngest_calls.get(turn.id, turn.created_ms))
        left = [holder for holder in holders.known if not self._excluded(holder, turn, began)]
        if left:
            names = tuple(describe(holder) for holder in left)
            return Proof(holds=False, why=f"{' and '.join(names)} may be at work on it", blockers=names)
        if holders.complete or self._operator_vouches(holders, turn):
            why = _grounds(holders.known, began, self._observation, self._policy)
            return Proof(holds=True, at_once=turn.id in self._observation.let_go, why=why)
        hidden = holders.why_incomplete or "a process that can't be seen may have the database open"
        return Proof(holds=False, why=hidden, blockers=("a process that can't be seen",))

    @cached_property
    def _answers(self) -> list[_Answer]:
        return [_answer(report, self._session) for report in self._observation.reports]

    @cached_property
    def _youngest_calls(self) -> Mapping[TurnId, int]:
        """When the youngest open call of each turn was created."""
        youngest: dict[TurnId, int] = {}
        for call in self._session.calls:
            youngest[call.turn_id] = max(call.created_ms, youngest.get(call.turn_id, call.created_ms))
        return youngest

    def _excluded(self, holder: Holder, turn: Turn, began: int) -> bool:
        return born_too_late(holder, began, self._observation, self._policy) or any(
            answer.report.pid == holder.pid and answer.denies(turn, self._observation) for answer in self._answers
        )

    def _operator_vouches(self, holders: Holders, turn: Turn) -> bool:
        """The operator says that only the configured servers use it: each one with no visible process must deny."""
        if not self._policy.sole_owner or holders.elsewhere:
            return False
        known = {holder.pid for holder in holders.known}
        denying = [answer.denies(turn, self._observation) for answer in self._answers]
        unseen = [answer.report.pid not in known for answer in self._answers]
        return any(denying) and all(denies or not blind for denies, blind in zip(denying, unseen, strict=True))


def born_too_late(holder: Holder, began: int, observation: Observation, policy: Policy) -> bool:
    """Whether the process can't be executing it, because it was born after it began.

    A birth is told by the wall clock as it is set now. Rows that were written before that clock was known to be
    steady were written before the time that it showed then: only a process born after that can't be executing them.
    """
    if holder.embeds_us:
        return False
    margin = policy.birth_margin_seconds + observation.steady_slack_seconds
    return holder.born_ms > max(began, observation.steady_since_ms) + margin * 1000


def elsewhere(session: Session) -> str | None:
    """Why nobody here can say what a session does; None if somebody may."""
    if session.remote is None:
        return None
    return f"it runs in a workspace of type {session.remote}, on another machine perhaps, and nobody here can say"


def unclaimed(observation: Observation, session: Session) -> bool:
    """Whether every host that is there answers, and none is at work on the session, if no process can be seen.

    That is no proof: a host may have been cut off from the database and be at work all the same.
    """
    elsewhere = observation.holders is not None and observation.holders.elsewhere
    return elsewhere and all(_answer(report, session).idle for report in observation.reports)


def denies(report: ServerReport, session: Session, turn: Turn, observation: Observation) -> bool:
    """Whether the server's own answer excludes it: it serves this very turn, and is not at work on the session.

    Before 1.14 an idle answer means nothing by itself. It counts if the same server said that it was busy with the
    session, took an abort for it, and is idle now; the asks that it still lists are left over. An idle answer of a
    version that nobody has measured, of a fork or a future one, means nothing.
    """
    return _answer(report, session).denies(turn, observation)


def _grounds(known: tuple[Holder, ...], began: int, observation: Observation, policy: Policy) -> str:
    if not known:
        return "the only servers that use the database say that they are not at work on it"
    clauses = [
        f"{describe(holder)} started after it began"
        if born_too_late(holder, began, observation, policy)
        else f"{describe(holder)} says that it is not at work on it"
        for holder in known
    ]
    return " and ".join(clauses)
