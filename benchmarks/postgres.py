"""What a look at sessions in PostgreSQL costs: with the two indexes over what is open, and without; beside a scan."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.bench import REFERENCE, Bench, sized
from benchmarks.cluster import Measured, connected, drop_indexes, fill, make_indexes, settle
from benchmarks.desk import cost
from benchmarks.figures import Figure, Result, at_least, at_most, ratios, under
from benchmarks.work import Opened
from tests.support.postgres import ADMIN, Cluster
from watchdog.opencode.db.rows import Record
from watchdog.opencode.db.snapshot import Known, Look
from watchdog.postgres import queries
from watchdog.postgres.connection import own_engine
from watchdog.postgres.store import Limits, PostgresStore
from watchdog.timing.clock import SystemClock

SESSIONS = 20
"""How many sessions are at work."""
ROUNDS = 7
TICKS = 50
"""Ticks in a row that one sample of an idle tick is taken over."""
LOOKS = 20
"""Looks in one round, each of which is timed alone."""
SCANS = 3
"""Batches in which something reads everything that is stored."""
WRITE_SECONDS = 3.0
_WARM = 20
_UNHURRIED = Limits(read_seconds=600.0)
_ALL = Known(turns=(), turns_after=0, whole=(), calls=(), calls_after=0)
_MORE_BUFFERS = 5
"""How many blocks a look may touch more or less at another size."""
_SCAN = f"SELECT part.id FROM part WHERE {queries.open_part('jsonb')}"  # noqa: S608 - constants
_WITHOUT_INDEXES = ("enable_indexscan", "enable_bitmapscan", "enable_indexonlyscan")
_WRITE = "UPDATE part SET data = $2, time_updated = $3 WHERE id = $1"
_HOT = "SELECT n_tup_upd AS all, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relname = 'part'"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What PostgreSQL did for one statement of a look.

    Attributes:
        statement: as it was sent.
        buffers: how many blocks of 8 KB were touched, in the cache or not.
        scans: the tables that were read as a whole.
    """

    statement: str
    buffers: int
    scans: tuple[str, ...]


@dataclass(kw_only=True)
class _Subject:
    """One database with a store on it, and what was taken of it so far, in milliseconds."""

    work: Sequence[Opened]
    engine: AsyncEngine
    store: PostgresStore
    admin: Any
    ticks: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    scans: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    plans: Sequence[Plan] = ()

    async def round(self) -> None:
        """Take what a tick and a look cost."""
        self.ticks.append((await cost(self.store.changed, TICKS)).wall)
        looks = [(await cost(self.store.look)).wall for _ in range(LOOKS)]
        self.looks += looks
        self.medians.append(median(looks))

    async def scan(self) -> None:
        """Take what it costs to read every part."""
        async with self.admin.transaction():
            for name in _WITHOUT_INDEXES:
                await self.admin.execute(f"SET LOCAL {name} = off")
            taken = await cost(partial(self._scan_parts))
        self.scans.append(taken.wall)

    async def _scan_parts(self) -> None:
        found = [row["id"] for row in await self.admin.fetch(_SCAN)]
        if sorted(found) != sorted(each.call for each in self.work):
            raise RuntimeError(f"the scan found {len(found)} open calls instead of {len(self.work)}")


async def postgres(bench: Bench) -> Result:
    """Looks at each size in turns, with the indexes and then without; then a writer, with and without them."""
    with Measured() as cluster:
        async with AsyncExitStack() as stack:
            subjects = {
                parts: await _subject(stack, cluster, parts, path, bench) for parts, path in bench.databases.items()
            }
            for number in range(ROUNDS):
                for parts, subject in subjects.items():
                    bench.step(f"round {number + 1} of {ROUNDS}, {parts:,} parts")
                    await subject.round()
                    if number < SCANS:
                        await subject.scan()
            for parts, subject in subjects.items():
                bench.step(f"without the indexes, {parts:,} parts")
                subject.plans = await explained(subject.engine)
                await drop_indexes(subject.admin)
                subject.bare = [(await cost(subject.store.look)).wall for _ in range(SCANS)]
            top = subjects[bench.reference]
            without, with_, (hot, hot_with) = await _writers(top, bench)
            server = (await top.store.describe()).server
    figures = (
        *_looks(subjects, bench.reference, server),
        Figure.of(
            "… updates of a part a second, with the indexes over without", ratios(with_, without), "x",
            beside=f"{median(without):,.0f} a second without; HOT {100 * hot:.0f} %, with {100 * hot_with:.0f} %",
        ),
    )  # fmt: skip
    lines = {
        "scan of part": {parts: median(each.scans) for parts, each in subjects.items()},
        "a look without the indexes": {parts: median(each.bare) for parts, each in subjects.items()},
        "a look": {parts: median(each.looks) for parts, each in subjects.items()},
        "a tick when nothing changed": {parts: median(each.ticks) for parts, each in subjects.items()},
    }
    return Result(figures=figures, on_clock=lines)


def _looks(subjects: Mapping[int, _Subject], reference: int, server: str) -> list[Figure]:
    small, large, top = subjects[min(subjects)], subjects[max(subjects)], subjects[reference]
    at_small, at_large = min(subjects), max(subjects)
    look = f"PostgreSQL: a look, {SESSIONS} sessions at work"
    buffers = {parts: sum(plan.buffers for plan in each.plans) for parts, each in subjects.items()}
    whole = sorted({table for plan in top.plans for table in plan.scans})
    figures = [
        Figure.of(
            sized("PostgreSQL: a tick when nothing changed", reference), top.ticks, "ms",
            beside=f"one statement; PostgreSQL {server}",
        ),
        Figure.of(sized(look, reference), top.looks, "ms", beside=f"without the indexes {median(top.bare):,.0f} ms"),
        Figure.of(
            "… blocks of 8 KB that it touches", [float(buffers[reference])], "blocks",
            beside=f"tables read as a whole: {', '.join(whole) or 'none'}",
        ),
        Figure.of(
            "a scan of part costs so many times a tick", ratios(top.scans, top.medians[: len(top.scans)]), "x",
            target=at_least(100), beside=f"{median(top.scans):,.0f} ms, in turns",
        ),
    ]  # fmt: skip
    if small is not large:
        difference = abs(buffers[at_large] - buffers[at_small])
        figures.append(
            Figure.of(
                f"… {at_large:,} over {at_small:,} parts", ratios(large.looks, small.looks), "x", target=under(1.2),
                value=median(large.looks) / median(small.looks),
                beside=f"{median(small.looks):.2f} ms at {at_small:,}",
            )
        )  # fmt: skip
        figures.append(
            Figure.of(
                "… blocks of 8 KB that it touches, the difference", [float(difference)], "blocks",
                target=at_most(_MORE_BUFFERS),
                beside=", ".join(f"{count:,} at {parts:,}" for parts, count in buffers.items()),
            )
        )  # fmt: skip
    return figures


async def explained(engine: AsyncEngine) -> list[Plan]:
    """Take a look of which PostgreSQL explains each statement."""
    plans: list[Plan] = []
    async with engine.connect() as connection:

        async def fetch(query: str, parameters: Mapping[str, object]) -> Sequence[Record]:
            plan = await connection.execute(
                text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"), dict(parameters)
            )
            plans.append(_plan(query, plan.scalar_one()))
            found = await connection.execute(text(query), dict(parameters))
            return [dict(record) for record in found.mappings()]

        await connection.execute(text(queries.READ))
        await Look(fetch=fetch, ask=queries.dialect("jsonb").look).everything(_ALL, ())
    return plans


def _plan(query: str, document: Any) -> Plan:  # noqa: ANN401 - a document of PostgreSQL's
    whole = (json.loads(document) if isinstance(document, str) else document)[0]["Plan"]
    nodes, scans = [whole], []
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", ())
        if node["Node Type"] == "Seq Scan":
            scans.append(node["Relation Name"])
    buffers = whole["Shared Hit Blocks"] + whole["Shared Read Blocks"]
    return Plan(statement=query, buffers=buffers, scans=tuple(scans))


async def _subject(stack: AsyncExitStack, cluster: Cluster, parts: int, path: Path, bench: Bench) -> _Subject:
    """Fill a database, and open a store on it that is warm."""
    name = f"parts_{parts}"
    copies = max(1, parts // REFERENCE)
    url, work = await fill(cluster, name, path, SESSIONS, copies=copies, step=bench.step)
    engine = own_engine(url, statement_seconds=_UNHURRIED.read_seconds)
    stack.push_async_callback(engine.dispose)
    admin = await stack.enter_async_context(connected(cluster.url(name, ADMIN)))
    bench.step(f"the two indexes, {parts:,} parts")
    await make_indexes(admin)
    store = await PostgresStore.open(engine, clock=SystemClock(), limits=_UNHURRIED)
    for _ in range(_WARM):
        await store.look()
    found = (await store.look()).sessions
    if sorted(found) != sorted(each.session for each in work):
        raise RuntimeError(f"the look found {len(found)} sessions instead of {len(work)}")
    return _Subject(work=work, engine=engine, store=store, admin=admin)


async def _writers(subject: _Subject, bench: Bench) -> tuple[list[float], list[float], tuple[float, float]]:
    """A writer in turns without and with the indexes, which are not there at the beginning.

    Returns:
        Updates a second without and with them, and the share of both that needed no new index entries (HOT).
    """
    taken: tuple[list[float], list[float]] = ([], [])
    shares: tuple[list[float], list[float]] = ([], [])
    for number in range(SCANS):
        for indexed in (False, True):
            bench.step(f"writer, round {number + 1} of {SCANS}")
            if indexed:
                await make_indexes(subject.admin)
            await settle(subject.admin)
            rate, share = await _updates(subject)
            taken[indexed].append(rate)
            shares[indexed].append(share)
        await drop_indexes(subject.admin)
    return *taken, (median(shares[0]), median(shares[1]))


async def _updates(subject: _Subject) -> tuple[float, float]:
    """Texts that stream, each update a commit that does not wait for the disk: nothing hides what it costs."""
    before = await subject.admin.fetchrow(_HOT)
    url = subject.engine.url.render_as_string(hide_password=False)
    async with connected(url) as writer:
        await writer.execute("SET synchronous_commit = off")
        update = await writer.prepare(_WRITE)
        done, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < WRITE_SECONDS:
            data = json.dumps({"type": "text", "text": f"{done} " + "A line of text. " * 40})
            await update.fetch(subject.work[done % len(subject.work)].text, data, time.time_ns() // 1_000_000)
            done += 1
        await writer.execute("SELECT pg_stat_force_next_flush()")
    await subject.admin.execute("SELECT pg_stat_clear_snapshot()")
    after = await subject.admin.fetchrow(_HOT)
    return done / taken, (after["hot"] - before["hot"]) / max(1, after["all"] - before["all"])
