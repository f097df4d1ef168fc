"""What a look costs, beside the scan of `part` that a cron script does. `python -m benchmarks.look --parts 100000`.

Each figure is the median of several rounds in one process on one generated database; quote the ratios.
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from tests.support.database import OpencodeFile
from watchdog.opencode.database import OpencodeDatabase

PARTS_PER_TURN = 8
TURNS_PER_SESSION = 20
OUTPUT = "x" * 2_000
SCAN = """
SELECT id FROM part WHERE json_extract(data, '$.type') = 'tool' AND json_extract(data, '$.state.status') = 'running'
"""


def generate(path: Path, parts: int) -> None:
    """A database of opencode's shape with that many parts, and one call that runs."""
    with OpencodeFile(path) as file:
        file.session("ses_open")
        file.call(file.turn("ses_open"), status="running")
    finished = json.dumps({
        "type": "tool", "tool": "bash", "callID": "call",
        "state": {"status": "completed", "input": {}, "output": OUTPUT, "title": "", "metadata": {}, "time": {}},
    })  # fmt: skip
    turn = json.dumps({"role": "assistant", "time": {"created": 1, "completed": 2}, "path": {"cwd": "/project"}})
    connection = sqlite3.connect(path)
    turns = parts // PARTS_PER_TURN
    connection.executemany(
        "INSERT INTO message VALUES (?, ?, 1, 2, ?)",
        ((f"msg_b{n}", f"ses_b{n // TURNS_PER_SESSION}", turn) for n in range(turns)),
    )
    connection.executemany(
        "INSERT INTO part VALUES (?, ?, ?, 1, 2, ?)",
        (
            (f"prt_b{n}", f"msg_b{n // PARTS_PER_TURN}", f"ses_b{n // PARTS_PER_TURN // TURNS_PER_SESSION}", finished)
            for n in range(parts)
        ),
    )
    connection.commit()
    connection.close()


async def median_ms(work: Callable[[], Awaitable[object]], rounds: int) -> float:
    """The median of the wall time of some rounds, in milliseconds, after one that is not counted."""
    await work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def measure(parts: int) -> dict[str, float]:
    """Measure one size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "opencode.db"
        generate(path, parts)
        plain = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

        async def scan() -> object:
            return plain.execute(SCAN).fetchall()

        async with await OpencodeDatabase.open(path) as database:
            figures = {
                "scan of part (a cron script)": await median_ms(scan, 3),
                "nothing changed": await median_ms(database.changed, 50),
                "look by way of open turns": await median_ms(database.look, 5),
            }
        plain.close()
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, action="append", help="how many parts; may be given several times")
    sizes = parser.parse_args().parts or [10_000, 100_000]
    console = Console()
    table = Table(title="median, ms")
    for column in ("what", *(f"{size:,} parts" for size in sizes)):
        table.add_column(column, justify="left" if column == "what" else "right")
    with console.status("measuring"):
        results = [anyio.run(measure, size) for size in sizes]
    for what in results[0]:
        table.add_row(what, *(f"{result[what]:,.3f}" for result in results))
    console.print(table)


if __name__ == "__main__":
    main()
