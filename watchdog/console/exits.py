"""The exit codes."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes, as documented."""

    FINE = 0
    STUCK = 1
    USAGE = 2
    UNUSABLE = 3
    INTERNAL = 70
