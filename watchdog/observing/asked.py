"""The asks that may still wait for a human: the listed ones, and those of a server that is silent about them."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from watchdog.model.report import Observation
from watchdog.model.session import ServerName

Asker: TypeAlias = tuple[ServerName, str]
"""A server, and the directory under which it lists an ask."""


def still_asked(
    observation: Observation, known: Iterable[str], askers: Mapping[str, Asker]
) -> tuple[frozenset[str], Mapping[str, Asker]]:
    """The asks that may still wait, and who lists those that are listed.

    Args:
        observation: a look.
        known: the asks that were known before it.
        askers: who listed them; for asks from before a restart nobody knows.
    """
    reports = observation.reports
    listed = {ask.id: (each.name, where) for each in reports for where, asks in each.asks.items() for ask in asks}
    down = {each.name for each in reports if each.problem is not None}
    silent = {(each.name, where) for each in reports for where in each.problems}

    def is_kept(id_: str) -> bool:
        asker = askers.get(id_)
        if asker is None:
            return bool(down or silent)
        return asker[0] in down or asker in silent

    return frozenset([*listed, *filter(is_kept, known)]), listed
