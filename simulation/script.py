"""A world's script: plain data, from which everything follows. It can be written, read, shrunk and pasted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Args = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens.

    Attributes:
        at: when, in awake seconds since the world began.
        what: a name in `world.ACTIONS`.
        args: its arguments, plain values.
    """

    at: float
    what: str
    args: Args = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A process that has a database open.

    Attributes:
        port: where it listens; None for a terminal UI, which listens nowhere.
        version: of opencode.
        copy: it is on a copy of the database: with the same ids, and not with the same file.
        remote: it is on another machine, in a workspace: its rows come into this database, and nobody sees it.
        configured: the watchdog is told of it; else it may discover it.
    """

    port: int | None = 4096
    version: str = "1.18"
    copy: bool = False
    remote: bool = False
    configured: bool = True


@dataclass(frozen=True, slots=True)
class Setting:
    """How the watchdog is set, and what world it stands in. Durations in seconds.

    Attributes:
        latency: about how long an answer takes.
        steady: something tells whether the wall clock was set since the boot.
        drift: by how much faster than the running clock the wall clock goes; negative if slower.
        replicas: so many watchdogs, each on a machine of its own, share the right to act by a lease; 0: there is one,
            by a lock file.
    """

    poll: float = 5.0
    tool_timeout: float = 600.0
    task_timeout: float = 1800.0
    idle_timeout: float = 300.0
    human_timeout: float | None = None
    tool_timeouts: Mapping[str, float | None] = field(default_factory=dict)
    orphan_grace: float = 30.0
    abort_grace: float = 10.0
    max_attempts: int = 3
    max_concurrency: int = 8
    full_scan: float = 600.0
    retention: float = 604_800.0
    latency: float = 0.01
    steady: bool = True
    drift: float = 0.0
    replicas: int = 0
    plans: tuple[Plan, ...] = (Plan(),)


@dataclass(frozen=True, slots=True)
class Script:
    """A world from its beginning to its end.

    Attributes:
        seed: the order of what is ready at the same moment, and how long each answer takes.
        seconds: how long it lasts; from the last `calm` on, nothing goes wrong any more.
    """

    seed: int
    seconds: float
    setting: Setting = field(default_factory=Setting)
    events: tuple[Event, ...] = ()

    def code(self) -> str:
        """The script as Python, to be pasted into a test."""
        events = "\n".join(f"        {event!r}," for event in self.events)
        return (
            f"Script(\n    seed={self.seed},\n    seconds={self.seconds!r},\n    setting={self.setting!r},\n"
            f"    events=(\n{events}\n    ),\n)"
        )
