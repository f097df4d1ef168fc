"""The kernel's table of mounts: on which file system a path is, and whether that belongs to this kernel alone.

SQLite's locks and its shared memory work between processes of one kernel, and only there.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

UNKNOWN: Final = "unknown"
"""The word for an unknown type that an operator vouches for."""

FilesystemType = Callable[[Path], str | None]
"""Names the type of the file system that a path is on, or None if it is unknown."""

LOCAL_FILESYSTEMS: Final = frozenset(
    [
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"),
        *("jfs", "reiserfs", "reiser4", "nilfs2", "ubifs", "ufs"),
        *("tmpfs", "ramfs", "overlay"),
        *("apfs", "hfs", "hfsplus"),
    ]
)
"""The types that only one kernel can have mounted at a time, as the table of mounts spells them."""

_FIELDS: Final = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """One line of the table.

    Attributes:
        parent: the number of the mount that it is mounted on.
        point: where, as this process sees it.
        kind: the type of the file system.
        options: those of the file system, as they are written there.
    """

    number: int
    parent: int
    point: Path
    kind: str
    options: str

    @classmethod
    def read(cls, line: str) -> Self | None:
        """A mount from its line; None if the line is none."""
        before, separator, after = line.partition(" - ")
        fields, source = before.split(" "), after.split(" ")
        if not separator or len(fields) < _FIELDS or not fields[0].isdigit() or not fields[1].isdigit():
            return None
        return cls(
            number=int(fields[0]),
            parent=int(fields[1]),
            point=Path(_unescaped(fields[4])),
            kind=source[0],
            options=source[2] if len(source) > 2 else "",  # noqa: PLR2004 - type, source, options
        )

    def upper_folder(self) -> Path | None:
        """The folder in which an overlay keeps what is written to it, if that can be seen from here."""
        upper = re.search(r"(?:^|,)upperdir=(/[^,]*)", self.options) if self.kind == "overlay" else None
        return None if upper is None else _real_folder(_unescaped(upper[1]))


class Mounts:
    """The table of mounts, as this process sees it."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._mounts = [mount for mount in map(Mount.read, lines) if mount is not None]

    def of(self, path: Path) -> Mount | None:
        """The mount that an absolute path without links is on; None if the table does not say.

        The walk starts at the root, like the kernel's: a mount may lie below another one that hides it.
        """
        numbers = {mount.number for mount in self._mounts}
        roots = [mount for mount in self._mounts if mount.point == Path("/") and mount.parent not in numbers]
        if not roots:
            return None
        found = self._topmost(roots[-1])
        for place in [*reversed(path.parents), path][1:]:
            found = self._mounted(found, place) or found
        return found

    def is_mounted(self, path: Path) -> bool:
        """Whether something is mounted at this very path."""
        found = self.of(path)
        return found is not None and found.point == path

    def kind(self, path: Path) -> str | None:
        """The type of the file system that a path is on.

        For an overlay, the type of its upper folder, if it is known.
        """
        found = self.of(path)
        if found is None:
            return None
        return next((kind for kind in self._below(found) if kind not in LOCAL_FILESYSTEMS), found.kind)

    def overlay_on(self, path: Path) -> Path | None:
        """Where an overlay is mounted that keeps its files in a folder above this path; None when none does."""
        overlays = ((mount, mount.upper_folder()) for mount in self._mounts if mount.kind == "overlay")
        return next((m.point for m, upper in overlays if upper is not None and path.is_relative_to(upper)), None)

    def _below(self, mount: Mount) -> Iterator[str]:
        """The type of a mount, and those of the folders in which its files really are, as far as they are known."""
        seen = set[int]()
        while mount.number not in seen:
            yield mount.kind
            seen.add(mount.number)
            folder = mount.upper_folder()
            if folder is None:
                return
            mount = self.of(folder) or mount

    def _mounted(self, below: Mount, place: Path) -> Mount | None:
        """The mount on top of a mount at a place."""
        found = [mount for mount in self._mounts if mount.parent == below.number and mount.point == place]
        return self._topmost(found[-1]) if found else None

    def _topmost(self, mount: Mount) -> Mount:
        """A later mount on the same point hides the earlier one."""
        return self._mounted(mount, mount.point) or mount if mount.number != mount.parent else mount


def type_in_mounts(path: Path, lines: Sequence[str]) -> str | None:
    """Find the file system type of an absolute path in the lines of a mountinfo table."""
    return Mounts(lines).kind(path)


def is_local(kind: str | None, also: Collection[str] = ()) -> bool:
    """Whether only this kernel can have a file system of this type mounted.

    Args:
        kind: the type; None if it is unknown.
        also: further types, on the operator's word.
    """
    return kind in LOCAL_FILESYSTEMS or (kind or UNKNOWN) in also


def _real_folder(path: str) -> Path | None:
    """A folder without links; None if it can't be seen: in a container it is one of the host's."""
    try:
        real = Path(path).resolve(strict=True)
        return real if real.is_dir() else None
    except (OSError, RuntimeError):
        return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
