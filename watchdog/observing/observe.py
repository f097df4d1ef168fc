"""Gathers one `Observation` from the database, the servers, their feeds, and the processes."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import anyio

from watchdog.judging.orphan_proof import deleted_at_work
from watchdog.model.moments import NEVER, Moment
from watchdog.model.report import Holders, Observation, ServerReport
from watchdog.model.session import EMBEDDED, ServerName, SessionId, Snapshot
from watchdog.observing.answers import Hearing, Lookup, ShownBefore, at_work, unclaimed_turns
from watchdog.observing.endpoints import listener
from watchdog.observing.slow_servers import Silences
from watchdog.ports import Fleet, Owners, Server, Store
from watchdog.strides import gradually
from watchdog.timing.clock import Instant
from watchdog.timing.sightings import Convert

# How long an answer about holders may be reused while the unclaimed rows have not changed. An act that rests on a
# proof asks again.
HOLDERS_STAY_VALID_SECONDS = 15.0
_MOST_READINGS = 4


class Fold(Protocol):
    """Completes an observation with what only the memory knows, and takes it in."""

    async def __call__(self, observation: Observation, convert: Convert, /) -> Observation:
        """See `Recollection.fold` and `Recollection.complete`."""
        ...


class Observer:
    """Looks at everything once, when it is asked to. One look runs at a time."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        owners: Owners,
        fold: Fold,
        complete: Fold,
        silences: Silences,
        reuse_holders_seconds: float,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._owners = owners
        self._fold = fold
        self._complete = complete
        self._silences = silences
        self._reuse_seconds = min(reuse_holders_seconds, HOLDERS_STAY_VALID_SECONDS)
        self._turn = anyio.Lock(fast_acquire=True)
        self._snapshot: Snapshot | None = None
        self._busy: set[SessionId] = set()  # what servers were at work on at their last answers
        self._strangers: set[SessionId] = set()  # those that were not in this database at its last read
        self._at_work: dict[ServerName, frozenset[str]] = {}
        self._lookup, self._shown, self._found_at = Lookup(owners), ShownBefore(), NEVER

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
            instant: what the clocks show at this look.
            also: sessions to read even if nothing is open in them.
            full: read again even if nothing changed.
            scan_parts: search closed turns for open calls, too.
            fresh: reuse no earlier answer about the processes that have the database open, nor about who serves it;
                ask about the sessions in `also`, whatever is open in them.

        Raises:
            DatabaseError: the database can't be read. A server that can't be asked is reported instead.
        """
        async with self._turn:
            await self._fleet.refresh()
            first = self._snapshot is None
            snapshot = await self._read(also, full=full, scan_parts=scan_parts)
            hearing = self._hearing(instant.now, fresh=fresh)
            reports = await hearing.reports(snapshot, named=also if fresh else (), search=first)
            snapshot = await self._read_busy(snapshot, reports, also)
            reports, holders = await self._look_for_holders(snapshot, reports, hearing)
            self._at_work = at_work(reports, self._at_work)
            for server in self._fleet.servers():
                server.forget({*snapshot.sessions, *self._busy})  # what was deleted while it ran lives on, too
            return await self._fold(_observation(instant, snapshot, reports, holders), instant)

    @property
    def hears_hosts_alone(self) -> bool:
        """Whether every server is a host that needs no proof that it serves this database.

        Of another one, each session that can be compared may show that it serves another database.
        """
        servers = self._fleet.servers()
        return bool(servers) and all(server.own is not None for server in servers)

    async def look_at(self, instant: Instant, session_ids: Collection[SessionId]) -> Observation:
        """Gather an observation of some sessions and of all that is above and below them, and of nothing else.

        It reuses no earlier answer, and nobody remembers it: it tells nothing of what it leaves out.

        Raises:
            DatabaseError: the database can't be read. A host that can't be asked is reported instead.
        """
        async with self._turn:
            await self._fleet.refresh()
            hearing = self._hearing(instant.now, fresh=True)
            snapshot, heard = await self._heard_of(session_ids, hearing)
            reports, holders = await self._look_for_holders(snapshot, heard, hearing)
            return await self._complete(_observation(instant, snapshot, reports, holders), instant)

    async def _heard_of(
        self, session_ids: Collection[SessionId], hearing: Hearing
    ) -> tuple[Snapshot, list[ServerReport]]:
        """The family of some sessions, and what is said of it; read again if it grew while the hosts were asked."""
        named, readings = {*session_ids}, 0
        while True:
            snapshot = await self._store.family(named)
            named |= _below(snapshot, named)
            heard = await hearing.reports(snapshot, named=named)
            family, readings = {*snapshot.sessions, *named}, readings + 1
            born = await self._store.below(family) - family
            if not born or readings == _MOST_READINGS:
                return snapshot, [report.about(family) for report in heard]
            named |= born

    def _hearing(self, now: Moment, *, fresh: bool) -> Hearing:
        """The questions of a look. Who has the database open and who serves it may be known from a moment ago."""
        if fresh or now - self._found_at >= self._reuse_seconds:
            self._lookup, self._shown, self._found_at = Lookup(self._owners), ShownBefore(), now
        return Hearing(
            store=self._store,
            fleet=self._fleet,
            silences=self._silences,
            lookup=self._lookup,
            before=self._shown,
            at_work=self._at_work,
            fresh=fresh,
        )

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
        """Also read the sessions that a server is at work on while nothing is open in the database."""
        self._busy = {id_ for report in reports for statuses in report.statuses.values() for id_ in statuses}
        if self._busy <= snapshot.sessions.keys() | self._strangers:
            return snapshot
        self._snapshot = await self._store.look(also={*also, *self._busy})
        self._strangers = self._busy - self._snapshot.sessions.keys()
        return self._snapshot

    async def _look_for_holders(
        self, snapshot: Snapshot, reports: list[ServerReport], hearing: Hearing
    ) -> tuple[list[ServerReport], Holders | None]:
        """Find out who has the database open, if something is open that no server claims."""
        unclaimed = await gradually(unclaimed_turns(snapshot, reports))
        if not unclaimed:
            hearing.lookup.unneeded()
            return reports, None
        key = frozenset((turn.id, turn.updated_ms, turn.size) for _, turn in unclaimed)
        holders = await hearing.lookup.holders(key)
        reports = [*reports, *(await hearing.found(snapshot, reports, holders))]
        servers = {server.name: server for server in self._fleet.servers()}
        return [with_pid(report, servers.get(report.name), holders) for report in reports], holders


def _below(snapshot: Snapshot, session_ids: Collection[SessionId]) -> set[SessionId]:
    """The sessions of a snapshot that are below some others, which may be gone."""
    children = defaultdict[SessionId | None, set[SessionId]](set)
    for session in snapshot.sessions.values():
        children[session.parent_id].add(session.id)
    found, todo = set[SessionId](), [*session_ids]
    while todo:
        new = children[todo.pop()] - found
        found |= new
        todo += new
    return found


def _observation(
    instant: Instant, snapshot: Snapshot, reports: Sequence[ServerReport], holders: Holders | None
) -> Observation:
    """What was gathered, without what only the memory knows."""
    return Observation(
        at_ms=instant.at_ms,
        now=instant.now,
        steady_since_ms=instant.steady_since_ms,
        steady_slack_seconds=instant.steady_slack_seconds,
        snapshot=snapshot,
        reports=tuple(reports),
        holders=holders,
        degraded=(
            *(trouble for trouble in map(trouble_of, reports) if trouble is not None),
            *gone(reports, snapshot),
            *not_watched(snapshot),
        ),
    )


def gone(reports: Iterable[ServerReport], snapshot: Snapshot) -> list[str]:
    """The sessions that a server is at work on and that are in no table: a sentence each."""
    return [
        f"{report.name} is at work on session {id_}, which is not in this database any more: it was deleted while it "
        "ran, and runs on."
        for report, id_ in deleted_at_work(reports, snapshot)
    ]


def not_watched(snapshot: Snapshot) -> list[str]:
    """That sessions of opencode 2.x are at work in the same database, if some are."""
    count = snapshot.second_generation
    if not count:
        return []
    which = "1 session of opencode 2.x is" if count == 1 else f"{count} sessions of opencode 2.x are"
    return [
        f"{which} at work in this database, too. This version watches those of 1.x alone, and never touches these."
    ]


def trouble_of(report: ServerReport) -> str | None:
    """What is wrong with a server, as a sentence: with its answers, or else with its feed."""
    if report.trouble is None and report.not_shown is not None:
        return f"{report.not_shown} What it says does not count here, and nothing is sent to it."
    if report.trouble is not None or report.witness is None or report.witness.deaf is None:
        return report.trouble
    return without_a_feed(report.name, report.witness.deaf)


def without_a_feed(name: ServerName, why: str) -> str:
    """What the silence of a server's feed costs."""
    return f"{name} answers, but {why}: text that streams can't be seen, so the idle rule is off for its sessions."


def with_pid(report: ServerReport, server: Server | None, holders: Holders) -> ServerReport:
    """Name the process of a host that needs no address: this one, if it is embedded."""
    if report.pid is not None or server is None or server.own is None:
        return report
    if report.name == EMBEDDED:
        behind = next((holder for holder in holders.known if holder.embeds_us), None)
    else:
        behind = listener(server.leads_to, holders.known)
    return report if behind is None else replace(report, pid=behind.pid, born_ms=behind.born_ms)
