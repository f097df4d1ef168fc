"""Between what is to be told and who is told: many messages at once become one, and quiet hours are kept."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import anyio

from watchdog.alerts.alert import Alert, Severity
from watchdog.errors import WatchdogError
from watchdog.model.session import SessionId
from watchdog.ports import Clock
from watchdog.settings.quiet import QuietHours
from watchdog.settings.receivers import Occasion
from watchdog.shown import joined, shown, stacked

FEW: Final = 3
"""So many messages for one occasion are sent one by one; more become one."""
FOLDING_SECONDS: Final = 1.0
"""How long a message waits for others."""
RESTING_SECONDS: Final = 10.0
"""How long the next one waits, at least, after many became one."""
_MOST_NAMED: Final = 10
_MOST_KEPT: Final = 500
_LOOK_SECONDS: Final = 30.0
"""How often quiet hours are looked at: the wall clock may be set, and the machine may sleep."""
_ABOUT: Final = {
    Occasion.GIVEN_UP: "what was given up",
    Occasion.DEGRADED: "what can't be used",
    Occasion.OUTCOME: "what was ended",
    Occasion.WAITING: "who waits for a person",
    Occasion.STUCK: "what is stuck",
    Occasion.LEFTOVERS: "what is left over",
}
_GRAVITY: Final = (Severity.INFO, Severity.SUCCESS, Severity.WARNING, Severity.FAILURE)

Titles = Callable[[Collection[SessionId]], Awaitable[Mapping[SessionId, str]]]


class Desk:
    """Takes messages at once, and passes them on when it is time.

    Args:
        tell: passes a message on at once; must not raise.
        titles: the titles of sessions.
        clock: waits, and says which time of the day it is.
        quiet: when nothing is passed on, by the machine's local time. What comes then is passed on afterwards.
        origin: the sender, the first words of every title.
        database: the path of opencode's database, the last line of every body.
    """

    def __init__(
        self,
        tell: Callable[[Alert], None],
        *,
        titles: Titles,
        clock: Clock,
        quiet: QuietHours | None,
        origin: str,
        database: str,
    ) -> None:
        self._tell = tell
        self._titles = titles
        self._clock = clock
        self._quiet = quiet
        self._origin = origin
        self._database = database
        self._kept: list[Alert] = []
        self._more: Counter[Occasion | None] = Counter()
        self._arrived = anyio.Event()

    def take(self, alert: Alert) -> None:
        """Keep a message until it is passed on; of very many, only their number."""
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(alert)
        else:
            self._more[alert.occasion] += 1
        self._arrived.set()

    async def run(self) -> None:
        """Pass messages on until it is cancelled."""
        while True:
            await self._arrived.wait()
            await self._clock.sleep(FOLDING_SECONDS)
            await self._wait_out_quiet_hours()
            if await self.flush():
                await self._clock.sleep(RESTING_SECONDS)

    async def flush(self) -> bool:
        """Pass on what is kept. Returns whether many became one."""
        kept, more = self._kept, self._more
        self._kept, self._more, self._arrived = [], Counter(), anyio.Event()
        messages = fold(kept, more)
        for alert in messages:
            self._tell(await self._addressed(alert))
        return len(messages) < len(kept)

    async def _wait_out_quiet_hours(self) -> None:
        while self._quiet is not None and self._quiet.covers(_local(self._clock)):
            await self._clock.sleep(_LOOK_SECONDS)

    async def _addressed(self, alert: Alert) -> Alert:
        body = joined(alert.body, stacked("", self._database))
        title = None if alert.waits is None else await self._title_of(alert.waits)
        if title:
            body = joined(stacked(f"“{title}”", ""), body)
        return replace(alert, title=f"{self._origin}: {alert.title}", body=body)

    async def _title_of(self, session_id: SessionId) -> str | None:
        try:
            return (await self._titles([session_id])).get(session_id)
        except WatchdogError:  # the message is worth more than its title; the loop reports what is wrong
            return None


def fold(kept: Sequence[Alert], more: Mapping[Occasion | None, int]) -> list[Alert]:
    """The messages to pass on: those for one occasion become one if they are more than a few."""
    by_occasion: dict[Occasion | None, list[Alert]] = {}
    for alert in kept:
        by_occasion.setdefault(alert.occasion, []).append(alert)
    folded: list[Alert] = []
    for occasion, alerts in by_occasion.items():
        count = len(alerts) + more.get(occasion, 0)
        folded += alerts if occasion is None or count <= FEW else [_one_of(occasion, alerts, count)]
    return folded


def _one_of(occasion: Occasion, alerts: Sequence[Alert], count: int) -> Alert:
    named = [f"{each.title}: {shown(each.body.partition(chr(10))[0])}" for each in alerts[:_MOST_NAMED]]
    left = count - len(named)
    return Alert(
        title=f"{count} messages about {_ABOUT[occasion]}",
        body=stacked(*named, *([f"and {left} more: opencode-watchdog status, history"] if left else [])),
        severity=_worst(alerts),
        occasion=occasion,
    )


def _worst(alerts: Iterable[Alert]) -> Severity:
    return max((each.severity for each in alerts), key=_GRAVITY.index)


def _local(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.read().wall_ms / 1000).astimezone()
