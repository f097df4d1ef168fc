"""How much memory the watchdog has after a day's worth of ticks, and how much that grew."""

import asyncio
import subprocess

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Result, at_most, under
from benchmarks.processes import line_of, server, started

TICKS = 20_000
"""A day and more, at the default interval of 5 s."""
WARM = 2_000
_MEGABYTE = 1_000_000


async def memory(bench: Bench) -> Result:
    """Twenty thousand ticks under churn in a process of its own (`benchmarks.churn`), with acts among them."""
    path = bench.databases[bench.smallest]
    moments = list(range(WARM, TICKS + 1, WARM))
    with server(path, bench.folder) as url:
        arguments = ["--database", str(path), "--server", url, "--folder", str(bench.folder)]
        line = ["-m", "benchmarks.churn", *arguments, "--ticks", *map(str, moments)]
        with started(line, bench.folder, log=bench.folder / "churn.log") as process:
            bench.step(f"{TICKS:,} ticks")
            resident = await asyncio.to_thread(_resident, process, bench, moments)
    after, grown = resident[TICKS], resident[TICKS] - resident[WARM]
    return Result(
        figures=(
            Figure.of(f"resident memory after {TICKS:,} ticks", [after], "MB", target=under(95)),
            Figure.of(
                f"… grown since tick {WARM:,}", [grown], "MB", target=at_most(2),
                beside=", ".join(f"{value:.1f}" for value in resident.values()),
            ),
        )
    )  # fmt: skip


def _resident(process: "subprocess.Popen[str]", bench: Bench, moments: list[int]) -> dict[int, float]:
    """The process's resident memory after some of its ticks, in MB, as it tells them."""
    found = {}
    for moment in moments:
        tick, size = line_of(process).split()
        if int(tick) != moment:
            raise RuntimeError(f"tick {tick} came instead of {moment}")
        found[moment] = int(size) / _MEGABYTE
        bench.step(f"{moment:,} of {TICKS:,} ticks")
    return found
