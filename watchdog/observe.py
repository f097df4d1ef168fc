"""Gathers one `Observation` from the database, the servers, their feeds, and the processes."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import anyio

from watchdog.clock import Instant
from watchdog.endpoints import listener
from watchdog.errors import OpenElsewhere, ServerError, ServerSilent
from watchdog.memory import Memory
from watchdog.model import (
    EMBEDDED,
    SAME_BIRTH_MS,
    Ask,
    Holders,
    Observation,
    ServerName,
    ServerReport,
    Session,
    SessionId,
    Snapshot,
    Status,
    Turn,
    TurnId,
)
from watchdog.moments import Moment
from watchdog.ports import Fleet, Owners, Server, Store
from watchdog.proof import claims
from watchdog.silence import Silences

# How long an answer about holders may be reused while nothing about the unclaimed rows has changed. What acts
# on a proof asks again.
HOLDERS_STAY_VALID_SECONDS = 15.0
# A server makes something of each directory that it is asked about: a full look asks of the latest ones only.
_MOST_EXTRA_DIRECTORIES = 20


class Observer:
    """Looks at everything once, when it is asked to. One look runs at a time."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        owners: Owners,
        memory: Memory,
        silences: Silences,
        reuse_holders_seconds: float,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._owners = owners
        self._memory = memory
        self._silences = silences
        self._reuse_holders_seconds = min(reuse_holders_seconds, HOLDERS_STAY_VALID_SECONDS)
        self._turn = anyio.Lock()
        self._snapshot: Snapshot | None = None
        self._busy: set[SessionId] = set()  # what servers were at work on when they were last asked
        self._strangers: set[SessionId] = set()  # those of them that were not in this database when it was last read
        self._holders: tuple[Moment, frozenset[object], Holders] | None = None
        self._served: dict[tuple[ServerName, int], tuple[int, set[TurnId]]] = {}

    async def look(
        self,
        instant: Instant,
        *,
        also: Collection[SessionId] = (),
        full: bool = False,
        scan_parts: bool = False,
        fresh: bool = False,
    ) -> Observation:
        """Gather an observation.

        Args:
            instant: what the clocks tell of this look.
            also: sessions to read even if nothing is open in them.
            full: read again even if nothing changed, and ask for busy sessions in every known directory.
            scan_parts: search closed turns for open calls, too.
            fresh: reuse no earlier answer about the processes that have the database open.

        Raises:
            DatabaseError: the database can't be read. A server that can't be asked is reported instead.
        """
        async with self._turn:
            await self._fleet.refresh()
            snapshot = await self._read(also, full=full, scan_parts=scan_parts)
            extra = await self._store.directories() if full else ()
            reports = await self._ask(self._fleet.servers(), snapshot, extra[:_MOST_EXTRA_DIRECTORIES])
            snapshot = await self._read_busy(snapshot, reports, also)
            reports, holders = await self._look_for_holders(snapshot, reports, instant.now, fresh=fresh)
            observation = Observation(
                at_ms=instant.at_ms,
                now=instant.now,
                steady_since_ms=instant.steady_since_ms,
                steady_slack_seconds=instant.steady_slack_seconds,
                snapshot=snapshot,
                reports=tuple(reports),
                holders=holders,
                degraded=tuple(trouble for trouble in map(trouble_of, reports) if trouble is not None),
            )
            for server in self._fleet.servers():
                server.forget(snapshot.sessions)
            return self._memory.fold(observation, instant)

    async def _read(self, also: Collection[SessionId], *, full: bool, scan_parts: bool) -> Snapshot:
        known = self._snapshot
        changed = await self._store.changed() or full or scan_parts
        if known is None or changed or not all(id_ in known.sessions for id_ in also):
            known = await self._store.look(also={*also, *self._busy}, full=full, scan_parts=scan_parts)
            self._snapshot, self._strangers = known, self._busy - known.sessions.keys()
        return known

    async def _read_busy(
        self, snapshot: Snapshot, reports: Iterable[ServerReport], also: Collection[SessionId]
    ) -> Snapshot:
        """Read the sessions, too, that a server is at work on while nothing is open in the database."""
        self._busy = {id_ for report in reports for statuses in report.statuses.values() for id_ in statuses}
        if self._busy <= snapshot.sessions.keys() | self._strangers:
            return snapshot
        self._snapshot = await self._store.look(also={*also, *self._busy})
        self._strangers = self._busy - self._snapshot.sessions.keys()
        return self._snapshot

    async def _ask(
        self, servers: Iterable[Server], snapshot: Snapshot, extra: Iterable[str] = ()
    ) -> list[ServerReport]:
        """Ask servers what they are at work on, wherever something is unfinished."""
        directories = {
            directory
            for session in snapshot.sessions.values()
            if session.has_open_rows
            for directory in session.directories
        }
        reports: dict[int, ServerReport] = {}

        async def ask(index: int, server: Server) -> None:
            needed = directories | set(server.busy_directories())
            reports[index] = await report_of(
                server, sorted(needed), extra=sorted(set(extra) - needed), silences=self._silences
            )

        async with anyio.create_task_group() as group:
            for index, server in enumerate(servers):
                group.start_soon(ask, index, server, name=f"ask {server.name}")
        return [reports[index] for index in sorted(reports)]

    # -- proofs ----------------------------------------------------------------------------------------------

    async def _look_for_holders(
        self, snapshot: Snapshot, reports: list[ServerReport], now: Moment, *, fresh: bool
    ) -> tuple[list[ServerReport], Holders | None]:
        """Find out who has the database open, if something is open that no server claims."""
        unclaimed = unclaimed_turns(snapshot, reports)
        if not unclaimed:
            self._holders = None
            return reports, None
        key = frozenset((turn.id, turn.updated_ms, turn.size) for _, turn in unclaimed)
        holders = self._reusable(key, now) if not fresh else None
        if holders is None:
            holders = await self._owners.look()
            if holders.refusal is not None:
                raise OpenElsewhere(holders.refusal)
            self._holders = (now, key, holders)
        known = {server.name for server in self._fleet.servers()}
        await self._fleet.discover(holders)
        found = [server for server in self._fleet.servers() if server.name not in known]
        reports = [*reports, *(await self._ask(found, snapshot))]
        servers = {server.name: server for server in self._fleet.servers()}
        named = [with_pid(report, servers.get(report.name), holders) for report in reports]
        unclaimed = unclaimed_turns(snapshot, named)
        return [
            await self._with_served(report, servers, unclaimed)
            if report.vouches or report.name in self._memory.let_go.values()
            else report
            for report in named
        ], holders

    def _reusable(self, key: frozenset[object], now: Moment) -> Holders | None:
        if self._holders is None:
            return None
        looked_at, seen, holders = self._holders
        return holders if seen == key and now - looked_at < self._reuse_holders_seconds else None

    async def _with_served(
        self, report: ServerReport, servers: dict[ServerName, Server], unclaimed: list[tuple[Session, Turn]]
    ) -> ServerReport:
        """Ask a server whose silence means something for the turns that nobody claims, by their ids."""
        server = servers.get(report.name)
        if server is None or report.problem is not None:
            return report
        served = self._known_as_served(report)
        served &= {turn.id for _, turn in unclaimed}
        try:
            for session, turn in unclaimed:
                if turn.id not in served:
                    if not await server.serves(session.id, turn.id, session.directory):
                        break  # it serves another database: one such answer is enough for this look
                    served.add(turn.id)
        except ServerError as error:
            return replace(report, problem=str(error))
        return replace(report, served=frozenset(served))

    def _known_as_served(self, report: ServerReport) -> set[TurnId]:
        """What this very process returned before. One that can't be told from the next there is asked each time."""
        if report.pid is None or report.born_ms is None:
            return set()
        born, served = self._served.get((report.name, report.pid), (report.born_ms, set[TurnId]()))
        if abs(born - report.born_ms) > SAME_BIRTH_MS:
            served = set()
        self._served[(report.name, report.pid)] = (report.born_ms, served)
        return served


def unclaimed_turns(snapshot: Snapshot, reports: Iterable[ServerReport]) -> list[tuple[Session, Turn]]:
    """The turns with something open that no server claims, or that a newer turn has superseded."""
    reports = list(reports)
    found: list[tuple[Session, Turn]] = []
    for session in snapshot.sessions.values():
        if session.has_open_rows:
            claimed = any(claims(report, session) for report in reports)
            found.extend((session, turn) for turn in session.turns if turn.superseded or not claimed)
    return found


def trouble_of(report: ServerReport) -> str | None:
    """What is wrong with a server, as a sentence: with its answers, or else with its feed."""
    if report.problem is not None or report.witness is None or report.witness.deaf is None:
        return report.problem
    return without_a_feed(report.name, report.witness.deaf)


def without_a_feed(name: ServerName, why: str) -> str:
    """What it costs that nothing is heard from a server."""
    return f"{name} answers, but {why}: text that streams can't be seen, so the idle rule is off for its sessions."


async def report_of(
    server: Server, directories: Collection[str], *, extra: Collection[str] = (), silences: Silences
) -> ServerReport:
    """Ask one server about some directories. What it does not answer is missing in the report, and named.

    Args:
        extra: directories in which nothing is known to be unfinished; no answer about one of them is no problem.
        silences: where it is not asked, and not waited for, since it did not answer in time before.
    """
    asking = _Asking(server=server, directories=frozenset(directories), silences=silences)
    began = silences.now()
    silences.forget(server, but=directories)
    async with anyio.create_task_group() as group:
        for directory in (*directories, *extra):
            group.start_soon(asking.ask, directory)
    vouches = bool(directories) and not asking.problems and await asking.vouched()
    if directories:
        silences.learn(server, began, asking.errors)
    return ServerReport(
        name=server.name,
        vouches=vouches,
        problem=asking.problems[0] if asking.problems else None,
        statuses=asking.statuses,
        asks=asking.asks,
        witness=server.witness(),
        life=dict(server.life()),
    )


@dataclass(kw_only=True)
class _Asking:
    """What one server has said so far, and what came in the way.

    Attributes:
        directories: those whose answers matter.
        problems: what came in the way of these.
        errors: everything that came in the way of an answer.
    """

    server: Server
    directories: Collection[str]
    silences: Silences
    statuses: dict[str, dict[SessionId, Status]] = field(default_factory=dict)
    asks: dict[str, tuple[Ask, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    errors: list[ServerError] = field(default_factory=list)

    async def ask(self, directory: str) -> None:
        """Ask what it is at work on, and which asks wait for a human."""
        if (known := self.silences.problem(self.server, directory)) is not None:
            self.problems.append(known)
            return
        busy, asked, error = await _answers(self.server, directory, self.silences)
        if busy is not None:
            self.statuses[directory] = busy
        if asked is not None:
            self.asks[directory] = asked
        if error is not None:
            self._failed(error, matters=directory in self.directories)
            if directory in self.directories and busy is None and isinstance(error, ServerSilent):
                self.silences.note(self.server, directory, error)

    async def vouched(self) -> bool:
        """Ask whether its silence means something."""
        try:
            with self.silences.patient(self.server):
                return await self.server.vouches()
        except ServerError as error:
            self._failed(error, matters=True)
            return False

    def _failed(self, error: ServerError, *, matters: bool) -> None:
        self.errors.append(error)
        if matters:
            self.problems.append(str(error))


async def _answers(
    server: Server, directory: str, silences: Silences
) -> tuple[dict[SessionId, Status] | None, tuple[Ask, ...] | None, ServerError | None]:
    """What a server says of a directory; its word on asks counts only with the one on statuses."""
    statuses: dict[SessionId, Status] | None = None
    asks: tuple[Ask, ...] | None = None
    errors: list[ServerError] = []

    async def ask_asks() -> None:
        nonlocal asks
        try:
            with silences.patient(server):
                asks = tuple(await server.pending_asks(directory))
        except ServerError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask_asks)
        try:
            with silences.patient(server):
                statuses = dict(await server.statuses(directory))
        except ServerError as error:
            errors.insert(0, error)
            group.cancel_scope.cancel()
    return statuses, asks if statuses is not None else None, errors[0] if errors else None


def with_pid(report: ServerReport, server: Server | None, holders: Holders) -> ServerReport:
    """Name the process behind a server: the one holder that listens where it is, or this one if it is embedded."""
    if report.name == EMBEDDED:
        behind = next((holder for holder in holders.known if holder.embeds_us), None)
    else:
        behind = listener(server.leads_to if server is not None else (), holders.known)
    return report if behind is None else replace(report, pid=behind.pid, born_ms=behind.born_ms)
