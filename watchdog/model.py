"""The nouns of the watchdog, as frozen values.

Times that end in `_ms` are milliseconds of a wall clock since the Unix epoch, as in opencode's own rows, unless the
docstring says otherwise. Everything that has an age has a `Moment` of the countable clock. Durations end in
`_seconds`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NewType

from watchdog.moments import Moment, WallMs
from watchdog.shown import Telling

SessionId = NewType("SessionId", str)
TurnId = NewType("TurnId", str)
"""The id of a turn: of an assistant message."""
CallId = NewType("CallId", str)
"""The id of a tool call's part (`prt_…`), not the model's `callID`."""
EVERYTHING = SessionId("*")
"""Stands for all sessions where some are on hold: the watchdog is paused."""
ServerName = NewType("ServerName", str)
"""A server's base URL without credentials, or `embedded`."""
EMBEDDED = ServerName("embedded")

EMPTY: Mapping[Any, Any] = MappingProxyType({})


class CallStatus(StrEnum):
    """The states of an open tool call."""

    PENDING = "pending"
    RUNNING = "running"


class Activity(StrEnum):
    """What a server does with a session. One that isn't listed is idle."""

    IDLE = "idle"
    BUSY = "busy"
    RETRY = "retry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What one server says of one session.

    Attributes:
        activity: idle, busy, or waiting out a provider's retry.
        retry_at_ms: when the server will try again, for `retry`.
        last_life_ms: the session's last sign of life as an embedded host knows it; real servers never say it.
    """

    activity: Activity
    retry_at_ms: int | None = None
    last_life_ms: int | None = None


class AskKind(StrEnum):
    """What a session waits for a human to do."""

    QUESTION = "question"
    PERMISSION = "permission"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A question or a permission that waits for a human.

    Attributes:
        turn_id: the turn that asks, where the server says it.
        call_ref: the model's `callID` of the call that asks, where the server says it.
    """

    id: str
    kind: AskKind
    session_id: SessionId
    turn_id: TurnId | None = None
    call_ref: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """An open tool call: a part of type `tool` whose status is pending or running.

    Attributes:
        call_ref: the model's `callID`, by which asks name the call.
        tool: the tool's name, never empty: a row that does not tell it is damaged.
        created_ms: the row's `time_created`, which never moves.
        updated_ms: the row's `time_updated`.
        size: length of the row's JSON in characters; with `updated_ms` it tells whether the row changed.
        declared_timeout_ms: `state.input.timeout`, a duration.
        child_id: `state.metadata.sessionId`: the session that a task call started.
        personal: a person's own command, which no model asked for.
    """

    id: CallId
    turn_id: TurnId
    session_id: SessionId
    tool: str
    status: CallStatus
    created_ms: int
    updated_ms: int
    size: int = 0
    call_ref: str | None = None
    declared_timeout_ms: float | None = None
    child_id: SessionId | None = None
    personal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """An assistant message that is open, or that holds an open call.

    Attributes:
        open: true while `time.completed` is missing.
        cwd: `path.cwd`, the folder that the turn was prompted for, when the row tells.
        superseded: a newer turn of the same session exists.
    """

    id: TurnId
    session_id: SessionId
    created_ms: int
    updated_ms: int
    size: int = 0
    open: bool = True
    cwd: str | None = None
    superseded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A session as the database knows it.

    Attributes:
        turns: its open turns, and its closed turns that hold an open call; oldest first.
        calls: its open calls, oldest first.
        last_life_ms: the last time that the database shows life: a turn created or completed, a prompt
            created, a part written. Titles, summaries and usage counters are not life.
        newest_prompt_id: the id of the newest user message.
        queued_prompts: how many user messages are newer than its newest turn.
        remote: the type of the workspace that it runs in, where that may be on another machine; `unknown` when the
            type can't be told. None for a session that runs here. Its rows are a copy: nobody here can say what it
            does.
    """

    id: SessionId
    directory: str
    created_ms: int
    parent_id: SessionId | None = None
    turns: tuple[Turn, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    last_life_ms: int = 0
    newest_prompt_id: str | None = None
    queued_prompts: int = 0
    remote: str | None = None

    @property
    def has_open_rows(self) -> bool:
        """Whether a turn or a call of it is open in the database."""
        return bool(self.calls) or any(turn.open for turn in self.turns)

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories under which a server may hold the session, its own first."""
        found = {self.directory: None}
        for turn in self.turns:
            if turn.cwd:
                found[turn.cwd] = None
        return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage(Telling):
    """A row that can't be read as what it should be. It is reported, and never touched.

    Attributes:
        table: `message`, `part` or `session`.
        problem: what is wrong with it, without any of its content.
    """

    told = ("problem",)

    table: str
    id: str
    session_id: SessionId
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the database said in one read transaction.

    Attributes:
        sessions: every session with an open turn or call, all its ancestors, the children of open task
            calls with their own descendants that are open, and the sessions that were asked for by id.
        damaged: the rows that were left out because they can't be read.
    """

    sessions: Mapping[SessionId, Session] = field(default_factory=dict)
    damaged: tuple[Damage, ...] = ()

    @property
    def open_rows(self) -> frozenset[str]:
        """The ids of every open call and turn."""
        calls = {call.id for session in self.sessions.values() for call in session.calls}
        turns = {turn.id for session in self.sessions.values() for turn in session.turns if turn.open}
        return frozenset(calls | turns)


SAME_BIRTH_MS = 2_000
"""Births are computed anew at each look, and move a little with the wall clock: by up to this for one process."""


_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what others are bound to


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An address and a port of TCP.

    Attributes:
        address: an IP address without brackets; a wildcard where something listens on every one.
    """

    address: str
    port: int

    @property
    def url(self) -> str:
        """The base URL by which it is asked from this machine."""
        address = "127.0.0.1" if self.address in _WILDCARDS else self.address
        return f"http://{replace(self, address=address)}"

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A process that has opencode's database open. Its identity is its pid and its birth.

    Attributes:
        born_ms: when it started, by the wall clock as it is set now.
        command: a short name for people, such as `opencode serve`; never its whole command line.
        endpoints: where it listens: every TCP endpoint of this network namespace, of any address.
        embeds_us: it is this very process, which hosts sessions itself.
    """

    pid: int
    born_ms: int
    command: str
    endpoints: tuple[Endpoint, ...] = ()
    embeds_us: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Holders(Telling):
    """Who has the database open, looked up at one moment.

    Attributes:
        known: the processes that are visible; watchdogs that run as sidecars are left out.
        complete: no other process can have it open. False when a lock is held that no visible process
            explains, or when the platform can't tell.
        why_incomplete: a sentence for people when `complete` is false.
        elsewhere: the database is a server's of its own, which any machine may use: no process is evidence of
            anything, and only the word of hosts counts.
        refusal: why nothing at all can be known of the file, and what to do: a process has it open under another
            name, say. Then nothing is proven, and nobody's word replaces a proof.
    """

    told = ("why_incomplete",)

    known: tuple[Holder, ...] = ()
    complete: bool = True
    why_incomplete: str | None = None
    elsewhere: bool = False
    refusal: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """How well the event feed of a server has been heard.

    Attributes:
        connected: events would arrive now.
        since: since when the feed has been heard, short gaps included; None when it never was.
        gaps: short interruptions (at most a minute) since then: start and end.
        deaf: why nothing has been heard for long, as the end of a sentence; None while that is not so.
    """

    connected: bool = False
    since: Moment | None = None
    gaps: tuple[tuple[Moment, Moment], ...] = ()
    deaf: str | None = None

    def silent_since(self, life: Moment) -> Moment | None:
        """From when the silence of a session counts that last showed life then; None while nothing is heard."""
        if not self.connected or self.since is None:
            return None
        base = max(life, self.since)
        return base + sum(max(0.0, end - max(start, base)) for start, end in self.gaps)


class Shown(StrEnum):
    """How it was shown that a server serves this very file."""

    PROCESS = "process"
    ROWS = "rows"
    HOST = "host"


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A server is shown to serve this very file. Whatever is sent to one has to be handed this.

    It is made by `serving`, at each look anew, and by hosts that speak through this very database: nowhere else.

    Attributes:
        by: its process holds the file; its copy of the sessions' turns reads as the rows do; or it is such a host.
        pid: the process that listens at its address, where it is visible.
        born_ms: when that one was born.
        sessions: those whose turns were compared, for `rows`: of others it says nothing.
    """

    server: ServerName
    by: Shown
    pid: int | None = None
    born_ms: int | None = None
    sessions: frozenset[SessionId] = frozenset()

    def covers(self, session_id: SessionId) -> bool:
        """Whether it is shown for this session."""
        return self.covers_all or session_id in self.sessions

    @property
    def covers_all(self) -> bool:
        """Whether it is shown for every session."""
        return self.by is not Shown.ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Who listens at a server's address, as far as it can be seen from here.

    Attributes:
        sockets: the visible processes that have each of the sockets, of which any may be the one that answers.
        hidden: it may be another one: it can't be seen, listens elsewhere, or can't be told from these.
        databases: those of them that have a database open, whichever it is.
        what: what they are, for people.
    """

    sockets: tuple[frozenset[int], ...] = ()
    hidden: bool = True
    databases: frozenset[int] = frozenset()
    what: str | None = None

    @property
    def pids(self) -> frozenset[int]:
        """All of these processes."""
        return frozenset().union(*self.sockets)


EVERYWHERE: Final = ""
"""In place of a folder: of a server whose one answer is for all folders, as a Python host's is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerReport(Telling):
    """What one server answered in one round of questions.

    Attributes:
        pid: the process that listens at its address, where it is visible.
        born_ms: when that process was born: with its pid, its identity.
        vouches: its silence about a session means something: version 1.14 or later, or an embedded host.
        known: its version is one of those that were measured.
        problem: why it gave no usable answer at all, or None.
        problems: why it gave none about a directory, for each where it did not. `EVERYWHERE` is about all of them.
        statuses: for each directory that answered, the sessions that are not idle.
        asks: for each directory that answered, the asks that wait for a human.
        served: it is shown to serve this very file. Without it, it has said nothing: no claim, no denial, no asks.
        not_shown: why that is not shown, a sentence for people; None where it is, or where nobody had to know.
        witness: how well its feed was heard; None when it has none.
        life: the last sign of life of each session on the feed.
        said: the same as `statuses`, by session: what it says of it, in the order of the directories' names.
        asked: the same as `asks`, by session.
    """

    told = ("problem",)

    name: ServerName
    pid: int | None = None
    born_ms: int | None = None
    vouches: bool = False
    known: bool = True
    problem: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, Mapping[SessionId, Status]] = field(default_factory=dict)
    asks: Mapping[str, tuple[Ask, ...]] = field(default_factory=dict)
    served: Served | None = None
    not_shown: str | None = None
    witness: Witness | None = None
    life: Mapping[SessionId, Moment] = field(default_factory=dict)
    said: Mapping[SessionId, Sequence[Status]] = field(init=False, repr=False, compare=False)
    asked: Mapping[SessionId, Sequence[Ask]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.served is None and (any(self.statuses.values()) or any(self.asks.values()) or self.life):
            raise ValueError(f"{self.name} is not shown to serve this database: what it says is not of it")
        said: dict[SessionId, list[Status]] = {}
        for _, statuses in sorted(self.statuses.items()):
            if not said and self.served is not None and self.served.covers_all:  # of a host that is all there is
                said = {id_: [status] for id_, status in statuses.items()}
                continue
            for id_, status in statuses.items():
                if self.serves(id_):
                    said.setdefault(id_, []).append(status)
        asked: dict[SessionId, list[Ask]] = {}
        for asks in self.asks.values():
            for ask in asks:
                if self.serves(ask.session_id):
                    asked.setdefault(ask.session_id, []).append(ask)
        object.__setattr__(self, "said", said)
        object.__setattr__(self, "asked", asked)

    @property
    def is_deaf(self) -> bool:
        """Whether it answers, and its feed has delivered nothing for long."""
        return self.problem is None and self.witness is not None and self.witness.deaf is not None

    @property
    def trouble(self) -> str | None:
        """What came in the way of its answers, a sentence: anywhere, or else in one directory or another."""
        if self.problem is not None or not self.problems:
            return self.problem
        first = next(iter(self.problems.values()))
        if not self.statuses or EVERYWHERE in self.problems:
            return first
        return f"{first} It answers about other folders; this is about {' and '.join(sorted(self.problems))}."

    def against(self, session: Session) -> str | None:
        """Why what it says of a session, or does not say, is no answer; None where it is one."""
        if self.problem is not None:
            return self.problem
        for directory in (EVERYWHERE, *session.directories) if self.problems else ():
            if directory in self.problems:
                return self.problems[directory]
        if self.served is not None and not self.served.covers(session.id):
            return f"Whether session {session.id} of {self.name} is the one in this database can't be told."
        return None

    def serves(self, session_id: SessionId) -> bool:
        """Whether it is shown that what it says of this session is of the one in this database."""
        return self.served is not None and self.served.covers(session_id)

    def shown_for(self, session_id: SessionId) -> "Served | str":
        """That it is shown to serve this database, for a session; or why it is not, as a sentence."""
        if self.served is not None and self.served.covers(session_id):
            return self.served
        return self.not_shown or self.trouble or f"Whether {self.name} uses this database can't be told."

    def answered(self, directory: str) -> bool:
        """Whether it said what it is at work on in a directory, and which asks wait there for a human."""
        return all(directory in each or EVERYWHERE in each for each in (self.statuses, self.asks))

    def knows_asks(self, session: Session) -> bool:
        """Whether it said, wherever the session may be, which asks wait for a human."""
        if EVERYWHERE in self.asks:
            return True
        if session.directory not in self.asks:
            return False
        for turn in session.turns:  # noqa: SIM110 - no generator: it is asked of every session at every look
            if turn.cwd and turn.cwd not in self.asks:
                return False
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A server as a process: its pid and its birth where they can be seen."""

    server: ServerName
    pid: int | None = None
    born_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """What was tried for one call or turn.

    Attributes:
        count: attempts that were made and did not work.
        tries: those, and the times when nobody could be reached.
        not_before: when the next one may be made; None for at once.
        given_up: no more will be made before that, unless the server's process is another one.
        newest_prompt_id: the newest user message when the first attempt was made.
        process: the server that was told, if one was.
    """

    count: int = 0
    tries: int = 0
    not_before: Moment | None = None
    given_up: bool = False
    newest_prompt_id: str | None = None
    process: Process | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped(Telling):
    """Why the clocks of a session's calls stand still though they wait for nobody, and since when."""

    told = ("why",)

    why: str
    since: Moment


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """Everything that `judge` may know, gathered in one look.

    Attributes:
        at_ms: when it was gathered, by the wall clock: to show people times, and to compare rows and births with.
        now: the same, on the countable clock: every age counts up to here.
        steady_since_ms: rows created before this were created before the wall clock showed it, as it is set now; more
            can't be said of when: it may have been set since.
        steady_slack_seconds: by how much a birth may be wrong all the same.
        holders: None when nothing needed a proof, or when they could not be looked up.
        call_clocks: for each open call, from when its age counts: what it spent waiting on a human or a retry is left
            out already.
        idle_clocks: for each session whose silence somebody can witness, from when its idle time counts. A session
            that is missing here has no witness.
        lives: the last sign of life of each session that anybody knows of.
        retries: for each session that a server lets wait for its provider, and says until when: that moment.
        looks: for each open call and turn, when the row was first seen as it is now while nobody was known to run it.
            The second look of a proof counts from there.
        attempts: what was tried, by the keys of `Verdict.attempt_keys`.
        ask_clocks: for each ask that a server lists, when it was first seen.
        stopped: the sessions whose calls' clocks stand still because somebody is silent who would know better.
        on_hold: the sessions that are to be left alone, with a clause that says why; all, under `EVERYTHING`.
        let_go: turns that a server was at work on, and let go of at an abort of ours, by the server's name.
        degraded: what could not be asked or read, a sentence each.
    """

    at_ms: WallMs
    now: Moment
    steady_since_ms: WallMs
    steady_slack_seconds: float = 0.0
    snapshot: Snapshot
    reports: tuple[ServerReport, ...] = ()
    holders: Holders | None = None
    call_clocks: Mapping[CallId, Moment] = field(default_factory=dict)
    idle_clocks: Mapping[SessionId, Moment] = field(default_factory=dict)
    lives: Mapping[SessionId, Moment] = field(default_factory=dict)
    retries: Mapping[SessionId, Moment] = field(default_factory=dict)
    looks: Mapping[str, Moment] = field(default_factory=dict)
    attempts: Mapping[str, Attempts] = field(default_factory=dict)
    ask_clocks: Mapping[str, Moment] = field(default_factory=dict)
    stopped: Mapping[SessionId, Stopped] = field(default_factory=dict)
    on_hold: Mapping[SessionId, str] = field(default_factory=dict)
    let_go: Mapping[TurnId, ServerName] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()

    def wall_of(self, moment: Moment) -> float:
        """What the wall clock would show at a moment, as it is set now: for people, never to be compared."""
        return self.at_ms + (moment - self.now) * 1000

    def seconds_since(self, wall_ms: float) -> float:
        """How long ago a wall time is, as the clock is set now: for people, never to be compared with a limit."""
        return (self.at_ms - wall_ms) / 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What `judge` is told to allow. Durations in seconds; None turns a rule off.

    Attributes:
        tool_timeouts: overrides by tool name or glob pattern; the longest pattern that fits wins.
        orphan_looks: 2, or 1 for a look that only shows what it would do.
    """

    tool_timeout_seconds: float | None = 1800.0
    task_timeout_seconds: float | None = 7200.0
    idle_timeout_seconds: float | None = 900.0
    task_hard_timeout_seconds: float | None = None
    human_timeout_seconds: float | None = None
    shell_timeout_seconds: float | None = None
    tool_timeouts: Mapping[str, float | None] = field(default_factory=dict)
    declared_timeout_grace_seconds: float = 60.0
    max_declared_timeout_seconds: float = 21600.0
    orphan_grace_seconds: float = 30.0
    birth_margin_seconds: float = 5.0
    sole_owner: bool = False
    orphan_looks: int = 2


class VerdictKind(StrEnum):
    """Why something is to be ended."""

    ORPHAN = "orphan"
    STUCK_TOOL = "stuck_tool"
    STUCK_TASK = "stuck_task"
    IDLE_SESSION = "idle_session"
    UNANSWERED = "unanswered"


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
        life_ms: the last sign of life that rows and hosts tell of, by the wall clock.
        heard: the last one that was heard on a feed; of this process alone, so the journal does not keep it.
        rests_on_silence: any sign of life after these drops it.
        claimed: a server said that it was at work on the session to end.
        released: a person asked for it; no limit was compared.
        ask: the ask to turn down, for one that nobody answered.
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
        """What attempts are counted by: each row, apart for settling and for cancelling."""
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
        call_id: the call that is spared; None when it is the session as a whole.
        age_seconds: how long its clock has run, where one runs.
        limit_seconds: the limit of that clock, where there is one.
        stopped_seconds: for how long that clock has stood still, where it should not.
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
        unclaimed: the ids of the open calls and turns that provably nobody executes, as far as this look
            can tell: the first or the second look of a proof.
    """

    verdicts: tuple[Verdict, ...] = ()
    spared: tuple[Spared, ...] = ()
    unclaimed: frozenset[str] = frozenset()

    @property
    def next_deadline(self) -> Moment | None:
        """The earliest moment at which time alone may change it."""
        deadlines = [spared.until for spared in self.spared if spared.until is not None]
        return min(deadlines, key=attrgetter("seconds"), default=None)


class Result(StrEnum):
    """What was really seen after an intervention, never what was asked for."""

    RECOVERED = "recovered"
    UNCHANGED = "unchanged"
    INEFFECTIVE = "ineffective"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    DRY_RUN = "dry_run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step(Telling):
    """One rung of the ladder as it went.

    Attributes:
        step: `reread`, `find`, `about_to_abort`, `abort`, `about_to_reject`, `reject`, `verify`, `prove`, `settle`,
            `publish`, `read_back`, `put_back`, `journal`.
    """

    told = ("detail",)

    step: str
    at_ms: int
    ok: bool
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Telling):
    """How an intervention ended.

    Attributes:
        dropped_prompts: the ids of the prompts that were queued, and that an abort dropped.
    """

    told = ("why",)

    session_id: SessionId
    kind: VerdictKind
    result: Result
    steps: tuple[Step, ...]
    why: str
    dropped_prompts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of opencode's `message` or `part` table, whole, as it is in the database.

    Attributes:
        table: `message` or `part`.
        message_id: the turn of a part; of a message its own id.
        data: the JSON text, exactly as stored.
    """

    table: str
    id: str
    message_id: TurnId
    session_id: SessionId
    created_ms: int
    updated_ms: int
    data: str

    def says(self, data: str) -> bool:
        """Whether that is the same JSON: a server that publishes a part stores its names in an order of its own."""
        return self.data == data or (_ordered(self.data) is not None and _ordered(self.data) == _ordered(data))


def _ordered(data: str) -> str | None:
    """JSON with its names in order; None for what is none."""
    try:
        return json.dumps(json.loads(data), sort_keys=True)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardedWrite:
    """A change of one row that happens only if the row still reads as it was observed."""

    row: Row
    after: str
