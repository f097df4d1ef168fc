"""A real PgBouncer in front of a cluster, for tests."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Literal, Self

from tests.support.debian import require
from tests.support.postgres import ADMIN, PATIENCE_SECONDS, USER, Cluster, free_port, reachable_folder, unprivileged

Mode = Literal["session", "transaction", "statement"]

_CONFIGURATION: Final = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = users
pool_mode = {mode}
logfile =
{more}
"""


class PgBouncer:
    """A pooler, for as long as the block lasts, which logs in as whoever connects to it.

    Args:
        cluster: where its connections go.
        mode: for how long a client keeps one.
        more: further settings, in lines.
    """

    def __init__(self, cluster: Cluster, mode: Mode, more: str = "") -> None:
        self._program = require("pgbouncer")
        self._server = cluster.port
        self._mode = mode
        self._more = more
        self.port = 0

    def __enter__(self) -> Self:
        user = unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="owbouncer-", dir=reachable_folder(user)))
        self.port = free_port()
        configuration = self._folder / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(server=self._server, port=self.port, mode=self._mode, more=self._more)
        )
        users = self._folder / "users"
        users.write_text("".join(f'"{name}" ""\n' for name in (USER, ADMIN)))
        if user:
            for path in (self._folder, configuration, users):
                shutil.chown(path, user["user"], user["group"])
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, str(configuration)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, start_new_session=True, **user,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._listens():
            running = self._process.poll() is None and time.monotonic() < deadline
            assert running, (self._folder / "log").read_text()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE_SECONDS)
        shutil.rmtree(self._folder)

    def url(self, url: str) -> str:
        """The address of a database of the cluster's, by way of this."""
        before, _, database = url.rpartition("/")
        return f"{before.rpartition(':')[0]}:{self.port}/{database}"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == os.EX_OK
