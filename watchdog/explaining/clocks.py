"""The clocks of a session and its calls, with all that a person needs to check the sum."""

from watchdog.explaining.values import Clock, Setting
from watchdog.judging.facts import Case
from watchdog.judging.limits import duration, limit_of, may_declare, pattern_of, tool_limit
from watchdog.model.session import Activity, Session, SessionId, ToolCall

_UNCOUNTED_FROM_SECONDS = 1.0
_SAME_SECONDS = 0.01


def clocks_of(case: Case, session: Session, call: ToolCall) -> tuple[Clock, ...]:
    """The clocks that matter for a call: its own limit, or those of a task that waits on its child.

    A call of a superseded turn has none: only the proof that nobody executes it can end it.
    """
    if any(turn.id == call.turn_id and turn.superseded for turn in session.turns):
        return ()
    still = stands_still(case, session, call)
    if case.family.unfinished_child_of(session, call) is None:
        return (_own_clock(case, session, call, still),)
    policy = case.policy
    clocks = [_task_clock(case, call, Setting.TASK_TIMEOUT, policy.task_timeout_seconds, still)]
    if policy.task_hard_timeout_seconds is not None:
        clocks.append(_task_clock(case, call, Setting.TASK_HARD_TIMEOUT, policy.task_hard_timeout_seconds, still))
    return tuple(clocks)


def session_clocks(case: Case, session: Session) -> tuple[Clock, ...]:
    """The clock of its silence if that matters, and that of a second look if one is awaited."""
    return tuple(clock for clock in (_idle_clock(case, session), _second_look(case, session)) if clock)


def stands_still(case: Case, session: Session, call: ToolCall) -> str | None:
    """Why a call's clock stands still, or None while it runs.

    Mirrors what memory counts, as far as one observation shows it: only a running watchdog knows that a server which
    held the session no longer answers.
    """
    claim = case.claim(session)
    if case.family.asks_for(session, call):
        return "a person is asked for something"
    if session.id in case.observation.stopped:
        return case.observation.stopped[session.id].why
    if claim is not None and not claim.knows_asks:
        return f"{claim.report.name} does not say whether a person is asked for something"
    if _retries(case, session.id):
        return "its session waits to try its provider again"
    child = case.family.unfinished_child_of(session, call)
    if child is None:
        return None
    if case.family.human_below(child):
        return "a person is asked for something below it"
    below = {child, *case.family.below(case.observation.snapshot.sessions[child])}
    if any(_retries(case, id_) for id_ in below):
        return "a session below it waits to try its provider again"
    return None


def _retries(case: Case, session_id: SessionId) -> bool:
    return any(
        status.activity is Activity.RETRY
        for report in case.observation.reports
        for status in report.said.get(session_id, ())
    )


def _own_clock(case: Case, session: Session, call: ToolCall, still: str | None) -> Clock:
    ended = case.family.child_of(session, call) is not None
    origin = "tool_timeout, since its child session ended" if ended else _origin(case, call)
    limit = case.leaf_limit(session, call)
    return Clock(
        setting=Setting.TOOL_TIMEOUT,
        origin=origin if limit is not None else f"{origin}: off",
        age_seconds=case.leaf_age(session, call),
        limit_seconds=limit,
        still=still,
        uncounted_seconds=0.0 if ended else _uncounted(case, call),
        note=None if ended else _start_note(case, call, still),
    )


def _origin(case: Case, call: ToolCall) -> str:
    """The source of the limit of a call that waits on no child."""
    policy = case.policy
    if call.personal:
        return "shell_timeout, for a person's own command"
    pattern = pattern_of(call.tool, policy)
    setting = "tool_timeout" if pattern is None else f'tool_timeouts "{pattern}"'
    if limit_of(call, policy) == tool_limit(call.tool, policy):
        return setting
    if may_declare(call):
        longest, grace = (
            duration(policy.max_declared_timeout_seconds),
            duration(policy.declared_timeout_grace_seconds),
        )
        return f"{longest} that it may yet declare (max_declared_timeout) + {grace} grace"
    declared = (call.declared_timeout_ms or 0) / 1000
    capped = ""
    if declared > policy.max_declared_timeout_seconds:
        declared, capped = policy.max_declared_timeout_seconds, " (max_declared_timeout)"
    return f"{duration(declared)} that it declares{capped} + {duration(policy.declared_timeout_grace_seconds)} grace"


def _task_clock(case: Case, call: ToolCall, setting: Setting, limit: float | None, still: str | None) -> Clock:
    note = _start_note(case, call, still)
    if setting is Setting.TASK_TIMEOUT and limit is not None:
        note = "; ".join(filter(None, [note, "once past it, what is silent below for idle_timeout is ended"]))
    return Clock(
        setting=setting,
        origin=setting.value if limit is not None else f"{setting.value}: off",
        age_seconds=case.age(call),
        limit_seconds=limit,
        still=still,
        uncounted_seconds=_uncounted(case, call),
        note=note,
    )


def _uncounted(case: Case, call: ToolCall) -> float:
    """How much of the row's age its clock leaves out; the wall clock may have been set, so this is for people."""
    return max(0.0, case.observation.seconds_since(call.created_ms) - case.age(call))


def _start_note(case: Case, call: ToolCall, still: str | None) -> str | None:
    """Why the clock shows less than the age of the row."""
    uncounted = _uncounted(case, call)
    if uncounted < _UNCOUNTED_FROM_SECONDS:
        return None
    since_write = case.observation.seconds_since(call.updated_ms)
    if (
        call.updated_ms > call.created_ms
        and 0 <= since_write - case.age(call) <= case.observation.steady_slack_seconds + _SAME_SECONDS
    ):
        return "counts from the last write of its row: until then it may have waited for an approval"
    if still is not None and case.age(call) == 0:
        return "counts from this look on: it was already waiting when it was first seen"
    left_out = "waits for a person or a provider, sleep of the machine, or what nobody saw"
    return f"{duration(uncounted)} do not count: {left_out}"


def _idle_clock(case: Case, session: Session) -> Clock | None:
    """The clock of its silence: if no call of its own is open, or if a task above depends on it."""
    older = {turn.id for turn in session.turns if turn.superseded}
    calls = [call for call in session.calls if call.turn_id not in older]
    leans = any(True for _ in case.family.tasks_above(session))
    if calls and not (leans and all(case.leaf_limit(session, call) is None for call in calls)):
        return None
    if case.family.unfinished_below(session) is not None:
        return None
    limit, age = case.policy.idle_timeout_seconds, case.idle_seconds(session)
    note = None if age is not None else "nobody hears whether it shows life"
    claim = case.claim(session)
    if (
        age is not None
        and claim is not None
        and claim.status.activity is Activity.RETRY
        and (due := case.retry_due(session))
    ):
        age = min(age, max(0.0, case.now - due))
        note = "counts from the next try of its provider at the earliest"
    human = case.family.human_at(session)
    return Clock(
        setting=Setting.IDLE_TIMEOUT,
        origin="idle_timeout" if limit is not None else "idle_timeout: off",
        age_seconds=age,
        limit_seconds=limit,
        still="a person is asked for something" if human else None,
        note=note,
    )


def _second_look(case: Case, session: Session) -> Clock | None:
    """The clock between the two looks of a proof, once the first was taken and one look is not enough."""
    orphaned = case.orphaned(session)
    if not orphaned or all(proof.at_once for _, proof in orphaned):
        return None
    turns = {turn.id for turn, _ in orphaned if turn.open}
    ids = {turn.id for turn, _ in orphaned}
    rows = [*turns, *(call.id for call in session.calls if call.turn_id in ids)]
    first = max(case.observation.looks.get(row, case.now) for row in rows)
    return Clock(
        setting=Setting.ORPHAN_GRACE,
        origin="orphan_grace between the two looks",
        age_seconds=max(0.0, case.now - first),
        limit_seconds=case.policy.orphan_grace_seconds,
    )
