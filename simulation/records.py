"""The watchdog's own journal and its right to act, as they are on a disk that outlives its processes."""

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tests.fakes.journal import FakeJournal
from watchdog.errors import JournalUnusable
from watchdog.model.interventions import Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.outcome import GuardedWrite, Outcome, Step
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict

if TYPE_CHECKING:
    from simulation.ports import Line

Value = TypeVar("Value")


class LineJournal:
    """The `History` of a watchdog's process: what is on the disk, each time after a while."""

    def __init__(self, line: "Line", disk: FakeJournal) -> None:
        self._line = line
        self._disk = disk

    async def begin(
        self,
        verdict: Verdict,
        *,
        at_ms: int,
        actor: Actor = Actor.WATCHDOG,
        reason: str | None = None,
        about_to: Step | None = None,
    ) -> InterventionId:
        await self._reach()
        number = await self._fenced(
            lambda: self._disk.begin(verdict, at_ms=at_ms, actor=actor, reason=reason, about_to=about_to)
        )
        self._line.begun()
        return number

    async def keep(self, intervention: InterventionId, writes: Sequence[GuardedWrite]) -> None:
        await self._reach()
        await self._fenced(lambda: self._disk.keep(intervention, writes))
        self._line.begun()

    async def end(self, intervention: InterventionId, outcome: Outcome, *, at_ms: int) -> None:
        await self._reach()
        await self._fenced(lambda: self._disk.end(intervention, outcome, at_ms=at_ms))

    @property
    def place(self) -> str:
        return self._disk.place

    async def mark_undone(self, intervention: InterventionId, hold: Hold, *, at_ms: int) -> None:
        await self._reach()
        await self._disk.mark_undone(intervention, hold, at_ms=at_ms)

    async def interventions(
        self,
        *,
        session_id: SessionId | None = None,
        since_ms: int | None = None,
        before: InterventionId | None = None,
        limit: int | None = None,
    ) -> Sequence[Intervention]:
        await self._reach()
        return await self._disk.interventions(session_id=session_id, since_ms=since_ms, before=before, limit=limit)

    async def intervention(self, intervention: InterventionId) -> Intervention | None:
        await self._reach()
        return await self._disk.intervention(intervention)

    async def begun(self) -> Sequence[Intervention]:
        await self._reach()
        return await self._disk.begun()

    async def kept(self, intervention: InterventionId) -> Sequence[Kept]:
        await self._reach()
        return await self._disk.kept(intervention)

    async def holds(self, now_ms: int) -> Mapping[SessionId, Hold]:
        await self._reach()
        return await self._disk.holds(now_ms)

    async def hold(self, hold: Hold) -> None:
        await self._reach()
        await self._disk.hold(hold)

    async def unhold(self, session_id: SessionId) -> bool:
        await self._reach()
        return await self._disk.unhold(session_id)

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        await self._reach()
        await self._fenced(lambda: self._disk.save(key, json.loads(json.dumps(value))))

    async def load(self, key: str) -> dict[str, Any] | None:
        await self._reach()
        return await self._disk.load(key)

    async def prune(self, before_ms: int) -> int:
        await self._reach()
        return await self._fenced(lambda: self._disk.prune(before_ms))

    async def _reach(self) -> None:
        world = self._line.world
        await self._line.touch()
        if world.journal_locked or self._line.is_cut_off:
            raise JournalUnusable("The journal can't be used.")

    async def _fenced(self, do: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        return await self._line.fenced(do, JournalUnusable)


class LockFile:
    """The lock file: whose it is."""

    def __init__(self) -> None:
        self.holder: int | None = None
        self.terms = 0


class LineMandate:
    """The right to act, of one watchdog's process."""

    def __init__(self, line: "Line", file: LockFile) -> None:
        self._line = line
        self._file = file

    def acquire(self) -> bool:
        if self._file.holder is None:
            self._file.holder = self._line.number
            self._file.terms += 1
        return self._file.holder == self._line.number

    def holder(self) -> int | None:
        return self._file.holder

    @property
    def term(self) -> int | None:
        return self._file.terms if self._file.holder == self._line.number else None
