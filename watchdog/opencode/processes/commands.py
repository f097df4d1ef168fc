"""The commands that opencode started, as processes of this user: which there are, and a signal to one of them.

opencode puts `OPENCODE_PID`, its own pid, into the environment of each command, and each command leads a session of
its own. The processes of a session with one `OPENCODE_PID` are one command; a process that dropped the variable
belongs to it if the one that leads the session has it, or if it descends from one that has it.
"""

import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

import psutil

from watchdog.model.leftovers import Command, LeftOver, Member
from watchdog.opencode.processes.holders import INITIAL_NAMESPACE, own_namespace
from watchdog.opencode.processes.listeners import listening_sockets
from watchdog.opencode.processes.stat import Stat, born_ms, read_stat
from watchdog.ports import Reading

_MARK: Final = b"OPENCODE_PID="
_OPENCODES: Final = frozenset({"opencode", "kilo"})
_HANGUP: Final = 1 << (signal.SIGHUP - 1)
_INIT: Final = 1
_LARGEST_PID: Final = 2**22
"""No Linux kernel has a larger one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The processes of this user at one moment.

    Attributes:
        marks: the `OPENCODE_PID` of those that carry one.
        unreadable: those of which nobody can say whether they carry one.
        others: how many processes of other users there are.
        hides: `/proc` shows only a part of the processes.
        elsewhere: commands may run in a pid namespace of which nothing is seen here, such as another container's.
    """

    stats: Mapping[int, Stat]
    marks: Mapping[int, int]
    unreadable: frozenset[int]
    others: int
    hides: bool
    elsewhere: bool

    @property
    def terminals(self) -> frozenset[int]:
        """The processes at a terminal, and all that these descend from."""
        found: set[int] = set()
        for stat in self.stats.values():
            above: Stat | None = stat if stat.terminal and not stat.ended else None
            while above is not None and above.pid not in found:
                found.add(above.pid)
                above = self.stats.get(above.parent)
        return frozenset(found)

    @property
    def opencodes(self) -> frozenset[int]:
        """The processes that started a command, and live."""
        return frozenset(mark for pid, mark in self.marks.items() if lives(mark, self.stats[pid].birth) is not False)

    def groups(self) -> Mapping[tuple[int, int], tuple[Stat, ...]]:
        """The processes of each command, by session and `OPENCODE_PID`: the leader first, then the oldest."""
        found: dict[tuple[int, int], list[Stat]] = {}
        for stat in self.stats.values():
            mark = self._mark_of(stat)
            if mark is not None and not stat.ended:
                found.setdefault((stat.session, mark), []).append(stat)
        return {
            key: tuple(sorted(each, key=lambda stat: (not stat.leads, stat.birth, stat.pid)))
            for key, each in found.items()
        }

    def _mark_of(self, stat: Stat) -> int | None:
        """The `OPENCODE_PID` of a process: its own, its session's leader's, or that of one that it descends from."""
        if (own := self.marks.get(stat.pid)) is not None:
            return own
        if (led := self.marks.get(stat.session)) is not None:
            return led
        seen: set[int] = set()
        above = self.stats.get(stat.parent)
        while above is not None and above.session == stat.session and above.pid not in seen:
            if above.pid in self.marks:
                return self.marks[above.pid]
            seen.add(above.pid)
            above = self.stats.get(above.parent)
        return None


def read_table() -> Table:
    """Read the processes of this user."""
    stats: dict[int, Stat] = {}
    marks: dict[int, int] = {}
    unreadable: set[int] = set()
    others, elsewhere = 0, _namespace("self") != INITIAL_NAMESPACE
    own, namespace = os.geteuid(), _namespace("self")
    for pid in [int(each.name) for each in os.scandir("/proc") if each.name.isdigit()]:
        try:
            if os.stat(f"/proc/{pid}").st_uid != own:  # noqa: PTH116 - there are many
                others += 1
                continue
            stats[pid] = read_stat(pid)
            mark = None if stats[pid].ended else _mark(Path(f"/proc/{pid}/environ").read_bytes())
            if mark is not None and _namespace(pid) == namespace:
                marks[pid] = mark
            elif mark is not None:
                elsewhere = True
        except PermissionError:
            unreadable.add(pid)
        except (OSError, ValueError, IndexError):
            stats.pop(pid, None)  # it has ended meanwhile
    hides = not Path(f"/proc/{_INIT}").exists()
    return Table(
        stats=stats,
        marks=marks,
        unreadable=frozenset(unreadable),
        others=others,
        hides=hides,
        elsewhere=elsewhere,
    )


def _mark(environment: bytes) -> int | None:
    """The pid in `OPENCODE_PID`. Anybody may set that to anything: what is no pid says nothing."""
    for each in environment.split(b"\0"):
        if each.startswith(_MARK):
            value = each.removeprefix(_MARK)
            known = value.isdigit() and len(value) <= len(str(_LARGEST_PID)) and 0 < int(value) <= _LARGEST_PID
            return int(value) if known else None
    return None


def _namespace(pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - there are many


def lives(opencode: int, birth: int) -> bool | None:
    """Whether the opencode of a process goes on; None if nobody can tell.

    A process of that pid that is younger than what it is said to have started is another one.

    Args:
        birth: of the process that it started.
    """
    try:
        stat = read_stat(opencode)
    except (OSError, ValueError, IndexError):
        try:
            os.kill(opencode, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return None
        return None
    return not stat.ended and stat.birth <= birth


def commands(table: Table, now: Reading, holders: Collection[int]) -> tuple[Command, ...]:
    """The commands among some processes.

    Args:
        holders: the processes that have opencode's database open.
    """
    if not table.marks:
        return ()
    opencodes, terminals = table.opencodes | frozenset(holders), table.terminals
    ports, own = _ports(), frozenset(_ancestors(os.getpid()))
    found = []
    for (session, mark), stats in table.groups().items():
        members = tuple(filter(None, map(_member, stats)))
        if not members or not any(each.pid in table.marks for each in members):
            continue
        sockets = frozenset().union(*(_sockets(each.pid) for each in members))
        found.append(
            Command(
                session=session,
                born_ms=born_ms(members[0].birth, now),
                opencode_pid=mark,
                opencode_lives=lives(mark, members[0].birth),
                opencode_holds=mark in holders,
                led=members[0].pid == session,
                members=members,
                listens=tuple(sorted({port for inode, port in ports.items() if inode in sockets})),
                writes=any(_writes(each.pid) for each in members),
                keep=_keep(members, opencodes, own, terminals),
            )
        )
    return tuple(found)


def members_of(left: LeftOver) -> tuple[Member, ...]:
    """The processes of a command that are there now, the first one first, then those that it has started since."""
    command = left.command
    known = {(each.pid, each.birth) for each in command.members}
    table = read_table()
    group = table.groups().get((command.session, command.opencode_pid), ())
    alive = {(stat.pid, stat.birth): stat for stat in table.stats.values() if not stat.ended}
    stats = [alive[key] for each in command.members if (key := (each.pid, each.birth)) in alive]
    stats += [each for each in group if (each.pid, each.birth) not in known and each.birth >= command.first.birth]
    return tuple(filter(None, map(_member, stats)))


def send(left: LeftOver, member: Member, number: signal.Signals) -> bool:  # noqa: ARG001 - no signal without a proof
    """Send a signal to a process of a command that is left over, by pid and birth.

    Returns:
        Whether it was sent: not if the process is gone, or if its pid is another's now, or means nothing here.
    """
    if own_namespace() is None:
        return False
    try:
        handle = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):  # as before Linux 5.3
        return _is_still(member) and _told(lambda: os.kill(member.pid, number))
    try:
        # The handle means one process for good; read after it was opened, the birth says which.
        return _is_still(member) and _told(lambda: signal.pidfd_send_signal(handle, number))
    finally:
        os.close(handle)


def _told(tell: Callable[[], None]) -> bool:
    """Whether a signal was sent: not to a process that has ended, nor to one that nobody may end from here."""
    try:
        tell()
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _is_still(member: Member) -> bool:
    try:
        stat = read_stat(member.pid)
    except (OSError, ValueError, IndexError):
        return False
    return stat.birth == member.birth and not stat.ended


# -- pieces ----------------------------------------------------------------------------------------------------------


def _member(stat: Stat) -> Member | None:
    """A process with what tells it from others; None if it has ended meanwhile."""
    try:
        words = Path(f"/proc/{stat.pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        folder = os.readlink(f"/proc/{stat.pid}/cwd")  # noqa: PTH115 - there are many
        status = Path(f"/proc/{stat.pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    ignored = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn:")), 0)
    return Member(
        pid=stat.pid,
        birth=stat.birth,
        words=tuple(words),
        folder=folder,
        memory_bytes=stat.memory_bytes,
        ignores_hangup=bool(ignored & _HANGUP),
    )


def _keep(
    members: Iterable[Member], opencodes: Collection[int], own: Collection[int], terminals: Collection[int]
) -> str | None:
    """Why a command is never ended: a clause; None if nothing forbids it."""
    for each in members:
        if each.pid in own:
            return "this program runs in it"
        if each.pid in opencodes or PurePath(each.words[0]).name.lstrip(".") in _OPENCODES:
            return f"an opencode runs in it (process {each.pid}), which may be at work"
        if each.pid in terminals:
            return "it is at a terminal, or has opened one, and a person may sit there"
    return None


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        try:
            pid = read_stat(pid).parent
        except (OSError, ValueError, IndexError):
            return


def _ports() -> Mapping[int, int]:
    """The port of each TCP socket that listens here, by its inode."""
    return {each.inode: each.endpoint.port for each in listening_sockets()}


def _sockets(pid: int) -> frozenset[int]:
    found = set()
    with suppress(OSError):
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(descriptor.path)  # noqa: PTH115 - there are many
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return frozenset(found)


def _writes(pid: int) -> bool:
    with suppress(psutil.Error, OSError, ValueError):
        return any(each.mode != "r" for each in psutil.Process(pid).open_files())
    return False
