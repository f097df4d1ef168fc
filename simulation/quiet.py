"""Quiet weeks and months: nights, weekends, an idle server, a question that waits for days; slow faults."""

import math
import random
from dataclasses import replace
from typing import Final

from simulation.script import Event, Script
from simulation.writing import ANY, DAY, Writer

LOOKS: Final = 30_000
"""About how often a quiet world is looked at: the longer the `poll_interval`, the longer it lasts."""
_SHORTEST_POLL, _LONGEST_POLL = 5.0, 600.0
_AWAKE_HOURS: Final = {"laptop": 9.0, "evenings": 2.0}
"""How long a laptop is open on each day on which it is used."""
_DAYS_A_WEEK: Final = {"laptop": 5, "evenings": 7}
_VISITS_AN_HOUR: Final = {"evenings": 1.0, "laptop": 0.4, "server": 0.05, "waiting": 0.02}
_PER_MILLION: Final = 1e-6


def quiet_days(seed: int) -> float:
    """How many days of the calendar the quiet world of a seed lasts among many."""
    return _Quiet(seed, 1.0).days


def write_quiet(seed: int, days: float) -> Script:
    """The quiet world of a seed.

    Args:
        days: how long it lasts, by the calendar: a laptop sleeps through most of it.
    """
    return _Quiet(seed, days).script()


class _Quiet(Writer):
    def __init__(self, seed: int, days: float) -> None:
        super().__init__(seed, days, ANY)
        rng = random.Random(f"quiet {seed}")  # noqa: S311 - a world, no secret
        self.kind = rng.choice(sorted(_VISITS_AN_HOUR))
        self.busy = _VISITS_AN_HOUR[self.kind]
        self.faulty = rng.choice([0.0, 0.02, 0.1])
        drift = rng.choice([0.0, 0.0, 20.0, -20.0, 100.0, -100.0]) * _PER_MILLION
        poll = round(math.exp(rng.uniform(math.log(_SHORTEST_POLL), math.log(_LONGEST_POLL))), 1)
        self.setting = replace(
            self.setting,
            drift=drift,
            poll=poll,
            steady=self.setting.steady and not drift,
            # The limits of people who look seldom: a limit is never passed over by a longer `poll_interval`.
            tool_timeout=rng.choice([1_800.0, 1_800.0, 3_600.0]),
            task_timeout=rng.choice([7_200.0, 14_400.0]),
            idle_timeout=rng.choice([900.0, 900.0, 1_800.0]),
            human_timeout=rng.choice([None, None, 7_200.0, DAY]),
            tool_timeouts=rng.choice([{}, {}, {"slow": 7_200.0}]),
        )
        hours = _AWAKE_HOURS.get(self.kind, 24.0) * _DAYS_A_WEEK.get(self.kind, 7)
        self.days = round(LOOKS * poll / DAY * 7 * 24 / hours, 1)
        self.end *= hours / (7 * 24)

    def _people(self) -> list[Event]:
        events = super()._people()
        if self.kind in _AWAKE_HOURS:
            events += self._nights(_AWAKE_HOURS[self.kind] * 3_600.0, _DAYS_A_WEEK[self.kind])
        elif self.kind == "waiting":
            events.append(self._question())
        return events

    def _nights(self, length: float, days_a_week: int) -> list[Event]:
        """The lid is closed at the end of each day, and after the last one of the week until Monday."""
        events: list[Event] = []
        for days in range(1, int(self.end / length) + 1):
            weekend = 0.0 if days % days_a_week else (7 - days_a_week) * DAY
            at = round(days * length - self.rng.uniform(0.0, 600.0), 3)
            events.append(Event(at, "sleep", {"seconds": DAY - length + weekend}))
        return events

    def _question(self) -> Event:
        """A question that waits for days, and is answered in the end."""
        ask = round(self.rng.uniform(0.3, 0.9) * self.end, 1)
        steps = [{"do": "calls", "calls": [{"tool": "question", "run": 1.0, "ask": ask}]}]
        place = {"plan": 0, "directory": "/project"}
        return Event(60.0, "prompt", {"session": "ses_waiting", **place, "steps": steps})
