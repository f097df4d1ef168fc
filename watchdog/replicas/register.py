"""The tables in which the replicas publish, as last read, and which replicas are there.

A replica's claims are rows of their own, so only changed ones are written and read. They belong to an edition of its
process, whose revision grows with each change; a reader that knows it up to one revision reads the newer rows. If a
process is not sure how its last change ended, or most of an edition is over, it begins a new one.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from watchdog.ports import Clock
from watchdog.postgres.line import ASKED, CHANNEL, Line
from watchdog.postgres.steps import SCHEMA
from watchdog.replicas.publications import Claims, Publication, beginning, dump, load, merged

GONE_SECONDS: Final = 10.0
"""After this silence a replica no longer counts."""
_AWAY_SECONDS: Final = 30.0
"""How long a replica may have been silent and still count for a process that reads for the first time."""
_BREAK_SECONDS: Final = 5.0
"""Between two readings that lie further apart, nobody knows who was there."""
_MOST_NAMED: Final = 200
"""How many processes fit into a notification, of less than 8,000 bytes."""

_UNREAD: Final = "Its claims can't be read: the replicas may be of different versions."

_READ: Final = f"""
    SELECT extract(epoch FROM now.at)::float8 AS at, replica.name, replica.said,
        abs(extract(epoch FROM now.at - replica.seen_at))::float8 AS age_seconds,
        NULL AS edition, NULL::bigint AS revision, NULL::bigint AS known, NULL AS changes
    FROM (SELECT clock_timestamp() AS at) AS now LEFT JOIN {SCHEMA}.replica ON true
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, edition.edition, edition.revision, known.revision, coalesce((
        SELECT json_object_agg(claim.session_id, claim.said)::text FROM {SCHEMA}.claim
        WHERE claim.edition = edition.edition AND claim.revision > coalesce(known.revision, -1)
    ), '{{}}')
    FROM {SCHEMA}.edition
    LEFT JOIN unnest($1::text[], $2::bigint[]) AS known (edition, revision)
        ON known.edition = edition.edition AND known.revision <= edition.revision
    WHERE known.revision IS DISTINCT FROM edition.revision
"""  # noqa: S608 - names of our own
_MOMENT: Final = "SELECT extract(epoch FROM clock_timestamp())::float8 AS at"
_ASK: Final = f"{_MOMENT}, pg_notify('{CHANNEL}', $1)"
_PUBLISH: Final = f"""
    WITH published AS (
        INSERT INTO {SCHEMA}.replica AS known (name, seen_at, said) VALUES ($1, to_timestamp($2), $3)
        ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, said = excluded.said
        WHERE (starts_with(known.said, $4) AND known.seen_at < excluded.seen_at)
            OR known.seen_at NOT BETWEEN clock_timestamp() - make_interval(secs => $5) AND clock_timestamp()
        RETURNING name
    ), continued AS (
        SELECT edition FROM {SCHEMA}.edition WHERE edition = $7 AND revision = $8::bigint
    ), changed AS (
        INSERT INTO {SCHEMA}.edition (edition, process, revision)
        SELECT $7, $6::text, $9::bigint FROM published WHERE $9 <> $8 AND ($8 < 0 OR EXISTS (SELECT FROM continued))
        ON CONFLICT (edition) DO UPDATE SET revision = excluded.revision
        RETURNING edition
    ), said AS (
        INSERT INTO {SCHEMA}.claim (edition, session_id, revision, said)
        SELECT changed.edition, new.key, $9, new.value FROM changed, json_each($10::json) AS new
        ON CONFLICT (edition, session_id) DO UPDATE SET revision = excluded.revision, said = excluded.said
    )
    SELECT name FROM published WHERE EXISTS (SELECT FROM changed) OR ($8 = $9 AND EXISTS (SELECT FROM continued))
"""  # noqa: S608 - as above
_FORGET: Final = f"DELETE FROM {SCHEMA}.edition WHERE process = $1 AND edition <> $2"  # noqa: S608 - as above
_REMOVE: Final = f"""
    WITH claims AS (DELETE FROM {SCHEMA}.edition WHERE process = $3),
        standards AS (DELETE FROM {SCHEMA}.standard WHERE process = $3)
    DELETE FROM {SCHEMA}.replica WHERE name = $1 AND starts_with(said, $2)
"""  # noqa: S608 - as above
_SWEEP: Final = f"DELETE FROM {SCHEMA}.replica WHERE seen_at < clock_timestamp() - interval '1 day'"  # noqa: S608 - as above
_SWEEP_LEFT: Final = tuple(
    f"""
    DELETE FROM {SCHEMA}.{table} AS old WHERE NOT EXISTS (
        SELECT FROM {SCHEMA}.replica WHERE starts_with(said, '{{"process": "' || old.process || '"')
    )
    """  # noqa: S608 - as above
    for table in ("edition", "standard")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """A replica's publication, as it was read.

    Attributes:
        age_seconds: how long before the reading it was published, by the database's clock. A date in the future,
            after that clock was set back, is as far off as one in the past.
        publication: with its claims; None if it can't be read: it may be of another version.
    """

    name: str
    age_seconds: float
    publication: Publication | None

    @property
    def process(self) -> str:
        """Which process published it; empty if that can't be read."""
        return self.publication.process if self.publication is not None else ""


class Register:
    """Reads and writes the table. Every method that does raises `DatabaseUnavailable` if it can't.

    A replica is gone if it was silent for a while in which this process could read: after an outage of the database,
    and when this process has just begun to read, everybody gets the time to say something again.

    Args:
        clock: its running clock says how long ago something was read.
    """

    def __init__(self, line: Line, clock: Clock) -> None:
        self._line = line
        self._clock = clock
        self._read_at: float | None = None
        self._unbroken_since = -math.inf
        self._ahead_seconds: float | None = None  # how far the database's clock is ahead of the running clock
        self._editions: dict[str, tuple[int, Claims | None]] = {}  # None for claims that can't be read
        self.heard: Mapping[str, Heard] = {}
        """Every row, by name, as last read."""
        self.present: Mapping[str, Heard] = {}
        """The replicas that are there, by name, this one among them."""

    @property
    def age_seconds(self) -> float:
        """How long ago the last reading began; endless before the first one."""
        return math.inf if self._read_at is None else self._now() - self._read_at

    @property
    def has_read(self) -> bool:
        """Whether it was ever read."""
        return self._read_at is not None

    async def read(self) -> None:
        """Read every replica, and which of the claims changed."""
        sent = self._now()
        known = {edition: revision for edition, (revision, _) in self._editions.items()}
        rows = await self._line.fetch(_READ, list(known), list(known.values()))
        self._set_clock(next(row["at"] for row in rows if row["at"] is not None), sent, self._now())
        for row in rows:
            if row["edition"] is not None:
                await self._learn(row)
        heard = [self._heard(row) for row in rows if row["name"] is not None]
        there = {each.publication.edition for each in heard if each.publication is not None}
        self._editions = {edition: found for edition, found in self._editions.items() if edition in there}
        self.heard = {each.name: each for each in heard}
        before = self.present.keys() if self.has_read else _away(heard)
        if self.age_seconds > _BREAK_SECONDS:
            self._unbroken_since = sent
        self._read_at = sent
        unsure = sent - self._unbroken_since < GONE_SECONDS
        self.present = {
            name: each
            for name, each in self.heard.items()
            if each.age_seconds <= GONE_SECONDS or (unsure and name in before)
        }

    async def moment(self) -> float:
        """The reading of the database's clock, in seconds since the epoch."""
        return await self._moment(_MOMENT)

    async def ask(self, process: str, others: Collection[str]) -> float:
        """Make some others ask their hosts and publish again.

        Args:
            process: this one.
            others: theirs. If there are too many to name, all are asked.

        Returns:
            The reading of the database's clock before they were told.
        """
        named = sorted(set(others)) if len(set(others)) <= _MOST_NAMED else []
        return await self._moment(_ASK, " ".join([f"{ASKED}{process}", *named]))

    def clock_ahead_seconds(self) -> float:
        """How far this process's wall clock is ahead of the database's, once something was read."""
        reading = self._clock.read()
        return reading.wall_ms / 1000 - reading.running_seconds - (self._ahead_seconds or 0.0)

    async def publish(self, name: str, publication: Publication, changes: str, *, after: int) -> bool:
        """Publish the current answer.

        Args:
            changes: to the claims; see `publications.merged`.
            after: the revision that they change; -1 if the edition begins.

        Returns:
            Whether it was written: it is not if there is something newer, if the name is somebody else's, or if the
            edition is not at that revision.
        """
        if self._ahead_seconds is None:
            await self.read()
        at, said, process = self._now() + (self._ahead_seconds or 0.0), dump(publication), publication.process
        values = (name, at, said, beginning(process), GONE_SECONDS, process)
        return bool(
            await self._line.fetch(_PUBLISH, *values, publication.edition, after, publication.revision, changes)
        )

    async def forget(self, process: str, *, but: str) -> None:
        """Remove the claims of a process in all of its editions but one."""
        await self._line.fetch(_FORGET, process, but)

    async def remove(self, name: str, process: str) -> None:
        """Remove what a process published."""
        await self._line.fetch(_REMOVE, name, beginning(process), process)

    async def sweep(self) -> None:
        """Remove publications of more than a day ago, and the remains of replicas that are no longer there."""
        for statement in (_SWEEP, *_SWEEP_LEFT):
            await self._line.fetch(statement)

    async def _learn(self, row: Any) -> None:  # noqa: ANN401 - the driver's own
        """Learn the changes of an edition since the known revision, or all of it."""
        known = self._editions[row["edition"]][1] if row["known"] is not None else Claims()
        try:
            claims = await merged(known, row["changes"]) if known is not None else None
        except ValueError:
            claims = None
        self._editions[row["edition"]] = row["revision"], claims

    def _heard(self, row: Any) -> Heard:  # noqa: ANN401 - as above
        try:
            publication = load(row["said"])
        except ValueError:
            publication = None
        if publication is not None:
            revision, claims = self._editions.get(publication.edition, (-1, None))
            saying = publication.saying
            if saying is not None and claims is not None and revision == publication.revision:
                publication = replace(publication, saying=replace(saying, claims=claims))
            elif saying is not None:
                publication = replace(publication, saying=replace(saying, problem=saying.problem or _UNREAD))
        return Heard(name=row["name"], age_seconds=row["age_seconds"], publication=publication)

    async def _moment(self, statement: str, *values: object) -> float:
        sent = self._now()
        at: float = (await self._line.fetch(statement, *values))[0]["at"]
        self._set_clock(at, sent, self._now())
        return at

    def _set_clock(self, at: float, sent: float, received: float) -> None:
        """Learn the database's clock: it showed `at` at some moment between sending and receiving."""
        lowest, highest = at - received, at - sent
        known = lowest if self._ahead_seconds is None else self._ahead_seconds
        self._ahead_seconds = min(max(known, lowest), highest)

    def _now(self) -> float:
        return self._clock.read().running_seconds


def _away(heard: Iterable[Heard]) -> set[str]:
    return {each.name for each in heard if each.age_seconds <= _AWAY_SECONDS}
