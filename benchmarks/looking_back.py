"""How long `tune` takes over a whole history, and how much memory."""

import asyncio
import os
import subprocess
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench, sized
from benchmarks.figures import Figure, Result, at_most, under
from benchmarks.processes import started
from benchmarks.scans import connect, scan_parts

ROUNDS = 3
_ALL = "3650d"


async def tune(bench: Bench) -> Result:
    """`tune` as a process, from its start until it ended; in turns, the JSON scan of `part` by plain `sqlite3`."""
    path = bench.databases[bench.reference]
    seconds: list[float] = []
    megabytes: list[float] = []
    scans: list[float] = []
    for number in range(ROUNDS):
        bench.step(f"round {number + 1} of {ROUNDS}")
        taken, size = await asyncio.to_thread(_ended, path, bench.folder)
        seconds.append(taken)
        megabytes.append(size)
        with closing(connect(path)) as connection:
            began = time.perf_counter()
            await scan_parts(connection)
            scans.append(time.perf_counter() - began)
    beside = f"the JSON scan of part {median(scans):.1f} s, in turns"
    return Result(
        figures=(
            Figure.of(sized("tune", bench.reference), seconds, "s", target=under(10), beside=beside),
            Figure.of("… its memory at most", megabytes, "MB", target=at_most(150)),
        )
    )


def _ended(path: Path, folder: Path) -> tuple[float, float]:
    """How many seconds it takes, and its largest resident size in MB."""
    arguments = ["-m", "watchdog", "tune", "--json", "--since", _ALL, "--database", str(path)]
    began = time.perf_counter()
    with started(arguments, folder) as process:
        if process.stdout is not None:
            process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return time.perf_counter() - began, used.ru_maxrss * 1024 / 1_000_000
