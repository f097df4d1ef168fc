"""What it costs to judge thousands of open sessions."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.desk import Cost, cost, watching
from benchmarks.figures import Figure, Result, ratios, under
from benchmarks.processes import claim, server
from benchmarks.work import DIRECTORY, opened
from watchdog.judging.judge import judge
from watchdog.model.policy import Policy
from watchdog.model.report import Observation

MANY, FEW = 10_000, 1_000
ROUNDS = 15


async def judged(bench: Bench) -> Result:
    """`judge` alone on what a real look found: ten thousand sessions in turns with one thousand."""
    path = bench.databases[bench.smallest]
    seen = {}
    for count in (FEW, MANY):
        bench.step(f"look at {count:,} sessions")
        seen[count] = await _observed(path, bench.folder, count)
    taken: dict[int, list[Cost]] = {count: [] for count in seen}
    for number in range(ROUNDS):
        for count, (observation, policy) in seen.items():
            bench.step(f"round {number + 1} of {ROUNDS}")

            async def once(observation: Observation = observation, policy: Policy = policy) -> None:
                judge(observation, policy, observation.now)

            taken[count].append(await cost(once, MANY // count))
    many, few = [each.cpu for each in taken[MANY]], [each.cpu for each in taken[FEW]]
    return Result(
        figures=(
            Figure.of(f"{MANY:,} open sessions, judged", many, "ms CPU", target=under(50)),
            Figure.of(
                f"… over {MANY // FEW} times {FEW:,} sessions",
                [ratio * FEW / MANY for ratio in ratios(many, few)],
                "x",
                target=under(1.2),
                beside="linear is 1",
            ),
        )
    )


async def _observed(path: Path, folder: Path, count: int) -> tuple[Observation, Policy]:
    """What a real look sees of so many sessions that a server is at work on.

    Raises:
        RuntimeError: it saw others, or the server did not answer.
    """
    with ExitStack() as stack:
        _, work = stack.enter_context(opened(path, count))
        url = stack.enter_context(server(path, folder))
        await asyncio.to_thread(claim, url, {DIRECTORY: [each.session for each in work]})
        async with watching(path, folder, servers=[url]) as watch:
            observation = (await watch.assess()).observation
    if len(observation.snapshot.open_rows) != 2 * count or observation.degraded:
        raise RuntimeError(f"the look saw {len(observation.snapshot.open_rows)} open rows: {observation.degraded}")
    return observation, watch.policy
