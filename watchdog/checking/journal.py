"""The part of `check` about the journal: where it is, what is in it, and what to do about it."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from watchdog.errors import JournalUnusable, SettingsError
from watchdog.journal.null import NoJournal
from watchdog.journal.sqlite import SqliteJournal, journal_path
from watchdog.model.session import EVERYTHING
from watchdog.opencode.file.identity import filesystem_type
from watchdog.operating.holds import in_order
from watchdog.reporting.journal_documents import Hold as HoldShape
from watchdog.reporting.tables import Screen
from watchdog.settings.durations import format_duration
from watchdog.settings.places import home
from watchdog.settings.schema import Settings
from watchdog.timing.clock import now_ms

_OFF = (
    '`journal` is "off": what is done can\'t be listed or undone, nothing can be put on hold, and a restart forgets '
    "first sights, waits and attempts."
)
_PAUSED = "everything is on hold: nothing is ended or settled until `resume`, or until the hold ends."
_IN_A_CONTAINER = "it disappears with this container: put its folder on a volume, such as /state of the image."
_MARKS_OF_CONTAINERS = ("/.dockerenv", "/run/.containerenv")
_MOST_READ = 100
_LAYERED = frozenset({"overlay", "aufs"})


async def look_at_journal(
    journal: SqliteJournal | NoJournal, settings: Settings, database: Path, *, watched: bool
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The journal's part of the document, with warnings and problems.

    Args:
        journal: the opened journal.
        settings: the settings that name it.
        database: its database.
        watched: a watchdog acts on the database, which closes what was begun.
    """
    kept_for = format_duration(settings.journal_retention)
    found: dict[str, Any] = {
        "path": None, "problem": None, "megabytes": None, "filesystem": None, "kept_for": kept_for,
        "interventions": 0, "begun": [], "on_hold": [], "advice": None,
    }  # fmt: skip
    if settings.journal == "off":
        return found, [_OFF], []
    with suppress(SettingsError):  # nobody knows a place for it, as its problem says
        found["path"] = str(settings.journal or journal_path(database, os.environ, home()))
    if isinstance(journal, NoJournal):
        found["problem"] = journal.problem
        return found, [], [journal.problem or ""]
    try:
        found, warnings = await _contents(journal, found, watched=watched)
    except JournalUnusable as error:
        found["problem"] = str(error)
        return found, [], [str(error)]
    return found, warnings, []


async def _contents(
    journal: SqliteJournal, found: dict[str, Any], *, watched: bool
) -> tuple[dict[str, Any], list[str]]:
    holds = in_order(await journal.holds(now_ms()))
    await journal.interventions(limit=_MOST_READ)  # begun interventions that can't be read are left out below
    begun = [each.id for each in await journal.begun()]
    filesystem = filesystem_type(journal.path)
    warnings = [_PAUSED] if any(hold.session_id == EVERYTHING for hold in holds) else []
    if begun and not watched:
        numbers = ", ".join(map(str, begun))
        warnings.append(f"intervention {numbers} was begun and not ended; `run` or `recover` says how it ended.")
    return {
        **found,
        "megabytes": round(journal.path.stat().st_size / 1e6, 1),
        "filesystem": filesystem,
        "interventions": await journal.count(),
        "begun": begun,
        "on_hold": [HoldShape.told(hold) for hold in holds],
        "advice": _IN_A_CONTAINER if filesystem in _LAYERED and _in_a_container() else None,
    }, warnings


def _in_a_container() -> bool:
    return any(Path(mark).exists() for mark in _MARKS_OF_CONTAINERS)


def print_journal(screen: Screen, found: dict[str, Any]) -> None:
    """Print the journal's part."""
    if not found:
        return
    shown = {**found, "begun": ", ".join(map(str, found["begun"])) or "-", "on_hold": len(found["on_hold"])}
    shown["path"] = found["path"] or "off"
    cells = [(name, "-" if value is None else str(value)) for name, value in shown.items()]
    screen.rows("journal", ("", ""), cells)
