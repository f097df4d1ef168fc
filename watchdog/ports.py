"""What the inner rooms ask of the outer ones: the interfaces, in one place."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from watchdog.model.interventions import Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.moments import Moment, WallMs
from watchdog.model.outcome import GuardedWrite, Outcome, Row, Step
from watchdog.model.report import Endpoint, Holders, Listener, Served, Witness
from watchdog.model.session import Ask, CallId, ServerName, Session, SessionId, Snapshot, Status, TurnId
from watchdog.model.verdict import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the clocks show at one moment.

    Attributes:
        wall_ms: the wall clock, milliseconds since the Unix epoch.
        awake_seconds: a monotonic clock that stands still while the machine sleeps.
        running_seconds: a monotonic clock that runs on while the machine sleeps.
        steady_since_ms: since which time, as the wall clock showed it, it is known to have moved with the running
            clock: nobody set it. None where nothing tells.
        steady_slack_seconds: by how much that may be wrong.
    """

    wall_ms: WallMs
    awake_seconds: float
    running_seconds: float
    steady_since_ms: WallMs | None = None
    steady_slack_seconds: float = 0.0


class Clock(Protocol):
    """The only source of time."""

    def read(self) -> Reading:
        """Read all clocks at once."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of awake time."""
        ...


class Counter(Clock, Protocol):
    """A clock that shows countable time as well."""

    def now(self) -> Moment:
        """What the countable clock shows now."""
        ...


class Store(Protocol):
    """opencode's database. Every method raises `DatabaseError` when it can't be used."""

    async def changed(self) -> bool:
        """Whether anything was committed by anyone since the last `look`, or the file was replaced."""
        ...

    async def look(
        self, *, also: Collection[SessionId] = (), full: bool = False, scan_parts: bool = False
    ) -> Snapshot:
        """Read what is unfinished, as it is at one moment: what is new, and what was open when it was last read.

        Args:
            also: sessions to read even if nothing is open in them.
            full: read every turn again, for those that somebody opened again.
            scan_parts: do the whole `search` first.
        """
        ...

    @property
    def searched(self) -> bool:
        """Whether every part was looked at for open calls in turns that are closed."""
        ...

    async def search(self) -> bool:
        """Look at some more parts for open calls in turns that are closed: they are part of every look from then on.

        Returns:
            Whether there is more to look at. A small step; the caller decides when to make the next one.
        """
        ...

    def follow(self, ids: Collection[str]) -> None:
        """Read these parts in every look from now on, wherever they are, until they are closed or gone."""
        ...

    def forget(self) -> None:
        """Start over: the next look reads every turn, and nothing is searched yet. What was open is not forgotten."""
        ...

    async def session(self, session_id: SessionId) -> Session | None:
        """Read one session and what is open in it, alone. None when there is no such session."""
        ...

    async def directories(self, *, since_ms: int) -> tuple[str, ...]:
        """The directories of the sessions that were touched since then, the most recently used first."""
        ...

    async def rows(self, *, call_ids: Collection[CallId] = (), turn_ids: Collection[TurnId] = ()) -> tuple[Row, ...]:
        """The whole rows of these calls and turns, as they are now. Rows that are gone are left out."""
        ...

    async def below(self, session_ids: Collection[SessionId]) -> frozenset[SessionId]:
        """The sessions below some others, at any depth, finished ones too. In a cycle a session is below itself."""
        ...

    async def queued(self, session_id: SessionId) -> tuple[str, ...]:
        """The ids of a session's prompts that are newer than its newest turn, oldest first."""
        ...

    async def turn_rows(self, turn_id: TurnId) -> tuple[Row, ...]:
        """A whole turn as it is now: the row of the message, and those of all its parts. Nothing if it is gone."""
        ...

    async def newest_turn(self, session_id: SessionId) -> TurnId | None:
        """The newest turn of a session, open or not, by (time_created, rowid); None when it has none."""
        ...

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        """Make all of the changes in one short transaction, or none.

        Args:
            writes: the changes, all of one session where `while_newest` is given.
            while_newest: write only while this is the newest turn of the session.

        Returns:
            How many rows changed: all, or 0 when any row no longer reads as it was observed.
        """
        ...

    async def message_exists(self, session_id: SessionId, message_id: str) -> bool:
        """Whether the session has this message, of a person or of the model."""
        ...

    async def titles(self, session_ids: Collection[SessionId]) -> Mapping[SessionId, str]:
        """What opencode calls these sessions, at most 300 characters each. It may be what was said: never log it."""
        ...


class Host(Protocol):
    """What a Python server implements to have its own sessions watched. What it can't answer raises."""

    async def statuses(self) -> Mapping[SessionId, Status]:
        """The sessions that are not idle: all that run here."""
        ...

    async def pending_asks(self) -> Sequence[Ask]:
        """All questions and permissions that wait for a human."""
        ...

    async def abort(self, session_id: SessionId) -> None:
        """End what the session does now."""
        ...


class Server(Protocol):
    """Who runs sessions, with all that the ladder asks of it. Every method raises `ServerError` without an answer.

    Whatever changes something takes a `Served`: it is sent to no server that was not shown to serve this database.
    """

    @property
    def name(self) -> ServerName:
        """Its base URL without credentials, or `embedded`."""
        ...

    by_folder: bool
    """Whether it answers for one folder at a time, as opencode does; else each answer is for `EVERYWHERE`."""

    async def statuses(self, directory: str) -> Mapping[SessionId, Status]:
        """The sessions of a directory that are not idle."""
        ...

    async def pending_asks(self, directory: str) -> Sequence[Ask]:
        """The questions and permissions of a directory that wait for a human."""
        ...

    @property
    def leads_to(self) -> tuple[Endpoint, ...]:
        """Where its base URL leads; empty when it has none, or a name that no connection has told of yet."""
        ...

    @property
    def own(self) -> Served | None:
        """That it serves this database by what it is: a host that speaks through it. Of others it has to be shown."""
        ...

    async def listener(self) -> Listener:
        """Who listens at its address."""
        ...

    async def copy(self, session_id: SessionId, turn_id: TurnId, directory: str) -> Sequence[Row] | None:
        """A turn with its parts, as the server has them; None where it has no such turn."""
        ...

    async def abort(self, served: Served, session_id: SessionId, directory: str) -> None:
        """End what the session does now."""
        ...

    async def vouches(self) -> bool:
        """Whether its silence about a session means something: version 1.14 up to 2, or embedded."""
        ...

    async def known(self) -> bool:
        """Whether its version is one whose behaviour was measured: 1.2 up to 2, or embedded."""
        ...

    async def reject(self, served: Served, ask: Ask, directory: str) -> None:
        """Turn down a question or a permission, as a person would."""
        ...

    async def publish(self, served: Served, row: Row, directory: str) -> None:
        """Tell its clients of a part that is already written, by writing the identical row again."""
        ...

    async def readable(self, served: Served, session_id: SessionId, directory: str) -> bool:
        """Whether the session's messages can be read through it. False only for its clear word that not."""
        ...

    async def delete_message(self, served: Served, session_id: SessionId, message_id: str, directory: str) -> None:
        """Delete a message."""
        ...

    def witness(self) -> Witness | None:
        """How well its event feed is heard, or None without a feed."""
        ...

    def life(self) -> Mapping[SessionId, Moment]:
        """The last sign of life of each session on its feed."""
        ...

    def forget(self, keep: Collection[SessionId]) -> None:
        """Forget what its feed told of all sessions but these."""
        ...

    def busy_directories(self) -> Collection[str]:
        """The directories in which its feed shows a session at work."""
        ...


class Hosting(Server, Protocol):
    """A server that speaks through this very database."""

    @property
    def own(self) -> Served:
        """See `Server.own`."""
        ...


class Journal(Protocol):
    """The watchdog's own record. Every method raises `JournalUnusable` when it can't be used."""

    async def begin(
        self,
        verdict: Verdict,
        *,
        at_ms: int,
        actor: Actor = Actor.WATCHDOG,
        reason: str | None = None,
        about_to: Step | None = None,
    ) -> InterventionId:
        """Note, durably, that an intervention begins, and what is about to be sent to a server."""
        ...

    async def keep(self, intervention: InterventionId, writes: Sequence[GuardedWrite]) -> None:
        """Keep, durably, the rows as they are before they are written."""
        ...

    async def end(self, intervention: InterventionId, outcome: Outcome, *, at_ms: int) -> None:
        """Note how an intervention ended."""
        ...

    async def begun(self) -> Sequence[Intervention]:
        """The interventions that have no outcome."""
        ...

    async def kept(self, intervention: InterventionId) -> Sequence[Kept]:
        """The rows that an intervention wrote, or was about to write."""
        ...

    async def holds(self, now_ms: int) -> Mapping[SessionId, Hold]:
        """What people said to leave alone, as it stands at a moment."""
        ...

    async def unhold(self, session_id: SessionId) -> bool:
        """End a hold. Returns whether there was one."""
        ...

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value under a key."""
        ...

    async def load(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key."""
        ...

    async def prune(self, before_ms: int) -> int:
        """Forget the interventions that began before a moment and have ended. Returns how many."""
        ...


class History(Journal, Protocol):
    """A journal that a person reads, and says something to."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        ...

    async def interventions(
        self,
        *,
        session_id: SessionId | None = None,
        since_ms: int | None = None,
        before: InterventionId | None = None,
        limit: int | None = None,
    ) -> Sequence[Intervention]:
        """The interventions that fit, the newest first; `before` leaves out that one and all later ones."""
        ...

    async def intervention(self, intervention: InterventionId) -> Intervention | None:
        """One intervention, or None if there is none of that number."""
        ...

    async def mark_undone(self, intervention: InterventionId, hold: Hold, *, at_ms: int) -> None:
        """Note that the rows of an intervention were put back, and that the session is left alone from now on."""
        ...

    async def hold(self, hold: Hold) -> None:
        """Leave a session alone, or everything; a later hold replaces an earlier one."""
        ...


class Fleet(Protocol):
    """The servers that can be asked."""

    def servers(self) -> Sequence[Server]:
        """The configured ones and those found so far."""
        ...

    async def refresh(self) -> None:
        """Forget the servers that were found and have ended since. Asked before each look."""
        ...

    async def discover(self, holders: Holders) -> None:
        """Look for servers among the processes that hold the database, and forget those that are gone."""
        ...


class Owners(Protocol):
    """Who has the database open."""

    async def look(self) -> Holders:
        """Look now. Never raises: what can't be told is said in the answer."""
        ...
