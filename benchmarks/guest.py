"""What a server feels of the watchdog in its event loop, with its sessions in one folder, and in one for each."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.bench import Bench
from benchmarks.cluster import Measured, connected, fill, make_indexes
from benchmarks.figures import Figure, at_most
from benchmarks.first import Quiet
from benchmarks.work import Opened, now_ms, opened
from watchdog import running
from watchdog.model.session import Activity, Ask, SessionId, Status
from watchdog.settings.schema import Settings
from watchdog.timing.events import Assessment

FOLDERS: Mapping[int, Sequence[int]] = {1_000: (1, 300, 1_000), 10_000: (1, 10_000)}
"""For some numbers of open sessions: in how many folders they are; one first."""
LATE_MS: Final = {1_000: 50, 10_000: 100}
LOOKS = 3
_BEAT_SECONDS: Final = 0.005
_POLL: Final = "2s"
_PATIENCE_SECONDS: Final = 120.0

Commit = Callable[[int], Awaitable[None]]
"""Commits a change of one of the sessions, so that the next look reads."""


class Busy:
    """A host that is at work on some sessions, and counts its questions."""

    def __init__(self, work: Sequence[Opened]) -> None:
        self.asked = 0
        self._statuses = {SessionId(each.session): Status(activity=Activity.BUSY) for each in work}

    async def statuses(self) -> Mapping[SessionId, Status]:
        """See `Host.statuses`."""
        self.asked += 1
        return dict(self._statuses)

    async def pending_asks(self) -> Sequence[Ask]:
        """See `Host.pending_asks`."""
        self.asked += 1
        return ()

    async def abort(self, session_id: SessionId) -> None:
        """Nothing here is ever past a limit."""
        raise RuntimeError(f"{session_id} was to be ended")


class _Looks(Quiet):
    """Waits for the next look on which it acts."""

    def __init__(self) -> None:
        self.seen, self._next = 0, anyio.Event()

    async def next(self) -> Assessment:
        """The next one."""
        await self._next.wait()
        return self.last

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """Note it."""
        if acting:
            self.last, self.seen = assessment, self.seen + 1
            self._next.set()
            self._next = anyio.Event()


@dataclass(frozen=True, kw_only=True, slots=True)
class Felt:
    """What a server felt while some looks were taken.

    Attributes:
        percent: of a core, for the whole process.
        look_ms: the same for each look, in milliseconds of processor time.
        late_ms: how late a beat in the loop came at most.
        questions: how often the host was asked in a second.
    """

    percent: float
    look_ms: float
    late_ms: float
    questions: float


async def guest(cluster: Measured, path: Path, bench: Bench) -> list[Figure]:
    """Looks of a watchdog with the lease, and of one on a file, beside a beat in the same loop."""
    figures: list[Figure] = []
    for count, dimension in FOLDERS.items():
        for where, place in (("PostgreSQL", partial(_in_postgres, cluster, path)), ("SQLite", _on_file(path, bench))):
            one: float | None = None
            for folders in dimension:
                bench.step(f"{where}, {count:,} sessions in {folders:,} folders")
                async with place(count, folders) as (url, work, commit):
                    felt = await _felt(url, work, commit, journal=bench.folder / f"{count}-{folders}.journal.db")
                figures += _figures(where, count, folders, felt, one)
                one = one or felt.look_ms
    return figures


def _figures(where: str, count: int, folders: int, felt: Felt, one: float | None) -> list[Figure]:
    name = f"{where}: a server's loop, {count:,} open sessions in {folders:,} folder{'s' if folders > 1 else ''}"
    found = [
        Figure.of(
            f"{name}, late by at most", [felt.late_ms], "ms",
            target=at_most(LATE_MS[count]) if count in LATE_MS else None,
            beside=f"a beat; the host is asked {felt.questions:.1f} times a second",
        ),
        Figure.of(
            "… for each look, with the beat", [felt.look_ms], "ms CPU",
            beside=f"{felt.percent:.0f} % of a core, with a look and a commit about every {_POLL}",
        ),
    ]  # fmt: skip
    if one is not None:
        found.append(Figure.of("… over one folder", [felt.look_ms / one], "x", target=at_most(1.3)))
    return found


async def _felt(url: str, work: Sequence[Opened], commit: Commit, *, journal: Path) -> Felt:
    host, looks, engine = Busy(work), _Looks(), create_async_engine(url)
    more = {} if engine.dialect.name == "postgresql" else {"journal": journal}
    settings = Settings.model_validate({"poll_interval": _POLL, "tool_timeout": "off", **more})
    try:
        async with running(settings, host=host, engine=engine, listeners=[looks]), anyio.create_task_group() as group:
            with anyio.fail_after(_PATIENCE_SECONDS):
                await looks.next()
                seen = await looks.next()  # the first ones read everything
                late: list[float] = []
                group.start_soon(_beat, late)
                began, used, asked = time.perf_counter(), time.process_time(), host.asked
                for number in range(LOOKS):
                    await commit(number)
                    seen = await looks.next()
            seconds, used, asked = time.perf_counter() - began, time.process_time() - used, host.asked - asked
            group.cancel_scope.cancel()
    finally:
        await engine.dispose()
    if len(seen.observation.snapshot.sessions) != len(work) or seen.observation.degraded:
        raise RuntimeError(f"the look saw {len(seen.observation.snapshot.sessions)}: {seen.observation.degraded}")
    return Felt(
        percent=100 * used / seconds,
        look_ms=1000 * used / LOOKS,
        late_ms=1000 * max(late),
        questions=asked / seconds,
    )


async def _beat(late: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await anyio.sleep(_BEAT_SECONDS)
        late.append(time.perf_counter() - began - _BEAT_SECONDS)


@asynccontextmanager
async def _in_postgres(
    cluster: Measured, path: Path, count: int, folders: int
) -> AsyncIterator[tuple[str, Sequence[Opened], Commit]]:
    url, work = await fill(cluster, f"guest_{count}_{folders}", path, count, folders=folders)
    async with connected(url) as writer:
        await make_indexes(writer)
        await writer.execute("ANALYZE")

        async def commit(number: int) -> None:
            await writer.execute("UPDATE part SET time_updated = $2 WHERE id = $1", work[number].text, now_ms())

        yield url, work, commit


def _on_file(path: Path, bench: Bench) -> Any:  # noqa: ANN401 - as `_in_postgres`
    @asynccontextmanager
    async def place(count: int, folders: int) -> AsyncIterator[tuple[str, Sequence[Opened], Commit]]:
        bench.step(f"{count:,} sessions in {path.name}")
        with opened(path, count, folders=folders) as (file, work):

            async def commit(number: int) -> None:
                file.set("part", work[number].text, time_updated=now_ms())

            yield f"sqlite+aiosqlite:///{path}", work, commit

    return place
