"""A process that has imported the program and forks itself whenever a test wants to start one.

Most of what a short command costs is the import of its packages. What is forked is a process like any other: with a
pid, birth, environment, working folder, descriptors, signals and exit code of its own.

Run as `python -m tests.support.fork_server FD`; see `tests.support.forked`.
"""

import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Final

LARGEST: Final = 150_000
"""The longest request in bytes: arguments and environment."""
DESCRIPTORS: Final = 4
"""Standard input, output and error, and where the exit status goes."""
STATUS_BYTES: Final = 4


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be started."""

    code: str
    """Python that runs before the program."""
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    new_session: bool


def main(control: socket.socket) -> Request | None:
    """Fork for each request. Returns twice: in each child with its request, at the end with None."""
    running: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as waiting, control:
        waiting.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fd in running:
                    waiting.unregister(key.fd)
                    _report(key.fd, *running.pop(key.fd))
                    continue
                message, descriptors, *_ = socket.recv_fds(control, LARGEST, DESCRIPTORS)
                if not message:
                    return None
                *streams, status = descriptors
                pid = os.fork()
                if not pid:
                    for handle, (_, writer) in running.items():
                        os.close(handle)
                        os.close(writer)
                    os.close(status)
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                        os.close(stream)
                    return Request(**json.loads(message))
                for stream in streams:
                    os.close(stream)
                handle = os.pidfd_open(pid)
                running[handle] = pid, status
                waiting.register(handle, selectors.EVENT_READ)
                control.send(str(pid).encode())


def _report(handle: int, pid: int, writer: int) -> None:
    """Tell how a child ended."""
    _, status = os.waitpid(pid, 0)
    os.close(handle)
    try:
        os.write(writer, os.waitstatus_to_exitcode(status).to_bytes(STATUS_BYTES, "big", signed=True))
    except BrokenPipeError:
        pass  # nobody wants to know
    finally:
        os.close(writer)


def _prepare() -> None:
    sys.modules["httpx._main"] = None  # type: ignore[assignment] # as the program does
    package = importlib.import_module("watchdog")
    for module in pkgutil.walk_packages(package.__path__, "watchdog."):
        if "demo" not in module.name:
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _become(request: Request) -> None:
    if request.new_session:
        os.setsid()
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = request.arguments


if __name__ == "__main__":
    _prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if wanted := main(socket.socket(fileno=int(sys.argv[1]))):
        _become(wanted)
        exec(wanted.code, {"__name__": "__main__"})  # noqa: S102 - a test's own
        importlib.import_module("watchdog.__main__").main()
