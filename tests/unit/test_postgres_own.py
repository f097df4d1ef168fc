"""The watchdog's own tables in PostgreSQL: made once by whoever comes first, and refused when another's."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.postgres import ADMIN, USER, Cluster, PostgresRows
from tests.unit.test_journal import OUTCOME, VERDICT, WRITE
from watchdog.errors import JournalUnusable
from watchdog.interventions import Hold
from watchdog.model import SessionId
from watchdog.postgres import own
from watchdog.postgres.connection import own_engine
from watchdog.postgres.journal import PostgresJournal

ROLE = 'a "watchdog"'


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    made = own_engine(postgres_url)
    yield made
    await made.dispose()


@pytest.fixture
async def guest(postgres: Cluster, postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of a role that owns nothing in the database."""
    if not postgres.run("SELECT FROM pg_roles WHERE rolname = $1", ROLE):
        postgres.run('CREATE ROLE "a ""watchdog""" LOGIN')
    made = own_engine(postgres.url(postgres_url.rpartition("/")[2], "a %22watchdog%22"))
    yield made
    await made.dispose()


def by_admin(postgres: Cluster, engine: AsyncEngine, script: str) -> None:
    """Run statements on the database of an engine as its superuser does."""
    with PostgresRows(postgres.url(str(engine.url.database), ADMIN)) as rows:
        rows.script(script)


async def works(engine: AsyncEngine) -> None:
    """Use all of the journal's tables."""
    journal = await PostgresJournal.open(engine)
    number = await journal.begin(VERDICT, at_ms=1)
    await journal.keep(number, [WRITE])
    await journal.end(number, OUTCOME, at_ms=2)
    await journal.hold(Hold(session_id=SessionId("ses_1"), since_ms=1, until_ms=None, why="so"))
    assert await journal.unhold(SessionId("ses_1"))
    await journal.save("memory", {"a": 1})
    assert await journal.prune(100) == 1


async def tables(engine: AsyncEngine) -> set[tuple[str, str]]:
    statement = (
        "SELECT table_schema, table_name FROM information_schema.tables"
        " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    async with engine.connect() as connection:
        return {(row[0], row[1]) for row in await connection.execute(text(statement))}


async def test_nothing_but_the_own_schema_is_made(engine: AsyncEngine) -> None:
    before = await tables(engine)
    await own.prepare(engine)
    names = {"intervention", "kept_row", "hold", "state", "lease", "replica", "errand"}
    assert await tables(engine) - before == {(own.SCHEMA, name) for name in names}
    await works(engine)


async def test_ten_at_once_make_it_once(postgres_url: str) -> None:
    engines = [own_engine(postgres_url) for _ in range(10)]
    await asyncio.gather(*(own.prepare(engine) for engine in engines))
    async with engines[0].connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM opencode_watchdog.lease"))).scalar_one() == 1
    for engine in engines:
        await engine.dispose()


async def test_what_is_there_is_left_as_it_is(engine: AsyncEngine) -> None:
    journal = await PostgresJournal.open(engine)
    number = await journal.begin(VERDICT, at_ms=1)
    await own.prepare(engine)
    assert [each.id for each in await journal.begun()] == [number]


async def test_who_only_looks_makes_nothing(engine: AsyncEngine) -> None:
    before = await tables(engine)
    with pytest.raises(JournalUnusable, match=r"No watchdog has acted on .* yet"):
        await own.prepare(engine, make=False)
    assert await tables(engine) == before
    await own.prepare(engine)
    await own.prepare(engine, make=False)


async def test_one_that_fails_in_the_middle_leaves_nothing(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(own, "STATEMENTS", (*own.STATEMENTS[:5], "SELECT no_function()"))
        with pytest.raises(JournalUnusable, match="answered with the error 42883"):
            await own.prepare(engine)
    assert not [schema for schema, _ in await tables(engine) if schema == own.SCHEMA]
    await works(engine)


async def test_one_of_a_newer_watchdog_is_refused(engine: AsyncEngine) -> None:
    await own.prepare(engine)
    async with engine.begin() as connection:
        await connection.execute(text("COMMENT ON SCHEMA opencode_watchdog IS 'opencode-watchdog 99'"))
    with pytest.raises(JournalUnusable, match=r"newer opencode-watchdog \(opencode-watchdog 99\)\. Upgrade this one"):
        await own.prepare(engine)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "COMMENT ON SCHEMA opencode_watchdog IS 'of the company'",
        "COMMENT ON SCHEMA opencode_watchdog IS 'opencode-watchdog x'",
    ],
)
async def test_a_schema_of_that_name_that_is_somebody_elses_is_refused_and_left_alone(
    engine: AsyncEngine, postgres: Cluster, comment: str
) -> None:
    by_admin(postgres, engine, f"CREATE SCHEMA opencode_watchdog; CREATE TABLE opencode_watchdog.dogs (); {comment}")
    before = await tables(engine)
    with pytest.raises(JournalUnusable, match="is not the watchdog's: it holds something else"):
        await own.prepare(engine)
    assert await tables(engine) == before


async def test_who_holds_the_making_up_is_not_waited_for_without_end(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "_TERMS", "SELECT set_config('lock_timeout', '50ms', true)")
    async with engine.begin() as other:
        await other.execute(text(own._ONE_AT_A_TIME))
        with pytest.raises(JournalUnusable, match="is locked by somebody else"):
            await own.prepare(engine)
    await own.prepare(engine)


class TestWithoutTheRight:
    """A role that may not make a schema in the database, which is the case of most that are no owner."""

    async def test_it_is_told_what_to_do(self, guest: AsyncEngine) -> None:
        with pytest.raises(JournalUnusable) as caught:
            await own.prepare(guest)
        assert "may not make the watchdog's own schema opencode_watchdog" in str(caught.value)
        assert "`opencode-watchdog sql schema` prints" in str(caught.value)
        assert "CREATE" not in str(caught.value)

    async def test_the_printed_statements_make_it_work(self, postgres: Cluster, guest: AsyncEngine) -> None:
        by_admin(postgres, guest, own.as_script(ROLE))
        await works(guest)

    async def test_without_the_grants_it_is_told_which(self, postgres: Cluster, guest: AsyncEngine) -> None:
        by_admin(postgres, guest, own.as_script())
        with pytest.raises(JournalUnusable, match=r"may not use the watchdog's own schema .* grant USAGE"):
            await own.prepare(guest)
        by_admin(postgres, guest, 'GRANT USAGE ON SCHEMA opencode_watchdog TO "a ""watchdog"""')
        with pytest.raises(JournalUnusable, match="SELECT, INSERT, UPDATE and DELETE on its tables"):
            await own.prepare(guest)

    async def test_an_empty_schema_of_its_own_is_enough(self, postgres: Cluster, guest: AsyncEngine) -> None:
        by_admin(postgres, guest, 'CREATE SCHEMA opencode_watchdog AUTHORIZATION "a ""watchdog"""')
        await works(guest)

    async def test_a_database_that_may_only_be_read(self, postgres: Cluster, engine: AsyncEngine) -> None:
        postgres.run(f'ALTER ROLE {USER} IN DATABASE "{engine.url.database}" SET default_transaction_read_only = on')
        with pytest.raises(JournalUnusable, match="may not make the watchdog's own schema"):
            await own.prepare(engine)


def test_the_script_is_one_transaction_of_all_statements() -> None:
    lines = own.as_script().splitlines()
    assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
    assert len(lines) == len(own.STATEMENTS) + 2
    assert all(line.endswith(";") for line in lines)
    assert own.as_script("me").count("GRANT") == 2
