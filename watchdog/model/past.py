"""What opencode keeps of turns and calls, over or not: the history that limits are measured by."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Ending(StrEnum):
    """How a call ended, as far as its row says."""

    FINISHED = "finished"
    """By itself, with or without an error of its own."""
    ABORTED = "aborted"
    """Somebody gave up waiting: a person, or whatever aborts on a person's behalf."""
    DECLINED = "declined"
    """A person turned down the approval or the question that it waited for."""
    SETTLED = "settled"
    """Nobody executed it any more, and the watchdog closed its row."""
    OPEN = "open"
    """It did not end."""


class PastCall(NamedTuple):
    """A tool call, over or not.

    Attributes:
        began_ms: when its row was made, as the watchdog counts; or its start, where the row is younger than its end.
        ended_ms: None while it is open.
        declared_seconds: the timeout that it declares itself; 0 without one.
        child_id: the session that a task call started.
        personal: a person's own command.
    """

    id: str
    tool: str
    ending: Ending
    began_ms: int
    ended_ms: int | None
    declared_seconds: float = 0.0
    child_id: str | None = None
    personal: bool = False


class PastTurn(NamedTuple):
    """A turn, over or not.

    Attributes:
        completed_ms: None while it is open.
        aborted: it ended because somebody aborted it.
        marks: when its parts were made and last written: the life that rows show.
    """

    id: str
    session_id: str
    began_ms: int
    completed_ms: int | None
    aborted: bool
    calls: Sequence[PastCall]
    marks: Sequence[int]


class Stretch(NamedTuple):
    """Some neighbouring turns.

    Attributes:
        unreadable: how many turns and calls beside them can't be read.
    """

    turns: tuple[PastTurn, ...]
    unreadable: int
