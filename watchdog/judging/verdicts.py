"""Verdicts in full: what is to be ended, and the sentence that says why."""

from watchdog.judging.facts import Case
from watchdog.judging.limits import duration
from watchdog.judging.orphan_proof import Proof
from watchdog.judging.session_tree import names
from watchdog.model.session import Ask, CallId, Session, ToolCall, Turn, TurnId
from watchdog.model.verdict import Verdict, VerdictKind


def open_rows(session: Session, turns: list[Turn]) -> tuple[tuple[CallId, ...], tuple[TurnId, ...]]:
    """The open calls in some turns of a session, and the turns that are open themselves."""
    ids = {turn.id for turn in turns}
    return (
        tuple(call.id for call in session.calls if call.turn_id in ids),
        tuple(turn.id for turn in turns if turn.open),
    )


def current_turns(session: Session) -> tuple[TurnId, ...]:
    """The open turns of a session that no newer turn has superseded."""
    return tuple(turn.id for turn in session.turns if turn.open and not turn.superseded)


def orphan(case: Case, session: Session, orphaned: list[tuple[Turn, Proof]]) -> Verdict:
    """Turns that nobody executes; confirmed if one look was proof enough, or a second one agreed in time."""
    turns = [turn for turn, _ in orphaned]
    call_ids, turn_ids = open_rows(session, turns)
    ids = {*call_ids}
    calls = [call for call in session.calls if call.id in ids]
    looks = [case.observation.looks.get(row) for row in (*call_ids, *turn_ids)]
    agreed = all(look is not None and case.now - look >= case.policy.orphan_grace_seconds for look in looks)
    confirmed = agreed or all(proof.at_once for _, proof in orphaned)
    age = max(0.0, case.observation.seconds_since(min(turn.created_ms for turn in turns)))
    why = f"nobody executes it: {orphaned[-1][1].why}; it began {duration(age)} ago"
    if not confirmed and case.policy.orphan_looks == 1:
        why += f"; acting on it takes a second look, {duration(case.policy.orphan_grace_seconds)} later"
    oldest = min(calls, key=lambda call: (call.created_ms, call.id), default=None)
    return Verdict(
        session_id=session.id,
        kind=VerdictKind.ORPHAN,
        cancel_session_id=session.id,
        why=why,
        age_seconds=age,
        call_ids=call_ids,
        turn_ids=turn_ids,
        newest_prompt_id=session.newest_prompt_id,
        message_id=oldest.turn_id if oldest else turns[-1].id,
        call_id=oldest.id if oldest else None,
        tool=oldest.tool if oldest else None,
        life_ms=case.life_ms(session),
        heard=case.heard(session),
        confirmed=confirmed,
    )


def stuck(case: Case, session: Session, over: list[ToolCall]) -> Verdict:
    """Leaf calls that are all past their limits; the verdict names the one furthest past it."""
    leaves = [(call, *case.leaf(session, call)) for call in over]
    call, age, some = max(leaves, key=lambda leaf: (leaf[1] - (leaf[2] or 0.0), leaf[0].id))
    limit = some or 0.0
    ended = case.family.child_of(session, call) is not None
    ran = f"its child session ended {duration(age)} ago and it has not returned" if ended else f"ran {duration(age)}"
    beside = f"; {len(over) - 1} more beside it are past theirs" if len(over) > 1 else ""
    return Verdict(
        session_id=session.id,
        kind=VerdictKind.STUCK_TASK if ended else VerdictKind.STUCK_TOOL,
        cancel_session_id=session.id,
        why=f"the {call.tool} call {ran}, past its limit of {duration(limit)}{beside}",
        age_seconds=age,
        limit_seconds=limit,
        call_ids=tuple(each.id for each in over),
        turn_ids=current_turns(session),
        newest_prompt_id=session.newest_prompt_id,
        message_id=call.turn_id,
        call_id=call.id,
        tool=call.tool,
        life_ms=case.life_ms(session),
        heard=case.heard(session),
        claimed=case.claim(session) is not None,
    )


def stuck_task(
    case: Case, parent: Session, call: ToolCall, *, deepest: Session, limit: float, silent: float | None
) -> Verdict:
    """A task call past its limit; the verdict ends its deepest unfinished descendant, never the session that waits.

    Args:
        silent: for how many seconds the descendant has shown no life; None if the verdict does not rest on that.
    """
    age = case.age(call)
    silence = " (task_hard_timeout)"
    if silent is not None:
        silence = f", and the deepest session below it has shown no life for {duration(silent)}"
    return Verdict(
        session_id=parent.id,
        kind=VerdictKind.STUCK_TASK,
        cancel_session_id=deepest.id,
        why=f"the task call ran {duration(age)}, past its limit of {duration(limit)}{silence}",
        age_seconds=age,
        limit_seconds=limit,
        call_ids=tuple(each.id for each in deepest.calls),
        turn_ids=current_turns(deepest),
        newest_prompt_id=deepest.newest_prompt_id,
        message_id=call.turn_id,
        call_id=call.id,
        tool=call.tool,
        life_ms=case.life_ms(deepest),
        heard=case.heard(deepest),
        rests_on_silence=silent is not None,
    )


def idle(case: Case, session: Session, silent: float, limit: float) -> Verdict:
    """A session that shows no work."""
    turns = current_turns(session)
    return Verdict(
        session_id=session.id,
        kind=VerdictKind.IDLE_SESSION,
        cancel_session_id=session.id,
        why=f"no call is open and it has shown no life for {duration(silent)}, past the limit of {duration(limit)}",
        age_seconds=silent,
        limit_seconds=limit,
        turn_ids=turns,
        newest_prompt_id=session.newest_prompt_id,
        message_id=turns[-1] if turns else None,
        life_ms=case.life_ms(session),
        heard=case.heard(session),
        rests_on_silence=True,
    )


def unanswered(case: Case, session: Session, ask: Ask, age: float, limit: float) -> Verdict:
    """An ask that no human answered in time: it is turned down, and its session goes on with that answer."""
    call = next((each for each in session.calls if names(ask, each)), None)
    return Verdict(
        session_id=session.id,
        kind=VerdictKind.UNANSWERED,
        cancel_session_id=session.id,
        why=f"nobody answered its {ask.kind.value} for {duration(age)}, past the limit of {duration(limit)}",
        age_seconds=age,
        limit_seconds=limit,
        call_ids=(call.id,) if call else (),
        newest_prompt_id=session.newest_prompt_id,
        message_id=call.turn_id if call else ask.turn_id,
        call_id=call.id if call else None,
        tool=call.tool if call else None,
        life_ms=case.life_ms(session),
        heard=case.heard(session),
        ask=ask,
    )


def released(case: Case, session: Session) -> Verdict:
    """Everything open in a session, because a person says so."""
    call = session.calls[0] if session.calls else None
    return Verdict(
        session_id=session.id,
        kind=VerdictKind.STUCK_TOOL if call else VerdictKind.IDLE_SESSION,
        cancel_session_id=session.id,
        why="a person asked for its release",
        age_seconds=case.age(call) if call else 0.0,
        call_ids=tuple(each.id for each in session.calls),
        turn_ids=tuple(turn.id for turn in session.turns if turn.open),
        newest_prompt_id=session.newest_prompt_id,
        message_id=call.turn_id if call else (session.turns[-1].id if session.turns else None),
        call_id=call.id if call else None,
        tool=call.tool if call else None,
        life_ms=case.life_ms(session),
        heard=case.heard(session),
        released=True,
    )
