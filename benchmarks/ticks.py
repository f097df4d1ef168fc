"""What a tick costs, beside the scans that it replaces: when nothing changed, and after one part changed."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from statistics import median

from benchmarks import scans
from benchmarks.bench import Bench, sized
from benchmarks.desk import Cost, cost, watching
from benchmarks.figures import Figure, Result, at_least, ratios, under
from benchmarks.processes import claim, server
from benchmarks.work import DIRECTORY, Changes, Opened, opened
from watchdog.loop.watch import Watch

AT_WORK = 5
"""How many sessions are at work."""
ROUNDS = 7
TICKS = 200
"""Ticks in a row that one sample of an idle tick is taken over."""
CHANGES = 20
"""Changes in one round, each followed by a tick that is timed alone."""
_WARM = 20


@dataclass(kw_only=True)
class _Subject:
    """One database with a watch on it, and what was taken of it so far."""

    watch: Watch
    changes: Changes
    reader: Connection
    ticks: list[Cost] = field(default_factory=list)
    part: list[Cost] = field(default_factory=list)
    session: list[Cost] = field(default_factory=list)

    async def scan(self) -> None:
        """Take what the scans cost that look for open calls, once."""
        self.part.append(await cost(partial(scans.scan_parts, self.reader)))
        self.session.append(await cost(partial(scans.scan_sessions, self.reader)))


async def idle(bench: Bench) -> Result:
    """A tick when nothing changed, on every size, in turns with the scans."""
    async with AsyncExitStack() as stack:
        subjects = {parts: await _subject(stack, path, bench.folder) for parts, path in bench.databases.items()}
        for number in range(ROUNDS):
            for parts, subject in subjects.items():
                bench.step(f"round {number + 1} of {ROUNDS}, {parts:,} parts")
                subject.ticks.append(await cost(subject.watch.assess, TICKS))
                await subject.scan()
    cpu = {parts: _cpu(subject.ticks) for parts, subject in subjects.items()}
    top = subjects[bench.reference]
    name = "a tick when nothing changed"
    figures = [
        Figure.of(
            sized(name, bench.reference), cpu[bench.reference], "ms CPU", target=under(0.5),
            beside=f"scan of part {median(_cpu(top.part)):,.1f} ms, by session {median(_cpu(top.session)):,.1f} ms",
        ),
        Figure.of(
            "a scan of part costs so many times a tick", ratios(_cpu(top.part), cpu[bench.reference]), "x",
            target=at_least(2_000), beside="a cron script's JSON scan, in turns",
        ),
        *_growth(cpu),
    ]  # fmt: skip
    lines = {
        "scan of part (a cron script)": {parts: median(_cpu(each.part)) for parts, each in subjects.items()},
        "scan by session (in the server)": {parts: median(_cpu(each.session)) for parts, each in subjects.items()},
        name: {parts: median(samples) for parts, samples in cpu.items()},
    }
    return Result(figures=tuple(figures), lines=lines)


async def changed(bench: Bench) -> Result:
    """A tick after another connection committed one part, on every size, in turns."""
    async with AsyncExitStack() as stack:
        subjects = {parts: await _subject(stack, path, bench.folder) for parts, path in bench.databases.items()}
        for number in range(ROUNDS):
            for parts, subject in subjects.items():
                bench.step(f"round {number + 1} of {ROUNDS}, {parts:,} parts")
                for _ in range(CHANGES):
                    subject.changes.commit()
                    subject.ticks.append(await cost(subject.watch.assess))
    cpu = {parts: _cpu(subject.ticks) for parts, subject in subjects.items()}
    name = "a tick after one part changed"
    figures = [
        Figure.of(
            sized(name, bench.reference), [each.wall for each in subjects[bench.reference].ticks], "ms",
            target=under(3), beside=f"{median(cpu[bench.reference]):.2f} ms of it CPU",
        ),
        *_growth(cpu),
    ]  # fmt: skip
    return Result(figures=tuple(figures), lines={name: {parts: median(samples) for parts, samples in cpu.items()}})


async def served(bench: Bench) -> Result:
    """A tick when nothing changed while a server is at work, and is asked what on: three requests over loopback."""
    path = bench.databases[bench.reference]
    async with AsyncExitStack() as stack:
        _, work = stack.enter_context(opened(path, AT_WORK))
        url = stack.enter_context(server(path, bench.folder))
        await asyncio.to_thread(claim, url, {DIRECTORY: [each.session for each in work]})
        watch = await stack.enter_async_context(watching(path, bench.folder, servers=[url]))
        await cost(watch.assess, _WARM)
        bench.step(f"{ROUNDS} rounds, {bench.reference:,} parts")
        samples = [await cost(watch.assess, TICKS) for _ in range(ROUNDS)]
    name = "a tick when nothing changed, with a server that is at work"
    return Result(figures=(Figure.of(name, _cpu(samples), "ms CPU", beside="its answers, over HTTP"),))


async def _subject(stack: AsyncExitStack, path: Path, folder: Path) -> _Subject:
    """Open a watch without servers on a database, with work in it, and let it get warm."""
    file, work = stack.enter_context(opened(path, AT_WORK))
    reader = stack.enter_context(closing(scans.connect(path)))
    watch = await stack.enter_async_context(watching(path, folder))
    subject = _Subject(watch=watch, changes=Changes(file, work), reader=reader)
    _check(await scans.scan_parts(reader), work)
    for _ in range(_WARM):
        subject.changes.commit()
        await watch.assess()
    return subject


def _check(found: Sequence[str], work: Sequence[Opened]) -> None:
    """A scan that does not find what is open would be compared with for nothing.

    Raises:
        RuntimeError: it found something else.
    """
    if sorted(found) != sorted(each.call for each in work):
        raise RuntimeError(f"the scan found {len(found)} open calls instead of {len(work)}")


def _growth(cpu: Mapping[int, Sequence[float]]) -> list[Figure]:
    """How much more it costs on the largest database than on the smallest; nothing if there is one only."""
    small, large = min(cpu), max(cpu)
    if small == large:
        return []
    return [
        Figure.of(
            f"… {large:,} over {small:,} parts", ratios(cpu[large], cpu[small]), "x", target=under(1.2),
            value=median(cpu[large]) / median(cpu[small]), beside=f"{median(cpu[small]):.3f} ms CPU at {small:,}",
        )
    ]  # fmt: skip


def _cpu(costs: Sequence[Cost]) -> list[float]:
    return [each.cpu for each in costs]
