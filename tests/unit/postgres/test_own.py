"""The watchdog's own tables in PostgreSQL: made once by whoever comes first, and refused when another's."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.support.postgres import ADMIN, USER, Cluster, PostgresRows
from tests.unit.journal.test_sqlite import OUTCOME, VERDICT, WRITE
from watchdog.errors import JournalUnusable
from watchdog.model.interventions import Hold
from watchdog.model.session import SessionId
from watchdog.postgres import own
from watchdog.postgres.connection import own_engine, place_of
from watchdog.postgres.journal import PostgresJournal
from watchdog.postgres.steps import SCHEMA, STEPS, VERSION, statements

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


VERSION_1_AT_WORK = """
    UPDATE opencode_watchdog.lease SET holder = 'old', term = term + 1,
        expires_at = clock_timestamp() + make_interval(secs => 9) WHERE name = 'watchdog';
    INSERT INTO opencode_watchdog.replica AS known (name, seen_at, said) VALUES ('old', clock_timestamp(), '{}')
        ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, said = excluded.said;
    INSERT INTO opencode_watchdog.errand (replica, term, asked_at, question) VALUES ('old', 1, clock_timestamp(), '');
    UPDATE opencode_watchdog.errand SET answer = 'x' WHERE replica = 'old';
    INSERT INTO opencode_watchdog.intervention (session_id, began_ms, actor, reason, verdict)
        VALUES ('ses_old', 1, 'watchdog', NULL, '{}');
    INSERT INTO opencode_watchdog.state ("key", value) VALUES ('memory', '{}')
        ON CONFLICT ("key") DO UPDATE SET value = excluded.value;
"""
"""What a replica of version 1 sends, as that version wrote it."""


def script_of_version_1(role: str | None = None) -> str:
    """What `sql schema` of version 1 printed."""
    grants = ""
    if role is not None:
        name = '"' + role.replace('"', '""') + '"'
        grants = (
            f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {name};"
        )
    return ";".join(STEPS[0]) + ";" + grants


def made_by_the_role(postgres: Cluster, engine: AsyncEngine) -> None:
    """Make the tables of version 1, as the owner of the database."""
    with PostgresRows(postgres.url(str(engine.url.database))) as rows:
        rows.script(script_of_version_1())


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
    names = ["intervention", "kept_row", "hold", "state", "lease", "replica", "errand", "request", "edition", "claim"]
    assert await tables(engine) - before == {(SCHEMA, name) for name in [*names, "tenure", "standard"]}
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
        patched.setattr(own, "statements", lambda after: (*statements(after)[:5], "SELECT no_function()"))
        with pytest.raises(JournalUnusable, match="answered with the error 42883"):
            await own.prepare(engine)
    assert not [schema for schema, _ in await tables(engine) if schema == SCHEMA]
    await works(engine)


async def test_one_of_a_newer_watchdog_is_refused(engine: AsyncEngine) -> None:
    await own.prepare(engine)
    async with engine.begin() as connection:
        await connection.execute(text("COMMENT ON SCHEMA opencode_watchdog IS 'opencode-watchdog 99'"))
    with pytest.raises(JournalUnusable, match=r"newer opencode-watchdog \(opencode-watchdog 99\)\. Upgrade this one"):
        await own.prepare(engine)


class TestAnOlderVersion:
    """Tables of version 1, as they were made before there was another one."""

    @pytest.fixture
    async def old(self, postgres: Cluster, engine: AsyncEngine) -> AsyncEngine:
        made_by_the_role(postgres, engine)
        return engine

    async def test_it_is_brought_up_to_date_once_by_ten_at_once_and_keeps_what_it_holds(
        self, old: AsyncEngine, postgres_url: str
    ) -> None:
        async with old.begin() as connection:
            await connection.execute(
                text("INSERT INTO opencode_watchdog.hold (session_id, since_ms, why) VALUES ('ses_1', 1, 'so')")
            )
        engines = [own_engine(postgres_url) for _ in range(10)]
        with capture_logs() as logs:
            await asyncio.gather(*(own.prepare(engine) for engine in engines))
        for engine in engines:
            await engine.dispose()
        steps = [line for line in logs if line["event"] == "journal.brought_up_to_date"]
        assert [(line["before"], line["version"]) for line in steps] == [(1, VERSION)]
        assert (SCHEMA, "request") in await tables(old)
        assert list(await (await PostgresJournal.open(old)).holds(2)) == ["ses_1"]
        await works(old)

    async def test_replicas_of_both_versions_are_at_work_meanwhile(
        self, postgres: Cluster, old: AsyncEngine, postgres_url: str
    ) -> None:
        """What a replica of version 1 sends is refused at no moment, and one that starts anew finds its version."""
        with PostgresRows(postgres_url) as replica:
            replica.script(VERSION_1_AT_WORK)
            await own.prepare(old)
            replica.script(VERSION_1_AT_WORK)
        mark = "SELECT obj_description('opencode_watchdog'::regnamespace, 'pg_namespace') AS mark"
        assert postgres.run(mark, database=str(old.url.database))[0]["mark"] == "opencode-watchdog 1"

    @pytest.mark.parametrize("version", range(1, VERSION))
    async def test_each_version_leads_to_the_newest(
        self, engine: AsyncEngine, postgres_rows: PostgresRows, version: int
    ) -> None:
        steps = [statement for step in STEPS[:version] for statement in step]
        postgres_rows.script(";".join(steps) + f"; COMMENT ON TABLE {SCHEMA}.lease IS 'opencode-watchdog {version}'")
        with capture_logs() as logs:
            await own.prepare(engine)
        assert [(line["before"], line["version"]) for line in logs] == [(version, VERSION)]
        assert (SCHEMA, "tenure") in await tables(engine)
        await works(engine)

    async def test_who_only_looks_takes_it_as_it_is(self, old: AsyncEngine) -> None:
        before = await tables(old)
        journal = await PostgresJournal.open(old, make=False)
        assert await journal.holds(1) == {}
        assert await tables(old) == before

    async def test_a_step_that_fails_is_not_made_at_all(
        self, old: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = await tables(old)
        with monkeypatch.context() as patched:
            patched.setattr(own, "statements", lambda after: (*statements(after), "SELECT no_function()"))
            with pytest.raises(JournalUnusable, match="answered with the error 42883"):
                await own.prepare(old)
        assert await tables(old) == before
        await own.prepare(old)
        assert await tables(old) != before

    async def test_a_backup_that_is_being_taken_is_not_waited_for(self, old: AsyncEngine) -> None:
        async with old.connect() as backup:
            for table in ("lease", "replica", "errand", "hold", "intervention"):
                await backup.execute(text(f"LOCK TABLE opencode_watchdog.{table} IN ACCESS SHARE MODE"))
            await own.prepare(old)

    async def test_a_role_that_may_not_alter_it_is_told_what_to_run_and_that_is_enough(
        self, postgres: Cluster, guest: AsyncEngine
    ) -> None:
        by_admin(postgres, guest, script_of_version_1(ROLE))
        with pytest.raises(JournalUnusable) as caught:
            await own.prepare(guest)
        assert f"may not bring the watchdog's own schema opencode_watchdog in {place_of(guest.url)} from" in str(
            caught.value
        )
        assert (
            f"from version 1 to {VERSION}. Have somebody who may do that run what `opencode-watchdog sql schema`"
            in str(caught.value)
        )
        by_admin(postgres, guest, own.as_script(ROLE))
        await own.prepare(guest)
        await works(guest)


async def test_what_a_later_version_only_added_to_is_used(engine: AsyncEngine) -> None:
    await own.prepare(engine)
    async with engine.begin() as connection:
        await connection.execute(text("COMMENT ON TABLE opencode_watchdog.lease IS 'opencode-watchdog 99'"))
    with capture_logs() as logs:
        await own.prepare(engine)
    assert [(line["event"], line["version"]) for line in logs] == [("journal.newer", 99)]
    await works(engine)


async def test_the_printed_statements_can_be_run_twice(postgres: Cluster, engine: AsyncEngine) -> None:
    await works(engine)
    by_admin(postgres, engine, own.as_script())
    await works(engine)


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
        with pytest.raises(
            JournalUnusable, match="is read-only: it is a standby, or default_transaction_read_only is on"
        ):
            await own.prepare(engine)


def test_the_script_is_one_transaction_of_all_statements() -> None:
    lines = own.as_script().splitlines()
    assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
    assert len(lines) == len(statements()) + 2
    assert all(line.endswith(";") for line in lines)
    assert own.as_script("me").count("GRANT") == 2
