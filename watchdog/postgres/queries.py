"""The queries on the sessions' tables in PostgreSQL.

The tables have opencode's names; `data` is `jsonb` or `json`. Two partial indexes find the open rows, and their
conditions are exactly those here: PostgreSQL uses such an index only if a query repeats its condition. Rows are
ordered by time_created, never by id; ids decide only between rows of the same millisecond, since there is no order of
insertion to read.
"""

# ruff: noqa: S608 - the pieces are constants of this module; every value is a parameter

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from watchdog.opencode.db.snapshot import Statements

Data = Literal["jsonb", "json"]
"""The type of `message.data` and `part.data`."""
COLUMNS: Final = {
    "session": ("id", "parent_id", "directory", "title", "time_created", "time_updated", "time_archived"),
    "message": ("id", "session_id", "time_created", "time_updated", "data"),
    "part": ("id", "message_id", "session_id", "time_created", "time_updated", "data"),
}
"""The columns that are used."""

_OPEN_MESSAGE: Final = (
    "{kind}_typeof(message.data #> '{{time,completed}}') IS DISTINCT FROM 'number'"
    " AND (message.data ->> 'role' = 'assistant' OR {kind}_typeof(message.data -> 'role') IS DISTINCT FROM 'string')"
)
"""A turn without the time of its end; and unreadable rows, which are reported."""
_OPEN_PART: Final = (
    "(part.data #>> '{{state,status}}') IS DISTINCT FROM 'completed'"
    " AND (part.data #>> '{{state,status}}') IS DISTINCT FROM 'error'"
    " AND (part.data ->> 'type' = 'tool' OR {kind}_typeof(part.data) <> 'object')"
)
"""A tool call that is not over; and unreadable rows."""

# `json` keeps a text as it was written: a NUL in it, or half a surrogate pair, would fail any query that looks into
# it.
_TEXT: Final = "CAST({data} AS text)"
_UNREADABLE: Final = (
    r"\\u(0000|[dD][89abAB][0-9a-fA-F]{{2}}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{{2}}\\u)[dD][c-fC-F][0-9a-fA-F]{{2}})"
)
_MENDED: Final = (
    f"(CASE WHEN strpos({_TEXT}, '\\u') = 0 THEN {{data}}"
    f" ELSE CAST(regexp_replace({_TEXT}, '{_UNREADABLE}', '\\ufffd', 'g') AS json) END)"
)
_LOOKED_INTO: Final = re.compile(r"\b(?:message|part|seen|turn)\.data(?= (?:->|#>))")

_IDS: Final = "jsonb_array_elements_text(CAST(:ids AS jsonb)) AS wanted(value)"
_ROW: Final = (
    "SELECT 0 AS place, {table}.id AS id, {table}.session_id AS session_id, {table}.time_created AS created,"
    " {table}.time_updated AS updated, pg_column_size({table}.data) AS size, {{kind}}_typeof({table}.data) AS shape,"
)
_MESSAGE: Final = _ROW.format(table="message") + (
    " CAST({kind}_build_array(message.data -> 'role', message.data #> '{{time,created}}',"
    " message.data #> '{{time,completed}}', message.data #> '{{path,cwd}}') AS text) AS fields"
)
_PART: Final = _ROW.format(table="part") + (
    " part.message_id AS message_id, CAST({kind}_build_array(part.data -> 'tool', part.data -> 'callID',"
    " part.data #> '{{state,status}}', part.data #> '{{state,time,start}}', part.data #> '{{state,input,timeout}}',"
    " part.data #> '{{state,metadata,sessionId}}') AS text) AS fields"
)
_NO_WORKSPACE: Final = "CAST(NULL AS text) AS workspace, CAST(NULL AS text) AS workspace_type"
_WORKSPACE: Final = "CAST(session.workspace_id AS text) AS workspace, CAST(NULL AS text) AS workspace_type"
_WORKSPACE_AND_TYPE: Final = (
    "CAST(session.workspace_id AS text) AS workspace, (SELECT CAST(workspace.type AS text) FROM workspace"
    " WHERE workspace.id = session.workspace_id) AS workspace_type"
)
_SESSION: Final = (
    "SELECT session.id AS id, session.parent_id AS parent_id, session.directory AS directory,"
    f" session.time_created AS created, {_NO_WORKSPACE}"
)
_NEWEST_OF: Final = (
    "SELECT seen.id, seen.time_created, seen.data FROM message AS seen"
    " WHERE seen.session_id = wanted.value AND seen.data ->> 'role' = '{role}'"
    " ORDER BY seen.time_created DESC, seen.id DESC LIMIT 1"
)
# A number that was never a time would fail a cast, and the look with it.
_COMPLETED: Final = (
    "CASE WHEN turn.data #>> '{{time,completed}}' ~ '^[0-9]{{1,15}}([.][0-9]+)?$'"
    " THEN CAST(CAST(turn.data #>> '{{time,completed}}' AS numeric) AS bigint) END"
)
_NEWEST: Final = f"""
    SELECT wanted.value AS session_id, prompt.id AS prompt_id, prompt.time_created AS prompted, turn.id AS turn_id,
        turn.time_created AS turned, {_COMPLETED} AS completed, latest.id AS message_id,
        (SELECT count(*) FROM message AS seen WHERE seen.session_id = wanted.value AND seen.data ->> 'role' = 'user'
            AND (turn.id IS NULL OR (seen.time_created, seen.id) > (turn.time_created, turn.id))) AS queued
    FROM {_IDS}
    LEFT JOIN LATERAL ({_NEWEST_OF.format(role="user")}) AS prompt ON TRUE
    LEFT JOIN LATERAL ({_NEWEST_OF.format(role="assistant")}) AS turn ON TRUE
    LEFT JOIN LATERAL (
        SELECT seen.id FROM message AS seen WHERE seen.session_id = wanted.value
        ORDER BY seen.time_created DESC, seen.id DESC LIMIT 1
    ) AS latest ON TRUE
"""
_QUEUED: Final = f"""
    SELECT seen.id AS id FROM {_IDS}
    LEFT JOIN LATERAL ({_NEWEST_OF.format(role="assistant")}) AS turn ON TRUE
    CROSS JOIN LATERAL (
        SELECT seen.id, seen.time_created FROM message AS seen WHERE seen.session_id = wanted.value
            AND seen.data ->> 'role' = 'user'
            AND (turn.id IS NULL OR (seen.time_created, seen.id) > (turn.time_created, turn.id))
    ) AS seen
    ORDER BY seen.time_created, seen.id
"""
_EACH: Final = "CROSS JOIN LATERAL (SELECT {table}.* FROM {table} WHERE {condition} OFFSET 0) AS {table}"
"""The rows of each id, looked up by an index.

Without OFFSET 0 it is a join, and PostgreSQL may read the whole table for it: it takes any list of ids for a hundred,
and does not know what it costs to unpack `data`.
"""
_SESSIONS: Final = f"{_SESSION} FROM {_IDS} {_EACH.format(table='session', condition='session.id = wanted.value')}"
_ANCESTORS: Final = f"""
    WITH RECURSIVE above(id, parent_id, directory, created, workspace, workspace_type) AS (
        {_SESSIONS}
        UNION
        {_SESSION} FROM above {_EACH.format(table="session", condition="session.id = above.parent_id")}
    )
    SELECT id, parent_id, directory, created, workspace, workspace_type FROM above
"""
BELOW: Final = f"""
    WITH RECURSIVE below(id) AS (
        SELECT session.id FROM {_IDS} {_EACH.format(table="session", condition="session.parent_id = wanted.value")}
        UNION
        SELECT session.id FROM below {_EACH.format(table="session", condition="session.parent_id = below.id")}
    )
    SELECT id FROM below
"""
_SINCE: Final = (
    "session.parent_id = wanted.value ->> 0 AND session.time_created >= CAST(wanted.value ->> 1 AS bigint)"
)
_CHILDREN: Final = (
    "SELECT session.id AS id FROM jsonb_array_elements(CAST(:calls AS jsonb)) AS wanted(value)"
    f" {_EACH.format(table='session', condition=_SINCE)}"
)
_LAST_WRITTEN: Final = (
    f"SELECT wanted.value AS id, written.updated AS updated FROM {_IDS} CROSS JOIN LATERAL"
    " (SELECT max(part.time_updated) AS updated FROM part WHERE part.message_id = wanted.value) AS written"
)
_WHOLE: Final = (
    "SELECT '{table}' AS kind, {table}.id AS id, {table}.{message} AS message_id, {table}.session_id AS session_id,"
    " {table}.time_created AS created, {table}.time_updated AS updated, CAST({table}.data AS text) AS data"
    " FROM {ids} {each}"
)

VERSION: Final = """
    SELECT CAST(pg_current_snapshot() AS text) || ' ' || CAST(pg_postmaster_start_time() AS text) AS version
"""
"""The snapshot of now: the same text means that nobody committed anything (PostgreSQL's manual, 9.27.9)."""
READ: Final = f"""
    SELECT seen.version, set_config('enable_seqscan', 'off', TRUE) AS scans, set_config('jit', 'off', TRUE) AS jit,
        set_config('lock_timeout', '100ms', TRUE) AS patience
    FROM ({VERSION}) AS seen
"""
"""The first query of a reading transaction, which knows better than the planner how little there is to read.

There are no statistics for conditions on `data`, and at some millions of rows the planner would rather scan a table
than use an index that holds twenty. Nor is compiling worth it. Without an index the table is scanned.
"""
DIRECTORIES: Final = (
    "SELECT session.directory AS directory FROM session WHERE session.time_updated >= :since_ms"
    " GROUP BY session.directory ORDER BY max(session.time_updated) DESC"
)
TITLES: Final = (
    f"SELECT session.id AS id, left(session.title, 300) AS title FROM {_IDS}"
    f" {_EACH.format(table='session', condition='session.id = wanted.value')} WHERE session.title IS NOT NULL"
)
MESSAGE_EXISTS: Final = "SELECT 1 AS found FROM message WHERE message.id = :id AND message.session_id = :session"
WHOLE_PARTS: Final = _WHOLE.format(
    table="part", message="message_id", ids=_IDS, each=_EACH.format(table="part", condition="part.id = wanted.value")
)
WHOLE_MESSAGES: Final = _WHOLE.format(
    table="message", message="id", ids=_IDS, each=_EACH.format(table="message", condition="message.id = wanted.value")
)
PARTS_OF_MESSAGES: Final = _WHOLE.format(
    table="part",
    message="message_id",
    ids=_IDS,
    each=_EACH.format(table="part", condition="part.message_id = wanted.value"),
)
COLUMNS_FOUND: Final = """
    SELECT class.relname AS "table", attribute.attname AS "column", format_type(attribute.atttypid, NULL) AS type
    FROM pg_catalog.pg_class AS class JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
    WHERE class.oid IN (
            to_regclass('session'), to_regclass('message'), to_regclass('part'), to_regclass('workspace')
        )
        AND attribute.attnum > 0 AND NOT attribute.attisdropped
"""
TRIGGERS: Final = """
    SELECT tgname AS name FROM pg_catalog.pg_trigger
    WHERE tgrelid = to_regclass(:table) AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY tgname
"""
SIZES: Final = """
    SELECT sum(pg_total_relation_size(class.oid)) AS bytes, current_setting('server_version') AS server
    FROM pg_catalog.pg_class AS class
    WHERE class.oid IN (to_regclass('session'), to_regclass('message'), to_regclass('part'))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The statements that depend on the type of `data`, which is `jsonb` or `json`.

    Attributes:
        lock: the statement before any other of a reading transaction. It waits for nobody, and from then on nobody
            alters a table. A wait in the middle of a look could be part of a deadlock; and a look that read anything
            before a table was rewritten sees none of its rows.
        look: the queries of a look.
        open_parts_of_sessions: the ids of the open calls of some sessions.
        queued: the prompts of a session that no turn answers yet.
        reads: which rows of each table read as the given values.
        update: the guarded write of rows of each table. `jsonb` is compared as a value: it keeps no text.
    """

    lock: str
    look: Statements
    open_parts_of_sessions: str
    queued: str
    update: dict[str, str]
    reads: dict[str, str]


def open_message(kind: Data) -> str:
    """The condition of an open turn."""
    return _readable(_OPEN_MESSAGE.format(kind=kind), kind)


def open_part(kind: Data) -> str:
    """The condition of an open call."""
    return _readable(_OPEN_PART.format(kind=kind), kind)


def _readable(statement: str, kind: Data) -> str:
    """The statement, made safe against any text in a row.

    Values that are compared or written whole stay as they are.
    """
    if kind == "jsonb":
        return statement
    return _LOOKED_INTO.sub(lambda found: _MENDED.format(data=found[0]), statement)


def _workspaces(tables: Mapping[str, Collection[str]]) -> str:
    if "workspace_id" not in tables.get("session", ()):
        return _NO_WORKSPACE
    return _WORKSPACE_AND_TYPE if {"id", "type"} <= set(tables.get("workspace", ())) else _WORKSPACE


def dialect(kind: Data, tables: Mapping[str, Collection[str]] = MappingProxyType({})) -> Dialect:
    """The statements for a type of `data`: `jsonb` or `json`.

    Args:
        tables: the columns of each table; those of workspaces are read if they exist.
    """
    message, part = (_readable(each.format(kind=kind), kind) for each in (_MESSAGE, _PART))
    is_open_message, is_open_part = open_message(kind), open_part(kind)
    workspaces = _workspaces(tables)
    more = ["workspace"] if workspaces == _WORKSPACE_AND_TYPE else []

    def of(table: str, column: str, condition: str = "TRUE") -> str:
        return _EACH.format(table=table, condition=f"{table}.{column} = wanted.value AND {condition}")

    return Dialect(
        lock=f"LOCK TABLE {', '.join([*COLUMNS, *more])} IN ACCESS SHARE MODE NOWAIT",
        look=Statements(
            open_messages=f"{message} FROM message WHERE {is_open_message}",
            open_messages_of_sessions=(f"{message} FROM {_IDS} {of('message', 'session_id', is_open_message)}"),
            messages=f"{message} FROM {_IDS} {of('message', 'id')}",
            open_parts=(
                f"{part} FROM part WHERE {is_open_part} AND CAST(:after AS bigint) = 0"
                f" UNION ALL {part} FROM {_IDS} {of('part', 'id', is_open_part)} WHERE CAST(:after AS bigint) <> 0"
            ),
            open_parts_of_messages=(f"{part} FROM {_IDS} {of('part', 'message_id', is_open_part)}"),
            sessions=_SESSIONS.replace(_NO_WORKSPACE, workspaces),
            sessions_and_ancestors=_ANCESTORS.replace(_NO_WORKSPACE, workspaces),
            below=BELOW,
            children=_CHILDREN,
            newest=_readable(_NEWEST.format(), kind),
            last_written=_LAST_WRITTEN,
        ),
        open_parts_of_sessions=(f"SELECT part.id AS id FROM {_IDS} {of('part', 'session_id', is_open_part)}"),
        queued=_readable(_QUEUED, kind),
        reads={table: f"SELECT id FROM {table} WHERE {_reads(table, kind)}" for table in ("message", "part")},
        update={
            table: f"UPDATE {table} SET data = CAST({_given('after', table)} AS {kind}) WHERE {_reads(table, kind)}"
            for table in ("message", "part")
        },
    )


def _given(what: str, table: str) -> str:
    """The value for a row, at the same place as its id."""
    place = f"array_position(CAST(:ids AS text[]), CAST({table}.id AS text))"
    return f"(CAST(:{what} AS text[]))[{place}]"


def _reads(table: str, kind: Data) -> str:
    """The condition that a row is one of some, and reads as the value given for it."""
    given = _given("observed", table)
    observed = (
        f"{table}.data = CAST({given} AS jsonb)" if kind == "jsonb" else f"CAST({table}.data AS text) = {given}"
    )
    return f"{table}.id = ANY(CAST(:ids AS text[])) AND {observed}"
