"""What `leftovers` prints for people."""

from collections.abc import Sequence
from typing import Final

from watchdog.judging.limits import duration
from watchdog.model.leftovers import Commands, LeftOver
from watchdog.model.outcome import Outcome
from watchdog.reporting.documents import moment
from watchdog.reporting.tables import RESULT_COLOURS, Cell, Screen
from watchdog.shown import shown, stacked

_LONGEST: Final = 160
_MEGABYTE: Final = 1_000_000


def leftovers(screen: Screen, seen: Commands, *, at_ms: int) -> None:
    """Print what is left over, the oldest first."""
    for problem in seen.problems:
        screen.line("unread", problem, "yellow")
    cells = _told if screen.fancy else _cells
    screen.rows("left over", ("pid", "age", "what, and why"), [cells(each, at_ms) for each in seen.left])
    count = sum(len(each.command.members) for each in seen.left)
    size = sum(each.command.memory_bytes for each in seen.left)
    more = f": {count} process{'' if count == 1 else 'es'}, {_megabytes(size)}" if seen.left else ""
    screen.line("summary", f"{commands(len(seen.left))} left over{more}", "bold red" if seen.left else "bold green")


def ended(screen: Screen, chosen: Sequence[LeftOver], outcomes: Sequence[Outcome]) -> None:
    """Print how it went with those that were to be ended."""
    screen.rows(
        "ended",
        ("result", "pid", "why"),
        [
            ((each.result.value, RESULT_COLOURS[each.result]), str(left.command.first.pid), each.why)
            for left, each in zip(chosen, outcomes, strict=True)
        ],
    )
    screen.line("summary", "nothing is left over that may be ended" if not chosen else _summary(outcomes), "bold")


def commands(count: int) -> str:
    """A number of commands."""
    return "1 command" if count == 1 else f"{count} commands"


def _summary(outcomes: Sequence[Outcome]) -> str:
    found: dict[str, int] = {}
    for each in outcomes:
        found[each.result.value] = found.get(each.result.value, 0) + 1
    return ", ".join(f"{count} {result}" for result, count in found.items())


def _notes(left: LeftOver) -> list[str]:
    command, call = left.command, left.call
    ports = f"listens on port {', '.join(map(str, command.listens))}"
    return [
        *([f"{call.session_id} {call.id}"] if call is not None else []),
        left.why,
        *([f"may have been started to stay: {left.stays}"] if left.stays else []),
        *([ports] if command.listens and ports not in (left.stays or "") else []),
        *(["has a file open for writing"] if command.writes else []),
        *([f"is never ended from here: {command.keep}"] if command.keep else []),
    ]


def _told(left: LeftOver, at_ms: int) -> Sequence[str | Cell]:
    """A command for a person, in 80 columns."""
    command = left.command
    more = len(command.members) - 1
    size = _megabytes(command.memory_bytes) + (f" with {more} more" if more else "")
    return (
        (str(command.first.pid), "bold"),
        stacked(duration(left.age_seconds(at_ms)), size),
        stacked(shown(command.line, longest=_LONGEST), *_notes(left)),
    )


def _cells(left: LeftOver, at_ms: int) -> Sequence[str | Cell]:
    command, call = left.command, left.call
    return (
        str(command.first.pid),
        moment(command.born_ms),
        duration(left.age_seconds(at_ms)),
        _megabytes(command.memory_bytes),
        str(len(command.members)),
        str(command.opencode_pid),
        "-" if call is None else call.session_id,
        "-" if call is None else call.id,
        shown(command.line, longest=_LONGEST),
        "; ".join(_notes(left)[0 if call is None else 1 :]),
    )


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.0f} MB"
