"""What the loop reports, and to whom."""

from dataclasses import dataclass
from typing import Protocol

from watchdog.errors import WatchdogError
from watchdog.model.outcome import Outcome
from watchdog.model.report import Observation
from watchdog.model.verdict import Judgement, Verdict
from watchdog.timing.clock import Advance


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """One look and its judgement.

    Attributes:
        began_at: what the awake clock showed when it began.
        slow_seconds: how long the look itself took, in awake time.
    """

    observation: Observation
    judgement: Judgement
    advance: Advance
    began_at: float
    slow_seconds: float = 0.0


class Listener(Protocol):
    """Hears what the loop does. A listener must not raise."""

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """A look was taken. `acting` is false while the watchdog only observes."""
        ...

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        """A look came late or took long; nothing was done on it."""
        ...

    def found(self, verdict: Verdict) -> None:
        """A verdict is about to be carried out."""
        ...

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """A verdict was carried out; `given_up` if no more attempts will be made."""
        ...

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """An error of the watchdog's own was contained."""
        ...

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """The database or the journal could not be used; the next look comes after `retry_seconds`."""
        ...


class Relay:
    """A listener that passes everything on to others, who may come later."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = [*listeners]

    def add(self, *listeners: Listener) -> None:
        """Pass on to these, too, from now on."""
        self._listeners += listeners

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """See `Listener.looked`."""
        for each in self._listeners:
            each.looked(assessment, acting=acting)

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        """See `Listener.held_back`."""
        for each in self._listeners:
            each.held_back(advance, slow_seconds)

    def found(self, verdict: Verdict) -> None:
        """See `Listener.found`."""
        for each in self._listeners:
            each.found(verdict)

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """See `Listener.ended`."""
        for each in self._listeners:
            each.ended(verdict, outcome, given_up=given_up)

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """See `Listener.failed`."""
        for each in self._listeners:
            each.failed(verdict, error)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """See `Listener.unavailable`."""
        for each in self._listeners:
            each.unavailable(error, retry_seconds)


class Bystander:
    """A listener that ignores everything, for classes that need only a few events."""

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """See `Listener.looked`."""

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        """See `Listener.held_back`."""

    def found(self, verdict: Verdict) -> None:
        """See `Listener.found`."""

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """See `Listener.ended`."""

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """See `Listener.failed`."""

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """See `Listener.unavailable`."""
