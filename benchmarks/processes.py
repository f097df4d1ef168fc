"""Processes that a measurement starts: the watchdog as users run it, servers, writers. Each ends with a block."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import psutil

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60.0
"""How long anything may take that a measurement only waits for."""
SETTLE_SECONDS = 180.0
BUSY_SHARE = 0.03
"""More of a core than this is no rest, but ten times what any figure here allows for it."""
_WINDOW_SECONDS = 3.0
_POLL_SECONDS = 0.005
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR")

Json = dict[str, Any]
T = TypeVar("T")


class Stalled(Exception):
    """What a measurement waited for did not come; the text says what was seen instead."""


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder, gone with the block."""
    with tempfile.TemporaryDirectory(prefix="opencode-watchdog-bench-") as folder:
        yield Path(folder)


def environment(home: Path) -> dict[str, str]:
    """The whole environment of a started process, in a home of its own."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


@contextmanager
def started(arguments: Sequence[str], home: Path, *, log: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A Python process, with its output in a pipe and its errors in a file; killed if it outlives the block."""
    log = log or home / f"{time.monotonic_ns()}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, *arguments], cwd=home, env=environment(home),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def line_of(process: "subprocess.Popen[str]") -> str:
    """The next line that a process prints.

    Raises:
        Stalled: it ended without one.
    """
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise Stalled(f"{process.args!r} ended with {process.wait(SECONDS)} and said nothing")
    return line.strip()


@contextmanager
def server(database: Path, home: Path, *, abort_ms: float = 0.0, hang: bool = False) -> Iterator[str]:
    """A scripted server on a database; yields its base URL."""
    arguments = ["-m", "benchmarks.server", "--database", str(database), "--abort-ms", str(abort_ms)]
    with started([*arguments, *(["--hang"] if hang else [])], home) as process:
        yield f"http://127.0.0.1:{line_of(process)}"


def claim(url: str, sessions: Mapping[str, Sequence[str]]) -> None:
    """Have a scripted server be at work on sessions, by directory."""
    body = json.dumps({directory: list(ids) for directory, ids in sessions.items()}).encode()
    request = urllib.request.Request(f"{url}/bench/sessions", data=body, method="PUT")  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - as above
        answer.read()


async def until(look: Callable[[], T | None], what: str, seconds: float = SECONDS) -> T:
    """Ask until there is an answer.

    Raises:
        Stalled: there was none in time.
    """
    with anyio.move_on_after(seconds):
        while True:
            if found := look():
                return found
            await anyio.sleep(_POLL_SECONDS)
    raise Stalled(f"waited {seconds:g} s in vain for {what}")


@dataclass(kw_only=True)
class Running:
    """An `opencode-watchdog run`, and what it logged so far."""

    process: "subprocess.Popen[str]"
    log: Path
    _offset: int = 0
    _lines: list[Json] = field(default_factory=list)

    @property
    def lines(self) -> list[Json]:
        """The lines of its log."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            whole = log.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        self._lines += [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        return self._lines

    def events(self, name: str) -> list[Json]:
        """The lines of one event."""
        return [line for line in self.lines if line["event"] == name]

    async def looked(self, times: int = 1) -> None:
        """Wait until it has looked so many times."""
        await until(lambda: self._alive() and len(self.events("watch.looked")) >= times, f"{times} looks")

    def cpu_seconds(self) -> float:
        """Its processor time so far, with that of the children that it has waited for."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    async def settled(self) -> None:
        """Wait until what it does at its start, and the search through all parts, is over; or for the patience."""
        await self.looked()
        with anyio.move_on_after(SETTLE_SECONDS):
            busy = True
            while busy:
                before = self.cpu_seconds()
                await anyio.sleep(_WINDOW_SECONDS)
                busy = self._alive() and (self.cpu_seconds() - before) / _WINDOW_SECONDS > BUSY_SHARE

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have it stand still until the block ends."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def _alive(self) -> bool:
        if self.process.poll() is not None:
            raise Stalled(f"the watchdog ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
        return True


@asynccontextmanager
async def run(
    database: Path, home: Path, *, servers: Sequence[str] = (), **settings: object
) -> AsyncIterator[Running]:
    """`opencode-watchdog run` as a process, from its start."""
    home = home / f"run-{time.monotonic_ns()}"
    home.mkdir()
    chosen = {
        "database": str(database), "servers": list(servers), "discover": False, "journal": str(home / "journal.db"),
        "log_format": "json", "log_level": "debug", **settings,
    }  # fmt: skip
    lines = [f"{name} = {json.dumps(value)}" for name, value in chosen.items()]
    (home / "opencode-watchdog.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    log = home / "log"
    with started(["-m", "watchdog", "run"], home, log=log) as process:
        yield Running(process=process, log=log)
