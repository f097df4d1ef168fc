"""Which process is at the other end of a TCP connection: the only way to know who answers at an address."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio.to_thread
import psutil

from watchdog.model.report import SAME_BIRTH_MS, Endpoint, Holder
from watchdog.observing.endpoints import is_here, normal

_INTERPRETERS: Final = ("python", "node", "bun", "deno", "ruby", "perl", "php", "java", "sh", "bash")
"""Programs whose arguments say what they are."""
_WHOLE_SECOND_MS: Final = 1_000
"""psutil computes births from a boot time in whole seconds."""
_LONGEST_NAME: Final = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Ends:
    """The two ends of a connection: ours and the other one."""

    near: Endpoint
    far: Endpoint

    @property
    def here(self) -> bool:
        """Whether the other end is on this machine."""
        return is_here(self.far)


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """A process, which is never confused with a later one of the same pid.

    Attributes:
        program: what it runs, as far as that is known: the user, the file, and the arguments of an interpreter.
        name: of its program, for people.
    """

    process: psutil.Process
    program: tuple[object, ...] = ()
    name: str = "a process"

    def __str__(self) -> str:
        return f"{self.name} (pid {self.process.pid})"


class Lookup(Protocol):
    """Finds the process at the other end of a connection; looks at the expected one first."""

    async def __call__(self, ends: Ends, expected: Party | None, *, thorough: bool) -> Party | None:
        """None if it is unknown, also while no process has accepted the connection."""
        ...


async def other_end(ends: Ends, expected: Party | None, *, thorough: bool) -> Party | None:
    """See `Lookup`. A thorough look goes through every process, which takes a while."""
    return await anyio.to_thread.run_sync(_other_end, ends, expected, thorough, abandon_on_cancel=True)


def party_of(pid: int) -> Party | None:
    """The identity of a process; None if it is gone, or a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        name = "".join(filter(str.isprintable, process.name()))[:_LONGEST_NAME]
        return Party(process=process, program=_program(process, name), name=name or "a process")
    except (psutil.Error, OSError):
        return None


def party_behind(holder: Holder) -> Party | None:
    """The process of a holder, if it is still the one that was seen."""
    party = party_of(holder.pid)
    return party if party is not None and is_holder(party, holder) else None


def is_holder(party: Party, holder: Holder) -> bool:
    """Whether a process is this holder: the same pid, and the same birth."""
    if party.process.pid != holder.pid:
        return False
    try:
        born_ms = party.process.create_time() * 1000
    except (psutil.Error, OSError):
        return False
    return abs(born_ms - holder.born_ms) <= SAME_BIRTH_MS + _WHOLE_SECOND_MS


def listens(party: Party, port: int) -> bool:
    """Whether a process still lives, and listens on this port. In doubt it does."""
    found = party_of(party.process.pid)
    if found is None or found.process != party.process:
        return False
    try:
        sockets = party.process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def _other_end(ends: Ends, expected: Party | None, thorough: bool) -> Party | None:  # noqa: FBT001 - of this module
    if not ends.here:
        return None
    if expected is not None and _has(expected.process, ends):
        return expected
    if not thorough:
        return None
    try:
        everything = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):  # macOS shows only processes of the same user, one by one
        owner = next((each for each in psutil.process_iter() if _has(each, ends)), None)
        return None if owner is None else party_of(owner.pid)
    pid = next((each.pid for each in everything if each.pid and _is_other_end(each, ends)), None)
    return None if pid is None else party_of(pid)


def _has(process: psutil.Process, ends: Ends) -> bool:
    try:
        return process.is_running() and any(_is_other_end(each, ends) for each in process.net_connections(kind="tcp"))
    except (psutil.Error, OSError):
        return False


def _is_other_end(socket: Any, ends: Ends) -> bool:  # noqa: ANN401 - psutil has two kinds
    there, here = socket.laddr, socket.raddr
    return (
        bool(there)
        and bool(here)
        and Endpoint(address=normal(there.ip), port=there.port) == ends.far
        and Endpoint(address=normal(here.ip), port=here.port) == ends.near
    )


def _program(process: psutil.Process, name: str) -> tuple[object, ...]:
    told: list[object] = []
    for ask in (lambda: process.uids().real, process.exe):
        try:
            told.append(ask())
        except (psutil.Error, OSError):
            told.append(None)
    if name.startswith(_INTERPRETERS):
        try:
            told.extend(process.cmdline())
        except (psutil.Error, OSError):
            told.append(None)
    return tuple(told)
