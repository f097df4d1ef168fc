"""One look's questions to the servers: only those that are proven to serve this database are heard."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import anyio

from watchdog.errors import OpenElsewhere, ServerError
from watchdog.judging.gradual import Gradual
from watchdog.judging.orphan_proof import claims
from watchdog.model.deputies import Deputy
from watchdog.model.report import EVERYWHERE, Holders, Served, ServerReport
from watchdog.model.session import ServerName, Session, SessionId, Snapshot, Turn, TurnId
from watchdog.observing.questions import Said, ask
from watchdog.observing.serving import Doubt, NotShown, by_nobody, by_process, by_rows, of_rows
from watchdog.observing.slow_servers import Silences
from watchdog.ports import Fleet, Owners, Server, Store
from watchdog.sharing import gathered

Value = TypeVar("Value")
_NOTHING = Said()
_NOWHERE: Mapping[ServerName, Collection[str]] = MappingProxyType({})


class Lookup:
    """Who has the database open, looked up at the first question."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._found: Holders | None = None
        self._key: frozenset[object] | None = None
        self._turn = anyio.Lock(fast_acquire=True)

    async def holders(self, key: frozenset[object] | None = None) -> Holders:
        """Who has it open.

        Args:
            key: the rows for which that matters, as they are: after they changed, it is looked up again.

        Raises:
            OpenElsewhere: it is open under another name, so nobody can tell.
        """
        async with self._turn:
            again = key is not None and self._key is not None and key != self._key
            if self._found is None or again:
                self._found = await self._owners.look()
            if self._found.refusal is not None:
                raise OpenElsewhere(self._found.refusal)
            self._key = key if key is not None else self._key
            return self._found

    def renew(self) -> None:
        """Look it up again at the next question."""
        self._found = None

    def unneeded(self) -> None:
        """No row needs it now: for rows that will, it is looked up again."""
        self._key = frozenset()


@dataclass(kw_only=True, slots=True)
class ShownBefore:
    """What was found out about servers a moment ago, and need not be found out at each look.

    Attributes:
        processes: what each server's process showed; None if it showed nothing.
        rows: the turns that read alike, by server and session, each as it was.
    """

    processes: dict[ServerName, Served | NotShown | None] = field(default_factory=dict)
    rows: dict[tuple[ServerName, SessionId], object] = field(default_factory=dict)


class Hearing:
    """The questions of one look.

    Args:
        lookup: who has the database open.
        before: what was found out a moment ago.
        at_work: where each server said at the last look that it is at work.
        fresh: an act will rest on the answers. Otherwise a deputy's word of a moment ago counts as an answer if it
            leaves no doubt.
    """

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        silences: Silences,
        lookup: Lookup,
        before: ShownBefore,
        at_work: Mapping[ServerName, Collection[str]] = _NOWHERE,
        fresh: bool = True,
    ) -> None:
        self.lookup = lookup
        self.before = before
        self._at_work = at_work
        self._store = store
        self._fleet = fleet
        self._silences = silences
        self._fresh = fresh
        self._discovered = False

    async def reports(
        self, snapshot: Snapshot, *, named: Collection[SessionId], search: bool = False
    ) -> list[ServerReport]:
        """Ask the servers what they are at work on, wherever something is unfinished.

        Args:
            named: sessions to ask about whatever is open in them.
            search: also ask wherever a session was touched since a server's birth. A session that was deleted while
                it runs leaves no other trace, if no event told of it.
        """
        self._named, self._searches = named, search or any(id_ not in snapshot.sessions for id_ in named)
        servers = self._fleet.servers()
        if (self._searches and not servers) or any(
            each.own is None and (self._searches or self._wanted(each, snapshot)) for each in servers
        ):
            await self._discover(await self.lookup.holders())
            servers = self._fleet.servers()
        return await self._ask(servers, snapshot)

    async def found(
        self, snapshot: Snapshot, reports: Iterable[ServerReport], holders: Holders
    ) -> list[ServerReport]:
        """Ask the servers that are found among the processes that have the database open."""
        await self._discover(holders)
        known = {report.name for report in reports}
        return await self._ask([each for each in self._fleet.servers() if each.name not in known], snapshot)

    async def _discover(self, holders: Holders) -> None:
        if not self._discovered:
            self._discovered = True
            await self._fleet.discover(holders)

    def _wanted(self, server: Server, snapshot: Snapshot) -> set[str]:
        """The directories to ask a server about."""
        also = {*server.busy_directories(), *self._at_work.get(server.name, ())}
        sessions = (
            session for session in snapshot.sessions.values() if session.has_open_rows or session.id in self._named
        )
        if not server.by_folder:
            return {EVERYWHERE} if also or self._named or next(sessions, None) is not None else set()
        return also.union(directory for session in sessions for directory in session.directories)

    async def _touched(self, server: Server) -> Collection[str]:
        """Where it may have been at work since its birth: it has loaded these folders, unless another process did."""
        served = None if server.own is not None else await self._by_process(server)
        if not isinstance(served, Served) or served.born_ms is None:
            return ()
        return await self._store.directories(since_ms=served.born_ms)

    async def _ask(self, servers: Sequence[Server], snapshot: Snapshot) -> list[ServerReport]:
        reports: dict[int, ServerReport] = {}
        lately: dict[int, Deputy] = {}

        async def report(index: int) -> None:
            server = servers[index]
            wanted = self._wanted(server, snapshot).union(await self._touched(server) if self._searches else ())
            if wanted and isinstance(server, Deputy) and index not in lately:
                said = await self._said_lately(server)
                if said is not None:
                    lately[index], reports[index] = server, _report(server, server.own, said)
                    return
            reports[index] = await self._report(server, sorted(wanted), snapshot)

        await gathered(*(partial(report, index) for index in range(len(servers))))
        await gathered(*(partial(report, index) for index in self._in_doubt(lately, reports, snapshot)))
        return [reports[index] for index in sorted(reports)]

    async def _said_lately(self, server: Deputy) -> Said | None:
        """What a deputy said unasked; None if it has to be asked."""
        if self._fresh and (not self._named or server.mentions(self._named)):
            return None
        try:
            statuses, asks = await server.lately()
        except ServerError as error:
            if self._fresh or server.led_from_here():
                return None
            return replace(_NOTHING, problems={EVERYWHERE: str(error)})
        return Said(vouches=True, known=True, statuses={EVERYWHERE: statuses}, asks={EVERYWHERE: tuple(asks)})

    def _in_doubt(
        self, lately: Mapping[int, Deputy], reports: Mapping[int, ServerReport], snapshot: Snapshot
    ) -> list[int]:
        """The deputies to ask although their word of a moment ago was taken.

        If nobody is at work on something, all of them have to say so. A deputy that is at work on a session in which
        nothing is open any more may have let go of it.
        """
        claimed = {session_id for report in reports.values() for session_id in report.said}
        if self._fresh:
            unclaimed = any(self._matters(snapshot.sessions.get(id_)) for id_ in self._named if id_ not in claimed)
            return [*lately] if unclaimed else []
        if not any(each.led_from_here() for each in lately.values()):
            return []
        open_ones = {each.id for each in snapshot.sessions.values() if each.has_open_rows}
        return [index for index in lately if open_ones - claimed or reports[index].said.keys() - open_ones]

    def _matters(self, session: Session | None) -> bool:
        """Whether that matters for a session: it does not for one that has ended, below another named one."""
        return session is None or session.has_open_rows or session.parent_id not in self._named

    async def _report(self, server: Server, directories: Collection[str], snapshot: Snapshot) -> ServerReport:
        if not directories:
            self._silences.forget(server, but=())
            return _report(server, None, _NOTHING)
        served = server.own or await self._by_process(server)
        if isinstance(served, Served):
            return _report(server, served, await ask(server, directories, silences=self._silences))
        if isinstance(served, NotShown):
            return _report(server, served, _NOTHING)
        return await self._report_by_rows(server, directories, snapshot)

    async def _by_process(self, server: Server) -> Served | NotShown | None:
        if server.name not in self.before.processes:
            found = by_process(server, await server.listener(), await self.lookup.holders())
            self.before.processes[server.name] = found
        return self.before.processes[server.name]

    # -- where no process is seen ------------------------------------------------------------------------------

    async def _report_by_rows(self, server: Server, directories: Collection[str], snapshot: Snapshot) -> ServerReport:
        """Hear a server whose process can't be seen, if its copies read as the rows do."""
        open_ones = [each for each in snapshot.sessions.values() if each.turns]
        try:
            with self._silences.patient(server):
                await server.vouches()
            found = await self._by_first_question(server, open_ones)
        except ServerError as error:
            return _report(server, None, replace(_NOTHING, problem=str(error)))
        if found is not None:
            said = await ask(server, directories, silences=self._silences) if isinstance(found, Served) else _NOTHING
            return _report(server, found, said)
        served = await self._by_rows(server, open_ones) if open_ones else None
        if isinstance(served, NotShown):
            return _report(server, served, _NOTHING)
        said = await ask(server, directories, silences=self._silences)
        known = served.sessions if served is not None else frozenset()
        more = await self._by_newest(server, _named(said) - known)
        if isinstance(more, NotShown):
            return _report(server, more, _NOTHING)
        both = known | (more.sessions if more is not None else frozenset())
        return _report(server, of_rows(server, both) if both else None, said)

    async def _by_first_question(self, server: Server, sessions: Sequence[Session]) -> Served | NotShown | None:
        """Where nobody has the database open, the server may be one that opens it at the first question about it.

        Raises:
            ServerError: it gives no answer; it may be down, and so on no database.
        """
        if by_nobody(server, await self.lookup.holders()) is None:
            return None
        for session in sessions[:1]:
            await server.copy(session.id, session.turns[0].id, session.directory)
        self.lookup.renew()
        holders = await self.lookup.holders()
        found = by_process(server, await server.listener(), holders)
        if isinstance(found, Served):
            self.before.processes[server.name] = found
        return found or by_nobody(server, holders)

    async def _by_rows(self, server: Server, sessions: Collection[Session]) -> Served | NotShown:
        before = self.before.rows
        prints = {
            session.id: tuple((turn.id, turn.updated_ms, turn.size) for turn in session.turns) for session in sessions
        }
        known = frozenset(id_ for id_, each in prints.items() if before.get((server.name, id_)) == each)
        turns = [
            (session.id, turn.id, session.directory)
            for session in sessions
            for turn in session.turns
            if session.id not in known
        ]
        found = await by_rows(server, self._store, turns) if turns else None
        if isinstance(found, NotShown) and (found.doubt is Doubt.ANOTHER_DATABASE or not known):
            return found
        alike = known | (found.sessions if isinstance(found, Served) else frozenset())
        before.update({(server.name, id_): prints[id_] for id_ in alike})
        return of_rows(server, alike)

    async def _by_newest(self, server: Server, ids: Collection[SessionId]) -> Served | NotShown | None:
        """What the newest turns show about sessions in which nothing is open."""
        turns: list[tuple[SessionId, TurnId, str]] = []
        for id_ in sorted(ids):
            session, newest = await self._store.session(id_), await self._store.newest_turn(id_)
            if session is not None and newest is not None:
                turns.append((id_, newest, session.directory))
        return await by_rows(server, self._store, turns) if turns else None


def _named(said: Said) -> frozenset[SessionId]:
    """The sessions that a server says anything about."""
    busy = {id_ for statuses in said.statuses.values() for id_ in statuses}
    return frozenset(busy | {ask.session_id for asks in said.asks.values() for ask in asks})


def _report(server: Server, served: Served | NotShown | None, said: Said) -> ServerReport:
    """A report, in which the server's words count as far as it is proven to serve this database."""
    if not isinstance(served, Served):
        return ServerReport(
            name=server.name,
            not_shown=served.why if isinstance(served, NotShown) else None,
            # What can't be told now may be told the next time: until then it counts as silent, like a server that is
            # down.
            problem=served.why if isinstance(served, NotShown) and served.doubt is Doubt.UNSURE else said.problem,
            problems=said.problems,
            witness=server.witness(),
        )
    return ServerReport(
        name=server.name,
        pid=served.pid,
        born_ms=served.born_ms,
        served=served,
        vouches=said.vouches,
        known=said.known,
        problem=said.problem,
        problems=said.problems,
        statuses={where: _covered(served, statuses) for where, statuses in said.statuses.items()},
        asks={
            where: tuple(ask for ask in asks if served.covers(ask.session_id)) for where, asks in said.asks.items()
        },
        witness=server.witness(),
        life=_covered(served, server.life()),
    )


def _covered(served: Served, by_session: Mapping[SessionId, Value]) -> dict[SessionId, Value]:
    if served.covers_all:
        return dict(by_session)
    return {id_: value for id_, value in by_session.items() if served.covers(id_)}


def at_work(
    reports: Iterable[ServerReport], before: Mapping[ServerName, Collection[str]]
) -> dict[ServerName, frozenset[str]]:
    """Where servers are at work, as they say, or as they said before if they do not answer.

    A session may be gone from the database while it runs: then nothing else leads to its folder.
    """
    return {
        report.name: frozenset(directory for directory, statuses in report.statuses.items() if statuses).union(
            each for each in before.get(report.name, ()) if report.problem is not None or each in report.problems
        )
        for report in reports
    }


def unclaimed_turns(snapshot: Snapshot, reports: Sequence[ServerReport]) -> Gradual[list[tuple[Session, Turn]]]:
    """The turns with something open that no server claims, or that a newer turn has superseded."""
    found: list[tuple[Session, Turn]] = []
    for session in snapshot.sessions.values():
        yield
        if session.has_open_rows:
            claimed = any(claims(report, session) for report in reports)
            found.extend((session, turn) for turn in session.turns if turn.superseded or not claimed)
    return found
