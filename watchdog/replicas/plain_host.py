"""The common part of all hosts of sessions that are no opencode server: a Python server, here or elsewhere."""

from collections.abc import Collection, Sequence

from watchdog.errors import ServerAnswerInvalid
from watchdog.model.outcome import Row
from watchdog.model.report import Endpoint, Listener, Served, Shown, Witness
from watchdog.model.session import Ask, ServerName, SessionId, TurnId


class PlainHost:
    """The part of `Server` that such a host answers itself: it has no feed, no clients, and no HTTP.

    It has no folders: each of its answers is about everything that it runs.
    """

    by_folder = False

    @property
    def name(self) -> ServerName:
        """See `Server.name`."""
        raise NotImplementedError

    @property
    def own(self) -> Served:
        """It speaks through this database by definition."""
        return Served(server=self.name, by=Shown.HOST)

    async def listener(self) -> Listener:
        """It is not found by an address."""
        return Listener()

    async def copy(
        self,
        session_id: SessionId,  # noqa: ARG002
        turn_id: TurnId,  # noqa: ARG002
        directory: str,  # noqa: ARG002
    ) -> Sequence[Row] | None:
        """It has no copy of its own."""
        return None

    @property
    def leads_to(self) -> tuple[Endpoint, ...]:
        """It listens at no address that matters."""
        return ()

    async def known(self) -> bool:
        """Its author says what it means."""
        return True

    async def vouches(self) -> bool:
        """It runs the sessions of its process, so its word about them counts."""
        return True

    async def reject(self, served: Served, ask: Ask, directory: str) -> None:  # noqa: ARG002
        """Refused: the embedding server turns down its asks itself."""
        raise ServerAnswerInvalid("the embedding server turns down its asks itself")

    async def publish(self, served: Served, row: Row, directory: str) -> None:
        """It reads its own database; it has no clients that the watchdog should tell."""

    async def readable(self, served: Served, session_id: SessionId, directory: str) -> bool:  # noqa: ARG002
        """It reads rows in its own way; nobody asks it."""
        return True

    async def delete_message(
        self,
        served: Served,  # noqa: ARG002
        session_id: SessionId,  # noqa: ARG002
        message_id: str,  # noqa: ARG002
        directory: str,  # noqa: ARG002
    ) -> None:
        """Refused: the embedding server deletes its messages itself."""
        raise ServerAnswerInvalid("the embedding server deletes its messages itself")

    def witness(self) -> Witness | None:
        """It has no feed: it touches its sessions or reports their last sign of life, or else is no witness."""
        return None

    def busy_directories(self) -> Collection[str]:
        """See `witness`."""
        return ()
