"""Servers that are reached through others: an interface of its own beside those in `ports`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from watchdog.model.report import Served
from watchdog.model.session import Ask, SessionId, Status


@runtime_checkable
class Deputy(Protocol):
    """A server that is asked and told through others. It also says some things unasked.

    Time passes until it acts on an order, so it looks once more itself.
    """

    def led_from_here(self) -> bool:
        """Whether this process has the right to act: a process that only observes asks no questions of its own."""
        ...

    def mentions(self, session_ids: Collection[SessionId]) -> bool:
        """Whether it lately said anything about some sessions."""
        ...

    async def lately(self) -> tuple[Mapping[SessionId, Status], Sequence[Ask]]:
        """What it said unasked: `Server.statuses` and `Server.pending_asks` of a moment ago.

        Raises:
            ServerError: that was too long ago, or was no answer.
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
        """End what the session does, if it is still at work on it, and nothing came that speaks against it.

        Args:
            asks: the ids of those asks that do not spare it. Any other ask of the session does.
            life_ms: a sign of life after this moment spares it; None if none does.

        Raises:
            ServerDeclined: it is spared.
        """
        ...
