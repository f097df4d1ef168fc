"""A message to people."""

from dataclasses import dataclass
from enum import StrEnum

from watchdog.model.session import SessionId
from watchdog.settings.receivers import Occasion
from watchdog.shown import Telling


class Severity(StrEnum):
    """How a message is shown if its receiver has colours."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert(Telling):
    """A message to people: ids, tool names, processes and times, never what was said in a session.

    Attributes:
        occasion: what it is sent for; None for a test.
        waits: the session in which a person is asked. Its title is added before the message is sent.
    """

    told = ("title", "body")

    title: str
    body: str
    severity: Severity
    occasion: Occasion | None = None
    waits: SessionId | None = None
