"""`check`: whether the settings, the database and the servers are usable, and who has the database open."""

from dataclasses import asdict, dataclass, field
from typing import Any

from watchdog.alerts.setup import problem_with_receivers
from watchdog.bridge.commands import document, show, summary
from watchdog.bridge.status import Status, status_of
from watchdog.checking.file import in_words, look_at_file, look_deeply
from watchdog.checking.installation import mixed_installation
from watchdog.checking.journal import look_at_journal, print_journal
from watchdog.checking.words import close, lead
from watchdog.composing.files import locate_file
from watchdog.composing.in_postgres import with_driver
from watchdog.composing.sidecar import Sidecar, sidecar
from watchdog.console.exits import Exit
from watchdog.errors import (
    ServerError,
    ServerRefused,
    ServerUnreachable,
    ServerUntrusted,
    UsageError,
    WatchdogError,
    sentences,
)
from watchdog.judging.orphan_proof import describe
from watchdog.model.report import Holder, Holders, Served
from watchdog.observing.observe import without_a_feed
from watchdog.observing.serving import NotShown, by_nobody, by_process
from watchdog.opencode.http.client import OpencodeServer
from watchdog.reporting.documents import VERSION
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.schema import Loaded, effective

LOOKING = "looking at the database and its servers, which takes a while"
LISTENING_SECONDS = 3.0
"""How long a feed may take to say that it is there, which it does at once."""
UNKNOWN_PID = "another watchdog, whose pid is not known"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFinding:
    """What `check` found of one server.

    Attributes:
        problem: why it can't be used, and what to do.
        doubt: what can't be determined about it.
    """

    name: str
    version: str | None = None
    pid: int | None = None
    problem: str | None = None
    doubt: str | None = None


@dataclass(kw_only=True, slots=True)
class Findings:
    """Everything that `check` says. `problems` lead to exit code 3."""

    settings: list[tuple[str, str, str]]
    config_file: str | None
    database: dict[str, Any] = field(default_factory=dict)
    journal: dict[str, Any] = field(default_factory=dict)
    servers: list[ServerFinding] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    provable: bool = False
    proofs: str = "not known: the database can't be used"
    bridge: Status | None = None
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def check(loaded: Loaded, screen: Screen, *, deep: bool = False, settings: bool = False) -> Exit:
    """Look at everything that a watchdog needs, and say what is wrong with it and what to do.

    Args:
        deep: also make SQLite check that the database is whole.
        settings: show people each setting, and not only those that somebody gave.
    """
    if isinstance(loaded.settings.database, PostgresUrl):
        if deep:
            raise UsageError(
                "`check --deep` is for a database in a file; PostgreSQL has checks of its own (amcheck)."
            )
        with with_driver():
            from watchdog.checking import postgres as checkup_postgres
        return await checkup_postgres.check(loaded, screen, settings=settings)
    findings = Findings(
        settings=effective(loaded),
        config_file=str(loaded.config_file) if loaded.config_file else None,
        warnings=list(loaded.warnings),
    )
    if mixed := mixed_installation():
        findings.problems.append(mixed)
    if wrong := problem_with_receivers(loaded):
        findings.problems.append(wrong)
    try:
        path = locate_file(loaded)
        findings.database = {"path": str(path), **await look_at_file(path)}
        async with sidecar(loaded, feeds=False, needs_journal=False) as car:
            async with busy(LOOKING):
                await _look(car, findings, loaded)
            if deep:
                findings.database["damage"], damaged = await look_deeply(car)
                findings.problems.extend(damaged)
    except* WatchdogError as group:
        findings.problems.extend(sentences(group))
    if screen.as_json:
        screen.document(_document(findings))
    else:
        _print(screen, findings, settings=settings)
    return Exit.UNUSABLE if findings.problems else Exit.FINE


def _insisted(loaded: Loaded) -> frozenset[str]:
    """The servers that somebody named: a problem with one of them is a problem, whatever else there is."""
    return frozenset() if loaded.sources["servers"] == "default" else frozenset(loaded.settings.servers)


async def _look(car: Sidecar, findings: Findings, loaded: Loaded) -> None:
    await _look_at_database(car, findings)
    watched = findings.database["watched_by"] is not None
    findings.journal, warnings, problems = await look_at_journal(car.journal, car.settings, car.path, watched=watched)
    findings.warnings.extend(warnings)
    findings.problems.extend(problems)
    # A server opens its database when it is first asked about a folder in it; so ask, and then look who has it open.
    await car.watch().assess(full=True, fresh=True)
    holders = await car.owners.look()
    await car.fleet.discover(holders)
    findings.holders = list(holders.known)
    findings.bridge = await status_of(loaded, findings.holders)
    findings.warnings += _about_bridge(findings.bridge)
    findings.provable = holders.complete
    findings.proofs = holders.why_incomplete or car.owners.supported()
    if not holders.complete:
        findings.warnings.append(f"no orphan can be proven and settled now: {findings.proofs}")
    findings.servers = [await _server(server, holders) for server in car.fleet.servers()]
    findings.warnings.extend(each.doubt for each in findings.servers if each.doubt)
    findings.warnings += [
        deaf
        for server, found in zip(car.fleet.servers(), findings.servers, strict=True)
        if found.problem is None and (deaf := await _deaf(server)) is not None
    ]
    usable = any(server.problem is None for server in findings.servers)
    for server in findings.servers:
        if server.problem:
            hard = server.name in _insisted(loaded) or not usable
            (findings.problems if hard else findings.warnings).append(server.problem)
    if not usable:
        findings.problems.append("no server can be used: nothing that is alive can be ended, only orphans settled.")


async def _look_at_database(car: Sidecar, findings: Findings) -> None:
    description = await car.store.describe()
    findings.database |= {
        "path": str(description.path),
        "megabytes": round(description.size_bytes / 1e6, 1),
        "journal_mode": description.journal_mode,
        "filesystem": description.filesystem,
        "sqlite": description.sqlite_version,
        "sessions": description.sessions,
        "watched_by": _who_watches(car),
    }
    if description.second_generation:
        count = description.second_generation
        findings.warnings.append(
            f"opencode 2.x has opened this database, too, and keeps {count} session{'s' if count > 1 else ''} of its "
            "own in it. This version watches those of 1.x alone."
        )
    if description.experimental_sessions:
        findings.warnings.append(
            f"{description.experimental_sessions} rows are of opencode's experimental sessions, which nobody watches."
        )


def _about_bridge(found: Status) -> list[str]:
    """What is wrong with the bridge, if somebody wants one."""
    if not found.installed:
        return []
    return [*found.warnings, *([] if found.current else [summary(found)])]


def _who_watches(car: Sidecar) -> dict[str, int | None] | None:
    """Who acts on the database. The lock file's content counts only while somebody holds the lock."""
    if car.mandate.acquire():
        car.mandate.release()
        return None
    return {"pid": car.mandate.holder()}


async def _server(server: OpencodeServer, holders: Holders) -> ServerFinding:
    found = by_process(server, await server.listener(), holders)
    pid = found.pid if isinstance(found, Served) else None
    try:
        version = await server.version()
        known, vouches = await server.known(), await server.vouches()
    except ServerError as error:
        return ServerFinding(name=server.name, pid=pid, problem=f"{error} {_what_to_do(error)}".strip())
    problem = doubt = None
    found = found or by_nobody(server, holders)
    if isinstance(found, NotShown):
        problem = f"{found.why} Name its database with --database, or the right server with --server."
    elif found is None:
        doubt = f"whether {server.name} uses this database can't be told."
    elif not known:
        doubt = (
            f"{server.name} says that its version is {version}: a fork's, perhaps, and none that was measured. Its "
            "word that it is not at work on a session proves nothing: while its process lives, what may be its own "
            "is settled only if that process was born later."
        )
    elif not vouches:
        doubt = f"{server.name} is older than opencode 1.14: its silence about a session proves nothing."
    return ServerFinding(name=server.name, version=version, pid=pid, problem=problem, doubt=doubt)


async def _deaf(server: OpencodeServer) -> str | None:
    """The problem with its feed, and what it costs."""
    why = await server.feed.sample(LISTENING_SECONDS)
    return None if why is None else without_a_feed(server.name, why)


def _what_to_do(error: ServerError) -> str:
    if isinstance(error, ServerRefused | ServerUntrusted):
        return ""  # it says so itself
    if isinstance(error, ServerUnreachable):
        return "Start `opencode serve` there, or name the right address with --server."
    return "Is it an opencode server? Name the right address with --server."


def _document(findings: Findings) -> dict[str, Any]:
    return {
        "version": VERSION,
        "usable": not findings.problems,
        "problems": findings.problems,
        "warnings": findings.warnings,
        "config_file": findings.config_file,
        "settings": {name: {"value": value, "source": source} for name, value, source in findings.settings},
        "database": findings.database,
        "journal": findings.journal,
        "servers": [asdict(server) for server in findings.servers],
        "bridge": None if findings.bridge is None else document(findings.bridge),
        "holders": [{"pid": holder.pid, "command": holder.command} for holder in findings.holders],
        "proofs": {"possible": findings.provable, "why": findings.proofs},
    }


def _print(screen: Screen, findings: Findings, *, settings: bool) -> None:
    lead(screen, findings)
    screen.rows("database", ("", ""), [(name, _in_words(name, value)) for name, value in findings.database.items()])
    print_journal(screen, findings.journal)
    screen.rows(
        "servers",
        ("server", "version", "pid"),
        [
            ((each.name, "red" if each.problem else "green"), each.version or "-", str(each.pid or "-"))
            for each in findings.servers
        ],
    )
    if findings.bridge is not None:
        show(screen, findings.bridge)
    screen.rows("holders", ("has the database open",), [(describe(holder),) for holder in findings.holders])
    if findings.database and not findings.holders and findings.provable:
        screen.line("holders", "nobody has the database open")
    screen.line("proofs", findings.proofs)
    close(screen, findings, settings=settings)


def _in_words(name: str, value: object) -> str:
    if name == "watched_by":
        if not isinstance(value, dict):
            return "nobody"
        return f"pid {value['pid']}" if value["pid"] else UNKNOWN_PID
    return in_words(value) or ("-" if value is None else str(value))
