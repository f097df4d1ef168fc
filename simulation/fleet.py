"""What a watchdog's process finds of others: the servers that can be asked, and who has the database open."""

from collections.abc import Callable, Sequence

import anyio
import anyio.abc

from simulation.ports import Line, LineServer, endpoint
from watchdog.errors import ServerError
from watchdog.model.report import Holder, Holders


class LineFleet:
    """The configured servers, and those that are discovered among the holders."""

    def __init__(self, line: Line, wake: Callable[[], None]) -> None:
        self._line = line
        self._wake = wake
        plans = line.world.script.setting.plans
        ports = dict.fromkeys(plan.port for plan in plans if plan.port is not None and plan.configured)
        self._configured = [LineServer(line, port, wake) for port in ports]
        self._found: dict[int, tuple[int, LineServer]] = {}
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._group: anyio.abc.TaskGroup | None = None

    def start(self, group: anyio.abc.TaskGroup) -> None:
        """Listen to every feed."""
        self._group = group
        for server in self._configured:
            group.start_soon(server.feed.run)

    def servers(self) -> Sequence[LineServer]:
        """See `Fleet.servers`."""
        return (*self._configured, *(server for _, server in self._found.values()))

    async def refresh(self) -> None:
        """See `Fleet.refresh`."""
        for port, (pid, _) in [*self._found.items()]:
            process = self._line.world.listening(port)
            if process is None or process.pid != pid:
                self._forget(port)

    async def discover(self, holders: Holders) -> None:
        """See `Fleet.discover`."""
        known = {each.port for each in self.servers()}
        for holder in holders.known:
            for each in holder.endpoints:
                if each.port not in known:
                    await self._visit(holder.pid, each.port)

    async def _visit(self, pid: int, port: int) -> None:
        server = LineServer(self._line, port, self._wake)
        try:
            await server.vouches()
        except ServerError:
            return
        self._found[port] = (pid, server)
        scope = self._scopes[port] = anyio.CancelScope()
        if self._group is not None:
            self._group.start_soon(_follow, server, scope)

    def _forget(self, port: int) -> None:
        del self._found[port]
        self._scopes.pop(port).cancel()


async def _follow(server: LineServer, scope: anyio.CancelScope) -> None:
    with scope:
        await server.feed.run()


class LineOwners:
    """Who has the database open."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def look(self) -> Holders:
        """See `Owners.look`."""
        return await self._line.ask(self._look)

    def _look(self) -> Holders:
        world = self._line.world
        known = tuple(
            Holder(
                pid=process.pid,
                born_ms=world.machine.born_ms(process.born_running),
                command=process.command,
                endpoints=() if process.plan.port is None else (endpoint(process.plan.port),),
            )
            for process in world.processes
            if process.holds
        )
        left = [process.pid for process in world.processes if process.elsewhere and not process.plan.copy]
        why = f"Process {left[0]} still has the removed file open." if left else None
        return Holders(known=known, refusal=why)
