"""`check` and `sql` for sessions in PostgreSQL, as a person starts them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import watchdog
from tests.support.postgres import Cluster, PostgresRows
from tests.support.program import Program, now_ms, path, program, rows
from tests.unit.checking.test_check import said
from tests.unit.reporting.test_documents import example, shape
from watchdog import CallableHost, Settings
from watchdog.postgres.indexes import partial

__all__ = ["path", "program", "rows"]

NOBODY = CallableHost(statuses=dict, pending_asks=list, abort=lambda _: None)


@asynccontextmanager
async def acting(url: str) -> AsyncIterator[None]:
    """A replica that acts on the database."""
    engine = create_async_engine(url)
    async with watchdog.running(Settings(), host=NOBODY, engine=engine):
        yield
    await engine.dispose()


async def test_a_fresh_database_is_usable_and_it_is_said_what_it_lacks(program: Program, postgres_url: str) -> None:
    done = await program.run("check", "--database", postgres_url)
    assert (done.code, done.stderr) == (0, "")
    assert said(done, "summary") == ["usable, with 3 warnings above"]
    journal, turns, calls = said(done, "warning")
    assert journal.startswith("No watchdog has acted on postgresql://127.0.0.1:")
    assert "no index holds the open turns: each look reads the whole of `message`" in turns
    assert "no index holds the open calls: each look reads the whole of `part`" in calls
    assert "`opencode-watchdog sql index` prints what makes it" in calls
    with PostgresRows(postgres_url) as there:
        assert there.run("SELECT 1 FROM pg_namespace WHERE nspname = 'opencode_watchdog'") == []


@pytest.mark.parametrize("data", ["jsonb", "json"])
async def test_what_sql_index_prints_is_found_by_check(program: Program, postgres: Cluster, data: str) -> None:
    url = postgres.opencode_database("jsonb" if data == "jsonb" else "json")
    printed = (await program.run("sql", "index", "--data", data)).stdout
    with PostgresRows(url) as there:
        for statement in "".join(line for line in printed.splitlines(True) if line[:2] != "--").split(";\n"):
            if statement:
                there.run(statement)
    document = (await program.run("check", "--json", "--database", url)).document
    assert [each["name"] for each in document["indexes"]][:2] == ["message_open_idx", "part_open_idx"]
    assert all(each["name"] for each in document["indexes"])
    assert len(document["warnings"]) == 1
    assert document["database"]["data"] == data


async def test_an_index_that_was_begun_and_not_finished_is_named_with_what_to_do(
    program: Program, postgres: Cluster, postgres_url: str
) -> None:
    with PostgresRows(postgres_url) as there:
        there.run(partial("jsonb")[1].statement.replace("CONCURRENTLY ", "").rstrip(";"))
    broken = "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'part_open_idx'::regclass"
    postgres.run(broken, database=postgres_url.rpartition("/")[2])
    done = await program.run("check", "--database", postgres_url)
    (warning,) = [line for line in said(done, "warning") if "open calls" in line]
    assert "DROP INDEX CONCURRENTLY part_open_idx; and make it again" in warning


async def test_an_index_on_another_condition_is_none(program: Program, postgres_url: str) -> None:
    with PostgresRows(postgres_url) as there:
        there.run("CREATE INDEX part_open_idx ON part (session_id) WHERE data ->> 'type' = 'tool'")
        there.run("CREATE INDEX message_open_idx ON message (session_id)")
    document = (await program.run("check", "--json", "--database", postgres_url)).document
    assert [each["name"] for each in document["indexes"]][:2] == [None, None]


async def test_the_document_is_the_one_that_is_promised(program: Program, postgres_url: str) -> None:
    with PostgresRows(postgres_url) as there:
        session = there.session()
        there.call(there.turn(session, at=now_ms()), at=now_ms())
        for index in partial("jsonb"):
            there.run(index.statement.replace("CONCURRENTLY ", "").rstrip(";"))
        there.run("ANALYZE")
    async with acting(postgres_url):
        done = await program.run("check", "--json", "--database", postgres_url)
    document, promised = done.document, example("check in PostgreSQL")
    assert done.code == 0
    assert document["look"]["unfinished"] == 1
    assert document["database"]["watched_by"] in document["replicas"]
    document["settings"] = promised["settings"]
    document["indexes"] = document["indexes"][:1]
    assert shape(document) == shape(promised)


async def test_a_person_sees_who_acts_and_what_a_look_takes(program: Program, postgres_url: str) -> None:
    async with acting(postgres_url):
        done = await program.run("check", "--database", postgres_url)
    assert done.code == 0
    found = dict(line.split("\t", maxsplit=1) for line in said(done, "database"))
    assert found["place"].startswith("postgresql://127.0.0.1:")
    assert said(done, "replicas") == [found["watched_by"]]
    (look,) = said(done, "look")
    assert look.startswith("a look took ")
    assert look.endswith("; 0 sessions are unfinished")
    assert any(line.startswith("warning\tno index") for line in done.stdout.splitlines())


async def test_a_database_that_is_not_there_is_a_problem_without_the_password(
    program: Program, postgres: Cluster
) -> None:
    url = postgres.url("nowhere").replace("@", ":hush@")
    done = await program.run("check", "--database", url)
    assert done.code == 3
    assert said(done, "summary") == ["not usable: 1 problem above"]
    (problem,) = said(done, "problem")
    assert "is not there: the server has no database of that name" in problem
    assert "hush" not in done.stdout + done.stderr


async def test_what_watches_files_says_where_sessions_in_postgresql_are_watched(
    program: Program, postgres_url: str
) -> None:
    for command in ("run", "recover"):
        done = await program.run(command, "--database", postgres_url)
        assert done.code == 2
        assert "is in PostgreSQL, where each server watches its own sessions" in done.stderr


async def test_sql_schema_prints_what_makes_the_tables_for_a_role(program: Program) -> None:
    done = await program.run("sql", "schema", "--role", "some one")
    assert done.code == 0
    assert done.stdout.startswith("BEGIN;\nCREATE SCHEMA IF NOT EXISTS opencode_watchdog;\n")
    assert 'TO "some one"' in done.stdout


async def test_an_option_that_nobody_knows_is_named_and_sslmode_is_understood(
    program: Program, postgres_url: str
) -> None:
    done = await program.run("check", "--database", f"{postgres_url}?colour=red")
    assert done.code == 3
    (problem,) = said(done, "problem")
    assert "has the option colour, which asyncpg doesn't know here" in problem
    for odd in ("prepared_statement_cache_size=abc", "host=a:1,b", "ssl=sometimes"):
        done = await program.run("scan", "--database", f"{postgres_url}?{odd}")
        assert done.code in {2, 3}
        assert done.stderr.startswith("error: The ")
        assert "Traceback" not in done.stderr
    for host in ("db..internal", "nowhere.invalid"):
        done = await program.run("scan", "--database", f"postgresql://me:hush@{host}/name")
        assert done.code == 3
        assert done.stderr.startswith(f"error: The database postgresql://{host}/name ")
        assert "hush" not in done.stderr
    done = await program.run("scan", "--database", f"{postgres_url}?sslmode=disable")
    assert done.code == 0
    refused = await program.run("scan", "--database", f"{postgres_url}?sslmode=require")
    assert refused.code == 3
    assert refused.stderr.startswith("error: The database postgresql://127.0.0.1:")
