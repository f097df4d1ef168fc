"""The statements that make the watchdog's own tables in PostgreSQL, version by version.

Each version only adds, and everything that it adds to a table has a default: so a replica of an older version, from
`OLDEST` on, goes on beside newer ones. Each statement may run again after it ran. A step that alters a table which
others use waits for its readers, such as a backup; one that adds a table waits for nobody.
"""

from typing import Final

# ruff: noqa: S608 - the pieces are constants

SCHEMA: Final = "opencode_watchdog"
PROGRAM: Final = "opencode-watchdog"
OLDEST: Final = 1
"""The oldest version that can use the tables as they are now. The comment of the schema names it."""

_FIRST: Final = (
    f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.intervention (
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
    f"CREATE INDEX IF NOT EXISTS intervention_session ON {SCHEMA}.intervention (session_id, id)",
    f"CREATE INDEX IF NOT EXISTS intervention_began ON {SCHEMA}.intervention (began_ms)",
    f"CREATE INDEX IF NOT EXISTS intervention_begun ON {SCHEMA}.intervention (id) WHERE ended_ms IS NULL",
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.kept_row (
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
    f"CREATE INDEX IF NOT EXISTS kept_row_intervention ON {SCHEMA}.kept_row (intervention_id)",
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.hold (
        session_id text PRIMARY KEY,
        since_ms bigint NOT NULL,
        until_ms bigint,
        why text NOT NULL
    )
    """,
    f'CREATE TABLE IF NOT EXISTS {SCHEMA}.state ("key" text PRIMARY KEY, value text NOT NULL)',
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.lease (
        name text PRIMARY KEY,
        holder text NOT NULL,
        term bigint NOT NULL,
        expires_at timestamptz NOT NULL
    )
    """,
    (
        f"INSERT INTO {SCHEMA}.lease (name, holder, term, expires_at) VALUES ('watchdog', '', 0, '-infinity')"
        " ON CONFLICT DO NOTHING"
    ),
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.replica (
        name text PRIMARY KEY,
        seen_at timestamptz NOT NULL,
        said text NOT NULL
    )
    """,
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.errand (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        replica text NOT NULL,
        term bigint NOT NULL,
        asked_at timestamptz NOT NULL,
        question text NOT NULL,
        answer text
    )
    """,
    f"CREATE INDEX IF NOT EXISTS errand_open ON {SCHEMA}.errand (replica, id) WHERE answer IS NULL",
    f"COMMENT ON SCHEMA {SCHEMA} IS '{PROGRAM} {OLDEST}'",
)
_SECOND: Final = (
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.request (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        asked_by text NOT NULL,
        asked_at timestamptz NOT NULL,
        question text NOT NULL,
        taken_by text,
        term bigint,
        answer text
    )
    """,
    f"CREATE INDEX IF NOT EXISTS request_open ON {SCHEMA}.request (id) WHERE taken_by IS NULL",
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.edition (
        edition text PRIMARY KEY,
        process text NOT NULL,
        revision bigint NOT NULL
    ) WITH (fillfactor = 50)
    """,
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.claim (
        edition text NOT NULL REFERENCES {SCHEMA}.edition ON DELETE CASCADE,
        session_id text NOT NULL,
        revision bigint NOT NULL,
        said json NOT NULL,
        PRIMARY KEY (edition, session_id)
    ) WITH (fillfactor = 50)
    """,
)
"""Requests of people to the leader, through any replica; and each host's word on each session."""

_THIRD: Final = (
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.tenure (
        name text PRIMARY KEY,
        term bigint NOT NULL,
        seconds float8 NOT NULL
    )
    """,
)
"""How long the lease of a term lasts. An older version's holder leaves the row of the term before it."""
_FOURTH: Final = (
    f"""
    CREATE TABLE IF NOT EXISTS {SCHEMA}.standard (
        process text PRIMARY KEY,
        limits text NOT NULL
    )
    """,
)
"""The limits by which each replica would judge."""

STEPS: Final = (_FIRST, _SECOND, _THIRD, _FOURTH)
"""The steps from each version to the next. The first one makes the schema with its first statement."""
VERSION: Final = len(STEPS)


def statements(after: int = 0) -> tuple[str, ...]:
    """The steps from a version to the newest one; from none, all of them."""
    steps = (statement for step in STEPS[after:] for statement in step)
    return (*steps, f"COMMENT ON TABLE {SCHEMA}.lease IS '{PROGRAM} {VERSION}'")
