"""Whether an unknown name in the environment is one of the settings, misspelt, or nobody's business. Pure.

Docker's links and Kubernetes' services put variables of their own into the environment, and their names begin with
the name of a container: `OPENCODE_WATCHDOG_PORT_4097_TCP`. Those stop nothing. A misspelt setting does: otherwise
people would believe that its limit holds.
"""

import re
from collections.abc import Collection
from typing import Final

_OF_A_CONTAINER: Final = re.compile(
    r"(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT(?:_(?:START|END))?|"
    r"PROTO))?)?|ENV_\w+|NAME)"
)
_UNITS: Final = {
    "s", "sec", "secs", "second", "seconds", "ms", "millis", "milliseconds", "m", "min", "mins", "minutes", "h",
    "hours", "url", "urls", "uri", "path", "file", "list", "address", "addr", "value", "enabled",
}  # fmt: skip
"""Suffixes that people add to the name of a setting."""
_SHORT: Final = 5


def likeness(name: str, names: Collection[str]) -> str | None:
    """The setting that a name is, misspelt: in its letters' case, its underscores, its words' order, a letter or two.

    Args:
        name: what follows the prefix in the variable's name.
        names: the settings.
    """
    wanted = name.lower().replace("-", "_")
    distance, nearest = min((_distance(_bare(wanted), _bare(known)), known) for known in names)
    if distance and _OF_A_CONTAINER.fullmatch(name):
        return None
    if distance <= (1 if len(_bare(nearest)) <= _SHORT else 2):
        return nearest
    words = sorted(filter(None, wanted.split("_")))
    for known in names:
        if words == sorted(known.split("_")):
            return known
    head, _, last = wanted.rpartition("_")
    return likeness(head, names) if head and last in _UNITS else None


def _bare(name: str) -> str:
    return name.replace("_", "")


def _distance(one: str, other: str) -> int:
    """How many letters to add, leave out, change, or swap with the next."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for line, letter in enumerate(one, 1):
        two_before, before, row = before, row, [line]
        for column, wanted in enumerate(other, 1):
            cost = min(before[column] + 1, row[-1] + 1, before[column - 1] + (letter != wanted))
            swapped = line > 1 and column > 1 and letter == other[column - 2] and one[line - 2] == wanted
            row.append(min(cost, two_before[column - 2] + 1) if swapped else cost)
    return row[-1]
