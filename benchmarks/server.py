"""A server in a process of its own that speaks the routes of opencode's API which the watchdog uses.

It says that it is at work on the sessions that it is told of (`PUT /bench/sessions`), takes its time for an abort,
and then closes what is open in the session, as opencode does. `python -m benchmarks.server --help`.
"""

import argparse
import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.work import now_ms
from tests.fakes.server import Request, read_request, reply
from tests.support.database import OpencodeFile

HEARTBEAT_SECONDS = 10.0
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@dataclass(kw_only=True)
class Server:
    """What the server knows.

    Attributes:
        file: the database; it holds it open as opencode does.
        abort_seconds: how long an abort takes.
        busy: the sessions at work, by directory.
        streams: who listens to its events.
    """

    file: OpencodeFile
    abort_seconds: float = 0.0
    busy: dict[str, frozenset[str]] = field(default_factory=dict)
    streams: set[asyncio.StreamWriter] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                request = await read_request(reader)
                if request.path == ("global", "event"):
                    await self._stream(writer)
                writer.write(await self._answer(request))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever asked is gone
        finally:
            writer.close()

    async def _answer(self, request: Request) -> bytes:
        match request.method, request.path:
            case "GET", ("global", "health"):
                return reply({"healthy": True, "version": "1.18.33"})
            case "PUT", ("bench", "sessions"):
                self._work_on(json.loads(request.body))
                return reply(body=True)
            case "GET", ("session", "status"):
                return reply({id_: {"type": "busy"} for id_ in sorted(self.busy.get(request.directory or "", ()))})
            case "GET", ("question" | "permission",):
                return reply([])
            case "POST", ("session", session_id, "abort"):
                await self._abort(session_id)
                return reply(body=True)
            case "GET", ("session", session_id, "message", message_id):
                if self.file.get("message", message_id, "session_id") == session_id:
                    return reply({"info": {"id": message_id, "sessionID": session_id}, "parts": []})
        return reply({"name": "NotFoundError"}, status=404)

    async def _abort(self, session_id: str) -> None:
        if not any(session_id in ids for ids in self.busy.values()):
            return
        await asyncio.sleep(self.abort_seconds)
        close(self.file, session_id)
        left = {directory: ids - {session_id} for directory, ids in self.busy.items()}
        self._work_on(left)

    def _work_on(self, busy: Mapping[str, Collection[str]]) -> None:
        """Be at work on these sessions from now on, and tell all who listen what changed."""
        before, self.busy = self.busy, {directory: frozenset(ids) for directory, ids in busy.items()}
        for directory in before.keys() | self.busy.keys():
            old, new = before.get(directory, frozenset()), self.busy.get(directory, frozenset())
            for ids, status in ((new - old, "busy"), (old - new, "idle")):
                for session_id in sorted(ids):
                    event = _event(directory, "session.status", {"sessionID": session_id, "status": {"type": status}})
                    for writer in self.streams:
                        writer.write(event)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        """Send heartbeats, and what is published meanwhile, until the listener is gone."""
        writer.write(_STREAM)
        kind = "server.connected"
        self.streams.add(writer)
        try:
            while True:
                writer.write(_event("global", kind, {}))
                await writer.drain()
                await asyncio.sleep(HEARTBEAT_SECONDS)
                kind = "server.heartbeat"
        finally:
            self.streams.discard(writer)


def close(file: OpencodeFile, session_id: str) -> None:
    """End in one commit what is open in a session, as opencode's abort does."""
    at, connection = now_ms(), file.connection
    parts = connection.execute("SELECT id, data FROM part WHERE session_id = ?", (session_id,)).fetchall()
    messages = connection.execute("SELECT id, data FROM message WHERE session_id = ?", (session_id,)).fetchall()
    connection.execute("BEGIN IMMEDIATE")
    for id_, data in parts:
        part = json.loads(data)
        if part["type"] == "tool" and part["state"]["status"] in {"pending", "running"}:
            state, time = part["state"], {**part["state"].get("time", {"start": at}), "end": at}
            part["state"] = {
                "status": "error",
                "input": state["input"],
                "error": "Tool execution aborted",
                "time": time,
            }
            file.set("part", id_, data=json.dumps(part), time_updated=at)
    for id_, data in messages:
        message = json.loads(data)
        if message["role"] == "assistant" and "completed" not in message["time"]:
            message["time"]["completed"] = at
            message["error"] = {"name": "MessageAbortedError", "data": {"message": "Aborted"}}
            file.set("message", id_, data=json.dumps(message), time_updated=at)
    connection.execute("COMMIT")


def _event(directory: str, kind: str, properties: dict[str, object]) -> bytes:
    """An event as the stream carries it."""
    payload = {"type": kind, "properties": properties}
    return f"data: {json.dumps({'directory': directory, 'payload': payload})}\n\n".encode()


async def _never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, read, and never answer."""
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        pass  # whoever asked is gone
    finally:
        writer.close()


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until killed. Says its port on a line of its own."""
    with OpencodeFile(arguments.database) as file:
        server = Server(file=file, abort_seconds=arguments.abort_ms / 1000)
        handler = _never if arguments.hang else server.handle
        listener = await asyncio.start_server(handler, "127.0.0.1", 0)
        print(listener.sockets[0].getsockname()[1], flush=True)
        await listener.serve_forever()


def main() -> None:
    """Read the arguments, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", type=Path, required=True, help="the database that it holds open")
    parser.add_argument("--abort-ms", type=float, default=0.0, help="how long an abort takes, in milliseconds")
    parser.add_argument("--hang", action="store_true", help="accept, and never answer")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
