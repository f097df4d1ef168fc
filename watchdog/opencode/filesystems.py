"""The type of the file system that a path is on, on every platform."""

import re
import subprocess
import sys
from pathlib import Path

from watchdog.opencode.mounts import mounts

PLATFORM: str = sys.platform


def filesystem_type(path: Path) -> str | None:
    """Tell the type of the file system that `path` is on.

    Returns:
        A name such as `ext4`; None when it can't be told.
    """
    if PLATFORM == "linux":
        table = mounts()
        return table.kind(path.resolve()) if table is not None else None
    return type_in_listing(path.resolve(), _listing())


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
