"""Who listens at an address of this machine: the processes behind a server's base URL, as far as they can be seen.

Any local address counts, of both families: the most specific socket is the one that is connected to.
"""

import os
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import anyio.to_thread
import psutil

from watchdog.model.report import Endpoint, Listener
from watchdog.observing.endpoints import NOWHERE, is_here, leads, normal, own_addresses
from watchdog.opencode.file.locks import LOCKED_BYTE, held_locks
from watchdog.opencode.processes.holders import command_of

PLATFORM = sys.platform
_LISTENS: Final = "0A"
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_STATE: Final = 3  # of the fields of a socket: slot, local address, remote address, state
_INODE: Final = 9
_SHM: Final = "-shm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Socket:
    """A TCP socket that listens.

    Attributes:
        inode: its number in `/proc`; 0 without a `/proc`.
        pids: the processes that have it, if they are already known.
    """

    endpoint: Endpoint
    inode: int = 0
    pids: frozenset[int] = frozenset()


async def listener_at(destinations: Collection[Endpoint]) -> Listener:
    """Who listens where a base URL leads. Never raises: a process that can't be seen is hidden."""
    try:
        return await anyio.to_thread.run_sync(partial(_listener_at, destinations), abandon_on_cancel=True)
    except Exception:  # noqa: BLE001 - whatever went wrong here, nobody is seen
        return Listener()


async def listener_behind(pid: int) -> Listener:
    """A process that is known to answer, as the one that listens."""
    return await anyio.to_thread.run_sync(_listener_behind, pid, abandon_on_cancel=True)


def _listener_behind(pid: int) -> Listener:
    pids = frozenset([pid])
    return Listener(sockets=(pids,), hidden=False, databases=with_a_database(pids), what=_named(pid))


def _listener_at(destinations: Collection[Endpoint]) -> Listener:
    sockets, own = listening_sockets(), own_addresses()
    found: list[Socket] = []
    # An address of another machine, or one where nobody seems to listen, may lead anywhere. Of several addresses of
    # one name those where nobody listens do not count.
    hidden = not all(is_here(each, lambda: own) for each in destinations)
    for destination in destinations:
        found.extend(answering(destination, sockets, own))
    by_inode = processes_with({each.inode for each in found if each.inode})
    known = [each.pids or by_inode.get(each.inode, frozenset()) for each in found]
    pids = frozenset().union(*known)
    return Listener(
        sockets=tuple(known),
        hidden=hidden or not found or not all(known),
        databases=with_a_database(pids),
        what=" and ".join(_named(pid) for pid in sorted(pids)) or None,
    )


def answering(destination: Endpoint, sockets: Iterable[Socket], own: Collection[str]) -> list[Socket]:
    """The sockets of which one takes the connections to a destination: those that match it most closely."""
    fits: dict[int, list[Socket]] = {}
    for each in sockets:
        fits.setdefault(leads(destination, each.endpoint, lambda: own), []).append(each)
    fits.pop(NOWHERE, None)
    return fits[max(fits)] if fits else []


def listening_sockets() -> tuple[Socket, ...]:
    """Every TCP socket that listens in this process's own network."""
    if PLATFORM == "linux":
        found: list[Socket] = []
        for table in _TABLES:
            with suppress(FileNotFoundError):  # there may be no IPv6
                found.extend(parse_sockets(Path(table).read_text(encoding="ascii")))
        return tuple(found)
    return tuple(_by_psutil())


def parse_sockets(text: str) -> list[Socket]:
    """The listening sockets of a table as `/proc/net/tcp` and `/proc/net/tcp6` have it."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > _INODE and fields[_STATE] == _LISTENS:
            address, _, port = fields[1].partition(":")
            endpoint = Endpoint(address=_from_hex(address), port=int(port, 16))
            found.append(Socket(endpoint=endpoint, inode=int(fields[_INODE])))
    return found


def _from_hex(text: str) -> str:
    """An address as the kernel prints it: words of four bytes, each in the machine's own order."""
    raw = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return normal(str(ip_address(raw)))


def _by_psutil() -> Iterable[Socket]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError):
            for each in process.net_connections(kind="tcp"):
                if each.status == psutil.CONN_LISTEN:
                    endpoint = Endpoint(address=normal(each.laddr.ip), port=each.laddr.port)
                    yield Socket(endpoint=endpoint, pids=frozenset([process.pid]))


def processes_with(inodes: Collection[int]) -> Mapping[int, frozenset[int]]:
    """The visible processes that have each of some sockets open."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, set[int]] = {}
    for pid in [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()] if wanted else ():
        with suppress(OSError):  # it is gone, or another user's
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    inode = wanted.get(os.readlink(descriptor.path))  # noqa: PTH115 - Path is slow, and there are many
                    if inode is not None:
                        found.setdefault(inode, set()).add(pid)
    return {inode: frozenset(pids) for inode, pids in found.items()}


def with_a_database(pids: Collection[int]) -> frozenset[int]:
    """The processes among some that have any SQLite database open in WAL mode."""
    if PLATFORM == "linux":
        return frozenset(
            lock.pid
            for lock in held_locks()
            if lock.pid in pids and lock.kind == "POSIX" and lock.first == lock.last == LOCKED_BYTE
        )
    return frozenset(pid for pid in pids if _has_shm(pid))


def _has_shm(pid: int) -> bool:
    with suppress(psutil.Error, OSError):
        return any(each.path.endswith(_SHM) for each in psutil.Process(pid).open_files())
    return False


def _named(pid: int) -> str:
    with suppress(psutil.Error, OSError, ValueError, IndexError):
        process = psutil.Process(pid)
        return f"{command_of(process.cmdline(), process.name())} (pid {pid})"
    return f"pid {pid}"
