"""All unfinished sessions at a glance: their trees, clocks, waits and the judgement. Pure; it decides nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from watchdog.explaining.clocks import session_clocks
from watchdog.explaining.explain import findings_by_session, forest, turns_of
from watchdog.explaining.values import Clock, Finding, TurnPage
from watchdog.judging.facts import Case
from watchdog.judging.session_tree import names
from watchdog.model.policy import Policy
from watchdog.model.report import Observation
from watchdog.model.session import EVERYTHING, Activity, CallId, Session, SessionId
from watchdog.model.verdict import Judgement, SpareReason


class Awaited(StrEnum):
    """What a session waits for."""

    CHILD = "child"
    QUESTION = "question"
    PERMISSION = "permission"
    RETRY = "retry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """One thing that a session waits for.

    Attributes:
        session_id: the child; else the session itself.
        call_id: the call that waits, if it is known.
        until_ms: when its server will try its provider again.
    """

    what: Awaited
    session_id: SessionId
    call_id: CallId | None = None
    until_ms: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLine:
    """One session of the overview.

    Attributes:
        parent_id: its parent, if that is in the overview.
        unfinished: something in it is open, or a server is at work on it, or it asks a person.
        damaged: a row of it can't be read, so it may hold more than it shows.
        clocks: those of the whole session; those of calls are with the calls.
    """

    id: SessionId
    parent_id: SessionId | None
    directory: str
    created_ms: int
    unfinished: bool
    damaged: bool
    findings: tuple[Finding, ...]
    turns: tuple[TurnPage, ...]
    clocks: tuple[Clock, ...]
    waits: tuple[Wait, ...]
    queued_prompts: int
    on_hold: bool

    @property
    def stuck(self) -> bool:
        """Whether there is a verdict on it."""
        return any(finding.stuck for finding in self.findings)

    @property
    def given_up(self) -> bool:
        """Whether it is left to a person."""
        return any(finding.name == SpareReason.GIVEN_UP.value for finding in self.findings)

    @property
    def state(self) -> str:
        """`stuck`, the reason why it is spared, `unjudged`, or `finished`."""
        if self.stuck:
            return "stuck"
        if self.findings:
            return self.findings[0].name
        return "unjudged" if self.unfinished else "finished"


def overview(observation: Observation, judgement: Judgement, policy: Policy) -> tuple[SessionLine, ...]:
    """Every unfinished session with all its ancestors, and the children that open task calls wait for.

    Returns:
        Parents before their children; trees with something stuck first, then the oldest.
    """
    case = Case(observation, policy, observation.now)
    findings = findings_by_session(observation, judgement)
    trees: list[list[SessionLine]] = []
    for session, parent, depth in forest(_shown(case, observation.snapshot.sessions, findings)):
        if depth == 0:
            trees.append([])
        trees[-1].append(_line(case, session, parent, findings.get(session.id, ())))
    trees.sort(key=lambda tree: not any(line.stuck for line in tree))
    return tuple(line for tree in trees for line in tree)


def _shown(
    case: Case, sessions: Mapping[SessionId, Session], findings: Mapping[SessionId, Sequence[Finding]]
) -> dict[SessionId, Session]:
    """The sessions of the overview; the look may hold more, since somebody asked for them by id."""
    shown: set[SessionId] = set()
    for session in sessions.values():
        if not (_is_unfinished(case, session) or session.id in findings):
            continue
        shown.update(child.id for call in session.calls if (child := case.family.child_of(session, call)))
        above: SessionId | None = session.id
        while above is not None and above in sessions and above not in shown:
            shown.add(above)
            above = sessions[above].parent_id
    return {id_: sessions[id_] for id_ in shown}


def _is_unfinished(case: Case, session: Session) -> bool:
    return case.family.unfinished(session) or case.family.human_at(session)


def _line(case: Case, session: Session, parent: SessionId | None, findings: Sequence[Finding]) -> SessionLine:
    unfinished = _is_unfinished(case, session)
    held = case.observation.on_hold
    return SessionLine(
        id=session.id,
        parent_id=parent,
        directory=session.directory,
        created_ms=session.created_ms,
        unfinished=unfinished,
        damaged=case.family.damaged(session),
        findings=tuple(findings),
        turns=turns_of(case, session),
        clocks=session_clocks(case, session) if unfinished else (),
        waits=tuple(_waits(case, session)),
        queued_prompts=session.queued_prompts,
        on_hold=EVERYTHING in held or session.id in held,
    )


def _waits(case: Case, session: Session) -> Iterator[Wait]:
    for call in session.calls:
        child = case.family.unfinished_child_of(session, call)
        if child is not None:
            yield Wait(what=Awaited.CHILD, session_id=child, call_id=call.id)
    for ask in case.family.asks_at(session):
        named = [call.id for call in session.calls if names(ask, call)]
        yield Wait(what=Awaited(ask.kind.value), session_id=session.id, call_id=named[0] if named else None)
    claim = case.claim(session)
    if claim is not None and claim.status.activity is Activity.RETRY:
        yield Wait(what=Awaited.RETRY, session_id=session.id, until_ms=claim.status.retry_at_ms)
