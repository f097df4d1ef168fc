"""What `leftovers` prints as JSON."""

from collections.abc import Sequence
from typing import Any, Literal

from watchdog.model import leftovers, outcome
from watchdog.reporting.documents import VERSION, Moment, Rounded, Shape, Step, Text


class LeftOver(Shape):
    """A command that is left over."""

    pid: int
    born_at: Moment
    command: Text
    opencode_pid: int
    session_id: Text | None
    part_id: Text | None
    why: Text
    age_seconds: Rounded
    memory_bytes: int
    pids: list[int]
    ports: list[int]
    writes: bool
    stays: Text | None
    keep: Text | None


class LeftOvers(Shape):
    """What `leftovers --json` prints."""

    version: Literal[1] = VERSION
    leftovers: list[LeftOver]
    problems: list[Text]


class Ended(Shape):
    """How it went with one command."""

    pid: int
    session_id: Text | None
    part_id: Text | None
    result: Text
    why: Text
    steps: list[Step]


class EndedOnes(Shape):
    """What `leftovers --end --json` prints."""

    version: Literal[1] = VERSION
    ended: list[Ended]


def leftovers_document(seen: leftovers.Commands, *, at_ms: int) -> dict[str, Any]:
    """What `leftovers --json` prints."""
    return LeftOvers.told({"leftovers": [_told(each, at_ms) for each in seen.left], "problems": [*seen.problems]})


def _told(left: leftovers.LeftOver, at_ms: int) -> dict[str, Any]:
    command = left.command
    return {
        "pid": command.first.pid,
        "born_at": command.born_ms,
        "command": command.line,
        "opencode_pid": command.opencode_pid,
        **_whose(left),
        "why": left.why,
        "age_seconds": left.age_seconds(at_ms),
        "memory_bytes": command.memory_bytes,
        "pids": [each.pid for each in command.members],
        "ports": [*command.listens],
        "writes": command.writes,
        "stays": left.stays,
        "keep": command.keep,
    }


def _whose(left: leftovers.LeftOver) -> dict[str, Any]:
    call = left.call
    return {
        "session_id": None if call is None else call.session_id,
        "part_id": None if call is None else call.id,
    }


def ended_document(chosen: Sequence[leftovers.LeftOver], outcomes: Sequence[outcome.Outcome]) -> dict[str, Any]:
    """What `leftovers --end --json` prints."""
    return EndedOnes.told(
        {
            "ended": [
                {
                    "pid": left.command.first.pid,
                    **_whose(left),
                    "result": each.result.value,
                    "why": each.why,
                    "steps": each.steps,
                }
                for left, each in zip(chosen, outcomes, strict=True)
            ]
        }
    )
