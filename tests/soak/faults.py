"""Faults, made for real: signals, locks, and a proxy that misbehaves."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.soak.churn import Stage
from tests.soak.proxy import Mode, Proxy
from tests.soak.schedule import Fault, Trouble
from tests.support.watchdog_run import Running, Watchdog

_MODES: Final = {Fault.CUT: Mode.CUT, Fault.ERRORS: Mode.ERRORS, Fault.HALVES: Mode.HALVES}
_LOCKER: Final = """\
import sqlite3, sys, time
database, kind, seconds = sys.argv[1:]
connection = sqlite3.connect(database, timeout=20, isolation_level=None)
connection.execute("BEGIN " + kind)
time.sleep(float(seconds))
connection.execute("ROLLBACK")
connection.close()
"""
_VITALS_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What a process has."""

    descriptors: int
    threads: int
    children: int
    megabytes: float

    def __str__(self) -> str:
        return f"{self.descriptors} fds, {self.threads} threads, {self.children} children, {self.megabytes:.0f} MB"


@dataclass
class Kennel:
    """The watchdog process, whichever runs now, and what each of them had."""

    watchdog: Watchdog
    logs: list[Path] = field(default_factory=list)
    vitals: list[list[Vitals]] = field(default_factory=list)
    running: Running | None = None

    async def start(self) -> None:
        """Start one and wait for its first look."""
        self.running = self.watchdog.run()
        self.vitals.append([])
        await self.running.__aenter__()
        assert self.running._log is not None
        self.logs.append(self.running._log)

    @property
    def process_id(self) -> int:
        """The process that runs now."""
        assert self.running is not None
        assert self.running.process.poll() is None, f"the watchdog ended by itself\n{self.running.tail()}"
        return self.running.process.pid

    def kill(self) -> None:
        """`kill -9`."""
        os.kill(self.process_id, signal.SIGKILL)
        assert self.running is not None
        self.running.process.wait(timeout=60)

    async def keep_vitals(self) -> None:
        """Note, every other second, what it has."""
        while True:
            with suppress(psutil.Error, AssertionError):
                self.vitals[-1].append(look_at(self.process_id))
            await asyncio.sleep(_VITALS_SECONDS)


def look_at(process_id: int) -> Vitals:
    """What a process has now."""
    process = psutil.Process(process_id)
    with process.oneshot():
        return Vitals(
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            children=len(process.children(recursive=True)),
            megabytes=process.memory_info().rss / 1e6,
        )


@dataclass
class Mischief:
    """Carries schedules out."""

    stage: Stage
    kennel: Kennel
    proxy: Proxy
    began: float = field(default_factory=time.monotonic)

    async def follow(self, schedule: list[Trouble], say: Callable[[str], None]) -> None:
        """One fault after the other, each at its time or, on a slow machine, as soon as the one before it ended."""
        for trouble in schedule:
            await asyncio.sleep(max(0.0, self.began + trouble.at - time.monotonic()))
            say(f"{time.monotonic() - self.began:7.1f} s  {trouble.fault.value}, {trouble.seconds:.1f} s")
            await self._make(trouble)
            self.stage.counts[f"fault: {trouble.fault.value}"] += 1

    async def _make(self, trouble: Trouble) -> None:
        match trouble.fault:
            case Fault.STOP_WATCHDOG:
                await self._stopped(asyncio.sleep(trouble.seconds))
            case Fault.KILL_WATCHDOG:
                self.kennel.kill()
                await asyncio.sleep(trouble.seconds)
                await self.kennel.start()
            case Fault.KILL_SERVER:
                await self._kill_server(trouble.seconds)
            case Fault.KILL_UNSEEN:
                await self._stopped(self._kill_server(trouble.seconds))
            case Fault.LOCK:
                await self._lock(trouble.seconds)
            case network:
                await self.proxy.misbehave(_MODES[network], trouble.seconds)

    async def _stopped(self, meanwhile: Awaitable[None]) -> None:
        process_id = self.kennel.process_id
        os.kill(process_id, signal.SIGSTOP)
        try:
            await meanwhile
        finally:
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGCONT)

    async def _kill_server(self, pause: float) -> None:
        stage = self.stage
        stage.up.clear()
        stage.server.kill9()
        stage.crashes_ms.append(int(time.time() * 1000))
        await asyncio.sleep(pause)
        stage.server = await stage.server.restart()
        stage.up.set()

    async def _lock(self, seconds: float) -> None:
        lab = self.stage.lab
        kind = "EXCLUSIVE" if self.stage.counts[f"fault: {Fault.LOCK.value}"] % 2 else "IMMEDIATE"
        command = [sys.executable, "-c", _LOCKER, str(lab.database), kind, str(seconds)]
        locker = lab.start(command, lab.home / "locker.log")
        code = await asyncio.to_thread(locker.wait, seconds + 60)
        assert code == 0, (lab.home / "locker.log").read_text()
