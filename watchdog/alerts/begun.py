"""Messages about what begins: somebody waits for a person, or a verdict was found."""

from watchdog.alerts.alert import Alert, Severity
from watchdog.judging.limits import duration
from watchdog.model.report import Observation
from watchdog.model.session import Ask, SessionId
from watchdog.model.verdict import Verdict
from watchdog.settings.receivers import Occasion


class Waiting:
    """The sessions in which a person has been asked for long: one message until nobody is asked there.

    Args:
        after_seconds: how long, in countable time.
    """

    def __init__(self, after_seconds: float) -> None:
        self._after_seconds = after_seconds
        self._told: frozenset[SessionId] = frozenset()

    def forget(self) -> None:
        """Start over: somebody else acts, and reports."""
        self._told = frozenset()

    def look(self, observation: Observation) -> list[Alert]:
        """The messages after a look. What a server does not say now is not over."""
        asked = _asked(observation)
        silent = any(report.trouble is not None for report in observation.reports)
        told = self._told if silent else self._told & asked.keys()
        due = {id_: found for id_, found in asked.items() if found[0] >= self._after_seconds and id_ not in told}
        self._told = told | due.keys()
        return [_waits(observation, id_, *due[id_]) for id_ in sorted(due)]


def _asked(observation: Observation) -> dict[SessionId, tuple[float, Ask, str]]:
    """For each session in which a person is asked: for how long, by what, and at which server; the oldest ask."""
    found: dict[SessionId, tuple[float, Ask, str]] = {}
    for report in observation.reports:
        for ask in (ask for asks in report.asks.values() for ask in asks if ask.id in observation.ask_clocks):
            age = observation.now - observation.ask_clocks[ask.id]
            if ask.session_id not in found or age > found[ask.session_id][0]:
                found[ask.session_id] = age, ask, str(report.name)
    return found


def _waits(observation: Observation, session_id: SessionId, age: float, ask: Ask, server: str) -> Alert:
    session = observation.snapshot.sessions.get(session_id)
    folder = f" in {session.directory}" if session is not None else ""
    return Alert(
        title=f"{session_id} has waited for a person for {duration(age)}",
        body=f"a {ask.kind.value}{folder} waits for an answer at {server}: opencode-watchdog explain {session_id}",
        severity=Severity.INFO,
        occasion=Occasion.WAITING,
        waits=session_id,
    )


def stuck(verdict: Verdict) -> Alert:
    """The message when a verdict is about to be carried out."""
    return Alert(
        title=f"{verdict.session_id} is stuck: {verdict.kind.value}",
        body=verdict.why,
        severity=Severity.WARNING,
        occasion=Occasion.STUCK,
    )
