"""A client of opencode's `/global/event` that keeps what it saw."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.support.waiting import SECONDS, wait_until

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One server-sent event, and when it came."""

    type: str
    properties: Json
    directory: str | None
    at: float


@dataclass
class EventRecorder:
    """`async with EventRecorder(server.url) as events:` is connected, and records until the end."""

    url: str
    seen: list[Event] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._record(), name="event recorder")
        await self.wait_for(lambda event: event.type == "server.connected", "the event stream to connect")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
                await self._task

    async def wait_for(self, wanted: Callable[[Event], bool], what: str, *, seconds: float = SECONDS) -> Event:
        """The first event, past or to come, that is wanted."""
        return await wait_until(
            lambda: next((event for event in self.seen if wanted(event)), None), what, seconds=seconds
        )

    def part_states(self, part_id: str) -> list[str]:
        """The states of a tool call in the order in which they were published."""
        parts = [event.properties["part"] for event in self.seen if event.type == "message.part.updated"]
        return [part["state"]["status"] for part in parts if part["id"] == part_id and "state" in part]

    async def wait_for_state(self, part_id: str, status: str, *, seconds: float = SECONDS) -> None:
        """Wait until that state of a tool call was published."""
        what = f"a client to see {part_id} {status}"
        await wait_until(lambda: status in self.part_states(part_id), what, seconds=seconds)

    async def _record(self) -> None:
        timeout = httpx.Timeout(SECONDS, read=None)
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False) as client,
            client.stream("GET", f"{self.url}/global/event") as response,
        ):
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    self._keep(json.loads(line.removeprefix("data:")))

    def _keep(self, document: Json) -> None:
        payload = document.get("payload", document)
        event = Event(
            type=payload["type"],
            properties=payload.get("properties", {}),
            directory=document.get("directory"),
            at=time.time(),
        )
        self.seen.append(event)
