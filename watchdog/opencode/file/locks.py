"""Who holds locks on a file: the kernel's list, and a short-lived child process that asks the kernel.

The list (`/proc/locks`) names every holder that this pid namespace can see. `F_GETLK` tells of one that it can't see,
too, but only of one. The child opens the files: closing a file in this process would drop SQLite's own locks on it.
"""

import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from watchdog.opencode.file.identity import FileIdentity

QUESTION_SECONDS: Final = 10.0

# A line of /proc/locks: `1: POSIX  ADVISORY  READ 4242 fe:00:2148258 128 128`. One with `->` only waits for a lock.
_LINE: Final = re.compile(
    r"\d+: (?P<kind>POSIX|OFDLCK)\s+\w+\s+(?P<mode>\w+)\s+(?P<pid>-?\d+)\s+"
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+)\s+(?P<first>\d+)\s+(?P<last>\d+|EOF)\s*\Z"
)

# For a child process: which device and inode are there, and which pid, if any, would keep a writer out?
_QUESTIONS: Final = """
import fcntl, os, struct, sys
for path, first, length in zip(*[iter(sys.argv[1:])] * 3):
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        print("missing")
        continue
    found = os.fstat(descriptor)
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, int(first), int(length), 0).ljust(32, b"\\0")
    kind, _, _, _, pid = struct.unpack("hhqqi", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)[:28])
    print(found.st_dev, found.st_ino, "free" if kind == fcntl.F_UNLCK else pid)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bytes:
    """Some bytes of a file, from the first to the last, on which SQLite puts a lock."""

    first: int
    last: int


LOCKED_BYTE: Final = 128
"""Of the `-shm` file: every connection in WAL mode holds a shared lock on it for as long as it lives."""
SHM_BYTES: Final = Bytes(first=LOCKED_BYTE, last=LOCKED_BYTE)
MAIN_BYTES: Final = Bytes(first=1_073_741_826, last=1_073_742_335)
"""Of the main file: the same, under whatever name it was opened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldLock:
    """One lock that `/proc/locks` lists.

    Attributes:
        last: None when it goes to the end of the file.
        exclusive: no other may be held beside it.
    """

    kind: str
    pid: int
    device: tuple[int, int]
    inode: int
    first: int
    last: int | None
    exclusive: bool = False

    def covers(self, inode: int, byte: int, devices: Collection[tuple[int, int]]) -> bool:
        """Whether it lies on this byte of the file with this inode on one of these devices."""
        return self.touches(Bytes(first=byte, last=byte)) and self.inode == inode and self.device in devices

    def touches(self, wanted: Bytes) -> bool:
        """Whether it lies on one of these bytes of its file."""
        return self.first <= wanted.last and (self.last is None or wanted.first <= self.last)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the kernel said of some bytes.

    Attributes:
        file: the file that was asked about; None when there is none.
        pid: whose lock is on them; None when they are free; 0 or less for one of another pid namespace.
    """

    file: FileIdentity | None = None
    pid: int | None = None

    @classmethod
    def read(cls, line: str) -> Self | None:
        """An answer from its line; None for what is none."""
        match line.split():
            case ["missing"]:
                return cls()
            case [device, inode, pid]:
                file = FileIdentity(device=int(device), inode=int(inode))
                return cls(file=file, pid=None if pid == "free" else int(pid))
        return None


class QuestionFailed(Exception):
    """The child process did not answer; the text ends a sentence for people."""


def ask_kernel(file: Path, byte: int) -> Answer:
    """Ask, from a short-lived child process, whether somebody holds a lock on this byte of the file.

    Raises:
        QuestionFailed: there was no answer.
    """
    return ask_about((file, Bytes(first=byte, last=byte)))[0]


def ask_about(*questions: tuple[Path, Bytes]) -> list[Answer]:
    """Ask about some bytes of several files, from one child process.

    Raises:
        QuestionFailed: there was no answer.
    """
    if not sys.executable:
        raise QuestionFailed("this Python can't start a child process of its own")
    command = [sys.executable, "-I", "-S", "-c", _QUESTIONS]
    for file, wanted in questions:
        command += [str(file), str(wanted.first), str(wanted.last - wanted.first + 1)]
    try:
        done = subprocess.run(  # noqa: S603 - our own words, and no shell
            command, capture_output=True, text=True, timeout=QUESTION_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise QuestionFailed("the child process that asks took too long") from None
    except OSError as error:
        raise QuestionFailed(f"the child process that asks can't be started ({type(error).__name__})") from None
    answers = [answer for answer in map(Answer.read, done.stdout.splitlines()) if answer is not None]
    if done.returncode == 0 and len(answers) == len(questions):
        return answers
    reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    raise QuestionFailed(f"the child process that asks failed ({reason[:120]})")


def parse_locks(text: str) -> tuple[HeldLock, ...]:
    """The POSIX and open-file-description locks that `/proc/locks` lists."""
    return tuple(
        HeldLock(
            kind=found["kind"],
            pid=int(found["pid"]),
            device=(int(found["major"], 16), int(found["minor"], 16)),
            inode=int(found["inode"]),
            first=int(found["first"]),
            last=None if found["last"] == "EOF" else int(found["last"]),
            exclusive=found["mode"] == "WRITE",
        )
        for found in map(_LINE.match, text.splitlines())
        if found is not None
    )


def held_locks() -> frozenset[HeldLock]:
    """Every lock that is held now. Read twice: the list is read in pages, and may shift between two of them."""
    source = Path("/proc/locks")
    return frozenset(lock for _ in range(2) for lock in parse_locks(source.read_text(encoding="utf-8")))


def devices_of(locks: Iterable[HeldLock], answer: Answer, wanted: Bytes = SHM_BYTES) -> set[tuple[int, int]]:
    """The device numbers under which the locks of a file are listed.

    On btrfs `stat` and `/proc/locks` give one file different devices; the lock whose holder is known tells which.
    """
    if answer.file is None:
        return set()
    told = {
        lock.device
        for lock in locks
        if lock.pid == answer.pid and lock.inode == answer.file.inode and lock.touches(wanted)
    }
    return {answer.file.numbers} if answer.file.numbers in told else {answer.file.numbers, *told}


def holders_of(locks: Iterable[HeldLock], answer: Answer, wanted: Bytes) -> set[int]:
    """The pids that the list names for these bytes of a file; 0 and less stand for those that can't be named."""
    if answer.file is None:
        return set()
    devices = devices_of(locks, answer, wanted)
    return {
        lock.pid
        for lock in locks
        if lock.inode == answer.file.inode and lock.device in devices and lock.touches(wanted)
    }


def identity_of(path: Path) -> FileIdentity | None:
    """Which file is at a path, without opening it; None when there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileIdentity(device=found.st_dev, inode=found.st_ino)
