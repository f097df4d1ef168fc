"""What a command says of a running watchdog that takes a request, and gives no answer to it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from watchdog.composing import own_socket
from watchdog.composing.running import RunningWatchdog
from watchdog.errors import ServerUnreachable
from watchdog.model.interventions import InterventionId
from watchdog.model.session import SessionId

ID = SessionId("ses_1")
DEEDS: tuple[Callable[[RunningWatchdog], Awaitable[object]], ...] = (
    lambda dog: dog.release(ID, reason=None, below=False),
    lambda dog: dog.undo(InterventionId(1)),
    lambda dog: dog.hold(ID, length_ms=None),
    lambda dog: dog.unhold(ID),
    lambda dog: dog.delete_message(ID, "msg_1"),
)


async def said_of(ask: Callable[[RunningWatchdog], Awaitable[object]], home: Path, *, answer: bytes) -> str:
    """The sentence about a watchdog that answers so, and hangs up."""

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    own = own_socket.listen(home / "opencode.db", {}, home)
    async with await asyncio.start_unix_server(end, sock=own.listener):
        (at,) = own_socket.running(home / "opencode.db", {}, home)
        with pytest.raises(ServerUnreachable) as caught:
            await ask(RunningWatchdog(at=at, status={}))
    own.close()
    return str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", b"nonsense\r\n\r\n"])
async def test_a_deed_whose_answer_is_lost_may_have_been_done_and_the_command_says_so(
    tmp_path: Path, answer: bytes
) -> None:
    for deed in DEEDS:
        assert (await said_of(deed, tmp_path, answer=answer)).endswith("It may have been done: `history` shows it.")
    assert "may have been done" not in await said_of(lambda dog: dog.sessions(), tmp_path, answer=answer)


async def test_a_deed_that_never_reached_it_was_not_done(tmp_path: Path) -> None:
    own = own_socket.listen(tmp_path / "opencode.db", {}, tmp_path)
    (at,) = own_socket.running(tmp_path / "opencode.db", {}, tmp_path)
    own.close()
    for deed in DEEDS:
        with pytest.raises(ServerUnreachable, match=r"gives no answer: No such file or directory\.$"):
            await deed(RunningWatchdog(at=at, status={}))
