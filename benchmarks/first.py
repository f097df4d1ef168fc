"""The first full look at a database, beside the bare scan of `message`; and a loop's start until it is judged."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import anyio

from benchmarks import scans
from benchmarks.bench import Bench, sized
from benchmarks.desk import Cost, cost, watching
from benchmarks.figures import Figure, Result, at_most, ratios
from benchmarks.processes import scratch
from benchmarks.ticks import AT_WORK
from benchmarks.work import opened
from watchdog.errors import WatchdogError
from watchdog.model.outcome import Outcome
from watchdog.model.verdict import Verdict
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.timing.clock import Advance
from watchdog.timing.events import Assessment

ROUNDS = 7


class Quiet:
    """A listener that does nothing."""

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """A look was taken."""

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        """A look was not acted on."""

    def found(self, verdict: Verdict) -> None:
        """A verdict is carried out."""

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """A verdict was carried out."""

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """An error of the watchdog's own."""

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:  # noqa: ARG002
        """The database can't be read: what is measured would be something else."""
        raise error


class _FirstLook(Quiet):
    """Stops the loop at its first look, and notes the moment."""

    def __init__(self) -> None:
        self.stop = anyio.Event()
        self.taken: Cost | None = None
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def begin(self) -> None:
        """From here on it counts."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def looked(self, assessment: Assessment, *, acting: bool) -> None:  # noqa: ARG002 - the interface's
        """Note when."""
        if self.taken is None:
            cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
            self.taken = Cost(cpu=cpu * 1000, wall=wall * 1000)
        self.stop.set()


async def first(bench: Bench) -> Result:
    """The first full look on a new connection, in turns with the scan of `message` on one; and a loop's start."""
    judged: list[Cost] = []
    looks: dict[int, list[Cost]] = {parts: [] for parts in bench.databases}
    bare: dict[int, list[Cost]] = {parts: [] for parts in bench.databases}
    with ExitStack() as stack:
        for path in bench.databases.values():
            stack.enter_context(opened(path, AT_WORK))
        for number in range(ROUNDS + 1):
            for parts, path in bench.databases.items():
                bench.step(f"round {number} of {ROUNDS}, {parts:,} parts")
                scan = await cost(partial(scans.scan_messages_anew, path))
                look = await cost(partial(_look_anew, path))
                loop = await _look(path)
                if number:  # the first round only warms the file system's cache
                    bare[parts].append(scan)
                    looks[parts].append(look)
                    judged += [loop] if parts == bench.reference else []
    top = bench.reference
    wall, beside = [each.wall for each in looks[top]], [each.wall for each in bare[top]]
    figures = (
        Figure.of(sized("the first full look", top), wall, "ms", beside=f"scan of message {median(beside):,.1f} ms"),
        Figure.of(
            "… over the bare scan of message", ratios(wall, beside), "x", target=at_most(1.3), beside="in turns"
        ),
        Figure.of(
            "… and a loop's start until it is judged",
            [each.wall for each in judged],
            "ms",
            beside="with the look at processes",
        ),
    )
    lines = {
        "scan of message": {parts: median(each.cpu for each in costs) for parts, costs in bare.items()},
        "the first full look": {parts: median(each.cpu for each in costs) for parts, costs in looks.items()},
    }
    return Result(figures=figures, lines=lines)


async def _look_anew(path: Path) -> None:
    """The first full look, on a connection that has nothing in its cache."""
    async with await OpencodeDatabase.open(path) as store:
        await store.look(full=True)


async def _look(path: Path) -> Cost:
    """A loop of its own with an empty journal, stopped at its first look."""
    listener = _FirstLook()
    with scratch() as folder:
        async with watching(path, folder, listeners=[listener], dry_run=True) as watch:
            listener.begin()
            await watch.run(listener.stop)
    if listener.taken is None:
        raise RuntimeError("the loop ended before it had looked")
    return listener.taken
