"""What the watchdog takes from opencode: how many commits a writer loses while it watches."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles

from benchmarks.bench import Bench, sized
from benchmarks.figures import Figure, Result, ratios, under
from benchmarks.processes import claim, line_of, run, server, started
from benchmarks.ticks import AT_WORK
from benchmarks.work import DIRECTORY, opened

ROUNDS = 12
SECONDS = 4
LOOKS = 3
"""How many looks the watchdog has behind it when the writer starts."""


async def load(bench: Bench) -> Result:
    """A writer that commits as fast as it can, in turns with and without a `run` at `poll_interval = 1s`."""
    path = bench.databases[bench.reference]
    alone: list[float] = []
    watched: list[float] = []
    async with AsyncExitStack() as stack:
        _, work = stack.enter_context(opened(path, AT_WORK))
        url = stack.enter_context(server(path, bench.folder))
        await asyncio.to_thread(claim, url, {DIRECTORY: [each.session for each in work]})
        await _commits(path, bench.folder)  # the first round grows the log to its usual size
        for number in range(ROUNDS):
            bench.step(f"round {number + 1} of {ROUNDS}")
            # Which one comes first changes, so that a drift of the machine cancels out.
            for watches in (False, True) if number % 2 else (True, False):
                if watches:
                    async with run(path, bench.folder, servers=[url], poll_interval=1) as running:
                        await running.looked(LOOKS)
                        watched.append(await _commits(path, bench.folder))
                else:
                    alone.append(await _commits(path, bench.folder))
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


async def _commits(path: Path, folder: Path) -> float:
    """How many commits a second a writer in a process of its own makes."""
    with started(["-m", "benchmarks.writer", str(path), str(SECONDS), str(AT_WORK)], folder) as process:
        return float(await asyncio.to_thread(line_of, process))
