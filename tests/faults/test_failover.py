"""Replicas that are killed, stopped and cut off in turn: another one takes over, and nothing is done twice.

They are processes of their own on a real PostgreSQL. `PROGRAM` is what they run: `tests/faults/replica.py` says what
is expected of it.
"""

import asyncio
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil

from tests.faults.replica import TABLES, Signs
from tests.support.postgres import Cluster
from tests.support.tcp_proxy import TcpProxy
from tests.support.terms import Terms
from tests.support.waiting import wait_until
from watchdog.postgres import own
from watchdog.postgres.connection import own_engine
from watchdog.postgres.lease import SECONDS

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = [sys.executable, "-m", "tests.faults.replica"]
"""Takes the name, the database, the host, the seconds of the lease, and the file of signs."""
NAMES: Final = ("one", "two", "three")
FAIL_OVERS: Final = 50
SHORT_SECONDS: Final = 0.9
PROMISED_SECONDS: Final = 15.0
"""With the default lease."""
SLACK_SECONDS: Final = 30.0
"""What a slow machine may add: the time is not what is tested here."""
PATIENCE: Final = 90.0
FEED_SECONDS: Final = 0.02
MOST_OPEN: Final = 20


class Fault(StrEnum):
    """What happens to the one that has the lease."""

    KILLED = "killed"
    STOPPED = "stopped"
    CUT_OFF = "cut off"


@dataclass(kw_only=True)
class Process:
    """A replica as a process, with a network of its own to the database."""

    name: str
    proxy: TcpProxy
    arguments: list[str]
    folder: Path
    signs: Signs
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None
        return self.process

    @property
    def errors(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")[-3000:]

    def start(self) -> None:
        with (self.folder / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [*PROGRAM, *self.arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    async def stop(self) -> None:
        """Stop it anywhere but right before an act that nothing guards any more."""
        process = psutil.Process(self.running.pid)
        while True:
            self.running.send_signal(signal.SIGSTOP)
            await wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "its standstill", seconds=PATIENCE)
            if not self.signs.acting:
                return
            self.go_on()
            await asyncio.sleep(0.002)

    def go_on(self) -> None:
        self.running.send_signal(signal.SIGCONT)


@dataclass(kw_only=True)
class Site:
    """Three replicas, a database, and sessions that keep coming."""

    cluster: Cluster
    database: str
    terms: Terms
    replicas: dict[str, Process]
    times: list[tuple[float, Fault]] = field(default_factory=list)
    sessions: int = 0

    def count(self, table: str, where: str = "true") -> int:
        found = self.cluster.run(f"SELECT count(*) FROM {table} WHERE {where}", database=self.database)  # noqa: S608 - a test's own
        return int(found[0][0])

    def holder(self) -> tuple[str, int] | None:
        for replica in self.replicas.values():
            assert replica.running.poll() is None, replica.errors
        return self.terms.holder()

    async def feed(self) -> None:
        """Keep a few sessions open, so that the leader always has something to do. Ends when it is cancelled."""
        while True:
            if self.sessions - self.count("settled") < MOST_OPEN:
                self.add()
            await asyncio.sleep(FEED_SECONDS)

    def add(self) -> None:
        self.sessions += 1
        self.cluster.run("INSERT INTO work VALUES ($1)", self.sessions, database=self.database)

    async def working_leader(self) -> tuple[Process, int]:
        """The one that has the lease and has ended a session in this term; and the term."""

        def look() -> tuple[str, int] | None:
            holder = self.holder()
            return holder if holder and self.count("settled", f"term = {holder[1]}") else None

        name, term = await wait_until(look, "a leader at work", seconds=PATIENCE, explain=self.explain)
        return self.replicas[name], term

    async def fail_over(self, fault: Fault) -> bool:
        """Let it happen to the leader, and wait for the next term. False when it had lost the lease just before."""
        leader, term = await self.working_leader()
        await self._befall(leader, fault)
        hit = self.terms.holder() == (leader.name, term)
        began = time.monotonic()
        if hit:
            await wait_until(
                lambda: self.terms.term() > term, f"the next after {term}", seconds=PATIENCE, explain=self.explain
            )
            self.times.append((time.monotonic() - began, fault))
        if fault is Fault.STOPPED:
            leader.go_on()
        leader.proxy.thaw()
        return hit

    async def _befall(self, leader: Process, fault: Fault) -> None:
        match fault:
            case Fault.KILLED:
                leader.kill()
                leader.start()
            case Fault.STOPPED:
                await leader.stop()
            case Fault.CUT_OFF:
                leader.proxy.freeze()

    def explain(self) -> str:
        said = "\n".join(f"{replica.name}: {replica.errors}" for replica in self.replicas.values())
        done = f"{self.count('settled')} of {self.sessions} sessions settled, {len(self.times)} fail-overs"
        return f"{done}, holder {self.terms.holder()}\n{said}"

    def check_once_each(self) -> None:
        """Every session was settled once, and aborted once: by the book of the database."""
        sessions = set(range(1, self.sessions + 1))
        for table, late in (("settled", 0), ("aborted", sum(each.signs.late for each in self.replicas.values()))):
            rows = self.cluster.run(f"SELECT session FROM {table}", database=self.database)  # noqa: S608 - as above
            assert {row["session"] for row in rows} == sessions
            assert len(rows) - len(sessions) <= late, table

    def check_no_late_write(self) -> None:
        """Each term has one process; behind the fence, none writes once the next term has begun."""
        query = "SELECT term, name, pid, at FROM settled ORDER BY id"
        rows = self.cluster.run(query, database=self.database)
        holders = {(row["term"], row["name"], row["pid"]) for row in rows}
        assert len({term for term, _, _ in holders}) == len(holders)
        taken = {note.term: note for note in reversed(self.terms.notes())}
        for before, after in itertools.pairwise(rows):
            assert before["term"] <= after["term"], (dict(before), dict(after))
        for row in rows:
            assert taken[row["term"]].holder == row["name"]
            assert row["at"] >= taken[row["term"]].at
            assert row["term"] + 1 not in taken or row["at"] <= taken[row["term"] + 1].at, dict(row)


@asynccontextmanager
async def site(cluster: Cluster, url: str, folder: Path, seconds: float) -> AsyncIterator[Site]:
    """Start everything; whatever is left of it is killed in the end."""
    engine = own_engine(url)
    await own.prepare(engine)
    await engine.dispose()
    terms = Terms(cluster, url)
    for statement in filter(str.strip, TABLES.split(";")):
        cluster.run(statement, database=terms.database)
    cluster.run("GRANT ALL ON work, aborted, settled TO PUBLIC", database=terms.database)
    async with AsyncExitStack() as stack:
        replicas = {}
        for name in NAMES:
            proxy = await stack.enter_async_context(TcpProxy(cluster.port))
            replicas[name] = replica = _replica(name, url, folder / name, seconds, proxy)
            stack.callback(replica.signs.close)
            replica.start()
            stack.callback(replica.kill)
        yield Site(cluster=cluster, database=terms.database, terms=terms, replicas=replicas)


def _replica(name: str, url: str, folder: Path, seconds: float, proxy: TcpProxy) -> Process:
    folder.mkdir()
    signs = folder / "signs"
    signs.write_bytes(bytes(Signs.SIZE))
    through = url.replace(f":{url.rpartition(':')[2].partition('/')[0]}/", f":{proxy.port}/")
    arguments = [name, through, url, str(seconds), str(signs)]
    return Process(name=name, proxy=proxy, arguments=arguments, folder=folder, signs=Signs(signs))


async def test_fifty_fail_overs_and_nothing_is_done_twice(
    postgres: Cluster, postgres_url: str, tmp_path: Path
) -> None:
    async with site(postgres, postgres_url, tmp_path, SHORT_SECONDS) as here:
        feeding = asyncio.create_task(here.feed())
        faults = itertools.cycle(Fault)
        while len(here.times) < FAIL_OVERS:
            fault = next(faults)
            while not await here.fail_over(fault):
                pass
        feeding.cancel()
        with suppress(asyncio.CancelledError):
            await feeding
        await wait_until(
            lambda: here.count("settled") >= here.sessions, "the last session", seconds=PATIENCE, explain=here.explain
        )
        assert here.holder() is not None
        here.check_once_each()
        here.check_no_late_write()
        here.terms.check()
        slowest, fault = max(here.times)
        bound = SHORT_SECONDS * PROMISED_SECONDS / SECONDS + SLACK_SECONDS
        assert slowest < bound, f"the slowest of {len(here.times)} fail-overs took {slowest:.1f} s ({fault})"
        assert {fault for _, fault in here.times} == set(Fault)


async def test_with_the_default_lease_one_that_is_stopped_is_replaced_in_15_seconds(
    postgres: Cluster, postgres_url: str, tmp_path: Path
) -> None:
    async with site(postgres, postgres_url, tmp_path, SECONDS) as here:
        here.add()
        leader, term = await here.working_leader()
        await leader.stop()
        stopped_at = here.cluster.run("SELECT clock_timestamp() AS now")[0]["now"]
        assert here.terms.holder() == (leader.name, term)
        await wait_until(lambda: here.terms.term() > term, "the next", seconds=PATIENCE, explain=here.explain)
        taken = next(note for note in here.terms.notes() if note.term == term + 1)
        assert taken.holder != leader.name
        seconds = (taken.at - stopped_at).total_seconds()
        assert seconds < PROMISED_SECONDS, f"it took {seconds:.1f} s"
        leader.go_on()
        here.add()
        await wait_until(
            lambda: here.count("settled") == here.sessions, "both sessions", seconds=PATIENCE, explain=here.explain
        )
        here.check_once_each()
        here.check_no_late_write()
        here.terms.check()
