"""What the program itself costs while nothing happens: the processor time of a real `run` over a minute."""

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

import anyio

from benchmarks.bench import Bench, sized
from benchmarks.figures import Figure, Result, under
from benchmarks.processes import claim, run, server
from benchmarks.ticks import AT_WORK
from benchmarks.work import DIRECTORY, opened

SECONDS = 60


async def cpu(bench: Bench) -> Result:
    """`run` at `poll_interval = 1s`, with a server and its heartbeats: with nothing open, and with some work open."""
    path = bench.databases[bench.reference]
    figures = []
    for at_work, target in ((0, under(0.3)), (AT_WORK, None)):
        what = f"{at_work} sessions at work" if at_work else "nothing open"
        bench.step(f"a minute with {what}")
        percent, looks = await _percent(path, bench.folder, at_work)
        name = sized(f"idle, {what}", bench.reference)
        figures.append(
            Figure.of(name, [percent], "% of a core", target=target, beside=f"{looks} looks in {SECONDS} s")
        )
    return Result(figures=tuple(figures))


async def _percent(path: Path, folder: Path, at_work: int) -> tuple[float, int]:
    """How much of a core it takes, its child processes included; and how often it looked meanwhile."""
    with ExitStack() as stack:
        _, work = stack.enter_context(opened(path, at_work))
        url = stack.enter_context(server(path, folder))
        await asyncio.to_thread(claim, url, {DIRECTORY: [each.session for each in work]})
        async with run(path, folder, servers=[url], poll_interval=1) as running:
            await running.settled()
            looks, used, began = len(running.events("watch.looked")), running.cpu_seconds(), time.monotonic()
            await anyio.sleep(SECONDS)
            used, taken = running.cpu_seconds() - used, time.monotonic() - began
            return 100 * used / taken, len(running.events("watch.looked")) - looks
