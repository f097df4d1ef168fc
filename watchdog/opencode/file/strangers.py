"""Who has the database's file open under another name, as locks and the open files of processes show."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from watchdog.opencode.file.identity import FileIdentity
from watchdog.opencode.file.locks import (
    MAIN_BYTES,
    SHM_BYTES,
    Answer,
    HeldLock,
    ask_about,
    held_locks,
    holders_of,
    identity_of,
)

_DELETED: Final = " (deleted)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """The locks on the main file and on its `-shm`, at one moment.

    Attributes:
        main: what the kernel said of the main file.
        shm: what it said of the `-shm`.
        locks: its whole list.
    """

    main: Answer
    shm: Answer
    locks: frozenset[HeldLock] = frozenset()

    @classmethod
    def take(cls, main: Path, shm: Path) -> Self:
        """Look now, with a question to the kernel.

        Raises:
            QuestionFailed: there was no answer.
        """
        asked = ask_about((main, MAIN_BYTES), (shm, SHM_BYTES))
        return cls(main=asked[0], shm=asked[1], locks=held_locks())

    @classmethod
    def glance(cls, main: Path, shm: Path) -> Self:
        """Look now at the kernel's list only, which takes no time, and does not show those who can't be named."""
        return cls(main=Answer(file=identity_of(main)), shm=Answer(file=identity_of(shm)), locks=held_locks())

    @property
    def holders(self) -> set[int]:
        """The processes that the list shows as holders of the `-shm`."""
        return holders_of(self.locks, self.shm, SHM_BYTES)

    @property
    def explained(self) -> bool:
        """Whether the list shows the holder of the `-shm`."""
        return self.shm.pid is None or self.shm.pid in self.holders

    @property
    def strangers(self) -> set[int]:
        """The processes that hold the main file and not our `-shm`; 0 for one that can't be named.

        If the list does not show the locks that the kernel reported, it shows nothing.
        """
        if not self.explained:
            return set()
        of_main = holders_of(self.locks, self.main, MAIN_BYTES)
        if self.main.pid is not None and self.main.pid > 0:
            of_main.add(self.main.pid)
        found = {pid for pid in of_main if pid > 0} - self.holders
        hidden = self.main.pid is not None and self.main.pid <= 0 and self.shm.pid is None
        return found | {0} if hidden else found

    @property
    def alone(self) -> set[int]:
        """The process that keeps everybody else out of the main file."""
        return holders_of([lock for lock in self.locks if lock.exclusive], self.main, MAIN_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stranger:
    """A process that has the main file open, and not the `-shm` that is beside it here.

    Attributes:
        pid: 0 for one that can't be named.
        name: the name under which it has the file open, if that can be read.
        elsewhere: it sees other mounts than this process: its name may mean nothing here.
        removed: its own `-shm` was deleted or replaced while it had it open.
        alone: it keeps everybody else out, as long as it wants to.
    """

    pid: int
    alone: bool = False
    name: str | None = None
    elsewhere: bool = False
    removed: bool = False

    def sentence(self, real: Path) -> str:
        """What it does, and what to do about it."""
        if self.alone:
            return f"The database {real} is locked by another process, {self.pid}, for itself alone."
        who = f"Process {self.pid}" if self.pid else "A process that can't be seen from here"
        has = f"{who} has the database {real} open"
        if self.removed:
            return (
                f"{has}, and the `-shm` that it uses was deleted or replaced: what it writes can't be seen any more. "
                "End that process and start it again."
            )
        if self.name is not None and self.name != str(real) and not self.elsewhere:
            return (
                f"{has} under another name, {self.name}: its `-wal` and `-shm` are not those beside this one, so "
                f"nobody can tell what is in it. Name it as that process does, with --database {self.name}."
            )
        return (
            f"{has}, but not the `-shm` beside it: it has the file under another name, like a container that got "
            "only the file. Nobody can tell what is in it. Mount the folder there, not the file; or name the "
            "database here as that process does."
        )


def shm_of(real: Path) -> Path:
    """The shared memory file beside a database."""
    return real.with_name(f"{real.name}-shm")


def described(real: Path, sight: Sight) -> tuple[Stranger, ...]:
    """The facts about strangers, without those that turn out to have another file open."""
    pids = sorted(sight.strangers, reverse=True)
    return tuple(found for pid in pids if (found := _stranger(real, pid, alone=pid in sight.alone)) is not None)


def _stranger(real: Path, pid: int, *, alone: bool) -> Stranger | None:
    """None if its open files show that it is no stranger: on btrfs two files may be listed under one number."""
    files = _open_files(pid) if pid else None
    if files is None:
        return Stranger(pid=pid, alone=alone)
    identity = identity_of(real)
    names = [name for name, file in files if file == identity]
    if not names:
        return None
    shm = [name for name, _ in files if name.removesuffix(_DELETED).endswith("-shm")]
    removed = any(name.endswith(_DELETED) or name == str(shm_of(real)) for name in shm)
    return Stranger(
        pid=pid,
        alone=alone,
        name=names[0],
        elsewhere=not _same_mounts(pid),
        removed=removed and names[0] == str(real),
    )


def former(real: Path, sight: Sight, identity: FileIdentity) -> str | None:
    """A sentence about a process that still has open the file that was at this place before."""
    gone = {f"{name}{_DELETED}" for name in (str(real), str(shm_of(real)))}
    pids = {lock.pid for lock in sight.locks if lock.touches(MAIN_BYTES) and lock.inode != identity.inode}
    for pid in sorted(pid for pid in pids if pid > 0):
        files = _open_files(pid) or []
        if any(name in gone for name, _ in files) and _same_mounts(pid):
            return (
                f"Process {pid} still has open what was at {real} before it was deleted or replaced. End that "
                "process and start it again."
            )
    return None


def _open_files(pid: int) -> Collection[tuple[str, FileIdentity]] | None:
    """The open files of a process, by the names under which it has them; None when they can't be read."""
    folder = Path(f"/proc/{pid}/fd")
    found = []
    try:
        descriptors = list(folder.iterdir())
    except OSError:
        return None
    for each in descriptors:
        with suppress(OSError):
            file = each.stat()
            found.append((str(each.readlink()), FileIdentity(device=file.st_dev, inode=file.st_ino)))
    return found


def _same_mounts(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
    return False
