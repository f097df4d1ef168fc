"""The socket of a running watchdog, for the programs of its own user: where it is, and how it is found.

It lies in a folder that only this user can enter, so whoever asks there is this user. No address is taken, and no
token is needed.
"""

import hashlib
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchdog.errors import SettingsError
from watchdog.settings.places import APP, exposed, peer_of, user_folder

_NAME: Final = re.compile(r"run-(?P<database>[0-9a-f]{16})-(?P<pid>[1-9][0-9]{0,9})\.sock")
_BACKLOG: Final = 64
_CONNECT_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnSocket:
    """A socket that listens, and its place."""

    path: Path
    listener: socket.socket

    def close(self) -> None:
        """Listen no more."""
        self.listener.close()
        with suppress(OSError):  # it is gone, or its folder is: the next `run` sweeps what is left
            self.path.unlink()


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A watchdog that runs, and the place of its socket."""

    pid: int
    path: Path

    def is_left(self) -> bool:
        """Whether nobody listens there any more. Its process may be in another pid namespace."""
        try:
            self._connect().close()
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
        return False

    def connect(self) -> socket.socket:
        """A connection to it.

        Raises:
            OSError: nobody listens, or another process than this one.
        """
        connection = self._connect()
        if hasattr(socket, "SO_PEERCRED") and peer_of(connection) != self.pid:
            connection.close()
            raise ConnectionRefusedError(f"{self.path} is another process's than pid {self.pid}")
        return connection

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_CONNECT_SECONDS)
            with _short(self.path) as path:
                connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection


def folders(environ: Mapping[str, str], home: Path | None) -> tuple[Path, ...]:
    """Where the sockets of this user's watchdogs may be: a `run` may have been started with other variables."""
    found = [Path(f"/run/user/{os.geteuid()}") / APP]
    if (runtime := Path(environ.get("XDG_RUNTIME_DIR", ""))).is_absolute():
        found.insert(0, runtime / APP)
    for variables in (environ, {}):
        with suppress(SettingsError):  # nobody knows a home
            found.append(user_folder(variables, "XDG_STATE_HOME", home, ".local/state") / APP / "run")
    return tuple(dict.fromkeys(found))


def listen(database: Path, environ: Mapping[str, str], home: Path | None) -> OwnSocket:
    """Listen for the programs of this user, as the watchdog of a database.

    Raises:
        SettingsError: there is no folder for it that is this user's alone.
        OSError: the socket can't be made.
    """
    folder = _folder(environ, home)
    for left in _sockets(folder, "*"):
        if left.is_left():
            left.path.unlink(missing_ok=True)
    path = folder / f"run-{_mark(database)}-{os.getpid()}.sock"
    path.unlink(missing_ok=True)  # of an earlier process of this pid
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            listener.bind(short)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.settimeout(0)
    except BaseException:
        listener.close()
        raise
    return OwnSocket(path=path, listener=listener)


def running(database: Path, environ: Mapping[str, str], home: Path | None) -> Sequence[Running]:
    """The watchdogs of a database that this user runs, as far as their sockets show."""
    found: dict[int, Running] = {}
    for folder in folders(environ, home):
        if exposed(folder) is None:
            for each in _sockets(folder, _mark(database)):
                found.setdefault(each.pid, each)
    return tuple(found.values())


def _folder(environ: Mapping[str, str], home: Path | None) -> Path:
    """A folder that is this user's alone: in the runtime folder, or else with the state."""
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and runtime.is_dir():
        folder = runtime / APP
    else:
        folder = user_folder(environ, "XDG_STATE_HOME", home, ".local/state") / APP / "run"
    above = next(each for each in folder.parents if each.exists())
    if not folder.exists() and above.stat().st_uid != os.geteuid():
        raise SettingsError(f"{above} is another user's, so no folder for a socket is made there.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (trouble := exposed(folder)) is not None:
        raise SettingsError(trouble)
    return folder


def _mark(database: Path) -> str:
    """Tells databases apart in the names of sockets."""
    return hashlib.sha256(os.fsencode(database.resolve())).hexdigest()[:16]


def _sockets(folder: Path, mark: str) -> Iterator[Running]:
    with suppress(OSError):  # it is not there, or can't be read
        for path in sorted(folder.glob(f"run-{mark}-*.sock")):
            named = _NAME.fullmatch(path.name)
            if named is not None and stat.S_ISSOCK((own := path.lstat()).st_mode) and own.st_uid == os.geteuid():
                yield Running(pid=int(named["pid"]), path=path)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A short name of a path: the kernel takes about a hundred bytes for a socket's."""
    if sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
