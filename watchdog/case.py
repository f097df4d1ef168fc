"""What is known of each session at the moment of judgement: ages, limits, life, and who claims it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from watchdog.family import Family
from watchdog.limits import limit_of
from watchdog.model import (
    EVERYTHING,
    Activity,
    Observation,
    Policy,
    ServerReport,
    Session,
    SessionId,
    Status,
    ToolCall,
    Turn,
)
from watchdog.proof import Proof, prove


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
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

    def __init__(self, observation: Observation, policy: Policy, now_ms: int) -> None:
        # What is decided, and said, must not depend on the order in which things were told.
        holders = observation.holders
        self.observation = observation = replace(
            observation,
            reports=tuple(sorted(observation.reports, key=lambda report: report.name)),
            holders=holders and replace(holders, known=tuple(sorted(holders.known, key=lambda each: each.pid))),
        )
        self.policy = policy
        self.now_ms = now_ms
        self.family = Family(observation)

    def age(self, call: ToolCall) -> float:
        """How long a call has run, in awake seconds that count."""
        start = self.observation.call_clocks.get(call.id, call.created_ms)
        return max(0.0, (self.now_ms - start) / 1000)

    def idle_seconds(self, session: Session) -> float | None:
        """How long the session has shown no life, or None when nobody could have seen it."""
        clock = self.observation.idle_clocks.get(session.id)
        return None if clock is None else max(0.0, (self.now_ms - clock) / 1000)

    def life_ms(self, session: Session) -> int:
        """The last sign of life that anybody knows of."""
        life = session.last_life_ms
        for report in self.observation.reports:
            life = max(life, report.life.get(session.id, 0))
            for status in report.said.get(session.id, ()):
                life = max(life, status.last_life_ms or 0)
        return life

    def claim(self, session: Session) -> Claim | None:
        """Who says that it is at work on the session. If several do, what counts is what spares it the most."""
        claims = self._claims(session)
        if not claims:
            return None
        directories = session.directories
        silent = [report for report, _ in claims if any(each not in report.asks for each in directories)]
        report, status = max(claims, key=lambda claim: _patience(claim[1]))
        return Claim(report=silent[0] if silent else report, status=status, knows_asks=not silent)

    def _claims(self, session: Session) -> list[tuple[ServerReport, Status]]:
        return [(report, status) for report in self.observation.reports for status in report.said.get(session.id, ())]

    def leaf_limit(self, session: Session, call: ToolCall) -> float | None:
        """The limit of a call that waits on no child; `tool_timeout` for a task whose child has ended."""
        if self.family.child_of(session, call):
            return self.policy.tool_timeout_seconds
        return limit_of(call, self.policy)

    def leaf_age(self, session: Session, call: ToolCall) -> float:
        """The age of a leaf; for a task whose child has ended, counted from the child's last sign of life."""
        child = self.family.child_of(session, call)
        if child is None:
            return self.age(call)
        return min(self.age(call), max(0.0, (self.now_ms - self.life_ms(child)) / 1000))

    def task_deadline_ms(self, call: ToolCall) -> float | None:
        """When the next limit of a task call may come to matter."""
        limits = (self.policy.task_timeout_seconds, self.policy.task_hard_timeout_seconds)
        left = [limit - self.age(call) for limit in limits if limit is not None and limit > self.age(call)]
        return self.now_ms + min(left) * 1000 if left else None

    def hold(self, session: Session, *, with_below: bool) -> str | None:
        """Why a session is to be left alone, because a person said so of it, of all, or of one below it.

        Args:
            with_below: what is to be done would end the sessions below it, too.
        """
        held = self.observation.on_hold
        if not held:
            return None
        first = self._first_held.get(session.id, session.id) if with_below else session.id
        return next((held[id_] for id_ in (EVERYTHING, session.id, first) if id_ in held), None)

    @cached_property
    def _first_held(self) -> Mapping[SessionId, SessionId]:
        return self.family.first_upward(sorted(self.observation.on_hold))

    def proofs(self, session: Session) -> list[tuple[Turn, Proof]]:
        """For each turn of the session that is open or holds open calls: whether nobody executes it."""
        return [(turn, prove(self.observation, self.policy, session, turn)) for turn in _unfinished_turns(session)]

    def orphaned(self, session: Session) -> list[tuple[Turn, Proof]]:
        """The turns of the session that provably nobody executes."""
        if self.observation.holders is None:
            return []  # a proof begins with who has the database open
        return [(turn, proof) for turn, proof in self.proofs(session) if proof.holds]

    def who_may_run(self, session: Session, turn: Turn | None) -> str:
        """Why a session that no server claims can't be judged."""
        if turn is None:
            return "no server answers for it"
        return f"no server answers for it, and {prove(self.observation, self.policy, session, turn).why}"


def _unfinished_turns(session: Session) -> list[Turn]:
    with_calls = {call.turn_id for call in session.calls}
    return [turn for turn in session.turns if turn.open or turn.id in with_calls]


def _patience(status: Status) -> tuple[bool, int]:
    return status.activity is Activity.RETRY, status.retry_at_ms or 0
