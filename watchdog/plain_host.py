"""What every host of sessions has in common that is no opencode server: a Python server, here or elsewhere."""

from collections.abc import Collection

from watchdog.errors import ServerAnswerInvalid
from watchdog.model import Ask, Endpoint, Row, SessionId, TurnId, Witness


class PlainHost:
    """The part of `Server` that such a host answers for itself: it has no feed, no clients, and no HTTP."""

    @property
    def leads_to(self) -> tuple[Endpoint, ...]:
        """It listens nowhere that matters."""
        return ()

    async def vouches(self) -> bool:
        """It runs the sessions of its process, so its word about them counts."""
        return True

    async def reject(self, ask: Ask, directory: str) -> None:  # noqa: ARG002
        """Refused: the embedding server turns down its asks itself."""
        raise ServerAnswerInvalid("the embedding server turns down its asks itself")

    async def serves(self, session_id: SessionId, turn_id: TurnId, directory: str) -> bool:  # noqa: ARG002
        """It uses this database by definition."""
        return True

    async def publish(self, row: Row, directory: str) -> None:
        """It reads its own database; it has no clients of the watchdog's concern."""

    async def readable(self, session_id: SessionId, directory: str) -> bool:  # noqa: ARG002
        """It reads rows in its own way; it is not asked."""
        return True

    async def delete_message(self, session_id: SessionId, message_id: str, directory: str) -> None:  # noqa: ARG002
        """Refused: the embedding server deletes its messages itself."""
        raise ServerAnswerInvalid("the embedding server deletes its messages itself")

    def witness(self) -> Witness | None:
        """It has no feed: it touches its sessions or says their last sign of life, or is no witness."""
        return None

    def busy_directories(self) -> Collection[str]:
        """See `witness`."""
        return ()
