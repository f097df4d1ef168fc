"""Wall times written by others, each with its place on the countable clock, fixed at first sight."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from watchdog.judging.gradual import Gradual
from watchdog.model.moments import NEVER, Moment, WallMs
from watchdog.model.report import Observation, ServerReport
from watchdog.model.session import EMPTY, Activity, ServerName, Session, SessionId, Status

ROWS = ServerName("")
"""Stands for the database in the place of a server's name, as the source of a time."""


class Convert(Protocol):
    """Turns wall time into countable time; `clock.Countable` does."""

    def moment_of(self, wall_ms: WallMs) -> Moment:
        """Where a wall time lies on the countable clock: ask at first sight of it, and keep the answer."""
        ...

    def due_at(self, wall_ms: WallMs, *, since_ms: WallMs) -> Moment:
        """When something is due that is planned for a wall time, by somebody who waits since then at the earliest."""
        ...


@dataclass(slots=True)
class Sightings:
    """The last time that each source reported for a session, and its moment."""

    known: dict[SessionId, dict[ServerName, tuple[WallMs, Moment]]] = field(default_factory=dict)

    def see(
        self, session_id: SessionId, who: ServerName, wall_ms: WallMs, convert: Callable[[WallMs], Moment]
    ) -> Moment:
        """The moment of a time that a source reports for a session: that of its first sight."""
        told = self.known.get(session_id)
        if told is None:
            told = self.known[session_id] = {}
        seen = told.get(who)
        if seen is None or seen[0] != wall_ms:
            seen = told[who] = (wall_ms, convert(wall_ms))
        return seen[1]

    def aside(self, session_ids: Iterable[SessionId]) -> "Sightings":
        """A copy for some sessions."""
        return Sightings({id_: {**self.known[id_]} for id_ in session_ids if id_ in self.known})

    def forget(self, session_ids: AbstractSet[SessionId]) -> None:
        """Forget all sessions but these."""
        if not self.known.keys() <= session_ids:
            self.known = {id_: told for id_, told in self.known.items() if id_ in session_ids}


def lives(observation: Observation, seen: Sightings, convert: Convert) -> Gradual[dict[SessionId, Moment]]:
    """The last sign of life of each session: from its rows, the feeds, and embedded hosts."""
    moment_of = convert.moment_of
    found: dict[SessionId, Moment] = {}
    for id_, session in observation.snapshot.sessions.items():
        yield
        found[id_] = seen.see(id_, ROWS, session.last_life_ms, moment_of)
    for report in observation.reports:
        for id_, heard in report.life.items():
            yield
            if id_ in found and heard > found[id_]:
                found[id_] = heard
        for id_, said in report.said.items():
            yield
            told = [status.last_life_ms for status in said if status.last_life_ms is not None]
            if told and id_ in found:
                found[id_] = max(found[id_], seen.see(id_, report.name, max(told), moment_of))
    return found


def retries(observation: Observation, seen: Sightings, convert: Convert) -> Gradual[dict[SessionId, Moment]]:
    """Until when each session waits for its provider, if a server says so; of several the latest."""
    found: dict[SessionId, Moment] = {}
    for report in observation.reports:
        for id_, said in report.said.items():
            yield
            told = [each.retry_at_ms for each in said if each.activity is Activity.RETRY and each.retry_at_ms]
            if told:
                session = observation.snapshot.sessions.get(id_)
                since = observation.at_ms if session is None else session.last_life_ms
                due = seen.see(id_, report.name, max(told), partial(convert.due_at, since_ms=since))
                found[id_] = max(found.get(id_, due), due)
    seen.forget(found.keys())
    return found


def idle_clocks(
    observation: Observation, seen: Sightings, heard: Mapping[SessionId, Moment | None] = EMPTY
) -> Gradual[dict[SessionId, Moment]]:
    """For each session whose silence somebody witnesses, the moment from which its idle time counts.

    A server that reports a session busy is a witness while its feed is connected; an embedded host is one if it knows
    the last sign of life itself.

    Args:
        seen: the signs of life that rows and hosts report.
        heard: since when a host elsewhere is at work on a session: silence before that was not the host's.
    """
    clocks: dict[SessionId, Moment] = {}
    for session in observation.snapshot.sessions.values():
        yield
        for report in observation.reports:
            for status in report.said.get(session.id, ()):
                start = _idle_start(session, report, status, seen)
                if start is not None and start >= clocks.get(session.id, start):
                    clocks[session.id] = start
        if session.id in clocks and (since := heard.get(session.id)) is not None:
            clocks[session.id] = max(clocks[session.id], since)
    return clocks


def _idle_start(session: Session, report: ServerReport, status: Status, seen: Sightings) -> Moment | None:
    told = seen.known[session.id]
    life = max(told[ROWS][1], report.life.get(session.id, NEVER))
    if status.last_life_ms is not None:
        return max(life, told[report.name][1])
    return None if report.witness is None else report.witness.silent_since(life)
