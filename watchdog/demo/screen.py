"""The demo on the screen: a live table on a terminal, plain lines without one, and the summary."""

from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from watchdog.console.streams import write
from watchdog.demo.board import Board, Mark, Standing
from watchdog.demo.book import Scene
from watchdog.demo.stories import SETTINGS, Finding, Story, is_open
from watchdog.judging.limits import duration
from watchdog.model.session import SessionId
from watchdog.model.verdict import UNEASY, SpareReason
from watchdog.reporting.tables import KIND_COLOURS, RESULT_COLOURS
from watchdog.shown import shown

TITLE = "opencode-watchdog"
_NAME, _STATE, _CLOCK, _BAR, _WORD = 20, 18, 18, 14, 27
"""The widths of the columns; the last one takes the rest."""
_WIDE = 96
"""From this width on there is a bar beside each age."""
_FRAME_LINES = 6
"""The lines of a frame beside those of the sessions."""
_NEAR = 0.7
_SECONDS_UP_TO, _MINUTES_UP_TO = 100, 7200


class Screen:
    """Shows the board. Used as a context: the live table is there as long as it is open."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.fancy = console.is_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if self.fancy else None
        self._told: dict[SessionId, tuple[str, ...]] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._print(f"{TITLE}: {_limits()}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, board: Board, scenes: Mapping[SessionId, Scene], elapsed: float, status: str) -> None:
        """Show the state: a frame of the table, or a line for each change."""
        if self._live is not None:
            self._live.update(self.frame(board, scenes, elapsed, status), refresh=True)
            return
        for session_id, standing in board.standings.items():
            told = (standing.mark, standing.word, standing.result or "")
            if standing.mark is not Mark.UNSEEN and self._told.get(session_id) != told:
                self._told[session_id] = told
                name = _plain_name(standing.story)
                self._print(f"{elapsed:5.1f} s  {name:<18} {_badge(standing).plain}: {standing.why}")

    def frame(self, board: Board, scenes: Mapping[SessionId, Scene], elapsed: float, status: str) -> Text:
        """One frame of the live table: two lines for each session if there is room, else one."""
        standings = board.standings.values()
        roomy = self.console.height > 2 * len(standings) + _FRAME_LINES
        heads = [Text(head, "dim") for head in ("session", "database", "age / limit", "", "watchdog")]
        lines = [
            Text.assemble((f" {TITLE} ", "bold reverse"), f"  {_limits()}"),
            Text(),
            self._cells(*heads),
            Text("─" * (self.console.width - 1), "bright_black"),
        ]
        for standing in standings:
            scene = scenes.get(standing.story.session_id, Scene())
            name = Text(standing.story.name, "bold")
            state = Text(_state(scene), "" if is_open(scene) else "dim")
            clock = Text(_age(standing), _tone(standing))
            lines.append(self._cells(name, state, clock, _bar(standing), _badge(standing)))
            if roomy:
                lines.append(Text(_explained(standing, self.console.width - 1), "dim"))
        lines.append(Text())
        lines.append(Text.assemble((f"{elapsed:5.1f} s", "bold"), f"  {board.looks} looks  ", (status, "cyan")))
        for line in lines:
            line.truncate(self.console.width - 1, overflow="ellipsis")
        return Text("\n").join(lines)

    def summary(
        self, board: Board, findings: Sequence[Finding], elapsed: float, *, failure: Exception | None = None
    ) -> bool:
        """Say who was ended and who was spared, by the database now, and whether all of it is right.

        Args:
            board: what the watchdog said.
            findings: how every session reads.
            elapsed: how many seconds it took.
            failure: the error that ended the watchdog, if one did.
        """
        ended = [finding for finding in findings if finding.story.ending.by_the_watchdog]
        spared = [finding for finding in findings if not finding.story.ending.by_the_watchdog]
        self._list("to be ended", "verdict", ended, board)
        self._list("to be left alone", "spared", spared, board)
        self._print("")
        for sentence in board.notes:
            self._print(f"note: {sentence}", "yellow")
        wrong = [finding for finding in findings if not finding.right]
        for finding in wrong:
            must = f"must be {finding.story.ending.value}, and reads: {finding.reads}"
            self._print(f"wrong: {_plain_name(finding.story)}: it {must}", "bold red")
        if failure is not None:
            self._print(f"wrong: the watchdog failed: {failure!r}", "bold red")
        right = not wrong and failure is None
        if right:
            counts = f"{len(ended)} sessions were ended and {len(spared)} left alone"
            self._print(f"Right, after {elapsed:.1f} s: {counts}, as the database reads now.", "bold green")
        return right

    def complain(self, sentence: str) -> None:
        """Report what went wrong beside the stories."""
        self._print(sentence, "bold red")

    def _cells(self, name: Text, state: Text, clock: Text, bar: Text, word: Text) -> Text:
        cells = [_padded(name, _NAME), _padded(state, _STATE), _padded(clock, _CLOCK)]
        if self.console.width >= _WIDE:
            cells.append(_padded(bar, _BAR))
        return Text.assemble(*cells, word)

    def _list(self, title: str, column: str, findings: Sequence[Finding], board: Board) -> None:
        if not self.fancy:
            self._print(f"{title}:")
        else:
            head = _padded(Text(title, "bold"), _NAME + 2)
            self._shown(Text.assemble("\n", head, _padded(Text(column, "dim"), _WORD), ("the database now", "dim")))
            self._shown(Text("─" * self.console.width, "bright_black"))
        for finding in findings:
            name, word = _plain_name(finding.story), _summed_up(board.standings[finding.story.session_id])
            if not self.fancy:
                self._print(f"  {'ok' if finding.right else 'WRONG':<5} {name:<18} {word.plain}; {finding.reads}")
                continue
            sign = Text("✔ ", "green") if finding.right else Text("✘ ", "bold red")
            self._shown(Text.assemble(sign, _padded(Text(name), _NAME), _padded(word, _WORD), (finding.reads, "dim")))

    def _shown(self, line: Text) -> None:
        self.console.print(line, no_wrap=True, overflow="ellipsis", crop=True, soft_wrap=False)

    def _print(self, line: str, style: str | None = None) -> None:
        if self.fancy:
            self.console.print(Text(shown(line), style or ""), soft_wrap=False)
        else:
            write(self.console.file, shown(line))


# -- the live table ------------------------------------------------------------------------------------------


def _padded(cell: Text, width: int) -> Text:
    cell.truncate(width - 1, overflow="ellipsis")
    return Text.assemble(cell, " " * (width - cell.cell_len))


def _explained(standing: Standing, width: int) -> str:
    """What the session does and what the watchdog says of it; if both don't fit, only the latter."""
    indent = "    " if standing.story.name.startswith("└") else "  "
    both = f"{indent}{standing.story.about} · {standing.why}"
    return both if len(both) <= width else indent + standing.why


def _plain_name(story: Story) -> str:
    return story.name.removeprefix("└ ")


def _state(scene: Scene) -> str:
    """What the database says, in two words."""
    if not is_open(scene):
        return "turn aborted" if "error" in scene.turn else "turn finished"
    running = [call for call in scene.calls if call["state"]["status"] == "running"]
    return f"{running[-1]['tool']} running" if running else "turn open"


def _badge(standing: Standing) -> Text:
    """What the watchdog says of a session, in a few words."""
    tone = _tone(standing)
    if standing.mark is Mark.UNSEEN:
        return Text("not seen yet", "dim")
    if standing.mark is Mark.SPARED:
        return Text.assemble(("spared ", tone), (standing.word, tone))
    if standing.mark is Mark.FINISHED:
        return Text.assemble(("finished ", f"bold {tone}"), (standing.word, tone))
    kind = KIND_COLOURS[standing.verdict.kind] if standing.verdict is not None else tone
    badge = Text.assemble((standing.word, f"bold {kind}"))
    if standing.result is None:
        return badge.append(" ending it", kind)
    return badge.append(" → ", "dim").append(standing.result.value, f"bold {RESULT_COLOURS[standing.result]}")


def _tone(standing: Standing) -> str:
    """Green is fine, yellow is near its limit or uneasy, red is past it; blue ended by itself, grey is over."""
    if standing.mark is Mark.FINISHED:
        return "bright_blue"
    if standing.mark is Mark.ENDED:
        return "dim"
    if standing.mark in {Mark.ENDING, Mark.LEFT}:
        return "red"
    uneasy = {*UNEASY, SpareReason.FIRST_LOOK, SpareReason.COOLING_DOWN}
    near = standing.word in {SpareReason.WITHIN_LIMIT, SpareReason.RECENTLY_ACTIVE} and _share(standing) >= _NEAR
    return "yellow" if near or standing.word in uneasy else "green"


def _age(standing: Standing) -> str:
    if standing.age_seconds is None:
        return ""
    limit = "" if standing.limit_seconds is None else f" / {duration(standing.limit_seconds)}"
    return _short(standing.age_seconds) + limit


def _short(seconds: float) -> str:
    if seconds < _SECONDS_UP_TO:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < _MINUTES_UP_TO else f"{seconds / 3600:.1f} h"


def _share(standing: Standing) -> float:
    if standing.age_seconds is None or not standing.limit_seconds:
        return 0.0
    return min(1.0, standing.age_seconds / standing.limit_seconds)


def _bar(standing: Standing) -> Text:
    if standing.paused:
        return Text("stands still", "dim")
    if standing.age_seconds is None or not standing.limit_seconds:
        return Text()
    length = _BAR - 2
    filled = round(_share(standing) * length)
    return Text.assemble(("━" * filled, _tone(standing)), ("─" * (length - filled), "bright_black"))


def _limits() -> str:
    named = (
        ("tool", SETTINGS.tool_timeout),
        ("task", SETTINGS.task_timeout),
        ("idle", SETTINGS.idle_timeout),
        ("orphan grace", SETTINGS.orphan_grace),
    )
    return "limits: " + ", ".join(f"{name} {duration(limit.total_seconds())}" for name, limit in named if limit)


# -- the summary ---------------------------------------------------------------------------------------------


def _summed_up(standing: Standing) -> Text:
    """What the watchdog did with a session, or why it spared it."""
    if standing.verdict is not None or standing.mark is Mark.FINISHED:
        return _badge(standing)
    return Text(", ".join(standing.spared) or "never seen", "green" if standing.spared else "yellow")
