"""The plot: what it costs to find out, over how much is stored. The only module that needs matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_INK = "#808080"
"""Grey that is read on white and on black: the page behind it may be either."""
_COLOURS = ("#d1495b", "#e07b39", "#b8860b", "#8e6bbf", "#2a8fbd", "#2e9e6b")
_MARKS = ("o", "s", "^", "v", "D", "o")
_SETTINGS = {
    "svg.hashsalt": "opencode-watchdog",  # the same figures give the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def draw(panels: Mapping[str, Mapping[str, Mapping[int, float]]], path: Path) -> None:
    """Draw panels above each other, in each one line for each way, both axes logarithmic, on a transparent ground.

    Args:
        panels: milliseconds by parts, for each way; by what stands at the axis.
        path: the SVG file to write.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(8, 4.8 * len(panels)), layout="constrained")
        for number, (label, lines) in enumerate(panels.items(), start=1):
            _panel(figure.add_subplot(len(panels), 1, number), lines, label)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _panel(axes: Axes, lines: Mapping[str, Mapping[int, float]], label: str) -> None:
    for number, (way, points) in enumerate(sorted(lines.items(), key=_height, reverse=True)):
        sizes = sorted(points)
        axes.plot(
            sizes,
            [points[size] for size in sizes],
            label=way,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKS[number % len(_MARKS)],
            linewidth=2,
        )
    axes.set(xscale="log", yscale="log", xlabel="parts stored", ylabel=label)
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.grid(visible=True, color=_INK, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2)


def _height(line: tuple[str, Mapping[int, float]]) -> float:
    """Where a line ends: the legend lists them from the top to the bottom."""
    points = line[1]
    return points[max(points)]


def _plain(value: float, _: object) -> str:
    return f"{value:,g}" if value < 1 else f"{value:,.0f}"
