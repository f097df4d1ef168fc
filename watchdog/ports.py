"""What the inner rooms need from the outer ones: the interfaces, in one place."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from watchdog.model.interventions import Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.leftovers import Commands, LeftOver, Member
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
        steady_since_ms: since which time, by the wall clock, that clock is known to have moved with the running
            clock: nobody set it. None if nothing tells.
        steady_slack_seconds: how wrong that may be.
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
    """A clock that also shows countable time."""

    def now(self) -> Moment:
        """What the countable clock shows now."""
        ...


class Store(Protocol):
    """opencode's database. Every method raises `DatabaseError` if it can't be used."""

    async def changed(self) -> bool:
        """Whether anybody committed anything since the last `look`, or the file was replaced."""
        ...

    async def look(
        self, *, also: Collection[SessionId] = (), full: bool = False, scan_parts: bool = False
    ) -> Snapshot:
        """Read what is unfinished at one moment: the new rows, and those that were open when they were last read.

        Args:
            also: sessions to read even if nothing is open in them.
            full: read every turn again, for those that somebody opened again.
            scan_parts: do all of the `search` first.
        """
        ...

    @property
    def searched(self) -> bool:
        """Whether every part was searched for open calls in closed turns."""
        ...

    async def search(self) -> bool:
        """Search some more parts for open calls in closed turns; every look from then on includes these calls.

        Returns:
            Whether there is more to search. A small step; the caller decides when to make the next one.
        """
        ...

    def follow(self, ids: Collection[str]) -> None:
        """Read these parts in every look from now on, wherever they are, until they are closed or gone."""
        ...

    def forget(self) -> None:
        """Start over: the next look reads every turn, and nothing is searched yet. Open rows are not forgotten."""
        ...

    async def session(self, session_id: SessionId) -> Session | None:
        """Read one session and what is open in it, alone. None if there is no such session."""
        ...

    async def family(self, session_ids: Collection[SessionId]) -> Snapshot:
        """Read some sessions and what is open in them, with everything above and below them, finished or not.

        Its cost follows these sessions, and not what else is unfinished.
        """
        ...

    async def directories(self, *, since_ms: int) -> tuple[str, ...]:
        """The directories of the sessions that were touched since then, the most recently used first."""
        ...

    async def rows(self, *, call_ids: Collection[CallId] = (), turn_ids: Collection[TurnId] = ()) -> tuple[Row, ...]:
        """The whole rows of these calls and turns, as they are now, without rows that are gone."""
        ...

    async def below(self, session_ids: Collection[SessionId]) -> frozenset[SessionId]:
        """The sessions below some others, at any depth, finished ones too. In a cycle a session is below itself."""
        ...

    async def queued(self, session_id: SessionId) -> tuple[str, ...]:
        """The ids of a session's prompts that are newer than its newest turn, oldest first."""
        ...

    async def turn_rows(self, turn_id: TurnId) -> tuple[Row, ...]:
        """A whole turn as it is now: the row of the message, and those of all its parts. Empty if it is gone."""
        ...

    async def newest_turn(self, session_id: SessionId) -> TurnId | None:
        """The newest turn of a session, open or not, by (time_created, rowid); None when it has none."""
        ...

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        """Make all of the changes in one short transaction, or none.

        Args:
            writes: the changes, all in one session if `while_newest` is given.
            while_newest: write only while this is the newest turn of the session.

        Returns:
            How many rows changed: all, or 0 if any row no longer reads as it was observed.
        """
        ...

    async def message_exists(self, session_id: SessionId, message_id: str) -> bool:
        """Whether the session has this message, a person's or the model's."""
        ...

    async def titles(self, session_ids: Collection[SessionId]) -> Mapping[SessionId, str]:
        """The titles of these sessions, at most 300 characters each.

        They may quote what was said: never log them.
        """
        ...


class Host(Protocol):
    """The functions of a Python server that has its own sessions watched. It raises if it can't answer."""

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
    """Runs sessions; with all that the ladder asks of it. Every method raises `ServerError` without an answer.

    Everything that changes something takes a `Served`: nothing is sent to a server not proven to serve this database.
    """

    @property
    def name(self) -> ServerName:
        """Its base URL without credentials, or `embedded`."""
        ...

    by_folder: bool
    """Whether it answers for one folder at a time, as opencode does; otherwise each answer is for `EVERYWHERE`."""

    async def statuses(self, directory: str) -> Mapping[SessionId, Status]:
        """The sessions of a directory that are not idle."""
        ...

    async def pending_asks(self, directory: str) -> Sequence[Ask]:
        """The questions and permissions of a directory that wait for a human."""
        ...

    @property
    def leads_to(self) -> tuple[Endpoint, ...]:
        """Where its base URL leads; empty if it has none, or a name whose address no connection has shown yet."""
        ...

    @property
    def own(self) -> Served | None:
        """Proof that it serves this database by its nature: a host that speaks through it.

        Others need another proof.
        """
        ...

    async def listener(self) -> Listener:
        """Who listens at its address."""
        ...

    async def copy(self, session_id: SessionId, turn_id: TurnId, directory: str) -> Sequence[Row] | None:
        """A turn with its parts, as the server has them; None if it has no such turn."""
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
        """Tell its clients about a part that is already written, by writing the identical row again."""
        ...

    async def readable(self, served: Served, session_id: SessionId, directory: str) -> bool:
        """Whether it can read the session's messages. False only for its clear no."""
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
        """Forget what its feed said of all sessions but these."""
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
    """The watchdog's own record. Every method raises `JournalUnusable` if it can't be used."""

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
        """Keep, durably, the rows as they are before the write."""
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
        """What people said to leave alone, as of a moment."""
        ...

    async def unhold(self, session_id: SessionId) -> bool:
        """End a hold. Returns whether there was one."""
        ...

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value under a key."""
        ...

    async def load(self, key: str) -> dict[str, Any] | None:
        """The value that was kept under a key."""
        ...

    async def prune(self, before_ms: int) -> int:
        """Delete the interventions that began before a moment and have ended. Returns how many."""
        ...


class History(Journal, Protocol):
    """A journal that a person reads, and may add holds to."""

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
        """The interventions that match, the newest first; `before` leaves out that one and all later ones."""
        ...

    async def intervention(self, intervention: InterventionId) -> Intervention | None:
        """One intervention, or None if there is none with that number."""
        ...

    async def mark_undone(self, intervention: InterventionId, hold: Hold, *, at_ms: int) -> None:
        """Note that the rows of an intervention were put back, and that the session is on hold from now on."""
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
        """Forget the found servers that have ended since. Called before each look."""
        ...

    async def discover(self, holders: Holders) -> None:
        """Look for servers among the processes that hold the database, and forget those that are gone."""
        ...


class Owners(Protocol):
    """Who has the database open."""

    async def look(self) -> Holders:
        """Look now. Never raises: the answer says what can't be known."""
        ...


class Processes(Protocol):
    """The commands that an opencode started, as processes of this user."""

    async def look(self, *, since_ms: int | None = None, to_tell: bool = False) -> Commands:
        """Look for those that are left over.

        Args:
            since_ms: leave out those that were born earlier.
            to_tell: only to tell of them. Before anything is ended, whoever has the database open is looked up, too.

        Raises:
            DatabaseError: the database, whose calls they belong to, can't be read.
        """
        ...

    async def members(self, left: LeftOver) -> Sequence[Member]:
        """The processes of a command that are there now, with those that it has started since."""
        ...

    async def send(self, left: LeftOver, member: Member, *, kill: bool) -> bool:
        """Ask a process to end, or end it. False if pid and birth are no longer its own."""
        ...
