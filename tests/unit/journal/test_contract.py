"""One contract for every journal: in memory, in a SQLite file, in PostgreSQL. Then what only PostgreSQL's must do."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tests.fakes.journal import FakeJournal
from tests.support.postgres import Cluster
from tests.unit.journal.test_sqlite import OUTCOME, SES, VERDICT, WRITE
from watchdog.errors import JournalUnusable, LeaseLost
from watchdog.journal.sqlite import SqliteJournal
from watchdog.model.interventions import Actor, Hold, InterventionId, Kept
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.ports import History
from watchdog.postgres.connection import own_engine
from watchdog.postgres.journal import PostgresJournal
from watchdog.shown import shown

OTHER = SessionId("ses_2")
ODD = "a NUL \0, half a pair \ud83d, the other half \ude00, \x01, a backslash \\u0000, an emoji \U0001f600"
LONG = "ü" * 500_000


@asynccontextmanager
async def engine_on(url: str, statement_seconds: float = 10) -> AsyncIterator[AsyncEngine]:
    """An engine as the watchdog makes its own."""
    engine = own_engine(url, statement_seconds=statement_seconds)
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.fixture(params=["fake", "sqlite", "postgres"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[History]:
    if request.param == "fake":
        yield FakeJournal()
    elif request.param == "sqlite":
        async with await SqliteJournal.open(tmp_path / "j.db") as opened:
            yield opened
    else:
        async with engine_on(request.getfixturevalue("postgres_url")) as engine:
            yield await PostgresJournal.open(engine)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with engine_on(postgres_url) as made:
        yield made


@pytest.fixture
async def real(engine: AsyncEngine) -> PostgresJournal:
    """The journal in PostgreSQL."""
    return await PostgresJournal.open(engine)


async def ended(journal: History, at_ms: int) -> InterventionId:
    number = await journal.begin(VERDICT, at_ms=at_ms)
    await journal.keep(number, [WRITE])
    await journal.end(number, OUTCOME, at_ms=at_ms + 1)
    return number


class TestEveryJournal:
    async def test_an_intervention_comes_out_as_it_went_in(self, journal: History) -> None:
        number = await journal.begin(VERDICT, at_ms=5, actor=Actor.PERSON, reason="because")
        (begun,) = await journal.begun()
        assert (begun.id, begun.verdict, begun.actor, begun.reason) == (number, VERDICT, Actor.PERSON, "because")
        assert (begun.began_ms, begun.ended_ms, begun.outcome, begun.undone_ms) == (5, None, None, None)
        await journal.end(number, OUTCOME, at_ms=9)
        assert await journal.begun() == ()
        assert await journal.intervention(number) == replace(begun, outcome=OUTCOME, ended_ms=9)

    async def test_without_a_word_it_is_the_watchdogs_own(self, journal: History) -> None:
        found = await journal.intervention(await journal.begin(replace(VERDICT, ask=None), at_ms=5))
        assert found is not None
        assert (found.actor, found.reason, found.verdict.ask) == (Actor.WATCHDOG, None, None)

    async def test_what_is_not_there_reads_as_nothing(self, journal: History) -> None:
        assert await journal.intervention(InterventionId(99)) is None
        assert await journal.interventions() == ()
        assert await journal.begun() == ()
        assert await journal.kept(InterventionId(99)) == ()
        assert await journal.holds(0) == {}
        assert await journal.load("memory") is None
        assert not await journal.unhold(SES)
        assert await journal.prune(2**62) == 0
        for number in (2**63 - 1, 2**63, 10**30):
            assert await journal.intervention(InterventionId(number)) is None

    async def test_kept_rows_come_out_whole_and_in_their_order(self, journal: History) -> None:
        number, other = await journal.begin(VERDICT, at_ms=1), await journal.begin(VERDICT, at_ms=1)
        writes = [replace(WRITE, row=replace(WRITE.row, id=f"prt_{9 - place}")) for place in range(9)]
        await journal.keep(number, writes)
        await journal.keep(other, [])
        assert await journal.kept(number) == tuple(Kept(row=write.row, after=write.after) for write in writes)
        assert await journal.kept(other) == ()

    async def test_interventions_are_found_by_session_time_and_number_the_newest_first(
        self, journal: History
    ) -> None:
        first = await journal.begin(VERDICT, at_ms=10)
        other = await journal.begin(replace(VERDICT, session_id=OTHER), at_ms=20)
        last = await journal.begin(VERDICT, at_ms=30)
        asked: list[tuple[dict[str, Any], list[int]]] = [
            ({}, [last, other, first]),
            ({"session_id": SES}, [last, first]),
            ({"session_id": SessionId("ses_gone")}, []),
            ({"since_ms": 20}, [last, other]),
            ({"since_ms": 0}, [last, other, first]),
            ({"before": last}, [other, first]),
            ({"limit": 1}, [last]),
            ({"limit": 0}, []),
            ({"limit": 9}, [last, other, first]),
            ({"session_id": SES, "since_ms": 10, "before": last, "limit": 5}, [first]),
        ]
        for conditions, numbers in asked:
            assert [each.id for each in await journal.interventions(**conditions)] == numbers, conditions

    async def test_numbers_only_grow_also_after_pruning(self, journal: History) -> None:
        numbers = [await ended(journal, at) for at in (1, 2)]
        numbers.append(await journal.begin(VERDICT, at_ms=3))
        assert await journal.prune(2) == 1
        numbers.append(await journal.begin(VERDICT, at_ms=4))
        assert numbers == sorted(set(numbers))

    async def test_old_interventions_are_pruned_with_their_rows_and_begun_ones_are_kept(
        self, journal: History
    ) -> None:
        old, begun, young = await ended(journal, 1), await journal.begin(VERDICT, at_ms=2), await ended(journal, 50)
        await journal.keep(begun, [WRITE])
        assert await journal.prune(50) == 1
        assert [each.id for each in await journal.interventions()] == [young, begun]
        assert [len(await journal.kept(number)) for number in (old, begun, young)] == [0, 1, 1]
        assert await journal.prune(50) == 0

    async def test_holds_stand_until_they_end_or_are_taken_back(self, journal: History) -> None:
        forever = Hold(session_id=SES, since_ms=1, until_ms=None, why="a person said so")
        short = Hold(session_id=EVERYTHING, since_ms=1, until_ms=10, why="a person paused everything")
        await journal.hold(short)
        await journal.hold(forever)
        assert await journal.holds(9) == {SES: forever, EVERYTHING: short}
        assert await journal.holds(10) == {SES: forever}
        again = Hold(session_id=SES, since_ms=3, until_ms=20, why="again")
        await journal.hold(again)
        assert await journal.holds(10) == {SES: again}
        assert await journal.unhold(SES)
        assert not await journal.unhold(SES)
        assert await journal.holds(10) == {}

    async def test_what_was_undone_is_marked_and_held_at_once(self, journal: History) -> None:
        number = await ended(journal, 5)
        await journal.hold(Hold(session_id=SES, since_ms=1, until_ms=2, why="an earlier one"))
        hold = Hold(session_id=SES, since_ms=7, until_ms=None, why="it was undone")
        await journal.mark_undone(number, hold, at_ms=7)
        found = await journal.intervention(number)
        assert found is not None
        assert (found.undone_ms, found.ended_ms, found.outcome) == (7, 6, OUTCOME)
        assert await journal.holds(8) == {SES: hold}

    async def test_values_are_kept_under_their_keys(self, journal: History) -> None:
        await journal.save("memory", {"a": 1})
        await journal.save("other", {"b": [None, {"c": ODD}]})
        await journal.save("memory", {"a": 2})
        assert await journal.load("memory") == {"a": 2}
        found = await journal.load("other")
        assert found is not None
        assert found["b"][1]["c"].encode("utf-16", "surrogatepass") == ODD.encode("utf-16", "surrogatepass")

    async def test_a_long_row_is_kept_whole_and_sentences_as_they_may_be_shown(self, journal: History) -> None:
        verdict = replace(VERDICT, why=f"{LONG}\0")
        number = await journal.begin(verdict, at_ms=1, reason=LONG)
        write = replace(WRITE, row=replace(WRITE.row, data=LONG), after=LONG)
        await journal.keep(number, [write])
        await journal.end(number, replace(OUTCOME, why=f"{LONG}\0"), at_ms=2)
        found = await journal.intervention(number)
        assert found is not None
        assert found.outcome is not None
        told = (found.verdict.why, found.reason, found.outcome.why)
        assert told == (shown(f"{LONG}\0"), shown(LONG), shown(f"{LONG}\0"))
        assert await journal.kept(number) == (Kept(row=write.row, after=LONG),)

    async def test_many_at_once_all_get_a_number_of_their_own(self, journal: History) -> None:
        numbers = await asyncio.gather(*(journal.begin(VERDICT, at_ms=at_ms) for at_ms in range(20)))
        found = {each.id: each.began_ms for each in await journal.begun()}
        assert found == dict(zip(numbers, range(20), strict=True))


class Moment:
    """A fence that counts, and raises while it is down."""

    def __init__(self) -> None:
        self.down = False
        self.held = 0

    async def hold(self, connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))
        if self.down:
            raise LeaseLost("Another replica took over: nothing was written.")
        self.held += 1


class TestFence:
    async def test_one_who_was_replaced_notes_and_keeps_nothing_and_may_still_hold_and_read(
        self, engine: AsyncEngine
    ) -> None:
        fence = Moment()
        journal = await PostgresJournal.open(engine, fence=fence)
        number = await ended(journal, 1)
        fence.down = True
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: journal.begin(VERDICT, at_ms=2),
            lambda: journal.keep(number, [WRITE]),
            lambda: journal.keep(number, []),
            lambda: journal.end(number, replace(OUTCOME, why="another"), at_ms=9),
            lambda: journal.save("memory", {}),
            lambda: journal.prune(100),
        ]
        for act in refused:
            with pytest.raises(JournalUnusable, match=r"^Another replica took over: nothing was written\.$"):
                await act()
        hold = Hold(session_id=SES, since_ms=1, until_ms=None, why="a person said so")
        await journal.hold(hold)
        assert await journal.holds(1) == {SES: hold}
        assert await journal.unhold(SES)
        await journal.mark_undone(number, hold, at_ms=3)
        assert await journal.begun() == ()
        (found,) = await journal.interventions()
        assert (found.outcome, found.undone_ms) == (OUTCOME, 3)
        assert len(await journal.kept(number)) == await journal.count() == 1
        assert await journal.load("memory") is None

    async def test_it_is_held_in_the_transaction_that_writes_once_for_each(self, engine: AsyncEngine) -> None:
        fence = Moment()
        journal = await PostgresJournal.open(engine, fence=fence)
        seen: list[str] = []

        @event.listens_for(engine.sync_engine, "begin")
        def began(_: object) -> None:
            seen.append("BEGIN")

        @event.listens_for(engine.sync_engine, "commit")
        def committed(_: object) -> None:
            seen.append("COMMIT")

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def executed(*parts: Any) -> None:  # noqa: ANN401 - SQLAlchemy's own
            seen.append(parts[2].split()[0] + ("" if "set_config" not in parts[2] else " terms"))

        await journal.begin(VERDICT, at_ms=1)
        assert seen == ["BEGIN", "SELECT terms", "SELECT", "INSERT", "COMMIT"]
        await journal.save("memory", {})
        await journal.prune(1)
        assert fence.held == 3


class TestTexts:
    async def test_every_text_that_a_database_could_not_hold_comes_out_as_it_went_in(
        self, real: PostgresJournal
    ) -> None:
        verdict = replace(VERDICT, why=ODD, session_id=SessionId(ODD))
        number = await real.begin(verdict, at_ms=1, reason=ODD)
        row = replace(WRITE.row, id=ODD, data=ODD)
        await real.keep(number, [replace(WRITE, row=row, after=ODD)])
        await real.end(number, replace(OUTCOME, why=ODD), at_ms=2)
        hold = Hold(session_id=SessionId(ODD), since_ms=1, until_ms=None, why=ODD)
        await real.hold(hold)
        (found,) = await real.interventions(session_id=SessionId(ODD))
        # Sentences are fit to be shown from the start; what names or is a row is kept to the letter.
        assert found.reason == shown(ODD)
        assert (found.verdict.why, found.outcome and found.outcome.why) == (shown(ODD), shown(ODD))
        assert await real.kept(number) == (Kept(row=row, after=ODD),)
        assert await real.holds(1) == {SessionId(ODD): hold}
        assert await real.unhold(SessionId(ODD))

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(reason=st.text(st.characters(exclude_categories=[])))
    @example(reason="")
    @example(reason="\x01")
    @example(reason="\x01\\x41")
    async def test_any_text(self, real: PostgresJournal, reason: str) -> None:
        found = await real.intervention(await real.begin(VERDICT, at_ms=1, reason=reason))
        assert found is not None
        assert found.reason == shown(reason)

    async def test_an_ordinary_text_reads_the_same_for_a_person_with_psql(
        self, real: PostgresJournal, engine: AsyncEngine
    ) -> None:
        await real.begin(VERDICT, at_ms=1, reason="Überfällig \\ 'so'")
        async with engine.connect() as connection:
            (row,) = await connection.execute(text("SELECT reason FROM opencode_watchdog.intervention"))
        assert row.reason == "Überfällig \\ 'so'"

    async def test_rubbish_under_a_key_reads_as_nothing(self, real: PostgresJournal, engine: AsyncEngine) -> None:
        await real.save("memory", {"a": 1})
        for rubbish in ("{", "[1]"):
            async with engine.begin() as connection:
                await connection.execute(
                    text("UPDATE opencode_watchdog.state SET value = :value"), {"value": rubbish}
                )
            assert await real.load("memory") is None


class TestReplicas:
    async def test_what_one_says_the_other_reads_at_once(self, real: PostgresJournal, postgres_url: str) -> None:
        async with engine_on(postgres_url) as second_engine:
            second = await PostgresJournal.open(second_engine)
            number = await real.begin(VERDICT, at_ms=1)
            assert [each.id for each in await second.begun()] == [number]
            hold = Hold(session_id=SES, since_ms=1, until_ms=None, why="there")
            await second.hold(hold)
            assert await real.holds(1) == {SES: hold}
            assert await real.unhold(SES)
            assert await second.holds(1) == {}

    async def test_several_write_the_same_at_once_and_the_last_stands(
        self, real: PostgresJournal, postgres_url: str
    ) -> None:
        async with engine_on(postgres_url) as second_engine:
            second = await PostgresJournal.open(second_engine)
            await asyncio.gather(
                *(each.save("memory", {"n": n}) for each in (real, second) for n in range(20)),
                *(
                    each.hold(Hold(session_id=SES, since_ms=n, until_ms=None, why="so"))
                    for each in (real, second)
                    for n in range(20)
                ),
            )
            assert await real.load("memory") == await second.load("memory")
            assert len(await real.holds(1)) == 1

    async def test_one_that_ends_while_another_prunes_leaves_no_row_behind(
        self, real: PostgresJournal, engine: AsyncEngine
    ) -> None:
        async def one(at_ms: int) -> None:
            await ended(real, at_ms)
            await real.prune(100)

        await asyncio.gather(*(one(at_ms) for at_ms in range(20)))
        await real.prune(100)
        async with engine.connect() as connection:
            left = await connection.execute(text("SELECT count(*) FROM opencode_watchdog.kept_row"))
            assert left.scalar_one() == await real.count() == 0

    async def test_between_two_calls_it_uses_no_connection_and_at_once_only_a_few(
        self, real: PostgresJournal, engine: AsyncEngine
    ) -> None:
        used, most = 0, 0

        @event.listens_for(engine.sync_engine, "checkout")
        def taken(*_: object) -> None:
            nonlocal used, most
            used += 1
            most = max(most, used)

        @event.listens_for(engine.sync_engine, "checkin")
        def given_back(*_: object) -> None:
            nonlocal used
            used -= 1

        await asyncio.gather(*(real.begin(VERDICT, at_ms=n) for n in range(20)))
        assert (used, most) == (0, 4)

    async def test_a_write_is_durable_when_it_returns_also_where_the_database_would_not_wait(
        self, postgres: Cluster, engine: AsyncEngine
    ) -> None:
        postgres.run(f'ALTER DATABASE "{engine.url.database}" SET synchronous_commit = off')
        seen: list[str] = []

        class Look:
            async def hold(self, connection: AsyncConnection) -> None:
                seen.append((await connection.execute(text("SHOW synchronous_commit"))).scalar_one())

        async with engine.connect() as connection:
            assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "off"
        await (await PostgresJournal.open(engine, fence=Look())).begin(VERDICT, at_ms=1)
        assert seen == ["on"]


class TestTrouble:
    """Each is told in a sentence without a name or a password, and afterwards the journal works again."""

    @pytest.mark.parametrize("make", [own_engine, create_async_engine])
    async def test_a_restart_costs_one_call_at_most(
        self, own_cluster: Cluster, make: Callable[[str], AsyncEngine]
    ) -> None:
        engine = make(own_cluster.fresh_database())
        try:
            journal = await PostgresJournal.open(engine)
            numbers = await asyncio.gather(*(journal.begin(VERDICT, at_ms=n) for n in range(8)))
            own_cluster.kill9()
            for _ in range(3):
                with pytest.raises(
                    JournalUnusable, match=r"^The database postgresql://127\.0\.0\.1:\d+/\w+ can't be"
                ):
                    await journal.holds(1)
            own_cluster.start()
            assert {each.id for each in await journal.begun()} == set(numbers)
            own_cluster.restart()
            refused = 0
            for _ in range(9):
                try:
                    assert await journal.count() == 8
                except JournalUnusable:
                    refused += 1
            assert refused <= 1
            await asyncio.gather(*(journal.end(number, OUTCOME, at_ms=2) for number in numbers))
            assert await journal.begun() == ()
        finally:
            await engine.dispose()

    async def test_a_backend_that_is_ended_in_the_middle(self, engine: AsyncEngine, postgres: Cluster) -> None:
        class Ended:
            async def hold(self, connection: AsyncConnection) -> None:
                pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
                await asyncio.to_thread(postgres.run, "SELECT pg_terminate_backend($1, 10000)", pid)

        journal = await PostgresJournal.open(engine, fence=Ended())
        with pytest.raises(JournalUnusable, match=r"is shutting down or starting|can't be reached"):
            await journal.begin(VERDICT, at_ms=1)
        assert await journal.count() == 0
        await (await PostgresJournal.open(engine)).begin(VERDICT, at_ms=1)

    async def test_no_connection_is_left(self, real: PostgresJournal, postgres: Cluster, engine: AsyncEngine) -> None:
        database = engine.url.database
        await engine.dispose()  # those of the pool
        postgres.run(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
        for act in (real.begun, lambda: real.begin(VERDICT, at_ms=1)):
            with pytest.raises(JournalUnusable, match="has no room left: too many connections"):
                await act()
        postgres.run(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        await real.begin(VERDICT, at_ms=1)

    async def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(
        self, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("watchdog.postgres.journal._TERMS", "SELECT set_config('lock_timeout', '50ms', true)")
        journal = await PostgresJournal.open(engine)
        hold = Hold(session_id=SES, since_ms=1, until_ms=None, why="there")
        await journal.hold(hold)
        async with engine.begin() as other:
            await other.execute(text("SELECT FROM opencode_watchdog.hold FOR UPDATE"))
            with pytest.raises(JournalUnusable, match="is locked by somebody else"):
                await journal.unhold(SES)
            assert await journal.holds(1) == {SES: hold}
        assert await journal.unhold(SES)

    async def test_a_statement_that_takes_too_long(
        self, real: PostgresJournal, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terms = "SELECT set_config('statement_timeout', '50ms', true)"
        async with engine.begin() as other:
            await other.execute(text("LOCK TABLE opencode_watchdog.intervention"))
            with monkeypatch.context() as patched:
                patched.setattr("watchdog.postgres.journal._TERMS", terms)
                with pytest.raises(JournalUnusable, match="took longer than it may"):
                    await real.begun()
        assert await real.begun() == ()

    async def test_the_bounds_are_those_of_every_transaction(self, engine: AsyncEngine) -> None:
        seen: list[tuple[str, ...]] = []

        class Look:
            async def hold(self, connection: AsyncConnection) -> None:
                names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
                seen.append(tuple([(await connection.execute(text(f"SHOW {name}"))).scalar_one() for name in names]))

        await (await PostgresJournal.open(engine, fence=Look())).begin(VERDICT, at_ms=1)
        assert seen == [("5s", "8s", "10s")]

    async def test_a_server_that_stands_still_is_given_up(self, real: PostgresJournal, postgres_url: str) -> None:
        stopped: list[int] = []

        class Frozen:
            async def hold(self, connection: AsyncConnection) -> None:
                pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)

        async with engine_on(postgres_url, statement_seconds=1) as impatient:
            frozen = PostgresJournal(impatient, fence=Frozen())
            try:
                while not stopped:  # on a slow machine an earlier statement may take too long
                    with pytest.raises(JournalUnusable, match="did not answer in time"):
                        await frozen.begin(VERDICT, at_ms=1)
                assert await real.count() == 0
            finally:
                for pid in stopped:
                    psutil.Process(pid).resume()
        await real.begin(VERDICT, at_ms=1)

    async def test_a_cancelled_call_leaves_nothing_half_done_and_no_connection(self, engine: AsyncEngine) -> None:
        inside = asyncio.Event()

        class Waits:
            async def hold(self, connection: AsyncConnection) -> None:
                inside.set()
                await connection.execute(text("SELECT pg_sleep(60)"))

        journal = await PostgresJournal.open(engine, fence=Waits())
        tasks = [asyncio.create_task(journal.begin(VERDICT, at_ms=n)) for n in range(6)]
        await inside.wait()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError)
        assert await journal.count() == 0
        await journal.hold(Hold(session_id=SES, since_ms=1, until_ms=None, why="there"))

    async def test_the_tables_are_dropped_under_it(self, real: PostgresJournal, engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("DROP SCHEMA opencode_watchdog CASCADE"))
        with pytest.raises(JournalUnusable, match="lacks a table that is needed"):
            await real.begun()
        assert await (await PostgresJournal.open(engine)).begun() == ()

    async def test_a_database_that_may_only_be_read(
        self, real: PostgresJournal, postgres: Cluster, engine: AsyncEngine
    ) -> None:
        number = await real.begin(VERDICT, at_ms=1)
        postgres.run(f'ALTER DATABASE "{engine.url.database}" SET default_transaction_read_only = on')
        await engine.dispose()  # the connections from before
        assert [each.id for each in await real.begun()] == [number]
        with pytest.raises(JournalUnusable, match="is read-only"):
            await real.begin(VERDICT, at_ms=1)
