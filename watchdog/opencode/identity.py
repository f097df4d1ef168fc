"""Where opencode's database is, whether it is in a place that can be watched, and whether it is still the same file.

Nothing here opens the database: closing a descriptor on it would drop this process's POSIX locks.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from watchdog.errors import DatabaseMissing, DatabaseUnavailable, DatabaseUnsupported, SettingsError

FilesystemType = Callable[[Path], str | None]
"""Tells the type of the file system that a path is on, or None when it can't be told."""

MOUNTS = Path("/proc/self/mountinfo")

SHARED_FILESYSTEMS = frozenset(
    ["9p", "afs", "ceph", "cifs", "nfs", "nfs4", "prl_fs", "smb", "smb3", "smbfs", "vboxsf", "virtiofs"]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileIdentity:
    """Which file a path means: another one may have taken its place."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Ask the file system, without opening the file.

        Raises:
            DatabaseUnavailable: the file is gone, or this user may not look at it.
        """
        try:
            found = path.stat()
        except FileNotFoundError as error:
            raise DatabaseUnavailable(f"The database {path} is gone.") from error
        except OSError as error:
            raise DatabaseUnavailable(f"The database {path} can't be looked at: {error.strerror}.") from error
        return cls(device=found.st_dev, inode=found.st_ino)


def find_database(environ: Mapping[str, str], home: Path) -> Path:
    """Find the database that opencode would use.

    Args:
        environ: the environment; `OPENCODE_DB` and `XDG_DATA_HOME` count.
        home: the user's home folder.

    Raises:
        DatabaseMissing: there is none.
        DatabaseUnsupported: it lives in memory, or there are only the JSON files of opencode before 1.2.
        DatabaseUnavailable: this user may not look into opencode's data folder.
        SettingsError: there are several, and nothing says which one.
    """
    data_home = environ.get("XDG_DATA_HOME")
    folder = (Path(data_home) if data_home else home / ".local" / "share") / "opencode"
    choice = environ.get("OPENCODE_DB")
    try:
        return _chosen(folder, choice) if choice else _only_one(folder)
    except PermissionError as error:
        raise DatabaseUnavailable(
            f"This user may not look into {folder}, where opencode keeps its database."
        ) from error


def _chosen(folder: Path, choice: str) -> Path:
    if choice == ":memory:":
        raise DatabaseUnsupported(
            "OPENCODE_DB is `:memory:`: a database in the memory of one process can't be watched by another."
        )
    path = folder / choice
    if not path.exists():
        raise DatabaseMissing(
            f"OPENCODE_DB names {path}, and there is no such file. Correct it, or name the file with --database PATH."
        )
    return path


def _only_one(folder: Path) -> Path:
    found = [path for path in [folder / "opencode.db", *sorted(folder.glob("opencode-*.db"))] if path.is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(path) for path in found)
        raise SettingsError(f"There are several opencode databases: {listed}. Choose one with --database PATH.")
    if any((folder / "storage").rglob("*.json")):
        raise DatabaseUnsupported(
            f"{folder} holds the JSON files of opencode before 1.2 and no database. Upgrade opencode to watch it."
        )
    raise DatabaseMissing(
        f"There is no opencode database: looked for opencode.db and opencode-*.db in {folder}. "
        "Start opencode once, or name the file with --database PATH."
    )


def check_place(path: Path, filesystem_type: FilesystemType) -> None:
    """Refuse a path that can't be watched, whatever its content.

    Raises:
        DatabaseMissing: there is no such file.
        DatabaseUnsupported: it is a folder, or on a network or shared file system.
        DatabaseUnavailable: this user may not read it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise DatabaseMissing(f"There is no database {path}. Name the right file with --database PATH.") from error
    except OSError as error:
        raise DatabaseUnavailable(f"The database {path} can't be looked at: {error.strerror}.") from error
    if stat.S_ISDIR(mode):
        raise DatabaseUnsupported(f"{path} is a folder. Name the database file in it with --database PATH.")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise DatabaseUnavailable(
            f"This user may not read the database {path}. Run the watchdog as the user that runs opencode."
        )
    kind = filesystem_type(path)
    if kind is not None and (kind in SHARED_FILESYSTEMS or kind.startswith("fuse")):
        raise DatabaseUnsupported(
            f"The database {path} is on a file system of type {kind}, which other machines may share: SQLite's "
            "locks do not hold across kernels. Run the watchdog where the database's own disk is."
        )


def filesystem_type(path: Path) -> str | None:
    """Tell the type of the file system that `path` is on.

    Returns:
        A name such as `ext4`; None on a system without a mount table to read.
    """
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    return type_in_mounts(path.resolve(), lines)


def type_in_mounts(path: Path, lines: list[str]) -> str | None:
    """Find the file system type of an absolute path in the lines of a mountinfo table."""
    best: tuple[int, str] | None = None
    for line in lines:
        mount, separator, source = line.partition(" - ")
        fields = mount.split(" ")
        if not separator or len(fields) < 5:  # noqa: PLR2004 - the fifth field is the mount point
            continue
        point = Path(_unescaped(fields[4]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), source.split(" ")[0])
    return best[1] if best else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
