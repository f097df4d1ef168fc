"""What the store in PostgreSQL is asked beyond the contract of all stores: odd values, indexes, engines."""

import json
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tests.support.database import NOW
from tests.support.postgres import Cluster, PostgresRows
from watchdog.errors import DatabaseUnsupported, LeaseLost, WriteRefused
from watchdog.model.outcome import GuardedWrite
from watchdog.model.session import CallId, SessionId
from watchdog.postgres.connection import own_engine
from watchdog.postgres.indexes import partial
from watchdog.postgres.store import PostgresStore
from watchdog.timing.clock import SystemClock

ODD = {
    "a NUL": '"\\u0000"',
    "half a pair": '"\\ud83d"',
    "the other half": '"\\ude00 \\uDE00"',
    "halves the wrong way round": '"\\ude00\\ud83d"',
    "a pair": '"\\ud83d\\ude00"',
    "a pair and a half": '"\\ud83d\\ud83d\\ude00"',
    "a backslash": '"\\\\u0000"',
    "no escape": '"u0000"',
}


@pytest.fixture
def json_rows(postgres: Cluster) -> Iterator[PostgresRows]:
    """Tables whose `data` is `json`, with the two indexes."""
    url = postgres.opencode_database("json")
    with PostgresRows(url) as rows:
        for index in partial("json"):
            rows.run(index.statement.replace("CONCURRENTLY ", "").rstrip(";"))
        yield rows
    postgres.drop(url.rpartition("/")[2])


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    made = own_engine(postgres_url)
    yield made
    await made.dispose()


@pytest.mark.parametrize("name", ODD)
async def test_no_text_in_a_column_of_json_fails_a_write_of_the_servers_or_a_look(
    json_rows: PostgresRows, name: str
) -> None:
    rows, odd = json_rows, ODD[name]
    session = rows.session()
    rows.message(session, f'{{"role": "user", "summary": {odd}}}', at=NOW)
    turn = rows.message(session, f'{{"role": "assistant", "time": {{"created": {NOW}}}, "x": {odd}}}', at=NOW + 1)
    state = f'{{"status": "running", "input": {{"command": {odd}, "timeout": 5}}, "time": {{"start": {NOW}}}}}'
    call = rows.part(turn, f'{{"type": "tool", "tool": "bash", "callID": {odd}, "state": {state}}}', at=NOW + 2)
    rows.part(turn, f'{{"type": "tool", "tool": "x", "state": {{"status": "completed", "output": {odd}}}}}')
    later = own_engine(rows.url)
    try:
        store = await PostgresStore.open(later, clock=SystemClock())
        found = await store.look()
        assert found.damaged == ()
        (seen,) = found.sessions[session].calls
        assert (seen.id, seen.tool, seen.declared_timeout_ms) == (call, "bash", 5)
        assert found.sessions[session] == await store.session(session)
        (row,) = await store.rows(call_ids=[call])
        assert row.data == rows.get("part", call)
        assert await store.write([GuardedWrite(row=row, after='{"type": "text"}')]) == 1
        assert (await store.look()).sessions[session].calls == ()
    finally:
        await later.dispose()


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, "1e-400", "0.5", "null", '"5"', "true", "[]"])
async def test_a_number_that_no_clock_shows_harms_no_look(
    engine: AsyncEngine, postgres_rows: PostgresRows, number: str
) -> None:
    rows = postgres_rows
    session = rows.session()
    turn = rows.turn(session)
    for state in (f'"input": {{"timeout": {number}}}', f'"time": {{"start": {number}}}'):
        rows.part(turn, f'{{"type": "tool", "tool": "bash", "state": {{"status": "running", {state}}}}}')
    rows.message(session, f'{{"role": "assistant", "time": {{"created": 1, "completed": {number}}}}}')
    found = await (await PostgresStore.open(engine, clock=SystemClock())).look()
    assert len(found.sessions[session].calls) + len(found.damaged) >= 2


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_a_write_is_one_transaction_and_loses_a_race_quietly_whatever_the_engine_does(
    postgres_rows: PostgresRows, level: str
) -> None:
    rows = postgres_rows
    turn = rows.turn(rows.session())
    call = rows.call(turn)
    engine = create_async_engine(rows.url, poolclass=NullPool, isolation_level=level)

    class Rival:
        """Writes one of the rows after the transaction has begun."""

        async def hold(self, connection: AsyncConnection) -> None:
            await connection.execute(text("SELECT 1 FROM part"))
            rows.finish_turn(turn)

    store = await PostgresStore.open(engine, clock=SystemClock(), fence=Rival())
    observed = await store.rows(call_ids=[call], turn_ids=[turn])
    before = rows.get("part", call)
    assert await store.write([GuardedWrite(row=row, after='{"a": 1}') for row in observed]) == 0
    assert rows.get("part", call) == before
    await engine.dispose()


async def test_without_the_lease_nothing_is_written(engine: AsyncEngine, postgres_rows: PostgresRows) -> None:
    class Lost:
        async def hold(self, connection: AsyncConnection) -> None:  # noqa: ARG002
            raise LeaseLost("another replica has it")

    call = postgres_rows.call(postgres_rows.turn(postgres_rows.session()))
    store = await PostgresStore.open(engine, clock=SystemClock(), fence=Lost())
    (row,) = await store.rows(call_ids=[CallId(call)])
    with pytest.raises(LeaseLost, match="another replica has it"):
        await store.write([GuardedWrite(row=row, after="{}")])
    assert postgres_rows.get("part", call) == row.data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE part", "has no table `part`"),
        ("ALTER TABLE session DROP COLUMN directory", "has no columns directory in its table `session`"),
        ("ALTER TABLE part ALTER COLUMN data TYPE text", "are of type jsonb and text; both have to be jsonb"),
        (
            "ALTER TABLE message ALTER COLUMN time_created TYPE timestamptz USING now()",
            "message.time_created of postgresql://",
        ),
    ],
)
async def test_tables_that_can_not_be_watched_are_refused_with_what_is_wrong(
    engine: AsyncEngine, postgres_rows: PostgresRows, change: str, said: str
) -> None:
    postgres_rows.run(change)
    with pytest.raises(DatabaseUnsupported, match=said.replace("(", ".")):
        await PostgresStore.open(engine, clock=SystemClock())


async def test_ids_that_no_row_can_have_are_of_no_session(engine: AsyncEngine) -> None:
    store = await PostgresStore.open(engine, clock=SystemClock())
    for id_ in ("ses_\0", "ses_\ud83d"):
        assert await store.session(SessionId(id_)) is None
        assert not await store.message_exists(SessionId("ses"), id_)
        assert (await store.look(also=[SessionId(id_)])).sessions == {}


async def test_what_was_read_is_what_was_written(engine: AsyncEngine, postgres_rows: PostgresRows) -> None:
    call = postgres_rows.call(postgres_rows.turn(postgres_rows.session()), input={"command": "echo 'ä' \\ \"x\" ☃"})
    (row,) = await (await PostgresStore.open(engine, clock=SystemClock())).rows(call_ids=[CallId(call)])
    assert json.loads(row.data)["state"]["input"] == {"command": "echo 'ä' \\ \"x\" ☃"}


async def test_a_session_of_a_remote_workspace_is_told_where_the_tables_have_workspaces(
    postgres_rows: PostgresRows, engine: AsyncEngine
) -> None:
    rows = postgres_rows
    for name in ("plain", "worktree", "cloud", "gone"):
        rows.call(rows.turn(rows.session(f"ses_{name}")))
    store = await PostgresStore.open(engine, clock=SystemClock())
    try:
        assert {each.remote for each in (await store.look()).sessions.values()} == {None}
        rows.run("ALTER TABLE session ADD COLUMN workspace_id text")
        rows.run("UPDATE session SET workspace_id = replace(id, 'ses_', 'wrk_') WHERE id <> 'ses_plain'")
        found = {id_: each.remote for id_, each in (await store.look(full=True)).sessions.items()}
        assert found == {
            "ses_plain": None, "ses_worktree": "unknown", "ses_cloud": "unknown", "ses_gone": "unknown",
        }  # fmt: skip
        rows.run("CREATE TABLE workspace (id text PRIMARY KEY, type text NOT NULL)")
        rows.run("INSERT INTO workspace VALUES ('wrk_worktree', 'worktree'), ('wrk_cloud', 'cloud')")
        found = {id_: each.remote for id_, each in (await store.look(full=True)).sessions.items()}
        assert found == {"ses_plain": None, "ses_worktree": None, "ses_cloud": "cloud", "ses_gone": "unknown"}
        alone = await store.session(SessionId("ses_cloud"))
        assert alone is not None
        assert alone.remote == "cloud"
    finally:
        rows.run("DROP TABLE IF EXISTS workspace")
        rows.run("ALTER TABLE session DROP COLUMN IF EXISTS workspace_id")


TRIGGERS = {
    "RAISE EXCEPTION 'not so'; RETURN NEW": "refuses it",
    "RETURN NULL": "ignores it",
    "NEW.data := '{}'; RETURN NEW": "changes what is written",
}


@pytest.mark.parametrize("body", TRIGGERS)
async def test_a_trigger_that_refuses_ignores_or_changes_a_write_is_named_and_nothing_is_written(
    postgres_rows: PostgresRows, engine: AsyncEngine, body: str
) -> None:
    rows = postgres_rows
    call = rows.call(rows.turn(rows.session()))
    store = await PostgresStore.open(engine, clock=SystemClock())
    (row,) = await store.rows(call_ids=[call])
    writes = [GuardedWrite(row=row, after='{"type": "text"}')]
    rows.run(f"CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$")
    rows.run("CREATE TRIGGER guarding BEFORE UPDATE ON part FOR EACH ROW EXECUTE FUNCTION guard()")
    try:
        with pytest.raises(WriteRefused, match=f"The trigger `guarding` on the table `part` {TRIGGERS[body]}"):
            await store.write(writes)
        assert await store.rows(call_ids=[call]) == (row,)
    finally:
        rows.run("DROP TRIGGER guarding ON part")
        rows.run("DROP FUNCTION guard()")
    assert await store.write(writes) == 1
    assert await store.write(writes) == 0
