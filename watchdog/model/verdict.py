"""The judgement: verdicts, what is spared, and why."""

from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from watchdog.model.moments import Moment
from watchdog.model.session import Ask, CallId, SessionId, TurnId
from watchdog.shown import Telling


class VerdictKind(StrEnum):
    """Why something is to be ended."""

    ORPHAN = "orphan"
    STUCK_TOOL = "stuck_tool"
    STUCK_TASK = "stuck_task"
    IDLE_SESSION = "idle_session"
    UNANSWERED = "unanswered"
    LEFT_OVER = "left_over"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict(Telling):
    """One session that will never end by itself, and what is to be ended.

    Attributes:
        session_id: the session that is stuck.
        cancel_session_id: the session to end: the same, or its deepest unfinished descendant.
        call_ids: the open calls that were judged; they must close.
        turn_ids: the open turns that were judged; they must close.
        newest_prompt_id: the newest user message of the session to end, when it was judged.
        message_id: the turn to name to people.
        call_id: the call to name to people, when there is one.
        age_seconds: what was compared with the limit; for an orphan, its age.
        limit_seconds: the limit, or None for an orphan and for a release.
        life_ms: the last sign of life that rows and hosts report, by the wall clock.
        heard: the last one that a feed delivered; it is of this process alone, so the journal does not keep it.
        rests_on_silence: any sign of life after these drops it.
        claimed: a server said that it was at work on the session to end.
        released: a person asked for it; no limit was compared.
        ask: the ask to turn down, if nobody answered it in time.
        confirmed: false for an orphan that was seen only once and will need a second look.
        why: one sentence for people, without any content of the session.
    """

    told = ("why",)

    session_id: SessionId
    kind: VerdictKind
    cancel_session_id: SessionId
    why: str
    age_seconds: float
    limit_seconds: float | None = None
    call_ids: tuple[CallId, ...] = ()
    turn_ids: tuple[TurnId, ...] = ()
    newest_prompt_id: str | None = None
    message_id: TurnId | None = None
    call_id: CallId | None = None
    tool: str | None = None
    life_ms: int = 0
    heard: Moment | None = None
    rests_on_silence: bool = False
    claimed: bool = True
    released: bool = False
    ask: Ask | None = None
    confirmed: bool = True

    @property
    def row_ids(self) -> frozenset[str]:
        """The ids of everything in the database that must close."""
        return frozenset([*self.call_ids, *self.turn_ids])

    @property
    def attempt_keys(self) -> frozenset[str]:
        """The keys under which attempts are counted: each row, separately for settling and for aborting."""
        what = "settle" if self.kind is VerdictKind.ORPHAN else "cancel"
        return frozenset(f"{what}:{id_}" for id_ in self.row_ids or {self.cancel_session_id})


class SpareReason(StrEnum):
    """Why something unfinished is left alone."""

    WITHIN_LIMIT = "within_limit"
    WAITING_ON_CHILD = "waiting_on_child"
    WAITING_ON_HUMAN = "waiting_on_human"
    WAITING_ON_SIBLING = "waiting_on_sibling"
    RETRYING = "retrying"
    RECENTLY_ACTIVE = "recently_active"
    NO_WITNESS = "no_witness"
    FIRST_LOOK = "first_look"
    COOLING_DOWN = "cooling_down"
    GIVEN_UP = "given_up"
    ON_HOLD = "on_hold"
    CLOCK_STOPPED = "clock_stopped"


UNEASY = frozenset({SpareReason.NO_WITNESS, SpareReason.GIVEN_UP})
"""Nobody can tell, or nothing helped: a person may want to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spared(Telling):
    """Something unfinished that is left alone, and why.

    Attributes:
        call_id: the call that is spared; None if it is the whole session.
        age_seconds: how long its clock has run, if it has one.
        limit_seconds: the limit of that clock, if it has one.
        stopped_seconds: how long that clock has stood still, if it should not.
        until: when the judgement may change by the mere passing of time.
    """

    told = ("why",)

    session_id: SessionId
    reason: SpareReason
    why: str
    call_id: CallId | None = None
    age_seconds: float | None = None
    limit_seconds: float | None = None
    stopped_seconds: float | None = None
    until: Moment | None = None

    @property
    def uneasy(self) -> bool:
        """Whether a person may want to know: nobody can tell, nothing helped, or a clock stood still for too long."""
        return self.reason in UNEASY or (
            self.reason is SpareReason.CLOCK_STOPPED and (self.stopped_seconds or 0.0) >= (self.limit_seconds or 0.0)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict for each stuck session, and a reason for each unfinished one that is spared.

    Attributes:
        unclaimed: the ids of the open calls and turns that provably nobody executes, as far as this look can tell:
            the first or the second look of a proof.
    """

    verdicts: tuple[Verdict, ...] = ()
    spared: tuple[Spared, ...] = ()
    unclaimed: frozenset[str] = frozenset()

    @property
    def next_deadline(self) -> Moment | None:
        """The earliest moment at which time alone may change it."""
        deadlines = [spared.until for spared in self.spared if spared.until is not None]
        return min(deadlines, key=attrgetter("seconds"), default=None)
