"""Servers that are reached by way of others: an interface of its own beside those in `ports`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from watchdog.model.report import Served
from watchdog.model.session import Ask, SessionId, Status


@runtime_checkable
class Deputy(Protocol):
    """A server that is asked and told by way of others: it says some things of its own accord, too.

    Time passes until it acts on what it is told, so it looks once more itself.
    """

    def led_from_here(self) -> bool:
        """Whether this process has the right to act: whoever only looks on has no question of its own."""
        ...

    def mentions(self, session_ids: Collection[SessionId]) -> bool:
        """Whether it lately said anything of some sessions."""
        ...

    async def lately(self) -> tuple[Mapping[SessionId, Status], Sequence[Ask]]:
        """What it said of its own accord: `Server.statuses` and `Server.pending_asks` of a moment ago.

        Raises:
            ServerError: that is too long ago, or was no answer.
        """
        ...

    async def abort_unless(
        self,
        served: Served,
        session_id: SessionId,
        *,
        asks: Collection[str],
        life_ms: int | None,
    ) -> None:
        """End what the session does, if it is still at work on it, and nothing came that stands against it.

        Args:
            asks: the ids of those asks that it is ended in spite of. Any other one of the session spares it.
            life_ms: a sign of life after this moment spares it; None where none does.

        Raises:
            ServerDeclined: it is spared.
        """
        ...
