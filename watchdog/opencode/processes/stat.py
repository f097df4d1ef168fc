"""A process as the kernel describes it in one line: its parent, its session, its birth."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchdog.ports import Reading

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_ENDED: Final = frozenset("ZXx")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stat:
    """What `/proc/PID/stat` says.

    Attributes:
        session: the process that leads its session (`setsid`).
        terminal: it has a terminal.
        birth: when it started, in ticks since the boot. With the pid it is a process's identity.
        ended: it ended, and its parent has not noticed.
    """

    pid: int
    parent: int
    session: int
    terminal: bool
    birth: int
    memory_bytes: int
    ended: bool

    @property
    def leads(self) -> bool:
        """Whether it leads its session."""
        return self.pid == self.session


def read_stat(pid: int) -> Stat:
    """Read it.

    Raises:
        OSError: there is no such process, or it is hidden.
    """
    # The program's name is in parentheses and may hold any character; the rest comes after it.
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    return Stat(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        terminal=fields[4] != "0",
        birth=int(fields[19]),
        memory_bytes=int(fields[21]) * _PAGE,
        ended=fields[0] in _ENDED,
    )


def born_ms(birth: int, now: Reading) -> int:
    """A birth in ticks, by the wall clock as it is set now; on Linux `now.running_seconds` counts from the boot."""
    return round(now.wall_ms - (now.running_seconds - birth / _TICKS_PER_SECOND) * 1000)
