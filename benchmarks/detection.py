"""How long after its limit a call is found, by a loop that polls every half minute."""

import asyncio
import random
from contextlib import ExitStack
from datetime import timedelta

import anyio

from benchmarks.bench import Bench
from benchmarks.desk import watching
from benchmarks.figures import Figure, Result, percentile, under
from benchmarks.first import Quiet
from benchmarks.processes import claim, server
from benchmarks.work import DIRECTORY, begin, now_ms, opened
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict

CALLS = 200
SPREAD_SECONDS = 60
LEAD_SECONDS = 5
"""How long after the start the first limit is reached."""
LIMIT_SECONDS = 600
_PATIENCE_SECONDS = 60


class _Found(Quiet):
    """Notes when the verdict on each session was found."""

    def __init__(self, wanted: int) -> None:
        self.at_ms: dict[SessionId, int] = {}
        self.all = anyio.Event()
        self._wanted = wanted

    def found(self, verdict: Verdict) -> None:
        """Note the first time."""
        self.at_ms.setdefault(verdict.session_id, now_ms())
        if len(self.at_ms) == self._wanted:
            self.all.set()


async def detection(bench: Bench) -> Result:
    """A real loop with `poll_interval = 30s`, and calls that reach `tool_timeout` at chance moments over a minute."""
    path = bench.databases[bench.smallest]
    chance = random.Random(CALLS)  # noqa: S311 - the same moments in each run
    with ExitStack() as stack:
        file, _ = stack.enter_context(opened(path, 0))
        url = stack.enter_context(server(path, bench.folder))
        limits, begun = {}, now_ms() + LEAD_SECONDS * 1000
        for number in range(CALLS):
            limit = begun + int(chance.uniform(0, SPREAD_SECONDS * 1000))
            limits[SessionId(begin(file, number, at=limit - LIMIT_SECONDS * 1000).session)] = limit
        await asyncio.to_thread(claim, url, {DIRECTORY: list(limits)})
        listener = _Found(CALLS)
        bench.step(f"{CALLS} limits within {SPREAD_SECONDS} s")
        async with (
            watching(
                path, bench.folder, servers=[url], listeners=[listener], poll_interval=timedelta(seconds=30),
                tool_timeout=timedelta(seconds=LIMIT_SECONDS),
            ) as watch,
            anyio.create_task_group() as group,
        ):  # fmt: skip
            stop = anyio.Event()
            group.start_soon(watch.run, stop)
            with anyio.move_on_after(LEAD_SECONDS + SPREAD_SECONDS + _PATIENCE_SECONDS):
                await listener.all.wait()
            stop.set()
    late = [float(at - limits[session]) for session, at in listener.at_ms.items()]
    if len(late) < CALLS:
        raise RuntimeError(f"{CALLS - len(late)} of {CALLS} calls were never found")
    name = "detection after the limit"
    return Result(
        figures=(
            Figure.of(f"{name}, p50", late, "ms", beside="poll_interval = 30s"),
            Figure.of(
                f"{name}, p99", late, "ms", value=percentile(late, 99), target=under(100), beside=f"{CALLS} calls"
            ),
            Figure.of(f"{name}, the latest", late, "ms", value=max(late)),
        )
    )
