"""opencode as a process: what it runs, what it answers, what it tells on its feed, and how it dies."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from simulation.driving import Drive
from simulation.script import Plan
from simulation.work import Item, Run, Session
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status, TurnId

if TYPE_CHECKING:
    from simulation.world import World

HEARTBEAT_SECONDS = 10.0
DEAF_AT_FIRST_SECONDS = 0.2
"""A request in the first moments after a server listens is never answered (measured)."""


class Stream:
    """One listener's connection to a feed.

    Args:
        beats: when the next sign of life comes, if it is certain to come.
    """

    def __init__(self, beats: Callable[[], float]) -> None:
        self._beats = beats
        self._within = 0.0
        self._texts: deque[str] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.ended = False

    def put(self, text: str) -> None:
        """Deliver an event."""
        self._texts.append(text)
        self._arrive()

    def end(self) -> None:
        """Cut the line."""
        self.ended = True
        self._arrive()

    async def get(self, within: float) -> str | None:
        """The next event; None at the end.

        Raises:
            TimeoutError: none came within so many seconds.
        """
        if not self._texts and not self.ended:
            loop = asyncio.get_running_loop()
            self._due, self._within = loop.time() + within, within
            if self._timer is None:  # one timer for many events: at its end it sees whether it is due
                self._timer = loop.call_at(self._due, self._ring)
            self._waiter = loop.create_future()
            await self._waiter
        return self._texts.popleft() if self._texts else None

    def close(self) -> None:
        """Listen no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arrive(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ring(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        if self._waiter is None or self._waiter.done():
            return
        due = max(self._due, self._beats() + self._within)
        if due > loop.time():
            self._timer = loop.call_at(due, self._ring)
        else:
            self._waiter.set_exception(TimeoutError())


@dataclass(frozen=True, slots=True)
class Listed:
    """An ask as a server lists it, with the work that waits for the answer."""

    ask: Ask
    directory: str
    run: Run
    item: Item
    turned_down: asyncio.Event


class Process:
    """A process with opencode's database open: a server, or a terminal UI without a port.

    Attributes:
        trouble: how it misbehaves: `silent`, `broken` (500), `garbage`, `deaf` (takes aborts and does nothing); None.
        elsewhere: it has another file open than the one that is watched, with the same ids.
        pretends: the sessions there that it is at work on, with their folders.
        bad_folders: the folders for which it can't answer.
        feed: `flows`, `cut`, or `held` back as by a proxy.
    """

    def __init__(self, world: "World", pid: int, plan: Plan) -> None:
        self.world = world
        self.pid = pid
        self.plan = plan
        self.alive = True
        self.elsewhere = plan.copy
        self.born_at = world.now
        self.born_running = world.machine.running
        self.was_asked = plan.port is None or self.vouches
        self.runs: dict[str, Run] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.retries: dict[str, int] = {}
        self.pretends: set[tuple[str, str]] = set()
        self.asks: list[Listed] = []
        self.trouble: str | None = None
        self.bad_folders: set[str] = set()
        self.feed = "flows"
        self.streams: list[Stream] = []
        self._held: list[str] = []
        self._beating = False
        self._beats_next = -inf
        """When it beats again, where nothing can happen to its feed until then."""

    @property
    def vouches(self) -> bool:
        """Whether its version is 1.14 or later."""
        return tuple(map(int, self.plan.version.split("."))) >= (1, 14)

    @property
    def command(self) -> str:
        """What it is, for people."""
        return "opencode serve" if self.plan.port is not None else "opencode"

    @property
    def holds(self) -> bool:
        """Whether it has the watched file open. A restarted 1.2.27 has none until its first request (measured)."""
        here = not self.elsewhere and not self.plan.remote
        return self.alive and here and (self.was_asked or bool(self.runs))

    @property
    def well(self) -> bool:
        """Whether it answers as it should."""
        return self.alive and self.trouble is None and not self.bad_folders and self.feed == "flows"

    # -- work ------------------------------------------------------------------------------------------------------

    def begin(self, session: Session, steps: Sequence[Mapping[str, Any]]) -> Run:
        """Begin to work on a session."""
        run = session.run = self.runs[session.id] = Run(session, self, self.world.now, life=self.world.now)
        self.world.log("begin", session.id, self.pid)
        self.world.stirred.set()
        self.tell(session, "session.status", status={"type": "busy"})
        self.tasks[session.id] = self.world.spawn(Drive(self, run, steps).go())
        return run

    def finish(self, run: Run) -> None:
        """Be done with a session; a prompt that waited is taken up."""
        session = run.session
        self._drop(run)
        self.tell(session, "session.status", status={"type": "idle"})
        self.tell(session, "session.idle")
        if session.queue:
            self.begin(session, session.queue.pop(0)[1])

    def _drop(self, run: Run) -> None:
        self.world.note_justified(run)
        self.world.log("over", run.session.id, self.pid)
        self.runs.pop(run.session.id, None)
        self.tasks.pop(run.session.id, None)
        self.retries.pop(run.session.id, None)
        run.session.run, run.session.ended_at = None, self.world.now
        run.items.clear()
        self.world.note_end(run)

    def ended_by_abort(self, session: Session) -> list[Run]:
        """What an abort of a session would end: its run, and those that its task calls wait for."""
        run = self.runs.get(session.id)
        if run is None:
            return []
        below = [item.child for item in run.items if item.child is not None]
        return [run, *(each for child in below for each in self.ended_by_abort(child))]

    def abort(self, session: Session) -> None:
        """End what it does with a session, as opencode does: queued prompts are dropped, asks stay listed."""
        session.queue.clear()
        for run in reversed(self.ended_by_abort(session)):
            task = self.tasks.pop(run.session.id, None)
            if task is not None:
                task.cancel()
            self._close_rows(run)
            self._drop(run)
            self.tell(run.session, "session.status", status={"type": "idle"})
        self.tell(session, "session.idle")

    def _close_rows(self, run: Run) -> None:
        """How an abort leaves the rows. Before 1.14 a call that ignores it stays open, and so does its turn."""
        if run.session.gone:
            return
        for call, item in run.calls.items():
            if item.late is not None:
                self.world.later(item.late, partial(self._write_late, run.session, call))
        stay = not self.vouches and any(item.never_ends for item in run.calls.values())
        for call, item in run.calls.items():
            if not (stay and item.never_ends):
                self.world.rows.close_call(call, "Tool execution aborted", at=self.world.wall_ms)
                self.tell(run.session, "message.part.updated")
        if run.turn is not None and not stay:
            self.world.rows.close_turn(run.turn, "MessageAbortedError", at=self.world.wall_ms)

    def _write_late(self, session: Session, call: str) -> None:
        """A tool that did not heed the abort comes to its end, and what it did is written over the aborted call."""
        if self.alive and not self.elsewhere and not session.gone and self.world.rows.get("part", call) is not None:
            self.world.log("late", call)
            self.world.rows.finish_call(call, at=self.world.wall_ms)
            self.tell(session, "message.part.updated")

    def lose_the_file(self) -> None:
        """Another file is put in the place of the one that it has open. It goes on with the removed one."""
        self.pretends.update((run.session.id, run.session.directory) for run in self.runs.values())
        self.elsewhere = True
        self._end_all()

    def crash(self) -> None:
        """Die: what it ran stays open for ever, its asks are gone, its feed is cut."""
        self.alive = False
        self._end_all()
        self.cut()

    def _end_all(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        for run in [*self.runs.values()]:
            run.session.queue.clear()
            self._drop(run)
        self.asks.clear()

    # -- answers ---------------------------------------------------------------------------------------------------

    def statuses(self, directory: str) -> dict[SessionId, Status]:
        """What it is at work on in a folder."""
        found = {SessionId(id_): Status(activity=Activity.BUSY) for id_, where in self.pretends if where == directory}
        for id_, run in self.runs.items():
            if run.session.directory == directory:
                due = self.retries.get(id_)
                activity = Activity.BUSY if due is None else Activity.RETRY
                found[SessionId(id_)] = Status(activity=activity, retry_at_ms=due)
        return found

    def listed(self, directory: str) -> tuple[Ask, ...]:
        """What it says that people are asked in a folder."""
        return tuple(each.ask for each in self.asks if each.directory == directory)

    def ask(self, run: Run, item: Item, call_ref: str, *, question: bool) -> Listed:
        """Ask a person for something."""
        ask = Ask(
            id=self.world.new_id("per"),
            kind=AskKind.QUESTION if question else AskKind.PERMISSION,
            session_id=SessionId(run.session.id),
            turn_id=None if run.turn is None else TurnId(run.turn),
            call_ref=call_ref,
        )
        listed = Listed(ask, run.session.directory, run, item, asyncio.Event())
        self.asks.append(listed)
        self.world.log("ask", ask.id, item.name)
        self.tell(run.session, f"{ask.kind.value}.asked")
        return listed

    def answered(self, listed: Listed, how: str) -> None:
        """It was `replied` to, or `rejected`. One whose session was aborted meanwhile stays listed (measured)."""
        self.asks.remove(listed)
        self.world.log(how, listed.ask.id)
        self.tell(listed.run.session, f"{listed.ask.kind.value}.{how}")

    # -- the feed --------------------------------------------------------------------------------------------------

    def listen(self) -> Stream | None:
        """A new listener's connection; None where none can be made."""
        if not self.alive or self.feed == "cut" or self.trouble in {"silent", "broken", "garbage"}:
            return None
        stream = Stream(lambda: self._beats_next)
        self.streams.append(stream)
        self._send('{"payload":{"type":"server.connected","properties":{}}}', [stream])
        if not self._beating:
            self._beating = True
            self._beat_later()
        return stream

    def tell(self, session: Session, kind: str, **properties: object) -> None:
        """Publish an event about a session."""
        if self.streams and not self.elsewhere:
            payload = {"type": kind, "properties": {"sessionID": session.id, **properties}}
            self._send(json.dumps({"directory": session.directory, "payload": payload}), self.streams)

    def cut(self) -> None:
        """End every listener's connection."""
        for stream in self.streams:
            stream.end()
        self.streams.clear()
        self._held.clear()

    def let_flow(self) -> None:
        """Deliver what was held back, and go on."""
        self.feed = "flows"
        held, self._held = self._held, []
        for text in held:
            self._send(text, self.streams)

    def _beat(self) -> None:
        if not self.streams or not self.alive:
            self._beating = False
            return
        self._send('{"payload":{"type":"server.heartbeat","properties":{}}}', self.streams)
        self._beat_later()

    def _beat_later(self) -> None:
        """Beat again: a beat that another one follows, before anything can happen to the feed, changes nothing."""
        skipped = max(0, ceil((self.world.undisturbed_until - self.world.now) / HEARTBEAT_SECONDS) - 2)
        pause = HEARTBEAT_SECONDS * (1 + skipped)
        self._beats_next = self.world.now + pause if skipped else -inf
        self.world.later(pause, self._beat)

    def _send(self, text: str, streams: Sequence[Stream]) -> None:
        if self.trouble == "silent":
            return  # a process that stands still sends nothing
        if self.feed == "held":
            self._held.append(text)
            return
        for stream in streams:
            stream.put(text)
