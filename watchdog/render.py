"""What people see: tables and colours on a terminal, plain tab-separated lines when piped."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from watchdog.contract import damage_sentences
from watchdog.limits import duration
from watchdog.model import Judgement, Observation, Outcome, Result, SpareReason, VerdictKind

KIND_COLOURS = {
    VerdictKind.ORPHAN: "magenta",
    VerdictKind.STUCK_TOOL: "red",
    VerdictKind.STUCK_TASK: "red",
    VerdictKind.IDLE_SESSION: "yellow",
}
RESULT_COLOURS = {
    Result.RECOVERED: "green",
    Result.UNCHANGED: "cyan",
    Result.DRY_RUN: "cyan",
    Result.INEFFECTIVE: "yellow",
    Result.UNREACHABLE: "yellow",
    Result.FAILED: "red",
}
# Reasons that call for a person's attention are yellow; the rest is as it should be.
UNEASY = {SpareReason.NO_WITNESS, SpareReason.GIVEN_UP}


class Screen:
    """Standard output, for a person or for a pipe."""

    def __init__(self, *, as_json: bool = False, console: Console | None = None) -> None:
        self.as_json = as_json
        self.console = console or Console(highlight=False, soft_wrap=True)

    @property
    def fancy(self) -> bool:
        """Whether a person looks at a terminal."""
        return self.console.is_terminal and not self.as_json

    def document(self, document: dict[str, Any]) -> None:
        """Print a JSON document."""
        self.console.file.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def line(self, text: str, style: str | None = None) -> None:
        """Print one line, coloured on a terminal."""
        self.console.print(escape(text), style=style if self.fancy else None)

    def rows(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, colours: Sequence[str | None] = ()
    ) -> None:
        """Print rows: a table on a terminal, else a line each with tabs between the cells.

        Args:
            colours: the colour of each row's first cell.
        """
        rows = list(rows)
        if not self.fancy:
            for row in rows:
                self.console.file.write("\t".join([title, *row]) + "\n")
            return
        table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", expand=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row, colour in zip(rows, [*colours, *[None] * len(rows)], strict=False):
            first = f"[{colour}]{escape(row[0])}[/]" if colour else escape(row[0])
            table.add_row(first, *(escape(cell) for cell in row[1:]))
        self.console.print(table, soft_wrap=False)

    def judgement(self, observation: Observation, judgement: Judgement) -> None:
        """Print what is stuck and what is spared, and why."""
        for problem in [*observation.degraded, *damage_sentences(observation)]:
            self.line(f"degraded: {problem}", "yellow")
        if judgement.verdicts:
            self.rows(
                "stuck",
                ("verdict", "session", "ends", "tool", "age", "limit", "why"),
                [
                    (
                        each.kind.value,
                        each.session_id,
                        each.cancel_session_id,
                        each.tool or "-",
                        duration(each.age_seconds),
                        "-" if each.limit_seconds is None else duration(each.limit_seconds),
                        each.why,
                    )
                    for each in judgement.verdicts
                ],
                colours=[KIND_COLOURS[each.kind] for each in judgement.verdicts],
            )
        if judgement.spared:
            self.rows(
                "spared",
                ("reason", "session", "call", "why"),
                [(each.reason.value, each.session_id, each.call_id or "-", each.why) for each in judgement.spared],
                colours=["yellow" if each.reason in UNEASY else "green" for each in judgement.spared],
            )
        stuck, spared = len(judgement.verdicts), len({each.session_id for each in judgement.spared})
        self.line(f"{stuck} stuck, {spared} spared", "bold red" if stuck else "bold green")

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Print how interventions ended."""
        self.rows(
            "outcome",
            ("result", "session", "verdict", "why"),
            [(each.result.value, each.session_id, each.kind.value, each.why) for each in outcomes],
            colours=[RESULT_COLOURS[each.result] for each in outcomes],
        )


def complain(text: str) -> None:
    """Say on standard error what went wrong."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/] {escape(text)}")


def note(text: str) -> None:
    """Say something on standard error that is not the result."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(escape(text), style="dim")


def is_interactive() -> bool:
    """Whether there is a person who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
