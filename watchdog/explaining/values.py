"""The content of `explain` as frozen values: ids, tool names, times and processes, nothing of what was said."""

from dataclasses import dataclass
from enum import StrEnum

from watchdog.model.session import CallId, CallStatus, SessionId, TurnId


class Setting(StrEnum):
    """The settings that clocks are compared with."""

    TOOL_TIMEOUT = "tool_timeout"
    TASK_TIMEOUT = "task_timeout"
    TASK_HARD_TIMEOUT = "task_hard_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    ORPHAN_GRACE = "orphan_grace"


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """One clock of a call, or of a whole session.

    Attributes:
        origin: where the limit comes from, for people: the setting, the pattern, or the call's own timeout.
        age_seconds: what it shows; None if nobody can tell.
        limit_seconds: None if the rule is off.
        still: why it stands still, or None while it runs.
        uncounted_seconds: how much of the row's age it leaves out: waits, sleep, or the time before the last write.
        note: anything else to know about it.
    """

    setting: Setting
    origin: str
    age_seconds: float | None
    limit_seconds: float | None
    still: str | None = None
    uncounted_seconds: float = 0.0
    note: str | None = None

    @property
    def remaining_seconds(self) -> float | None:
        """The time left until the limit, 0 after it; None if the limit is off, or if nobody can tell."""
        if self.age_seconds is None or self.limit_seconds is None:
            return None
        return max(0.0, self.limit_seconds - self.age_seconds)

    @property
    def past(self) -> bool:
        """Whether the limit is reached."""
        return self.remaining_seconds == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CallPage:
    """One open tool call.

    Attributes:
        age_seconds: the age of its row, by the wall clock.
        waits_on: the unfinished child session that a task call waits on.
    """

    id: CallId
    tool: str
    status: CallStatus
    age_seconds: float
    clocks: tuple[Clock, ...] = ()
    waits_on: SessionId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnPage:
    """One turn that is open, or that holds an open call."""

    id: TurnId
    open: bool
    superseded: bool
    age_seconds: float
    calls: tuple[CallPage, ...] = ()


class WitnessKind(StrEnum):
    """Who can say something about a session."""

    DATABASE = "database"
    FEED = "feed"
    SERVER = "server"
    ASK = "ask"
    HOLDER = "holder"


class Stance(StrEnum):
    """What a witness's word means for the session."""

    AT_WORK = "at_work"
    """Somebody is at work on it."""
    WAITS = "waits"
    """It waits for a person, or to try its provider again."""
    SILENT = "silent"
    """It says nothing either way."""
    EXCLUDED = "excluded"
    """The process that it is about is not at work on it."""
    BLOCKS = "blocks"
    """It stands in the way of the proof that nobody is at work on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Testimony:
    """The word of one witness on a session.

    Attributes:
        who: the server's name, the process, the kind of ask; empty for the database.
        says: a clause for people.
        since_ms: since when, if that is known.
        turn_id: the turn that it is about, if it is not about the whole session.
    """

    kind: WitnessKind
    who: str
    says: str
    stance: Stance
    since_ms: float | None = None
    pid: int | None = None
    turn_id: TurnId | None = None
    call_id: CallId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The judgement's word on a session or one of its calls.

    Attributes:
        name: the verdict's kind, or the reason why it is spared.
        uneasy: it is spared for a reason that a person may want to know.
        until_ms: when it may change by the mere passing of time.
    """

    name: str
    stuck: bool
    why: str
    call_id: CallId | None = None
    uneasy: bool = False
    until_ms: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionPage:
    """One session of the tree. Fields after `findings` are filled for unfinished sessions only.

    Attributes:
        depth: 0 for the root of the tree.
        asked: it is the session in question.
        damaged: a row of it can't be read, so it may hold more than it shows.
    """

    id: SessionId
    parent_id: SessionId | None
    depth: int
    asked: bool
    unfinished: bool
    damaged: bool = False
    findings: tuple[Finding, ...] = ()
    turns: tuple[TurnPage, ...] = ()
    clocks: tuple[Clock, ...] = ()
    testimonies: tuple[Testimony, ...] = ()

    @property
    def stuck(self) -> bool:
        """Whether there is a verdict on it."""
        return any(finding.stuck for finding in self.findings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Everything about one session: its tree, its clocks, its witnesses, the judgement, and what to do.

    Attributes:
        at_ms: the moment of the look.
        sessions: the tree from its root down, each parent before its children.
        sentence: the judgement in plain words.
        stuck: there is a verdict on a session of the tree.
        advice: what a person can do, the most useful first.
        notes: what this look can't tell.
        holds: sentences about holds.
        history: sentences about earlier interventions.
    """

    session_id: SessionId
    at_ms: int
    sentence: str
    stuck: bool
    sessions: tuple[SessionPage, ...] = ()
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
