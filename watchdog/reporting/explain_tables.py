"""The page of `explain`: a tree with its clocks, the witnesses, and what to do; tab-separated lines when piped."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from watchdog.explaining.values import CallPage, Clock, Explanation, SessionPage, Stance, Testimony, TurnPage
from watchdog.judging.limits import duration
from watchdog.reporting.documents import told_moment
from watchdog.reporting.tables import Screen
from watchdog.shown import shown

STANCE_COLOURS = {
    Stance.AT_WORK: "green",
    Stance.WAITS: "cyan",
    Stance.SILENT: "dim",
    Stance.EXCLUDED: "magenta",
    Stance.BLOCKS: "red",
}
_BAR = 20
_NEARLY = 0.8
_DEEPEST = 8
"""How far the tree is indented: deeper sessions stay at this depth, and say how deep they are."""


def explanation(screen: Screen, found: Explanation) -> None:
    """Print an explanation."""
    if not screen.fancy:
        for kind, cells in _lines(found):
            screen.rows(kind, (), [cells])
        return
    for part in _page(found, ascii_only=screen.console.options.ascii_only):
        screen.console.print(part, soft_wrap=False)
        screen.console.print()


# -- for a pipe ----------------------------------------------------------------------------------------------------


def _lines(found: Explanation) -> Iterator[tuple[str, Sequence[str]]]:
    """Each line: its kind, and its cells."""
    yield "judgement", (found.session_id, _state(found), found.sentence)
    for page in found.sessions:
        yield from _session_lines(page)
    for kind, sentences in _sections(found):
        yield from ((kind, (sentence,)) for sentence in sentences)


def _sections(found: Explanation) -> tuple[tuple[str, Sequence[str]], ...]:
    return (
        ("advice", found.advice),
        ("on hold", found.holds),
        ("intervention", found.history),
        ("note", found.notes),
    )


def _session_lines(page: SessionPage) -> Iterator[tuple[str, Sequence[str]]]:
    marked = "asked" if page.asked else "-"
    yield "session", (page.id, page.parent_id or "-", str(page.depth), _session_state(page), marked)
    for finding in page.findings:
        yield "finding", (page.id, finding.call_id or "-", finding.name, finding.why)
    for turn in page.turns:
        yield "turn", (page.id, turn.id, _turn_state(turn), duration(turn.age_seconds))
        for call in turn.calls:
            age = duration(call.age_seconds)
            yield "call", (page.id, call.id, call.tool, call.status.value, age, call.waits_on or "-")
            yield from (("clock", (page.id, call.id, *_clock_cells(clock))) for clock in call.clocks)
    yield from (("clock", (page.id, "-", *_clock_cells(clock))) for clock in page.clocks)
    for each in page.testimonies:
        since = told_moment(each.since_ms) or "-"
        yield "witness", (page.id, each.kind.value, each.stance.value, each.who or "-", since, each.says)


def _clock_cells(clock: Clock) -> tuple[str, ...]:
    remaining, still = clock.remaining_seconds, f"stands still: {clock.still}" if clock.still else None
    return (
        clock.setting.value,
        "?" if clock.age_seconds is None else duration(clock.age_seconds),
        "off" if clock.limit_seconds is None else duration(clock.limit_seconds),
        "-" if remaining is None else duration(remaining),
        "; ".join(filter(None, [clock.origin, still, clock.note])),
    )


# -- for a person --------------------------------------------------------------------------------------------------


def _page(found: Explanation, *, ascii_only: bool) -> Iterator[RenderableType]:
    colour = _state_colour(found)
    yield Panel(Text(shown(found.sentence)), title=_mono(found.session_id), title_align="left", border_style=colour)
    if found.sessions:
        yield _tree(found.sessions, ascii_only=ascii_only)
    for page in sorted(found.sessions, key=lambda each: not each.asked):
        if page.testimonies:
            yield _witnesses(page, found.at_ms)
    titles = {"advice": "what to do", "intervention": "earlier interventions", "note": "mind"}
    for kind, sentences in _sections(found):
        if sentences:
            yield _list(titles.get(kind, kind), sentences, style="dim" if kind == "note" else "")


def _tree(pages: Sequence[SessionPage], *, ascii_only: bool) -> Tree:
    """The sessions with their turns, calls and clocks."""
    root = Tree(_session_label(pages[0], ascii_only=ascii_only), guide_style="dim")
    branches = [root]
    _fill(root, pages[0], ascii_only=ascii_only)
    for page in pages[1:]:
        depth = min(page.depth, _DEEPEST, len(branches))
        del branches[depth:]
        branch = branches[depth - 1].add(_session_label(page, ascii_only=ascii_only))
        _fill(branch, page, ascii_only=ascii_only)
        branches.append(branch)
    return root


def _session_label(page: SessionPage, *, ascii_only: bool) -> Text:
    state = _session_state(page)
    colour = {"stuck": "bold red", "unfinished": "bold", "finished": "dim"}[state]
    label = Text(shown(page.id), colour)
    if page.asked:
        label.append(" <- this one" if ascii_only else " ◀ this one", "bold cyan")
    if page.depth > _DEEPEST:
        label.append(f" (depth {page.depth})", "dim")
    names = dict.fromkeys((finding.name, finding.stuck, finding.uneasy) for finding in page.findings)
    for name, stuck, uneasy in names:
        label.append(" " + name, "red" if stuck else "yellow" if uneasy else "green")
    if not names:
        label.append(f" {state}", "dim")
    if page.damaged:
        label.append(" damaged", "yellow")
    return label


def _fill(branch: Tree, page: SessionPage, *, ascii_only: bool) -> None:
    for clock in page.clocks:
        branch.add(_clock(clock, ascii_only=ascii_only))
    for turn in page.turns:
        place = branch.add(Text(f"{shown(turn.id)} {_turn_state(turn)}, {duration(turn.age_seconds)} old", "dim"))
        for call in turn.calls:
            place.add(_call(call, ascii_only=ascii_only))


def _call(call: CallPage, *, ascii_only: bool) -> Text:
    label = Text.assemble((shown(call.tool), "bold"), f" {call.status.value}, {duration(call.age_seconds)} old")
    label.append(f"\n{shown(call.id)}", "dim")
    if call.waits_on:
        label.append(f"\nwaits on {shown(call.waits_on)}", "green")
    for clock in call.clocks:
        label.append("\n").append_text(_clock(clock, ascii_only=ascii_only))
    return label


def _clock(clock: Clock, *, ascii_only: bool) -> Text:
    """A bar with the figures, and below it the source of the limit."""
    text, colour = Text(), _clock_colour(clock)
    age, limit, remaining = clock.age_seconds, clock.limit_seconds, clock.remaining_seconds
    full, empty = ("#", "-") if ascii_only else ("━", "─")
    if age is not None and limit is not None:
        filled = min(_BAR, int(_BAR * age / limit)) if limit > 0 else _BAR
        text.append(full * filled, colour).append(empty * (_BAR - filled), "dim").append(" ")
    text.append("?" if age is None else duration(age), colour)
    if limit is not None:
        text.append(f" of {duration(limit)}")
        if remaining is not None:
            text.append(
                ", past it" if clock.past else f", {duration(remaining)} left", "" if not clock.past else colour
            )
    text.append(f"\n{shown(clock.origin)}", "dim")
    if clock.still:
        text.append(f"\nstands still: {shown(clock.still)}", "cyan")
    if clock.note:
        text.append(f"\n{shown(clock.note)}", "dim")
    return text


def _clock_colour(clock: Clock) -> str:
    if clock.still:
        return "cyan"
    if clock.age_seconds is None or not clock.limit_seconds:
        return "red" if clock.past else "dim"
    used = clock.age_seconds / clock.limit_seconds
    return "red" if used >= 1 else "yellow" if used >= _NEARLY else "green"


def _witnesses(page: SessionPage, at_ms: int) -> Table:
    table = Table(title=Text(f"witnesses of {shown(page.id)}", "bold"), title_justify="left", box=None)
    table.header_style = "dim"
    table.padding = (0, 1, 0, 0)
    for column in ("witness", "stance"):
        table.add_column(column, no_wrap=True)
    table.add_column("who, and what it says", overflow="fold")
    table.add_column("since", no_wrap=True)
    for each in page.testimonies:
        colour = STANCE_COLOURS[each.stance]
        since = "" if each.since_ms is None else f"{duration(max(0.0, (at_ms - each.since_ms) / 1000))} ago"
        table.add_row(each.kind.value, Text(each.stance.value, colour), _said(each), Text(since, "dim"))
    return table


def _said(each: Testimony) -> Text:
    says = shown(each.says)
    return Text(says) if not each.who else Text.assemble((shown(each.who), "bold"), f"\n{says}")


def _list(title: str, sentences: Sequence[str], *, style: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    table.padding = (0, 1, 0, 0)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for sentence in sentences:
        table.add_row("-", Text(shown(sentence), style))
    return table


# -- words and colours ---------------------------------------------------------------------------------------------


def _state(found: Explanation) -> str:
    if not found.sessions:
        return "damaged"
    return "stuck" if found.stuck else "unfinished" if any(p.unfinished for p in found.sessions) else "finished"


def _state_colour(found: Explanation) -> str:
    uneasy = not found.sessions or any(
        page.damaged or any(finding.uneasy for finding in page.findings) for page in found.sessions
    )
    return "red" if found.stuck else "yellow" if uneasy else "green"


def _session_state(page: SessionPage) -> str:
    return "stuck" if page.stuck else "unfinished" if page.unfinished else "finished"


def _turn_state(turn: TurnPage) -> str:
    return ("open" if turn.open else "closed") + (", older" if turn.superseded else "")


def _mono(text: str) -> Text:
    return Text(shown(text), "bold")
