"""The sockets that bridges open: a door to an opencode process that listens on no port, or on one with a password.

A door counts only if nobody but this user can have put it there, and if the kernel says which process opened it.
"""

import os
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchdog.opencode.http.peers import Party, party_of
from watchdog.opencode.http.trust import Stranger
from watchdog.settings import sockets
from watchdog.settings.sockets import connected_to, exposed, peer_of, sockets_in

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
    """Where doors may be: opencode may have been started with other variables than this process."""
    return sockets.folders(environ, home, "bridges")


def trouble_with(folder: Path) -> str | None:
    """Why no door in a folder counts, in sentences; None if it is this user's alone, or not there."""
    why = exposed(folder)
    return None if why is None else f"{why} Its bridges don't count."


def find_doors(where: Iterable[Path]) -> dict[int, Path]:
    """The sockets that somebody answers, by the process that opened each. What a dead process left is removed."""
    found: dict[int, Path] = {}
    for path in (path for folder in where for path, _ in sockets_in(folder, _NAME)):
        try:
            with closing(connected_to(path, seconds=_CONNECT_SECONDS)) as connection:
                pid = peer_of(connection)
        except ConnectionRefusedError:
            _sweep(path)
        except OSError:
            continue  # it is gone, or its queue is full
        else:
            if pid is not None:
                found.setdefault(pid, path)
    return found


def _sweep(path: Path) -> None:
    """Remove the socket of a process that is gone. One that was made a moment ago may not be listened to yet."""
    try:
        os.kill(int(path.stem), 0)
    except ProcessLookupError:
        path.unlink(missing_ok=True)
    except OSError:
        return
