"""The limits by which each replica would judge: published once, and compared, since the leader goes by its own."""

import json
from collections.abc import Mapping
from typing import Final

from watchdog.console.logger import logger
from watchdog.postgres.line import Line
from watchdog.postgres.steps import SCHEMA

# ruff: noqa: S608 - names of our own

Limits = Mapping[str, str]
"""The settings by which a replica judges, each in words."""

_PUBLISH: Final = f"""
    INSERT INTO {SCHEMA}.standard (process, limits) VALUES ($1, $2)
    ON CONFLICT (process) DO UPDATE SET limits = excluded.limits
"""
READ: Final = f"""
    SELECT replica.name, standard.process, standard.limits FROM {SCHEMA}.replica
    JOIN {SCHEMA}.standard ON starts_with(replica.said, '{{"process": "' || standard.process || '"')
    ORDER BY replica.name
"""


class Standards:
    """Publishes this replica's, and logs once whose differ.

    Args:
        process: this one.
        limits: the limits by which it judges.
    """

    def __init__(self, line: Line, *, process: str, limits: Limits) -> None:
        self._line = line
        self._process = process
        self._limits = limits
        self._told: set[str] = set()

    async def publish(self) -> None:
        """Publish them.

        Raises:
            DatabaseUnavailable: they can't be.
        """
        await self._line.fetch(_PUBLISH, self._process, json.dumps(dict(self._limits)))

    async def compare(self) -> None:
        """Warn about replicas that would judge by other limits than this one, which acts.

        Raises:
            DatabaseUnavailable: they can't be read.
        """
        for row in await self._line.fetch(READ):
            if row["process"] not in self._told and (differs := difference(self._limits, read(row["limits"]))):
                self._told.add(row["process"])
                logger().warning("replicas.limits_differ", replica=row["name"], differs=", ".join(differs))


def read(limits: str) -> dict[str, str]:
    """From the stored form, perhaps of another version; None if it can't be read."""
    try:
        return {str(name): str(value) for name, value in json.loads(limits).items()}
    except (ValueError, AttributeError):
        return {}


def difference(here: Limits, there: Limits) -> list[str]:
    """The settings that both know and that differ."""
    return [f"{name} {there[name]}, here {value}" for name, value in here.items() if there.get(name, value) != value]


def disagreements(by_replica: Mapping[str, Limits]) -> list[str]:
    """A clause for each setting that differs among those who know it: which replicas have which value."""
    found: dict[str, dict[str, list[str]]] = {}
    for replica, limits in by_replica.items():
        for name, value in limits.items():
            found.setdefault(name, {}).setdefault(value, []).append(replica)
    return [
        f"{name} is " + ", ".join(f"{value} for {' and '.join(who)}" for value, who in values.items())
        for name, values in found.items()
        if len(values) > 1
    ]
