"""How long the program takes to start."""

import asyncio
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Result, under
from benchmarks.processes import run, server, started
from benchmarks.ticks import AT_WORK
from benchmarks.work import opened

ROUNDS = 9


async def start(bench: Bench) -> Result:
    """`--help` until it ended, beside Python itself; and `run` until its first look is judged."""
    bare: list[float] = []
    helped: list[float] = []
    looked: list[float] = []
    with ExitStack() as stack:
        path = bench.databases[bench.smallest]
        stack.enter_context(opened(path, AT_WORK))
        url = stack.enter_context(server(path, bench.folder))
        for number in range(ROUNDS + 1):
            bench.step(f"round {number} of {ROUNDS}")
            rounds = (
                await asyncio.to_thread(_ended, ["-c", "pass"], bench.folder),
                await asyncio.to_thread(_ended, ["-m", "watchdog", "--help"], bench.folder),
                await _looked(path, bench.folder, url),
            )
            if number:  # the first one only warms the file system's cache
                for samples, taken in zip((bare, helped, looked), rounds, strict=True):
                    samples.append(taken)
    beside = f"Python itself {median(bare):.0f} ms"
    return Result(
        figures=(
            Figure.of("--help", helped, "ms", target=under(300), beside=beside),
            Figure.of("run, until its first judgement", looked, "ms", target=under(1_500), beside=beside),
        )
    )


def _ended(arguments: Sequence[str], folder: Path) -> float:
    """How long a process takes from its start to its end, in milliseconds."""
    began = time.perf_counter()
    with started(arguments, folder) as process:
        process.communicate()
    taken = (time.perf_counter() - began) * 1000
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return taken


async def _looked(path: Path, folder: Path, url: str) -> float:
    began = time.perf_counter()
    async with run(path, folder, servers=[url]) as running:
        await running.looked()
        return (time.perf_counter() - began) * 1000
