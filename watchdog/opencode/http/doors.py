"""The sockets that bridges open: a door to an opencode process that listens on no port, or on one with a password.

A door counts only if nobody but this user can have put it there, and if the kernel says which process opened it.
"""

import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchdog.errors import SettingsError
from watchdog.opencode.http.peers import Party, party_of
from watchdog.opencode.http.trust import Stranger
from watchdog.settings.places import APP, exposed, peer_of, user_folder

_NAME: Final = re.compile(r"[1-9][0-9]{0,9}\.sock")
_CONNECT_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """A socket and the process that opened it."""

    path: Path
    party: Party

    @property
    def pid(self) -> int:
        """The process."""
        return self.party.process.pid

    def is_open(self) -> bool:
        """Whether the process is still there, and its socket."""
        found = party_of(self.pid)
        return found is not None and found.process == self.party.process and self.path.exists()

    def check(self, connected: socket.socket) -> None:
        """Check that a connection leads to that process, which is still the one that it was.

        Raises:
            Stranger: it does not.
        """
        pid = peer_of(connected)
        if pid != self.pid or not self.is_open():
            who = "nobody who can be seen" if pid is None else f"pid {pid}"
            raise Stranger(f"{self.party} opened its socket, and now {who} answers there")


def folders(environ: Mapping[str, str], home: Path | None) -> tuple[Path, ...]:
    """Where doors may be: in the user's runtime folder, or where there was none, in the state folder.

    opencode may have been started with other variables than this process.
    """
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    found = [(runtime if runtime.is_absolute() else Path(f"/run/user/{os.geteuid()}")) / APP]
    for variables in (environ, {}):
        with suppress(SettingsError):  # nobody knows a home
            state = user_folder(variables, "XDG_STATE_HOME", home, ".local/state")
            found.append(state / APP / "bridges")
    return tuple(dict.fromkeys(found))


def trouble_with(folder: Path) -> str | None:
    """Why no door in a folder counts, in sentences; None if it is this user's alone, or not there."""
    why = exposed(folder)
    return None if why is None else f"{why} Its bridges don't count."


def find_doors(where: Iterable[Path]) -> dict[int, Path]:
    """The sockets that somebody answers, by the process that opened each. What a dead process left is removed."""
    found: dict[int, Path] = {}
    for path in _sockets(where):
        try:
            with closing(connected_to(path)) as connection:
                pid = peer_of(connection)
        except ConnectionRefusedError:
            _sweep(path)
        except OSError:
            continue  # it is gone, or its queue is full
        else:
            if pid is not None:
                found.setdefault(pid, path)
    return found


def connected_to(path: Path) -> socket.socket:
    """A connection to a socket.

    Raises:
        OSError: nobody accepts one.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_SECONDS)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _sockets(where: Iterable[Path]) -> Iterator[Path]:
    for folder in where:
        if trouble_with(folder) is None:
            with suppress(OSError):
                for entry in sorted(os.scandir(folder), key=lambda each: each.name):
                    with suppress(OSError):
                        own = entry.stat(follow_symlinks=False)
                        if _NAME.fullmatch(entry.name) and stat.S_ISSOCK(own.st_mode) and own.st_uid == os.geteuid():
                            yield Path(entry.path)


def _sweep(path: Path) -> None:
    """Remove the socket of a process that is gone. One that was made a moment ago may not be listened to yet."""
    try:
        os.kill(int(path.stem), 0)
    except ProcessLookupError:
        path.unlink(missing_ok=True)
    except OSError:
        return
