"""An hour of trouble in a test: what hangs is ended, what is healthy comes through whole, and all is accounted for.

`SOAK_SECONDS` says for how long (90), `SOAK_SEED` which schedule of faults (a new one each time; it is printed).
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import require
from tests.soak.audit import Audit
from tests.soak.churn import HEALTHY_SESSIONS, HUNG_JOBS, HUNG_SESSIONS, Stage, ask_a_question
from tests.soak.churn import churn_healthy as healthy
from tests.soak.churn import churn_hung as hung
from tests.soak.faults import Kennel, Mischief, Vitals, look_at
from tests.soak.proxy import HOST, Proxy
from tests.soak.schedule import draw
from tests.support.binaries import NEWEST
from tests.support.opencode import HANGING_TOOL, SILENT_MCP_TOOL, Lab
from tests.support.watchdog_run import Setting, Watchdog
from watchdog.journal.sqlite import journal_path

Json = dict[str, Any]

SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "90"))
CALM_SECONDS: Final = 25.0
DEADLINE_SECONDS: Final = 180.0
# What is healthy may be silent, and a call may have no arguments yet, for ten seconds of a slow machine.
LIMITS: Final[dict[str, Setting]] = {
    "tool_timeouts": {HANGING_TOOL: 6, SILENT_MCP_TOOL: 6, "bash": 12},
    "tool_timeout": 20,
    "idle_timeout": 20,
    "task_timeout": 40,
    "abort_grace": 10,
    "birth_margin": 1,
}
MOST_DESCRIPTORS_MORE: Final = 12
MOST_MEGABYTES_MORE: Final = 50.0
WARM_AFTER: Final = 8
"""Looks at what a watchdog has, one every other second, until it is warm."""


@dataclass
class Soak:
    """All that takes part."""

    stage: Stage
    kennel: Kennel
    mischief: Mischief
    seed: int


@pytest.mark.skipif(sys.platform != "linux", reason="the proxy needs a second loopback address")
async def test_under_faults_of_every_kind_the_hung_end_and_the_healthy_come_through_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require(NEWEST)

    def say(line: str) -> None:
        with capsys.disabled():  # stderr, since tests that run in several processes have no other way out
            print(line, file=sys.stderr, flush=True)

    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    say(f"\nsoak: SOAK_SEED={seed} SOAK_SECONDS={SECONDS:g}")
    async with _opened(tmp_path, seed) as soak:
        try:
            question = await _churn(soak, say)
        except (AssertionError, TimeoutError):
            assert soak.kennel.running is not None
            say(f"SOAK_SEED={seed}; {dict(soak.stage.counts)}\n{soak.kennel.running.tail()}")
            raise
        audit = await _end(soak, question)
    say(_table(soak, audit))
    wrong = [*soak.stage.wrong, *audit.wrong]
    assert not wrong, f"SOAK_SEED={seed}\n" + "\n".join(each[:900] for each in wrong)


@asynccontextmanager
async def _opened(folder: Path, seed: int) -> AsyncIterator[Soak]:
    async with Lab.open(folder / "home", version=NEWEST, mcp=True) as lab:
        server = await lab.serve()
        async with Proxy(port=server.port) as proxy:
            settings: dict[str, Setting] = {
                "servers": [f"http://{HOST}:{server.port}"],
                "poll_interval": 0.5,
                **LIMITS,
            }
            kennel = Kennel(Watchdog.for_lab(lab, **settings))
            stage = Stage(lab=lab, server=server)
            stage.up.set()
            await kennel.start()
            yield Soak(stage=stage, kennel=kennel, mischief=Mischief(stage, kennel, proxy), seed=seed)


async def _churn(soak: Soak, say: Any) -> Json | None:  # noqa: ANN401 - prints a line
    """Let all run, with the faults beside it, and then let all come to its end."""
    stage, mischief = soak.stage, soak.mischief
    processes, network = draw(soak.seed, max(SECONDS - CALM_SECONDS, 20.0))
    helpers = [asyncio.create_task(stage.keep_statuses()), asyncio.create_task(soak.kennel.keep_vitals())]
    seeds = random.Random(f"{soak.seed} sessions")  # noqa: S311 - no secret
    churning = [asyncio.create_task(healthy(stage, random.Random(seeds.random()))) for _ in range(HEALTHY_SESSIONS)]  # noqa: S311
    for number in range(HUNG_SESSIONS):
        job = HUNG_JOBS[number % len(HUNG_JOBS)]
        churning.append(asyncio.create_task(hung(stage, random.Random(seeds.random()), job)))  # noqa: S311
    question = asyncio.create_task(ask_a_question(stage))
    mischief.began = time.monotonic()
    try:
        faults = asyncio.gather(mischief.follow(processes, say), mischief.follow(network, say))
        running: list[asyncio.Future[Any]] = [faults, *churning, question]
        everybody = asyncio.gather(*running)
        calming = asyncio.create_task(_calm_after(stage, faults))
        async with asyncio.timeout(SECONDS + DEADLINE_SECONDS):
            await everybody
        return question.result()
    finally:
        tasks: list[asyncio.Future[Any]] = [*helpers, *running, calming, everybody]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _calm_after(stage: Stage, faults: "asyncio.Future[Any]") -> None:
    await asyncio.wait([faults])
    stage.calm.set()


async def _end(soak: Soak, question: Json | None) -> Audit:
    """The question still stands; the watchdog has grown no worse, and ends when told to; the books are right."""
    stage, kennel = soak.stage, soak.kennel
    assert kennel.running is not None
    await kennel.running.wait_looks(2)
    asks = [ask["id"] for ask in await stage.server.questions()]
    if question is None or question["id"] not in asks:
        stage.wrong.append(f"the question does not stand any more: {question} among {asks}")
    kennel.vitals[-1].append(look_at(kennel.process_id))
    for seen in kennel.vitals:
        _check_vitals(stage, seen)
    code = await kennel.running.stop()
    if code != 0:
        stage.wrong.append(f"the watchdog ended with {code}: {kennel.running.tail()}")
    await stage.server.stop()
    audit = Audit(stage=stage, journal=journal_path(stage.lab.database, {}, stage.lab.home))
    audit.check()
    audit.read_logs(kennel.logs)
    return audit


def _check_vitals(stage: Stage, seen: list[Vitals]) -> None:
    """Compare a watchdog's end with what it had once it was warm; the peaks between the two do not count."""
    if len(seen) <= WARM_AFTER:
        return
    early, last = seen[WARM_AFTER // 2 : WARM_AFTER], seen[-1]
    if last.descriptors > max(one.descriptors for one in early) + MOST_DESCRIPTORS_MORE:
        stage.wrong.append(f"descriptors were left over: {early[-1]} at first, {last} at last")
    if last.megabytes > max(one.megabytes for one in early) + MOST_MEGABYTES_MORE:
        stage.wrong.append(f"memory grew: {early[-1]} at first, {last} at last")
    if last.children > 1:  # one may be asking the kernel who holds the database
        stage.wrong.append(f"child processes were left over: {last}")


def _table(soak: Soak, audit: Audit) -> str:
    stage = soak.stage
    rows = {**dict(sorted(stage.counts.items())), **dict(sorted(audit.counts.items()))}
    rows |= {f"proxy: {mode.value}": count for mode, count in soak.mischief.proxy.spoilt.items()}
    rows["watchdogs started"] = len(soak.kennel.vitals)
    figures = [f"{name:<52} {count:>7}" for name, count in rows.items()]
    figures += [f"{'slowest: ' + what:<52} {seconds:>6.1f}s" for what, seconds in sorted(stage.slowest.items())]
    last = [seen for seen in soak.kennel.vitals if seen][-1]
    warm = last[min(WARM_AFTER, len(last)) - 1]
    return "\n".join(["", *figures, f"the last watchdog: {warm} when it was warm, {last[-1]} at last"])
