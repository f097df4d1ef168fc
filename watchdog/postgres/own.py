"""The watchdog's own tables in PostgreSQL: one schema, apart from what it watches, made when it is first needed."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.errors import JournalUnusable
from watchdog.postgres.connection import STATEMENT_SECONDS, place_of, transaction, translated

# ruff: noqa: S608 - the pieces are constants

SCHEMA: Final = "opencode_watchdog"
VERSION: Final = 1

STATEMENTS: Final = (
    f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
    f"""
    CREATE TABLE {SCHEMA}.intervention (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        session_id text NOT NULL,
        began_ms bigint NOT NULL,
        ended_ms bigint,
        undone_ms bigint,
        actor text NOT NULL,
        reason text,
        verdict text NOT NULL,
        outcome text
    )
    """,
    f"CREATE INDEX intervention_session ON {SCHEMA}.intervention (session_id, id)",
    f"CREATE INDEX intervention_began ON {SCHEMA}.intervention (began_ms)",
    f"CREATE INDEX intervention_begun ON {SCHEMA}.intervention (id) WHERE ended_ms IS NULL",
    f"""
    CREATE TABLE {SCHEMA}.kept_row (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        intervention_id bigint NOT NULL,
        "table" text NOT NULL,
        id text NOT NULL,
        message_id text NOT NULL,
        session_id text NOT NULL,
        created_ms bigint NOT NULL,
        updated_ms bigint NOT NULL,
        "before" text NOT NULL,
        "after" text NOT NULL
    )
    """,
    f"CREATE INDEX kept_row_intervention ON {SCHEMA}.kept_row (intervention_id)",
    f"""
    CREATE TABLE {SCHEMA}.hold (
        session_id text PRIMARY KEY,
        since_ms bigint NOT NULL,
        until_ms bigint,
        why text NOT NULL
    )
    """,
    f'CREATE TABLE {SCHEMA}.state ("key" text PRIMARY KEY, value text NOT NULL)',
    f"""
    CREATE TABLE {SCHEMA}.lease (
        name text PRIMARY KEY,
        holder text NOT NULL,
        term bigint NOT NULL,
        expires_at timestamptz NOT NULL
    )
    """,
    f"INSERT INTO {SCHEMA}.lease (name, holder, term, expires_at) VALUES ('watchdog', '', 0, '-infinity')",
    f"""
    CREATE TABLE {SCHEMA}.replica (
        name text PRIMARY KEY,
        seen_at timestamptz NOT NULL,
        said text NOT NULL
    )
    """,
    f"""
    CREATE TABLE {SCHEMA}.errand (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        replica text NOT NULL,
        term bigint NOT NULL,
        asked_at timestamptz NOT NULL,
        question text NOT NULL,
        answer text
    )
    """,
    f"CREATE INDEX errand_open ON {SCHEMA}.errand (replica, id) WHERE answer IS NULL",
    f"COMMENT ON SCHEMA {SCHEMA} IS 'opencode-watchdog {VERSION}'",
)
"""What makes the tables. Nothing but this schema is ever made or altered."""

_OPTIONS: Final = {"isolation_level": "READ COMMITTED"}
_TERMS: Final = """
    SELECT pg_catalog.set_config('lock_timeout', '8s', true),
        pg_catalog.set_config('statement_timeout', '8s', true),
        pg_catalog.set_config('idle_in_transaction_session_timeout', '5s', true)
"""
"""Of the transaction that makes the tables: one that is stopped in the middle keeps nobody else waiting for long."""
_ONE_AT_A_TIME: Final = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('opencode-watchdog', 0))"
_FOUND: Final = f"""
    SELECT pg_catalog.obj_description(found.oid, 'pg_namespace') AS mark,
        pg_catalog.has_schema_privilege(found.oid, 'USAGE') AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_class AS own
            CROSS JOIN pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS need
            WHERE own.relnamespace = found.oid AND own.relkind = 'r'
                AND NOT pg_catalog.has_table_privilege(own.oid, need)
        ) AS usable,
        EXISTS (SELECT FROM pg_catalog.pg_class AS own WHERE own.relnamespace = found.oid) AS filled
    FROM pg_catalog.pg_namespace AS found WHERE found.nspname = '{SCHEMA}'
"""
_MAY_NOT: Final = {"42501", "25006"}
"""SQLSTATE: insufficient privilege, a read-only transaction."""


def as_script(role: str | None = None) -> str:
    """The statements for somebody who may make the tables, where the watchdog's own role may not.

    Args:
        role: the watchdog's role, which is then given what it needs.
    """
    statements = [_flat(statement) for statement in STATEMENTS]
    if role is not None:
        name = '"' + role.replace('"', '""') + '"'
        statements.append(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}")
        statements.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {name}")
    return "BEGIN;\n" + "".join(f"{statement};\n" for statement in statements) + "COMMIT;\n"


async def prepare(engine: AsyncEngine, *, make: bool = True) -> None:
    """Make the watchdog's own tables, unless they are there. Who comes at the same time waits.

    Args:
        make: false for who only looks: it makes nothing, and takes it as an error that there is nothing.

    Raises:
        JournalUnusable: they can't be made or used, or are of a newer version.
    """
    place = place_of(engine.url)
    with translated(place, JournalUnusable):
        async with transaction(engine, seconds=STATEMENT_SECONDS, **_OPTIONS) as connection:
            if await _are_there(connection, place):
                return
        if not make:
            raise JournalUnusable(f"No watchdog has acted on {place} yet: it has no schema {SCHEMA}.")
        async with transaction(engine, seconds=STATEMENT_SECONDS, **_OPTIONS) as connection:
            await connection.execute(text(_TERMS))
            await connection.execute(text(_ONE_AT_A_TIME))
            if not await _are_there(connection, place):
                await _make(connection, place)


async def _make(connection: AsyncConnection, place: str) -> None:
    # Where the schema is there and empty, somebody made it for this role, which then need not be able to.
    there = (await connection.execute(text(_FOUND))).one_or_none() is not None
    try:
        for statement in STATEMENTS[1:] if there else STATEMENTS:
            await connection.execute(text(statement))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _MAY_NOT:
            raise
        raise JournalUnusable(
            f"The role may not make the watchdog's own schema {SCHEMA} in {place}. Have somebody who may run what "
            "`opencode-watchdog sql schema` prints."
        ) from error


async def _are_there(connection: AsyncConnection, place: str) -> bool:
    """Whether the tables are there, and can be used."""
    found = (await connection.execute(text(_FOUND))).one_or_none()
    if found is None or (found.mark is None and not found.filled):
        return False
    name, _, version = (found.mark or "").rpartition(" ")
    if name != "opencode-watchdog" or not version.isdecimal():
        raise JournalUnusable(
            f"The schema {SCHEMA} in {place} is not the watchdog's: it holds something else. Rename it."
        )
    if int(version) > VERSION:
        raise JournalUnusable(
            f"The schema {SCHEMA} in {place} was made by a newer opencode-watchdog ({found.mark}). Upgrade this one."
        )
    if not found.usable:
        raise JournalUnusable(
            f"The role may not use the watchdog's own schema {SCHEMA} in {place}. Have its owner grant USAGE on the "
            "schema, and SELECT, INSERT, UPDATE and DELETE on its tables."
        )
    return True


def _flat(statement: str) -> str:
    return " ".join(statement.split())
