"""Which replicas are there, by the watchdog's own tables: for a person who checks the set-up, without taking part."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.errors import DatabaseUnavailable
from watchdog.postgres.connection import STATEMENT_SECONDS, place_of, transaction, translated
from watchdog.postgres.steps import SCHEMA
from watchdog.replicas import standards
from watchdog.replicas.register import GONE_SECONDS

_THERE: Final = f"SELECT to_regclass('{SCHEMA}.lease') IS NOT NULL AND to_regclass('{SCHEMA}.replica') IS NOT NULL"
_TOLD: Final = f"SELECT to_regclass('{SCHEMA}.standard') IS NOT NULL"
_ACTING: Final = f"SELECT holder FROM {SCHEMA}.lease WHERE expires_at > clock_timestamp()"  # noqa: S608 - names of our own
_PRESENT: Final = f"""
    SELECT name FROM {SCHEMA}.replica
    WHERE seen_at > clock_timestamp() - make_interval(secs => :seconds) ORDER BY name
"""  # noqa: S608 - as above


@dataclass(frozen=True, kw_only=True, slots=True)
class Roll:
    """Who is there.

    Attributes:
        acting: the name of the replica that has the lease.
        present: the names of all that gave a sign lately.
        disagreements: the limits by which they would judge, if they differ: see `standards`.
    """

    acting: str | None = None
    present: tuple[str, ...] = ()
    disagreements: tuple[str, ...] = ()


async def roll(engine: AsyncEngine) -> Roll:
    """Read it.

    Raises:
        DatabaseUnavailable: it can't be read.
    """
    with translated(place_of(engine.url), DatabaseUnavailable):
        async with transaction(engine, seconds=STATEMENT_SECONDS, postgresql_readonly=True) as connection:
            if not (await connection.execute(text(_THERE))).scalar_one():
                return Roll()
            acting = (await connection.execute(text(_ACTING))).scalar_one_or_none()
            present = tuple((await connection.execute(text(_PRESENT), {"seconds": GONE_SECONDS})).scalars())
            told = (await connection.execute(text(_TOLD))).scalar_one()
            rows = (await connection.execute(text(standards.READ))).all() if told else []
            limits = {row.name: standards.read(row.limits) for row in rows if row.name in present}
            return Roll(acting=acting, present=present, disagreements=tuple(standards.disagreements(limits)))
