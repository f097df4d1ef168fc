"""Which limits would have cut nothing that finished, and still have ended what people gave up waiting for. Pure.

A limit is advised only on many calls: at least `ENOUGH` of a tool. It is twice what the longest took that finished,
rounded up, and never below `LOWEST_SECONDS`. A limit that is off stays off: somebody chose that.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from glob import escape
from typing import Final

from watchdog.judging.limits import duration, pattern_of
from watchdog.model.policy import Policy
from watchdog.settings.durations import LONGEST, format_duration
from watchdog.tuning.tally import Judged, Tally, ToolTally, Waited

ENOUGH: Final = 100
LOWEST_SECONDS: Final = 300.0
_HEADROOM: Final = 2.0
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
_STEPS: Final = (
    *(minutes * _MINUTE for minutes in (5, 10, 15, 20, 30, 45)),
    *(hours * _HOUR for hours in (1, 1.5, 2, 3, 4, 6, 8, 12, 18)),
)
_LONGEST_NAME: Final = 200

Value = str | Mapping[str, str]
"""A duration as the settings write it; for `tool_timeouts` one for each pattern."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advised:
    """What is known of one limit.

    Attributes:
        seconds: the limit that would have cut nothing; None where too little is known.
        advised: it is worth a change of the settings.
        ended: how many of those that people gave up it would have ended.
        saved_seconds: how much earlier, all together.
        ended_today: how many today's limit would have ended.
        saved_today_seconds: how much earlier, all together.
    """

    seconds: float | None
    advised: bool
    ended: int
    saved_seconds: float
    ended_today: int
    saved_today_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """The settings that are worth a change.

    Attributes:
        settings: by name.
        limits: what is known of each tool's limit, in the order of the tally's tools.
        idle: what is known of `idle_timeout`.
        notes: why, or why not: a sentence each.
    """

    settings: Mapping[str, Value]
    limits: tuple[Advised, ...]
    idle: Advised
    notes: tuple[str, ...]


def roomy(longest_seconds: float) -> float | None:
    """A limit with headroom over the longest that finished, in a round number; None if no setting is so long."""
    wanted = max(LOWEST_SECONDS, longest_seconds * _HEADROOM)
    step = next((step for step in _STEPS if step >= wanted), None)
    seconds = _DAY * -(-wanted // _DAY) if step is None else step
    return seconds if seconds <= LONGEST.total_seconds() else None


def advise(tally: Tally, *, reserved: Collection[str] = ()) -> Advice:
    """What the history says about the limits.

    Args:
        tally: the history, counted.
        reserved: the names that the table `tool_timeouts` may not hold as they are.
    """
    tools = tally.tools
    limits = tuple(_of_tool(each) for each in tools)
    idle = _of_silence(tally)
    notes = list(_notes(tools, limits))
    settings: dict[str, Value] = {}
    if idle.advised:
        settings["idle_timeout"] = _written(idle.seconds)
        notes.append(_why("idle_timeout", len(tally.silences), "turns were", tally.silences.longest, idle))
    for each, limit in zip(tools, limits, strict=True):
        if limit.advised and each.judged is Judged.TASK:
            settings["task_timeout"] = _written(limit.seconds)
    overrides, refused = _overrides(tools, limits, tally.policy, reserved)
    notes.extend(refused)
    if overrides:
        settings["tool_timeouts"] = overrides
    return Advice(settings=settings, limits=limits, idle=idle, notes=tuple(notes))


def _of_tool(tool: ToolTally) -> Advised:
    measured = len(tool.finished) >= ENOUGH and tool.judged in {Judged.TOOL, Judged.TASK}
    seconds = roomy(tool.needed_seconds) if measured else None
    return _weighed(tool.limit_seconds, seconds, tool.aborted, cuts=tool.would_have_cut)


def _of_silence(tally: Tally) -> Advised:
    """A silence in rows may be a stream, which leaves no trace there: it can only make the limit too long."""
    enough = len(tally.silences) >= ENOUGH
    seconds = roomy(tally.silences.longest or 0.0) if enough else None
    return _weighed(
        tally.policy.idle_timeout_seconds, seconds, [Waited(each, 0.0) for each in tally.given_up], cuts=0
    )


def _weighed(today: float | None, seconds: float | None, aborted: Sequence[Waited], *, cuts: int) -> Advised:
    ended_today, saved_today = _saved(today, aborted)
    ended, saved = _saved(seconds, aborted)
    advised = False
    if seconds is not None and today is not None:
        advised = (seconds < today and saved > saved_today) or (seconds > today and cuts > 0)
    return Advised(
        seconds=seconds,
        advised=advised,
        ended=ended,
        saved_seconds=saved,
        ended_today=ended_today,
        saved_today_seconds=saved_today,
    )


def _saved(limit: float | None, aborted: Iterable[Waited]) -> tuple[int, float]:
    """How many a limit would have ended before people gave up, and how much earlier, in seconds."""
    if limit is None:
        return 0, 0.0
    earlier = [each.seconds - max(limit, each.declared) for each in aborted]
    earlier = [seconds for seconds in earlier if seconds > 0]
    return len(earlier), sum(earlier)


def _overrides(
    tools: Sequence[ToolTally], limits: Sequence[Advised], policy: Policy, reserved: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """The whole table `tool_timeouts`: what is there today and what is new. Empty if nothing is new."""
    table: dict[str, float | None] = dict(policy.tool_timeouts)
    wanted = [
        (pattern_for(tool.tool, reserved), tool, limit)
        for tool, limit in zip(tools, limits, strict=True)
        if limit.advised and tool.judged is Judged.TOOL
    ]
    table.update({pattern: limit.seconds for pattern, _, limit in wanted if pattern is not None})
    after = Policy(tool_timeouts=table)
    notes = []
    for pattern, tool, _ in wanted:
        if pattern is None or pattern_of(tool.tool, after) != pattern:
            notes.append(
                f"No pattern of tool_timeouts names the tool {tool.tool} alone, so no limit is advised for it."
            )
            if pattern is not None and pattern not in policy.tool_timeouts:
                del table[pattern]
    if table == dict(policy.tool_timeouts):
        return {}, notes
    return {pattern: _written(seconds) for pattern, seconds in table.items()}, notes


def pattern_for(tool: str, reserved: Collection[str] = ()) -> str | None:
    """The pattern that stands for one tool; None if its name is too long, or nobody could see what it is."""
    if len(tool) > _LONGEST_NAME or not tool.isprintable() or tool != tool.strip():
        return None
    return f"[{tool[0]}]{tool[1:]}" if tool in reserved else escape(tool)


def _written(seconds: float | None) -> str:
    return format_duration(None if seconds is None else timedelta(seconds=seconds))


def _notes(tools: Sequence[ToolTally], limits: Sequence[Advised]) -> Iterable[str]:
    few = [tool for tool in tools if len(tool.finished) < ENOUGH and tool.judged in {Judged.TOOL, Judged.TASK}]
    for tool, limit in zip(tools, limits, strict=True):
        if limit.advised:
            name = "task_timeout" if tool.judged is Judged.TASK else f"the limit of {tool.tool}"
            yield _why(name, len(tool.finished), f"{tool.tool} calls took", tool.finished.longest, limit)
    if few:
        cut = [tool.tool for tool in few if tool.would_have_cut]
        more = f" Today's limit would have cut some all the same: {', '.join(cut)}." if cut else ""
        many = f"{len(few)} tool{'' if len(few) == 1 else 's'}"
        yield f"Of {many} fewer than {ENOUGH} calls finished, which is too few for advice.{more}"


def _why(name: str, count: int, what: str, longest: float | None, limit: Advised) -> str:
    """Why a limit is advised, and how sure that is: of what was never seen in n cases, up to 3 in n may exist."""
    share = 300 / count
    ended = f" and have ended {limit.ended} that people gave up" if limit.ended else ""
    return (
        f"{name}: {duration(limit.seconds or 0.0)} would have cut none{ended}; {count} {what} at most "
        f"{duration(longest or 0.0)}, so with 95 % certainty fewer than {share:.2g} % take longer than that."
    )
