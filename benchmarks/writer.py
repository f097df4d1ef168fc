"""Commits as fast as it can, as opencode does while it streams; prints how many commits it made in a second.

`python -m benchmarks.writer DATABASE SECONDS SESSIONS`: the sessions must be open (`benchmarks.work`).
"""

import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.work import PREFIX
from tests.support.database import OpencodeFile

_BEGUN = '{"type":"text","text":""}'
_ENDED = '{"type":"text","text":"' + "A line of text. " * 40 + '"}'
_RING = 1_000
"""So many parts are written anew again and again: the file is the same size at the end of each round."""


def write(path: Path, seconds: float, sessions: int) -> float:
    """Write for some seconds: inserts and updates of parts of the open turns, each a commit.

    Returns:
        Commits per second.
    """
    with closing(OpencodeFile(path)) as file:
        commits, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < seconds:
            number = commits // 2 % _RING
            session = number % sessions
            part, at = f"prt_benchload{number:06d}", time.time_ns() // 1_000_000
            if commits % 2:
                file.set("part", part, data=_ENDED, time_updated=at)
            else:
                file.connection.execute(
                    "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?)",
                    (part, f"msg_bench{session:06d}b", f"{PREFIX}{session:06d}", at, at, _BEGUN),
                )
            commits += 1
        return commits / taken


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])), flush=True)
