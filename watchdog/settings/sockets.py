"""Unix sockets of this user's own programs: where they may lie, which of them count, and who answers there.

A socket counts only if nobody but this user can have put it there; the kernel says which process opened it.
"""

import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from watchdog.errors import SettingsError
from watchdog.settings.places import user_folder

APP: Final = "opencode-watchdog"
"""The name of its folders."""
_PEER: Final = struct.Struct("3i")
"""What the kernel tells of a peer: its process, its user and its group (unix(7), SO_PEERCRED)."""
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ANYBODY_ELSE: Final = stat.S_IRWXG | stat.S_IRWXO


def folders(environ: Mapping[str, str], home: Path | None, inner: str) -> tuple[Path, ...]:
    """Where sockets may be: in the user's runtime folder, or where there was none, in the state folder.

    Another program may have been started with other variables than this process.

    Args:
        inner: the folder for them in the state folder.
    """
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    found = [(runtime if runtime.is_absolute() else Path(f"/run/user/{os.geteuid()}")) / APP]
    for variables in (environ, {}):
        with suppress(SettingsError):  # nobody knows a home
            found.append(user_folder(variables, "XDG_STATE_HOME", home, ".local/state") / APP / inner)
    return tuple(dict.fromkeys(found))


def sockets_in(folder: Path, name: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """This user's sockets of that name in a folder that is this user's alone; none in any other."""
    if exposed(folder) is not None:
        return
    with suppress(OSError):  # it is not there, or can't be read
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            with suppress(OSError):
                own, named = entry.stat(follow_symlinks=False), name.fullmatch(entry.name)
                if named is not None and stat.S_ISSOCK(own.st_mode) and own.st_uid == os.geteuid():
                    yield Path(entry.path), named


def connected_to(path: Path, *, seconds: float) -> socket.socket:
    """A connection to a socket.

    Raises:
        OSError: nobody accepts one.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        with short(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A short name of a path: the kernel takes about a hundred bytes for a socket's."""
    if sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


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
