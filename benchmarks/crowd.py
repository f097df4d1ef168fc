"""What many replicas on one PostgreSQL cost it, and how soon a call that hangs in one of them is ended.

All are tasks of this process. One is a whole watchdog, which acts. The others are all that a replica is beside its
looks: a host, its beats and claims, what it reads of the others, its errands, and a lease to wait for. Their looks
cost what `leader` measures. A loop that they share is the worst case for how soon anything is seen.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.bench import Bench
from benchmarks.cluster import FLAGS, Measured, begun, connected, fill, make_indexes
from benchmarks.figures import Figure, Result
from benchmarks.leader import Sessions, Told
from benchmarks.work import Opened, now_ms
from tests.support.postgres import ADMIN
from tests.support.waiting import wait_until
from watchdog import running
from watchdog.embedding.host_server import EmbeddedServer
from watchdog.model.session import SessionId
from watchdog.postgres.connection import own_engine
from watchdog.postgres.lease import Lease
from watchdog.replicas.replica import Replicas
from watchdog.settings.schema import Settings
from watchdog.timing.clock import Countable, SystemClock

MANY, FEW = 100, 3
SESSIONS = 100
"""How many are at work in all of them together."""
SECONDS = 30.0
"""For how long is counted."""
HUNG = 10
_LIMIT = timedelta(minutes=30)
_AHEAD_MS = 15_000
"""How long before its limit a call is there that is to hang."""
_POOL = 20
SETTINGS = Settings(tool_timeout=_LIMIT)
_PATIENCE_SECONDS = 120.0

_COUNTED = """
    SELECT sum(calls)::bigint AS statements, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal FROM pg_stat_statements
"""
_PRESENT = """
    SELECT count(*) FROM opencode_watchdog.replica WHERE said LIKE '%"saying"%'
"""


class _Roomy(Measured):
    """A cluster with a connection for everybody, that counts statements."""

    flags = FLAGS | {"max_connections": "500", "shared_preload_libraries": "pg_stat_statements"}


class _Host(Sessions):
    """A host that notes when it was told to abort."""

    def __init__(self, pool: asyncpg.Pool, work: Sequence[Opened]) -> None:
        super().__init__(pool, work)
        self.told: dict[SessionId, int] = {}

    def take(self, one: Opened) -> None:
        """Be at work on one more."""
        self._work[SessionId(one.session)] = one

    async def abort(self, session_id: SessionId) -> None:
        """Note when, and close it."""
        self.told.setdefault(session_id, now_ms())
        await super().abort(session_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measure:
    """What so many replicas came to.

    Attributes:
        statements: a second.
        wal_bytes: a second.
        core: how much of one all of them took.
        late: how many milliseconds after its limit each hung call's host was told.
    """

    statements: float
    wal_bytes: float
    core: float
    late: Sequence[float] = field(default_factory=tuple)


async def crowd(bench: Bench) -> Result:
    """Many replicas against a few: what they send to the database, and how soon they end what hangs."""
    path = bench.databases[bench.smallest]
    with _Roomy() as cluster:
        few = await _measured(cluster, path, FEW, bench)
        many = await _measured(cluster, path, MANY, bench)
    name = f"PostgreSQL: {MANY} replicas, {SESSIONS} sessions at work"
    return Result(
        figures=(
            Figure.of(
                f"{name}: statements", [many.statements], "a second", beside=f"{few.statements:,.0f} with {FEW}"
            ),
            Figure.of(
                "… for each replica", [many.statements / MANY], "a second",
                beside=f"{few.statements / FEW:.1f} with {FEW}",
            ),
            Figure.of(
                "… bytes written to the log", [many.wal_bytes / 1000], "kB a second",
                beside=f"{few.wal_bytes / 1000:,.1f} with {FEW}",
            ),
            Figure.of(
                "… of a core, all replicas in one process", [many.core * 100], "%",
                beside=f"{few.core * 100:.0f} % with {FEW}",
            ),
            Figure.of(
                "… a hung call's host is told after its limit, p50", many.late, "ms",
                beside=f"{sorted(few.late)[len(few.late) // 2]:,.0f} ms with {FEW}; {HUNG} calls",
            ),
            Figure.of(
                "… the latest", many.late, "ms", value=max(many.late), beside=f"{max(few.late):,.0f} ms with {FEW}"
            ),
        )
    )  # fmt: skip


async def _measured(cluster: _Roomy, path: Path, count: int, bench: Bench) -> _Measure:
    """Let so many replicas watch, first as they are, then with calls that hang."""
    bench.step(f"{count} replicas")
    name = f"crowd_{count}"
    url, work = await fill(cluster, name, path, SESSIONS)
    async with connected(url) as owner, connected(cluster.url(name, ADMIN)) as admin:
        await make_indexes(owner)
        await admin.execute("ANALYZE")
        await admin.execute("CREATE EXTENSION pg_stat_statements")
        told = Told(wanted=HUNG)
        async with _watching(url, work, count, told) as hosts:

            async def there() -> bool:
                return bool(await admin.fetchval(_PRESENT) == count)

            await wait_until(there, f"{count} replicas", seconds=_PATIENCE_SECONDS)
            await anyio.sleep(SECONDS / 4)  # what comes with a start is over
            bench.step(f"{count} replicas, counted")
            steady = await _steady(admin)
            bench.step(f"{count} replicas, {HUNG} calls hang")
            return _Measure(**steady, late=await _late(admin, hosts, told))


async def _steady(admin: Any) -> Mapping[str, float]:  # noqa: ANN401 - asyncpg brings no types
    """What is sent and written in a while in which nothing happens."""
    await admin.execute("SELECT pg_stat_statements_reset()")
    before, cpu, began = await admin.fetchrow(_COUNTED), time.process_time(), time.perf_counter()
    await anyio.sleep(SECONDS)
    took, core = time.perf_counter() - began, time.process_time() - cpu
    after = await admin.fetchrow(_COUNTED)
    return {
        "statements": int(after["statements"]) / took,
        "wal_bytes": float(after["wal"] - before["wal"]) / took,
        "core": core / took,
    }


async def _late(admin: Any, hosts: Sequence[_Host], told: Told) -> list[float]:  # noqa: ANN401 - as above
    """How late each host was told of a call of its that hangs."""
    at = now_ms() - int(_LIMIT.total_seconds() * 1000) + _AHEAD_MS
    due = at + int(_LIMIT.total_seconds() * 1000)
    hung = await begun(admin, range(SESSIONS, SESSIONS + HUNG), at=at)
    whose = {SessionId(one.session): hosts[-1 - number % len(hosts)] for number, one in enumerate(hung)}
    for one in hung:
        whose[SessionId(one.session)].take(one)
    with anyio.fail_after(_PATIENCE_SECONDS):
        await told.all.wait()
    return [float(max(1, host.told[id_] - due)) for id_, host in whose.items()]


@asynccontextmanager
async def _watching(url: str, work: Sequence[Opened], count: int, told: Told) -> AsyncIterator[Sequence[_Host]]:
    """So many replicas, each with a share of the sessions."""
    async with AsyncExitStack() as stack:
        engine = create_async_engine(url, pool_size=_POOL)
        stack.push_async_callback(engine.dispose)
        pool = await stack.enter_async_context(
            asyncpg.create_pool(url.replace("+asyncpg", ""), min_size=1, max_size=_POOL)
        )
        hosts = [_Host(pool, work[number::count]) for number in range(count)]
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(_whole, hosts[0], engine, told, over)
            await told.acting.wait()
            for number, host in enumerate(hosts[1:], start=1):
                group.start_soon(_light, url, number, host, over)
            try:
                yield hosts
            finally:
                over.set()


async def _whole(host: _Host, engine: AsyncEngine, told: Told, over: anyio.Event) -> None:
    async with running(SETTINGS, host=host, engine=engine, listeners=[told]):
        await over.wait()


async def _light(url: str, number: int, host: _Host, over: anyio.Event) -> None:
    clock, name = SystemClock(), f"light-{number}"
    async with AsyncExitStack() as stack:
        engines = [own_engine(url) for _ in range(3)]
        for engine in engines:
            stack.push_async_callback(engine.dispose)
        lease = Lease(engines[0], clock=clock, name=name)
        stack.push_async_callback(lease.close)
        replicas = Replicas(
            engines[1],
            aside=engines[2],
            own=EmbeddedServer(host, Countable(clock)),
            name=name,
            clock=clock,
            lease=lease,
            limits=SETTINGS.limits(),
        )
        async with anyio.create_task_group() as group:
            group.start_soon(replicas.serve)
            group.start_soon(lease.keep)
            await over.wait()
            group.cancel_scope.cancel()
