"""The watchdog's own tables in PostgreSQL: one schema, apart from the watched tables, made when it is first needed.

The first newer version that acts brings tables of an older version up to date, in one transaction, while replicas of
the older version go on.
"""

from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.console.logger import logger
from watchdog.errors import JournalUnusable
from watchdog.postgres.connection import STATEMENT_SECONDS, place_of, transaction, translated
from watchdog.postgres.steps import PROGRAM, SCHEMA, VERSION, statements

# ruff: noqa: S608 - the pieces are constants

_OPTIONS: Final = {"isolation_level": "READ COMMITTED"}
_TERMS: Final = """
    SELECT pg_catalog.set_config('lock_timeout', '8s', true),
        pg_catalog.set_config('statement_timeout', '8s', true),
        pg_catalog.set_config('idle_in_transaction_session_timeout', '5s', true)
"""
"""For the transaction that makes the tables: one that is stopped in the middle delays nobody else for long."""
_ONE_AT_A_TIME: Final = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('opencode-watchdog', 0))"
_NO_QUEUE: Final = "SELECT pg_catalog.set_config('lock_timeout', '2s', true)"
"""For the steps themselves: others queue behind a step that waits for a table, and a lease is short."""
_FOUND: Final = f"""
    SELECT pg_catalog.obj_description(found.oid, 'pg_namespace') AS mark,
        pg_catalog.has_schema_privilege(found.oid, 'USAGE') AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_class AS own
            CROSS JOIN pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS need
            WHERE own.relnamespace = found.oid AND own.relkind = 'r'
                AND NOT pg_catalog.has_table_privilege(own.oid, need)
        ) AS usable,
        EXISTS (SELECT FROM pg_catalog.pg_class AS own WHERE own.relnamespace = found.oid) AS filled,
        (
            SELECT coalesce(pg_catalog.obj_description(own.oid, 'pg_class'), '{PROGRAM} 1')
            FROM pg_catalog.pg_class AS own WHERE own.relnamespace = found.oid AND own.relname = 'lease'
        ) AS reached
    FROM pg_catalog.pg_namespace AS found WHERE found.nspname = '{SCHEMA}'
"""
_MAY_NOT: Final = "42501"
"""SQLSTATE: insufficient privilege."""


def as_script(role: str | None = None) -> str:
    """The statements for somebody who may make the tables, if the watchdog's own role may not.

    They bring tables of an older version up to date, too.

    Args:
        role: the watchdog's role, which then gets the rights that it needs.
    """
    lines = [_flat(statement) for statement in statements()]
    if role is not None:
        name = '"' + role.replace('"', '""') + '"'
        lines.append(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}")
        lines.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {name}")
    return "BEGIN;\n" + "".join(f"{line};\n" for line in lines) + "COMMIT;\n"


async def prepare(engine: AsyncEngine, *, make: bool = True) -> None:
    """Make the watchdog's own tables, or bring them up to date, unless they are. Others wait at the same time.

    Args:
        make: false for a watchdog that only looks: it makes nothing, takes tables of an older version as they are,
            and raises if there are none.

    Raises:
        JournalUnusable: they can't be made or used, or are of a newer version that this one can't use.
    """
    place = place_of(engine.url)
    with translated(place, JournalUnusable):
        async with transaction(engine, seconds=STATEMENT_SECONDS, **_OPTIONS) as connection:
            reached = _reached(await _find(connection), place)
        if reached > VERSION:
            logger().info("journal.newer", version=reached, own=VERSION)
        if reached >= VERSION or (reached and not make):
            return
        if not make:
            raise JournalUnusable(f"No watchdog has acted on {place} yet: it has no schema {SCHEMA}.")
        async with transaction(engine, seconds=2 * STATEMENT_SECONDS, **_OPTIONS) as connection:
            await connection.execute(text(_TERMS))
            await connection.execute(text(_ONE_AT_A_TIME))
            found = await _find(connection)
            reached = _reached(found, place)
            if reached < VERSION:
                await _step(connection, reached, place, there=found is not None)


async def _step(connection: AsyncConnection, reached: int, place: str, *, there: bool) -> None:
    """Make what a version lacks; all of it or nothing."""
    # If the schema exists and is empty, somebody made it for this role, which then need not be able to.
    missing = statements(reached)[1 if there and not reached else 0 :]
    try:
        await connection.execute(text(_NO_QUEUE))
        for statement in missing:
            await connection.execute(text(statement))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _MAY_NOT:
            raise
        what = f"make the watchdog's own schema {SCHEMA} in {place}"
        if reached:
            what = f"bring the watchdog's own schema {SCHEMA} in {place} from version {reached} to {VERSION}"
        raise JournalUnusable(
            f"The role may not {what}. Have somebody who may do that run what `opencode-watchdog sql schema` prints."
        ) from error
    if reached:
        logger().info("journal.brought_up_to_date", version=VERSION, before=reached)


async def _find(connection: AsyncConnection) -> Any:  # noqa: ANN401 - a row of SQLAlchemy's
    return (await connection.execute(text(_FOUND))).one_or_none()


def _reached(found: Any, place: str) -> int:  # noqa: ANN401 - as above
    """The existing version of the tables, if it can be used; 0 if there is none."""
    if found is None or (found.mark is None and not found.filled):
        return 0
    oldest = _number(found.mark)
    if oldest is None:
        raise JournalUnusable(
            f"The schema {SCHEMA} in {place} is not the watchdog's: it holds something else. Rename it."
        )
    if oldest > VERSION:
        raise JournalUnusable(
            f"The schema {SCHEMA} in {place} was made by a newer opencode-watchdog ({found.mark}). Upgrade this one."
        )
    if not found.usable:
        raise JournalUnusable(
            f"The role may not use the watchdog's own schema {SCHEMA} in {place}. Have its owner grant USAGE on the "
            "schema, and SELECT, INSERT, UPDATE and DELETE on its tables."
        )
    return _number(found.reached) or 0


def _number(mark: str | None) -> int | None:
    """The number in one of the watchdog's own comments."""
    name, _, number = (mark or "").rpartition(" ")
    return int(number) if name == PROGRAM and number.isdecimal() else None


def _flat(statement: str) -> str:
    return " ".join(statement.split())
