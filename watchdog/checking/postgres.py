"""`check` for a database in PostgreSQL: who acts, which replicas there are, and what a look costs."""

from dataclasses import dataclass, field
from typing import Any

from watchdog.checking.words import close, lead
from watchdog.composing.files import locate
from watchdog.composing.replica import Replica, Situation, replica
from watchdog.console.exits import Exit
from watchdog.errors import JournalUnusable, WatchdogError, sentences
from watchdog.journal.null import NoJournal
from watchdog.model.session import EVERYTHING
from watchdog.operating.holds import in_order
from watchdog.postgres.indexes import Finding, look_for
from watchdog.replicas.roster import roll
from watchdog.reporting.documents import VERSION
from watchdog.reporting.journal_documents import Hold as HoldShape
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen
from watchdog.settings.durations import format_duration
from watchdog.settings.schema import Loaded, effective
from watchdog.timing.clock import SystemClock

_LOOKING = "looking at the database, which takes a while"
_PROOFS = (
    "none: what runs on other machines can't be seen. What a replica's host claims can be ended; what none claims is "
    "settled by a release only."
)


@dataclass(kw_only=True, slots=True)
class _Findings:
    """Everything that it says. `problems` lead to exit code 3."""

    settings: list[tuple[str, str, str]]
    config_file: str | None
    database: dict[str, Any]
    replicas: list[str] = field(default_factory=list)
    journal: dict[str, Any] = field(default_factory=dict)
    indexes: list[Finding] = field(default_factory=list)
    look: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def check(loaded: Loaded, screen: Screen, *, settings: bool) -> Exit:
    """Look at everything that a watchdog needs, and say what is wrong with it and what to do. It creates nothing.

    Args:
        settings: show people each setting, and not only those that somebody gave.
    """
    findings = _Findings(
        settings=effective(loaded),
        config_file=str(loaded.config_file) if loaded.config_file else None,
        database={"place": str(locate(loaded))},
        warnings=list(loaded.warnings),
    )
    situation = Situation(
        own=None,
        clock=SystemClock(),
        changed=lambda: None,
        acts=False,
        needs_journal=False,
    )
    try:
        async with busy(_LOOKING), replica(loaded.settings, None, situation) as found:
            await _look(found, loaded, findings)
    except* WatchdogError as group:
        findings.problems.extend(sentences(group))
    if screen.as_json:
        screen.document(_document(findings))
    else:
        _print(screen, findings, settings=settings)
    return Exit.UNUSABLE if findings.problems else Exit.FINE


async def _look(found: Replica, loaded: Loaded, findings: _Findings) -> None:
    described = await found.store.describe()
    there = await roll(found.engine)
    findings.database |= {
        "server": described.server,
        "megabytes": round(described.size_bytes / 1e6, 1),
        "data": described.data,
        "watched_by": there.acting,
    }
    findings.replicas = list(there.present)
    if there.disagreements:
        findings.warnings.append(
            f"the replicas would judge by different limits: {'; '.join(there.disagreements)}. "
            "Whichever acts goes by its own: give all the same settings."
        )
    await _look_at_journal(found, loaded, findings)
    findings.indexes = list(await look_for(found.engine, described.data))
    clock = SystemClock()
    began = clock.read().running_seconds
    snapshot = await found.store.look()
    findings.look = {
        "seconds": round(clock.read().running_seconds - began, 4),
        "unfinished": sum(session.has_open_rows for session in snapshot.sessions.values()),
        "damaged": len(snapshot.damaged),
    }
    findings.warnings.extend(_without(each) for each in findings.indexes if each.name is None)


def _without(finding: Finding) -> str:
    index = finding.index
    size = f"{finding.megabytes:g} MB" if finding.rows is None else f"{finding.rows:,} rows, {finding.megabytes:g} MB"
    lacking = f"no index holds the {index.of}: each look reads the whole of `{index.table}` ({size}). "
    if finding.invalid is not None:
        lacking += f"One was begun and not finished: DROP INDEX CONCURRENTLY {finding.invalid}; and make it again. "
    return f"{lacking}`opencode-watchdog sql index` prints what makes it."


async def _look_at_journal(found: Replica, loaded: Loaded, findings: _Findings) -> None:
    journal = found.journal
    if isinstance(journal, NoJournal):
        findings.journal = {"place": None, "problem": journal.problem}
        if journal.problem is None:
            findings.warnings.append('`journal` is "off": what is done can\'t be listed or undone, or put on hold.')
        elif loaded.settings.journal is None and findings.database["watched_by"] is None:
            findings.warnings.append(f"{journal.problem} The first that acts makes it.")
        else:
            findings.problems.append(journal.problem)
        return
    try:
        holds = in_order(await journal.holds(SystemClock().read().wall_ms))
        findings.journal = {
            "place": journal.place,
            "problem": None,
            "kept_for": format_duration(loaded.settings.journal_retention),
            "interventions": await journal.count(),
            "begun": [each.id for each in await journal.begun()],
            "on_hold": [HoldShape.told(hold) for hold in holds],
        }
        if any(hold.session_id == EVERYTHING for hold in holds):
            findings.warnings.append("everything is on hold: nothing is ended until `resume`, or the hold ends.")
    except JournalUnusable as error:
        findings.journal = {"place": journal.place, "problem": str(error)}
        findings.problems.append(str(error))


def _document(findings: _Findings) -> dict[str, Any]:
    return {
        "version": VERSION,
        "usable": not findings.problems,
        "problems": findings.problems,
        "warnings": findings.warnings,
        "config_file": findings.config_file,
        "settings": {name: {"value": value, "source": source} for name, value, source in findings.settings},
        "database": findings.database,
        "journal": findings.journal,
        "replicas": findings.replicas,
        "indexes": [
            {
                "table": each.index.table,
                "of": each.index.of,
                "name": each.name,
                "rows": each.rows,
                "megabytes": each.megabytes,
            }
            for each in findings.indexes
        ],
        "look": findings.look,
        "proofs": {"possible": False, "why": _PROOFS},
    }


def _print(screen: Screen, findings: _Findings, *, settings: bool) -> None:
    lead(screen, findings)
    screen.rows("database", ("", ""), [(name, _in_words(value)) for name, value in findings.database.items()])
    shown = {**findings.journal, "on_hold": len(findings.journal.get("on_hold", ()))}
    screen.rows("journal", ("", ""), [(name, _in_words(value)) for name, value in shown.items()])
    screen.rows("replicas", ("watches and answers for its sessions",), [(name,) for name in findings.replicas])
    screen.rows(
        "indexes",
        ("table", "what it holds", "index"),
        [
            (each.index.table, each.index.of, (each.name or "missing", "green" if each.name else "yellow"))
            for each in findings.indexes
        ],
    )
    if findings.look:
        took = f"a look took {findings.look['seconds'] * 1000:.1f} ms; {findings.look['unfinished']} sessions"
        screen.line("look", f"{took} are unfinished")
    screen.line("proofs", _PROOFS)
    close(screen, findings, settings=settings)


def _in_words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
