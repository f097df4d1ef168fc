"""The commands that an opencode of this user left over, and a signal to one of them."""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio.to_thread

from watchdog.judging.leftovers import SLACK_MS, left_over, place
from watchdog.model.leftovers import Command, CommandCall, Commands, LeftOver, Member
from watchdog.model.report import Holders
from watchdog.opencode.processes.commands import Table, commands, members_of, read_table, send
from watchdog.opencode.processes.holders import FOREIGN_PROC, own_namespace
from watchdog.ports import Clock

PLATFORM: str = sys.platform
_LONGEST_TURN_MS: Final = 24 * 60 * 60 * 1000
"""A call's turn began at most so much earlier than its command."""
_ENDING_MS: Final = 10_000
"""A call that ended less than this ago may still be ending its command."""
_EVER_MS: Final = 2**53
"""Later than any call: the wall clock may have been set back since a call began."""
_BLIND: Final = "who has opencode's database open can't be told, so an opencode may run in it"

Calls = Callable[[Sequence[tuple[int, int]]], Awaitable[Sequence[CommandCall]]]


class ProcessCommands:
    """See `ports.Processes` for the meaning of each method.

    Args:
        database: opencode's, whose owner is the user that its opencode runs as.
        calls: reads the calls that run a command, in the turns that began within some spans of wall time.
        holders: looks up who has the database open.
        clock: on Linux its running clock must be CLOCK_BOOTTIME, in which the kernel tells births.
    """

    def __init__(
        self, *, database: Path, calls: Calls, holders: Callable[[], Awaitable[Holders]], clock: Clock
    ) -> None:
        self._database = database
        self._calls = calls
        self._holders = holders
        self._clock = clock

    async def look(self, *, since_ms: int | None = None, to_tell: bool = False) -> Commands:
        """See `Processes.look`.

        Raises:
            DatabaseError: the database can't be read.
        """
        if PLATFORM != "linux":
            return Commands(problems=("Left-over commands can be told on Linux only.",))
        if own_namespace() is None:
            return Commands(problems=(FOREIGN_PROC,))
        try:
            return await self._look(since_ms, to_tell=to_tell)
        except OSError as error:
            # It only tells of something: a call is settled, whether or not anybody can.
            return Commands(problems=(f"The processes can't be looked at ({type(error).__name__}).",))

    async def _look(self, since_ms: int | None, *, to_tell: bool) -> Commands:
        table = await anyio.to_thread.run_sync(read_table)
        # Whoever has the database open is looked up only if there is something to tell from an opencode.
        holders = await self._holders() if table.marks and not to_tell else Holders()
        pids = frozenset(each.pid for each in holders.known)
        seen = await anyio.to_thread.run_sync(commands, table, self._clock.read(), pids)
        if holders.failed:
            seen = tuple(replace(each, keep=each.keep or _BLIND) for each in seen)
        blind = holders.why_incomplete if holders.failed else None
        # The rows come after the processes: a call that is open then was open while its command was looked at.
        now = self._clock.read()
        young = [each for each in seen if since_ms is None or each.born_ms >= since_ms - SLACK_MS]
        calls = await self._calls_of(young)
        problems = await anyio.to_thread.run_sync(self._problems, table, young)
        placed, unplaced = place(young, calls)
        left = left_over(young, calls, ended_by_ms=now.wall_ms - _ENDING_MS)
        return Commands(
            left=left,
            problems=(*problems, *([blind] if blind else [])),
            complete=not (table.hides or table.elsewhere) and self._is_ours(),
            placed=placed,
            unplaced=unplaced,
            refusal=blind,
        )

    async def _calls_of(self, seen: Sequence[Command]) -> Sequence[CommandCall]:
        spans = _spans(seen)
        found = await self._calls(spans) if spans else ()
        return await anyio.to_thread.run_sync(lambda: [_in_real_folders(each) for each in found])

    def _problems(self, table: Table, seen: Sequence[Command]) -> tuple[str, ...]:
        found = []
        if table.hides:
            found.append("/proc hides processes of other users (hidepid).")
        if table.others:
            found.append(f"{_processes(table.others)} of other users were not looked at.")
        if table.elsewhere:
            found.append("Commands may run in another pid namespace, such as a container's, and are not looked at.")
        if table.unreadable:
            found.append(f"What {_processes(len(table.unreadable))} of this user started can't be read.")
        unknown = sorted({each.opencode_pid for each in seen if each.opencode_lives is None})
        found += [f"Whether opencode (process {pid}) goes on can't be told: it is another user's." for pid in unknown]
        if not self._is_ours():
            found.append(f"{self._database} belongs to another user: look for what is left over as that user.")
        return tuple(found)

    def _is_ours(self) -> bool:
        try:
            return self._database.stat().st_uid == os.geteuid()
        except OSError:
            return False

    async def members(self, left: LeftOver) -> tuple[Member, ...]:
        """See `Processes.members`."""
        return await anyio.to_thread.run_sync(members_of, left)

    async def send(self, left: LeftOver, member: Member, *, kill: bool) -> bool:
        """See `Processes.send`."""
        number = signal.SIGKILL if kill else signal.SIGTERM
        return await anyio.to_thread.run_sync(send, left, member, number)


def _spans(seen: Sequence[Command]) -> list[tuple[int, int]]:
    """The spans of wall time in which the turns began whose calls may have started some commands."""
    spans: list[tuple[int, int]] = []
    for each in sorted(seen, key=lambda each: each.born_ms):
        begin, end = each.born_ms - _LONGEST_TURN_MS, each.born_ms + SLACK_MS
        if each.opencode_lives and each.opencode_holds:
            end = _EVER_MS
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((begin, end))
    return spans


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _in_real_folders(call: CommandCall) -> CommandCall:
    """The kernel names a folder without symbolic links."""
    return replace(call, folders=frozenset(map(os.path.realpath, call.folders)))
