"""The watchdog as its users run it: a program with a settings file, a log on stderr and an exit code."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import coverage

from tests.support.forked import PROGRAM, Process
from tests.support.opencode import Lab, Server
from tests.support.waiting import SECONDS, wait_until

Json = dict[str, Any]
Setting = str | int | float | bool | list[str] | dict[str, str | int | float]

COMMAND_SECONDS: Final = 120.0
STOP_SECONDS: Final = 60.0
OUT_OF_REACH: Final = 600
FORGOTTEN_GRACE: Final = 2
"""The `abort_grace` for servers that forget what they abort: all of it is waited for what stays open."""

_PROJECT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Json:
        """Its standard output, which must be one JSON document."""
        try:
            document: Json = json.loads(self.stdout)
        except json.JSONDecodeError as error:
            raise AssertionError(f"not JSON ({error}); exit code {self.code}\n{self}") from None
        return document


@dataclass
class Watchdog:
    """A watchdog for one laboratory: its settings file, and the commands run with it."""

    lab: Lab
    config: Path
    runs: int = 0

    @classmethod
    def for_lab(cls, lab: Lab, *servers: Server, **settings: Setting) -> "Watchdog":
        """Write a settings file: fast polls, limits out of reach, no discovery, and what is told otherwise."""
        merged: dict[str, Setting] = {
            "database": str(lab.database),
            "servers": [server.url for server in servers],
            "discover": False,
            "poll_interval": 0.25,
            "tool_timeout": OUT_OF_REACH,
            "task_timeout": OUT_OF_REACH,
            "idle_timeout": OUT_OF_REACH,
            "declared_timeout_grace": 1,
            "abort_timeout": SECONDS,
            "abort_grace": SECONDS,
            "orphan_grace": 1,
            "birth_margin": 2,
            "log_format": "json",
            "log_level": "debug",
            **settings,
        }
        config = lab.home / "watchdog.toml"
        config.write_text(to_toml(merged))
        return cls(lab=lab, config=config)

    async def command(self, command: str, *arguments: str, seconds: float = COMMAND_SECONDS) -> Finished:
        """Run one command to its end."""
        line = [*_python(), command, *arguments, "--config", str(self.config)]
        self.runs += 1
        output, log = self._files(command)
        process = self.lab.start(line, log, output=output, extra=_environment(), folder=self.lab.home)
        try:
            code = await asyncio.to_thread(process.wait, seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{command} took more than {seconds:g} s\n{log.read_text()}") from None
        return Finished(code=code, stdout=output.read_text(), stderr=log.read_text())

    def run(self, *arguments: str) -> "Running":
        """`async with watchdog.run() as running:` watches until the block ends, and must then end with 0."""
        return Running(watchdog=self, arguments=arguments)

    def _files(self, command: str) -> tuple[Path, Path]:
        """Where it writes: files of its own, also beside another watchdog of the same laboratory."""
        names = (self.lab.home / f"{self.config.stem}-{command}-{self.runs + more}" for more in itertools.count())
        free = next(name for name in names if not name.with_suffix(".log").exists())
        return free.with_suffix(".out"), free.with_suffix(".log")


@dataclass
class Running:
    """A `watchdog run` and the log that it writes."""

    watchdog: Watchdog
    arguments: tuple[str, ...] = ()
    _process: Process | None = None
    _log: Path | None = None
    _lines: list[Json] = field(default_factory=list)
    _other: list[str] = field(default_factory=list)
    _offset: int = 0

    async def __aenter__(self) -> Self:
        watchdog = self.watchdog
        watchdog.runs += 1
        output, self._log = watchdog._files("run")
        line = [*_python(), "run", "--config", str(watchdog.config), *self.arguments]
        self._process = watchdog.lab.start(
            line, self._log, output=output, extra=_environment(), folder=watchdog.lab.home
        )
        await self.wait_for("watch.looked", what="the first look")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        code = await self.stop()
        if kind is None:
            assert code == 0, f"the watchdog ended with {code}\n{self.tail()}"

    async def stop(self) -> int:
        """SIGTERM, and the exit code; it must end within its grace."""
        process = self.process
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        try:
            return await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"did not end within {STOP_SECONDS:g} s of SIGTERM\n{self.tail()}") from None

    @property
    def process(self) -> Process:
        """The process itself."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    @property
    def lines(self) -> list[Json]:
        """All log lines so far, each a JSON object."""
        if self._log is not None:
            with self._log.open("rb") as log:
                log.seek(self._offset)
                whole = log.read().rpartition(b"\n")[0]
            self._offset += len(whole) + 1 if whole else 0
            for line in whole.decode(errors="replace").splitlines():
                self._keep(line)
        return self._lines

    def _keep(self, line: str) -> None:
        try:
            document = json.loads(line)
        except json.JSONDecodeError:
            document = None
        if isinstance(document, dict):
            self._lines.append(document)
        elif line.strip():
            self._other.append(line)

    def events(self, name: str) -> list[Json]:
        """The log lines of that event so far."""
        return [line for line in self.lines if line.get("event") == name]

    def outcomes(self, session_id: str | None = None) -> list[Json]:
        """The interventions so far, in one session or all."""
        return [line for line in self.events("outcome") if session_id in {None, line.get("session_id")}]

    def acts(self, session_id: str | None = None) -> list[Json]:
        """The outcomes without the harmless ones: `unchanged` says that there was nothing left to do."""
        return [line for line in self.outcomes(session_id) if line["result"] != "unchanged"]

    async def wait_for(
        self,
        event: str,
        wanted: Callable[[Json], bool] = lambda _: True,
        *,
        what: str | None = None,
        seconds: float = SECONDS,
    ) -> Json:
        """The first log line, past or to come, of that event that is wanted."""

        def look() -> Json | None:
            found = next((line for line in self.events(event) if wanted(line)), None)
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"the watchdog ended with {self.process.returncode}\n{self.tail()}")
            return found

        return await wait_until(look, what or f"log event {event}", seconds=seconds, explain=self.tail)

    async def wait_outcome(
        self, session_id: str, result: str, *, kind: str | None = None, seconds: float = SECONDS
    ) -> Json:
        """The first outcome of that session with that result."""

        def wanted(line: Json) -> bool:
            right = line.get("session_id") == session_id and line.get("result") == result
            return right and kind in {None, line.get("kind")}

        what = f"the outcome {result} ({kind or 'any kind'}) of {session_id}"
        return await self.wait_for("outcome", wanted, what=what, seconds=seconds)

    async def wait_looks(self, count: int, *, seconds: float = SECONDS) -> None:
        """Wait until it looked that many times more."""
        target = len(self.events("watch.looked")) + count

        def look() -> bool:
            assert self.process.poll() is None, f"the watchdog ended\n{self.tail()}"
            return len(self.events("watch.looked")) >= target

        await wait_until(look, f"{count} more looks", seconds=seconds, explain=self.tail)

    async def wait_spared(self, reason: str, part_id: str) -> Json:
        """The first look, past or to come, that left this call alone for this reason."""

        def wanted(line: Json) -> bool:
            return any((spared["reason"], spared["part_id"]) == (reason, part_id) for spared in line["spared"])

        return await self.wait_for("watch.looked", wanted, what=f"{part_id} to be spared: {reason}")

    async def watch_for(self, seconds: float) -> None:
        """Let it watch for that long: not a wait for luck, but the time in which it must not act."""
        await asyncio.sleep(seconds)
        await self.wait_looks(2)

    def tail(self) -> str:
        """What it logged last, for a failure's message."""
        kept = [json.dumps(line) for line in self.lines if line.get("event") != "watch.looked"]
        return "\n".join([*self._other[-40:], *kept[-30:]])


def to_toml(settings: Mapping[str, Setting]) -> str:
    """Flat settings as TOML; tables last, as TOML wants it. JSON's strings, numbers and lists are TOML's."""
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items() if name not in tables]
    for name, table in tables.items():
        lines.append(f"\n[{name}]")
        lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _python() -> list[str]:
    """How to start the watchdog: under coverage when this process is."""
    if coverage.Coverage.current() is None:
        return [*PROGRAM]
    rcfile = f"--rcfile={_PROJECT / 'pyproject.toml'}"
    data = f"--data-file={_PROJECT / '.coverage'}"
    return [sys.executable, "-m", "coverage", "run", rcfile, data, "--parallel-mode", "-m", "watchdog"]


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(_PROJECT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
