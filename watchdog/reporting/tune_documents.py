"""What `tune` prints as JSON."""

from typing import Any

from watchdog.reporting.documents import Document, MaybeMoment, Moment, Seconds, Shape, Text
from watchdog.tuning.advice import ENOUGH, Advised, Value
from watchdog.tuning.report import Tuning
from watchdog.tuning.spans import Spans
from watchdog.tuning.stops import Amount
from watchdog.tuning.tally import Cut, ToolTally

MaybeSeconds = Seconds | None


class Distribution(Shape):
    """How long something took; null where there is nothing to measure."""

    p50_seconds: MaybeSeconds
    p95_seconds: MaybeSeconds
    p99_seconds: MaybeSeconds
    longest_seconds: MaybeSeconds


class Weighed(Shape):
    """What a limit would have done to what people gave up waiting for."""

    gave_up: int
    would_have_ended: int
    would_have_saved_seconds: Seconds
    safe_limit_seconds: MaybeSeconds
    safe_limit_would_have_ended: int
    safe_limit_would_have_saved_seconds: Seconds


class Tool(Distribution, Weighed):
    """The calls of one tool that one rule judges."""

    tool: Text
    judged_as: Text
    finished: int
    enough: bool
    limit_seconds: MaybeSeconds
    would_have_cut: int
    declined: int
    settled: int


class Silences(Distribution, Weighed):
    """The longest silence of each turn."""

    turns: int
    enough: bool
    limit_seconds: MaybeSeconds
    at_most_cut: int


class GaveUp(Distribution):
    """The calls that people gave up waiting for, and after how long."""

    calls: int
    by_watchdog: int


class Open(Shape):
    """How much is open."""

    calls: int
    turns: int
    sessions: int


class Stopped(Open):
    """What stopped at about the same time."""

    last_written_at: MaybeMoment
    next_turn_at: MaybeMoment


class Orphans(Open):
    """What lies open and nobody executes."""

    since: MaybeMoment
    stops: list[Stopped]
    perhaps_at_work: Open


class CutCall(Shape):
    """A call that finished, and that a limit of today would have ended before."""

    session_id: Text
    part_id: Text
    tool: Text
    began_at: MaybeMoment
    seconds: Seconds
    limit_seconds: Seconds


class Tune(Document):
    """What the history says about the limits."""

    observed_at: Moment
    since: Moment
    sessions: int
    turns: int
    calls: int
    unreadable: int
    tools: list[Tool]
    silences: Silences
    aborted: GaveUp
    orphans: Orphans
    would_have_cut: list[CutCall] | None
    advice: dict[str, Any]
    notes: list[Text]


def tune_document(found: Tuning, *, show: bool) -> dict[str, Any]:
    """What `tune --json` prints.

    Args:
        found: the history.
        show: with each call that would have been cut.
    """
    tally, advice = found.tally, found.advice
    pairs = zip(tally.tools, advice.limits, strict=True)
    return Tune.told(
        {
            "database": found.database,
            "observed_at": found.now_ms,
            "since": found.since_ms,
            "sessions": tally.sessions,
            "turns": tally.turns,
            "calls": tally.calls,
            "unreadable": tally.unreadable,
            "tools": [_tool(tool, limit) for tool, limit in pairs],
            "silences": {
                "turns": len(tally.silences),
                "enough": len(tally.silences) >= ENOUGH,
                "limit_seconds": found.policy.idle_timeout_seconds,
                "at_most_cut": tally.idle_cuts,
                "gave_up": len(tally.given_up),
                **_distribution(tally.silences),
                **_weighed(advice.idle),
            },
            "aborted": {
                "calls": len(tally.aborted),
                "by_watchdog": tally.by_watchdog,
                **_distribution(tally.aborted),
            },
            "orphans": _orphans(found),
            "would_have_cut": [_cut(each) for each in tally.cuts] if show else None,
            "advice": {name: _plain(value) for name, value in advice.settings.items()},
            "notes": list(advice.notes),
        }
    )


def _tool(tool: ToolTally, limit: Advised) -> dict[str, Any]:
    return {
        "tool": tool.tool,
        "judged_as": tool.judged.value,
        "finished": len(tool.finished),
        "enough": len(tool.finished) >= ENOUGH,
        "limit_seconds": tool.limit_seconds,
        "would_have_cut": tool.would_have_cut,
        "gave_up": len(tool.aborted),
        "declined": len(tool.declined),
        "settled": tool.settled,
        **_distribution(tool.finished),
        **_weighed(limit),
    }


def _distribution(spans: Spans) -> dict[str, float | None]:
    return {
        "p50_seconds": spans.quantile(50),
        "p95_seconds": spans.quantile(95),
        "p99_seconds": spans.quantile(99),
        "longest_seconds": spans.longest,
    }


def _weighed(limit: Advised) -> dict[str, float | None]:
    return {
        "would_have_ended": limit.ended_today,
        "would_have_saved_seconds": limit.saved_today_seconds,
        "safe_limit_seconds": limit.seconds,
        "safe_limit_would_have_ended": limit.ended,
        "safe_limit_would_have_saved_seconds": limit.saved_seconds,
    }


def _orphans(found: Tuning) -> dict[str, Any]:
    left = found.leftovers
    return {
        **_open(left.orphans),
        "since": left.since_ms,
        "stops": [
            {**_open(stop.amount), "last_written_at": stop.last_ms, "next_turn_at": stop.next_turn_ms}
            for stop in left.stops
        ],
        "perhaps_at_work": _open(left.perhaps),
    }


def _open(amount: Amount) -> dict[str, int]:
    return {"calls": amount.calls, "turns": amount.turns, "sessions": amount.sessions}


def _cut(cut: Cut) -> dict[str, Any]:
    return {
        "session_id": cut.session_id,
        "part_id": cut.part_id,
        "tool": cut.tool,
        "began_at": cut.began_ms,
        "seconds": cut.seconds,
        "limit_seconds": cut.limit_seconds,
    }


def _plain(value: Value) -> str | dict[str, str]:
    return value if isinstance(value, str) else dict(value)
