"""Drawing with rich, on a terminal. Imported only if there is one.

Nothing is markup, and no word becomes an emoji: the drawing is text with a style beside it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from watchdog.console.streams import fall_silent
from watchdog.shown import Shown, defused

Cell = tuple[Shown, str | None]
"""A text and its colour."""


class Terminal(Console):
    """A console that falls silent if its reader is gone: `scan | head -1` is no error."""

    def __init__(self, *, stderr: bool = False, file: TextIO | None = None, width: int | None = None) -> None:
        super().__init__(
            stderr=stderr, file=file, width=width, highlight=False, soft_wrap=True, markup=False, emoji=False,
            _environ=_without_a_width_of_none(os.environ),
        )  # fmt: skip

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The drawing as pieces of text. The net below `Shown`: nothing in them steers the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(defused(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Write the rest nowhere."""
        self.quiet = True
        fall_silent(self.file)


def _without_a_width_of_none(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without a `COLUMNS` or `LINES` of 0: with so little room nothing would be shown."""
    return {name: value for name, value in environ.items() if name not in {"COLUMNS", "LINES"} or value.strip("0")}


def line(console: Console, text: Shown, style: str | None) -> None:
    """Draw a line, wrapped at the width."""
    console.print(Text(text, style or ""), soft_wrap=False)


def table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Draw a table."""
    drawn = Table(title=Text(title), title_justify="left", title_style="bold", header_style="dim", box=None)
    drawn.show_header = any(columns)
    drawn.padding = (0, 1, 0, 0)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(text, colour or "") for text, colour in row))
    console.print(drawn, soft_wrap=False)
    console.print()


def complain(text: Shown) -> None:
    """Report an error on standard error."""
    Terminal(stderr=True).print(Text.assemble(("error:", "red"), " ", text))


def note(text: Shown) -> None:
    """Print something on standard error that is not the result."""
    Terminal(stderr=True).print(Text(text, "dim"))
