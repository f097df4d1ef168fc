"""The proof that nobody executes an open turn: every process that has the database open is excluded."""

from collections.abc import Iterable
from dataclasses import dataclass

from watchdog.model import EMBEDDED, Ask, Holder, Observation, Policy, ServerReport, Session, Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Whether a turn is provably executed by nobody.

    Attributes:
        holds: every process that could execute it is excluded.
        at_once: one look is enough: no process has the database open at all, or the server that was at work on
            the turn let go of it at an abort of ours.
        why: what excludes them, or what stands against it: a clause for people.
        blockers: the processes and servers that are not excluded.
    """

    holds: bool
    why: str
    at_once: bool = False
    blockers: tuple[str, ...] = ()


def claims(report: ServerReport, session: Session) -> bool:
    """Whether the server says that it is at work on the session."""
    return session.id in report.said


def standing(asks: Iterable[Ask], session: Session) -> list[Ask]:
    """Those of some asks to whose answer somebody in this session may still wait.

    Servers go on listing the asks of what was aborted: one that names a call or a turn which is no longer open is
    left over. One that names neither counts, and so does one whose call can't be seen in a turn that is open.
    """
    refs = {call.call_ref for call in session.calls}
    turns = {turn.id for turn in session.turns if turn.open and not turn.superseded}
    return [
        ask
        for ask in asks
        if ask.session_id == session.id
        and (
            (ask.call_ref is None and ask.turn_id is None)
            or (ask.call_ref is not None and ask.call_ref in refs)
            or ask.turn_id in turns
        )
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

    Age is no argument here: another process may share the database and be at work.
    """
    busy = [report.name for report in observation.reports if claims(report, session)]
    if busy and not turn.superseded:
        who = "the host" if busy[0] == EMBEDDED else busy[0]
        return Proof(holds=False, why=f"{who} says that it is at work on it", blockers=tuple(busy))
    holders = observation.holders
    if holders is None:
        return Proof(holds=False, why="it is not known which processes have the database open")
    if not holders.known and holders.complete:
        return Proof(holds=True, at_once=True, why="no process has the database open")
    began = began_ms(session, turn)
    left = [
        holder
        for holder in holders.known
        if not born_too_late(holder, began, observation, policy)
        and not any(
            report.pid == holder.pid and denies(report, session, turn, observation) for report in observation.reports
        )
    ]
    if left:
        names = tuple(describe(holder) for holder in left)
        return Proof(holds=False, why=f"{' and '.join(names)} may be at work on it", blockers=names)
    if holders.complete or _operator_vouches(observation, policy, session, turn):
        why = _grounds(holders.known, began, observation, policy)
        return Proof(holds=True, at_once=turn.id in observation.let_go, why=why)
    hidden = holders.why_incomplete or "a process that can't be seen may have the database open"
    return Proof(holds=False, why=hidden, blockers=("a process that can't be seen",))


def born_too_late(holder: Holder, began: int, observation: Observation, policy: Policy) -> bool:
    """Whether the process can't be executing it, because it was born after it began."""
    if holder.embeds_us:
        return False
    if observation.step_ms is not None and began <= observation.step_ms:
        return False
    return holder.born_ms > began + policy.birth_margin_seconds * 1000


def denies(report: ServerReport, session: Session, turn: Turn, observation: Observation) -> bool:
    """Whether the server's own answer excludes it: it serves this very turn, and is not at work on the session.

    Before 1.14 an idle answer means nothing by itself. It does where the same server said that it was busy with the
    session, took an abort for it, and is idle now; what it asked a human then is left over.
    """
    let_go = observation.let_go.get(turn.id) == report.name
    return (
        report.problem is None
        and (report.vouches or let_go)
        and turn.id in report.served
        and all(directory in report.statuses and directory in report.asks for directory in session.directories)
        and not claims(report, session)
        and (let_go or not standing(report.asked.get(session.id, ()), session))
    )


def _operator_vouches(observation: Observation, policy: Policy, session: Session, turn: Turn) -> bool:
    """Only the configured servers use it, says the operator: then each whose process can't be seen has to deny."""
    known = {holder.pid for holder in observation.holders.known} if observation.holders is not None else set()
    unseen = [report for report in observation.reports if report.pid not in known]
    denied = any(denies(report, session, turn, observation) for report in observation.reports)
    return policy.sole_owner and denied and all(denies(each, session, turn, observation) for each in unseen)


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
