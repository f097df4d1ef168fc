"""The proof that nobody executes an open turn: every process that has the database open is excluded."""

from dataclasses import dataclass

from watchdog.model import Ask, Holder, Observation, Policy, ServerReport, Session, Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Whether a turn is provably executed by nobody.

    Attributes:
        holds: every process that could execute it is excluded.
        nobody: no process has the database open at all, so that one look is enough.
        why: what excludes them, or what stands against it: a clause for people.
        blockers: the processes and servers that are not excluded.
    """

    holds: bool
    why: str
    nobody: bool = False
    blockers: tuple[str, ...] = ()


def claims(report: ServerReport, session: Session) -> bool:
    """Whether the server says that it is at work on the session."""
    return any(session.id in statuses for statuses in report.statuses.values())


def stands(ask: Ask, session: Session) -> bool:
    """Whether somebody may still wait for the answer to an ask of this session.

    Servers go on listing the asks of what was aborted: one that names a call or a turn which is no longer open is
    left over. One that names neither counts.
    """
    if ask.session_id != session.id:
        return False
    if ask.call_ref is not None:
        return any(call.call_ref == ask.call_ref for call in session.calls)
    return ask.turn_id is None or any(turn.id == ask.turn_id for turn in session.turns)


def describe(holder: Holder) -> str:
    """A process, for people."""
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
        return Proof(holds=False, why=f"{busy[0]} says that it is at work on it", blockers=tuple(busy))
    holders = observation.holders
    if holders is None:
        return Proof(holds=False, why="it is not known which processes have the database open")
    if not holders.known and holders.complete:
        return Proof(holds=True, nobody=True, why="no process has the database open")
    began = began_ms(session, turn)
    left = [
        holder
        for holder in holders.known
        if not _born_too_late(holder, began, observation, policy)
        and not any(report.pid == holder.pid and _denies(report, session, turn) for report in observation.reports)
    ]
    if left:
        names = tuple(describe(holder) for holder in left)
        return Proof(holds=False, why=f"{' and '.join(names)} may be at work on it", blockers=names)
    if holders.complete or _operator_vouches(observation, policy, session, turn):
        return Proof(holds=True, why=_grounds(holders.known, began, observation, policy))
    hidden = holders.why_incomplete or "a process that can't be seen may have the database open"
    return Proof(holds=False, why=hidden, blockers=("a process that can't be seen",))


def _born_too_late(holder: Holder, began: int, observation: Observation, policy: Policy) -> bool:
    """Whether the process can't be executing it, because it was born after it began."""
    if holder.embeds_us:
        return False
    if observation.step_ms is not None and began <= observation.step_ms:
        return False
    return holder.born_ms > began + policy.birth_margin_seconds * 1000


def _denies(report: ServerReport, session: Session, turn: Turn) -> bool:
    """Whether the server's own answer excludes it: it serves this very turn, and is not at work on the session."""
    return (
        report.problem is None
        and report.vouches
        and turn.id in report.served
        and all(directory in report.statuses and directory in report.asks for directory in session.directories)
        and not claims(report, session)
        and not any(stands(ask, session) for asks in report.asks.values() for ask in asks)
    )


def _operator_vouches(observation: Observation, policy: Policy, session: Session, turn: Turn) -> bool:
    return policy.sole_owner and any(_denies(report, session, turn) for report in observation.reports)


def _grounds(known: tuple[Holder, ...], began: int, observation: Observation, policy: Policy) -> str:
    if not known:
        return "the only servers that use the database say that they are not at work on it"
    clauses = [
        f"{describe(holder)} started after it began"
        if _born_too_late(holder, began, observation, policy)
        else f"{describe(holder)} says that it is not at work on it"
        for holder in known
    ]
    return " and ".join(clauses)
