"""Who has a database open that belongs to no single machine: nobody can tell."""

from typing import Final

from watchdog.model.report import Holders

_WHY: Final = (
    "the sessions are in PostgreSQL, and what runs on other machines can't be seen: only the word of a host counts"
)


class Elsewhere:
    """Owners of a database in PostgreSQL."""

    async def look(self) -> Holders:
        """See `Owners.look`."""
        return Holders(complete=False, why_incomplete=_WHY, elsewhere=True)
