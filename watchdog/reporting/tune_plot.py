"""The durations by tool as a picture: a row for each tool on a logarithmic scale, with the limits as lines.

A small SVG of its own: a library that draws would weigh more than all of the watchdog.
"""

import math
from collections.abc import Iterator
from html import escape
from typing import Final

from watchdog.judging.limits import duration
from watchdog.shown import shown
from watchdog.tuning.advice import Advised
from watchdog.tuning.report import Tuning
from watchdog.tuning.tally import ToolTally

_LEFT, _RIGHT, _TOP, _ROW, _BOTTOM, _WIDTH = 190, 30, 60, 34, 70, 900
_MOST_TOOLS: Final = 60
_LONGEST_NAME: Final = 24
_SHORTEST, _LONGEST = 0.1, 864_000.0
_TICKS: Final = (0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 36_000.0, 86_400.0, 864_000.0)
_STYLE: Final = """
  text { font: 12px sans-serif; fill: #333 } .title { font-size: 15px; font-weight: bold }
  rect { fill: #fff } .grid { stroke: #ddd }
  .span { stroke: #4878a8; stroke-width: 3 } .dot { fill: #4878a8 } .long { fill: #fff; stroke: #4878a8 }
  .limit { stroke: #c0392b; stroke-width: 2 } .safe { stroke: #2e8b57; stroke-width: 2; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } rect, .long { fill: #16191d } .grid { stroke: #333 }
  }
"""


def drawn(found: Tuning) -> str:
    """The picture as SVG."""
    pairs = [pair for pair in zip(found.tally.tools, found.advice.limits, strict=True) if len(pair[0].finished)]
    pairs = pairs[:_MOST_TOOLS]
    height = _TOP + _ROW * len(pairs) + _BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{height}"/>',
            '<text class="title" x="20" y="28">How long finished calls took</text>',
            *_grid(_TOP + _ROW * len(pairs)),
            *(line for place, pair in enumerate(pairs) for line in _row(_TOP + _ROW * place + _ROW // 2, *pair)),
            *_legend(height - 14),
            "</svg>\n",
        ]
    )


def _x(seconds: float) -> float:
    inside = min(max(seconds, _SHORTEST), _LONGEST)
    share = math.log(inside / _SHORTEST) / math.log(_LONGEST / _SHORTEST)
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _grid(bottom: int) -> Iterator[str]:
    for tick in _TICKS:
        yield f'<line class="grid" x1="{_x(tick)}" x2="{_x(tick)}" y1="{_TOP - 10}" y2="{bottom}"/>'
        yield f'<text x="{_x(tick)}" y="{bottom + 18}" text-anchor="middle">{duration(tick)}</text>'


def _row(y: int, tool: ToolTally, limit: Advised) -> Iterator[str]:
    p50, p95, p99, longest = (tool.finished.quantile(percent) or 0.0 for percent in (50, 95, 99, 100))
    name = shown(tool.tool)
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    yield f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(short)}</text>'
    yield f"<g><title>{escape(_described(tool))}</title>"
    yield f'<line class="span" x1="{_x(p50)}" x2="{_x(longest)}" y1="{y}" y2="{y}"/>'
    for value in (p50, p95, p99):
        yield f'<circle class="dot" cx="{_x(value)}" cy="{y}" r="4"/>'
    yield f'<circle class="long" cx="{_x(longest)}" cy="{y}" r="4"/>'
    if tool.limit_seconds is not None:
        yield _line("limit", tool.limit_seconds, y)
    if limit.advised and limit.seconds is not None:
        yield _line("safe", limit.seconds, y)
    yield "</g>"


def _described(tool: ToolTally) -> str:
    quantiles = ", ".join(
        f"{name} {duration(tool.finished.quantile(percent) or 0.0)}"
        for name, percent in (("p50", 50), ("p95", 95), ("p99", 99), ("longest", 100))
    )
    return f"{shown(tool.tool)}: {len(tool.finished):,} calls, {quantiles}"


def _line(kind: str, seconds: float, y: int) -> str:
    return f'<line class="{kind}" x1="{_x(seconds)}" x2="{_x(seconds)}" y1="{y - 14}" y2="{y + 14}"/>'


def _legend(y: int) -> Iterator[str]:
    for kind, x, text in (("dot", 0, "p50, p95, p99"), ("long", 130, "longest")):
        yield f'<circle class="{kind}" cx="{_LEFT + x}" cy="{y - 4}" r="4"/>'
        yield f'<text x="{_LEFT + x + 10}" y="{y}">{text}</text>'
    for kind, x, text in (("limit", 230, "today's limit"), ("safe", 350, "advised limit")):
        yield f'<line class="{kind}" x1="{_LEFT + x}" x2="{_LEFT + x}" y1="{y - 14}" y2="{y + 4}"/>'
        yield f'<text x="{_LEFT + x + 10}" y="{y}">{text}</text>'
