"""The SQL for opencode's tables.

Three rules keep this right on any database: JSON functions run only behind `json_valid`, so a broken row can't fail a
query; rows are ordered by (time_created, rowid), never by id; `CROSS JOIN` fixes the order of a join where the
planner, left free, scanned `part`.
"""

# ruff: noqa: S608 - the pieces are constants of this module; every value is a parameter

from collections.abc import Collection, Mapping
from typing import Final

from watchdog.opencode.db.snapshot import Statements

COLUMNS: Final = {
    "session": ("id", "parent_id", "directory", "time_created", "time_updated", "time_archived"),
    "message": ("id", "session_id", "time_created", "time_updated", "data"),
    "part": ("id", "message_id", "session_id", "time_created", "time_updated", "data"),
}
"""The columns that are used."""


def readable(table: str, then: str, otherwise: str) -> str:
    """One expression for the rows of a table whose JSON can be read, and another for the rest."""
    return f"CASE WHEN typeof({table}.data) = 'text' AND json_valid({table}.data) THEN {then} ELSE {otherwise} END"


# A turn is open until `time.completed` is a number; unreadable rows are fetched, too, to be reported.
# The condition that most rows fail comes first: a look at every turn costs little more than a bare scan of the table.
_OPEN_MESSAGE = readable(
    "message",
    """
    CASE json_type(message.data, '$.time.completed') WHEN 'integer' THEN 0 WHEN 'real' THEN 0 ELSE
        CASE json_extract(message.data, '$.role') WHEN 'user' THEN 0 WHEN 'assistant' THEN 1
            ELSE typeof(json_extract(message.data, '$.role')) <> 'text' END
    END
    """,
    "1",
)

_OPEN_PART = readable(
    "part",
    """
    CASE json_extract(part.data, '$.state.status') WHEN 'completed' THEN 0 WHEN 'error' THEN 0 ELSE
        json_type(part.data) <> 'object' OR json_extract(part.data, '$.type') IS 'tool'
    END
    """,
    "1",
)

_MESSAGE = (
    "SELECT message.rowid AS place, message.id AS id, message.session_id AS session_id,"
    " message.time_created AS created, message.time_updated AS updated, length(message.data) AS size, "
    + readable(
        "message", "json_extract(message.data, '$.role', '$.time.created', '$.time.completed', '$.path.cwd')", "NULL"
    )
    + " AS fields, "
    + readable("message", "json_type(message.data)", "NULL")
    + " AS shape"
)

# A person's own command (`!command`, `POST /session/{id}/shell`) is a bash call like a model's, but no model asked
# for it: its turn has no step, and answers a message that opencode wrote by itself.
PERSONAL = f"""
    CASE WHEN json_extract(part.data, '$.tool') IS 'bash'
        AND json_type(part.data, '$.state.input.timeout') IS NULL
        AND json_type(part.data, '$.state.input.description') IS NULL
    THEN NOT EXISTS (
            SELECT 1 FROM part AS step WHERE step.message_id = part.message_id
                AND {readable("step", "json_extract(step.data, '$.type') IS 'step-start'", "0")}
        ) AND EXISTS (
            SELECT 1 FROM message AS turn CROSS JOIN part AS said
                ON said.message_id = {readable("turn", "json_extract(turn.data, '$.parentID')", "NULL")}
            WHERE turn.id = part.message_id
                AND {readable("said", "json_type(said.data, '$.synthetic') IS 'true'", "0")}
        )
    ELSE 0 END
"""
"""Whether a part whose JSON can be read is a person's own command."""

_PART = (
    "SELECT part.rowid AS place, part.id AS id, part.message_id AS message_id, part.session_id AS session_id,"
    " part.time_created AS created, part.time_updated AS updated, length(part.data) AS size, "
    + readable(
        "part",
        "json_extract(part.data, '$.tool', '$.callID', '$.state.status', '$.state.time.start',"
        " '$.state.input.timeout', '$.state.metadata.sessionId')",
        "NULL",
    )
    + " AS fields, "
    + readable("part", "json_type(part.data)", "NULL")
    + " AS shape, "
    + readable("part", PERSONAL, "0")
    + " AS personal"
)

_IDS = "FROM json_each(:ids) AS wanted CROSS JOIN"

OPEN_MESSAGES_OF_SESSIONS: Final = (
    f"{_MESSAGE} {_IDS} message ON message.session_id = wanted.value WHERE {_OPEN_MESSAGE}"
)
OPEN_MESSAGES: Final = f"""
    {_MESSAGE} {_IDS} message ON message.id = wanted.value WHERE {_OPEN_MESSAGE}
    UNION ALL
    {_MESSAGE} FROM message WHERE message.rowid > :after AND {_OPEN_MESSAGE}
"""
"""For some ids, and for all new rows."""
MESSAGES: Final = f"{_MESSAGE} {_IDS} message ON message.id = wanted.value"
OPEN_PARTS_OF_MESSAGES: Final = f"{_PART} {_IDS} part ON part.message_id = wanted.value WHERE {_OPEN_PART}"
OPEN_PARTS: Final = f"""
    {_PART} {_IDS} part ON part.id = wanted.value WHERE {_OPEN_PART}
    UNION ALL
    {_PART} FROM part WHERE part.rowid > :after AND {_OPEN_PART}
"""
"""For some ids, and for all new rows."""

SCHEMA_VERSION: Final = "PRAGMA schema_version"


def _seen(table: str) -> str:
    return f"""
        (SELECT id FROM {table} WHERE rowid = :{table}) AS {table}_id,
        (SELECT min(rowid) FROM {table} WHERE rowid > :{table}) AS {table}_next,
        (SELECT max(rowid) FROM {table}) AS {table}_last,
        (SELECT id FROM {table} ORDER BY rowid DESC LIMIT 1) AS {table}_last_id"""


TAILS: Final = (
    f"SELECT (SELECT data_version FROM pragma_data_version) AS version, {_seen('message')}, {_seen('part')}"
)
"""The version of the data; and for each table the row at a place, the one after it, and the last."""
NEXT: Final = {
    table: f"SELECT min(rowid) AS place FROM {table} WHERE rowid > :after" for table in ("message", "part")
}
LAST_UPTO: Final = {
    table: f"SELECT rowid AS place, id FROM {table} WHERE rowid <= :upto ORDER BY rowid DESC LIMIT 1"
    for table in ("message", "part")
}
OPEN_IN_STEP: Final = {
    "message": f"SELECT id, session_id FROM message WHERE rowid > :after AND rowid <= :upto AND {_OPEN_MESSAGE}",
    "part": f"SELECT id, session_id FROM part WHERE rowid > :after AND rowid <= :upto AND {_OPEN_PART}",
}


def _session(workspace: str, workspace_type: str) -> str:
    return (
        "SELECT session.id AS id, session.parent_id AS parent_id, session.directory AS directory,"
        f" session.time_created AS created, {workspace} AS workspace, {workspace_type} AS workspace_type"
    )


def _sessions(columns: str) -> str:
    return f"{columns} {_IDS} session ON session.id = wanted.value"


# UNION, not UNION ALL: a session that was already found is not followed again, so a cycle ends.
def _sessions_and_ancestors(columns: str) -> str:
    return f"""
    WITH RECURSIVE wanted(id) AS (
        SELECT value FROM json_each(:ids)
        UNION
        SELECT session.parent_id FROM wanted CROSS JOIN session ON session.id = wanted.id
        WHERE session.parent_id IS NOT NULL
    )
    {columns} FROM wanted CROSS JOIN session ON session.id = wanted.id
"""


CHILDREN: Final = """
    SELECT session.id AS id
    FROM json_each(:calls) AS wanted CROSS JOIN session
        ON session.parent_id = json_extract(wanted.value, '$[0]')
        AND session.time_created >= json_extract(wanted.value, '$[1]')
"""
BELOW: Final = """
    WITH RECURSIVE below(id) AS (
        SELECT session.id FROM json_each(:ids) AS wanted CROSS JOIN session ON session.parent_id = wanted.value
        UNION
        SELECT session.id FROM below CROSS JOIN session ON session.parent_id = below.id
    )
    SELECT id FROM below
"""


def _newest(role: str) -> str:
    is_role = readable("seen", f"json_extract(seen.data, '$.role') IS '{role}'", "0")
    return (
        "(SELECT seen.rowid FROM message AS seen WHERE seen.session_id = wanted.value"
        f" AND typeof(seen.time_created) IN ('integer', 'real') AND {is_role}"
        " ORDER BY seen.time_created DESC, seen.rowid DESC LIMIT 1)"
    )


NEWEST: Final = f"""
    SELECT wanted.value AS session_id, prompt.id AS prompt_id, prompt.time_created AS prompted,
        turn.id AS turn_id, turn.time_created AS turned, json_extract(turn.data, '$.time.completed') AS completed,
        (SELECT seen.id FROM message AS seen WHERE seen.session_id = wanted.value
            AND typeof(seen.time_created) IN ('integer', 'real')
            ORDER BY seen.time_created DESC, seen.rowid DESC LIMIT 1) AS message_id,
        (SELECT count(*) FROM message AS seen WHERE seen.session_id = wanted.value
            AND typeof(seen.time_created) IN ('integer', 'real')
            AND (turn.rowid IS NULL OR (seen.time_created, seen.rowid) > (turn.time_created, turn.rowid))
            AND {readable("seen", "json_extract(seen.data, '$.role') IS 'user'", "0")}) AS queued
    FROM json_each(:ids) AS wanted
    LEFT JOIN message AS prompt ON prompt.rowid = {_newest("user")}
    LEFT JOIN message AS turn ON turn.rowid = {_newest("assistant")}
"""
QUEUED: Final = f"""
    SELECT seen.id AS id
    FROM json_each(:ids) AS wanted
    LEFT JOIN message AS turn ON turn.rowid = {_newest("assistant")}
    CROSS JOIN message AS seen ON seen.session_id = wanted.value
    WHERE typeof(seen.time_created) IN ('integer', 'real')
        AND (turn.rowid IS NULL OR (seen.time_created, seen.rowid) > (turn.time_created, turn.rowid))
        AND {readable("seen", "json_extract(seen.data, '$.role') IS 'user'", "0")}
    ORDER BY seen.time_created, seen.rowid
"""
LAST_WRITTEN: Final = f"""
    SELECT part.message_id AS id, max(part.time_updated) AS updated
    {_IDS} part ON part.message_id = wanted.value
    WHERE typeof(part.time_updated) IN ('integer', 'real')
    GROUP BY part.message_id
"""

_RUNS_A_COMMAND = readable(
    "part",
    "json_extract(part.data, '$.type') IS 'tool' AND json_type(part.data, '$.state.input.command') IS 'text'",
    "0",
)
COMMAND_CALLS: Final = f"""
    SELECT part.id AS id, part.session_id AS session_id, part.time_created AS created, session.directory AS directory,
        json_extract(part.data, '$.tool', '$.state.input.command', '$.state.input.workdir', '$.state.time.end')
            AS fields,
        {readable("message", "json_extract(message.data, '$.path.cwd')", "NULL")} AS cwd, {PERSONAL} AS personal,
        {_OPEN_PART} AS is_open
    FROM json_each(:spans) AS span CROSS JOIN session
    CROSS JOIN message ON message.session_id = session.id
        AND message.time_created >= json_extract(span.value, '$[0]')
        AND message.time_created <= json_extract(span.value, '$[1]')
    CROSS JOIN part ON part.message_id = message.id
    WHERE {_RUNS_A_COMMAND} AND typeof(part.time_created) IN ('integer', 'real')
        AND typeof(session.directory) = 'text'
"""
"""The calls that run a command, in the turns that began within some spans of time."""

DIRECTORIES: Final = (
    "SELECT session.directory AS directory FROM session"
    " WHERE session.time_updated >= :since_ms AND typeof(session.directory) = 'text'"
    " GROUP BY session.directory ORDER BY max(session.time_updated) DESC, max(session.rowid) DESC"
)
TITLES: Final = (
    f"SELECT session.id AS id, substr(session.title, 1, 300) AS title {_IDS} session ON session.id = wanted.value"
    " WHERE typeof(session.title) = 'text'"
)
MESSAGE_EXISTS: Final = "SELECT 1 AS found FROM message WHERE message.id = :id AND message.session_id = :session"
WHOLE_PARTS: Final = (
    "SELECT 'part' AS kind, part.id AS id, part.message_id AS message_id, part.session_id AS session_id,"
    f" part.time_created AS created, part.time_updated AS updated, part.data AS data {_IDS} part"
    " ON part.id = wanted.value WHERE typeof(part.data) = 'text'"
)
WHOLE_MESSAGES: Final = (
    "SELECT 'message' AS kind, message.id AS id, message.id AS message_id, message.session_id AS session_id,"
    " message.time_created AS created, message.time_updated AS updated, message.data AS data"
    f" {_IDS} message ON message.id = wanted.value WHERE typeof(message.data) = 'text'"
)
PARTS_OF_MESSAGES: Final = WHOLE_PARTS.replace("part.id = wanted.value", "part.message_id = wanted.value")
GUARDED_UPDATE: Final = {
    "part": "UPDATE part SET data = :after WHERE id = :id AND data = :observed",
    "message": "UPDATE message SET data = :after WHERE id = :id AND data = :observed",
}
READS: Final = {
    table: f"SELECT 1 AS found FROM {table} WHERE {table}.id = :id AND {table}.data = :data"
    for table in ("message", "part")
}
STANDS: Final = {
    "message": f"{READS['message']} AND message.session_id = :session AND message.id = :message",
    "part": f"{READS['part']} AND part.session_id = :session AND part.message_id = :message",
}
"""The same, for a row that belongs where it did."""
TRIGGERS: Final = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"

COLUMNS_FOUND: Final = (
    'SELECT tables.name AS "table", columns.name AS "column"'
    " FROM sqlite_master AS tables CROSS JOIN pragma_table_info(tables.name) AS columns"
    " WHERE tables.type IN ('table', 'view')"
    " AND tables.name IN ('session', 'message', 'part', 'session_v2', 'session_message', 'workspace')"
)

_CLAIMS: Final = ("time_suspended", "execution_claimed_at")
_WORKSPACE_TYPE: Final = "(SELECT workspace.type FROM workspace WHERE workspace.id = session.workspace_id)"


def statements(tables: Mapping[str, Collection[str]]) -> Statements:
    """The queries of a look for a database with these tables and columns: older ones know nothing of workspaces."""
    has_id = "workspace_id" in tables.get("session", ())
    has_type = {"id", "type"} <= set(tables.get("workspace", ()))
    columns = _session(
        "session.workspace_id" if has_id else "NULL", _WORKSPACE_TYPE if has_id and has_type else "NULL"
    )
    return Statements(
        open_messages=OPEN_MESSAGES,
        open_messages_of_sessions=OPEN_MESSAGES_OF_SESSIONS,
        messages=MESSAGES,
        open_parts=OPEN_PARTS,
        open_parts_of_messages=OPEN_PARTS_OF_MESSAGES,
        sessions=_sessions(columns),
        sessions_and_ancestors=_sessions_and_ancestors(columns),
        below=BELOW,
        children=CHILDREN,
        newest=NEWEST,
        last_written=LAST_WRITTEN,
        second_generation=_second_generation(tables),
    )


def claims(tables: Mapping[str, Collection[str]]) -> list[str]:
    """The columns in which opencode 2.x notes that a server is at work on a session: releases differ."""
    return [column for column in _CLAIMS if column in tables.get("session_v2", ())]


def _second_generation(tables: Mapping[str, Collection[str]]) -> str | None:
    """Counts the sessions of opencode 2.x that a server has claimed."""
    claimed = " OR ".join(f"{column} IS NOT NULL" for column in claims(tables))
    return f"SELECT count(*) AS sessions FROM session_v2 WHERE {claimed}" if claimed else None
