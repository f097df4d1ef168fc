"""The watchdog's own tables in PostgreSQL: one schema, apart from what it watches, made when it is first needed."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.errors import JournalUnusable
from watchdog.postgres.connection import place_of, translated

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

_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtextextended('opencode-watchdog', 0))"
_FOUND: Final = f"""
    SELECT pg_catalog.obj_description(schema.oid, 'pg_namespace') AS found
    FROM pg_catalog.pg_namespace AS schema WHERE schema.nspname = '{SCHEMA}'
"""


def as_script() -> str:
    """The statements for somebody who may make them, where the watchdog's own role may not."""
    return "BEGIN;\n" + "".join(f"{_flat(statement)};\n" for statement in STATEMENTS) + "COMMIT;\n"


async def prepare(engine: AsyncEngine) -> None:
    """Make the watchdog's own tables, unless they are there. Who comes at the same time waits.

    Raises:
        JournalUnusable: they can't be made or used, or are of a newer version.
    """
    place = place_of(engine.url.render_as_string(hide_password=True))
    with translated(place, JournalUnusable):
        async with engine.connect() as connection:
            if not _is_ours((await connection.execute(text(_FOUND))).scalar_one_or_none(), place):
                await connection.rollback()
                await _make(connection, place)


async def _make(connection: AsyncConnection, place: str) -> None:
    async with connection.begin():
        await connection.execute(text(_ONE_AT_A_TIME))
        if _is_ours((await connection.execute(text(_FOUND))).scalar_one_or_none(), place):
            return
        for statement in STATEMENTS:
            await connection.execute(text(statement))


def _is_ours(found: str | None, place: str) -> bool:
    if found == f"opencode-watchdog {VERSION}":
        return True
    if found is not None and found.startswith("opencode-watchdog "):
        raise JournalUnusable(
            f"The schema {SCHEMA} in {place} was made by a newer opencode-watchdog ({found}). Upgrade this one."
        )
    return False


def _flat(statement: str) -> str:
    return " ".join(statement.split())
