"""Results as a table for people, as JSON, and as a page."""

import json
import os
import platform
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Bound, Figure, Result, Target

QUOTE_BEGINS = "<!-- the table of the last run, written by make bench -->"
QUOTE_ENDS = "<!-- the end of the table -->"
BEST_BEGINS = "<!-- three lines of the last run, written by make bench -->"
BEST_ENDS = "<!-- the end of the lines -->"
BEST = (
    "a scan of part costs so many times a tick",
    "detection after the limit, p99",
    "idle, nothing open, 1,000,000 parts",
)
"""The figures that the front page quotes."""
COLUMNS = ("figure", "target", "measured", "beside", "met")
_WORDS = {True: "met", False: "missed", None: "-"}
_STYLES = {True: "green", False: "bold red", None: "dim"}
_SIGNS = {Bound.UNDER: "<", Bound.AT_MOST: "≤", Bound.AT_LEAST: "≥"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        results: by measurement.
        seconds: how long each measurement took.
        parts: the sizes.
        seed: the generator's.
        began: when the run began, in UTC, as ISO 8601.
        commit: which sources were measured, or None where git does not say.
    """

    results: Mapping[str, Result]
    seconds: Mapping[str, float]
    parts: tuple[int, ...]
    seed: int
    began: str
    commit: str | None


def number(value: float) -> str:
    """A value with three significant digits, or as a whole number."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3  # noqa: PLR2004
    return f"{value:,.{digits}f}"


def target_text(target: Target | None, unit: str) -> str:
    """A target in short."""
    return "-" if target is None else f"{_SIGNS[target.bound]} {target.limit:,g} {unit}"


def row(figure: Figure) -> tuple[str, ...]:
    """A figure as the cells of a row."""
    measured = f"{number(figure.value)} {figure.unit}"
    return figure.name, target_text(figure.target, figure.unit), measured, figure.beside, _WORDS[figure.met]


def show(figures: Iterable[Figure], console: Console) -> None:
    """Print a table; into a pipe, lines with tabs between the cells."""
    if not console.is_terminal:
        for line in (COLUMNS, *map(row, figures)):
            print("\t".join(line), file=console.file)
        return
    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in {"target", "measured"} else "left", overflow="fold")
    for figure in figures:
        *cells, met = row(figure)
        table.add_row(*map(Text, cells), Text(met, style=_STYLES[figure.met]))
    console.print(table)


def machine() -> dict[str, Any]:
    """What it ran on: figures of another machine are other figures."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def _processor() -> str | None:
    """Its model, where the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def as_json(report: Report) -> dict[str, Any]:
    """A run as a document."""
    return {
        "version": 1,
        "began": report.began,
        "commit": report.commit,
        "machine": machine(),
        "seed": report.seed,
        "parts": list(report.parts),
        "seconds": {name: round(seconds, 1) for name, seconds in report.seconds.items()},
        "figures": [
            _figure_json(name, figure) for name, result in report.results.items() for figure in result.figures
        ],
        "lines": _lines_json(result.lines for result in report.results.values()),
        "on_clock": _lines_json(result.on_clock for result in report.results.values()),
    }


def _lines_json(lines: Iterable[Mapping[str, Mapping[int, float]]]) -> dict[str, dict[str, float]]:
    return {
        way: {str(parts): round(ms, 6) for parts, ms in points.items()}
        for each in lines
        for way, points in each.items()
    }


def _figure_json(measurement: str, figure: Figure) -> dict[str, Any]:
    return {
        "measurement": measurement,
        "figure": figure.name,
        "unit": figure.unit,
        "measured": round(figure.value, 6),
        "rounds": len(figure.samples),
        "lowest": round(min(figure.samples), 6),
        "highest": round(max(figure.samples), 6),
        "bound": figure.target.bound.value if figure.target else None,
        "limit": figure.target.limit if figure.target else None,
        "beside": figure.beside,
        "met": figure.met,
    }


def as_markdown(report: Report) -> str:
    """A run as a table on a page."""
    figures = [figure for result in report.results.values() for figure in result.figures]
    found = machine()
    sizes = ", ".join(f"{parts:,}" for parts in report.parts)
    taken = (
        f"Taken at {report.began} on {found['cores']} cores ({found['processor'] or found['architecture']}), "
        f"Python {found['python']}, SQLite {found['sqlite']}, {found['system']} {found['kernel']}; "
        f"commit {report.commit or 'unknown'}; {sizes} parts, seed {report.seed}."
    )
    lines = [
        taken,
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- | ---: | ---: | --- | --- |",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row(figure)) + " |" for figure in figures),
    ]
    return "\n".join(lines) + "\n"


def write(report: Report, folder: Path) -> None:
    """Write a run's JSON and its page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    (folder / "latest.md").write_text(as_markdown(report), encoding="utf-8")


def best(table: str) -> str:
    """The lines of a run's table that the front page quotes, with the table's head."""
    wanted = ("| figure |", "| --- |", *(f"| {name} |" for name in BEST))
    return "".join(line for line in table.splitlines(keepends=True) if line.startswith(wanted))


def quote(table: str, page: Path) -> None:
    """Put a run's table, or its best lines, into a page, in place of those before, between the lines that mark it.

    Raises:
        ValueError: the page does not have the two lines.
    """
    text = page.read_text(encoding="utf-8")
    for begins, ends, quoted in ((QUOTE_BEGINS, QUOTE_ENDS, table), (BEST_BEGINS, BEST_ENDS, best(table))):
        before, begin, rest = text.partition(begins)
        _, end, after = rest.partition(ends)
        if begin and end:
            page.write_text(f"{before}{begin}\n{quoted}{end}{after}", encoding="utf-8")
            return
    raise ValueError(f"{page} has no place for the table")
