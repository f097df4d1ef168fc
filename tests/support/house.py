"""A server that several tests have one after the other: its start and its first prompt cost ten times the rest.

Each test is a guest: it has a laboratory with a home, a model and folders of its own, and finds nothing of those
before it. If it kills the server and starts another one, the next test has that. Between two guests the server is
stopped, so that it costs nothing.
"""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from tests.support.binaries import opencode_binary
from tests.support.opencode import Lab, Server, existing, free_port
from tests.support.rows import session_folders
from tests.support.scripted_model import ScriptedModel
from tests.support.waiting import wait_until


class House:
    """The server of one version; another one, in another home, if a test left none that runs, or none that is fit."""

    def __init__(self, folder: Path, version: str) -> None:
        self._folder = folder
        self._version = version
        self._model_port = free_port()
        self._host: Lab | None = None

    @asynccontextmanager
    async def guest(self, folder: Path) -> AsyncIterator[Server]:
        """The server, ready, in a laboratory that is one test's own."""
        async with ScriptedModel(port=self._model_port) as model:
            host = self._host or await self._open(model)
            self._host = None  # until it is fit for the next one
            lab = Lab(home=existing(folder), version=self._version, binary=host.binary, model=model, guest_of=host)
            try:
                os.kill(host.servers[0].pid, signal.SIGCONT)
                yield lab.visit(host.servers[0])
                if await _tidied(host, lab):
                    os.kill(host.servers[0].pid, signal.SIGSTOP)
                    self._host = host
            finally:
                await lab.close()
                await host.hang_up()  # the next guest has another event loop
                if self._host is None:
                    host.end_processes()

    def close(self) -> None:
        """End the server."""
        if self._host is not None:
            self._host.end_processes()

    async def _open(self, model: ScriptedModel) -> Lab:
        binary = opencode_binary(self._version)
        assert binary is not None
        home = existing(self._folder / str(len(list(self._folder.iterdir()))))
        host = Lab(home=home, version=self._version, binary=binary, model=model)
        host.configure()
        try:
            await host.serve()
        except BaseException:
            host.end_processes()
            raise
        return host


async def _tidied(host: Lab, guest: Lab) -> bool:
    """Make one of the servers that still run fit for the next guest, and end the others; false where none runs."""
    running = [each for each in guest.servers if each.process.poll() is None]
    if not running:
        return False
    for each in running[:-1]:
        each.kill9()
    kept = running[-1]
    await _leave(kept)
    if len(host.servers) > 1:
        host.end_strays(but=kept.process)
        host.servers = [each for each in host.servers if each.process is kept.process]
    return True


async def _leave(server: Server) -> None:
    """End all that a test left, and delete its sessions, so that the next one finds an empty database."""
    database = server.lab.database
    sessions = session_folders(database)
    for folder in set(sessions.values()):
        for ask in await server.questions(folder):
            await _told(server, f"/question/{ask['id']}/reject", folder)
        for ask in await server.permissions(folder):
            await _told(server, f"/permission/{ask['id']}/reply", folder, {"reply": "reject"})
    for id_, folder in sessions.items():
        await server.session(id_, folder).abort()
    for folder in set(sessions.values()):
        await wait_until(partial(_idle, server, folder), "the server to be idle")
    while left := session_folders(database):
        id_, folder = next(iter(left.items()))  # a parent before its children, which go with it
        deleted = await server.client.delete(f"/session/{id_}", params={"directory": str(folder)})
        assert deleted.is_success, deleted.text
    rows = server.lab.rows()
    assert (rows.messages, rows.parts) == ({}, {})


async def _idle(server: Server, folder: Path) -> bool:
    return await server.status(folder) == {}


async def _told(server: Server, path: str, folder: Path, body: dict[str, str] | None = None) -> None:
    answer = await server.client.post(path, params={"directory": str(folder)}, json=body)
    assert answer.is_success, answer.text
