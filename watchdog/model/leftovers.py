"""The commands that an opencode started, the calls that may have started them, and what is left over."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from posixpath import basename
from typing import TypeAlias

from watchdog.model.session import CallId, SessionId
from watchdog.shown import Telling


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One process of a command. Its identity is its pid and its birth.

    Attributes:
        birth: when it started, in the kernel's ticks since the boot: to be compared with other births.
        words: its command line.
        folder: where it works; None if that can't be read.
        ignores_hangup: it goes on when its terminal is closed, as `nohup` makes it.
    """

    pid: int
    birth: int
    words: tuple[str, ...]
    folder: str | None = None
    memory_bytes: int = 0
    ignores_hangup: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command: the processes of one session (`setsid`) that carry the `OPENCODE_PID` of one opencode.

    Attributes:
        born_ms: when its first process started, by the wall clock as it is set now.
        opencode_lives: whether that opencode goes on, by pid and birth; None if nobody can tell.
        opencode_holds: whether that opencode has this database open; not if nobody can tell.
        led: the process that it began with is still there.
        members: all of its processes; the first one stands for it.
        listens: the ports on which it listens.
        writes: it has a file open for writing.
        keep: why it is never ended: a clause; None if nothing forbids it.
    """

    session: int
    born_ms: int
    opencode_pid: int
    opencode_lives: bool | None
    opencode_holds: bool
    led: bool
    members: tuple[Member, ...]
    listens: tuple[int, ...] = ()
    writes: bool = False
    keep: str | None = None

    @property
    def first(self) -> Member:
        """The process that stands for it: the one that it began with, or the oldest that is left."""
        return self.members[0]

    @property
    def line(self) -> str:
        """Its command line, for people."""
        return " ".join(self.first.words).strip() or "(no command line)"

    @property
    def name(self) -> str:
        """Its program, without any argument that could hold a secret."""
        # A process may write a whole line in the place of its name.
        return next(iter(basename(self.first.words[0]).split()), "process")

    @property
    def memory_bytes(self) -> int:
        """The memory of all of its processes."""
        return sum(each.memory_bytes for each in self.members)


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandCall:
    """A call that runs a command, open or not.

    Attributes:
        command: what the call runs.
        folders: the folders in which it may have run it.
        created_ms: when its row was created.
        ended_ms: when it ended; None while it is open.
        personal: a person's own command, which no model asked for.
    """

    id: CallId
    session_id: SessionId
    tool: str
    command: str
    folders: frozenset[str]
    created_ms: int
    ended_ms: int | None = None
    personal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOver(Telling):
    """The proof that a command is left over. What ends one needs it.

    `judging.leftovers` makes a new one for each look: nobody else.

    Attributes:
        call: the call that it belongs to, if that can be shown.
        why: a clause: its opencode is gone, or its call is closed.
        stays: why it may have been started to stay: a clause; None if nothing says so.
    """

    told = ("why", "stays")

    command: Command
    why: str
    call: CommandCall | None = None
    stays: str | None = None

    def age_seconds(self, at_ms: float) -> float:
        """How long ago it started: for people, and compared with nothing."""
        return max(0.0, (at_ms - self.command.born_ms) / 1000)

    @property
    def identity(self) -> tuple[int, int]:
        """Its pid and its birth."""
        return self.command.first.pid, self.command.first.birth


@dataclass(frozen=True, kw_only=True, slots=True)
class Commands(Telling):
    """The commands of one look.

    Attributes:
        left: those that are left over.
        problems: what can't be read, a sentence each.
        complete: whether every process was seen that could belong to a call in this database.
        placed: the first processes of the commands that belong to each call, left over or at work.
        unplaced: when each command was born of which nobody can say to which call it belongs.
        refusal: why none of them may be ended now: a sentence.
    """

    left: tuple[LeftOver, ...] = ()
    problems: tuple[str, ...] = ()
    complete: bool = False
    placed: Mapping[CallId, tuple[int, ...]] = field(default_factory=dict)
    unplaced: tuple[int, ...] = ()
    refusal: str | None = None

    def of(self, call_ids: Collection[CallId]) -> tuple[LeftOver, ...]:
        """Those that belong to some calls."""
        return tuple(each for each in self.left if each.call is not None and each.call.id in call_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A person's word to end a command. Only the command line makes one, after its question."""

    pid: int
    birth: int

    def covers(self, left: LeftOver) -> bool:
        """Whether it is about this command."""
        return left.identity == (self.pid, self.birth)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """Calls that were proven to be executed by nobody, and settled. Only what settles makes one, afterwards."""

    call_ids: frozenset[CallId]

    def covers(self, left: LeftOver) -> bool:
        """Whether a command belongs to one of them, and was not started to stay."""
        return left.call is not None and left.call.id in self.call_ids and left.stays is None


Warrant: TypeAlias = Asked | Settled
"""Why a command may be ended. Without one there is no signal."""
