"""What the watchdog takes from opencode: how many commits a writer loses while it watches."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles

from benchmarks.bench import Bench, sized
from benchmarks.figures import Figure, Result, ratios, under
from benchmarks.processes import Running, Stalled, claim, line_of, run, server, started
from benchmarks.ticks import AT_WORK
from benchmarks.work import DIRECTORY, opened
from tests.support.database import OpencodeFile

ROUNDS = 12
SECONDS = 4
_TRIES = 5


async def load(bench: Bench) -> Result:
    """A writer that commits as fast as it can, in turns beside a `run` at `poll_interval = 1s` and a stopped one."""
    path = bench.databases[bench.reference]
    alone: list[float] = []
    watched: list[float] = []
    async with AsyncExitStack() as stack:
        file, work = stack.enter_context(opened(path, AT_WORK))
        url = stack.enter_context(server(path, bench.folder))
        await asyncio.to_thread(claim, url, {DIRECTORY: [each.session for each in work]})
        bench.step("the search through all parts, which a start begins with")
        running = await stack.enter_async_context(run(path, bench.folder, servers=[url], poll_interval=1))
        await running.settled()
        await _commits(file, bench.folder)  # the first round grows the log to its usual size
        for number in range(ROUNDS):
            bench.step(f"round {number + 1} of {ROUNDS}")
            # Which one comes first changes, so that a drift of the machine cancels out.
            for watches in (False, True) if number % 2 else (True, False):
                if watches:
                    await running.looked(len(running.events("watch.looked")) + 1)
                    watched.append(await _commits(file, bench.folder))
                else:
                    alone.append(await _alone(file, bench.folder, running))
    lost = [100 * (1 - ratio) for ratio in ratios(watched, alone)]
    lower, _, upper = quantiles(alone, n=4)
    return Result(
        figures=(
            Figure.of(
                sized("commits that a writer loses", bench.reference), lost, "%", target=under(2),
                beside=f"{median(alone):,.0f} commits a second alone, in turns",
            ),
            Figure.of(
                "… spread of the writer alone", [100 * (upper - lower) / median(alone)], "%",
                beside="between the quartiles, over the median",
            ),
        )
    )  # fmt: skip


async def _alone(file: OpencodeFile, folder: Path, running: Running) -> float:
    """The same while the watchdog is stopped; not in the middle of a read, which would hold the log open."""
    for _ in range(_TRIES):
        with running.stopped():
            if _checkpointed(file):
                return await _commits(file, folder)
        await running.looked(len(running.events("watch.looked")) + 1)
    raise Stalled(f"the watchdog was in the middle of a read {_TRIES} times in a row")


def _checkpointed(file: OpencodeFile) -> bool:
    """Empty the log, so that each round begins alike. Returns whether nobody was reading from it."""
    busy, _, _ = file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


async def _commits(file: OpencodeFile, folder: Path) -> float:
    """How many commits a second a writer in a process of its own makes."""
    _checkpointed(file)
    with started(["-m", "benchmarks.writer", str(file.path), str(SECONDS), str(AT_WORK)], folder) as process:
        return float(await asyncio.to_thread(line_of, process))
