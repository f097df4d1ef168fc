"""The loop of virtual time: it jumps, its order is a seed's, and nothing real gets in."""

import asyncio
import subprocess
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from simulation.loop import PROCESS, NothingLeft, RealInputOutput, SimulatedLoop, simulate

Seen = list[tuple[str, float]]


def test_a_year_of_waiting_takes_no_time_and_the_loop_tells_the_hour() -> None:
    async def main(loop: SimulatedLoop) -> float:
        for _ in range(365):
            await anyio.sleep(86_400)
        return loop.time()

    began = time.monotonic()
    assert simulate(main) == pytest.approx(365 * 86_400)
    assert time.monotonic() - began < 5


def _order(seed: int) -> list[int]:
    async def main(_: SimulatedLoop) -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            await asyncio.sleep(1)
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(note(number))
        return order

    return simulate(main, seed=seed)


def test_what_is_due_at_the_same_moment_comes_in_an_order_of_the_seed() -> None:
    assert _order(3) == _order(3)
    assert len({tuple(_order(seed)) for seed in range(8)}) > 1
    assert sorted(_order(3)) == list(range(12))


def test_timers_come_in_the_order_of_their_times_whatever_the_seed() -> None:
    async def main(loop: SimulatedLoop) -> list[float]:
        times: list[float] = []
        for seconds in (3.0, 1.0, 2.0):
            loop.call_later(seconds, lambda: times.append(loop.time()))
        await asyncio.sleep(4)
        return times

    assert simulate(main, seed=9) == [1.0, 2.0, 3.0]


def test_a_time_limit_is_one_of_virtual_time() -> None:
    async def main(loop: SimulatedLoop) -> float:
        with anyio.move_on_after(100):
            await anyio.sleep_forever()
        return loop.time()

    assert simulate(main) == 100


@pytest.mark.parametrize(
    "real",
    [
        lambda: anyio.to_thread.run_sync(time.monotonic),
        lambda: asyncio.to_thread(time.monotonic),
        lambda: asyncio.open_connection("127.0.0.1", 9),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: anyio.run_process(["true"]),
    ],
    ids=["anyio's threads", "asyncio's threads", "a connection", "a subprocess", "anyio's subprocess"],
)
def test_what_is_real_is_refused(real: object) -> None:
    async def main(_: SimulatedLoop) -> None:
        assert callable(real)
        await real()

    with pytest.raises(RealInputOutput):
        simulate(main)


def test_what_blocks_is_refused_too_and_only_in_a_simulation(tmp_path: Path) -> None:
    async def popen(_: SimulatedLoop) -> None:
        subprocess.Popen(["true"])  # noqa: ASYNC220 - what must be refused

    async def thread(_: SimulatedLoop) -> None:
        threading.Thread(target=print).start()

    async def write(_: SimulatedLoop) -> None:
        (tmp_path / "a").write_text("a")

    for main in (popen, thread, write):
        with pytest.raises(RealInputOutput):
            simulate(main)
    (tmp_path / "a").write_text("a")
    assert subprocess.run(["true"], check=True).returncode == 0


def test_whoever_waits_for_nothing_is_told_so() -> None:
    async def main(_: SimulatedLoop) -> None:
        await anyio.sleep_forever()

    with pytest.raises(NothingLeft, match=r"0\.000 s"):
        simulate(main)


def test_a_stopped_process_does_nothing_until_it_goes_on_and_the_world_does() -> None:
    async def main(loop: SimulatedLoop) -> tuple[Seen, Seen]:
        seen: Seen = []

        async def tick(who: str) -> None:
            for _ in range(3):
                await anyio.sleep(10)
                seen.append((who, loop.time()))

        token = PROCESS.set(7)
        task = loop.create_task(tick("process"))
        PROCESS.reset(token)
        world = loop.create_task(tick("world"))
        await anyio.sleep(12)
        loop.stop_process(7)
        await anyio.sleep(33)
        loop.continue_process(7)
        await asyncio.gather(task, world)
        return [each for each in seen if each[0] == "process"], [each for each in seen if each[0] == "world"]

    process, world = simulate(main)
    assert world == [("world", 10), ("world", 20), ("world", 30)]
    assert process == [("process", 10), ("process", 45), ("process", 55)]
