"""What a person's request may fail of, by the name and the status that the HTTP API has for it."""

from collections.abc import Sequence
from typing import Final

from watchdog.errors import (
    Busy,
    DatabaseError,
    DryRun,
    JournalOff,
    JournalUnusable,
    NoSuchIntervention,
    NoSuchMessage,
    NoSuchSession,
    NotActing,
    ServerError,
    UsageError,
    WatchdogError,
)

OF_ERRORS: Final[Sequence[tuple[type[WatchdogError], str, int]]] = (
    (NoSuchSession, "no-such-session", 404),
    (NoSuchMessage, "no-such-message", 404),
    (NoSuchIntervention, "no-such-intervention", 404),
    (JournalOff, "no-journal", 409),
    (DryRun, "dry-run", 409),
    (NotActing, "not-acting", 409),
    (Busy, "busy", 503),
    (UsageError, "invalid-request", 422),
    (DatabaseError, "database-unusable", 503),
    (JournalUnusable, "journal-unusable", 503),
    (ServerError, "server-unusable", 503),
)
"""The narrowest first: the first that an error is an instance of is its own."""
