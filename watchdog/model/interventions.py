"""What the journal keeps: interventions with the rows as they were, and holds."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from watchdog.model.outcome import Outcome, Row, Step
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.model.verdict import Verdict
from watchdog.shown import Telling

InterventionId = NewType("InterventionId", int)
LAST_NUMBER = InterventionId((1 << 63) - 1)
"""No database counts further than this."""


class Actor(StrEnum):
    """Who decided."""

    WATCHDOG = "watchdog"
    PERSON = "person"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A row of opencode's as it was before the watchdog wrote it, and as the watchdog wrote it."""

    row: Row
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervention(Telling):
    """One intervention, ended or begun.

    Attributes:
        about_to: what was about to be sent to a server when it began.
        ended_ms: when its outcome was noted; None while it is begun.
        outcome: None while it is begun.
        undone_ms: when its rows were put back.
    """

    told = ("reason",)

    id: InterventionId
    began_ms: int
    actor: Actor
    verdict: Verdict
    reason: str | None = None
    about_to: Step | None = None
    ended_ms: int | None = None
    outcome: Outcome | None = None
    undone_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold(Telling):
    """A person's "leave it".

    Attributes:
        until_ms: when it ends by itself; None for never.
        why: a clause for people, such as `a person said so`.
    """

    told = ("why",)

    session_id: SessionId
    since_ms: int
    until_ms: int | None
    why: str

    @property
    def everything(self) -> bool:
        """Whether it holds all sessions."""
        return self.session_id == EVERYTHING
