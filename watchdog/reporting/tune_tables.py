"""What `tune` prints for people."""

from collections.abc import Iterator, Sequence
from typing import Final

from watchdog.judging.limits import duration
from watchdog.reporting.documents import told_moment
from watchdog.reporting.tables import Cell, Screen
from watchdog.shown import stacked
from watchdog.tuning.advice import Advised
from watchdog.tuning.paste import as_toml
from watchdog.tuning.report import Tuning
from watchdog.tuning.spans import Spans
from watchdog.tuning.stops import Amount
from watchdog.tuning.tally import Cut, Judged, ToolTally

_BARS: Final = " ▁▂▃▄▅▆▇█"
_MOST_STOPS: Final = 10
_JUDGED: Final = {
    Judged.TOOL: "",
    Judged.TASK: " with a subagent",
    Judged.QUESTION: " (waits for a person)",
    Judged.PERSONAL: " (a person's own command)",
}
APPROVALS: Final = (
    "the rows do not tell how long a call that was approved had waited for that: such a wait counts as its duration, "
    "though the watchdog spares it. Calls that were turned down are counted apart."
)


def tuning(screen: Screen, found: Tuning, *, show: bool) -> None:
    """Print what the history says about the limits.

    Args:
        screen: where to.
        found: the history.
        show: each call that today's limits would have cut.
    """
    tally, advice = found.tally, found.advice
    _tools(screen, list(zip(tally.tools, advice.limits, strict=True)))
    screen.line("silences", _silences(found))
    screen.line("aborted", _aborted(found))
    for line in _open(found):
        screen.line("open", line)
    if show:
        screen.rows("would have been cut", ("", "which call"), [_cut(screen, each) for each in tally.cuts])
    if tally.unreadable:
        screen.line("unreadable", f"{_many(tally.unreadable, 'row')} could not be read, and count nowhere", "yellow")
    screen.line("note", APPROVALS)
    for sentence in advice.notes:
        screen.line("note", sentence)
    counts = (_many(tally.sessions, "session"), _many(tally.turns, "turn"), _many(tally.calls, "call"))
    screen.line("summary", f"{', '.join(counts)} since {told_moment(found.since_ms)}", "bold")
    _advice(screen, found)


def _tools(screen: Screen, tools: Sequence[tuple[ToolTally, Advised]]) -> None:
    if screen.fancy:
        screen.rows("tools", ("tool", "how long"), [_told(tool, limit) for tool, limit in tools])
        return
    screen.rows("tool", (), [_cells(tool) for tool, _ in tools])


def _told(tool: ToolTally, limit: Advised) -> Sequence[str | Cell]:
    today = _limit(tool.limit_seconds)
    cut = f"; would have cut {tool.would_have_cut:,}" if tool.limit_seconds is not None else ""
    spans = tool.finished
    lines = [f"{_many(len(spans), 'call')} finished{_sparkline(spans)}"]
    if len(spans):
        lines.append(_quantiles(spans))
    lines.append(f"limit {today}{cut}")
    if tool.aborted:
        longest = max(each.seconds for each in tool.aborted)
        lines.append(f"{len(tool.aborted):,} given up by people, after {duration(longest)} at most")
    if len(tool.declined):
        lines.append(
            f"{len(tool.declined):,} turned down by people, after {duration(tool.declined.longest or 0)} at most"
        )
    if limit.ended > limit.ended_today or (limit.advised and limit.seconds is not None):
        lines.append(
            f"{duration(limit.seconds or 0)} would have cut none, and saved {_hours(limit.saved_seconds)} of hanging"
        )
    colour = "red" if tool.would_have_cut else None
    return ((f"{tool.tool}{_JUDGED[tool.judged]}", colour), stacked(*lines))


def _cells(tool: ToolTally) -> Sequence[str]:
    spans = tool.finished
    quantiles = [spans.quantile(percent) for percent in (50, 95, 99, 100)]
    return (
        f"{tool.tool}{_JUDGED[tool.judged]}",
        f"{len(spans)} finished",
        *(f"{name} {_maybe(value)}" for name, value in zip(("p50", "p95", "p99", "longest"), quantiles, strict=True)),
        f"limit {_limit(tool.limit_seconds)}",
        f"{tool.would_have_cut} cut",
        f"{len(tool.aborted)} given up",
        f"{len(tool.declined)} turned down",
    )


def _quantiles(spans: Spans) -> str:
    names = (("p50", 50), ("p95", 95), ("p99", 99), ("longest", 100))
    return ", ".join(f"{name} {_maybe(spans.quantile(percent))}" for name, percent in names)


def _sparkline(spans: Spans) -> str:
    """The columns of a distribution, from under a second to over ten hours."""
    columns = spans.columns
    most = max(columns)
    if not most:
        return ""
    heights = ["" if not count else _BARS[1 + round(7 * count / most)] for count in columns]
    return f"  |{''.join(height or ' ' for height in heights)}|"


def _silences(found: Tuning) -> str:
    tally, idle = found.tally, found.advice.idle
    if not len(tally.silences):
        return "no turn ended by itself"
    limit = _limit(found.policy.idle_timeout_seconds)
    cut = f"; at most {tally.idle_cuts:,} of them were longer than idle_timeout ({limit})"
    hung = ""
    if tally.given_up:
        longest = duration(max(tally.given_up))
        hung = f"; {_many(len(tally.given_up), 'silent turn')} given up by people, after {longest} at most"
        if idle.advised:
            hung += f": {duration(idle.seconds or 0)} would have saved {_hours(idle.saved_seconds)}"
    text = f"the longest in each turn: {_quantiles(tally.silences)}{cut}{hung}"
    return f"{text}. Text that streams leaves no trace in the rows and looks like silence here, not to the watchdog."


def _aborted(found: Tuning) -> str:
    aborted, ours = found.tally.aborted, found.tally.by_watchdog
    own = f"; {ours:,} more by the watchdog" if ours else ""
    if not len(aborted):
        return f"no call was given up by people{own}"
    return f"{_many(len(aborted), 'call')} given up by people, after: {_quantiles(aborted)}{own}"


def _open(found: Tuning) -> Iterator[str]:
    left = found.leftovers
    if not left.orphans.sessions:
        yield "no orphan lies there"
    else:
        since = told_moment(left.since_ms)
        yield f"{_amount(left.orphans)} lie there as orphans, since {since}: `recover` settles them"
    for stop in left.stops[:_MOST_STOPS]:
        after = "no turn began after that"
        if stop.next_turn_ms is not None:
            after = (
                f"the next turn anywhere began {told_moment(stop.next_turn_ms)}: if there was a restart, in between"
            )
        yield f"{_amount(stop.amount)} stopped at {told_moment(stop.last_ms)}; {after}"
    if len(left.stops) > _MOST_STOPS:
        yield f"and at {_many(len(left.stops) - _MOST_STOPS, 'other moment')}"
    if left.perhaps.sessions:
        why = found.holders_unknown or "a process that has the database open may be at work on them"
        yield f"{_amount(left.perhaps)} are open beside that: {why}"


def _amount(amount: Amount) -> str:
    return f"{_many(amount.calls, 'call')} and {_many(amount.turns, 'turn')} in {_many(amount.sessions, 'session')}"


def _cut(screen: Screen, cut: Cut) -> Sequence[str | Cell]:
    took = f"took {duration(cut.seconds)}, limit {duration(cut.limit_seconds)}"
    when = told_moment(cut.began_ms) or "at no time of any calendar"
    if screen.fancy:
        return (cut.tool, stacked(f"{cut.session_id} {cut.part_id}", f"{when}, {took}"))
    return (cut.tool, cut.session_id, cut.part_id, when, took)


def _advice(screen: Screen, found: Tuning) -> None:
    if not found.advice.settings:
        screen.line("summary", "no change of the settings is advised", "bold green")
        return
    screen.line("summary", "settings to paste into the settings file:", "bold yellow")
    for line in as_toml(found.advice.settings):
        screen.verbatim(line)


def _maybe(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _limit(seconds: float | None) -> str:
    return "off" if seconds is None else duration(seconds)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
