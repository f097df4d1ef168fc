"""The watchdog as `run` puts it together, inside this process; and how its cost is taken."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.composing.sidecar import sidecar
from watchdog.loop.garbage import collect_seldom
from watchdog.loop.watch import Listener, Watch
from watchdog.settings.schema import Loaded, Settings
from watchdog.settings.server_url import ServerUrl


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What something took, in milliseconds.

    Attributes:
        cpu: processor time of this process, all of its threads together.
        wall: time on the clock.
    """

    cpu: float
    wall: float


async def cost(work: Callable[[], Awaitable[object]], times: int = 1) -> Cost:
    """What it costs to do something once, taken over some times in a row."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(times):
        await work()
    return Cost(cpu=(time.process_time() - used) * 1000 / times, wall=(time.perf_counter() - began) * 1000 / times)


@asynccontextmanager
async def watching(
    path: Path,
    folder: Path,
    *,
    servers: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
    dry_run: bool = False,
    **settings: Any,  # noqa: ANN401 - whatever the settings take
) -> AsyncIterator[Watch]:
    """A watch with a real database, journal, lock and fleet, which `run` would drive.

    Args:
        path: the database.
        folder: where its journal goes.
        servers: base URLs.
        listeners: who hears of its loop.
        dry_run: do everything but act.
        settings: others than the defaults.
    """
    chosen = Settings(
        **{"discover": False, **settings},
        database=path,
        servers=tuple(map(ServerUrl, servers)),
        journal=folder / f"{path.stem}.journal.db",
    )
    loaded = Loaded(settings=chosen, sources={}, config_file=None, warnings=())
    async with sidecar(loaded, feeds=bool(servers)) as car:
        watch = car.watch(listeners=listeners, dry_run=dry_run)
        collect_seldom()
        yield watch
