"""How a server works on a prompt, step by step, as the script has it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulation.work import Item, Run, Session, limit_of

if TYPE_CHECKING:
    from simulation.servers import Process

Step = Mapping[str, Any]
_PING_SECONDS = 60.0
_DECLARE_NOTHING = frozenset({"write", "edit", "task", "question", "read"})
"""opencode's own tools that take no timeout, of those that are used here."""


class Drive:
    """One prompt's work.

    Steps, each a mapping with `do`:

    - `text`: streams for `seconds`, with a sign of life every `gap`;
    - `silent`: the model thinks for `seconds` without any sign; `hang`: for ever;
    - `retry`: the provider makes it wait for `seconds`, or lets it wait `forever`;
    - `compact`: as `text`, in a turn of its own;
    - `calls`: tool calls side by side, each with `tool`, and `pending`, `ask`, `child`, `run`, `output`, `timeout`.
    """

    def __init__(self, process: "Process", run: Run, steps: Sequence[Step]) -> None:
        self.process = process
        self.world = process.world
        self.run = run
        self.steps = steps
        self.refused = False
        """Something was turned down: what is at work beside it ends, and then the turn (measured)."""

    async def go(self) -> None:
        """Do all of it."""
        for step in self.steps:
            if self.run.turn is None:
                self._open_turn(summary=step["do"] == "compact")
            await getattr(self, f"_{step['do']}")(step)
            if self.refused:
                break
            if step["do"] in {"calls", "compact"}:
                self._close_turn()
        self._close_turn()
        self.process.finish(self.run)

    # -- rows ------------------------------------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        return self.run.session

    def _open_turn(self, *, summary: bool) -> None:
        if not self._session.gone:
            more = {"summary": True} if summary else None
            at = self.world.wall_ms
            self.run.turn = self.world.rows.turn(self._session.id, at=at, cwd=self._session.directory, more=more)
        self._live("message.updated")

    def _close_turn(self) -> None:
        if self.run.turn is not None and not self._session.gone:
            self.world.rows.finish_turn(self.run.turn, at=self.world.wall_ms)
        self.run.turn = None
        self.run.calls.clear()
        self._live("message.updated")

    def _live(self, kind: str, **properties: object) -> None:
        self.world.note_justified(self.run)
        if not (self._session.gone and kind == "message.updated"):  # usage is told so, too, and nobody reads its rows
            self.run.life = self.world.now
        self.process.tell(self._session, kind, **properties)

    # -- what streams ----------------------------------------------------------------------------------------------

    async def _text(self, step: Step) -> None:
        part = None
        if self.run.turn is not None and not self._session.gone:
            part = self.world.rows.text(self.run.turn, at=self.world.wall_ms)
        self._live("message.part.updated")
        item = self._begin(Item("stream", self.world.now))
        left = float(step["seconds"])
        while left > 0:
            await asyncio.sleep(min(left, step["gap"]))
            left -= step["gap"]
            self._live("message.part.delta")
        self._end(item)
        if part is not None and not self._session.gone:
            self.world.rows.set("part", part, time_updated=self.world.wall_ms)
        self._live("message.part.updated")

    _compact = _text

    async def _silent(self, step: Step) -> None:
        item = self._begin(Item("stream", self.world.now))
        await asyncio.sleep(step["seconds"])
        self._end(item)

    async def _hang(self, _: Step) -> None:
        self._begin(Item("stream", self.world.now, never_ends=True))
        while True:  # a status that is told again, and counters that run, are no life
            await asyncio.sleep(_PING_SECONDS)
            self.process.tell(self._session, "session.status", status={"type": "busy"})
            self.process.tell(self._session, "session.updated", title="more tokens")

    async def _retry(self, step: Step) -> None:
        seconds = float(step["seconds"])
        item = self._begin(Item("retry", self.world.now, due=self.world.now + seconds))
        due = self.process.retries[self._session.id] = self.world.wall_ms + round(seconds * 1000)
        self._live("session.status", status={"type": "retry", "attempt": 1, "message": "later", "next": due})
        await asyncio.sleep(seconds)
        if step.get("forever"):
            item.never_ends = True
            await self.world.for_ever()
        del self.process.retries[self._session.id]
        self._end(item)
        self._live("session.status", status={"type": "busy"})

    # -- calls -----------------------------------------------------------------------------------------------------

    async def _calls(self, step: Step) -> None:
        await asyncio.gather(*(self._call(call) for call in step["calls"]))

    async def _call(self, call: Step) -> None:
        now, tool, turn = self.world.now, str(call["tool"]), self.run.turn
        pending, item = call.get("pending"), Item("call", now, limit=limit_of(dict(call), self.world.setting))
        hangs_pending = pending == "forever"
        if pending is not None and tool not in _DECLARE_NOTHING:
            item.limit = limit_of({"tool": tool, "timeout": 1e9}, self.world.setting)
        item.name = self._put_call(call, turn, status="running" if pending is None else "pending")
        item.late = call.get("late")
        self.run.calls[item.name] = item
        self._begin(item)
        item.never_ends = hangs_pending
        if hangs_pending:
            await self.world.for_ever()
        if pending is not None:
            await asyncio.sleep(float(pending))
            item.limit = limit_of(dict(call), self.world.setting)
            self._write_call(item, lambda state: {**state, "status": "running", **_running(call, self.world.wall_ms)})
        refused = call.get("ask") is not None and not await self._is_allowed(item, call)
        if refused:
            self.refused = True
        elif call.get("child") is not None:
            await self._wait_for_a_child(item, call)
        if not refused:
            await self._execute(item, call)
        if not self._session.gone and turn is not None:
            self._end_call(item, refused=refused)
        self.run.calls.pop(item.name, None)
        self._end(item)
        self._live("message.part.updated")

    async def _execute(self, item: Item, call: Step) -> None:
        """The tool itself: for some seconds, with output now and then, or for ever."""
        left = call.get("run")
        if left is None:
            item.never_ends = True
            await self.world.for_ever()
        left, every = float(left or 0), float(call.get("output") or 0)
        while every and left > every:
            await asyncio.sleep(every)
            left -= every
            number = self.world.now
            self._write_call(item, lambda state, n=number: {**state, "metadata": {"output": f"line {n:.0f}"}})
        await asyncio.sleep(left)

    def _end_call(self, item: Item, *, refused: bool) -> None:
        if refused:
            self.world.rows.close_call(item.name, "The user rejected this.", at=self.world.wall_ms)
        else:
            self.world.rows.finish_call(item.name, at=self.world.wall_ms)

    async def _is_allowed(self, item: Item, call: Step) -> bool:
        """Wait for a person. Returns whether they answered, and did not turn it down."""
        question = call["tool"] == "question"
        self.world.note_justified(self.run)
        since = item.asking_since = self.world.now
        listed = self.process.ask(self.run, item, self.world.call_ref(item.name), question=question)
        answer = self.world.until_calm() if call["ask"] == "forever" else asyncio.sleep(float(call["ask"]))
        await self.world.first_of(answer, listed.turned_down.wait())
        item.asking_since = None
        item.waited += self.world.now - since
        item.waits += 1
        if not listed.turned_down.is_set():
            self.process.answered(listed, "replied")
            self._write_call(item, lambda state: state)  # a tool that goes on says so in its row
        self.run.life = self.world.now
        return not listed.turned_down.is_set()

    async def _wait_for_a_child(self, item: Item, call: Step) -> None:
        child = self.world.new_session(self._session.directory, parent=self._session)
        item.child = child
        self._write_call(item, lambda state: {**state, "metadata": {"sessionId": child.id}})
        self.world.prompt_row(child)
        run = self.process.begin(child, call["child"])
        await self.world.end_of(run)

    def _put_call(self, call: Step, turn: str | None, *, status: str) -> str:
        if turn is None or self._session.gone:
            return self.world.new_id("prt")
        input_ = _running(call, self.world.wall_ms)["input"] if status == "running" else {}
        at = self.world.wall_ms
        id_ = self.world.rows.call(turn, tool=str(call["tool"]), status=status, at=at, input=input_)
        self._live("message.part.updated")
        return id_

    def _write_call(self, item: Item, change: Any) -> None:  # noqa: ANN401 - what becomes of a state
        data = self.world.rows.get("part", item.name)
        if data is not None and not self._session.gone:
            part = self.world.rows.value("part", item.name)
            part["state"] = change(part["state"])
            self.world.rows.set("part", item.name, data=json.dumps(part), time_updated=self.world.wall_ms)
        self._live("message.part.updated")

    def _begin(self, item: Item) -> Item:
        self.world.note_justified(self.run)
        self.run.items.append(item)
        self.run.eased_at = self.world.now
        return item

    def _end(self, item: Item) -> None:
        self.world.note_justified(self.run)
        self.run.items.remove(item)
        self.run.eased_at = self.world.now


def _running(call: Step, at: int) -> dict[str, Any]:
    input_: dict[str, Any] = {"command": "sleep 600"}
    if call.get("timeout") is not None:
        input_["timeout"] = float(call["timeout"]) * 1000
    return {"input": input_, "time": {"start": at}}
