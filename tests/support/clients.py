"""opencode as people run it without a server: in a terminal, in a script, in an editor; and how to ask it."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.forked import Process
from tests.support.opencode import Lab, Server
from tests.support.waiting import SECONDS, wait_until

_ROWS, _COLUMNS = 40, 120
_BIG: Final = 65_536


@contextmanager
def terminal_ui(lab: Lab, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The terminal UI, in a terminal of its own that somebody looks at."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    environment = {**lab.environment(), **lab.surroundings(), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [str(lab.binary)],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    looking = threading.Thread(target=_look_at, args=(ours,))
    looking.start()
    try:
        yield process
    finally:
        _end(process)
        looking.join()
        os.close(ours)


def _look_at(terminal: int) -> None:
    try:
        while os.read(terminal, _BIG):
            pass
    except OSError:
        return  # it was closed


@contextmanager
def editor(lab: Lab, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`opencode acp` with the editor's end of it, and the session that the editor opened."""
    with (lab.home / "acp.log").open("wb") as log:
        process = subprocess.Popen(
            [str(lab.binary), "acp"],
            cwd=folder,
            env={**lab.environment(), **lab.surroundings()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        told(process, "initialize", protocolVersion=1, clientCapabilities={})
        yield process, told(process, "session/new", cwd=str(folder), mcpServers=[])["sessionId"]
    finally:
        _end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def told(process: subprocess.Popen[bytes], method: str, **parameters: object) -> dict[str, Any]:
    """Tell it something as an editor does, and wait for the answer."""
    tell(process, method, **parameters)
    assert process.stdout is not None
    while True:
        message = json.loads(process.stdout.readline())
        if message.get("id") == method:
            assert "error" not in message, message
            result: dict[str, Any] = message["result"]
            return result


def tell(process: subprocess.Popen[bytes], method: str, **parameters: object) -> None:
    """Tell it something, and wait for nothing."""
    assert process.stdin is not None
    message = {"jsonrpc": "2.0", "id": method, "method": method, "params": parameters}
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


async def through_bridge(lab: Lab, process: Process) -> Server:
    """A process as a server that is asked through its bridge."""
    assert lab.runtime is not None
    path = lab.runtime / "opencode-watchdog" / f"{process.pid}.sock"

    def look() -> bool:
        assert process.poll() is None, f"opencode ended with {process.returncode}"
        return path.exists()

    await wait_until(look, f"the socket of process {process.pid}")
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    client = httpx.AsyncClient(transport=transport, base_url="http://bridge", timeout=SECONDS, trust_env=False)
    return Server(lab=lab, port=0, process=process, client=lab.keep(client), log=lab.home / "run.log")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(timeout=SECONDS)
