"""What is known of each session at the moment of judgement: ages, limits, life, and who claims it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, Self

from watchdog.judging.gradual import Gradual
from watchdog.judging.limits import lengthened, tool_limit
from watchdog.judging.orphan_proof import Proof, prove, prove_each, unclaimed
from watchdog.judging.session_tree import Family
from watchdog.model.moments import Moment, WallMs
from watchdog.model.policy import Policy
from watchdog.model.report import Observation, ServerReport
from watchdog.model.session import (
    EVERYTHING,
    TASK,
    Activity,
    Session,
    SessionId,
    Snapshot,
    Status,
    ToolCall,
    Turn,
)


class Claim(NamedTuple):
    """The server that says it is at work on a session, and what it says.

    Attributes:
        knows_asks: it said, wherever the session may be, which asks wait for a human; and so did every other
            server that claims the session.
    """

    report: ServerReport
    status: Status
    knows_asks: bool


class Case:
    """One observation, one policy and one moment, as answers to the questions that a judge asks."""

    def __init__(self, observation: Observation, policy: Policy, now: Moment, family: Family | None = None) -> None:
        self.observation = observation = _settled(observation)
        self.policy = policy
        self.now = now
        self.family = family or Family(observation)
        self._tool_limits: dict[str, float | None] = {}

    @classmethod
    def gradually(cls, observation: Observation, policy: Policy, now: Moment) -> Gradual[Self]:
        """The same, session by session."""
        family = yield from Family.gradually(_settled(observation))
        return cls(observation, policy, now, family)

    def age(self, call: ToolCall) -> float:
        """How long a call has run, in countable seconds."""
        age = self.now - self.observation.call_clocks.get(call.id, self.now)
        return age if age > 0 else 0.0

    def idle_seconds(self, session: Session) -> float | None:
        """How long the session has shown no life, or None if nobody could have seen it."""
        clock = self.observation.idle_clocks.get(session.id)
        return None if clock is None else max(0.0, self.now - clock)

    def life(self, session: Session) -> Moment:
        """The last sign of life that anybody knows of."""
        return self.observation.lives.get(session.id, self.now)

    def heard(self, session: Session) -> Moment | None:
        """The last sign of life that was heard on a feed."""
        heard = [report.life[session.id] for report in self.observation.reports if session.id in report.life]
        return max(heard, default=None)

    def life_ms(self, session: Session) -> WallMs:
        """The last sign of life that rows and hosts report, by the wall clock."""
        life = session.last_life_ms
        for report in self.observation.reports:
            for status in report.said.get(session.id, ()):
                life = max(life, status.last_life_ms or 0)
        return life

    def retry_due(self, session: Session) -> Moment | None:
        """When the provider is tried again, if a server says so."""
        return self.observation.retries.get(session.id)

    def claim(self, session: Session) -> Claim | None:
        """Who says that it is at work on the session. If several do, the answer that spares it the most counts."""
        chosen: ServerReport | None = None
        status: Status | None = None
        silent: ServerReport | None = None
        for report in self.observation.reports:
            for said in report.said.get(session.id, ()):
                if status is None or _patience(said) > _patience(status):
                    chosen, status = report, said
                if silent is None and not report.knows_asks(session):
                    silent = report
        if chosen is None or status is None:
            return None
        return Claim(silent or chosen, status, knows_asks=silent is None)

    def plainly_at_work(self, session: Session) -> bool:
        """Whether a server is at work on the session, and every such server knows its asks and waits for no retry."""
        found = False
        for report in self.observation.reports:
            said = report.said.get(session.id)
            if said is None:
                continue
            found = True
            for status in said:
                if status.activity is Activity.RETRY:
                    return False
            if not report.knows_asks(session):
                return False
        return found

    def leaf(self, session: Session, call: ToolCall) -> tuple[float, float | None]:
        """The age of a call that waits on no child, and its limit.

        For a task whose child has ended, the age counts from the child's last sign of life, and the limit is
        `tool_timeout`.
        """
        child = self.family.child_of(session, call) if call.tool == TASK else None
        if child is not None:
            since = max(0.0, self.now - self.life(child))
            return min(self.age(call), since), self.policy.tool_timeout_seconds
        if call.personal:
            return self.age(call), self.policy.shell_timeout_seconds
        if call.tool not in self._tool_limits:
            self._tool_limits[call.tool] = tool_limit(call.tool, self.policy)
        limit = self._tool_limits[call.tool]
        return self.age(call), lengthened(limit, call, self.policy)

    def leaf_limit(self, session: Session, call: ToolCall) -> float | None:
        """The limit of a call that waits on no child; `tool_timeout` for a task whose child has ended."""
        return self.leaf(session, call)[1]

    def leaf_age(self, session: Session, call: ToolCall) -> float:
        """The age of a leaf; for a task whose child has ended, counted from the child's last sign of life."""
        return self.leaf(session, call)[0]

    def task_deadline(self, call: ToolCall) -> Moment | None:
        """When the next limit of a task call may start to matter."""
        limits = (self.policy.task_timeout_seconds, self.policy.task_hard_timeout_seconds)
        left = [limit - self.age(call) for limit in limits if limit is not None and limit > self.age(call)]
        return self.now + min(left) if left else None

    def hold(self, session: Session, *, with_below: bool, on_behalf_of: SessionId | None = None) -> str | None:
        """Why a session is to be left alone: a person said so about it, about everything, or about one below it.

        Args:
            session: the session.
            with_below: the act would end the sessions below it, too.
            on_behalf_of: the stuck session above it, if this one is to be ended for that one.
        """
        held = self.observation.on_hold
        if not held:
            return None
        first = self._first_held.get(session.id, session.id) if with_below else session.id
        ids = (EVERYTHING, session.id, on_behalf_of or session.id, first)
        return next((held[id_] for id_ in ids if id_ in held), None)

    @cached_property
    def _first_held(self) -> Mapping[SessionId, SessionId]:
        return self.family.first_upward(sorted(self.observation.on_hold))

    def proofs(self, session: Session) -> list[tuple[Turn, Proof]]:
        """For each turn of the session that is open or holds open calls: whether nobody executes it."""
        with_calls = {call.turn_id for call in session.calls}
        turns = [turn for turn in session.turns if turn.open or turn.id in with_calls]
        return list(zip(turns, prove_each(self.observation, self.policy, session, turns), strict=True))

    def orphaned(self, session: Session) -> list[tuple[Turn, Proof]]:
        """The turns of the session that provably nobody executes."""
        if self.observation.holders is None:
            return []  # a proof starts from the processes that have the database open
        return [(turn, proof) for turn, proof in self.proofs(session) if proof.holds]

    def unclaimed_elsewhere(self, session: Session) -> str | None:
        """Why a session that no host claims is left alone if no process can be seen; None if one can be."""
        if self.observation.holders is None or not self.observation.holders.elsewhere:
            return None
        if unclaimed(self.observation, session):
            return "no live host says that it is at work on it; only a release settles it"
        return "no host says that it is at work on it, and not all of them answer"

    def who_may_run(self, session: Session, turn: Turn | None) -> str:
        """Why a session that no server claims can't be judged."""
        if turn is None:
            return "no server answers for it"
        return f"no server answers for it, and {prove(self.observation, self.policy, session, turn).why}"


def _settled(observation: Observation) -> Observation:
    """The order in which facts arrived changes no decision and no words. A child runs where its parent runs."""
    holders = observation.holders
    return replace(
        observation,
        snapshot=_with_remote_children(observation.snapshot),
        reports=tuple(sorted(observation.reports, key=lambda report: report.name)),
        holders=holders and replace(holders, known=tuple(sorted(holders.known, key=lambda each: each.pid))),
    )


def _with_remote_children(snapshot: Snapshot) -> Snapshot:
    """What a remote session started is remote, too, whatever its own row says."""
    remote = {id_: session.remote for id_, session in snapshot.sessions.items() if session.remote is not None}
    if not remote:
        return snapshot
    children: dict[SessionId, list[SessionId]] = {}
    for session in snapshot.sessions.values():
        if session.parent_id is not None:
            children.setdefault(session.parent_id, []).append(session.id)
    todo = [*remote]
    while todo:
        above = todo.pop()
        new = [id_ for id_ in children.get(above, ()) if id_ not in remote]
        remote.update(dict.fromkeys(new, remote[above]))
        todo.extend(new)
    sessions = {id_: replace(each, remote=remote.get(id_)) for id_, each in snapshot.sessions.items()}
    return replace(snapshot, sessions=sessions)


def _patience(status: Status) -> tuple[bool, int]:
    return status.activity is Activity.RETRY, status.retry_at_ms or 0
