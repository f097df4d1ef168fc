"""What one watchdog with the lease on PostgreSQL manages: open sessions in a look, and stuck ones that it ends."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.bench import Bench
from benchmarks.cluster import Measured, connected, fill, make_indexes
from benchmarks.desk import cost
from benchmarks.figures import Figure, Result
from benchmarks.first import Quiet
from benchmarks.guest import guest
from benchmarks.work import Opened, now_ms
from tests.support.postgres import Cluster
from watchdog import running
from watchdog.embedding.embed import Watchdog
from watchdog.model.outcome import Outcome
from watchdog.model.outcome import Result as Ended
from watchdog.model.session import Activity, Ask, SessionId, Status
from watchdog.model.verdict import Verdict
from watchdog.settings.schema import Settings
from watchdog.timing.events import Assessment

MANY, FEW = 10_000, 1_000
ROUNDS = 5
STUCK = 1_000
ABORT_MS = 50
CONCURRENCY = 8
_AGE_MS = 10 * 60 * 1000
_LIMIT = timedelta(minutes=1)
_SELDOM = timedelta(hours=1)
_PATIENCE_SECONDS = 300.0
_CLOSE_CALL = """
    UPDATE part SET time_updated = $2, data = jsonb_set(data, '{state}', jsonb_build_object(
        'status', 'error', 'input', data #> '{state,input}', 'error', 'Tool execution aborted',
        'time', (data #> '{state,time}') || jsonb_build_object('end', $2::bigint)))
    WHERE id = $1
"""
_CLOSE_TURN = """
    UPDATE message SET time_updated = $2,
        data = jsonb_set(data, '{time,completed}', to_jsonb($2::bigint)) || $3::jsonb
    WHERE id = $1
"""
_ABORTED = json.dumps({"error": {"name": "MessageAbortedError", "data": {"message": "Aborted"}}})


class Sessions:
    """A host that is at work on some sessions, and takes its time for an abort.

    Args:
        pool: of the server's own connections.
        work: the sessions.
    """

    def __init__(self, pool: asyncpg.Pool, work: Sequence[Opened]) -> None:
        self._pool = pool
        self._work = {SessionId(each.session): each for each in work}

    async def statuses(self) -> Mapping[SessionId, Status]:
        """See `Host.statuses`."""
        return dict.fromkeys(self._work, Status(activity=Activity.BUSY))

    async def pending_asks(self) -> Sequence[Ask]:
        """See `Host.pending_asks`."""
        return ()

    async def abort(self, session_id: SessionId) -> None:
        """Close in one commit what is open in a session, as opencode's abort does."""
        await anyio.sleep(ABORT_MS / 1000)
        one, at = self._work[session_id], now_ms()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_CLOSE_CALL, one.call, at)
            await connection.execute(_CLOSE_TURN, one.turn, at, _ABORTED)
        del self._work[session_id]


class Told(Quiet):
    """Notes when the first verdict was found, and when the last session was verified; and that it acts.

    Args:
        wanted: how many sessions are to be ended.
    """

    def __init__(self, wanted: int) -> None:
        self.acting, self.all = anyio.Event(), anyio.Event()
        self.began = self.ended_at = 0.0
        self.recovered: set[SessionId] = set()
        self._wanted = wanted

    def looked(self, assessment: Assessment, *, acting: bool) -> None:  # noqa: ARG002 - the interface's
        """Note that it has the lease."""
        if acting:
            self.acting.set()

    def found(self, verdict: Verdict) -> None:  # noqa: ARG002 - as above
        """Note the first one."""
        self.began = self.began or time.perf_counter()

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:  # noqa: ARG002 - as above
        """Note the last one."""
        if outcome.result is Ended.RECOVERED:
            self.recovered.add(verdict.session_id)
            self.ended_at = time.perf_counter()
        if len(self.recovered) == self._wanted:
            self.all.set()


async def leader(bench: Bench) -> Result:
    """Whole looks of a watchdog with the lease; and stuck sessions, from the first verdict to the last proof."""
    path = bench.databases[bench.smallest]
    with Measured() as cluster:
        looks = {count: await _looks(cluster, path, count, bench) for count in (FEW, MANY)}
        taken = await _ended(cluster, path, bench)
        felt = await guest(cluster, path, bench)
    name = "PostgreSQL: one leader, {:,} open sessions, looked at and judged"
    alone, most = STUCK * ABORT_MS / 1000, CONCURRENCY * 1000 / ABORT_MS
    return Result(
        figures=(
            *(
                Figure.of(name.format(count), seconds, "s", beside="all of them read anew, and a host that is asked")
                for count, seconds in looks.items()
            ),
            Figure.of(
                f"PostgreSQL: one leader, {STUCK:,} stuck sessions, all verified", [taken], "s",
                beside=f"one after the other, the aborts alone take {alone:g} s",
            ),
            Figure.of(
                "… sessions ended", [STUCK / taken], "a second",
                beside=f"{CONCURRENCY} aborts at a time, {ABORT_MS} ms each: {most:g} at most",
            ),
            *felt,
        )
    )  # fmt: skip


async def _looks(cluster: Cluster, path: Path, count: int, bench: Bench) -> list[float]:
    """The seconds of looks at so many sessions, each after somebody committed something."""
    bench.step(f"{count:,} sessions")
    url, work = await fill(cluster, f"looks_{count}", path, count)
    told = Told(wanted=-1)
    async with connected(url) as writer, _watching(url, work, told, poll_interval=_SELDOM) as dog:
        with anyio.fail_after(_PATIENCE_SECONDS):
            await told.acting.wait()
        seconds = []
        for number in range(ROUNDS):
            bench.step(f"{count:,} sessions, round {number + 1} of {ROUNDS}")
            await writer.execute("UPDATE part SET time_updated = $2 WHERE id = $1", work[number].text, now_ms())
            assessments: list[Assessment] = []

            async def look(found: list[Assessment] = assessments) -> None:
                found.append(await dog.watch.assess())

            seconds.append((await cost(look)).wall / 1000)
            _check(assessments[0], count)
    return seconds


async def _ended(cluster: Cluster, path: Path, bench: Bench) -> float:
    """The seconds from the first verdict on many stuck sessions until the last one is verified."""
    bench.step(f"{STUCK:,} stuck sessions")
    url, work = await fill(cluster, "stuck", path, STUCK, at=now_ms() - _AGE_MS)
    told = Told(wanted=STUCK)
    async with _watching(url, work, told, tool_timeout=_LIMIT, max_concurrency=CONCURRENCY):
        with anyio.move_on_after(_PATIENCE_SECONDS):
            await told.all.wait()
    if len(told.recovered) < STUCK:
        raise RuntimeError(f"{STUCK - len(told.recovered)} of {STUCK} sessions were never verified")
    return told.ended_at - told.began


@asynccontextmanager
async def _watching(
    url: str,
    work: Sequence[Opened],
    told: Told,
    **settings: Any,  # noqa: ANN401 - whatever the settings take
) -> AsyncIterator[Watchdog]:
    """A watchdog inside a server that is at work on sessions, with the indexes, and the server's own engine."""
    async with connected(url) as owner:
        await make_indexes(owner)
        await owner.execute("ANALYZE")
    engine = create_async_engine(url)
    try:
        async with (
            asyncpg.create_pool(url.replace("+asyncpg", ""), min_size=CONCURRENCY, max_size=CONCURRENCY) as pool,
            running(Settings(**settings), host=Sessions(pool, work), engine=engine, listeners=[told]) as dog,
        ):
            yield dog
    finally:
        await engine.dispose()


def _check(assessment: Assessment, count: int) -> None:
    """A look that saw something else would be measured for nothing.

    Raises:
        RuntimeError: it did.
    """
    observation = assessment.observation
    if len(observation.snapshot.sessions) != count or observation.degraded or assessment.judgement.verdicts:
        raise RuntimeError(f"the look saw {len(observation.snapshot.sessions)} sessions: {observation.degraded}")
