"""Decides what will never end, from one observation: pure, deterministic, and total.

Everything that a user could argue about is decided here. When in doubt, a session is spared, and the judgement
says why. `orphan_proof` excludes who could execute a turn, `session_tree` knows who waits on whom, `facts` holds the
clocks, `verdicts` writes down what is to be ended.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from watchdog.judging import verdicts
from watchdog.judging.attempts import process_of, same
from watchdog.judging.deleted import Deleted, deleted
from watchdog.judging.facts import Case, Claim
from watchdog.judging.gradual import Gradual, at_once
from watchdog.judging.in_time import in_time
from watchdog.judging.limits import duration
from watchdog.judging.orphan_proof import Proof, elsewhere
from watchdog.judging.session_tree import Ended
from watchdog.model.moments import Moment
from watchdog.model.policy import Policy
from watchdog.model.report import Attempts, Observation
from watchdog.model.session import QUESTION, Activity, Session, ToolCall, Turn, TurnId
from watchdog.model.verdict import Judgement, Spared, SpareReason, Verdict, VerdictKind

_NONE: frozenset[TurnId] = frozenset()


def judge(observation: Observation, policy: Policy, now: Moment) -> Judgement:
    """Judge every unfinished session of an observation.

    Args:
        observation: what is known.
        policy: what is allowed.
        now: the moment to judge for; the ages of all clocks are taken from it.
    """
    return at_once(judge_gradually(observation, policy, now))


def judge_gradually(observation: Observation, policy: Policy, now: Moment) -> Gradual[Judgement]:
    """The same, session by session."""
    bench = _Bench((yield from Case.gradually(observation, policy, now)))
    for session in bench.case.family.deepest_first():
        yield
        bench.judge_session(session)
    for each in deleted(bench.case):
        yield
        bench.judge_deleted(each)
    return Judgement(verdicts=tuple(bench.verdicts), spared=tuple(bench.spared), unclaimed=frozenset(bench.unclaimed))


class _Bench:
    """One judgement in the making. Sessions are judged from the deepest up."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.policy = case.policy
        self.family = case.family
        self.verdicts: list[Verdict] = []
        self.spared: list[Spared] = []
        self.unclaimed: set[str] = set()
        self._ended = Ended(self.family)
        self._judged_from = 0
        """Where the entries about the session that is judged now begin in `spared`."""

    def judge_session(self, session: Session) -> None:
        """Judge one session: first its orphans, then what is alive."""
        if (plain := self._spare_plain(session)) is not None:
            self.spared.extend(plain)
            return
        self._judged_from = len(self.spared)
        orphaned = self.case.orphaned(session)
        if (held := self.case.hold(session, with_below=False)) is not None:
            self._spare(session, SpareReason.ON_HOLD, held)
            if orphaned:
                self.unclaimed |= verdicts.orphan(self.case, session, orphaned).row_ids
            return
        if (remote := elsewhere(session)) is not None:
            if session.has_open_rows or self.case.claim(session) is not None:
                self._spare(session, SpareReason.NO_WITNESS, remote)
            return
        gone: AbstractSet[TurnId] = _NONE
        if orphaned:
            self._judge_orphans(session, orphaned)
            gone = {turn.id for turn, _ in orphaned}
        self._judge_living(session, gone)
        self._judge_asks(session)

    def judge_deleted(self, found: Deleted) -> None:
        """Pass or spare a session that was deleted while it ran."""
        if found.verdict is not None and self._may_try(found.verdict, found.session):
            self._add_verdict(found.verdict)
        elif found.spared is not None:
            self._spare(found.session, *found.spared, until=found.until)

    def _spare_plain(self, session: Session) -> list[Spared] | None:
        """The short way for most sessions: their calls are within their limits, and nobody else is involved."""
        if (
            not session.calls
            or session.remote is not None
            or self.case.observation.on_hold
            or not self.family.alone(session)
        ):
            return None
        for turn in session.turns:
            if turn.superseded:
                return None
        if not (self.family.alone(session) and self.case.plainly_at_work(session)):
            return None
        plain: list[Spared] = []
        for call in session.calls:
            spared = in_time(self.case, session, call)
            if spared is None:
                return None
            plain.append(spared)
        return plain

    def _judge_asks(self, session: Session) -> None:
        """Judge whether a human has been asked for longer than `human_timeout`; one ask of a session at a time."""
        limit = self.policy.human_timeout_seconds
        if limit is None or not self.family.human_at(session):
            return
        clocks = self.case.observation.ask_clocks
        asks = [ask for ask in self.family.asks_at(session) if ask.id in clocks]
        if not asks:
            return
        ask = min(asks, key=lambda each: (clocks[each.id], each.id))
        age = max(0.0, self.case.now - clocks[ask.id])
        if age < limit:
            why = f"human_timeout turns its {ask.kind.value} down in {duration(limit - age)}"
            self._spare(session, SpareReason.WAITING_ON_HUMAN, why, until=self.case.now + (limit - age))
            return
        verdict = verdicts.unanswered(self.case, session, ask, age, limit)
        if self._may_try(verdict, session):
            self._add_verdict(verdict)

    # -- orphans ---------------------------------------------------------------------------------------------

    def _judge_orphans(self, session: Session, orphaned: list[tuple[Turn, Proof]]) -> None:
        verdict = verdicts.orphan(self.case, session, orphaned)
        self.unclaimed |= verdict.row_ids
        if not self._may_try(verdict, session):
            return
        if verdict.confirmed or self.policy.orphan_looks == 1:
            self._add_verdict(verdict)
            return
        first = max(self.case.observation.looks.get(row, self.case.now) for row in verdict.row_ids)
        until = first + self.policy.orphan_grace_seconds
        self._spare(session, SpareReason.FIRST_LOOK, f"{verdict.why}; a second look has to confirm it", until=until)

    # -- the living ------------------------------------------------------------------------------------------

    def _judge_living(self, session: Session, gone: AbstractSet[TurnId]) -> None:
        claim = self.case.claim(session)
        turns: Sequence[Turn] = session.turns
        calls: Sequence[ToolCall] = session.calls
        if gone:
            turns = [turn for turn in turns if turn.id not in gone]
            calls = [call for call in calls if call.turn_id not in gone]
        if not turns and not calls and claim is None:
            return
        if claim is None and (unclaimed := self.case.unclaimed_elsewhere(session)) is not None:
            self._spare(session, SpareReason.NO_WITNESS, unclaimed)
            return
        if claim is not None and claim.status.activity is Activity.RETRY and self._waits_out(session):
            return
        older = {turn.id for turn in turns if turn.superseded}
        current = calls
        if older:
            self._spare_older(session, [call for call in calls if call.turn_id in older])
            current = [call for call in calls if call.turn_id not in older]
        if current:
            self._judge_calls(session, current, claim)
        elif claim is not None or any(turn.id not in older for turn in turns):
            self._judge_silence(session, claim)
        elif not calls:
            self._spare(session, SpareReason.NO_WITNESS, self.case.who_may_run(session, turns[-1]))

    def _spare_older(self, session: Session, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            why = f"the {call.tool} call is in an older turn of its session; ending it would end the newer one"
            self._spare(session, SpareReason.WAITING_ON_SIBLING, why, call)

    def _judge_calls(self, session: Session, calls: Sequence[ToolCall], claim: Claim | None) -> None:
        """Judge the open calls of the session's current turn: they can only be ended together."""
        left: list[Spared] = []
        over: list[ToolCall] = []
        waits = False
        for call in calls:
            if (spared := self._spare_waiting(session, call, claim)) is not None:
                waits = True
                left.append(spared)
            elif (spared := in_time(self.case, session, call)) is not None:
                left.append(spared)
            else:
                over.append(call)
        self.spared.extend(left)
        if over and left:
            reasons = ", ".join(sorted({spared.reason.value for spared in left}))
            for call in over:
                why = f"the {call.tool} call is past its limit, but a call beside it is spared ({reasons})"
                self._spare(session, SpareReason.WAITING_ON_SIBLING, why, call)
        elif over:
            self._propose_cancel(verdicts.stuck(self.case, session, over), session)
        elif not waits:
            self._judge_tasks_above(session, claim)

    def _spare_waiting(self, session: Session, call: ToolCall, claim: Claim | None) -> Spared | None:
        """Why a call is spared that waits for somebody: its age says nothing then. None if it waits for nobody."""
        child = self.family.unfinished_child_of(session, call)
        until = None
        if self.family.asks_for(session, call):
            reason, why = SpareReason.WAITING_ON_HUMAN, f"the {call.tool} call waits for a person to answer"
        elif child is not None and self.family.human_below(child):
            reason, why = (
                SpareReason.WAITING_ON_HUMAN,
                f"a person is asked for something in its child session {child}",
            )
        elif child is not None:
            reason, why = SpareReason.WAITING_ON_CHILD, f"its child session {child} is unfinished"
            until = self.case.task_deadline(call)
        elif claim is not None and not claim.knows_asks:
            why = f"{claim.report.name} does not say whether a person is asked for something"
            reason = SpareReason.NO_WITNESS
        elif claim is None and call.tool == QUESTION:
            why = "it asks a person something, and no server says whether the question still stands"
            reason = SpareReason.NO_WITNESS
        else:
            return None
        age = self.case.age(call)
        return Spared(session_id=session.id, reason=reason, why=why, call_id=call.id, age_seconds=age, until=until)

    def _judge_silence(self, session: Session, claim: Claim | None) -> None:
        """Judge an unfinished session that has no open call."""
        below = self.family.unfinished_below(session)
        if self.family.human_at(session):
            self._spare(session, SpareReason.WAITING_ON_HUMAN, "a person is asked for something in it")
        elif below is not None:
            self._spare(session, SpareReason.WAITING_ON_CHILD, f"its child session {below} is unfinished")
        elif claim is None:
            turn = next((turn for turn in reversed(session.turns) if turn.open), None)
            self._spare(session, SpareReason.NO_WITNESS, self.case.who_may_run(session, turn))
        elif not claim.knows_asks:
            why = f"{claim.report.name} does not say whether a person is asked for something"
            self._spare(session, SpareReason.NO_WITNESS, why)
        else:
            self._judge_idle(session, claim)

    def _judge_idle(self, session: Session, claim: Claim) -> None:
        idle, limit = self.case.idle_seconds(session), self.policy.idle_timeout_seconds
        if idle is None:
            why = f"nobody hears whether it shows life: the event feed of {claim.report.name} is not connected"
            self._spare(session, SpareReason.NO_WITNESS, why)
            return
        if claim.status.activity is Activity.RETRY and (due := self.case.retry_due(session)) is not None:
            idle = min(idle, max(0.0, self.case.now - due))
        if limit is not None and idle >= limit:
            # Where the wall clock was set back, what seems to be an older turn is the one at work.
            if left := [each for call in session.calls if (each := in_time(self.case, session, call)) is not None]:
                self.spared.extend(left)
                return
            self._propose_cancel(verdicts.idle(self.case, session, idle, limit), session)
            return
        self.spared.append(
            Spared(
                session_id=session.id,
                reason=SpareReason.RECENTLY_ACTIVE if limit is not None else SpareReason.WITHIN_LIMIT,
                why=f"it showed life {duration(idle)} ago" if limit is not None else "idle_timeout is off",
                age_seconds=idle,
                limit_seconds=limit,
                until=None if limit is None else self.case.now + (limit - idle),
            )
        )
        self._judge_tasks_above(session, claim)

    def _judge_tasks_above(self, session: Session, claim: Claim | None) -> None:
        """Judge whether a task call that waits on this session has outlived its limits.

        A call's own limit protects it.
        """
        if claim is None or not self.family.has_task_above(session):
            return
        idle, idle_limit = self.case.idle_seconds(session), self.policy.idle_timeout_seconds
        silent = idle is not None and idle_limit is not None and idle >= idle_limit
        unlimited = all(self.case.leaf_limit(session, call) is None for call in session.calls)
        soft = self.policy.task_timeout_seconds if silent and unlimited else None
        hard = self.policy.task_hard_timeout_seconds
        for parent, call in self.family.tasks_above(session):
            age = self.case.age(call)
            if soft is not None and age >= soft:
                verdict = verdicts.stuck_task(self.case, parent, call, deepest=session, limit=soft, silent=idle)
            elif hard is not None and age >= hard:
                verdict = verdicts.stuck_task(self.case, parent, call, deepest=session, limit=hard, silent=None)
            else:
                continue
            del self.spared[self._judged_from :]
            self._propose_cancel(verdict, session)
            return

    def _waits_out(self, session: Session) -> bool:
        """Spare a session that waits to try its provider again, until that plus `idle_timeout` is over."""
        limit, due = self.policy.idle_timeout_seconds, self.case.retry_due(session) or self.case.life(session)
        why = "it waits to try its provider again"
        if limit is None:
            self._spare(session, SpareReason.RETRYING, f"{why}, and idle_timeout is off")
            return True
        if due + limit <= self.case.now:
            return False
        self._spare(session, SpareReason.RETRYING, why, until=due + limit)
        return True

    # -- passing or sparing ----------------------------------------------------------------------------------

    def _propose_cancel(self, verdict: Verdict, session: Session) -> None:
        """Pass a verdict that aborts, unless something below comes first, or earlier attempts stand against it."""
        if first := self._ended.first_below(session):
            self._spare(session, SpareReason.WAITING_ON_CHILD, f"session {first} below it is ended first")
        elif below := self.family.unfinished_below(session):
            self._spare(session, SpareReason.WAITING_ON_CHILD, f"its child session {below} is unfinished")
        elif below := self.family.prompted_below(session):
            why = f"a prompt in session {below} below it has no answer yet, and nobody says that it is at work on it"
            self._spare(session, SpareReason.NO_WITNESS, why)
        elif self.family.damaged(session):
            why = "a row of it can't be read, so it may be at work on something that does not show"
            self._spare(session, SpareReason.NO_WITNESS, why)
        elif self._may_try(verdict, session):
            self._add_verdict(verdict)

    def _add_verdict(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self._ended.add(verdict.cancel_session_id)

    def _may_try(self, verdict: Verdict, session: Session) -> bool:
        """Whether earlier attempts leave room for another one now."""
        cancels = verdict.kind not in {VerdictKind.ORPHAN, VerdictKind.UNANSWERED}
        if (held := self.case.hold(session, with_below=cancels, on_behalf_of=verdict.session_id)) is not None:
            self._spare(session, SpareReason.ON_HOLD, held)
            return False
        attempts = self.case.observation.attempts
        if not attempts:
            return True
        tried: list[Attempts] = [attempts[key] for key in sorted(verdict.attempt_keys) if key in attempts]
        count = max((each.count for each in tried), default=0)
        times = f"{count} attempt{'' if count == 1 else 's'}"
        wait = max((each.not_before for each in tried if each.not_before is not None), default=self.case.now)
        if verdict.kind is not VerdictKind.ORPHAN and any(
            each.count and each.newest_prompt_id != verdict.newest_prompt_id for each in tried
        ):
            why = f"a person has prompted since the first of {times}; another would drop that prompt"
            self._spare(session, SpareReason.GIVEN_UP, why)
        elif any(each.given_up for each in tried) and not self._is_another_process(session, tried):
            if wait <= self.case.now:
                return True
            again = duration(wait - self.case.now)
            why = f"{times} did not end it; it is left to a person, and tried again in {again}"
            self._spare(session, SpareReason.GIVEN_UP, why, until=wait)
        elif wait > self.case.now and not any(each.given_up for each in tried):
            self._spare(session, SpareReason.COOLING_DOWN, f"{times} so far; the next one waits", until=wait)
        else:
            return True
        return False

    def _is_another_process(self, session: Session, tried: Sequence[Attempts]) -> bool:
        """Whether the server that is at work on it now is none of those that were told before."""
        now = process_of(self.case.observation.reports, session.id)
        before = [each.process for each in tried if each.process is not None]
        return now is not None and bool(before) and not any(same(each, now) for each in before)

    def _spare(
        self,
        session: Session,
        reason: SpareReason,
        why: str,
        call: ToolCall | None = None,
        *,
        until: Moment | None = None,
    ) -> None:
        call_id = call.id if call else None
        self.spared.append(Spared(session_id=session.id, reason=reason, why=why, call_id=call_id, until=until))
