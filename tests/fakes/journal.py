"""A journal in memory, held to the same contract as the real one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from watchdog.errors import JournalUnusable
from watchdog.model.interventions import Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.outcome import GuardedWrite, Outcome, Step
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict


@dataclass(kw_only=True)
class FakeJournal:
    """Attributes: `failure` is raised by everything while it is set."""

    failure: JournalUnusable | None = None
    noted: dict[InterventionId, Intervention] = field(default_factory=dict)
    rows: dict[InterventionId, tuple[Kept, ...]] = field(default_factory=dict)
    on_hold: dict[SessionId, Hold] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun_so_far: int = 0

    @property
    def place(self) -> str:
        return "a fake"

    async def begin(
        self,
        verdict: Verdict,
        *,
        at_ms: int,
        actor: Actor = Actor.WATCHDOG,
        reason: str | None = None,
        about_to: Step | None = None,
    ) -> InterventionId:
        self._check()
        self.begun_so_far += 1
        number = InterventionId(self.begun_so_far)
        self.noted[number] = Intervention(
            id=number, began_ms=at_ms, actor=actor, verdict=verdict, reason=reason, about_to=about_to
        )
        return number

    async def keep(self, intervention: InterventionId, writes: Sequence[GuardedWrite]) -> None:
        self._check()
        self.rows[intervention] = tuple(Kept(row=write.row, after=write.after) for write in writes)

    async def end(self, intervention: InterventionId, outcome: Outcome, *, at_ms: int) -> None:
        self._check()
        self.noted[intervention] = replace(self.noted[intervention], outcome=outcome, ended_ms=at_ms)

    async def mark_undone(self, intervention: InterventionId, hold: Hold, *, at_ms: int) -> None:
        self._check()
        self.noted[intervention] = replace(self.noted[intervention], undone_ms=at_ms)
        self.on_hold[hold.session_id] = hold

    async def interventions(
        self,
        *,
        session_id: SessionId | None = None,
        since_ms: int | None = None,
        before: InterventionId | None = None,
        limit: int | None = None,
    ) -> tuple[Intervention, ...]:
        self._check()
        found = [
            each
            for each in self.noted.values()
            if session_id in (None, each.verdict.session_id)
            and (since_ms is None or each.began_ms >= since_ms)
            and (before is None or each.id < before)
        ]
        return tuple(sorted(found, key=lambda each: -each.id)[:limit])

    async def intervention(self, intervention: InterventionId) -> Intervention | None:
        self._check()
        return self.noted.get(intervention)

    async def begun(self) -> tuple[Intervention, ...]:
        self._check()
        return tuple(each for each in self.noted.values() if each.outcome is None)

    async def kept(self, intervention: InterventionId) -> tuple[Kept, ...]:
        self._check()
        return self.rows.get(intervention, ())

    async def hold(self, hold: Hold) -> None:
        self._check()
        self.on_hold[hold.session_id] = hold

    async def holds(self, now_ms: int) -> dict[SessionId, Hold]:
        self._check()
        return {id_: hold for id_, hold in self.on_hold.items() if hold.until_ms is None or hold.until_ms > now_ms}

    async def unhold(self, session_id: SessionId) -> bool:
        self._check()
        return self.on_hold.pop(session_id, None) is not None

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        self._check()
        self.values[key] = dict(value)

    async def load(self, key: str) -> dict[str, Any] | None:
        self._check()
        return self.values.get(key)

    async def prune(self, before_ms: int) -> int:
        self._check()
        old = [each.id for each in self.noted.values() if each.ended_ms is not None and each.began_ms < before_ms]
        for number in old:
            del self.noted[number]
            self.rows.pop(number, None)
        return len(old)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
