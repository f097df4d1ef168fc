"""Output for people: tables and colours on a terminal, plain tab-separated lines when piped."""

import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from watchdog.console.streams import may_be_terminal, tell, write
from watchdog.judging.limits import duration
from watchdog.model.outcome import Outcome, Result
from watchdog.model.verdict import Judgement, Spared, Verdict, VerdictKind
from watchdog.shown import Shown, in_json, joined, shown, stacked, tabbed, whole

if TYPE_CHECKING:
    from rich.console import Console

# Magenta is settled, red and yellow are aborted; yellow rests on silence alone.
KIND_COLOURS = {
    VerdictKind.ORPHAN: "magenta",
    VerdictKind.STUCK_TOOL: "red",
    VerdictKind.STUCK_TASK: "red",
    VerdictKind.IDLE_SESSION: "yellow",
    VerdictKind.UNANSWERED: "blue",
    VerdictKind.LEFT_OVER: "red",
}
RESULT_COLOURS = {
    Result.RECOVERED: "green",
    Result.UNCHANGED: "cyan",
    Result.DRY_RUN: "cyan",
    Result.INEFFECTIVE: "yellow",
    Result.UNREACHABLE: "yellow",
    Result.FAILED: "red",
}

Cell = tuple[str, str | None]
"""A text and its colour. A text that is no `Shown` yet becomes one right before it is written."""


class Screen:
    """Standard output, for a person or for a pipe.

    A person gets tables and colours. A pipe gets one line for each row, with tabs between the cells; the first cell
    says what the line is.
    """

    def __init__(self, *, as_json: bool = False, console: "Console | None" = None) -> None:
        self.as_json = as_json
        self._console = console

    @cached_property
    def console(self) -> "Console":
        """console: draws on a terminal."""
        from watchdog.console.terminal import Terminal

        return self._console or Terminal()

    @cached_property
    def fancy(self) -> bool:
        """Whether a person looks at a terminal."""
        if self.as_json or (self._console is None and not may_be_terminal(sys.stdout)):
            return False
        return self.console.is_terminal

    def document(self, document: dict[str, Any]) -> None:
        """Print a JSON document in ASCII, which every terminal and every pipe takes."""
        self._write(in_json(document, indent=2))

    def verbatim(self, text: str) -> None:
        """Print a line in one piece and without colour, to be copied or read by a program."""
        self._write(whole(text))

    def line(self, kind: str, text: str, style: str | None = None) -> None:
        """Print one line. On a terminal it is coloured, and a `summary` goes without its kind."""
        if not self.fancy:
            self._write(tabbed(kind, text))
        else:
            from watchdog.console.terminal import line

            line(self.console, shown(text if kind == "summary" else f"{kind}: {text}"), style)

    def rows(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> None:
        """Print rows: a table on a terminal, else a line each."""
        found = [[cell if isinstance(cell, tuple) else (cell, None) for cell in row] for row in rows]
        if not self.fancy:
            for cells in found:
                self._write(tabbed(title, *(text for text, _ in cells)))
        elif found:
            from watchdog.console.terminal import table

            table(
                self.console,
                shown(title),
                columns,
                [[(shown(text), colour) for text, colour in row] for row in found],
            )

    def judgement(self, degraded: Iterable[str], judgement: Judgement) -> None:
        """Print what is stuck and what is spared, and why; and first what could not be asked or read."""
        for problem in degraded:
            self.line("degraded", problem, "yellow")
        # On a terminal the ids and the reason share a column: side by side they need more than 80.
        if self.fancy:
            self.rows("stuck", ("verdict", "what, and why"), [_told(each) for each in judgement.verdicts])
            self.spared(judgement.spared)
        else:
            self.rows("stuck", (), [_verdict_cells(each) for each in judgement.verdicts])
            self.spared(judgement.spared)
        stuck, spared = len(judgement.verdicts), len({each.session_id for each in judgement.spared})
        self.line("summary", f"{stuck} stuck, {spared} spared", "bold red" if stuck else "bold green")

    def spared(self, spared: Sequence[Spared]) -> None:
        """Print what is left alone, and why."""
        cells: list[Sequence[str | Cell]] = []
        for each in spared:
            reason = (each.reason.value, "yellow" if each.uneasy else "green")
            if self.fancy:
                cells.append((reason, stacked(" ".join(filter(None, [each.session_id, each.call_id])), each.why)))
            else:
                cells.append((reason, each.session_id, each.call_id or "-", each.why))
        self.rows("spared", ("reason", "what, and why"), cells)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Print how interventions ended."""
        cells: list[Sequence[str | Cell]] = []
        for each in outcomes:
            result = (each.result.value, RESULT_COLOURS[each.result])
            if self.fancy:
                cells.append((result, stacked(f"{each.session_id} ({each.kind.value})", each.why)))
            else:
                cells.append((result, each.session_id, each.kind.value, each.why))
        self.rows("outcome", ("result", "what, and why"), cells)

    def _write(self, line: Shown) -> None:
        write(sys.stdout if self._console is None else self._console.file, line)


def _told(verdict: Verdict) -> Sequence[str | Cell]:
    """A verdict for a person: which session, what in it, how old, and why."""
    limit = "" if verdict.limit_seconds is None else f" of {duration(verdict.limit_seconds)}"
    what = f"{verdict.session_id} {verdict.tool or 'no tool'}, {duration(verdict.age_seconds)}{limit}"
    below = [f"ends {verdict.cancel_session_id}"] if verdict.cancel_session_id != verdict.session_id else []
    return ((verdict.kind.value, KIND_COLOURS[verdict.kind]), stacked(what, verdict.why, *below))


def _verdict_cells(verdict: Verdict) -> Sequence[str | Cell]:
    limit = verdict.limit_seconds
    return (
        verdict.kind.value,
        verdict.session_id,
        verdict.cancel_session_id,
        verdict.tool or "-",
        duration(verdict.age_seconds),
        "-" if limit is None else duration(limit),
        verdict.why,
    )


def complain(text: str) -> None:
    """Report an error on standard error."""
    if may_be_terminal(sys.stderr):
        from watchdog.console import terminal

        terminal.complain(shown(text))
    else:
        tell(sys.stderr, joined("error: ", text))


def note(text: str) -> None:
    """Print something on standard error that is not the result."""
    if may_be_terminal(sys.stderr):
        from watchdog.console import terminal

        terminal.note(shown(text))
    else:
        tell(sys.stderr, shown(text))
