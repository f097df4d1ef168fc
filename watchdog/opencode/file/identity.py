"""Where opencode's database is, whether it is in a place that can be watched, and whether it is still the same file.

Nothing here opens the database: closing a descriptor on it would drop this process's POSIX locks.
"""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from watchdog.errors import DatabaseMissing, DatabaseUnavailable, DatabaseUnsupported, SettingsError
from watchdog.opencode.file.mounts import UNKNOWN, FilesystemType, Mounts, is_local, type_in_mounts
from watchdog.settings.places import user_folder

MOUNTS = Path("/proc/self/mountinfo")
PLATFORM: str = sys.platform


@dataclass(frozen=True, kw_only=True, slots=True)
class FileIdentity:
    """Which file a path means: another one may have taken its place."""

    device: int
    inode: int

    @property
    def numbers(self) -> tuple[int, int]:
        """The device's major and minor number."""
        return os.major(self.device), os.minor(self.device)

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


def uri_of(path: Path, mode: str) -> str:
    """How SQLite is told to open a file: `ro`, or `rw`, and never to make one."""
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def find_database(environ: Mapping[str, str], home: Path | None) -> Path:
    """Find the database that opencode would use.

    Args:
        environ: the environment; `OPENCODE_DB` and `XDG_DATA_HOME` count.
        home: the user's home folder, if there is one.

    Raises:
        DatabaseMissing: there is none.
        DatabaseUnsupported: it lives in memory, or there are only the JSON files of opencode before 1.2.
        DatabaseUnavailable: this user may not look into opencode's data folder.
        SettingsError: there are several, and nothing says which one; or nobody knows where to look.
    """
    named = environ.get("XDG_DATA_HOME", "")
    if named and not Path(named).is_absolute():
        raise SettingsError(
            f"XDG_DATA_HOME is {named}, which opencode reads from the folder that it was started in, and that one "
            "can't be known. Set a whole path, or name the file with --database PATH."
        )
    folder = user_folder(environ, "XDG_DATA_HOME", home, ".local/share") / "opencode"
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


def check_place(path: Path, filesystem_type: FilesystemType, *, local_filesystems: Collection[str] = ()) -> None:
    """Refuse a path that can't be watched, whatever its content.

    Args:
        path: the database file.
        filesystem_type: tells the type of the file system that a path is on.
        local_filesystems: further types that count as local, on the operator's word.

    Raises:
        DatabaseMissing: there is no such file.
        DatabaseUnsupported: it is a folder, or on a file system that is not known to be this kernel's alone.
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
    if not is_local(kind, local_filesystems):
        raise DatabaseUnsupported(f"The database {path} is on a file system {_not_local(kind)}")


def _not_local(kind: str | None) -> str:
    what = (
        f"of type {kind}, which other machines may share (it is not known to belong to one kernel alone)"
        if kind is not None
        else "whose type can't be told"
    )
    return (
        f"{what}: SQLite's locks do not hold across kernels. Run the watchdog where the database's own disk is. If "
        f'this machine alone has it mounted, say so with the setting local_filesystems = ["{kind or UNKNOWN}"].'
    )


def filesystem_type(path: Path) -> str | None:
    """Tell the type of the file system that `path` is on.

    Returns:
        A name such as `ext4`; None when it can't be told.
    """
    if PLATFORM == "linux":
        return type_in_mounts(path.resolve(), _lines_of_mounts())
    return type_in_listing(path.resolve(), _listing())


def mounts() -> Mounts:
    """The table of mounts as it is now; empty where there is none to read."""
    return Mounts(_lines_of_mounts())


def _lines_of_mounts() -> list[str]:
    try:
        return MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def type_in_listing(path: Path, listing: str) -> str | None:
    """Find the file system type of an absolute path in what `mount` prints on macOS and the BSDs."""
    found = [
        (len(Path(point).parts), kind)
        for point, kind in re.findall(r"^.* on (/.*) \(([^,()]+)", listing, re.MULTILINE)
        if path.is_relative_to(point)
    ]
    # A later mount on the same point hides the earlier one.
    return max(reversed(found), key=lambda each: each[0])[1].strip().lower() if found else None


def _listing() -> str:
    try:
        done = subprocess.run(["/sbin/mount"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="surrogateescape")
