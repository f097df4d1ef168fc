"""What servers, feeds and processes said, and the observation that all of it makes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from watchdog.model.moments import Moment, WallMs
from watchdog.model.session import Ask, CallId, ServerName, Session, SessionId, Snapshot, Status, TurnId
from watchdog.shown import Telling

SAME_BIRTH_MS = 2_000
"""Each look computes births again, and they move a little with the wall clock: for one process by up to this."""


_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what others are bound to


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An address and a port of TCP.

    Attributes:
        address: an IP address without brackets; a wildcard if it listens on every one.
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
        elsewhere: the database belongs to a server that any machine may use: no process is evidence of anything, and
            only the word of hosts counts.
        failed: the look itself failed: nothing is known of anybody.
        refusal: why nothing can be known of the file, and what to do: for instance, a process has it open under
            another name. Then nothing is proven, and nobody's word replaces a proof.
    """

    told = ("why_incomplete",)

    known: tuple[Holder, ...] = ()
    complete: bool = True
    why_incomplete: str | None = None
    elsewhere: bool = False
    failed: bool = False
    refusal: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """How well the event feed of a server has been heard.

    Attributes:
        connected: events would arrive now.
        since: since when the feed has been heard, short gaps included; None if it never was.
        gaps: short interruptions (at most a minute) since then: start and end.
        deaf: why nothing has been heard for long, as the end of a sentence; None if something has.
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
    """The way in which it was proven that a server serves this very file."""

    PROCESS = "process"
    ROWS = "rows"
    HOST = "host"


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """The proof that a server serves this very file. Everything that is sent to a server needs one.

    `serving` makes a new one for each look, and so do hosts that speak through this very database: nobody else.

    Attributes:
        by: its process holds the file; its copy of the sessions' turns reads as the rows do; or it is such a host.
        pid: the process that listens at its address, if it is visible.
        born_ms: when that process was born.
        sessions: those whose turns were compared, for `rows`: it proves nothing about others.
    """

    server: ServerName
    by: Shown
    pid: int | None = None
    born_ms: int | None = None
    sessions: frozenset[SessionId] = frozenset()

    def covers(self, session_id: SessionId) -> bool:
        """Whether it proves that for this session."""
        return self.covers_all or session_id in self.sessions

    @property
    def covers_all(self) -> bool:
        """Whether it proves that for every session."""
        return self.by is not Shown.ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Who listens at a server's address, as far as it can be seen from here.

    Attributes:
        sockets: the visible processes that have each of the sockets; any of them may be the one that answers.
        hidden: another process may answer: it can't be seen, listens elsewhere, or can't be told from these.
        databases: those of them that have some database open.
        what: a name for them, for people.
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
"""Stands in the place of a folder for a server that gives one answer for all folders, as a Python host does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerReport(Telling):
    """What one server answered in one round of questions.

    Attributes:
        pid: the process that listens at its address, if it is visible.
        born_ms: when that process was born: with its pid, its identity.
        vouches: its silence about a session means something: version 1.14 or later, or an embedded host.
        known: its version is one of those that were measured.
        problem: why it gave no usable answer to anything, or None.
        problems: for each directory without an answer, why it gave none. `EVERYWHERE` stands for all of them.
        statuses: for each directory that answered, the sessions that are not idle.
        asks: for each directory that answered, the asks that wait for a human.
        served: the proof that it serves this very file. Without it, it has said nothing: no claim, no denial, no
            asks.
        not_shown: why that is not proven, a sentence for people; None if it is, or if nobody had to know.
        witness: how well its feed was heard; None if it has none.
        life: the last sign of life of each session on the feed.
        said: the same as `statuses`, by session, in the order of the directories' names.
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
            raise ValueError(f"{self.name} is not proven to serve this database: what it says is not of it")
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
        """Whether it answers although its feed has delivered nothing for long."""
        return self.problem is None and self.witness is not None and self.witness.deaf is not None

    @property
    def trouble(self) -> str | None:
        """What prevented its answers, a sentence: everywhere, or else in one directory or another."""
        if self.problem is not None or not self.problems:
            return self.problem
        first = next(iter(self.problems.values()))
        if not self.statuses or EVERYWHERE in self.problems:
            return first
        return f"{first} It answers about other folders; this is about {' and '.join(sorted(self.problems))}."

    def against(self, session: Session) -> str | None:
        """Why its words or its silence about a session are no answer; None if they are one."""
        if self.problem is not None:
            return self.problem
        for directory in (EVERYWHERE, *session.directories) if self.problems else ():
            if directory in self.problems:
                return self.problems[directory]
        if self.served is not None and not self.served.covers(session.id):
            return f"Whether session {session.id} of {self.name} is the one in this database can't be told."
        return None

    def serves(self, session_id: SessionId) -> bool:
        """Whether it is proven that its words about this session are about the one in this database."""
        return self.served is not None and self.served.covers(session_id)

    def about(self, session_ids: Collection[SessionId]) -> "ServerReport":
        """What it said of these sessions alone."""
        return replace(
            self,
            statuses={
                where: {id_: told for id_, told in statuses.items() if id_ in session_ids}
                for where, statuses in self.statuses.items()
            },
            asks={
                where: tuple(ask for ask in asks if ask.session_id in session_ids)
                for where, asks in self.asks.items()
            },
            life={id_: moment for id_, moment in self.life.items() if id_ in session_ids},
        )

    def shown_for(self, session_id: SessionId) -> "Served | str":
        """The proof that it serves this database, for a session; or why there is none, as a sentence."""
        if self.served is not None and self.served.covers(session_id):
            return self.served
        return self.not_shown or self.trouble or f"Whether {self.name} uses this database can't be told."

    def answered(self, directory: str) -> bool:
        """Whether it said what it is at work on in a directory, and which asks wait for a human there."""
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
    """A server as a process: its pid and its birth if they can be seen."""

    server: ServerName
    pid: int | None = None
    born_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """The attempts for one call or turn.

    Attributes:
        count: attempts that were made and did not work.
        tries: those, and the times when nobody could be reached.
        not_before: when the next one may be made; None for at once.
        given_up: there will be no more before that, unless the server's process is another one.
        newest_prompt_id: the newest user message when the first attempt was made.
        process: the server that was told to abort, if one was.
    """

    count: int = 0
    tries: int = 0
    not_before: Moment | None = None
    given_up: bool = False
    newest_prompt_id: str | None = None
    process: Process | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped(Telling):
    """Why the clocks of a session's calls stand still although they wait for nobody, and since when."""

    told = ("why",)

    why: str
    since: Moment


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """Everything that `judge` may know, gathered in one look.

    Attributes:
        at_ms: when it was gathered, by the wall clock: to show people times, and to compare rows and births with.
        now: the same, on the countable clock: every age counts up to here.
        steady_since_ms: rows created before this were created before the wall clock showed it, as it is set now;
            nothing more is known of their time: the clock may have been set since.
        steady_slack_seconds: how wrong a birth may still be.
        holders: None if nothing needed a proof, or if they could not be looked up.
        call_clocks: for each open call, when its age starts: its waits for a human or a retry are already left out.
        idle_clocks: for each session whose silence somebody can witness, from when its idle time counts. A session
            that is missing here has no witness.
        lives: for each session, the last sign of life that anybody knows of.
        retries: for each session whose server waits for the provider and says until when: that moment.
        looks: for each open call and turn, when the row was first seen as it is now while nobody was known to run it.
            The second look of a proof counts from there.
        attempts: the attempts so far, by the keys of `Verdict.attempt_keys`.
        ask_clocks: for each ask that a server lists, when it was first seen.
        stopped: the sessions whose calls' clocks stand still because a source is silent that would know better.
        on_hold: the sessions that are to be left alone, with a clause that says why; under `EVERYTHING`, all of them.
        let_go: turns that a server was at work on, and let go of at our abort, by the server's name.
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
        """What the wall clock would show at a moment, as it is set now: for people, not for comparisons."""
        return self.at_ms + (moment - self.now) * 1000

    def seconds_since(self, wall_ms: float) -> float:
        """How long ago a wall time is, as the clock is set now: for people, not to be compared with a limit."""
        return (self.at_ms - wall_ms) / 1000
