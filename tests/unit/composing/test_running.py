"""What a command says of a running watchdog that takes a request, and gives no answer to it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from watchdog.composing import own_socket, running
from watchdog.composing.own_socket import Running
from watchdog.composing.running import RunningWatchdog
from watchdog.errors import NoSuchSession, ServerUnreachable
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


async def test_what_was_done_is_read_page_by_page_and_no_further_than_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pages: dict[str, tuple[list[str], str | None]] = {
        "/api/v1/interventions?limit=200&session_id=ses_1": (["03.000", "02.000"], "/api/v1/next"),
        "/api/v1/next": (["01.000", "00.500"], "/api/v1/last"),
        "/api/v1/last": (["00.250"], None),
    }
    asked = list[str]()

    async def page(_: object, method: str, path: str) -> dict[str, object]:
        assert method == "GET"
        asked.append(path)
        seconds, following = pages[path]
        done = [{"began_at": f"1970-01-01T00:00:{each}Z"} for each in seconds]
        whole = {"version": 1, "database": "/d", "journal": "/j", "interventions": done, "on_hold": []}
        return {**whole, "next": following}

    monkeypatch.setattr(running, "_asked", page)
    dog = RunningWatchdog(at=Running(pid=7, path=tmp_path), status={})
    everything = await dog.history(ID, since_ms=None)
    assert len(everything["interventions"]) == 5
    assert "next" not in everything
    del asked[:]
    lately = await dog.history(ID, since_ms=1000)
    assert [each["began_at"][-7:] for each in lately["interventions"]] == ["03.000Z", "02.000Z", "01.000Z"]
    assert len(asked) == 2
    with pytest.raises(NoSuchSession):
        await dog.history(SessionId("no id&limit=1"), since_ms=None)
