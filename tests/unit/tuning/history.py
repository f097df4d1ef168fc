"""A history with known truth, in a real database: each call says itself what is to be found of it."""

from dataclasses import dataclass, field
from typing import Any

from tests.support.database import NOW, OpencodeRows

MINUTE = 60_000
HOUR = 60 * MINUTE


@dataclass
class History:
    """Fills rows, one turn after another, each an hour after the one before.

    Attributes:
        at: when the next turn begins.
        turns: how many there are.
        durations: what each tool's finished calls took, in seconds.
    """

    rows: OpencodeRows
    at: int = NOW
    turns: int = 0
    durations: dict[str, list[float]] = field(default_factory=dict)

    def finished(
        self,
        tool: str,
        seconds: float,
        *,
        session: str = "ses_a",
        timeout: float | None = None,
        child: str | None = None,
    ) -> str:
        """A call that ended by itself, in a turn of its own."""
        self.durations.setdefault(tool, []).append(seconds)
        data: dict[str, Any] = {"description": "some work"}
        if timeout is not None:
            data["timeout"] = timeout * 1000
        metadata = {} if child is None else {"sessionId": child}
        return self.ended(
            tool, seconds, session=session, status="completed", input=data, metadata=metadata, output=""
        )

    def aborted(self, tool: str, seconds: float, *, session: str = "ses_a", output: str | None = None) -> str:
        """A call that somebody gave up waiting for."""
        how = {"status": "error", "error": "Tool execution aborted"}
        if output is not None:
            how = {"status": "completed", "output": output}
        return self.ended(tool, seconds, session=session, aborted=True, input={"description": "some work"}, **how)

    def declined(self, tool: str, seconds: float) -> str:
        """A call whose approval was turned down."""
        error = "The user rejected permission to use this specific tool call."
        return self.ended(tool, seconds, status="error", error=error, input={"description": "some work"})

    def ended(self, tool: str, seconds: float, *, session: str = "ses_a", aborted: bool = False, **state: Any) -> str:  # noqa: ANN401
        """A call in any state, with a turn around it that ends a second later."""
        began, ended = self.at, self.at + round(seconds * 1000)
        turn = self.turn(session, ended + 1000, aborted=aborted)
        time = {"start": began, "end": ended}
        data = {"type": "tool", "tool": tool, "callID": "call", "state": {**state, "time": time}}
        return self.rows.part(turn, data, at=began, updated_at=ended)

    def turn(self, session: str, completed: int | None, *, aborted: bool = False) -> str:
        """A turn; the next one begins an hour after its end."""
        if self.rows.get("session", session, "id") is None:
            self.rows.session(session)
        more = {"error": {"name": "MessageAbortedError", "data": {"message": "aborted"}}} if aborted else None
        turn = self.rows.turn(session, at=self.at, completed_at=completed, more=more)
        self.turns += 1
        self.at = (completed or self.at) + HOUR
        return turn

    def truth(self, tool: str, percent: int) -> float:
        """A quantile by nearest rank, counted in another way than the product does."""
        values = sorted(self.durations[tool])
        return next(each for each in values if sum(other <= each for other in values) * 100 >= percent * len(values))
