"""The HTTP API of a watchdog in this process, with a real loop, a real database and real HTTP."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import anyio
import httpx

from tests.fakes.server import FakeServer, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.opencode import free_port
from tests.support.waiting import wait_until
from watchdog.composing.sidecar import sidecar
from watchdog.control.access.gate import Bounds
from watchdog.control.wiring import offered
from watchdog.loop.watch import Watch
from watchdog.model.report import Served, Shown
from watchdog.ports import Server
from watchdog.settings.addresses import Address
from watchdog.settings.schema import Loaded, Settings

TOKEN: Final = "the-token-of-these-tests-" + "0" * 20
PATIENT: Final = Bounds(patience_seconds=60)
UNHURRIED: Final = Bounds(rate=10_000, burst=10_000, doubtful_rate=10_000, doubtful_burst=10_000, patience_seconds=60)

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Api:
    """An API to ask.

    Attributes:
        client: shows the token.
        watch: the loop behind it.
        stop: ends it.
    """

    url: str
    client: httpx.AsyncClient
    watch: Watch
    stop: anyio.Event

    async def ask(self, method: str, path: str, *, status: int = 200, **more: Any) -> Json:  # noqa: ANN401 - httpx's
        """Ask, and expect this status; the answer is a document, or a problem document."""
        answer = await self.client.request(method, path, **more)
        assert answer.status_code == status, answer.text
        kind = "application/json" if status < 400 else "application/problem+json"
        assert answer.headers["content-type"] == kind, answer.headers
        document: Json = answer.json()
        return document

    async def problem(self, method: str, path: str, status: int, **more: Any) -> str:  # noqa: ANN401
        """Ask, and expect a problem: the last part of its type."""
        document = await self.ask(method, path, status=status, **more)
        assert document["status"] == status
        assert document["instance"] == path.partition("?")[0]
        kind, _, name = document["type"].rpartition(":")
        assert kind == "urn:opencode-watchdog:problem"
        return str(name)


@asynccontextmanager
async def _believed() -> AsyncIterator[None]:
    """Let each server be shown to serve the database."""

    def shown(server: Server, *_: object) -> Served:
        return Served(server=server.name, by=Shown.PROCESS)

    with patch("watchdog.observing.answers.by_process", shown):
        yield


@asynccontextmanager
async def api(
    rows: OpencodeFile,
    fake: FakeServer,
    *,
    dry_run: bool = False,
    bounds: Bounds = PATIENT,
    begins: bool = True,
    token: Callable[[], str | None] | None = None,
    **settings: Any,  # noqa: ANN401 - those of the program
) -> AsyncIterator[Api]:
    """A watchdog with its API, which has looked once.

    Args:
        rows: its database.
        fake: its server.
        dry_run: it does nothing.
        bounds: how much a client may ask.
        begins: wait until it may act.
        token: what must be shown, if not always the one of these tests.
        settings: beside those that make it quick.
    """
    address = Address(host="127.0.0.1", port=free_port())
    # The database, its server and the watchdog are one process here, which is no evidence of anything.
    async with loopback(over_http(fake)) as url:
        quick: Json = {
            "database": rows.path,
            "servers": [url],
            "discover": False,
            "poll_interval": 0.1,
            "abort_grace": 2,
            "journal": rows.path.with_name("journal.db"),
            "shutdown_grace": 2,
            "control": str(address),
        }
        chosen = Settings(**{**quick, **settings})
        loaded = Loaded(settings=chosen, sources={}, config_file=None, warnings=())
        stop = anyio.Event()
        async with (
            _believed(),
            sidecar(loaded, feeds=False) as car,
            offered(
                chosen,
                car,
                address=address,
                token=token or (lambda: TOKEN),
                stop=stop,
                dry_run=dry_run,
                alerts=None,
                bounds=bounds,
            ) as control,
            anyio.create_task_group() as group,
        ):
            watch = car.watch(listeners=control.listeners, dry_run=dry_run)
            group.start_soon(watch.run, stop)
            control.begin(watch)
            base = f"http://{address}"
            async with httpx.AsyncClient(
                base_url=base, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60, trust_env=False
            ) as client:
                try:
                    await wait_until(lambda: _looked(client, acting=begins and not dry_run), "the first look")
                    yield Api(url=base, client=client, watch=watch, stop=stop)
                finally:
                    stop.set()


async def _looked(client: httpx.AsyncClient, *, acting: bool) -> bool:
    try:
        answer = await client.get("/api/v1/sessions")
    except httpx.ConnectError:
        return False
    return answer.status_code == 200 and (not acting or answer.json()["mandate"] == "acting")


def journal_of(path: Path) -> Path:
    """The journal beside a database of `api`."""
    return path.with_name("journal.db")


@dataclass
class Sent:
    """One server-sent event as a client reads it."""

    id: str | None
    name: str
    data: Json


async def read_events(answer: httpx.Response) -> AsyncGenerator[Sent, None]:
    """The events of a stream, as HTML's section on them has it; comments are left out."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Sent(id=fields.get("id"), name=fields["event"], data=json.loads(fields["data"]))
            fields = {}
