"""Many stuck sessions at once, on a server that takes its time for an abort; and beside a server that hangs."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Result, ratios, under
from benchmarks.processes import Json, Running, claim, run, server, until
from benchmarks.work import DIRECTORY, begin, now_ms, opened

SESSIONS = 1_000
ABORT_MS = 50
ANSWERING = 2
"""How many servers answer, beside the one that hangs."""
SESSIONS_EACH = 100
ROUNDS = 3
_LIMIT_SECONDS = 60
_AGE_MS = 10 * 60 * 1000
_PATIENCE_SECONDS = 180.0


async def stuck(bench: Bench) -> Result:
    """A thousand sessions past their limit, and a real `run`: from its first verdict until the last is verified."""
    path = bench.databases[bench.smallest]
    with ExitStack() as stack:
        file, _ = stack.enter_context(opened(path, 0))
        url = stack.enter_context(server(path, bench.folder, abort_ms=ABORT_MS))
        ids = [begin(file, number, at=now_ms() - _AGE_MS).session for number in range(SESSIONS)]
        await asyncio.to_thread(claim, url, {DIRECTORY: ids})
        bench.step(f"{SESSIONS:,} sessions")
        async with run(path, bench.folder, servers=[url], tool_timeout=_LIMIT_SECONDS) as running:
            await _recovered(running, ids)
            taken = _moment(_outcomes(running, ids)[-1]) - _moment(running.events("verdict.found")[0])
    alone = SESSIONS * ABORT_MS / 1000
    return Result(
        figures=(
            Figure.of(
                f"{SESSIONS:,} stuck sessions, all verified", [taken], "s", target=under(12),
                beside=f"one after the other, the aborts alone take {alone:g} s",
            ),
        )
    )  # fmt: skip


async def hanging(bench: Bench) -> Result:
    """How long the sessions of two servers take, in turns with and without a third one that hangs."""
    path = bench.databases[bench.smallest]
    alone, beside = [], []
    for number in range(ROUNDS):
        bench.step(f"round {number + 1} of {ROUNDS}")
        alone.append(await _verified(path, bench.folder, hanging=0))
        beside.append(await _verified(path, bench.folder, hanging=1))
    name = f"{ANSWERING * SESSIONS_EACH} stuck sessions of {ANSWERING} servers, a third one hangs"
    return Result(
        figures=(
            Figure.of(name, beside, "s", beside=f"{median(alone):.1f} s without it"),
            Figure.of("… over the same without it", ratios(beside, alone), "x", target=under(1.2), beside="in turns"),
        )
    )


async def _verified(path: Path, folder: Path, *, hanging: int) -> float:
    """From the start of the watch until the sessions of the servers that answer are verified, in seconds."""
    with ExitStack() as stack:
        file, _ = stack.enter_context(opened(path, 0))
        urls: list[str] = []
        wanted: list[str] = []
        for place in range(ANSWERING + hanging):
            hangs = place >= ANSWERING
            url = stack.enter_context(server(path, folder, abort_ms=ABORT_MS, hang=hangs))
            numbers = range(place * SESSIONS_EACH, (place + 1) * SESSIONS_EACH)
            directory, at = f"{DIRECTORY}-{place}", now_ms() - _AGE_MS
            ids = [begin(file, number, directory=directory, at=at).session for number in numbers]
            if not hangs:
                await asyncio.to_thread(claim, url, {directory: ids})
                wanted += ids
            urls.append(url)
        async with run(path, folder, servers=urls, tool_timeout=_LIMIT_SECONDS) as running:
            await _recovered(running, wanted)
            return _moment(_outcomes(running, wanted)[-1]) - _moment(running.events("watch.started")[0])


async def _recovered(running: Running, ids: Collection[str]) -> None:
    await until(lambda: len(_outcomes(running, ids)) == len(ids), f"{len(ids)} sessions", _PATIENCE_SECONDS)


def _outcomes(running: Running, ids: Collection[str]) -> Sequence[Json]:
    """The sessions' first outcomes that say `recovered`, in the order of the log."""
    first: dict[str, Json] = {}
    wanted = frozenset(ids)
    for line in running.events("outcome"):
        if line["result"] == "recovered" and line["session_id"] in wanted:
            first.setdefault(line["session_id"], line)
    return list(first.values())


def _moment(line: Mapping[str, object]) -> float:
    """When a line was logged, in seconds since the epoch."""
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()
