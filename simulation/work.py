"""Work as the model knows it: who is at what, since when, and from when on it may be ended.

Nothing here is asked of the product. A run is what a server does with a session from a prompt to its end; its items
are what it is at just now. Each item knows from when on it has outlived its limit, in awake time less what it waited.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from simulation.machine import APART_SECONDS
from simulation.script import Setting

if TYPE_CHECKING:
    from simulation.servers import Process

DECLARED_GRACE = 60.0
MOST_DECLARED = 21_600.0


@dataclass(eq=False, slots=True)
class Item:
    """Something that a run is at.

    Attributes:
        kind: `call`, `stream` or `retry`.
        since: when it began.
        limit: how long a call may run; None for no limit.
        due: until when a retry waits.
        asking_since: since when a person is asked for it; None while nobody is.
        waited: for how long people were asked, and how often.
        excused_at: when something last stood against turning down what a person is asked.
        late: how long after an abort it comes to its own end; None if the abort ends it.
        child: the session that a task call started.
        never_ends: it hangs, by the script.
    """

    kind: str
    since: float
    name: str = ""
    limit: float | None = None
    due: float = 0.0
    asking_since: float | None = None
    waited: float = 0.0
    waits: int = 0
    excused_at: float = -inf
    late: float | None = None
    child: "Session | None" = None
    never_ends: bool = False


@dataclass(eq=False, slots=True)
class Session:
    """A session, with whoever is at work on it.

    Attributes:
        run: what is done in it now, and where.
        queue: prompts that wait for the end of it: their ids with their steps.
        parent: the session above it.
        remote: it runs in a workspace on another machine.
        held_until: until when a person wants it left alone; `inf` for ever.
        ok_until: until when ending it was last justified.
        releases: people who wait for its end; with whether they want what is below it ended, too.
        gone: it was deleted.
    """

    id: str
    directory: str
    parent: "Session | None" = None
    remote: bool = False
    run: "Run | None" = None
    queue: list[tuple[str, list[dict[str, object]]]] = field(default_factory=list)
    children: "list[Session]" = field(default_factory=list)
    held_until: float = -inf
    ok_until: float = -inf
    prompted_at: float = -inf
    ended_at: float = -inf
    releases: list[bool] = field(default_factory=list)
    released_at: float = -inf
    released_below: bool = False
    gone: bool = False

    def above(self) -> "Iterator[Session]":
        """The session, and all above it."""
        session: Session | None = self
        while session is not None:
            yield session
            session = session.parent

    def below(self) -> "Iterator[Session]":
        """All sessions below it."""
        for child in self.children:
            yield child
            yield from child.below()


@dataclass(eq=False, slots=True)
class Run:
    """What one server does with a session, from a prompt until it has nothing to do any more.

    Attributes:
        turn: the id of the turn that is open.
        life: when it last showed life that anybody could have heard of, or read.
        aborts: when the watchdog told a server to end it.
        excused_at: when something last stood against ending it, though all that is in it has outlived its limit.
        eased_at: when something in it last began or ended.
    """

    session: Session
    process: "Process"
    began: float
    turn: str | None = None
    calls: dict[str, Item] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    life: float = 0.0
    aborts: list[float] = field(default_factory=list)
    excused_at: float = -inf
    eased_at: float = -inf

    def may_end_at(self, setting: Setting) -> float:
        """From when on it may be ended, if nothing else happens; `inf` while something healthy is in it."""
        if not self.items:
            return self.life + setting.idle_timeout
        return max(self.item_may_end_at(item, setting) for item in self.items)

    def item_may_end_at(self, item: Item, setting: Setting) -> float:
        """From when on one of its items has outlived its limit."""
        if item.kind == "stream":
            return max(self.life, self.session.prompted_at) + setting.idle_timeout
        if item.kind == "retry":
            return max(item.due, self.life) + setting.idle_timeout
        if item.asking_since is not None or (item.child is not None and at_work(item.child)):
            return inf
        if item.child is not None:
            return max(item.since + item.waited, item.child.ended_at) + setting.tool_timeout
        return inf if item.limit is None else item.since + item.waited + item.limit

    def slack(self, setting: Setting) -> float:
        """By how much the watchdog may be early: waits that began and ended between two of its looks."""
        return (
            0.5
            + (2 * APART_SECONDS if setting.replicas else 0.0)
            + sum(item.waits for item in self.items) * (setting.poll + 2.0)
        )

    @property
    def hangs(self) -> bool:
        """Whether it will never end by itself."""
        return bool(self.items) and all(item.never_ends for item in self.items)


def at_work(session: Session) -> bool:
    """Whether somebody is at work on a session or on anything below it."""
    return session.run is not None or any(at_work(child) for child in session.children)


def limit_of(call: dict[str, object], setting: Setting) -> float | None:
    """How long a call may run, by what is promised of limits, in the model's own words."""
    tool, declared = str(call["tool"]), call.get("timeout")
    limit = setting.tool_timeouts.get(tool, setting.tool_timeout)
    if limit is None:
        return None
    if isinstance(declared, int | float):
        return max(limit, min(float(declared), MOST_DECLARED) + DECLARED_GRACE)
    return limit
