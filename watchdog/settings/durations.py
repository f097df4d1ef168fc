"""Durations as people write them."""

import math
import re
from collections.abc import Callable
from datetime import timedelta

from watchdog.errors import UsageError

HOW_TO_WRITE = 'write a duration such as "90s", "30m", "1h30m" or "7d", or a number of seconds'
LONGEST = timedelta(days=3650)
SHORTEST = timedelta(milliseconds=1)

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def _each_unit(spelt: Callable[[str], str]) -> str:
    return r"\s*".join(rf"(?:{_NUMBER}{spelt(unit)})?" for unit, _ in _UNITS)


_PARTS = re.compile(_each_unit(str), re.ASCII)
_PLAIN = re.compile(_NUMBER, re.ASCII)
PATTERN = (
    rf"\s*({_NUMBER}|(?=[0-9]){_each_unit(lambda unit: ''.join(f'[{each}{each.upper()}]' for each in unit))})\s*"
)
"""The same as a regular expression of JSON Schema, for editors: in letters of either case."""


def parse_duration(value: object) -> timedelta | None:
    """Read a duration: a text with units, a number of seconds, or a timedelta.

    Returns:
        The duration, or None for `"off"`, for zero and for None.

    Raises:
        ValueError: it is none of these, negative, or out of range. The text completes "can't be …: ".
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == "off"):
        return None
    seconds = _seconds(value)
    if seconds < 0:
        raise ValueError("a duration is never negative")
    if seconds == 0:
        return None
    if not SHORTEST.total_seconds() <= seconds <= LONGEST.total_seconds():
        raise ValueError(f"a duration is at least 1ms and at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


def duration_of(flag: str, value: str | None) -> timedelta | None:
    """The duration that a flag of the command line was given; None for none.

    Raises:
        UsageError: it is no duration.
    """
    try:
        return parse_duration(value)
    except ValueError as error:
        raise UsageError(f"{flag} can't be {value!r}: {error}.") from None


def format_duration(duration: timedelta | None) -> str:
    """Write a duration as `parse_duration` reads it, such as `1h30m`; None is `off`."""
    if duration is None:
        return "off"
    rest = round(duration / timedelta(milliseconds=1))
    text = ""
    for unit, milliseconds in _UNITS:
        count, rest = divmod(rest, milliseconds)
        text += f"{count}{unit}" if count else ""
    return text or "0"


def _seconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _seconds_of_text(value.strip().lower())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(HOW_TO_WRITE)  # noqa: TRY004 - pydantic collects a ValueError, and no TypeError
    try:
        seconds = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    if math.isnan(seconds):
        raise ValueError(HOW_TO_WRITE)
    return seconds


def _seconds_of_text(text: str) -> float:
    unsigned = text.removeprefix("-")
    sign = -1.0 if unsigned != text else 1.0
    if _PLAIN.fullmatch(unsigned):
        return sign * float(unsigned)
    parts = _PARTS.fullmatch(unsigned)
    if parts is None or not unsigned:
        raise ValueError(HOW_TO_WRITE)
    return sign * sum(
        float(number) * milliseconds / 1000
        for number, (_, milliseconds) in zip(parts.groups(), _UNITS, strict=True)
        if number
    )
