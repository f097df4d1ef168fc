"""The course of the demo: begin the stories, have them watched, wait for what must happen, and check the rows."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup
from rich.console import Console
from structlog.testing import LogCapture

from watchdog import Watchdog, running
from watchdog.demo.board import Board
from watchdog.demo.book import Book, Scene, open_book
from watchdog.demo.host import DemoHost
from watchdog.demo.screen import Screen
from watchdog.demo.stories import SETTINGS, Finding, begin_all, examine_all
from watchdog.model.session import SessionId
from watchdog.ports import Clock, Host
from watchdog.timing.clock import SystemClock

MakeHost = Callable[[Book, Clock, TaskGroup], DemoHost]

INTERRUPTED = 130
_FRAME_SECONDS = 0.1
_QUIET_LEVELS = {"debug", "info"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long the demo takes, in seconds.

    Attributes:
        quiet_seconds: how long it watches on after everything that must happen has happened.
        longest_seconds: after how long it stops waiting for that.
    """

    quiet_seconds: float = 3.0
    longest_seconds: float = 16.0


@dataclass(kw_only=True, slots=True)
class Stage:
    """One course of the demo.

    Attributes:
        stop: set to end it early.
        began: the reading of the awake clock when the watchdog began.
        before: the rows of every session then.
        findings: how every session reads at the end.
        failure: the error that ended the watchdog, if one did.
    """

    screen: Screen
    clock: Clock
    pace: Pace
    stop: anyio.Event
    board: Board = field(default_factory=Board)
    began: float = 0.0
    before: Mapping[SessionId, Scene] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the watchdog began."""
        return self.clock.read().awake_seconds - self.began

    async def run(self, book: Book, host: Host) -> None:
        """Have the host's sessions watched, and compare every session's rows with how they must read."""
        self.before, self.began = await book.read(), self.clock.read().awake_seconds
        with self.screen:
            try:
                async with running(SETTINGS, host=host, engine=book.engine, listeners=[self.board]) as watchdog:
                    await self._watch(book, watchdog)
            except Exception as error:  # noqa: BLE001 - whatever ended the watchdog: the summary tells it
                self.failure = error
        self.findings = examine_all(self.before, await book.read())

    async def _watch(self, book: Book, watchdog: Watchdog) -> None:
        """Show what happens, until nothing more is expected or it has taken too long."""
        quiet_until: float | None = None
        while watchdog.failure is None and not self.stop.is_set():
            scenes = await book.read()
            self.board.see(scenes)
            missing = _missing(examine_all(self.before, scenes))
            if missing:
                quiet_until = None
            elif quiet_until is None:
                quiet_until = self.elapsed + self.pace.quiet_seconds
            self.screen.show(self.board, scenes, self.elapsed, self._status(missing, quiet_until))
            if self.elapsed >= (self.pace.longest_seconds if quiet_until is None else quiet_until):
                return
            await self.clock.sleep(_FRAME_SECONDS)

    def _status(self, missing: list[str], quiet_until: float | None) -> str:
        if quiet_until is None:
            return f"to come: {', '.join(missing)}"
        left = max(0.0, quiet_until - self.elapsed)
        return f"All that must end has ended. Are the others left alone? {left:.0f} s more."


async def play(
    folder: Path,
    console: Console,
    *,
    stop: anyio.Event | None = None,
    make_host: MakeHost = DemoHost,
    pace: Pace | None = None,
) -> int:
    """Play the demo once.

    Args:
        folder: where its database goes.
        console: where it is shown.
        stop: set to end it early.
        make_host: makes the host that runs the sessions.
        pace: how long it takes.

    Returns:
        0 if exactly the right sessions were ended, by the database; 130 if it was ended early; else 1.
    """
    stage = Stage(screen=Screen(console), clock=SystemClock(), pace=pace or Pace(), stop=stop or anyio.Event())
    with _log_kept() as log:
        async with open_book(folder) as book, anyio.create_task_group() as group:
            host = make_host(book, stage.clock, group)
            await begin_all(host)
            await stage.run(book, host)
            group.cancel_scope.cancel()
    if stage.stop.is_set():
        stage.screen.complain("Stopped.")
        return INTERRUPTED
    right = stage.screen.summary(stage.board, stage.findings, stage.elapsed, failure=stage.failure)
    if right:
        return 0
    for sentence in _told(log):
        stage.screen.complain(sentence)
    return 1


def _missing(findings: list[Finding]) -> list[str]:
    """The names of the sessions that must still end, or finish by themselves."""
    return [each.story.name.removeprefix("└ ") for each in findings if each.story.ending.is_an_end and not each.right]


@contextmanager
def _log_kept() -> Iterator[LogCapture]:
    """Keep the log's lines away from the table while the demo runs; the set-up is restored afterwards."""
    before = structlog.get_config() if structlog.is_configured() else None
    log = LogCapture()
    structlog.configure(processors=[log], cache_logger_on_first_use=False)
    try:
        yield log
    finally:
        structlog.reset_defaults()
        if before is not None:
            structlog.configure(**before)


def _told(log: LogCapture) -> list[str]:
    """The warnings and errors in the log."""
    lines = [line for line in log.entries if line["log_level"] not in _QUIET_LEVELS]
    return [f"log: {line['log_level']} {line['event']} {line.get('why', '')}".rstrip() for line in lines]
