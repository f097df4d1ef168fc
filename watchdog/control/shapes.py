"""The shapes of the HTTP API alone: requests, problems, and what its answers hold beyond what is printed."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from watchdog.control.access.keys import NONCE
from watchdog.reporting import journal_documents as contract_journal
from watchdog.reporting.documents import (
    Deletion,
    Document,
    MaybeMoment,
    Moment,
    Outcomes,
    Scan,
    Seconds,
    Shape,
    Text,
)
from watchdog.reporting.drain_documents import Drain
from watchdog.reporting.explain_documents import Explanation
from watchdog.reporting.journal_documents import Hold, Holds, OneIntervention, Undone
from watchdog.reporting.overview_documents import SessionLine

__all__ = ["Deletion", "Drain", "Explanation", "Holds", "OneIntervention", "Outcomes", "Undone"]

SESSION_ID = r"^ses_[A-Za-z0-9_-]{1,60}$"
MESSAGE_ID = r"^msg_[A-Za-z0-9_-]{1,60}$"
OPERATION_ID = r"^op_[0-9a-f]{16}$"
LARGEST_NUMBER = 2**53 - 1


class ProblemShape(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str
    title: str
    status: int
    detail: str
    instance: str


class Sessions(Scan):
    """The last look of the loop."""

    program: Text
    now: Moment
    mandate: Literal["acting", "observing", "dry_run"]
    holder_pid: int | None
    unavailable: Text | None
    poll_interval_seconds: Seconds
    on_hold: list[Hold]
    sessions: list[SessionLine]


class SessionState(Shape):
    """One unfinished session, in a few words."""

    session_id: Text
    parent_id: Text | None
    state: Text = Field(description="`stuck`, `ending`, `unjudged`, or the reason why it is spared")
    why: Text | None
    since: MaybeMoment = Field(description="when it passed its limit, if it is stuck; else when what is open began")
    until: MaybeMoment = Field(description="when that may change by the mere passing of time")
    may: list[Literal["release", "hold", "unhold"]] = Field(
        description="what may be asked for at `POST /api/v1/sessions/ID/…`, with `control_token`"
    )


class State(Document):
    """The unfinished sessions of the last look, in a few words each."""

    observed_at: Moment
    now: Moment
    mandate: Literal["acting", "observing", "dry_run"]
    unavailable: Text | None
    sessions: list[SessionState]


class ServerState(Shape):
    """A server that the watchdog knows.

    Attributes:
        state: `answers`; `silent`, wholly or about some folders; `deaf`, if its feed tells nothing; or `not_shown`,
            if it is not shown to serve this database.
    """

    name: Text
    pid: int | None
    state: Literal["answers", "silent", "deaf", "not_shown"]
    why: Text | None
    sessions: int = Field(description="how many it is at work on")


class Upcoming(Shape):
    """What may be judged otherwise by the mere passing of time."""

    session_id: Text
    reason: Text
    why: Text
    until: Moment


class Status(Document):
    """What a watchdog is doing."""

    program: Text
    journal: Text | None
    pid: int
    began_at: Moment
    observed_at: Moment
    now: Moment
    mandate: Literal["acting", "observing", "dry_run"]
    holder_pid: int | None
    poll_interval_seconds: Seconds
    ticking: bool = Field(description="its loop looked, or said why it can't, a short time ago")
    well: bool = Field(description="it acts, its loop ticks, and nothing is degraded")
    stuck: int
    ending: list[Text] = Field(description="the sessions that are being ended now")
    spared: dict[str, int] = Field(description="how many sessions are spared, by reason")
    upcoming: list[Upcoming] = Field(description="what comes next, the soonest first; at most ten")
    servers: list[ServerState]
    degraded: list[Text]
    on_hold: list[Hold]


class History(contract_journal.History):
    """Some interventions, the newest first."""

    next: Text | None


class OperationShape(Shape):
    """Something that takes longer."""

    model_config = ConfigDict(title="Operation")

    version: Literal[1]
    operation_id: str
    kind: Literal["release", "delete_message", "undo"]
    session_id: str
    state: Literal["running", "done", "failed"]
    began_at: Moment
    ended_at: MaybeMoment
    document: Outcomes | Deletion | Undone | None
    problem: ProblemShape | None


class Health(Shape):
    """Whether all is well, without a word about what it watches."""

    ok: bool
    reasons: list[str]


class ReleaseBody(Shape):
    """A person's words for a release."""

    model_config = ConfigDict(strict=True)

    reason: str | None = Field(default=None, max_length=500, description="kept in what is ended and in the journal")
    below: bool = Field(default=False, description="end what lives below it, too")
    agreed: list[str] = Field(
        default=[], max_length=1000, description="sessions below it that may end with it, although they show life"
    )


class ProofBody(Shape):
    """What `page` wants a proof for."""

    nonce: str = Field(pattern=NONCE)


class EnterBody(Shape):
    """The content of a link."""

    code: str = Field(max_length=300)


class HoldBody(Shape):
    """How long to leave something alone."""

    model_config = ConfigDict(strict=True)

    length: str | float | None = Field(
        default=None,
        alias="for",
        description='a duration such as "2h" or "30m", or seconds; without one, until somebody ends it',
        examples=["2h"],
    )
