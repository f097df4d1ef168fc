"""What is drawn with rich, on a terminal. Imported when there is one."""

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from watchdog.streams import fall_silent

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


def line(console: Console, text: str, style: str | None) -> None:
    """Draw a line, wrapped at the width."""
    console.print(escape(text), style=style, soft_wrap=False)


def table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Draw a table."""
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    drawn.show_header = any(columns)
    drawn.padding = (0, 1, 0, 0)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(f"[{colour}]{escape(text)}[/]" if colour else escape(text) for text, colour in row))
    console.print(drawn, soft_wrap=False)
    console.print()


def complain(text: str) -> None:
    """Say on standard error what went wrong."""
    Paper(stderr=True).print(f"[red]error:[/] {escape(text)}")


def note(text: str) -> None:
    """Say something on standard error that is not the result."""
    Paper(stderr=True).print(escape(text), style="dim")
