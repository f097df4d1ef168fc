"""What a program that shows sessions wants to know of each unfinished one, in a few words."""

from collections.abc import Iterator
from typing import Any

from watchdog.control.shapes import State
from watchdog.explaining.overview import SessionLine
from watchdog.model.verdict import SpareReason
from watchdog.operating.glance import Glance, MandateState

ENDING = "ending"


def state_document(database: str, glance: Glance) -> dict[str, Any]:
    """The unfinished sessions of the last look."""
    return State.told(
        {
            "database": database,
            "observed_at": glance.assessment.observation.at_ms,
            "now": glance.now_ms,
            "mandate": glance.mandate.value,
            "unavailable": glance.problem,
            "sessions": [_of_session(line, glance) for line in glance.lines if line.unfinished or line.findings],
        }
    )


def _of_session(line: SessionLine, glance: Glance) -> dict[str, Any]:
    found = line.findings[0] if line.findings else None
    return {
        "session_id": line.id,
        "parent_id": line.parent_id,
        "state": ENDING if line.id in glance.acting and glance.mandate is MandateState.ACTING else line.state,
        "why": None if found is None else found.why,
        "since": _since_ms(line, glance),
        "until": min((each.until_ms for each in line.findings if each.until_ms is not None), default=None),
        "may": [*_may(line, glance)],
    }


def _since_ms(line: SessionLine, glance: Glance) -> float | None:
    """When it passed its limit, if it is stuck by one; else, when what is open in it began."""
    observation = glance.assessment.observation
    clocks = [*line.clocks, *(clock for turn in line.turns for call in turn.calls for clock in call.clocks)]
    ages = [
        clock.age_seconds - ((clock.limit_seconds or 0.0) if line.stuck else 0.0)
        for clock in clocks
        if clock.age_seconds is not None and (clock.past or not line.stuck)
    ]
    if ages:
        return observation.at_ms - max(ages) * 1000
    oldest = max((turn.age_seconds for turn in line.turns if turn.open), default=None)
    return None if oldest is None else observation.at_ms - oldest * 1000


def _may(line: SessionLine, glance: Glance) -> Iterator[str]:
    if glance.mandate is MandateState.ACTING:
        yield "release"
    if any(hold.session_id == line.id for hold in glance.holds):
        yield "unhold"
    elif not (line.findings and line.findings[0].name == SpareReason.ON_HOLD.value):
        yield "hold"
