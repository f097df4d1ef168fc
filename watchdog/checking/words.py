"""The line that `check` ends with."""

from collections.abc import Sized


def in_one_line(problems: Sized, warnings: Sized) -> str:
    """The state in one line."""
    warned = _count(len(warnings), "warning")
    if problems:
        beside = f" and {warned}" if warnings else ""
        return f"not usable: {_count(len(problems), 'problem')}{beside} above"
    return f"usable, with {warned} above" if warnings else "usable"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
