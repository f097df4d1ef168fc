"""What lies open in the history, and when it stopped. Pure.

The rows do not say that a server was restarted. They say when something was last written, and when the next turn
began anywhere: what stopped together stopped in between.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from watchdog.model.report import Holders
from watchdog.tuning.tally import LeftOpen

TOGETHER_MS: Final = 60_000
"""What was last written within such a time of each other may have stopped for the same reason."""


class Amount(NamedTuple):
    """How many calls and turns are open, in how many sessions."""

    calls: int
    turns: int
    sessions: int

    @classmethod
    def of(cls, left: Sequence[LeftOpen]) -> "Amount":
        """The sum of some."""
        sessions = len({each.session_id for each in left})
        return cls(sum(each.calls for each in left), sum(each.is_open for each in left), sessions)


class Stop(NamedTuple):
    """What stopped at about the same time.

    Attributes:
        last_ms: when the last of it was last written.
        next_turn_ms: when the next turn began anywhere after that; None if none did.
    """

    amount: Amount
    last_ms: int
    next_turn_ms: int | None


class Leftovers(NamedTuple):
    """What is open.

    Attributes:
        orphans: what nobody executes.
        perhaps: what a process that has the database open may be at work on.
        since_ms: when the oldest orphan began.
        stops: when the orphans stopped, the oldest first.
    """

    orphans: Amount
    perhaps: Amount
    since_ms: int | None
    stops: tuple[Stop, ...]


def leftovers(left: Iterable[LeftOpen], begun: Sequence[int], holders: Holders, *, margin_ms: float) -> Leftovers:
    """Tell the orphans from what may be at work.

    Args:
        left: what is open, the oldest last written first.
        begun: when turns began, in order.
        holders: who has the database open.
        margin_ms: a process can't be at work on what began so long before its birth.
    """
    orphans: list[LeftOpen] = []
    perhaps: list[LeftOpen] = []
    for each in left:
        at_work = not holders.complete or any(known.born_ms <= each.began_ms + margin_ms for known in holders.known)
        (perhaps if each.newest and at_work else orphans).append(each)
    return Leftovers(
        orphans=Amount.of(orphans),
        perhaps=Amount.of(perhaps),
        since_ms=min((each.began_ms for each in orphans), default=None),
        stops=tuple(_stop(group, begun) for group in _together(orphans)),
    )


def _together(left: Sequence[LeftOpen]) -> list[list[LeftOpen]]:
    groups: list[list[LeftOpen]] = []
    for each in left:
        if groups and each.last_ms - groups[-1][-1].last_ms <= TOGETHER_MS:
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def _stop(group: Sequence[LeftOpen], begun: Sequence[int]) -> Stop:
    last = group[-1].last_ms
    place = bisect_right(begun, last)
    return Stop(Amount.of(group), last, begun[place] if place < len(begun) else None)
