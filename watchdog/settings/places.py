"""Where the user's files are, according to the process's environment: its home, its folder, the XDG variables.

None of them has to exist: a service has no home, and a folder may be deleted under a shell. Only code that needs an
unknown place gets an error.
"""

import os
import socket
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from watchdog.errors import SettingsError

APP: Final = "opencode-watchdog"
"""The name of its folders."""
_PEER: Final = struct.Struct("3i")
"""What the kernel tells of a peer: its process, its user and its group (unix(7), SO_PEERCRED)."""
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ANYBODY_ELSE: Final = stat.S_IRWXG | stat.S_IRWXO


def home() -> Path | None:
    """The user's home folder; None if HOME is no absolute path, or is missing and nothing else names one."""
    try:
        found = Path.home() if os.environ.get("HOME") != "" else None
    except RuntimeError:
        return None
    return found if found is not None and found.is_absolute() else None


def here() -> Path | None:
    """The folder that the process is in; None if it is gone, or can't be named."""
    try:
        return Path.cwd()
    except OSError:
        return None


def user_folder(environ: Mapping[str, str], variable: str, home: Path | None, inner: str) -> Path:
    """One of the user's folders, such as the one for state.

    Args:
        environ: the environment.
        variable: names the folder, in an absolute path; any other value counts as not set.
        home: the home folder, if there is one.
        inner: where the folder is by default, below home.

    Raises:
        SettingsError: there is neither of the two.
    """
    named = Path(environ.get(variable, ""))
    if named.is_absolute():
        return named
    if home is None:
        raise SettingsError(
            f"No home folder of this user is known. Set HOME or {variable} to an absolute path, or name what is "
            "needed: --database, and the settings journal and control_token."
        )
    return home / inner


def exposed(folder: Path) -> str | None:
    """Why others could put something into a folder, or read what is there: a sentence.

    None if it is this user's alone, or not there.
    """
    try:
        real = folder.resolve(strict=True)
        own = real.stat()
        above = [(each, each.stat()) for each in real.parents]
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{folder} can't be looked at: {(error.strerror or type(error).__name__).lower()}."
    if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.geteuid() or own.st_mode & _ANYBODY_ELSE:
        return f"{folder} is not this user's alone: remove it, or `chmod 700` it."
    for each, found in above:
        sticky = found.st_mode & stat.S_ISVTX
        if found.st_uid not in {0, os.geteuid()} or (found.st_mode & _OTHERS_MAY_WRITE and not sticky):
            return f"Others may write to {each}, so they may replace {folder}."
    return None


def peer_of(connected: socket.socket) -> int | None:
    """The process of this user that opened the Unix socket at the other end; None if it can't be seen from here."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, user, _ = _PEER.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid if pid > 0 and user == os.geteuid() else None
