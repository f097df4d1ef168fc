"""A server in memory, whose answers and misbehaviour a test decides, and the same one on a loopback port."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
import anyio.lowlevel

from watchdog.errors import ServerAnswerInvalid, ServerError
from watchdog.model.moments import NEVER, Moment
from watchdog.model.outcome import Row
from watchdog.model.report import Endpoint, Listener, Served, Shown, Witness
from watchdog.model.session import Activity, Ask, ServerName, SessionId, Status, TurnId


def endpoint(port: int, address: str = "127.0.0.1") -> Endpoint:
    """An endpoint of this machine."""
    return Endpoint(address=address, port=port)


class AbortBehaviour(Enum):
    """What an abort does."""

    WORKS = "ends the session, and runs `on_abort`"
    LIES = "agrees, and changes nothing"
    HANGS = "never answers"
    RAISES = "raises `problem`, or an error of its own"


@dataclass(kw_only=True, eq=False)
class FakeServer:
    """A `ports.Server`; its attributes are the script, and what it was asked is kept.

    Attributes:
        problem: raised by every question while it is set.
        statuses_by: what is not idle, by directory.
        asks_by: what waits for a human, by directory.
        turns: the turns of its database.
        shown: it serves the database by its own word; if not, that has to be shown.
        by_folder: it is asked of each directory for itself.
        listens: who listens at its address.
        copies: its own copies of turns; the rows of its database, say.
        unreadable: sessions whose messages can't be read.
        on_abort: what the rest of the world does when an abort works; the database closes its rows, say.
        on_reject: the same when an ask is turned down.
        on_delete: the same when a message is deleted.
        aborted: the aborts that were asked for, with their directories.
    """

    name: ServerName = field(default_factory=lambda: ServerName("http://127.0.0.1:4096"))
    leads_to: tuple[Endpoint, ...] = (endpoint(4096),)
    vouching: bool = True
    measured: bool = True
    problem: ServerError | None = None
    statuses_by: dict[str, dict[SessionId, Status]] = field(default_factory=dict)
    asks_by: dict[str, list[Ask]] = field(default_factory=dict)
    turns: set[tuple[SessionId, TurnId]] = field(default_factory=set)
    shown: bool = True
    by_folder: bool = True
    listens: Listener = field(default_factory=Listener)
    copies: Callable[[TurnId], Awaitable[Sequence[Row] | None]] | None = None
    unreadable: set[SessionId] = field(default_factory=set)
    abort_behaviour: AbortBehaviour = AbortBehaviour.WORKS
    on_abort: Callable[[SessionId], Awaitable[None]] | None = None
    heard: Witness | None = field(default_factory=lambda: Witness(connected=True, since=NEVER))
    signs: dict[SessionId, Moment] = field(default_factory=dict)
    aborted: list[tuple[SessionId, str]] = field(default_factory=list)
    published: list[tuple[Row, str]] = field(default_factory=list)
    deleted: list[tuple[SessionId, str]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    kept: frozenset[SessionId] = frozenset()
    on_reject: Callable[[Ask], None] | None = None
    on_delete: Callable[[SessionId, str], None] | None = None

    def busy(self, session_id: SessionId, directory: str) -> None:
        """Let a session be at work."""
        self.statuses_by.setdefault(directory, {})[session_id] = Status(activity=Activity.BUSY)

    @property
    def own(self) -> Served | None:
        """Its own word, if that is all that is needed."""
        return Served(server=self.name, by=Shown.HOST) if self.shown else None

    @property
    def served(self) -> Served:
        """What a test hands to it."""
        return Served(server=self.name, by=Shown.HOST)

    async def listener(self) -> Listener:
        """Who listens at its address."""
        return self.listens

    async def copy(self, session_id: SessionId, turn_id: TurnId, directory: str) -> Sequence[Row] | None:  # noqa: ARG002
        """Its own copy of a turn."""
        await self._answer()
        return await self.copies(turn_id) if self.copies is not None else None

    async def known(self) -> bool:
        """Whether its version is one that was measured."""
        await self._answer()
        return self.measured

    async def vouches(self) -> bool:
        """Whether its silence means something."""
        await self._answer()
        return self.vouching

    async def statuses(self, directory: str) -> dict[SessionId, Status]:
        """The sessions of a directory that are not idle."""
        await self._answer()
        return dict(self.statuses_by.get(directory, {}))

    async def pending_asks(self, directory: str) -> tuple[Ask, ...]:
        """The asks of a directory."""
        await self._answer()
        return tuple(self.asks_by.get(directory, ()))

    async def reject(self, served: Served, ask: Ask, directory: str) -> None:  # noqa: ARG002
        """Turn an ask down, and forget it."""
        await self._answer()
        self.rejected.append((ask.id, directory))
        left = [each for each in self.asks_by.get(directory, ()) if each.id != ask.id]
        if len(left) == len(self.asks_by.get(directory, ())):
            raise ServerAnswerInvalid(f"{self.name} knows no such ask.")
        self.asks_by[directory] = left
        if self.on_reject is not None:
            self.on_reject(ask)

    async def abort(self, served: Served, session_id: SessionId, directory: str) -> None:  # noqa: ARG002
        """Do what the script says. Like a real one, it agrees for any session."""
        self.aborted.append((session_id, directory))
        await self._answer()
        match self.abort_behaviour:
            case AbortBehaviour.HANGS:
                await anyio.sleep_forever()
            case AbortBehaviour.RAISES:
                raise ServerError(f"{self.name} broke.")
            case AbortBehaviour.WORKS:
                if (
                    self.statuses_by.get(directory, {}).pop(session_id, None) is not None
                    and self.on_abort is not None
                ):
                    await self.on_abort(session_id)
            case AbortBehaviour.LIES:
                pass

    async def publish(self, served: Served, row: Row, directory: str) -> None:  # noqa: ARG002
        """Note what its clients would see."""
        await self._answer()
        self.published.append((row, directory))

    async def readable(self, served: Served, session_id: SessionId, directory: str) -> bool:  # noqa: ARG002
        """Whether the session's messages can be read."""
        await self._answer()
        return session_id not in self.unreadable

    async def delete_message(self, served: Served, session_id: SessionId, message_id: str, directory: str) -> None:  # noqa: ARG002
        """Delete a message, unless its session is busy."""
        await self._answer()
        if session_id in self.statuses_by.get(directory, {}):
            raise ServerAnswerInvalid(f"{self.name} can't delete {message_id}: session {session_id} is busy.")
        self.turns.discard((session_id, TurnId(message_id)))
        self.deleted.append((session_id, message_id))
        if self.on_delete is not None:
            self.on_delete(session_id, message_id)

    def witness(self) -> Witness | None:
        """How well its feed is heard."""
        return self.heard

    def life(self) -> dict[SessionId, Moment]:
        """The signs of life of the script."""
        return dict(self.signs)

    def forget(self, keep: Collection[SessionId]) -> None:
        """Remember which sessions may still be told of."""
        self.kept = frozenset(keep)

    def busy_directories(self) -> frozenset[str]:
        """Where anything is at work."""
        return frozenset(directory for directory, statuses in self.statuses_by.items() if statuses)

    async def _answer(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.problem is not None:
            raise self.problem


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


_TURNS_TO_BEGIN = 4


@asynccontextmanager
async def loopback(handler: Handler, *, at: Path | None = None) -> AsyncIterator[str]:
    """A server on loopback, or at a Unix socket; yields its base URL. Its open connections are ended at the exit."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    if at is None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
    else:
        server = await asyncio.start_unix_server(handle, str(at))
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" if at is None else str(at)
    finally:
        server.close()
        for _ in range(_TURNS_TO_BEGIN):  # one that was accepted at the last moment has no task yet
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it came."""

    method: str
    path: tuple[str, ...]
    directory: str | None
    headers: dict[str, str]
    body: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request; the folder is decoded twice, as opencode does."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    method, target, _ = head[0].split(" ")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    found = parse_qs(parts.query).get("directory")
    return Request(
        method=method,
        path=tuple(unquote(part) for part in parts.path.split("/") if part),
        directory=unquote(found[0]) if found else None,
        headers=headers,
        body=body,
    )


def reply(body: object, *, status: int = 200, content_type: str = "application/json") -> bytes:
    """A whole HTTP reply."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw


FEED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    b'data: {"payload":{"type":"server.connected","properties":{}}}\n\n'
)
"""How an event stream begins."""


def over_http(fake: FakeServer, *, version: str = "1.18.33", greeting: object = None) -> Handler:
    """The fake as a real server would answer on the wire; behind a bridge, if that greets."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            if request.path == ("global", "event") and fake.problem is None:
                writer.write(FEED)
                await reader.read()  # until it is not listened to any more
                return
            bridges = greeting is not None and request.path == ("opencode-watchdog",)
            writer.write(reply(greeting) if bridges else await _respond(fake, request, version))
            await writer.drain()

    return handle


async def _respond(fake: FakeServer, request: Request, version: str) -> bytes:
    directory = request.directory or ""
    try:
        match request.method, request.path:
            case "GET", ("global", "health"):
                await fake.vouches()
                return reply({"healthy": True, "version": version if fake.vouching else "1.2.27"})
            case "GET", ("session", "status"):
                found = await fake.statuses(directory)
                return reply({key: _wire_status(status) for key, status in found.items()})
            case "GET", ("question" | "permission" as kind,):
                asks = await fake.pending_asks(directory)
                return reply([_wire_ask(ask) for ask in asks if ask.kind == kind])
            case "POST", (("question", ask_id, "reject") | ("permission", ask_id, "reply")):
                found_asks = [ask for ask in await fake.pending_asks(directory) if ask.id == ask_id]
                assert request.path[0] == "question" or json.loads(request.body) == {"reply": "reject"}
                if not found_asks:
                    return reply({"name": "NotFoundError"}, status=404)
                await fake.reject(fake.served, found_asks[0], directory)
                return reply(body=True)
            case "POST", ("session", session_id, "abort"):
                await fake.abort(fake.served, SessionId(session_id), directory)
                return reply(body=True)
            case _, ("session", session_id, *rest):
                return await _respond_messages(fake, request, SessionId(session_id), rest)
    except ServerAnswerInvalid:
        return reply({"name": "SessionBusyError"}, status=409)
    except ServerError:
        return reply({"name": "UnknownError"}, status=500)
    return reply(b"<html></html>", content_type="text/html")


async def _respond_messages(fake: FakeServer, request: Request, session_id: SessionId, rest: list[str]) -> bytes:
    directory = request.directory or ""
    match request.method, rest:
        case "GET", ["message"]:
            readable = await fake.readable(fake.served, session_id, directory)
            return reply([], status=200 if readable else 400)
        case "GET", ["message", turn_id]:
            copy = await fake.copy(session_id, TurnId(turn_id), directory)
            if copy is None:
                return reply({"name": "NotFoundError"}, status=404)
            info, *parts = [_wire_row(row) for row in copy]
            return reply({"info": info, "parts": parts})
        case "DELETE", ["message", message_id]:
            await fake.delete_message(fake.served, session_id, message_id, directory)
            return reply(body=True)
        case "PATCH", ["message", turn_id, "part", part_id]:
            data = json.loads(request.body)
            assert (data.pop("id"), data.pop("messageID"), data.pop("sessionID")) == (part_id, turn_id, session_id)
            row = Row(
                table="part", id=part_id, message_id=TurnId(turn_id), session_id=session_id,
                created_ms=0, updated_ms=0, data=json.dumps(data),
            )  # fmt: skip
            await fake.publish(fake.served, row, directory)
            return reply(data)
    return reply({"name": "NotFoundError"}, status=404)


def _wire_row(row: Row) -> dict[str, object]:
    ids = {"id": row.id, "sessionID": row.session_id} | ({"messageID": row.message_id} if row.table == "part" else {})
    return {**json.loads(row.data), **ids}


def _wire_status(status: Status) -> dict[str, object]:
    if status.activity is Activity.RETRY:
        return {"type": "retry", "attempt": 1, "message": "later", "next": status.retry_at_ms}
    return {"type": status.activity.value}


def _wire_ask(ask: Ask) -> dict[str, object]:
    tool = {"messageID": ask.turn_id, "callID": ask.call_ref} if ask.turn_id else None
    return {"id": ask.id, "sessionID": ask.session_id, **({"tool": tool} if tool else {})}
