"""Commands as opencode starts them: each leads a session of its own and carries its opencode's pid."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.opencode.processes.stat import read_stat


@dataclass
class Opencode:
    """A process in the place of an opencode, with the commands that it started."""

    process: subprocess.Popen[bytes] = field(
        default_factory=lambda: subprocess.Popen(["sleep", "300"], start_new_session=True)
    )
    commands: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def start(self, command: str, folder: Path, *, more: Mapping[str, str] | None = None) -> int:
        """Start a command in a folder; answer its pid once it runs."""
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, "OPENCODE": "1", "OPENCODE_PID": str(self.pid), **(more or {})},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.commands.append(process)
        return process.pid

    def die(self) -> None:
        """End as after `kill -9`: the commands stay."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End all that was started."""
        self.die()
        for each in self.commands:
            end_session(each.pid)
            each.wait()


def session(pid: int) -> list[int]:
    """The processes of a session that live."""
    found = []
    for each in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            stat = read_stat(int(each.name))
            if stat.session == pid and not stat.ended:
                found.append(stat.pid)
    return found


def end_session(pid: int) -> None:
    """End every process of a session."""
    for each in session(pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


@contextmanager
def opencode() -> Iterator[Opencode]:
    """An opencode whose commands end with the block, whatever happens."""
    started = Opencode()
    try:
        yield started
    finally:
        started.close()


def until(pid: int, words: str) -> None:
    """Wait until a process runs that: a shell may need a moment."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            if line == words:
                return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} never ran {words}")
