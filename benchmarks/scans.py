"""What a watchdog without memory does at each tick: the baselines, in plain `sqlite3`."""

import sqlite3
from contextlib import closing
from pathlib import Path

OPEN_CALLS = """
SELECT id FROM part WHERE json_extract(data, '$.type') = 'tool'
AND json_extract(data, '$.state.status') IN ('pending', 'running')
"""
OPEN_CALLS_OF_SESSION = f"{OPEN_CALLS} AND session_id = ?"
OPEN_TURNS = """
SELECT id, session_id FROM message WHERE json_extract(data, '$.role') = 'assistant'
AND json_extract(data, '$.time.completed') IS NULL
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


async def scan_parts(connection: sqlite3.Connection) -> list[str]:
    """The open calls, found by reading every part: what a cron script does."""
    return [row[0] for row in connection.execute(OPEN_CALLS)]


async def scan_sessions(connection: sqlite3.Connection) -> list[str]:
    """The open calls, found session by session: what a watchdog inside the server does."""
    sessions = connection.execute("SELECT id FROM session WHERE time_archived IS NULL").fetchall()
    return [row[0] for session in sessions for row in connection.execute(OPEN_CALLS_OF_SESSION, session)]


async def scan_messages(connection: sqlite3.Connection) -> list[str]:
    """The open turns, found by reading every message."""
    return [row[0] for row in connection.execute(OPEN_TURNS)]


async def scan_messages_anew(path: Path) -> list[str]:
    """The same on a connection that has nothing in its cache."""
    with closing(connect(path)) as connection:
        return await scan_messages(connection)
