"""A log of the lease's terms that the database itself writes, and what must be true of it."""

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from tests.support.postgres import Cluster

_LOG: Final = (
    """
    CREATE TABLE terms (
        id bigint GENERATED ALWAYS AS IDENTITY, term bigint, holder text, at timestamptz, expires_at timestamptz
    )
    """,
    """
    CREATE FUNCTION note_term() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.terms (term, holder, at, expires_at)
        VALUES (NEW.term, NEW.holder, clock_timestamp(), NEW.expires_at);
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER note_term AFTER UPDATE ON opencode_watchdog.lease FOR EACH ROW EXECUTE FUNCTION public.note_term()
    """,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """The lease's row after one committed change, and when that was, by the database's clock."""

    term: int
    holder: str
    at: datetime
    expires_at: datetime


class Terms:
    """What became of the lease of a database, which has the watchdog's tables already.

    Args:
        cluster: where the database is.
        url: of the database.

    Attributes:
        database: its name.
    """

    def __init__(self, cluster: Cluster, url: str) -> None:
        self._cluster = cluster
        self.database = url.rpartition("/")[2]
        for statement in _LOG:
            cluster.run(statement, database=self.database)

    def notes(self) -> list[Note]:
        """All changes, in the order in which the row was locked. What was given back ran out at the epoch."""
        rows = self._cluster.run(
            "SELECT term, holder, at, greatest(expires_at, 'epoch') AS expires_at FROM terms ORDER BY id",
            database=self.database,
        )
        return [Note(**row) for row in rows]

    def term(self) -> int:
        """The newest term, run out or not."""
        return int(self._cluster.run("SELECT term FROM opencode_watchdog.lease", database=self.database)[0][0])

    def holder(self) -> tuple[str, int] | None:
        """Who has it now, and the term; None when nobody has it."""
        row = self._cluster.run(
            "SELECT holder, term FROM opencode_watchdog.lease WHERE expires_at > clock_timestamp()",
            database=self.database,
        )
        return (row[0]["holder"], row[0]["term"]) if row else None

    def change(self, change: str) -> None:
        """Change the row by hand. Nobody may have it locked."""
        self._cluster.run(f"UPDATE opencode_watchdog.lease SET {change}", database=self.database)  # noqa: S608 - a test's own

    def run_out(self) -> None:
        """Let it run out now, as if time had passed."""
        self.change("expires_at = clock_timestamp()")

    def waiting(self) -> int:
        """How many connections wait for a lock."""
        found = self._cluster.run(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'", self.database
        )
        return int(found[0][0])

    def check(self) -> None:
        """No term was given twice, none begins before the one before it is over, and none is revived."""
        notes = self.notes()
        for before, after in pairwise(notes):
            if after.term == before.term:
                assert after.holder == before.holder, (before, after)
                assert after.at < before.expires_at or after.expires_at <= after.at, (before, after)
            else:
                assert after.term == before.term + 1, (before, after)
                assert after.at >= before.expires_at, (before, after)
