"""Processes of the program, started as quickly as this machine can."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from tests.support.fork_server import STATUS_BYTES, Request

PROGRAM: Final = [sys.executable, "-m", "watchdog"]
"""How a person starts it."""
_THEN: Final = "\nfrom watchdog.__main__ import main\nmain()  # forked"
_AT_START: Final = ("PYTHON", "LANG", "LC_", "COVERAGE")
"""How the names of variables begin that an interpreter, or its coverage, reads at its start only."""


def patched(code: str) -> list[str]:
    """A line that runs some Python and then the program, in a process that may have imported it before."""
    return [sys.executable, "-c", code + _THEN]


class Forked:
    """A process that the fork server made: what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._reading = threading.Lock()
        weakref.finalize(self, os.close, status)  # not before: another thread may wait for it

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended after so many seconds.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(PROGRAM, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to end, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            with self._reading:
                if self.returncode is None:
                    self.returncode = int.from_bytes(os.read(self._status, STATUS_BYTES), "big", signed=True)
        return self.returncode


Process: TypeAlias = Forked | subprocess.Popen[bytes]
"""A process, however it was made."""


class _ForkServer:
    """One fork server. It ends with this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                line, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        atexit.register(self._end)

    def start(self, request: Request, streams: Sequence[IO[Any]]) -> Forked:
        """Start one."""
        reading, writing = os.pipe()
        try:
            message = json.dumps(asdict(request)).encode()
            socket.send_fds(self._control, [message], [*(each.fileno() for each in streams), writing])
        finally:
            os.close(writing)
        return Forked(int(self._control.recv(100)), reading)

    def _end(self) -> None:
        self._control.close()
        self._process.wait()


_servers: dict[frozenset[tuple[str, str]], _ForkServer] = {}


def start(
    line: list[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdin: IO[Any],
    stdout: IO[Any],
    stderr: IO[Any],
    new_session: bool = False,
) -> Process:
    """Start a line in a process of its own. The program's own line is forked where the system has pidfds."""
    code, arguments = _parted(line)
    if code is None or not hasattr(os, "pidfd_open"):
        with interruptible():
            return subprocess.Popen(
                line,
                cwd=folder,
                env=environment,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=new_session,
            )
    at_start = {name: value for name, value in environment.items() if name.startswith(_AT_START)}
    server = _servers.get(frozenset(at_start.items()))
    if server is None:
        server = _servers[frozenset(at_start.items())] = _ForkServer({"PATH": os.defpath, **at_start})
    request = Request(
        code=code, arguments=arguments, folder=str(folder), environment=dict(environment), new_session=new_session
    )
    return server.start(request, (stdin, stdout, stderr))


def _parted(line: list[str]) -> tuple[str | None, list[str]]:
    """What runs before the program, and its arguments; no code at all if it is not the program."""
    if line[: len(PROGRAM)] == PROGRAM:
        return "", line[len(PROGRAM) :]
    if line[:2] == [sys.executable, "-c"] and line[2].endswith(_THEN):
        return line[2].removesuffix(_THEN), line[3:]
    return None, []


@contextmanager
def interruptible() -> Iterator[None]:
    """A child inherits an ignored SIGINT, as a shell sets it for what runs in the background."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
