"""Which process is at the other end of a connection."""

import asyncio
import os
import socket
from pathlib import Path

import psutil
import pytest

from tests.fakes.server import endpoint
from tests.support.recorder import recorder
from watchdog.model.report import Holder
from watchdog.opencode.http.peers import Ends, is_holder, listens, other_end, party_behind, party_of


def ends_of(connection: socket.socket) -> Ends:
    near, far = connection.getsockname(), connection.getpeername()
    return Ends(near=endpoint(near[1], near[0]), far=endpoint(far[1], far[0]))


async def test_it_is_the_process_that_accepted_the_connection_and_nobody_before_that() -> None:
    us = party_of(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert await other_end(ends_of(client), None, thorough=True) is None
        accepted, _ = server.accept()
        with accepted:
            for expected, thorough in ((us, False), (None, True)):
                found = await other_end(ends_of(client), expected, thorough=thorough)
                assert found is not None
                assert found.process.pid == os.getpid()
            assert await other_end(ends_of(client), None, thorough=False) is None


async def test_another_process_is_named_where_one_was_expected(tmp_path: Path) -> None:
    with recorder(tmp_path, "open") as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(b"GET /global/health HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        found = await other_end(ends_of(writer.get_extra_info("socket")), party_of(os.getpid()), thorough=True)
        assert found is not None
        assert found.process.pid == there.process.pid
        writer.close()
        await writer.wait_closed()


async def test_where_the_system_tells_of_one_process_at_a_time_each_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    await test_another_process_is_named_where_one_was_expected(tmp_path)


async def test_a_connection_to_another_machine_has_nobody_here_at_its_end() -> None:
    elsewhere = Ends(near=endpoint(50_000), far=endpoint(4096, "203.0.113.9"))
    assert not elsewhere.here
    assert await other_end(elsewhere, None, thorough=True) is None


def test_a_holder_is_who_it_was_by_pid_and_birth() -> None:
    us = party_of(os.getpid())
    assert us is not None
    born_ms = round(us.process.create_time() * 1000)
    holder = Holder(pid=os.getpid(), born_ms=born_ms, command="x")
    assert party_behind(holder) is not None
    assert party_behind(Holder(pid=os.getpid(), born_ms=born_ms - 10_000, command="x")) is None
    assert party_behind(Holder(pid=2**22 + 1, born_ms=born_ms, command="x")) is None
    assert not is_holder(us, Holder(pid=1, born_ms=born_ms, command="x"))


def test_a_process_that_is_dead_and_not_yet_buried_listens_nowhere(tmp_path: Path) -> None:
    with recorder(tmp_path, "open") as there:
        party = party_of(there.process.pid)
        assert party is not None
        assert listens(party, there.port)
        assert not listens(party, there.port + 1)
        there.process.kill()
        os.waitid(os.P_PID, there.process.pid, os.WEXITED | os.WNOWAIT)
        assert party_of(there.process.pid) is None
        assert not listens(party, there.port)


def test_an_interpreter_is_the_program_that_it_runs(tmp_path: Path) -> None:
    with recorder(tmp_path, "open") as one, recorder(tmp_path, "open", name="two") as two:
        programs = {party.program for each in (one, two) if (party := party_of(each.process.pid)) is not None}
        assert len(programs) == 2
