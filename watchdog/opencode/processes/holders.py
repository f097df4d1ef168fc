"""The processes that have opencode's database open.

SQLite keeps a shared lock on byte 128 of the `-shm` file for as long as a connection in WAL mode lives; see `locks`.
No file of the database is ever opened in this process: closing it would drop SQLite's own locks.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import psutil

from watchdog.errors import DatabaseUnavailable
from watchdog.model.report import Endpoint, Holder, Holders
from watchdog.observing.endpoints import normal
from watchdog.opencode.file.locks import LOCKED_BYTE, Answer, HeldLock, devices_of, held_locks, identity_of
from watchdog.opencode.file.one_file import examine
from watchdog.opencode.file.strangers import shm_of
from watchdog.opencode.processes.lock import lock_path
from watchdog.opencode.processes.open_files import holders_by_open_files
from watchdog.opencode.processes.stat import born_ms, read_stat
from watchdog.ports import Clock, Reading

INITIAL_NAMESPACE: Final = "pid:[4026531836]"
"""The host's own pid namespace has this number on every Linux kernel."""

FOREIGN_PROC: Final = "/proc shows another pid namespace than this process's own, or is not there."

PLATFORM: str = sys.platform
_COMMANDS: Final = frozenset({"serve", "web", "run", "attach", "acp", "tui"})
_LONGEST_NAME: Final = 40
_SOLE_OWNER: Final = "`sole_owner = true` is the operator's word that only the configured servers use the database"


class ProcessOwners:
    """Looks up who has the database open.

    Args:
        database: opencode's database; only its name is used, and `os.stat`.
        clock: on Linux its running clock must be CLOCK_BOOTTIME, in which the kernel tells births.
        embedded: this process hosts sessions itself, so it counts as a holder. If not, it is a sidecar.
        disconnect: closes this process's own connection to the database, which could hide another's lock. Awaited
            before each look, and never if embedded.
        lock_file: the watchdog's lock file, on which sidecars announce themselves; beside the database by default.
    """

    def __init__(
        self,
        database: Path,
        *,
        clock: Clock,
        embedded: bool,
        disconnect: Callable[[], Awaitable[None]] | None = None,
        lock_file: Path | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._embedded = embedded
        self._disconnect = disconnect
        self._lock_file = lock_path(database) if lock_file is None else lock_file

    async def look(self) -> Holders:
        """Look now. Never raises: the answer says what can't be known."""
        try:
            if self._disconnect is not None and not self._embedded:
                await self._disconnect()
            return await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
        except Exception as error:  # noqa: BLE001 - no proof may come of whatever went wrong here
            return _unknown(f"The holders of the database can't be looked up ({type(error).__name__}).")

    def supported(self) -> str:
        """How well this platform shows who has the database open, as a sentence for `check`."""
        if PLATFORM == "linux":
            if own_namespace() == INITIAL_NAMESPACE:
                return "Linux names every process that has the database open."
            return (
                "This is not the host's own pid namespace (a container, perhaps): while anybody has the database "
                f"open, others may be hidden, and orphans are settled only if nobody has; {_SOLE_OWNER}."
            )
        if PLATFORM == "darwin":
            return "macOS names the processes of the same user that have the database open; others are not seen."
        return "On this platform nobody can tell who has the database open: orphans are never settled."

    def _look(self) -> Holders:
        if PLATFORM == "linux":
            return self._look_linux()
        if PLATFORM == "darwin":
            return self._describe(
                *holders_by_open_files(os.path.realpath(self._database), self._clock.read()), refusal=self._refusal()
            )
        return _unknown("On this platform nobody can tell who has the database open.")

    def _refusal(self) -> str | None:
        try:
            return examine(self._database).refusal
        except DatabaseUnavailable:
            return None

    def _look_linux(self) -> Holders:
        try:
            file = examine(self._database)
        except DatabaseUnavailable:
            return Holders()
        if file.refusal is not None:
            return replace(_unknown(file.refusal), refusal=file.refusal)
        shm = shm_of(file.real)
        if file.sight is None:
            return self._describe(self._listed(shm), self._clock.read(), file.doubt)
        answer, locks = file.sight.shm, file.sight.locks
        current = identity_of(shm)
        if answer.file is None or current is None:
            return self._describe((), self._clock.read(), file.doubt)
        # A connection of our own may be closed between the kernel's answer and its list.
        ours = {os.getpid()} if answer.pid == os.getpid() else set()
        pids, devices = file.sight.holders | ours, devices_of(locks, answer)
        doubt = self._doubt(answer, pids) or file.doubt
        if current != answer.file:
            doubt = "The database keeps being replaced."
        return self._describe(pids - self._sidecars(locks, devices), self._clock.read(), doubt)

    def _doubt(self, answer: Answer, pids: Collection[int]) -> str | None:
        """Why there may be holders that are not seen, or None if there can't be."""
        if any(pid <= 0 for pid in pids) or (answer.pid is not None and answer.pid not in pids):
            return f"A process that can't be seen from here has the database open; {_SOLE_OWNER}."
        namespace = own_namespace()
        if namespace == INITIAL_NAMESPACE or (answer.pid is None and not pids):
            return None
        if namespace is None:
            return FOREIGN_PROC
        return (
            "Not in the host's own pid namespace (a container, perhaps), where a process that is seen may hide "
            f"another that is not; {_SOLE_OWNER}."
        )

    def _listed(self, shm: Path) -> set[int]:
        """The processes that `/proc/locks` names, if there is nothing else to go by."""
        file, locks = identity_of(shm), held_locks()
        if file is None:
            return set()
        found = {lock.pid for lock in locks if lock.covers(file.inode, LOCKED_BYTE, {file.numbers})}
        return found - self._sidecars(locks, {file.numbers})

    def _sidecars(self, locks: Iterable[HeldLock], devices: Collection[tuple[int, int]]) -> set[int]:
        file = identity_of(self._lock_file)
        if file is None:
            return set()
        nearby = {*devices, file.numbers}
        return {lock.pid for lock in locks if lock.kind == "POSIX" and lock.covers(file.inode, 0, nearby)}

    def _describe(
        self, pids: Iterable[int], now: Reading, doubt: str | None = None, refusal: str | None = None
    ) -> Holders:
        known = []
        for pid in sorted(set(pids)):
            if pid <= 0 or (pid == os.getpid() and not self._embedded):
                continue
            holder = _holder(pid, now)
            if holder is not None:
                known.append(holder)
            elif _exists(pid):
                doubt = doubt or f"Process {pid} has the database open, and what it is can't be read."
        doubt = refusal or doubt
        return Holders(known=tuple(known), complete=doubt is None, why_incomplete=doubt, refusal=refusal)


def command_of(arguments: Sequence[str], name: str) -> str:
    """A short name of a process for people, without any argument that could hold a prompt or a secret."""
    words = Path(arguments[0]).name.split() if arguments else []
    program = "".join(filter(str.isprintable, words[0] if words else name))[:_LONGEST_NAME] or "process"
    if len(arguments) < 2:  # noqa: PLR2004 - the program and one argument
        return program
    return f"{program} {arguments[1]}" if arguments[1] in _COMMANDS else f"{program} …"


def _holder(pid: int, now: Reading) -> Holder | None:
    """The facts about a process; None if it is gone or hidden."""
    try:
        process = psutil.Process(pid)
        born = _born_ms(process, now)
        command = command_of(_arguments(process), process.name())
        endpoints = _endpoints(process)
        if abs(_born_ms(process, now) - born) > 1:
            return None
    except (psutil.Error, OSError, ValueError, IndexError):
        return None
    return Holder(pid=pid, born_ms=born, command=command, endpoints=endpoints, embeds_us=pid == os.getpid())


def _born_ms(process: psutil.Process, now: Reading) -> int:
    """When it started, by the wall clock as it is set now. psutil's own boot time is in whole seconds, and cached."""
    if PLATFORM != "linux":
        return int(process.create_time() * 1000)
    return born_ms(read_stat(process.pid).birth, now)


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.AccessDenied, OSError):
        return []


def _endpoints(process: psutil.Process) -> tuple[Endpoint, ...]:
    try:
        if PLATFORM == "linux" and not _same_network(process.pid):
            return ()
        found = process.net_connections(kind="tcp")
    except (psutil.AccessDenied, OSError):
        return ()
    heard = {(each.laddr.port, normal(each.laddr.ip)) for each in found if each.status == psutil.CONN_LISTEN}
    return tuple(Endpoint(address=address, port=port) for port, address in sorted(heard))


def _same_network(pid: int) -> bool:
    """Another network namespace has a loopback of its own, whose ports are not ours."""
    return Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()


def own_namespace() -> str | None:
    """This process's pid namespace; None when /proc is another namespace's, or is missing."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return None
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _exists(pid: int) -> bool:
    """Whether a process lives, even one that /proc hides."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _unknown(why: str) -> Holders:
    return Holders(complete=False, why_incomplete=why, failed=True)
