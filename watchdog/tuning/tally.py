"""The history, counted as it is read: durations by tool, and what today's limits would have cut. Pure.

A call is judged as the watchdog judges it: by the limit of its tool, lengthened by what the call declares; a task
with a subagent by `task_timeout` and its silence; a question by `human_timeout`; a person's own command by
`shell_timeout`.
"""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from watchdog.judging.limits import declared_limit, tool_limit
from watchdog.model.past import Ending, PastCall, PastTurn
from watchdog.model.policy import Policy
from watchdog.model.session import QUESTION, TASK
from watchdog.tuning.silences import last_silence, longest_silence, silences
from watchdog.tuning.spans import Spans

PERSONAL: Final = "a person's own command"


class Judged(StrEnum):
    """By which rule a call is judged."""

    TOOL = "tool"
    TASK = "task"
    QUESTION = "question"
    PERSONAL = "personal"


class Waited(NamedTuple):
    """A call that people gave up waiting for: for how long, and what it declared as its own limit, in seconds."""

    seconds: float
    declared: float


class Cut(NamedTuple):
    """A call that finished, and that a limit of today would have ended before."""

    session_id: str
    part_id: str
    tool: str
    began_ms: int
    seconds: float
    limit_seconds: float


class LeftOpen(NamedTuple):
    """An open turn, or a turn with open calls.

    Attributes:
        calls: how many of its calls are open.
        is_open: it is open itself.
        last_ms: when it was last written.
        newest: no newer turn of its session exists: somebody may be at work on it.
    """

    session_id: str
    calls: int
    is_open: bool
    began_ms: int
    last_ms: int
    newest: bool


@dataclass(kw_only=True)
class ToolTally:
    """The calls of one tool that are judged by one rule.

    Attributes:
        limit_seconds: today's limit; None for none.
        finished: how long those took that ended by themselves.
        needed_seconds: the longest that no timeout of its own allowed for: a lower limit would have cut it.
        would_have_cut: how many today's limit would have cut.
        aborted: those that people gave up.
        declined: how long those waited that a person turned down in the end.
        settled: how many were settled because nobody executed them.
    """

    tool: str
    judged: Judged
    limit_seconds: float | None
    finished: Spans = field(default_factory=Spans)
    needed_seconds: float = 0.0
    would_have_cut: int = 0
    aborted: list[Waited] = field(default_factory=list)
    declined: Spans = field(default_factory=Spans)
    settled: int = 0


class LongTask(NamedTuple):
    """A task that took longer than `task_timeout`: whether it would have been cut depends on its subagent."""

    session_id: str
    call: PastCall


class Tally:
    """Counts turns as they come.

    Args:
        policy: today's limits.
        by_watchdog: the calls that the watchdog aborted itself, as its journal has it: nobody gave those up.

    Attributes:
        turns: how many began.
        calls: how many there are, open ones included.
        by_watchdog: how many calls the watchdog had ended.
        silences: the longest silence of each turn that ended by itself.
        idle_cuts: how many of them were longer than `idle_timeout`.
        given_up: how long those turns were silent before they were aborted that had no call open then.
        long_tasks: what `judge_task` has to be asked about.
        cuts: the calls that today's limits would have cut.
    """

    def __init__(self, policy: Policy, *, by_watchdog: Collection[str] = ()) -> None:
        self.policy = policy
        self.turns = self.calls = self.unreadable = self.by_watchdog = self.idle_cuts = 0
        self.silences = Spans()
        self.given_up: list[float] = []
        self.long_tasks: list[LongTask] = []
        self.cuts: list[Cut] = []
        self._ended_by_watchdog = frozenset(by_watchdog)
        self._tools: dict[tuple[str, Judged], ToolTally] = {}
        self._newest: dict[str, int] = {}
        self._open: list[LeftOpen] = []
        self._begun = array("q")

    def take(self, turn: PastTurn) -> None:
        """Count a turn."""
        self.turns += 1
        self._begun.append(turn.began_ms)
        if turn.began_ms >= self._newest.get(turn.session_id, turn.began_ms):
            self._newest[turn.session_id] = turn.began_ms
        still_open = 0
        for call in turn.calls:
            self.calls += 1
            if call.ending is Ending.OPEN:
                still_open += 1
            else:
                self._take_call(turn, call)
        if turn.completed_ms is None or still_open:
            last = max([turn.began_ms, *turn.marks])
            is_open = turn.completed_ms is None
            self._open.append(LeftOpen(turn.session_id, still_open, is_open, turn.began_ms, last, newest=is_open))
        else:
            self._take_silence(turn)

    def _take_silence(self, turn: PastTurn) -> None:
        if turn.aborted:
            if silent := last_silence(turn):
                self.given_up.append(silent / 1000)
            return
        longest = longest_silence(turn)
        self.silences.add(longest)
        limit = self.policy.idle_timeout_seconds
        self.idle_cuts += limit is not None and longest / 1000 >= limit

    def _take_call(self, turn: PastTurn, call: PastCall) -> None:
        tally = self._tally(call)
        milliseconds = (call.ended_ms or 0) - call.began_ms
        seconds = milliseconds / 1000
        declared = 0.0
        if call.declared_seconds and tally.judged is Judged.TOOL:
            declared = declared_limit(call.declared_seconds, self.policy)
        if call.ending is Ending.SETTLED:
            tally.settled += 1
        elif call.ending is Ending.DECLINED:
            tally.declined.add(milliseconds)
        elif call.id in self._ended_by_watchdog:
            self.by_watchdog += 1
        elif call.ending is Ending.ABORTED:
            tally.aborted.append(Waited(seconds, declared))
        else:
            tally.finished.add(milliseconds)
            if seconds >= declared and seconds > tally.needed_seconds:
                tally.needed_seconds = seconds
            self._judge(turn, call, tally, seconds, declared)

    def _judge(self, turn: PastTurn, call: PastCall, tally: ToolTally, seconds: float, declared: float) -> None:
        limit = tally.limit_seconds
        if tally.judged is Judged.TASK:
            limits = (self.policy.task_timeout_seconds, self.policy.task_hard_timeout_seconds)
            if any(limit is not None and seconds >= limit for limit in limits):
                self.long_tasks.append(LongTask(turn.session_id, call))
        elif limit is not None and seconds >= max(limit, declared):
            self._cut(turn.session_id, call, tally, max(limit, declared))

    def judge_task(self, task: LongTask, below: Sequence[PastTurn]) -> None:
        """Judge a task that took long, now that its subagent's turns are known.

        `task_hard_timeout` ends it in any case, `task_timeout` once its subagent is silent for `idle_timeout`.
        """
        call = task.call
        policy, tally = self.policy, self._tally(call)
        ended, hard = call.ended_ms or call.began_ms, policy.task_hard_timeout_seconds
        moments = [] if hard is None else [call.began_ms + hard * 1000]
        if policy.task_timeout_seconds is not None and policy.idle_timeout_seconds is not None:
            soft, idle = call.began_ms + policy.task_timeout_seconds * 1000, policy.idle_timeout_seconds * 1000
            silent = [(max(soft, each.began_ms + idle), each.ended_ms) for turn in below for each in silences(turn)]
            moments.extend(judged for judged, ended_ms in silent if judged < ended_ms)
        if moments and min(moments) <= ended:
            self._cut(task.session_id, call, tally, (min(moments) - call.began_ms) / 1000)

    def _cut(self, session_id: str, call: PastCall, tally: ToolTally, limit: float) -> None:
        tally.would_have_cut += 1
        seconds = ((call.ended_ms or 0) - call.began_ms) / 1000
        self.cuts.append(Cut(session_id, call.id, call.tool, call.began_ms, seconds, limit))

    def _tally(self, call: PastCall) -> ToolTally:
        judged = _judged(call)
        tally = self._tools.get((call.tool, judged))
        if tally is None:
            tally = ToolTally(tool=call.tool, judged=judged, limit_seconds=_limit(call.tool, judged, self.policy))
            self._tools[call.tool, judged] = tally
        return tally

    @property
    def sessions(self) -> int:
        """How many sessions had a turn."""
        return len(self._newest)

    @property
    def tools(self) -> list[ToolTally]:
        """The tools, the most used first."""
        return sorted(self._tools.values(), key=lambda each: (-len(each.finished), each.tool, each.judged))

    @property
    def aborted(self) -> Spans:
        """How long people waited for the calls that they gave up."""
        found = Spans()
        for tool in self._tools.values():
            for each in tool.aborted:
                found.add(round(each.seconds * 1000))
        return found

    def left_open(self) -> Iterator[LeftOpen]:
        """What is open, the oldest last written first."""
        for each in sorted(self._open, key=lambda each: each.last_ms):
            yield each._replace(newest=each.newest and each.began_ms >= self._newest[each.session_id])

    @property
    def begun(self) -> Sequence[int]:
        """When turns began, in order."""
        return array("q", sorted(self._begun))


def _judged(call: PastCall) -> Judged:
    if call.personal:
        return Judged.PERSONAL
    if call.tool == TASK and call.child_id is not None:
        return Judged.TASK
    return Judged.QUESTION if call.tool == QUESTION else Judged.TOOL


def _limit(tool: str, judged: Judged, policy: Policy) -> float | None:
    match judged:
        case Judged.PERSONAL:
            return policy.shell_timeout_seconds
        case Judged.TASK:
            return policy.task_timeout_seconds
        case Judged.QUESTION:
            return policy.human_timeout_seconds
        case Judged.TOOL:
            return tool_limit(tool, policy)
