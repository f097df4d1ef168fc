"""The table in which the replicas publish, as it was last read, and who of them is there."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from watchdog.ports import Clock
from watchdog.postgres.line import ASKED, CHANNEL, Line
from watchdog.postgres.publications import Publication, beginning, dump, load
from watchdog.postgres.steps import SCHEMA

GONE_SECONDS: Final = 10.0
"""From when on a replica that was not heard of is none any more."""
_AWAY_SECONDS: Final = 30.0
"""How long a replica may have been silent that a process still counts as there when it reads for the first time."""
_BREAK_SECONDS: Final = 3.0
"""Between two readings that lie further apart, nothing is known of who was there."""

_READ: Final = f"""
    SELECT extract(epoch FROM now.at)::float8 AS at, replica.name, replica.said,
        abs(extract(epoch FROM now.at - replica.seen_at))::float8 AS age_seconds
    FROM (SELECT clock_timestamp() AS at) AS now LEFT JOIN {SCHEMA}.replica ON true
"""  # noqa: S608 - names of our own
_MOMENT: Final = "SELECT extract(epoch FROM clock_timestamp())::float8 AS at"
_ASK: Final = f"{_MOMENT}, pg_notify('{CHANNEL}', $1)"
_PUBLISH: Final = f"""
    INSERT INTO {SCHEMA}.replica AS known (name, seen_at, said) VALUES ($1, to_timestamp($2), $3)
    ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, said = excluded.said
    WHERE (starts_with(known.said, $4) AND known.seen_at < excluded.seen_at)
        OR known.seen_at NOT BETWEEN clock_timestamp() - make_interval(secs => $5) AND clock_timestamp()
    RETURNING name
"""  # noqa: S608 - as above
_REMOVE: Final = f"DELETE FROM {SCHEMA}.replica WHERE name = $1 AND starts_with(said, $2)"  # noqa: S608 - as above
_SWEEP: Final = f"DELETE FROM {SCHEMA}.replica WHERE seen_at < clock_timestamp() - interval '1 day'"  # noqa: S608 - as above


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What a replica published, as it was read.

    Attributes:
        age_seconds: how long before the reading it was published, by the database's clock. A date in the future, as
            after that clock was set back, is as far off as one in the past.
        publication: None when it can't be read: it may be of another version.
    """

    name: str
    age_seconds: float
    publication: Publication | None

    @property
    def process(self) -> str:
        """Which process published it; empty when that can't be read."""
        return self.publication.process if self.publication is not None else ""


class Register:
    """Reads and writes the table. Every method that does raises `DatabaseUnavailable` when it can't.

    A replica that was there is gone once it was not heard of for a while in which this process could read: after an
    outage of the database, and when this process has only just begun to read, everybody is given the time to say
    something again.

    Args:
        clock: its running clock tells how long ago something was read.
    """

    def __init__(self, line: Line, clock: Clock) -> None:
        self._line = line
        self._clock = clock
        self._read_at: float | None = None
        self._unbroken_since = -math.inf
        self._ahead_seconds: float | None = None  # how far the database's clock is ahead of the running clock
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
        """Read every row."""
        sent = self._now()
        rows = await self._line.fetch(_READ)
        self._set_clock(rows[0]["at"], sent, self._now())
        heard = [_heard(row["name"], row["said"], row["age_seconds"]) for row in rows if row["name"] is not None]
        self.heard = {each.name: each for each in heard}
        known = self.present.keys() if self.has_read else _away(heard)
        if self.age_seconds > _BREAK_SECONDS:
            self._unbroken_since = sent
        self._read_at = sent
        unsure = sent - self._unbroken_since < GONE_SECONDS
        self.present = {
            name: each
            for name, each in self.heard.items()
            if each.age_seconds <= GONE_SECONDS or (unsure and name in known)
        }

    async def moment(self) -> float:
        """What the database's clock shows, in seconds since the epoch."""
        return await self._moment(_MOMENT)

    async def ask(self, process: str) -> float:
        """Have all others publish anew what their hosts say.

        Returns:
            What the database's clock showed before they were told.
        """
        return await self._moment(_ASK, f"{ASKED}{process}")

    def clock_ahead_seconds(self) -> float:
        """How far this process's wall clock is ahead of the database's, once something was read."""
        reading = self._clock.read()
        return reading.wall_ms / 1000 - reading.running_seconds - (self._ahead_seconds or 0.0)

    async def publish(self, name: str, publication: Publication) -> bool:
        """Publish what is said at this moment.

        Returns:
            Whether it was written down: not where something newer is, or the name is somebody else's.
        """
        if self._ahead_seconds is None:
            await self.read()
        at, said = self._now() + (self._ahead_seconds or 0.0), dump(publication)
        values = (name, at, said, beginning(publication.process), GONE_SECONDS)
        return bool(await self._line.fetch(_PUBLISH, *values))

    async def remove(self, name: str, process: str) -> None:
        """Remove what a process published."""
        await self._line.fetch(_REMOVE, name, beginning(process))

    async def sweep(self) -> None:
        """Remove what was published more than a day ago."""
        await self._line.fetch(_SWEEP)

    async def _moment(self, statement: str, *values: object) -> float:
        sent = self._now()
        at: float = (await self._line.fetch(statement, *values))[0]["at"]
        self._set_clock(at, sent, self._now())
        return at

    def _set_clock(self, at: float, sent: float, received: float) -> None:
        """Learn what the database's clock shows: it showed `at` at some moment between sending and receiving."""
        lowest, highest = at - received, at - sent
        known = lowest if self._ahead_seconds is None else self._ahead_seconds
        self._ahead_seconds = min(max(known, lowest), highest)

    def _now(self) -> float:
        return self._clock.read().running_seconds


def _away(heard: Iterable[Heard]) -> set[str]:
    return {each.name for each in heard if each.age_seconds <= _AWAY_SECONDS}


def _heard(name: str, said: str, age_seconds: float) -> Heard:
    try:
        publication = load(said)
    except ValueError:
        publication = None
    return Heard(name=name, age_seconds=age_seconds, publication=publication)
