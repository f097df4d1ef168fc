"""The lease on a real PostgreSQL: one holder at a time, whatever stops, breaks, is cut off or is put back."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Self

import anyio
import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.support.postgres import Cluster
from tests.support.tcp_proxy import TcpProxy
from tests.support.terms import Terms
from tests.support.waiting import wait_until
from watchdog.errors import DatabaseUnavailable, JournalUnusable, LeaseLost
from watchdog.ports import Reading
from watchdog.postgres import own
from watchdog.postgres.connection import own_engine
from watchdog.postgres.lease import Lease
from watchdog.timing.clock import SystemClock

FOR_EVER = 600.0
"""A lease that does not run out during a test."""
PATIENCE = 60.0
ROW = "opencode_watchdog.lease"


class Jumping(SystemClock):
    """The machine's clocks, some of them set ahead by a test."""

    def __init__(self) -> None:
        self.running_ahead = 0.0
        self.wall_ahead = 0.0

    def read(self) -> Reading:
        reading = super().read()
        return replace(
            reading,
            running_seconds=reading.running_seconds + self.running_ahead,
            wall_ms=reading.wall_ms + round(self.wall_ahead * 1000),
        )


class Replicas:
    """Replicas of one server, in this process. A context manager that closes what is left of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.told: list[str] = []
        self._engines: list[AsyncEngine] = []
        self._leases: list[Lease] = []
        self._tasks: dict[Lease, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for lease in self._leases:
            await self.close(lease)
        for engine in self._engines:
            await engine.dispose()

    def engine(self, url: str | None = None) -> AsyncEngine:
        self._engines.append(engine := own_engine(url or self.url))
        return engine

    def replica(
        self, name: str, seconds: float = FOR_EVER, *, clock: Jumping | None = None, url: str | None = None
    ) -> Lease:
        """One that is not opened yet."""
        lease = Lease(
            self.engine(url),
            clock=clock or Jumping(),
            name=name,
            seconds=seconds,
            changed=lambda: self.told.append(f"{name} {'has' if lease.term is not None else 'lost'} it"),
        )
        self._leases.append(lease)
        return lease

    async def opened(self, name: str, seconds: float = FOR_EVER, *, clock: Jumping | None = None) -> Lease:
        lease = self.replica(name, seconds, clock=clock)
        await lease.open()
        return lease

    async def keeping(self, name: str, seconds: float, *, clock: Jumping | None = None) -> Lease:
        lease = await self.opened(name, seconds, clock=clock)
        self.keep(lease)
        return lease

    def keep(self, lease: Lease, alive: Callable[[], bool] = lambda: True) -> None:
        self._tasks[lease] = asyncio.create_task(lease.keep(alive))

    async def stop(self, lease: Lease) -> None:
        """End its background task."""
        if (task := self._tasks.pop(lease, None)) is not None:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def close(self, lease: Lease) -> None:
        await self.stop(lease)
        with anyio.fail_after(PATIENCE):
            await lease.close()


@pytest.fixture
async def replicas(postgres_url: str) -> AsyncIterator[Replicas]:
    async with Replicas(postgres_url) as replicas:
        yield replicas


def has(lease: Lease) -> Callable[[], bool]:
    return lease.acquire


async def terms_of(cluster: Cluster, replicas: Replicas) -> Terms:
    await own.prepare(replicas.engine())
    return Terms(cluster, replicas.url)


@pytest.fixture
async def terms(postgres: Cluster, replicas: Replicas) -> Terms:
    return await terms_of(postgres, replicas)


# one at a time


async def test_the_first_one_has_it_and_the_others_know_who(replicas: Replicas) -> None:
    first = await replicas.opened("a")
    second = await replicas.opened("b")
    assert (first.acquire(), first.term, first.holder()) == (True, 1, "a")
    assert (second.acquire(), second.term, second.holder()) == (False, None, "a")
    assert replicas.told == ["a has it"]


async def test_before_it_is_opened_it_has_nothing(replicas: Replicas) -> None:
    lease = replicas.replica("a")
    assert (lease.acquire(), lease.term, lease.holder()) == (False, None, None)
    with pytest.raises(LeaseLost):
        await lease.confirm()


async def test_who_has_it_keeps_it(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.keeping("a", 3.0)
    second = await replicas.keeping("b", 3.0)
    await wait_until(lambda: len(terms.notes()) >= 5, "four renewals", seconds=PATIENCE)
    assert {(note.term, note.holder) for note in terms.notes()} == {(1, "a")}
    assert (first.acquire(), second.acquire()) == (True, False)
    terms.check()


async def test_one_that_does_not_renew_is_replaced_once_it_ran_out(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a", 1.0)
    second = await replicas.keeping("b", 1.0)
    await wait_until(has(second), "the second one", seconds=PATIENCE)
    assert (first.acquire(), second.term, second.holder()) == (False, terms.term(), "b")
    assert terms.term() >= 2
    terms.check()


async def test_given_back_it_is_taken_at_once(replicas: Replicas) -> None:
    first = await replicas.opened("a")
    await first.close()
    assert (first.acquire(), first.term) == (False, None)
    second = await replicas.opened("b")
    assert (second.acquire(), second.term) == (True, 2)
    assert replicas.told == ["a has it", "a lost it", "b has it"]


async def test_one_whose_loop_hangs_leaves_it_to_another_and_takes_it_again_once_both_changed(
    replicas: Replicas,
) -> None:
    alive = {"a"}
    first = await replicas.opened("a", 6.0)
    replicas.keep(first, lambda: "a" in alive)
    second = await replicas.opened("b", 6.0)
    replicas.keep(second, lambda: "b" in alive)
    alive.clear()
    await wait_until(lambda: not first.acquire(), "the one that hangs without it", seconds=PATIENCE)
    alive.add("b")
    await wait_until(has(second), "the other one", seconds=PATIENCE)
    alive.symmetric_difference_update("ab")
    await wait_until(has(first), "the first one again", seconds=PATIENCE)
    assert (second.acquire(), first.term) == (False, 3)


async def test_one_that_lost_it_gives_nothing_back(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    terms.run_out()
    second = await replicas.opened("b")
    await first.close()
    await second.confirm()
    assert terms.holder() == ("b", 2)


async def test_five_at_once_never_share_it(replicas: Replicas, terms: Terms) -> None:
    """Each loses it or gives it back, and comes again; whenever it thinks that it has it, it asks for the time."""
    believed: list[tuple[int, str, datetime]] = []

    async def contend(lease: Lease, name: str, engine: AsyncEngine) -> None:
        for turn in itertools.count():
            replicas.keep(lease)
            for _ in range(20):
                async with engine.connect() as connection:
                    term, before = lease.term, lease.acquire()
                    now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
                    if term is not None and before and lease.acquire() and lease.term == term:
                        believed.append((term, name, now))
                await asyncio.sleep(0.01)
            await (replicas.stop(lease) if turn % 2 else replicas.close(lease))
            if terms.term() >= 25:
                return

    async with asyncio.TaskGroup() as group:
        for name in "abcde":
            lease = await replicas.opened(name, 0.6)
            group.create_task(contend(lease, name, replicas.engine()))
    terms.check()
    notes = terms.notes()
    for term, name, now in believed:
        held = [note for note in notes if note.term == term]
        assert {note.holder for note in held} == {name}
        assert held[0].at <= now < max(note.expires_at for note in held)
    assert len({term for term, _, _ in believed}) > 5
    assert len({name for _, name, _ in believed}) > 1


async def test_a_name_that_is_used_again_has_no_right_of_before(replicas: Replicas, terms: Terms) -> None:
    before = await replicas.opened("a")
    again = await replicas.opened("a")
    assert (again.acquire(), again.holder()) == (False, "a")
    terms.run_out()
    third = await replicas.opened("a")
    assert (third.acquire(), third.term) == (True, 2)
    with pytest.raises(LeaseLost):
        await before.confirm()
    async with replicas.engine().begin() as connection:
        with pytest.raises(LeaseLost):
            await before.hold(connection)
    await before.close()
    await third.confirm()


# the own clock


async def test_it_is_trusted_no_longer_than_it_lasts(replicas: Replicas) -> None:
    clock = Jumping()
    lease = await replicas.opened("a", clock=clock)
    clock.running_ahead = FOR_EVER - 60
    assert lease.acquire()
    clock.running_ahead = FOR_EVER
    assert not lease.acquire()
    with pytest.raises(LeaseLost):
        await lease.confirm()
    async with replicas.engine().begin() as connection:
        with pytest.raises(LeaseLost):
            await lease.hold(connection)


async def test_the_wall_clock_is_of_no_meaning(replicas: Replicas) -> None:
    clock = Jumping()
    lease = await replicas.opened("a", clock=clock)
    for ahead in (1e6, -1e6):
        clock.wall_ahead = ahead
        assert lease.acquire()
        await lease.confirm()


async def test_what_ran_out_for_its_holder_is_not_renewed_but_taken_anew(replicas: Replicas, terms: Terms) -> None:
    clock = Jumping()
    lease = await replicas.keeping("a", 4.0, clock=clock)
    clock.running_ahead = 4.0
    assert not lease.acquire()
    await wait_until(has(lease), "the next term", seconds=PATIENCE)
    assert lease.term == terms.term() == 2
    terms.check()
    assert replicas.told == ["a has it", "a lost it", "a has it"]


# the fence


async def test_nobody_takes_over_while_it_holds_a_transaction(replicas: Replicas, terms: Terms) -> None:
    """Though the lease has run out meanwhile: whoever would take it waits for the row, and tries again."""
    first = await replicas.opened("a")
    terms.change("expires_at = clock_timestamp() + interval '1 second'")
    second = replicas.replica("b", 3.0)
    async with replicas.engine().begin() as connection:
        await first.hold(connection)
        await wait_until(lambda: terms.holder() is None, "the end of the lease", seconds=PATIENCE)
        await second.open()  # does not fail, and does not wait for longer than it may
        assert not second.acquire()
        replicas.keep(second)
        await wait_until(terms.waiting, "the one who waits for the row", seconds=PATIENCE)
        await connection.execute(text("SELECT 1"))
        assert terms.term() == 1
    await wait_until(has(second), "the second one", seconds=PATIENCE)
    terms.check()


async def test_it_refuses_once_another_one_took_over(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    async with replicas.engine().connect() as connection:
        await connection.execute(text("SELECT 1"))  # the transaction has begun before
        terms.run_out()
        second = await replicas.opened("b")
        assert first.acquire()
        with pytest.raises(LeaseLost, match="B has the right"):
            await first.hold(connection)
    assert (first.acquire(), second.acquire()) == (False, True)
    assert replicas.told == ["a has it", "b has it", "a lost it"]


async def test_it_refuses_what_ran_out_though_nobody_took_over(replicas: Replicas, terms: Terms) -> None:
    lease = await replicas.opened("a")
    terms.run_out()
    async with replicas.engine().begin() as connection:
        with pytest.raises(LeaseLost):
            await lease.hold(connection)


async def test_one_that_waits_for_the_row_reads_the_clock_after_it(replicas: Replicas, terms: Terms) -> None:
    """The row is locked until the lease has run out, and nothing in it changes."""
    lease = await replicas.opened("a")
    terms.change("expires_at = clock_timestamp() + interval '1 second'")
    async with replicas.engine().connect() as other, replicas.engine().begin() as connection:
        await other.execute(text(f"SELECT 1 FROM {ROW} FOR UPDATE"))  # noqa: S608 - a name of ours
        waiting = asyncio.create_task(lease.hold(connection))
        await wait_until(terms.waiting, "the one who waits for the row", seconds=PATIENCE)
        await wait_until(lambda: terms.holder() is None, "the end of the lease", seconds=PATIENCE)
        await other.rollback()
        with pytest.raises(LeaseLost):
            await waiting


async def test_a_fence_that_is_not_there_in_time_lets_nothing_be_written(replicas: Replicas, terms: Terms) -> None:
    lease = await replicas.opened("a", 3.0)
    async with replicas.engine().connect() as other, replicas.engine().connect() as connection:
        await other.execute(text(f"SELECT 1 FROM {ROW} FOR UPDATE"))  # noqa: S608 - a name of ours
        with pytest.raises((DBAPIError, LeaseLost)):
            await lease.hold(connection)
    terms.check()


async def test_a_transaction_that_stands_still_behind_it_is_ended_by_the_server(
    replicas: Replicas, terms: Terms, postgres: Cluster
) -> None:
    first = await replicas.opened("a", 3.0)
    second = await replicas.keeping("b", 3.0)
    async with replicas.engine().connect() as connection:
        await connection.execute(text("CREATE TABLE written (by text)"))
        await connection.commit()
        await first.hold(connection)
        await connection.execute(text("INSERT INTO written VALUES ('a')"))
        await wait_until(has(second), "the second one", seconds=PATIENCE)  # the first one stands still
        with pytest.raises(DBAPIError):
            await connection.execute(text("INSERT INTO written VALUES ('a, later')"))
        with suppress(SQLAlchemyError):
            await connection.commit()
    assert postgres.run("SELECT * FROM written", database=terms.database) == []
    terms.check()


async def test_what_is_cancelled_behind_it_leaves_the_row_free(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    async with replicas.engine().connect() as other:
        await other.execute(text(f"SELECT 1 FROM {ROW} FOR UPDATE"))  # noqa: S608 - a name of ours

        async def write() -> None:
            async with replicas.engine().begin() as connection:
                await first.hold(connection)

        writing = asyncio.create_task(write())
        await wait_until(terms.waiting, "the one who waits for the row", seconds=PATIENCE)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    terms.run_out()
    second = await replicas.opened("b")
    assert second.acquire()


# asking the database


async def test_confirming_renews_it(replicas: Replicas, terms: Terms) -> None:
    lease = await replicas.opened("a")
    before = terms.notes()[-1]
    await lease.confirm()
    after = terms.notes()[-1]
    assert (after.term, after.expires_at > before.expires_at) == (before.term, True)


async def test_it_can_be_confirmed_no_more_once_another_one_took_over(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    terms.run_out()
    second = await replicas.opened("b")
    with pytest.raises(LeaseLost, match="B has the right"):
        await first.confirm()
    assert (first.acquire(), first.holder(), second.acquire()) == (False, "b", True)
    with pytest.raises(LeaseLost):
        await first.confirm()


async def test_what_ran_out_in_the_database_is_not_renewed_though_nobody_took_over(
    replicas: Replicas, terms: Terms
) -> None:
    lease = await replicas.opened("a")
    terms.run_out()
    assert lease.acquire()  # it can't know
    with pytest.raises(LeaseLost):
        await lease.confirm()
    assert (lease.acquire(), terms.holder()) == (False, None)


async def test_many_who_confirm_at_once_ask_once_or_twice(replicas: Replicas, terms: Terms) -> None:
    lease = await replicas.opened("a")
    before = len(terms.notes())
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(lease.confirm())
    assert 1 <= len(terms.notes()) - before <= 2


async def test_what_ran_out_here_while_it_was_asked_for_is_not_renewed(
    replicas: Replicas, terms: Terms, postgres: Cluster
) -> None:
    clock = Jumping()
    async with TcpProxy(postgres.port) as proxy:
        lease = replicas.replica("a", clock=clock, url=through(proxy, replicas.url))
        await lease.open()
        before = terms.notes()
        proxy.freeze_answers()
        confirming = asyncio.create_task(lease.confirm())
        await wait_until(lambda: proxy.kept_back, "the answer to BEGIN", seconds=PATIENCE)
        clock.running_ahead = FOR_EVER
        proxy.thaw()
        with pytest.raises(LeaseLost):
            await confirming
        assert terms.notes() == before
        await lease.close()


async def test_an_answer_that_waited_in_a_stopped_process_confirms_nothing(
    replicas: Replicas, terms: Terms, postgres: Cluster
) -> None:
    clock = Jumping()
    async with TcpProxy(postgres.port) as proxy, replicas.engine().connect() as other:
        lease = replicas.replica("a", clock=clock, url=through(proxy, replicas.url))
        await lease.open()
        before = len(terms.notes())
        await other.execute(text(f"SELECT 1 FROM {ROW} FOR UPDATE"))  # noqa: S608 - a name of ours
        confirming = asyncio.create_task(lease.confirm())
        await wait_until(terms.waiting, "the renewal", seconds=PATIENCE)
        proxy.freeze_answers()
        await other.rollback()
        await wait_until(lambda: proxy.kept_back, "the answer to the renewal", seconds=PATIENCE)
        clock.running_ahead = FOR_EVER
        proxy.thaw()
        with pytest.raises(LeaseLost):
            await confirming
        assert len(terms.notes()) == before + 1
        assert not lease.acquire()
        await lease.close()


# a database that is gone, silent, or another one


async def test_a_silent_network_takes_it_away_in_time_and_gives_it_to_another(
    replicas: Replicas, terms: Terms, postgres: Cluster
) -> None:
    async with TcpProxy(postgres.port) as proxy:
        first = replicas.replica("a", 3.0, url=through(proxy, replicas.url))
        await first.open()
        replicas.keep(first)
        second = await replicas.keeping("b", 3.0)
        assert first.acquire()
        proxy.freeze()
        with pytest.raises(DatabaseUnavailable):
            await first.confirm()
        await wait_until(lambda: "a lost it" in replicas.told, "the first one's loss", seconds=PATIENCE)
        await wait_until(has(second), "the second one", seconds=PATIENCE)
        assert replicas.told.index("a lost it") < replicas.told.index("b has it")
        assert first.holder() is None
        proxy.thaw()
        await wait_until(lambda: first.holder() == "b", "the first one to see who has it", seconds=PATIENCE)
        terms.check()
        await replicas.close(first)


@pytest.mark.parametrize("held", [True, False])
async def test_it_is_closed_though_nothing_answers(
    replicas: Replicas, terms: Terms, postgres: Cluster, held: bool
) -> None:
    if not held:
        await replicas.opened("other")
    async with TcpProxy(postgres.port) as proxy:
        lease = replicas.replica("a", 3.0, url=through(proxy, replicas.url))
        await lease.open()
        replicas.keep(lease)
        assert lease.acquire() == held
        proxy.freeze()
        await replicas.close(lease)
        assert (lease.acquire(), lease.term) == (False, None)
    terms.check()


async def test_a_task_that_is_cancelled_amid_a_question_leaves_it_usable(
    replicas: Replicas, terms: Terms, postgres: Cluster
) -> None:
    async with TcpProxy(postgres.port) as proxy:
        lease = replicas.replica("a", url=through(proxy, replicas.url))
        await lease.open()
        proxy.freeze_answers()
        confirming = asyncio.create_task(lease.confirm())
        await wait_until(lambda: proxy.kept_back, "the answer to BEGIN", seconds=PATIENCE)
        confirming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await confirming
        proxy.thaw()
        await lease.confirm()
        assert terms.holder() == ("a", 1)
        await lease.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_the_server_ends_is_made_anew(
    replicas: Replicas, terms: Terms, postgres: Cluster, turns: int
) -> None:
    """However much of its end the driver has read before the next question."""
    lease = await replicas.opened("a")
    postgres.cut_off(terms.database)
    for _ in range(turns):
        await asyncio.sleep(0)
    with suppress(DatabaseUnavailable):
        await lease.confirm()
    await lease.confirm()
    assert (lease.acquire(), terms.holder()) == (True, ("a", 1))


async def test_it_outlives_a_restart_of_the_database(own_cluster: Cluster) -> None:
    async with Replicas(own_cluster.opencode_database()) as replicas:
        lease = await replicas.opened("a")
        for restart in (Cluster.restart, kill_and_start):
            await asyncio.to_thread(restart, own_cluster)
            await lease.confirm()
            assert (lease.acquire(), lease.term) == (True, 1)


async def test_while_the_database_is_gone_it_is_lost_and_then_taken_again(own_cluster: Cluster) -> None:
    async with Replicas(own_cluster.opencode_database()) as replicas:
        with capture_logs() as log:
            lease = await replicas.keeping("a", 2.0)
            await asyncio.to_thread(own_cluster.stop)
            await wait_until(lambda: not lease.acquire(), "the loss", seconds=PATIENCE)
            tries = len(log)
            with pytest.raises(LeaseLost):
                await lease.confirm()
            await asyncio.sleep(1.0)  # a few more attempts, of which nothing is said
            assert len(log) <= tries + 1
            await asyncio.to_thread(own_cluster.start)
            await wait_until(has(lease), "the next term", seconds=PATIENCE)
        assert [each["event"] for each in log] == ["lease.gained", "lease.unreachable", "lease.lost", "lease.gained"]
        assert [each["term"] for each in log if each["event"] == "lease.gained"] == [1, 2]
        assert "asyncpg" not in str(log)
        await asyncio.to_thread(own_cluster.stop)
        await replicas.close(lease)
        with pytest.raises((JournalUnusable, DatabaseUnavailable)):
            await replicas.replica("b").open()
        await asyncio.to_thread(own_cluster.start)


def kill_and_start(cluster: Cluster) -> None:
    cluster.kill9()
    cluster.start()


@pytest.mark.parametrize("holder_then", ["a", "b"])
async def test_a_restored_copy_with_an_older_row_gives_nobody_the_right(
    own_cluster: Cluster, holder_then: str
) -> None:
    url = own_cluster.opencode_database(name="lived")
    async with Replicas(url) as replicas:
        terms = await terms_of(own_cluster, replicas)
        terms.change(f"term = 6, holder = '{holder_then}'")
        await asyncio.to_thread(own_cluster.copy, "lived", "backup")
        lease = await replicas.opened("a")
        assert lease.term == 7
        valid = f"UPDATE {ROW} SET expires_at = clock_timestamp() + interval '1 hour'"  # noqa: S608 - a name of ours
        own_cluster.run(valid, database="backup")
        await asyncio.to_thread(own_cluster.replace, "lived", "backup")
        assert lease.acquire()  # it can't know
        engine = replicas.engine()
        async with engine.begin() as connection:
            with pytest.raises(LeaseLost):
                await lease.hold(connection)
        assert not lease.acquire()
        with pytest.raises(LeaseLost):
            await lease.confirm()
        again = await replicas.opened("a")
        assert (again.acquire(), again.holder()) == (False, holder_then)


@pytest.mark.parametrize("ask", ["confirm", "keep"])
async def test_a_row_that_is_gone_is_nobodys(replicas: Replicas, terms: Terms, postgres: Cluster, ask: str) -> None:
    lease = await replicas.opened("a", 3.0)
    postgres.run(f"DELETE FROM {ROW}", database=terms.database)  # noqa: S608 - a name of ours
    with capture_logs() as log:
        if ask == "confirm":
            with pytest.raises(LeaseLost):
                await lease.confirm()
        replicas.keep(lease)
        await wait_until(lambda: len(log) >= 2, "what is said of it", seconds=PATIENCE)
    assert [each["event"] for each in log] == ["lease.lost", "lease.unreachable"]
    assert "has lost its row" in log[1]["why"]


async def test_a_database_without_a_free_connection_is_tried_again(own_cluster: Cluster) -> None:
    async with Replicas(own_cluster.opencode_database()) as replicas:
        lease = await replicas.opened("a", 3.0)
        others = []
        with suppress(asyncpg.PostgresError):
            while True:
                others.append(await asyncpg.connect(replicas.url.replace("+asyncpg", "")))
        await lease.confirm()  # its own connection is kept
        own_cluster.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'opencode-watchdog'"
        )
        others.append(await retried(lambda: asyncpg.connect(replicas.url.replace("+asyncpg", ""))))
        with pytest.raises(DatabaseUnavailable, match=r"no room left|ended the connection"):
            await lease.confirm()  # which of the two depends on when it meets the end of its own
        with pytest.raises(DatabaseUnavailable, match="no room left"):
            await lease.confirm()
        replicas.keep(lease)
        for each in others:
            await each.close()
        await wait_until(has(lease), "the next term", seconds=PATIENCE)
        await lease.confirm()


async def retried(work: Callable[[], Awaitable[asyncpg.Connection]]) -> asyncpg.Connection:
    """Do it again until there is room."""
    while True:
        with suppress(asyncpg.PostgresError):
            return await work()
        await asyncio.sleep(0.02)


def through(proxy: TcpProxy, url: str) -> str:
    """The same database, by way of the proxy."""
    before, _, database = url.rpartition("/")
    return f"{before.rpartition(':')[0]}:{proxy.port}/{database}"
