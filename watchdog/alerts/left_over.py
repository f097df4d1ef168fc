"""Messages about commands that outlived their opencode or their call."""

from collections.abc import Callable, Iterable
from typing import Final

from watchdog.alerts.alert import Alert, Severity
from watchdog.errors import WatchdogError
from watchdog.model.leftovers import LeftOver
from watchdog.ports import Clock, Processes
from watchdog.settings.receivers import Occasion
from watchdog.shown import stacked

_MOST_NAMED: Final = 10


class LeftOvers:
    """What is left over: one message for each command, once two looks have seen it."""

    def __init__(self) -> None:
        self._seen: frozenset[tuple[int, int]] = frozenset()
        self._told: frozenset[tuple[int, int]] = frozenset()

    def look(self, left: Iterable[LeftOver]) -> Alert | None:
        """The message after a look, if there is one."""
        now = {each.identity: each for each in left}
        due = sorted((self._seen & now.keys()) - self._told)
        self._told = (self._told & now.keys()) | {*due}
        self._seen = frozenset(now)
        return _about([now[identity] for identity in due]) if due else None


def _about(left: list[LeftOver]) -> Alert:
    named = [f"pid {each.command.first.pid}: {each.why}" for each in left[:_MOST_NAMED]]
    more = [f"and {len(left) - len(named)} more"] if len(left) > len(named) else []
    outlived = f"{len(left)} commands outlived" if len(left) > 1 else "a command outlived"
    return Alert(
        title=f"{outlived} what started {'them' if len(left) > 1 else 'it'}",
        body=stacked(*named, *more, "opencode-watchdog leftovers"),
        severity=Severity.INFO,
        occasion=Occasion.LEFTOVERS,
    )


async def watch_left_overs(
    processes: Processes, tell: Callable[[Alert], None], *, clock: Clock, every_seconds: float
) -> None:
    """Look every now and then, until it is cancelled, and tell."""
    known = LeftOvers()
    while True:
        try:
            alert = known.look((await processes.look(to_tell=True)).left)
        except WatchdogError:  # the loop, which reads the same database, reports it
            alert = None
        if alert is not None:
            tell(alert)
        await clock.sleep(every_seconds)
