"""What `check` leads with, and what it ends with."""

from collections.abc import Sized
from typing import Protocol

from watchdog.reporting.tables import Screen

UNCHANGED = "default"
"""Where a setting comes from that nobody gave."""


class Findings(Protocol):
    """What every `check` finds: the settings as name, value and source, and what is wrong, in sentences."""

    settings: list[tuple[str, str, str]]
    warnings: list[str]
    problems: list[str]


def lead(screen: Screen, found: Findings) -> None:
    """Say what is wrong and what to do, before anything else."""
    for problem in found.problems:
        screen.line("problem", problem, "red")
    for warning in found.warnings:
        screen.line("warning", warning, "yellow")


def close(screen: Screen, found: Findings, *, settings: bool) -> None:
    """Show the settings that somebody gave, or each of them, and the state in one line."""
    screen.rows(
        "settings",
        ("setting", "value", "from"),
        [row for row in found.settings if settings or row[-1] != UNCHANGED],
    )
    summary = in_one_line(found.problems, found.warnings)
    screen.line("summary", summary, "bold red" if found.problems else "bold green")


def in_one_line(problems: Sized, warnings: Sized) -> str:
    """The state in one line."""
    warned = _count(len(warnings), "warning")
    if problems:
        beside = f" and {warned}" if warnings else ""
        return f"not usable: {_count(len(problems), 'problem')}{beside} above"
    return f"usable, with {warned} above" if warnings else "usable"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
