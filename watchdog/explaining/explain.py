"""Explains one session: pure, and total on every tree. It decides nothing: it shows the grounds of `judge`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from watchdog.explaining.advice import advice
from watchdog.explaining.clocks import clocks_of, session_clocks
from watchdog.explaining.values import CallPage, Explanation, Finding, SessionPage, TurnPage
from watchdog.explaining.witnesses import only_unheard, proofs_to_give, testimonies
from watchdog.judging.facts import Case
from watchdog.judging.limits import duration
from watchdog.model.policy import Policy
from watchdog.model.report import Observation
from watchdog.model.session import Session, SessionId, ToolCall, Turn
from watchdog.model.verdict import Judgement, SpareReason, Verdict, VerdictKind

_NO_FEED = (
    "explain looks once and does not listen to the event feeds: how long a session has been silent is known to a "
    "running watchdog only."
)
_NO_MEMORY = (
    "Waits that are over, sleep of the machine, earlier looks and attempts are known to a running watchdog only; its "
    "clocks may show less."
)


def explain(
    observation: Observation,
    judgement: Judgement,
    policy: Policy,
    session_id: SessionId,
    *,
    listening: bool = False,
    holds: Sequence[str] = (),
    history: Sequence[str] = (),
) -> Explanation:
    """Explain one session, with everything above and below it.

    Args:
        observation: the look that was judged.
        judgement: its judgement, under this policy.
        policy: what is allowed.
        session_id: the session to explain.
        listening: the look comes from a running watchdog, with its memory, that listens to the event feeds.
        holds: ready sentences about holds.
        history: ready sentences about earlier interventions.

    Raises:
        KeyError: the observation does not know the session.
    """
    if not is_known(observation, session_id):
        raise KeyError(session_id)
    case = Case(observation, policy, observation.now)
    tree = list(_tree(observation, session_id))
    findings = findings_by_session(observation, judgement)
    pages = tuple(
        _page(case, findings, session, parent, depth, asked=session.id == session_id, listening=listening)
        for session, parent, depth in tree
    )
    return Explanation(
        session_id=session_id,
        at_ms=observation.at_ms,
        sessions=pages,
        sentence=_sentence(case, judgement, session_id, pages) + _unheard(case, pages, listening=listening),
        stuck=any(page.stuck for page in pages),
        advice=advice(case, judgement, [session for session, _, _ in tree], listening=listening),
        notes=tuple(_notes(observation, pages, {session_id}, listening=listening)),
        holds=tuple(holds),
        history=tuple(history),
    )


def is_known(observation: Observation, session_id: SessionId) -> bool:
    """Whether anything is known of a session, if only that a row of it can't be read."""
    damaged = {damage.session_id for damage in observation.snapshot.damaged}
    return session_id in observation.snapshot.sessions or session_id in damaged


# -- the tree ------------------------------------------------------------------------------------------------------


def _tree(observation: Observation, session_id: SessionId) -> Iterator[tuple[Session, SessionId | None, int]]:
    """The tree of a session from its root down: each session once, with its parent in the tree and its depth."""
    sessions = observation.snapshot.sessions
    if session_id in sessions:
        parents = _parents(sessions.values())
        yield from _from_roots(sessions, parents, [_root(parents, session_id)])


def forest(sessions: Mapping[SessionId, Session]) -> Iterator[tuple[Session, SessionId | None, int]]:
    """All trees of these sessions, the oldest first: each session once, after its parent, with its depth."""
    parents = _parents(sessions.values())
    in_order = sorted(sessions, key=lambda id_: (sessions[id_].created_ms, id_))
    # Only a circle of parents leads to the rest.
    yield from _from_roots(sessions, parents, [*(id_ for id_ in in_order if id_ not in parents), *in_order])


def _from_roots(
    sessions: Mapping[SessionId, Session], parents: Mapping[SessionId, SessionId], roots: Iterable[SessionId]
) -> Iterator[tuple[Session, SessionId | None, int]]:
    children: dict[SessionId, list[Session]] = defaultdict(list)
    for session in sorted(sessions.values(), key=lambda each: (each.created_ms, each.id), reverse=True):
        if session.id in parents:
            children[parents[session.id]].append(session)
    seen: set[SessionId] = set()
    for root in roots:
        stack: list[tuple[Session, SessionId | None, int]] = [(sessions[root], None, 0)]
        while stack:
            session, parent, depth = stack.pop()
            if session.id in seen:
                continue
            seen.add(session.id)
            yield session, parent, depth
            stack.extend((child, session.id, depth + 1) for child in children[session.id])


def _parents(sessions: Iterable[Session]) -> dict[SessionId, SessionId]:
    """Each session's parent: by its own row, else by the task call that names it."""
    sessions = sorted(sessions, key=lambda each: (each.created_ms, each.id))
    known = {session.id for session in sessions}
    parents = {
        call.child_id: session.id
        for session in reversed(sessions)
        for call in session.calls
        if call.child_id is not None and call.child_id in known and call.child_id != session.id
    }
    for session in sessions:
        if session.parent_id is not None and session.parent_id in known and session.parent_id != session.id:
            parents[session.id] = session.parent_id
    return parents


def _root(parents: dict[SessionId, SessionId], session_id: SessionId) -> SessionId:
    """The topmost ancestor; in a cycle the one before it repeats."""
    seen = {session_id}
    while (parent := parents.get(session_id)) is not None and parent not in seen:
        seen.add(parent)
        session_id = parent
    return session_id


# -- one session ---------------------------------------------------------------------------------------------------


def _page(
    case: Case,
    findings: Mapping[SessionId, Sequence[Finding]],
    session: Session,
    parent: SessionId | None,
    depth: int,
    *,
    asked: bool,
    listening: bool,
) -> SessionPage:
    unfinished = case.family.unfinished(session) or case.family.human_at(session)
    return SessionPage(
        id=session.id,
        parent_id=parent,
        depth=depth,
        asked=asked,
        unfinished=unfinished,
        damaged=case.family.damaged(session),
        findings=tuple(findings.get(session.id, ())),
        turns=turns_of(case, session),
        clocks=session_clocks(case, session) if unfinished else (),
        testimonies=testimonies(case, session, listening=listening) if unfinished else (),
    )


def turns_of(case: Case, session: Session) -> tuple[TurnPage, ...]:
    """The turns of a session with their open calls, and the clocks of these."""
    return tuple(_turn(case, session, turn) for turn in session.turns)


def _turn(case: Case, session: Session, turn: Turn) -> TurnPage:
    return TurnPage(
        id=turn.id,
        open=turn.open,
        superseded=turn.superseded,
        age_seconds=_row_age(case, turn.created_ms),
        calls=tuple(_call(case, session, call) for call in session.calls if call.turn_id == turn.id),
    )


def _call(case: Case, session: Session, call: ToolCall) -> CallPage:
    return CallPage(
        id=call.id,
        tool=call.tool,
        status=call.status,
        age_seconds=_row_age(case, call.created_ms),
        clocks=clocks_of(case, session, call),
        waits_on=case.family.unfinished_child_of(session, call),
    )


def _row_age(case: Case, created_ms: int) -> float:
    return max(0.0, case.observation.seconds_since(created_ms))


def findings_by_session(observation: Observation, judgement: Judgement) -> Mapping[SessionId, Sequence[Finding]]:
    """The judgement's words on each session: verdicts first, then the reasons why something is spared."""
    found: dict[SessionId, list[Finding]] = defaultdict(list)
    for verdict in judgement.verdicts:
        for id_ in dict.fromkeys([verdict.session_id, verdict.cancel_session_id]):
            found[id_].append(
                Finding(name=verdict.kind.value, stuck=True, why=_why(verdict, id_), call_id=verdict.call_id)
            )
    for spared in judgement.spared:
        found[spared.session_id].append(
            Finding(
                name=spared.reason.value,
                stuck=False,
                why=spared.why,
                call_id=spared.call_id,
                uneasy=spared.uneasy,
                until_ms=None if spared.until is None else observation.wall_of(spared.until),
            )
        )
    return found


def _why(verdict: Verdict, session_id: SessionId) -> str:
    if verdict.cancel_session_id == verdict.session_id:
        return verdict.why
    if verdict.session_id == session_id:
        return f"{verdict.why}; what is ended is session {verdict.cancel_session_id}"
    return f"it is ended for session {verdict.session_id} above it: {verdict.why}"


# -- the judgement in a sentence -----------------------------------------------------------------------------------


def _sentence(case: Case, judgement: Judgement, session_id: SessionId, pages: tuple[SessionPage, ...]) -> str:
    page = next((page for page in pages if page.asked), None)
    if page is None:
        return f"Session {session_id} has a row that can't be read; it is reported, and never touched."
    for verdict in judgement.verdicts:
        if session_id in {verdict.session_id, verdict.cancel_session_id}:
            return _stuck_sentence(case, verdict, page)
    others = [each.id for each in pages if each.stuck]
    ended = f" Session {others[0]} in its tree is stuck and is ended first." if others else ""
    if not page.findings:
        return f"{_nothing(case, page, pages)}{ended}"
    return f"It is left alone: {_reasons(page.findings)}.{ended}{_deadline(case, page)}{_doubt(case, page)}"


def _stuck_sentence(case: Case, verdict: Verdict, page: SessionPage) -> str:
    why = next(finding.why for finding in page.findings if finding.stuck)
    session = case.observation.snapshot.sessions.get(verdict.cancel_session_id)
    held = session is not None and case.claim(session) is not None
    if not verdict.confirmed:
        then = "Then it is settled."
    elif verdict.kind is VerdictKind.ORPHAN:
        then = "It is to be settled."
    elif held:
        then = "It is to be ended."
    else:
        then = "No server that answers holds it, so nobody can end it from here."
    return f"It is stuck ({verdict.kind.value}): {why}. {then}"


def _reasons(findings: tuple[Finding, ...]) -> str:
    """Each reason with why, each once; many calls of one reason are counted."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        grouped[finding.name].append(finding.why)
    clauses = []
    for name, whys in grouped.items():
        more = f", and {len(whys) - 1} more like it" if len(whys) > 1 else ""
        clauses.append(f"{whys[0].rstrip('.')}{more} ({name})")
    return "; ".join(clauses)


def _nothing(case: Case, page: SessionPage, pages: tuple[SessionPage, ...]) -> str:
    """What to say if nothing was judged."""
    session = case.observation.snapshot.sessions[page.id]
    if case.family.damaged(session):
        return "A row of it can't be read; it is reported, and never touched."
    if page.unfinished:
        return "It is unfinished, and nothing in it could be judged."
    below = case.family.below(session)
    open_below = [each.id for each in pages if each.unfinished and each.id in below]
    more = f" Session {open_below[0]} below it is unfinished." if open_below else ""
    return f"It is finished: nothing is open in it, and no server is at work on it.{more}"


def _deadline(case: Case, page: SessionPage) -> str:
    moments = [finding.until_ms for finding in page.findings if finding.until_ms is not None]
    left = [-case.observation.seconds_since(until) for until in moments if until > case.observation.at_ms]
    return f" By the mere passing of time that may change in {duration(min(left))}." if left else ""


def _unheard(case: Case, pages: tuple[SessionPage, ...], *, listening: bool) -> str:
    """A look without a feed must not make a streaming session seem a riddle."""
    page = next((page for page in pages if page.asked), None)
    if listening or page is None:
        return ""
    session = case.observation.snapshot.sessions[page.id]
    riddle = any(finding.name == SpareReason.NO_WITNESS.value for finding in page.findings)
    if riddle and only_unheard(case, session):
        return " That is so for this look alone, which does not listen; a running watchdog does."
    return ""


def _doubt(case: Case, page: SessionPage) -> str:
    """What stands in the way of the proof that it was left behind, if the judgement itself does not say it."""
    if any(finding.name == SpareReason.NO_WITNESS.value for finding in page.findings):
        return ""
    session = case.observation.snapshot.sessions[page.id]
    doubts = [proof.why for _, proof in proofs_to_give(case, session) if not proof.holds]
    return f" That nobody is at work on it can't be proven: {doubts[-1].rstrip('.')}." if doubts else ""


# -- what this look can't tell -------------------------------------------------------------------------------------


def _notes(
    observation: Observation, pages: tuple[SessionPage, ...], asked: set[SessionId], *, listening: bool
) -> Iterator[str]:
    shown = asked | {page.id for page in pages}
    for damage in observation.snapshot.damaged:
        if damage.session_id in shown:
            yield f"{damage.table} {damage.id} of session {damage.session_id} can't be read: {damage.problem}"
    if _cyclic(observation, pages):
        yield "The parents of these sessions form a circle; each is shown once."
    yield from observation.degraded
    if not listening and any(page.unfinished for page in pages):
        heard = [report.witness for report in observation.reports if report.witness is not None]
        if heard and not any(witness.connected for witness in heard):
            yield _NO_FEED
        yield _NO_MEMORY


def _cyclic(observation: Observation, pages: tuple[SessionPage, ...]) -> bool:
    """Whether the root of the tree has a parent in the tree: every other session has one anyway."""
    shown = {page.id for page in pages}
    return any(
        page.depth == 0 and _parents(observation.snapshot.sessions.values()).get(page.id) in shown for page in pages
    )
