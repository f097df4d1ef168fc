"""A journal that keeps nothing: for `journal = "off"`, and for looking if none can be used."""

# ruff: noqa: ARG002 - the arguments are those of the interface
from collections.abc import Mapping, Sequence
from typing import Any

from watchdog.model.interventions import Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.outcome import GuardedWrite, Outcome, Step
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict

_NONE = InterventionId(0)


class NoJournal:
    """See `Journal` for the meaning of each method.

    Attributes:
        problem: why the real one can't be used, if that is the reason.
    """

    def __init__(self, *, problem: str | None = None) -> None:
        self.problem = problem

    async def begin(
        self,
        verdict: Verdict,
        *,
        at_ms: int,
        actor: Actor = Actor.WATCHDOG,
        reason: str | None = None,
        about_to: Step | None = None,
    ) -> InterventionId:
        """Note nothing."""
        return _NONE

    async def keep(self, intervention: InterventionId, writes: Sequence[GuardedWrite]) -> None:
        """Keep nothing."""

    async def end(self, intervention: InterventionId, outcome: Outcome, *, at_ms: int) -> None:
        """Note nothing."""

    async def begun(self) -> tuple[Intervention, ...]:
        """Nothing was noted."""
        return ()

    async def kept(self, intervention: InterventionId) -> tuple[Kept, ...]:
        """Nothing was kept."""
        return ()

    async def holds(self, now_ms: int) -> Mapping[SessionId, Hold]:
        """Nobody can hold anything."""
        return {}

    async def unhold(self, session_id: SessionId) -> bool:
        """There is no hold."""
        return False

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Remember nothing beyond this process."""

    async def load(self, key: str) -> dict[str, Any] | None:
        """Nothing is remembered."""
        return None

    async def prune(self, before_ms: int) -> int:
        """There is nothing to forget."""
        return 0
