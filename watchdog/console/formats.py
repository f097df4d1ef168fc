"""The program's log: one line for each event on standard error, for people or for machines.

An embedding server keeps its own logging: only the program calls `configure`. The log has ids, tool names and times;
a processor removes any value that is named like a secret or like content.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from watchdog.shown import in_json, shown, stacked

WITHHELD = frozenset({
    "authorization", "password", "secret", "server_password", "notify", "token",
    "arguments", "content", "data", "input", "metadata", "output", "prompt", "reasoning", "row", "text",
})  # fmt: skip
PLACEHOLDER = "(withheld)"
_OF_LINES = ("exception", "stack")
NOISY = ("aiosqlite", "asyncio", "httpcore", "httpx", "sqlalchemy")


def configure(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["auto", "console", "json"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Set up structlog, and the standard library's logging, for the program.

    Args:
        level: the least severe lines to write.
        log_format: `auto` is `console` on a terminal, else `json`.
        stream: where to; standard error by default.
    """
    out = stream if stream is not None else sys.stderr
    terminal = out.isatty()
    severity = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        withhold,
    ]
    rendering = _rendering(console=log_format == "console" or (log_format == "auto" and terminal), colors=terminal)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=lambda *_: _Lines(out),
        cache_logger_on_first_use=False,
    )
    _configure_standard_library(out, severity, shared, rendering)


def withhold(_logger: object, _method: str, event: MutableMapping[str, Any]) -> EventDict:
    """Remove the values whose names say that they are secrets or content, at any depth."""
    return {key: _withheld(key, value) for key, value in event.items()}


def _withheld(key: object, value: object) -> object:
    if isinstance(key, str) and key.lower() in WITHHELD and value is not None:
        return PLACEHOLDER
    if isinstance(value, MutableMapping):
        return {inner: _withheld(inner, held) for inner, held in value.items()}
    if isinstance(value, list | tuple):
        return [_withheld(None, held) for held in value]
    return value


def face(_logger: object, _method: str, event: MutableMapping[str, Any]) -> EventDict:
    """Pass every word of a line through the one place, names and nested values, too. A traceback keeps its lines.

    In JSON the values stay exactly as they are, in printable ASCII.
    """
    return {shown(key): _of_lines(value) if key in _OF_LINES else _faced(value) for key, value in event.items()}


def _of_lines(value: object) -> object:
    if not isinstance(value, str):
        return _faced(value)
    # Indented: none of its lines can pass for a line of the log.
    return stacked(*(f"  {line}" for line in value.split("\n")))


def _faced(value: object) -> object:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {shown(str(key)): _faced(held) for key, held in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_faced(held) for held in value]
    return value if value is None or isinstance(value, bool | int | float) else shown(repr(value))


def _json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    return in_json(event, spaced=True)


def _rendering(*, console: bool, colors: bool) -> list[Processor]:
    """The form of lines. Tracebacks stay plain: the richer ones print local variables, and so secrets and content."""
    if console:
        plain = structlog.dev.plain_traceback
        console_renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
        return [structlog.processors.format_exc_info, face, console_renderer]
    return [structlog.processors.format_exc_info, _json]


def _configure_standard_library(
    out: TextIO, severity: int, shared: list[Processor], rendering: list[Processor]
) -> None:
    """Give other packages' lines our form, and let the talkative ones log only warnings and errors."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.raiseExceptions = False
    logging.basicConfig(handlers=[handler], level=severity, force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(severity, logging.WARNING))


class _Lines:
    """Writes whole lines. A stream that is full or closed must not stop the watchdog."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except UnicodeEncodeError:
            self.msg(line.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = log = fatal = msg
