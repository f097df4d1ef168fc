"""The program as a person or a script starts it: a process with a home of its own, and no opencode around it."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.support.database import OpencodeFile
from tests.support.forked import Process, interruptible, start
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Finished, Setting, _environment, _python, to_toml

NOWHERE: Final = "http://127.0.0.1:1"
"""A server that nobody runs."""
SECONDS: Final = 120.0

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_START")


@dataclass(kw_only=True)
class Program:
    """The program in a home of its own.

    Attributes:
        home: its home and its working folder.
        more: variables of its environment beyond the few that it needs.
        line: what is started; the arguments come after it.
    """

    home: Path
    more: dict[str, str] = field(default_factory=dict)
    line: list[str] = field(default_factory=_python)

    @property
    def environ(self) -> dict[str, str]:
        """Its whole environment."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {**kept, **_environment(), "HOME": str(self.home), **self.more}

    def settings(self, **settings: Setting) -> Path:
        """Write its settings file, where it finds it by itself."""
        path = self.home / "opencode-watchdog.toml"
        path.write_text(to_toml(settings), encoding="utf-8")
        return path

    async def run(self, *arguments: object, seconds: float = SECONDS) -> Finished:
        """Run it to its end, with its output in pipes and nobody at its input."""
        async with self.started(*arguments) as process:
            return await process.finished(seconds)

    @asynccontextmanager
    async def started(self, *arguments: object) -> AsyncIterator["Started"]:
        """Start it; whatever is left of it at the end of the block is killed."""
        line = [*self.line, *(str(each) for each in arguments)]
        stdout, stderr = self.home / "stdout", self.home / "stderr"
        with open(os.devnull, "rb") as nothing, stdout.open("wb") as out, stderr.open("wb") as err:  # noqa: ASYNC230, PTH123
            process = start(line, folder=self.home, environment=self.environ, stdin=nothing, stdout=out, stderr=err)
        try:
            yield Started(process=process, out=stdout, err=stderr)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    @contextmanager
    def at_a_terminal(self, *arguments: object, columns: int = 80) -> Iterator["Terminal"]:
        """Start it on a terminal of its own."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environ = {name: value for name, value in self.environ.items() if name != "NO_COLOR"}
        line = [*self.line, *(str(each) for each in arguments)]
        with interruptible():
            process = subprocess.Popen(
                line,
                cwd=self.home,
                env={**environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - Ctrl-C needs it
            )
        os.close(slave)
        os.set_blocking(master, False)
        try:
            yield Terminal(process=process, master=master)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            os.close(master)


@dataclass(kw_only=True)
class Started:
    """A program that runs."""

    process: Process
    out: Path
    err: Path

    def stderr(self) -> str:
        """Its standard error so far."""
        return self.err.read_text(encoding="utf-8", errors="replace")

    async def said(self, text: str, *, seconds: float = SECONDS) -> None:
        """Wait until a text stands on its standard error."""

        def look() -> bool:
            found = text in self.stderr()
            assert found or self.process.poll() is None, f"ended with {self.process.returncode}\n{self.stderr()}"
            return found

        await wait_until(look, repr(text), seconds=seconds, explain=self.stderr)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    async def finished(self, seconds: float = SECONDS) -> Finished:
        """Wait for its end. No program may ever show a person a traceback."""
        code = await asyncio.to_thread(self.process.wait, seconds)
        stdout, stderr = self.out.read_text(encoding="utf-8"), self.stderr()
        assert "Traceback" not in stdout + stderr, stderr
        return Finished(code=code, stdout=stdout, stderr=stderr)


@dataclass(kw_only=True)
class Terminal:
    """A program on a terminal."""

    process: "subprocess.Popen[bytes]"
    master: int
    shown: str = ""

    @property
    def text(self) -> str:
        """What it showed so far, without colours and cursor movements."""
        self._read()
        return _ESCAPES.sub("", self.shown).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """What it showed, line by line, without the blanks that fill them up."""
        return [line.rstrip() for line in self.text.splitlines()]

    async def showed(self, text: str, *, seconds: float = SECONDS) -> None:
        """Wait until it showed a text."""
        await wait_until(
            lambda: text in " ".join(self.text.split()), repr(text), seconds=seconds, explain=lambda: self.text
        )

    def type(self, text: str) -> None:
        """Type something; a control character is what its key sends."""
        os.write(self.master, text.encode())

    async def ended(self, seconds: float = SECONDS) -> int:
        """Wait for its end."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self._read()
            assert time.monotonic() < deadline, self.text
            await asyncio.sleep(0.02)
        assert "Traceback" not in self.text, self.text
        return self.process.returncode

    def _read(self) -> None:
        while True:
            try:
                read = os.read(self.master, 65536)
            except (BlockingIOError, OSError):
                return
            if not read:
                return
            self.shown += read.decode(errors="replace")


def now_ms() -> int:
    """The time of rows that are written now: no process of a test was born after them."""
    return int(time.time() * 1000)


def python(code: str) -> list[str]:
    """A line that runs some Python and then the program."""
    return [sys.executable, "-c", f"{code}\nfrom watchdog.__main__ import main\nmain()"]


def with_variables(program: Program, variables: Mapping[str, str]) -> Program:
    """The same program with more in its environment."""
    return Program(home=program.home, more={**program.more, **variables}, line=program.line)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program, in an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    return Program(home=home)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is, or would be."""
    return tmp_path / "opencode.db"


@pytest.fixture
def rows(path: Path) -> Iterator[OpencodeFile]:
    """A database that this process holds open, as a terminal UI would."""
    with OpencodeFile(path) as rows:
        yield rows
