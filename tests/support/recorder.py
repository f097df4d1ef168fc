"""A program that listens on a port, answers a little like opencode, and writes down the head of each request.

`python -m tests.support.recorder FILE PORT MODE NAME`: MODE is `open` (it asks for no password), `guarded` (it asks
for one, and takes any) or `greedy` (it asks for ever); with `-closing` behind it, it closes after each answer. NAME
makes it a program of its own.
"""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.opencode import free_port

EVENT = b'data: {"payload":{"type":"server.connected","properties":{}}}\n\n'


@dataclass
class Recorder:
    """The program, as a test sees it."""

    process: subprocess.Popen[str]
    port: int
    file: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[dict[str, str]]:
        """The requests that it got: `line`, and the headers in small letters."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    @property
    def passwords(self) -> list[str]:
        """What it was told."""
        return [request["authorization"] for request in self.requests if "authorization" in request]

    def end(self) -> None:
        """Kill it, which closes every connection."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def recorder(folder: Path, mode: str, *, port: int | None = None, name: str = "server") -> Iterator[Recorder]:
    """Run the program until the block is left."""
    file = folder / f"{name}.requests"
    port = free_port() if port is None else port
    line = [sys.executable, "-m", __name__, str(file), str(port), mode, name]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert int(process.stdout.readline()) == port
    found = Recorder(process=process, port=port, file=file)
    try:
        yield found
    finally:
        found.end()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: Path
    mode: str

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        head = {"line": self.requestline, **{key.lower(): value for key, value in self.headers.items()}}
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(head) + "\n")
        kind, _, closing = self.mode.partition("-")
        self.close_connection = bool(closing)
        if kind == "greedy" or (kind == "guarded" and "authorization" not in self.headers):
            self._send(401, b"no", "text/plain")
        elif self.path == "/global/event":
            self._stream()
        elif self.path == "/global/health":
            self._send(200, json.dumps({"healthy": True, "version": "1.18.33"}).encode(), "application/json")
        else:
            self._send(
                200, b"[]" if self.path.startswith(("/question", "/permission")) else b"{}", "application/json"
            )

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - their names are http.server's

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(EVENT)
        self.wfile.flush()
        self.connection.recv(1)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:  # noqa: ANN401 - http.server's
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super().server_bind()


def main() -> None:
    """Listen until killed."""
    _Handler.file, port, _Handler.mode, _ = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    with _Server(("127.0.0.1", port), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
