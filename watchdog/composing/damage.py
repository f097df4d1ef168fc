"""Damage that `check --deep` found, kept in the journal for the file that has it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from watchdog.errors import DatabaseDamaged, DatabaseUnavailable
from watchdog.opencode.db.sqlite_errors import HOW_TO_MEND
from watchdog.opencode.file.identity import FileIdentity
from watchdog.ports import Journal

_KEY: Final = "damage"


async def note_damage(journal: Journal, database: Path, found: Sequence[str], *, at_ms: int) -> None:
    """Keep the findings for a database; no findings take back what was kept before."""
    if not found and await _noted(journal, database) is None:
        return
    file = FileIdentity.of(database)
    value = {"device": file.device, "inode": file.inode, "at_ms": at_ms, "found": list(found)}
    await journal.save(_KEY, value if found else {})


async def refuse_damaged(journal: Journal, database: Path) -> None:
    """Raise if this very file is known to be damaged.

    Raises:
        DatabaseDamaged: it is.
    """
    first = await _noted(journal, database)
    if first is not None:
        raise DatabaseDamaged(f"The database {database} is damaged, as `check --deep` found: {first}. {HOW_TO_MEND}")


async def _noted(journal: Journal, database: Path) -> str | None:
    """The first finding for this file; None if nothing is known against it."""
    kept = await journal.load(_KEY) or {}
    try:
        file = FileIdentity.of(database)
    except DatabaseUnavailable:
        return None
    found = kept.get("found")
    same = (kept.get("device"), kept.get("inode")) == (file.device, file.inode)
    return str(found[0]) if same and isinstance(found, list) and found else None
