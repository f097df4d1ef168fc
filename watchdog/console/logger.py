"""Where log lines go: to structlog, if the embedding program set it up; else to the standard library's logging.

A server that never heard of structlog would find structlog's default on its standard output.
"""

import logging
from typing import Any, Final, Protocol

import structlog

from watchdog.console.formats import face, withhold
from watchdog.shown import in_json

NAME: Final = "watchdog"


class Logger(Protocol):
    """Takes an event, `noun.verb`, with its fields. `exc_info` is an error."""

    def debug(self, event: str, **fields: object) -> object:
        """For a person who looks for a fault."""

    def info(self, event: str, **fields: object) -> object:
        """What was done."""

    def warning(self, event: str, **fields: object) -> object:
        """Something that a person may want to know."""

    def error(self, event: str, **fields: object) -> object:
        """Something that needs a person."""


def logger() -> Logger:
    """The logger to use now. Ask at each line, since a server may set its logging up at any time."""
    if structlog.is_configured():
        chosen: Logger = structlog.get_logger(NAME)
        return chosen
    return _STANDARD


def debugs() -> bool:
    """Whether debug lines go anywhere: one with thousands of fields is made only then."""
    if not structlog.is_configured():
        return logging.getLogger(NAME).isEnabledFor(logging.DEBUG)
    chosen = structlog.get_logger(NAME)
    asked = getattr(chosen, "is_enabled_for", None) or getattr(chosen, "isEnabledFor", None)
    return asked is None or bool(asked(logging.DEBUG))


class _Standard:
    """The standard library's logger: the message is `event field=value …`, and the record has `fields`."""

    def debug(self, event: str, **fields: object) -> None:
        _say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        _say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        _say(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        _say(logging.ERROR, event, fields)


_STANDARD: Final = _Standard()


def _say(level: int, event: str, fields: dict[str, Any]) -> None:
    standard = logging.getLogger(NAME)
    if not standard.isEnabledFor(level):
        return
    error = fields.pop("exc_info", None)
    known = face(None, "", withhold(None, "", fields))
    line = " ".join([event, *(f"{key}={_value(value)}" for key, value in known.items())])
    standard.log(level, "%s", line, exc_info=error, extra={"fields": {"event": event, **known}}, stacklevel=3)


def _value(value: object) -> str:
    plain = isinstance(value, str) and value and not set(value) & {" ", '"', "="}
    return str(value) if plain else in_json(value, spaced=True)
