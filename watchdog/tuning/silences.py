"""How long a turn was silent, as far as rows show: nothing was written, and no call was open. Pure."""

from typing import Final, NamedTuple

from watchdog.model.past import PastTurn

CLOSING_MS: Final = 5_000
"""An abort may take so long to write what it closes."""


class Silence(NamedTuple):
    """A time in which rows show no life."""

    began_ms: int
    ended_ms: int

    @property
    def milliseconds(self) -> int:
        """How long it was."""
        return self.ended_ms - self.began_ms


def silences(turn: PastTurn) -> list[Silence]:
    """The silences inside a turn that is over, oldest first.

    Its beginning, its end, and each row that is written are life; so is an open call, all the time.
    """
    heard, completed = turn.began_ms, turn.completed_ms
    if completed is None or completed < heard:
        return []
    spans = [(at, at) for at in turn.marks if heard <= at <= completed]
    spans += [(call.began_ms, min(call.ended_ms or completed, completed)) for call in turn.calls]
    spans.append((completed, completed))
    spans.sort()
    found = []
    for start, end in spans:
        if start > heard:
            found.append(Silence(heard, start))
        heard = max(heard, end)
    return found


def longest_silence(turn: PastTurn) -> int:
    """How many milliseconds the longest silence of a turn lasted."""
    return max([ended - began for began, ended in silences(turn)], default=0)


def last_silence(turn: PastTurn) -> int:
    """How many milliseconds a turn was silent before it ended; 0 if it showed life until then."""
    closing = (turn.completed_ms or 0) - CLOSING_MS
    return max((each.milliseconds for each in silences(turn) if each.ended_ms >= closing), default=0)
