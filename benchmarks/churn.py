"""A day of ticks in a process of its own, which has imported what `run` imports and nothing else that is large.

Sessions begin, change and end between the ticks, and now and then one hangs and is ended. Prints its resident memory
as it goes. `python -m benchmarks.churn --help`.
"""

import argparse
import random
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import anyio
import psutil

import watchdog.cli.main
import watchdog.cli.run  # noqa: F401 - what `run` has in memory
from benchmarks.desk import watching
from benchmarks.processes import claim
from benchmarks.work import DIRECTORY, Opened, begin, clear, now_ms
from tests.support.database import OpencodeFile
from watchdog.console.formats import configure
from watchdog.loop.watch import Watch
from watchdog.reporting.log import LogListener

AT_WORK = 20
"""How many sessions are at work at a time."""
HANGS_EVERY = 500
"""Every so many ticks a session is past its limit."""
_LIMIT = timedelta(hours=1)


class _Churn:
    """Sessions that come and go; each lives for some ticks.

    Args:
        file: the database.
        url: the scripted server that is at work on them.
    """

    def __init__(self, file: OpencodeFile, url: str) -> None:
        self._file = file
        self._url = url
        self._chance = random.Random(AT_WORK)  # noqa: S311 - the same course in each run
        self._work: list[Opened] = []
        self._numbers = iter(range(1_000_000))

    def step(self, tick: int) -> None:
        """One commit: a session ends and another begins, or a call or a turn goes on."""
        if tick % HANGS_EVERY == 0:
            self._replace(hangs=True)
        elif len(self._work) < AT_WORK or tick % 5 == 0:
            self._replace(hangs=False)
        else:
            one = self._chance.choice(self._work)
            call = self._file.call(one.turn, f"prt_benchmore{tick:09d}", at=now_ms())
            self._file.finish_call(call, at=now_ms())

    def _replace(self, *, hangs: bool) -> None:
        if len(self._work) >= AT_WORK:
            old = self._work.pop(0)
            self._file.finish_call(old.call, at=now_ms())
            self._file.finish_turn(old.turn, at=now_ms())
        age = 2 * int(_LIMIT.total_seconds()) * 1000 if hangs else 0
        self._work.append(begin(self._file, next(self._numbers), at=now_ms() - age))
        claim(self._url, {DIRECTORY: [each.session for each in self._work]})


async def live(arguments: argparse.Namespace) -> None:
    """Tick, and act on what is found; say the memory at the moments that are asked for."""
    process, folder = psutil.Process(), arguments.folder
    with closing(OpencodeFile(arguments.database)) as file, (folder / "log").open("w", encoding="utf-8") as log:
        clear(file.connection)
        configure(level="info", log_format="json", stream=log)
        churn = _Churn(file, arguments.server)
        listener = LogListener()
        async with watching(
            arguments.database, folder, servers=[arguments.server], listeners=[listener], tool_timeout=_LIMIT
        ) as watch:
            if not watch.mandate.acquire():
                raise RuntimeError("another watchdog acts on this database")
            await watch.close_begun()
            for tick in range(1, arguments.ticks[-1] + 1):
                churn.step(tick)
                await _tick(watch, listener)
                if tick in arguments.ticks:
                    print(f"{tick} {process.memory_info().rss}", flush=True)
        clear(file.connection)


async def _tick(watch: Watch, listener: LogListener) -> None:
    """What the loop does at one look, with the acts in a row instead of beside it."""
    assessment = await watch.assess()
    await watch.recollection.keep()
    listener.looked(assessment, acting=True)
    for verdict in assessment.judgement.verdicts:
        await watch.act(verdict)


def main() -> None:
    """Read the arguments, and live a day."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--server", required=True, help="the base URL of a scripted server")
    parser.add_argument("--folder", type=Path, required=True, help="for the journal and the log")
    parser.add_argument("--ticks", type=int, nargs="+", required=True, help="after which ticks to say the memory")
    anyio.run(live, parser.parse_args())


if __name__ == "__main__":
    main()
