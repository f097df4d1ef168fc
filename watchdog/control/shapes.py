"""The shapes of requests and answers, for the OpenAPI document. The documents are those of `docs/json.md`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from watchdog.control.keys import NONCE

SESSION_ID = r"^ses_[A-Za-z0-9_-]{1,60}$"
MESSAGE_ID = r"^msg_[A-Za-z0-9_-]{1,60}$"
OPERATION_ID = r"^op_[0-9a-f]{16}$"
LARGEST_NUMBER = 2**53 - 1

Moment = Annotated[str, Field(description="ISO 8601, UTC", examples=["2026-01-01T00:00:00.000Z"])]
Seconds = Annotated[float, Field(description="seconds")]


class Shape(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(extra="forbid")


class Document(Shape):
    """What all documents have in common."""

    version: Literal[1]
    database: str


class ProblemShape(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str
    title: str
    status: int
    detail: str
    instance: str


class Step(Shape):
    """One step of an intervention."""

    step: str
    at: Moment
    ok: bool
    detail: str


class Verdict(Shape):
    """One session that will never end by itself."""

    session_id: str
    kind: str
    message_id: str | None
    part_id: str | None
    tool: str | None
    age_seconds: Seconds
    limit_seconds: Seconds | None
    cancel_session_id: str
    why: str


class Spared(Shape):
    """Something unfinished that is left alone."""

    session_id: str
    reason: str
    part_id: str | None
    why: str


class Outcome(Shape):
    """How an intervention ended."""

    session_id: str
    kind: str
    result: str
    steps: list[Step]
    why: str
    dropped_prompts: list[str]


class Hold(Shape):
    """A person's "leave it"."""

    session_id: str
    everything: bool
    since: Moment
    until: Moment | None
    why: str


class Finding(Shape):
    """What the judgement says."""

    name: str
    stuck: bool
    part_id: str | None
    why: str
    until: Moment | None


class Clock(Shape):
    """One clock."""

    setting: str
    origin: str
    age_seconds: Seconds | None
    limit_seconds: Seconds | None
    remaining_seconds: Seconds | None
    uncounted_seconds: Seconds
    stands_still: str | None
    note: str | None


class TickingClock(Clock):
    """One clock of an overview."""

    part_id: str | None
    fraction: float | None
    until: Moment | None


class Call(Shape):
    """An open call."""

    part_id: str
    tool: str
    status: str
    age_seconds: Seconds
    waits_on_session_id: str | None


class CallOfMessage(Call):
    """An open call of an overview."""

    message_id: str


class CallWithClocks(Call):
    """An open call of an explanation."""

    clocks: list[Clock]


class Wait(Shape):
    """What a session waits for."""

    what: Literal["child", "question", "permission", "retry"]
    session_id: str
    part_id: str | None
    until: Moment | None


class SessionLine(Shape):
    """One session of an overview."""

    session_id: str
    parent_id: str | None
    title: str | None
    directory: str
    created_at: Moment | None
    unfinished: bool
    damaged: bool
    state: str
    why: str | None
    findings: list[Finding]
    calls: list[CallOfMessage]
    clocks: list[TickingClock]
    waits_for: list[Wait]
    open_message_ids: list[str]
    queued_prompts: int
    given_up: bool
    on_hold: bool
    acting: bool


class Counts(Shape):
    """How much there is."""

    unfinished_sessions: int
    open_tool_calls: int
    damaged_rows: int


class Sessions(Document):
    """The last look of the loop."""

    observed_at: Moment
    degraded: list[str]
    counts: Counts
    verdicts: list[Verdict]
    spared: list[Spared]
    program: str
    now: Moment
    mandate: Literal["acting", "observing", "dry_run"]
    holder_pid: int | None
    unavailable: str | None
    poll_interval_seconds: Seconds
    on_hold: list[Hold]
    sessions: list[SessionLine]


class Turn(Shape):
    """A turn of an explanation."""

    message_id: str
    open: bool
    superseded: bool
    age_seconds: Seconds
    calls: list[CallWithClocks]


class Witness(Shape):
    """What one witness says."""

    witness: str
    who: str
    says: str
    stance: str
    since: Moment | None
    pid: int | None
    message_id: str | None
    part_id: str | None


class ExplainedSession(Shape):
    """One session of an explanation."""

    session_id: str
    parent_id: str | None
    depth: int
    asked: bool
    unfinished: bool
    damaged: bool
    findings: list[Finding]
    turns: list[Turn]
    clocks: list[Clock]
    witnesses: list[Witness]


class Explanation(Document):
    """Why one session is stuck or left alone."""

    observed_at: Moment
    session_id: str
    stuck: bool
    judgement: str
    advice: list[str]
    on_hold: list[str]
    interventions: list[str]
    notes: list[str]
    sessions: list[ExplainedSession]


class Outcomes(Document):
    """What a release did."""

    outcomes: list[Outcome]


class Deletion(Document):
    """What a deletion did."""

    outcomes: list[Outcome]
    session_id: str
    message_id: str
    deleted: bool


class WithJournal(Document):
    """What all documents of the journal have in common."""

    journal: str


class Intervention(Shape):
    """One intervention."""

    id: int
    began_at: Moment
    ended_at: Moment | None
    actor: Literal["watchdog", "person"]
    reason: str | None
    verdict: Verdict
    outcome: Outcome | None
    undone_at: Moment | None


class History(WithJournal):
    """Some interventions, the newest first."""

    interventions: list[Intervention]
    on_hold: list[Hold]
    next: str | None


class KeptRow(Shape):
    """A row before and after."""

    table: Literal["message", "part"]
    id: str
    message_id: str
    session_id: str
    before: Any
    after: Any


class OneIntervention(WithJournal):
    """One intervention with its rows."""

    intervention: Intervention
    rows: list[KeptRow]


class Undone(WithJournal):
    """How an undo ended."""

    id: int
    session_id: str
    result: Literal["undone", "already_undone", "not_undone"]
    why: str
    steps: list[Step]


class Holds(WithJournal):
    """What came of a hold or of its end."""

    session_id: str
    was_on_hold: bool
    on_hold: list[Hold]


class OperationShape(Shape):
    """Something that takes longer."""

    model_config = ConfigDict(extra="forbid", title="Operation")

    version: Literal[1]
    operation_id: str
    kind: Literal["release", "delete_message", "undo"]
    session_id: str
    state: Literal["running", "done", "failed"]
    began_at: Moment
    ended_at: Moment | None
    document: Outcomes | Deletion | Undone | None
    problem: ProblemShape | None


class Health(Shape):
    """Whether all is well, without a word about what it is about."""

    ok: bool
    reasons: list[str]


class ReleaseBody(Shape):
    """What a person says to a release."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str | None = Field(default=None, max_length=500, description="kept in what is ended and in the journal")
    below: bool = Field(default=False, description="end what lives below it, too")


class ProofBody(Shape):
    """What `page` wants a proof for."""

    nonce: str = Field(pattern=NONCE)


class EnterBody(Shape):
    """What stands in a link."""

    code: str = Field(max_length=300)


class HoldBody(Shape):
    """How long something is left alone."""

    model_config = ConfigDict(extra="forbid", strict=True)

    length: str | float | None = Field(
        default=None,
        alias="for",
        description='a duration such as "2h" or "30m", or seconds; without one, until somebody ends it',
        examples=["2h"],
    )
