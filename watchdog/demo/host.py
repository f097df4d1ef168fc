"""The demo's host: it runs sessions in this process, and writes to the database what opencode would write."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anyio.abc import TaskGroup

from watchdog.demo.book import DIRECTORY, Book, Entry, Json
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status, TurnId
from watchdog.ports import Clock

CALL_ABORTED = "Tool execution aborted"
TASK_CANCELLED = "Task cancelled"
TURN_ABORTED = "The operation was aborted."

_LIFE_SECONDS = 0.2
_CLOSING_SECONDS = 1.6


@dataclass(kw_only=True, slots=True)
class Work:
    """A session that the host is at work on.

    Attributes:
        call: its open tool call.
        asks: the call is a question that waits for a human.
        last_life_ms: its last sign of life, which an embedded host reports to the watchdog.
    """

    session_id: SessionId
    turn: Entry
    last_life_ms: int
    parent_id: SessionId | None = None
    call: Entry | None = None
    asks: bool = False


class DemoHost:
    """Implements `watchdog.ports.Host`, and plays the sessions.

    Args:
        book: the database.
        clock: the time.
        group: where the work of the sessions runs.
    """

    def __init__(self, book: Book, clock: Clock, group: TaskGroup) -> None:
        self._book = book
        self._clock = clock
        self._group = group
        self._running: dict[SessionId, Work] = {}
        self._numbers = itertools.count(1)

    # -- what the watchdog asks ------------------------------------------------------------------------------

    async def statuses(self) -> Mapping[SessionId, Status]:
        """See `Host.statuses`."""
        return {
            work.session_id: Status(activity=Activity.BUSY, last_life_ms=work.last_life_ms)
            for work in self._running.values()
        }

    async def pending_asks(self) -> Sequence[Ask]:
        """See `Host.pending_asks`."""
        return [
            Ask(
                id=f"que_{work.session_id}",
                kind=AskKind.QUESTION,
                session_id=work.session_id,
                turn_id=TurnId(work.turn.id),
                call_ref=str(work.call.data["callID"]),
            )
            for work in self._running.values()
            if work.asks and work.call is not None
        ]

    async def abort(self, session_id: SessionId) -> None:
        """See `Host.abort`: the call and the turn close; a parent's task call, too, and the parent carries on."""
        work = self._running.pop(session_id, None)
        if work is None:
            return
        now = self._now()
        closed = [*self._fail_call(work, CALL_ABORTED), *self._finish_turn(work, aborted=True)]
        parent = self._running.get(work.parent_id) if work.parent_id is not None else None
        if parent is not None:
            closed.extend(self._fail_call(parent, TASK_CANCELLED))
            parent.last_life_ms = now
            self._group.start_soon(self._carry_on, parent)
        await self._book.write(*closed, at_ms=now)

    # -- how sessions begin and end --------------------------------------------------------------------------

    async def begin(
        self, name: str, *, title: str, parent: Work | None = None, ago_seconds: float = 0, text: bool = False
    ) -> Work:
        """Begin a session with a prompt and an open turn, as if it had begun a while ago.

        Args:
            name: the end of the session's id, and of its turn's.
            title: the session's title.
            parent: the session whose task call waits on it.
            ago_seconds: how long ago it began.
            text: the turn has a part of text, empty while it streams.
        """
        began = self._now() - int(ago_seconds * 1000)
        session_id, turn_id = SessionId(f"ses_{name}"), f"msg_{name}"
        prompt: Json = {"role": "user", "time": {"created": began}, "agent": "build"}
        turn: Json = {"role": "assistant", "parentID": f"msg_{name}_prompt", "time": {"created": began}}
        turn |= {"mode": "build", "agent": "build", "path": {"cwd": DIRECTORY, "root": "/"}}
        turn |= {"modelID": "demo", "providerID": "demo"}
        parent_id = parent.session_id if parent is not None else None
        await self._book.add_session(session_id, title=title, parent_id=parent_id, created_ms=began)
        asked = _message(f"msg_{name}_prompt", session_id, began, prompt)
        work = Work(
            session_id=session_id,
            turn=_message(turn_id, session_id, began, turn),
            last_life_ms=began,
            parent_id=parent_id,
        )
        parts = [self._part(work, {"type": "text", "text": ""}, began)] if text else []
        await self._book.write(asked, work.turn, *parts, at_ms=began)
        self._running[session_id] = work
        return work

    async def call(
        self, work: Work, tool: str, input_: Json, *, metadata: Json | None = None, ago_seconds: float = 0
    ) -> None:
        """Open a tool call in a session's turn; one that is still open completes with it."""
        now = self._now()
        began = now - int(ago_seconds * 1000)
        done = self._complete_call(work)
        state: Json = {"status": "running", "input": input_, "time": {"start": began}}
        if metadata is not None:
            state["metadata"] = metadata
        data: Json = {"type": "tool", "tool": tool, "callID": f"call_{next(self._numbers)}", "state": state}
        work.call = self._part(work, data, began)
        work.last_life_ms = began
        await self._book.write(*done, work.call, at_ms=began)

    def crash(self, work: Work) -> None:
        """Forget a session, as a crash does: what is open in the database stays open."""
        del self._running[work.session_id]

    # -- what sessions do ------------------------------------------------------------------------------------

    def stream(self, work: Work, *, seconds: float | None = None) -> None:
        """Stream text, and write none of it; for some seconds, or until the session ends."""
        self._group.start_soon(self._stream, work, seconds)

    def call_later(self, work: Work, tool: str, input_: Json, *, after_seconds: float) -> None:
        """Open a tool call in a while."""
        self._group.start_soon(self._call_later, work, tool, input_, after_seconds)

    def work_through(self, work: Work, commands: Sequence[str], *, each_seconds: float) -> None:
        """Run one command after another, over and over."""
        self._group.start_soon(self._work_through, work, commands, each_seconds)

    async def _stream(self, work: Work, seconds: float | None) -> None:
        began = self._clock.read().awake_seconds
        while self._is_running(work):
            if seconds is not None and self._clock.read().awake_seconds - began >= seconds:
                return
            work.last_life_ms = self._now()
            await self._clock.sleep(_LIFE_SECONDS)

    async def _call_later(self, work: Work, tool: str, input_: Json, after_seconds: float) -> None:
        await self._clock.sleep(after_seconds)
        if self._is_running(work):
            await self.call(work, tool, input_)

    async def _work_through(self, work: Work, commands: Sequence[str], each_seconds: float) -> None:
        for command in itertools.cycle(commands):
            await self._clock.sleep(each_seconds)
            if not self._is_running(work):
                return
            await self.call(work, "bash", {"command": command})

    async def _carry_on(self, parent: Work) -> None:
        """Answer after a cancelled task call, and finish the turn."""
        await self._stream(parent, _CLOSING_SECONDS)
        if self._running.pop(parent.session_id, None) is None:
            return
        now = self._now()
        answer = self._part(parent, {"type": "text", "text": "The task was cancelled; here is the rest."}, now)
        await self._book.write(answer, *self._finish_turn(parent), at_ms=now)

    # -- rows ------------------------------------------------------------------------------------------------

    def _fail_call(self, work: Work, error: str) -> list[Entry]:
        return self._close_call(work, {"status": "error", "error": error})

    def _complete_call(self, work: Work) -> list[Entry]:
        return self._close_call(work, {"status": "completed", "output": "ok", "title": "", "metadata": {}})

    def _close_call(self, work: Work, state: Json) -> list[Entry]:
        call, work.call = work.call, None
        if call is None:
            return []
        before = call.data["state"]
        kept = {"input": before["input"], "metadata": before.get("metadata", {})}
        call.data["state"] = {**kept, **state, "time": {"start": before["time"]["start"], "end": self._now()}}
        return [call]

    def _finish_turn(self, work: Work, *, aborted: bool = False) -> list[Entry]:
        work.turn.data["time"]["completed"] = self._now()
        if aborted:
            work.turn.data["error"] = {"name": "MessageAbortedError", "data": {"message": TURN_ABORTED}}
        else:
            work.turn.data["finish"] = "stop"
        return [work.turn]

    def _part(self, work: Work, data: Json, created_ms: int) -> Entry:
        return Entry(
            table="part",
            id=f"prt_{next(self._numbers):04d}",
            session_id=work.session_id,
            message_id=work.turn.id,
            created_ms=created_ms,
            data=data,
        )

    def _is_running(self, work: Work) -> bool:
        return self._running.get(work.session_id) is work

    def _now(self) -> int:
        return self._clock.read().wall_ms


def _message(id_: str, session_id: SessionId, created_ms: int, data: Json) -> Entry:
    return Entry(table="message", id=id_, session_id=session_id, message_id=id_, created_ms=created_ms, data=data)
