"""PostgreSQL in trouble under a whole watchdog: nothing is lost, nothing is done twice, the loop goes on.

Each test does something to the database while sessions hang, and then asks the same of the watchdog: that it said
so in a sentence for people, that it ended each session once, that the rows read as the journal has them, that nothing
is left begun, and that a session that hangs afterwards is ended, too.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from tests.faults.whole_replica import PATIENCE, Server, Site, recovered, site
from tests.support.postgres import Cluster
from tests.support.tcp_proxy import TcpProxy
from tests.support.terms import Terms
from tests.support.waiting import wait_until
from watchdog.errors import DatabaseUnavailable
from watchdog.model.outcome import Result
from watchdog.postgres.connection import transaction
from watchdog.postgres.lease import Lease
from watchdog.postgres.store import PostgresStore
from watchdog.postgres.writing import Writing
from watchdog.replicas.errands import Requests


@pytest.fixture
async def here(postgres: Cluster, postgres_url: str) -> AsyncIterator[Site]:
    """A server on the cluster of all tests, which stays up."""
    async with site(postgres, postgres_url) as found:
        yield found


class Once:
    """Something that is done in a thread, once, while all who call it wait.

    Args:
        work: what is done. A cancellation of who waits does not end it.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def is_done(self) -> bool:
        """Whether it is done."""
        return self._task is not None and self._task.done() and self._task.result() is None

    async def __call__(self) -> None:
        """Do it, or wait for the end of it."""
        self._task = self._task or asyncio.create_task(asyncio.to_thread(self._work))
        await asyncio.shield(self._task)


def ways_to_end(cluster: Cluster) -> list[Callable[[], None]]:
    """Each ends the connections in another manner."""
    return [partial(cluster.stop, "fast"), partial(cluster.stop, "immediate"), cluster.kill9]


def ways_to_restart(cluster: Cluster) -> list[Callable[[], None]]:
    """The same, and the server is there again at once."""

    def restart(end: Callable[[], None]) -> None:
        end()
        cluster.start()

    return [partial(restart, end) for end in ways_to_end(cluster)]


def once(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, fault: Callable[[], Awaitable[None]], **when: bool
) -> None:
    """Let something happen right before (`before=True`) or right after a method does its work for the next time."""
    inner, happened = getattr(owner, method), False

    async def wrapped(*arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - of any method
        nonlocal happened
        now, happened = not happened, True
        if now and when["before"]:
            await fault()
        answer = await inner(*arguments, **more)
        if now and not when["before"]:
            await fault()
        return answer

    monkeypatch.setattr(owner, method, wrapped)


async def test_undisturbed(here: Site) -> None:
    """The checks of this file themselves: they see what the server writes, and what the watchdog does."""
    here.hang("1")
    lost = here.left("2")
    async with here.watched() as dog:
        (outcome,) = await dog.release(lost)
        assert outcome.result is Result.RECOVERED
        await here.all_ended()
        await here.goes_on()
    await here.check()
    assert {each["id"] for each in here.admin("SELECT id FROM written WHERE kept")} == {"msg_2", "prt_2"}
    assert recovered(await here.settled_begun()) == Counter([*here.sessions, lost])


async def test_restarted_in_mid_tick(own_cluster: Cluster) -> None:
    async with site(own_cluster) as here:
        here.work("well")
        async with here.watched():
            for restart in ways_to_restart(own_cluster):
                restarted = Once(restart)
                here.hang(f"{len(here.sessions)}")
                here.server.at_statuses = restarted
                await wait_until(restarted.is_done, "the restart", explain=here.explain)
                here.server.at_statuses = None
                await here.goes_on()
        await here.check()
        assert here.notes.troubles
        assert recovered(await here.settled_begun()) == Counter(here.sessions)


async def test_restarted_in_mid_write(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the row was kept and before it is written; while that is not committed; and once it is."""
    fast, immediate, killed = ways_to_restart(own_cluster)
    any_end = {Result.FAILED, Result.RECOVERED}
    async with site(own_cluster) as here:
        async with here.watched() as dog:
            for name, owner, method, before, restart, results in (
                ("kept", PostgresStore, "write", True, killed, any_end),
                ("uncommitted", Writing, "write", False, immediate, {Result.FAILED}),
                ("committing", Writing, "write", False, killed, {Result.FAILED}),
                ("committed", PostgresStore, "write", False, fast, any_end),
            ):
                lost, restarted = here.left(name), Once(restart)
                once(monkeypatch, owner, method, restarted, before=before)
                (outcome,) = await dog.release(lost)
                monkeypatch.undo()
                assert restarted.is_done()
                assert outcome.result in results, outcome
                assert bool(here.open_rows()) is (outcome.result is Result.FAILED and name != "committed")
                await here.released(dog, lost)
                await here.goes_on()
        await here.check()
        assert set(recovered(await here.settled_begun())) >= set(here.sessions)
        await here.check()


async def test_cut_again_and_again(here: Site) -> None:
    for number in range(20):
        here.hang(f"{number}")
    here.work("well")
    async with here.watched():
        for _ in range(10):
            await wait_until(here.cut, "connections to be cut", explain=here.explain)
            await asyncio.sleep(0.1)
        await here.all_ended()
        await here.goes_on()
    await here.check()
    await here.settled_begun()


async def test_a_connection_that_was_cut_in_the_pool_is_not_used(here: Site) -> None:
    engine = here.engine()
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
    here.cut()
    await wait_until(driver.is_closed, "the driver to notice")
    async with transaction(engine, seconds=PATIENCE) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    await engine.dispose()


async def test_no_connection_left(here: Site) -> None:
    here.hang("1")
    async with here.watched(), AsyncExitStack() as others:
        while True:
            try:
                connection = await asyncpg.connect(here.url.replace("+asyncpg", ""), timeout=5)
            except asyncpg.TooManyConnectionsError:
                if here.cut() == 0:
                    break
            else:
                others.callback(connection.terminate)
        here.hang("2")
        await here.trouble("no room left")
        await others.aclose()
        await here.all_ended()
        await here.goes_on()
    await here.check()
    await here.settled_begun()


async def test_a_pool_of_one_that_is_busy(here: Site) -> None:
    engine = here.engine(pool_size=1, max_overflow=0, pool_timeout=0.2)
    async with here.watched(engine=engine):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            here.hang("1")
            await here.trouble("gave no connection in time")
        await here.all_ended()
        await here.goes_on()
    await here.check()
    await here.settled_begun()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("statement_timeout", "1ms", ["took longer than it may"]),
        ("idle_in_transaction_session_timeout", "1ms", ["stood still", "ended the connection", "can't be reached"]),
        ("default_transaction_read_only", "on", ["is read-only"]),
    ],
)
async def test_a_setting_that_lets_nothing_through(here: Site, setting: str, value: str, words: list[str]) -> None:
    async with here.watched():
        here.hang("1")
        await here.all_ended()
        here.setting(setting, value)
        here.hang("2")
        await here.trouble(*words)
        here.setting(setting, None)
        await here.all_ended()
        await here.goes_on()
    await here.check()
    await here.settled_begun()


async def test_a_migration_that_locks_the_tables(here: Site) -> None:
    lock = "LOCK TABLE message, part IN ACCESS EXCLUSIVE MODE"
    somebody = await asyncpg.connect(here.url.replace("+asyncpg", ""))
    async with here.watched():
        here.hang("1")
        async with somebody.transaction():
            await somebody.execute(lock)
            await asyncio.sleep(0.3)
        await here.all_ended()
        assert here.notes.troubles == []  # it was over soon
        here.hang("2")
        async with somebody.transaction():
            await somebody.execute(lock)
            await here.trouble("has locked a table")
        await here.all_ended()
        await here.goes_on()
    await somebody.close()
    await here.check()
    await here.settled_begun()


async def test_the_network_stands_still_and_is_cut(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TcpProxy(here.cluster.port) as proxy:
        engine = here.engine(through=proxy.port, connect_args={"timeout": 1, "command_timeout": 1})
        async with here.watched(engine=engine) as dog:
            here.hang("1")
            proxy.freeze()
            await here.trouble("did not answer in time")
            proxy.thaw()
            await here.all_ended()
            here.hang("2")
            proxy.freeze()
            await wait_until(lambda: proxy.kept_back, "something to be kept back")
            proxy.cut()
            proxy.thaw()
            await here.goes_on()
            lost = here.left("lost")

            reached: list[str] = []

            async def committed_and_cut() -> None:
                """The database gets the end of the transaction, and its answer gets nowhere."""
                reached.append("the write")
                proxy.freeze_answers()

            once(monkeypatch, Writing, "write", committed_and_cut, before=False)
            (outcome,) = await dog.release(lost)
            while not reached:  # a second was too short for a look before the write
                assert outcome.result is Result.UNREACHABLE, outcome
                (outcome,) = await dog.release(lost)
            assert outcome.result is Result.FAILED, outcome
            assert not here.open_rows()
            proxy.cut()
            proxy.thaw()
            await here.goes_on()
        await here.check()
        interventions = await here.settled_begun()
        assert lost in {each.verdict.session_id for each in interventions}


async def test_an_older_copy_in_its_place(here: Site) -> None:
    """What is open again is ended again where a host is at work on it again; else it is left to a person."""
    here.work("well")
    first, again = here.left("first"), here.left("again")
    async with here.watched() as dog:
        await wait_until(lambda: here.notes.looks, "a look")
        older = await asyncio.to_thread(here.copied)
        here.take_up(first)
        here.take_up(again)
        await here.all_ended()
        await here.change("UPDATE opencode_watchdog.lease SET expires_at = clock_timestamp()")
        await wait_until(lambda: here.term() > 1, "the next term", explain=here.explain)
        await here.goes_on()
        await asyncio.to_thread(here.restored, older)
        assert here.term() == 1
        assert here.begun() == 0
        here.take_up(again)
        await wait_until(lambda: "prt_again" not in here.open_rows(), "the end of it", explain=here.explain)
        assert here.open_rows() == {"msg_first", "prt_first"}
        (outcome,) = await here.released(dog, first)
        assert outcome.result is Result.RECOVERED
        await here.goes_on()
    here.sessions.remove(again)
    await here.check(twice=[again])
    assert recovered(await here.settled_begun())[first] == 1


async def test_its_own_tables_are_gone(here: Site) -> None:
    """As in a copy from before its first start: it makes them anew."""
    async with here.watched():
        here.hang("1")
        await here.all_ended()
        await here.change("DROP SCHEMA opencode_watchdog CASCADE")
        await here.trouble("lacks a table")
        await here.goes_on()
    await here.check()
    await here.settled_begun()


async def test_tables_that_are_renamed_and_altered(here: Site) -> None:
    async with here.watched():
        here.hang("1")
        await here.all_ended()
        await here.change("ALTER TABLE message RENAME TO message_old; ALTER TABLE part RENAME TO part_old")
        await here.trouble("lacks a table", "has no table")
        await here.change("ALTER TABLE message_old RENAME TO message; ALTER TABLE part_old RENAME TO part")
        await here.goes_on()
        for kind in ("json", "jsonb"):
            await here.change(f"ALTER TABLE message ALTER data TYPE {kind}; ALTER TABLE part ALTER data TYPE {kind}")
            await here.goes_on()
    await here.check()
    await here.settled_begun()


class Leases:
    """The leases of all watchdogs in this process, and who could act whenever a host was told to abort."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[Lease] = []
        self.acts: list[list[int | None]] = []
        leases = self.all

        class Noted(Lease):
            """A lease that the test knows of."""

            def __init__(self, *arguments: Any, **more: Any) -> None:  # noqa: ANN401 - as there
                super().__init__(*arguments, **more)
                leases.append(self)

        monkeypatch.setattr("watchdog.composing.replica.Lease", Noted)

    def held(self) -> list[int | None]:
        """The terms of those that may act, as far as they know."""
        return [lease.term for lease in self.all if lease.acquire()]

    async def note_act(self) -> None:
        """A host is told to abort."""
        self.acts.append(self.held())


async def test_two_replicas_while_it_is_restarted(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays away each time until nobody may act any more."""
    leases, brief = Leases(monkeypatch), timedelta(seconds=2)
    async with site(own_cluster) as here:
        terms = Terms(own_cluster, here.url)
        here.others.append(Server(here.url))
        for server in here.servers:
            server.at_abort = leases.note_act
        one = here.replica(lease_duration=brief)
        two = here.replica(lease_duration=brief, server=here.others[0])
        async with here.nothing_left(), one, two:
            for number, end in enumerate(ways_to_end(own_cluster)):
                for server in here.servers:
                    for each in "abc":
                        here.hang(f"{number}{each}{here.servers.index(server)}", server=server)
                await asyncio.to_thread(end)
                await wait_until(lambda: not leases.held(), "the end of the lease")
                await asyncio.to_thread(own_cluster.start)
                await wait_until(lambda: len(here.open_rows()) < 8, "most of them to be ended", explain=here.explain)
            await here.all_ended()
        await here.check()
        terms.check()
        assert terms.term() > len(ways_to_end(own_cluster))
        assert max(len(each) for each in leases.acts) == 1, leases.acts
        await here.settled_begun()


async def test_an_abort_that_could_not_be_passed_on_is_no_attempt(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.others.append(Server(here.url))
    put, failures = Requests._put, iter(range(3))

    async def failing(*arguments: Any, **more: Any) -> int:  # noqa: ANN401 - as there
        if next(failures, None) is not None:
            raise DatabaseUnavailable("The database can't be reached.")
        return await put(*arguments, **more)

    monkeypatch.setattr(Requests, "_put", failing)
    brief = timedelta(milliseconds=100)
    async with (
        here.nothing_left(),
        here.replica(abort_grace=brief),
        here.replica(abort_grace=brief, server=here.others[0]),
    ):
        here.hang("1", server=here.others[0])
        await wait_until(lambda: not here.open_rows() or here.notes.given_up, "the end", explain=here.explain)
    assert here.notes.given_up == []


async def test_one_that_acts_again_closes_what_another_one_left_begun(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, brief = Leases(monkeypatch), timedelta(milliseconds=500)
    here.others.append(Server(here.url))
    async with TcpProxy(here.cluster.port) as first, TcpProxy(here.cluster.port) as second:
        one, two = here.engine(through=first.port), here.engine(through=second.port)
        async with (
            here.nothing_left(),
            here.replica(engine=one, lease_duration=brief),
            here.replica(engine=two, lease_duration=brief, server=here.others[0]),
        ):
            await here.goes_on()
            first.freeze()
            await wait_until(leases.all[1].acquire, "the other one's turn", explain=here.explain)
            first.thaw()
            cut_off = asyncio.Event()

            async def cut_it_off() -> None:
                second.freeze()
                cut_off.set()

            here.others[0].at_abort = cut_it_off
            here.hang("2", server=here.others[0])
            await wait_until(cut_off.is_set, "an act that is cut off", explain=here.explain)
            await wait_until(leases.all[0].acquire, "its own turn again", explain=here.explain)
            here.others[0].at_abort = None
            second.thaw()
            await here.goes_on()
            looks = here.notes.looks
            await wait_until(lambda: here.notes.looks > looks + 6, "more looks", explain=here.explain)
            left = here.begun()
    assert left == 0
    await here.check()
