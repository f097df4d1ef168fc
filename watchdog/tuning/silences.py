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
    heard, found = turn.began_ms, []
    for start, end in _life(turn):
        if start > heard:
            found.append(Silence(heard, start))
        heard = max(heard, end)
    return found


def longest_silence(turn: PastTurn) -> int:
    """How many milliseconds the longest silence of a turn lasted."""
    heard, longest = turn.began_ms, 0
    for start, end in _life(turn):
        longest = max(longest, start - heard)
        heard = max(heard, end)
    return longest


def _life(turn: PastTurn) -> list[tuple[int, int]]:
    """When a turn that is over showed life, in order; nothing for one that is not."""
    began, completed = turn.began_ms, turn.completed_ms
    if completed is None or completed < began:
        return []
    life = [(at, at) for at in turn.marks if began <= at <= completed]
    life += [(call.began_ms, min(call.ended_ms or completed, completed)) for call in turn.calls]
    life.append((completed, completed))
    life.sort()
    return life


def last_silence(turn: PastTurn) -> int:
    """How many milliseconds a turn was silent before it ended; 0 if it showed life until then."""
    closing = (turn.completed_ms or 0) - CLOSING_MS
    return max((each.milliseconds for each in silences(turn) if each.ended_ms >= closing), default=0)
