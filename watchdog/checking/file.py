"""`check` on the database's file: where it is, who has it under another name, and whether it is whole."""

from pathlib import Path
from typing import Any

import anyio.to_thread

from watchdog.composing.damage import note_damage
from watchdog.composing.sidecar import Sidecar
from watchdog.errors import DatabaseError
from watchdog.opencode.db.integrity import checking
from watchdog.opencode.db.sqlite_errors import HOW_TO_MEND
from watchdog.opencode.file.identity import filesystem_type
from watchdog.opencode.file.one_file import examine
from watchdog.reporting.progress import busy
from watchdog.timing.clock import now_ms

_CHECKING = "checking every table with its indexes, which takes a while"


async def look_at_file(path: Path) -> dict[str, Any]:
    """The facts about a file, even if it is refused; none about one that is gone."""
    try:
        found = await anyio.to_thread.run_sync(examine, path)
    except DatabaseError:
        return {}
    return {
        "filesystem": filesystem_type(path),
        "mounted_alone": bool(found.mounted),
        "links": found.links,
        "held_elsewhere": [{"pid": each.pid or None, "name": each.name} for each in found.strangers],
    }


def in_words(value: object) -> str | None:
    """The facts about a file, for people; None for one that needs no words of its own."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list):
        return None
    return "; ".join(f"pid {each['pid'] or '?'}" if isinstance(each, dict) else each for each in value) or "-"


async def look_deeply(car: Sidecar) -> tuple[list[str], list[str]]:
    """Make SQLite check all of it, and keep the findings in the journal.

    Returns:
        The damage, and problems with it.
    """
    found: list[str] = []
    async with checking(car.path) as under_way, busy(_CHECKING, total=len(under_way.tables)) as step:
        for table in under_way.tables:
            found += await under_way.check(table)
            step()
    await note_damage(car.journal, car.path, found, at_ms=now_ms())
    problems = [f"The database is damaged: {'; '.join(found)}. {HOW_TO_MEND}"] if found else []
    return found, problems
