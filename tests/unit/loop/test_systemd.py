"""What systemd is told, over a real socket, and that it is told of life only while the loop really ticks."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from tests.fakes.clock import FakeClock
from tests.unit.observations import AT, POLICY, busy, call, observation, session
from watchdog.errors import DatabaseUnavailable, JournalUnusable
from watchdog.judging.judge import judge
from watchdog.loop.systemd import Supervisor, socket_address, supervised, watchdog_seconds
from watchdog.model.report import Observation
from watchdog.timing.clock import Advance
from watchdog.timing.events import Assessment

STUCK = observation(session(calls=[call(age=61)]), reports=[busy("ses_1")])
QUIET = observation()


def seen(look: Observation) -> Assessment:
    return Assessment(observation=look, judgement=judge(look, POLICY, AT), advance=Advance(), began_at=0.0)


def made(clock: FakeClock, *, dry_run: bool = False) -> tuple[Supervisor, list[str]]:
    told: list[str] = []
    return Supervisor(told.append, clock=clock, poll_interval_seconds=5, dry_run=dry_run), told


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def heard(systemd: socket.socket) -> list[str]:
    return systemd.recv(4096).decode().splitlines()


def test_the_first_tick_says_ready_and_the_status_is_told_when_it_changes() -> None:
    supervisor, told = made(FakeClock())
    for look in (QUIET, QUIET, STUCK, STUCK):
        supervisor.looked(seen(look), acting=True)
    supervisor.looked(seen(STUCK), acting=False)
    assert told == [
        "READY=1\nSTATUS=watching: 0 unfinished sessions, 0 stuck",
        "STATUS=watching: 1 unfinished sessions, 1 stuck",
        "STATUS=another watchdog acts; this one looks: 1 unfinished sessions, 1 stuck",
    ]


def test_a_dry_run_says_so() -> None:
    supervisor, told = made(FakeClock(), dry_run=True)
    supervisor.looked(seen(QUIET), acting=True)
    assert told == ["READY=1\nSTATUS=dry run: 0 unfinished sessions, 0 stuck"]


def test_an_outage_is_a_status_without_the_path() -> None:
    supervisor, told = made(FakeClock())
    supervisor.unavailable(DatabaseUnavailable("The database /home/ann/x is locked."), 5)
    supervisor.unavailable(JournalUnusable("The journal /home/ann/y is full."), 5)
    assert told == [
        "READY=1\nSTATUS=the database can't be used; trying again",
        "STATUS=the journal can't be used; trying again",
    ]


async def test_it_is_told_to_be_alive_while_the_loop_ticks_and_no_longer() -> None:
    clock = FakeClock()
    supervisor, told = made(clock)
    task = asyncio.create_task(supervisor.keep_alive(20))

    async def beats_in(seconds: float) -> int:
        before = told.count("WATCHDOG=1")
        for _ in range(int(seconds // 20)):
            await clock.until_sleeping()
            clock.advance(20)
            await asyncio.sleep(0)
        await clock.until_sleeping()
        return told.count("WATCHDOG=1") - before

    assert await beats_in(20) == 0, "before the first tick"
    supervisor.looked(seen(QUIET), acting=True)
    assert await beats_in(20) == 1
    assert await beats_in(80) == 0, "30 s after the last tick it is not alive any more"
    supervisor.unavailable(DatabaseUnavailable("locked"), 60)
    assert await beats_in(80) == 4, "a loop that waits before it tries again is alive"
    assert await beats_in(80) == 0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_over_a_real_socket(systemd: socket.socket) -> None:
    stop, clock = anyio.Event(), FakeClock()
    environ = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    async with supervised(environ, stop=stop, clock=clock, poll_interval_seconds=5) as (listener,):
        listener.looked(seen(QUIET), acting=True)
        assert heard(systemd) == ["READY=1", "STATUS=watching: 0 unfinished sessions, 0 stuck"]
        await clock.until_sleeping()
        assert clock.sleeps == [15]
        clock.advance(15)
        await clock.until_sleeping()
        assert heard(systemd) == ["WATCHDOG=1"]
        stop.set()
        assert await asyncio.to_thread(heard, systemd) == ["STOPPING=1", "STATUS=stopping"]


async def test_without_a_socket_nothing_happens() -> None:
    async with supervised({}, stop=anyio.Event(), clock=FakeClock(), poll_interval_seconds=5) as listeners:
        assert listeners == ()


async def test_nobody_at_the_socket_is_logged_once_and_stops_nothing(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with capture_logs() as lines:
        async with supervised(environ, stop=anyio.Event(), clock=FakeClock(), poll_interval_seconds=5) as (listener,):
            listener.looked(seen(QUIET), acting=True)
            listener.looked(seen(STUCK), acting=True)
    assert [(line["event"], line["why"]) for line in lines] == [
        ("supervisor.unreachable", "NOTIFY_SOCKET: no such file or directory")
    ]


@pytest.mark.parametrize(
    ("named", "address"), [("/run/notify", "/run/notify"), ("@abstract", "\0abstract"), ("", None), ("notify", None)]
)
def test_the_address_is_a_path_or_an_abstract_name(named: str, address: str | None) -> None:
    assert socket_address({"NOTIFY_SOCKET": named}) == address
    assert socket_address({}) is None


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_how_long_it_may_be_silent(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environ, 7) == seconds
