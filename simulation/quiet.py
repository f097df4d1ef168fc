"""Quiet weeks: nights, weekends, an idle server, one question that waits for days; and what goes wrong slowly."""

import random
from dataclasses import replace
from typing import Final

from simulation.script import Event, Script
from simulation.writing import ANY, DAY, Writer

AWAKE_HOURS: Final = 9
"""How long a laptop is open on a working day."""
_NIGHT_SECONDS: Final = DAY - AWAKE_HOURS * 3_600.0
_WORKING_DAYS: Final = 5
_VISITS_AN_HOUR: Final = {"laptop": 0.4, "server": 0.05, "waiting": 0.02}
_PER_MILLION: Final = 1e-6


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
        poll = rng.choice([5.0, 10.0, 20.0, 30.0, 60.0, 60.0])
        self.setting = replace(self.setting, drift=drift, poll=poll, steady=self.setting.steady and not drift)
        if self.kind == "laptop":
            self.end *= AWAKE_HOURS / 24 * _WORKING_DAYS / 7

    def _people(self) -> list[Event]:
        events = super()._people()
        if self.kind == "laptop":
            events += self._nights()
        elif self.kind == "waiting":
            events.append(self._question())
        return events

    def _nights(self) -> list[Event]:
        """The lid is closed each evening, and on Fridays until Monday."""
        length, days = AWAKE_HOURS * 3_600.0, 0
        events: list[Event] = []
        for days in range(1, int(self.end / length) + 1):
            weekend = 0.0 if days % _WORKING_DAYS else 2 * DAY
            at = round(days * length - self.rng.uniform(0.0, 600.0), 3)
            events.append(Event(at, "sleep", {"seconds": _NIGHT_SECONDS + weekend}))
        return events

    def _question(self) -> Event:
        """A question that waits for days, and is answered in the end."""
        ask = round(self.rng.uniform(0.3, 0.9) * self.end, 1)
        steps = [{"do": "calls", "calls": [{"tool": "question", "run": 1.0, "ask": ask}]}]
        place = {"plan": 0, "directory": "/project"}
        return Event(60.0, "prompt", {"session": "ses_waiting", **place, "steps": steps})
