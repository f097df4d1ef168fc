"""A TCP proxy on the loopback, in the way of a client and its server: it can fall silent, and it can cut."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

CHUNK: Final = 65536


class TcpProxy:
    """Passes on what comes to its port. A context manager that closes everything.

    While it is frozen, what was sent arrives nowhere and nobody is told: connections are taken, and stay silent. What
    was sent meanwhile arrives after the thaw, late, as a network may deliver it.

    Args:
        port: of the server, on 127.0.0.1.

    Attributes:
        port: where clients connect.
        kept_back: whether anything waits for the thaw.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self._behind = port
        self.kept_back = False
        self._questions, self._answers = asyncio.Event(), asyncio.Event()
        self.thaw()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()
        await self._server.wait_closed()

    def freeze(self) -> None:
        """Pass on nothing more."""
        self._questions.clear()
        self._answers.clear()

    def freeze_answers(self) -> None:
        """Pass on nothing more of what the server says."""
        self._answers.clear()

    def thaw(self) -> None:
        """Pass on again, first what was kept back."""
        self.kept_back = False
        self._questions.set()
        self._answers.set()

    def cut(self) -> None:
        """Break every connection, of both sides."""
        for writer in self._writers:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._let_through(self._questions)
            behind_reader, behind = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(behind)
        try:
            await asyncio.gather(
                self._pass_on(reader, behind, self._questions), self._pass_on(behind_reader, writer, self._answers)
            )
        finally:
            for each in (writer, behind):
                each.transport.abort()
                self._writers.discard(each)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._let_through(gate)
                writer.write(data)
                await writer.drain()
        await self._let_through(gate)
        with suppress(OSError):
            writer.write_eof()

    async def _let_through(self, gate: asyncio.Event) -> None:
        self.kept_back = self.kept_back or not gate.is_set()
        await gate.wait()
