"""The socket of a running watchdog, for the programs of its own user: where it is, and how it is found.

It lies in a folder that only this user can enter, so whoever asks there is this user. No address is taken, and no
token is needed.
"""

import hashlib
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchdog.errors import SettingsError
from watchdog.settings import sockets
from watchdog.settings.places import user_folder
from watchdog.settings.sockets import APP, connected_to, exposed, peer_of, short, sockets_in

_ANY: Final = "[0-9a-f]{16}"
"""The mark of any database."""
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
        return connected_to(self.path, seconds=_CONNECT_SECONDS)


def folders(environ: Mapping[str, str], home: Path | None) -> tuple[Path, ...]:
    """Where the sockets of this user's watchdogs may be: a `run` may have been started with other variables."""
    return tuple(dict.fromkeys(each for some in (environ, {}) for each in sockets.folders(some, home, "run")))


def listen(database: Path, environ: Mapping[str, str], home: Path | None) -> OwnSocket:
    """Listen for the programs of this user, as the watchdog of a database.

    Raises:
        SettingsError: there is no folder for it that is this user's alone.
        OSError: the socket can't be made.
    """
    folder = _folder(environ, home)
    for left in _sockets(folder, _ANY):
        if left.is_left():
            left.path.unlink(missing_ok=True)
    path = folder / f"run-{_mark(database)}-{_machine()}-{os.getpid()}.sock"
    path.unlink(missing_ok=True)  # of an earlier process of this pid
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(path) as name:
            listener.bind(name)
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


def _machine() -> str:
    """Tells machines apart: in a home that they share, another one's socket can't be connected to, and lives."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _sockets(folder: Path, mark: str) -> Iterator[Running]:
    """The sockets of this machine, for a database or for any."""
    name = rf"run-{mark}-{_machine()}-(?P<pid>[1-9][0-9]{{0,9}})\.sock"
    for path, named in sockets_in(folder, re.compile(name)):
        yield Running(pid=int(named["pid"]), path=path)
