"""What people see: tables and colours on a terminal, plain tab-separated lines when piped."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from watchdog.contract import damage_sentences
from watchdog.limits import duration
from watchdog.model import UNEASY, Judgement, Observation, Outcome, Result, Spared, Verdict, VerdictKind

# Magenta is settled, red and yellow are cancelled; yellow rests on silence alone.
KIND_COLOURS = {
    VerdictKind.ORPHAN: "magenta",
    VerdictKind.STUCK_TOOL: "red",
    VerdictKind.STUCK_TASK: "red",
    VerdictKind.IDLE_SESSION: "yellow",
    VerdictKind.UNANSWERED: "blue",
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
"""A text and its colour."""


class Paper(Console):
    """A console that falls silent when its reader is gone: `scan | head -1` is no error."""

    def __init__(self, *, stderr: bool = False, file: TextIO | None = None, width: int | None = None) -> None:
        super().__init__(stderr=stderr, file=file, width=width, highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Write what is left to nowhere."""
        self.quiet = True
        fall_silent(self.file)


class Screen:
    """Standard output, for a person or for a pipe.

    A person gets tables and colours. A pipe gets one line for each row, with tabs between the cells; its first
    cell says what the line is.
    """

    def __init__(self, *, as_json: bool = False, console: Console | None = None) -> None:
        self.as_json = as_json
        self.console = console or Paper()

    @property
    def fancy(self) -> bool:
        """Whether a person looks at a terminal."""
        return self.console.is_terminal and not self.as_json

    def document(self, document: dict[str, Any]) -> None:
        """Print a JSON document, in ASCII: every terminal and every pipe takes it."""
        self._write(json.dumps(document, indent=2) + "\n")

    def verbatim(self, text: str) -> None:
        """Print a line as it is, so that it can be copied, or read by a program."""
        self._write(f"{text}\n")

    def line(self, kind: str, text: str, style: str | None = None) -> None:
        """Print one line. On a terminal it is coloured, and a `summary` goes without its kind."""
        if not self.fancy:
            self._write(f"{kind}\t{_plain(text)}\n")
        else:
            text = text if kind == "summary" else f"{kind}: {text}"
            self.console.print(escape(text), style=style, soft_wrap=False)

    def rows(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> None:
        """Print rows: a table on a terminal, else a line each."""
        found = [[cell if isinstance(cell, tuple) else (cell, None) for cell in row] for row in rows]
        if not self.fancy:
            for cells in found:
                self._write("\t".join([title, *(_plain(text) for text, _ in cells)]) + "\n")
        elif found:
            self._table(title, columns, found)

    def _table(self, title: str, columns: Sequence[str], rows: list[list[Cell]]) -> None:
        table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
        table.show_header = any(columns)
        table.padding = (0, 1, 0, 0)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(f"[{colour}]{escape(text)}[/]" if colour else escape(text) for text, colour in row))
        self.console.print(table, soft_wrap=False)
        self.console.print()

    def judgement(self, observation: Observation, judgement: Judgement) -> None:
        """Print what is stuck and what is spared, and why."""
        for problem in [*observation.degraded, *damage_sentences(observation)]:
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
            reason = (each.reason.value, "yellow" if each.reason in UNEASY else "green")
            if self.fancy:
                cells.append((reason, f"{' '.join(filter(None, [each.session_id, each.call_id]))}\n{each.why}"))
            else:
                cells.append((reason, each.session_id, each.call_id or "-", each.why))
        self.rows("spared", ("reason", "what, and why"), cells)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Print how interventions ended."""
        cells: list[Sequence[str | Cell]] = []
        for each in outcomes:
            result = (each.result.value, RESULT_COLOURS[each.result])
            if self.fancy:
                cells.append((result, f"{each.session_id} ({each.kind.value})\n{each.why}"))
            else:
                cells.append((result, each.session_id, each.kind.value, each.why))
        self.rows("outcome", ("result", "what, and why"), cells)

    def _write(self, text: str) -> None:
        try:
            self.console.file.write(text)
            self.console.file.flush()
        except BrokenPipeError:
            fall_silent(self.console.file)


def _told(verdict: Verdict) -> Sequence[str | Cell]:
    """A verdict for a person: which session, what in it, how old, and why."""
    limit = "" if verdict.limit_seconds is None else f" of {duration(verdict.limit_seconds)}"
    what = f"{verdict.session_id} {verdict.tool or 'no tool'}, {duration(verdict.age_seconds)}{limit}"
    below = f"\nends {verdict.cancel_session_id}" if verdict.cancel_session_id != verdict.session_id else ""
    return ((verdict.kind.value, KIND_COLOURS[verdict.kind]), f"{what}\n{verdict.why}{below}")


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


def _plain(text: str) -> str:
    """One cell of one line, whatever is in it."""
    return " ".join(text.split())


def complain(text: str) -> None:
    """Say on standard error what went wrong."""
    Paper(stderr=True).print(f"[red]error:[/] {escape(text)}")


def note(text: str) -> None:
    """Say something on standard error that is not the result."""
    Paper(stderr=True).print(escape(text), style="dim")


def fall_silent(stream: Any) -> None:  # noqa: ANN401 - anything that was written to
    """Let what is still in a stream, and whatever comes, go nowhere: nobody reads it any more."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def is_interactive() -> bool:
    """Whether there is a person who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
