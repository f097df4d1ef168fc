"""`check`: whether the settings, the database and the servers are usable, and who has the database open."""

from dataclasses import asdict, dataclass, field
from typing import Any

from watchdog.commands import Exit
from watchdog.errors import ServerError, WatchdogError
from watchdog.installation import mixed_installation
from watchdog.model import Holder, Observation
from watchdog.opencode.server import OpencodeServer
from watchdog.proof import describe
from watchdog.render import Screen
from watchdog.settings import Loaded, effective
from watchdog.sidecar import Sidecar, locate, sidecar


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFinding:
    """What `check` found of one server."""

    name: str
    version: str | None
    pid: int | None
    problem: str | None


@dataclass(kw_only=True, slots=True)
class Findings:
    """Everything that `check` says. `problems` make it end with exit code 3."""

    settings: list[tuple[str, str, str]]
    config_file: str | None
    database: dict[str, Any] = field(default_factory=dict)
    servers: list[ServerFinding] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    proofs: str = ""
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def check(loaded: Loaded, screen: Screen) -> Exit:
    """Look at everything that a watchdog needs, and say what is wrong with it and what to do."""
    findings = Findings(
        settings=effective(loaded),
        config_file=str(loaded.config_file) if loaded.config_file else None,
        warnings=list(loaded.warnings),
    )
    if mixed := mixed_installation():
        findings.problems.append(mixed)
    try:
        findings.database = {"path": str(locate(loaded))}
        async with sidecar(loaded, feeds=False) as car:
            await _look(car, findings)
    except WatchdogError as error:
        findings.problems.append(str(error))
    if screen.as_json:
        screen.document(_document(findings))
    else:
        _print(screen, findings)
    return Exit.UNUSABLE if findings.problems else Exit.FINE


async def _look(car: Sidecar, findings: Findings) -> None:
    description = await car.store.describe()
    findings.database = {
        "path": str(description.path),
        "megabytes": round(description.size_bytes / 1e6, 1),
        "journal_mode": description.journal_mode,
        "filesystem": description.filesystem,
        "sqlite": description.sqlite_version,
        "sessions": description.sessions,
        "watched_by": car.mandate.holder(),
    }
    if description.experimental_sessions:
        findings.warnings.append(
            f"{description.experimental_sessions} rows are of opencode's experimental sessions, which are not watched"
        )
    holders = await car.owners.look()
    await car.fleet.discover(holders)
    findings.holders = list(holders.known)
    findings.proofs = holders.why_incomplete or car.owners.supported()
    observation = (await car.watch().assess(full=True, fresh=True)).observation
    findings.servers = [await _server(server, observation, holders.known) for server in car.fleet.servers()]
    if not any(server.problem is None for server in findings.servers):
        findings.problems.append("no server can be used: nothing that is alive can be ended, only orphans settled")


async def _server(server: OpencodeServer, observation: Observation, known: tuple[Holder, ...]) -> ServerFinding:
    pid = next((holder.pid for holder in known if server.port in holder.ports), None)
    try:
        version = await server.version()
    except ServerError as error:
        return ServerFinding(name=server.name, version=None, pid=pid, problem=str(error))
    problem = None
    if pid is None and server.port is not None and observation.holders is not None and observation.holders.complete:
        problem = f"{server.name} does not have this database open: it serves another one"
    return ServerFinding(name=server.name, version=version, pid=pid, problem=problem)


def _document(findings: Findings) -> dict[str, Any]:
    return {
        "version": 1,
        "usable": not findings.problems,
        "problems": findings.problems,
        "warnings": findings.warnings,
        "config_file": findings.config_file,
        "settings": {name: {"value": value, "source": source} for name, value, source in findings.settings},
        "database": findings.database,
        "servers": [asdict(server) for server in findings.servers],
        "holders": [{"pid": holder.pid, "command": holder.command} for holder in findings.holders],
        "proofs": findings.proofs,
    }


def _print(screen: Screen, findings: Findings) -> None:
    screen.rows("settings", ("setting", "value", "from"), findings.settings)
    screen.rows(
        "database",
        ("", ""),
        [(name, "-" if value is None else str(value)) for name, value in findings.database.items()],
    )
    screen.rows(
        "servers",
        ("server", "version", "pid", "problem"),
        [(each.name, each.version or "-", str(each.pid or "-"), each.problem or "-") for each in findings.servers],
        colours=["red" if each.problem else "green" for each in findings.servers],
    )
    screen.rows("holders", ("has the database open",), [(describe(holder),) for holder in findings.holders])
    if findings.proofs:
        screen.line(f"proofs: {findings.proofs}")
    for warning in findings.warnings:
        screen.line(f"warning: {warning}", "yellow")
    for problem in findings.problems:
        screen.line(f"problem: {problem}", "red")
    screen.line("not usable" if findings.problems else "usable", "bold red" if findings.problems else "bold green")
