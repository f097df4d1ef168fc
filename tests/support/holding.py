"""Processes that have a SQLite file open under a name of their own, and mounts, for as long as a block lasts."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HOLD = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma journal_mode = wal").fetchall()
if "write" in sys.argv:
    connection.execute("create table if not exists held (id)")
    connection.execute("insert into held values (1)")
connection.execute("select * from sqlite_master").fetchall()
print(os.getpid(), flush=True)
for line in sys.stdin:
    connection.execute(line)
    print("done", flush=True)
"""


class Holding:
    """A process with a connection."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def execute(self, statement: str) -> None:
        """Have it run a statement of one line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        """End it as a crash does: its `-wal` and `-shm` stay."""
        self.process.kill()
        self.process.wait()


@contextmanager
def holding(path: Path, *words: str, before: tuple[str, ...] = ()) -> Iterator[Holding]:
    """A process that has the file open, by that name; killed with the block.

    Args:
        words: `write`, for one that has written.
        before: what it is started by.
    """
    command = [*before, sys.executable, "-c", _HOLD, str(path), *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit(), "the process did not start"
        yield Holding(process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def mounted(source: Path, target: Path, *options: str) -> Iterator[Path]:
    """A mount, by default one more name for a file or a folder; skips where that is not allowed."""
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    command = ["mount", *(options or ("--bind",)), str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], capture_output=True, timeout=60, check=False)


def unshared() -> tuple[str, ...]:
    """What starts a process in a pid namespace of its own; skips where that is not allowed."""
    command = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=60, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"unshare can't be run: {error}")
    if done.returncode:
        pytest.skip(f"a pid namespace may not be made here: {done.stderr.strip()}")
    return command
