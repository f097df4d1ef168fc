"""Settings as lines of a TOML file, to be pasted. Pure."""

import json
import re
from collections.abc import Iterator, Mapping

from watchdog.tuning.advice import Value

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(settings: Mapping[str, Value]) -> Iterator[str]:
    """The lines: tables last, as what follows the head of a table belongs to it."""
    for name, value in settings.items():
        if isinstance(value, str):
            yield f"{name} = {_text(value)}"
    for name, value in settings.items():
        if not isinstance(value, str):
            yield ""
            yield f"[{name}]"
            yield from (f"{_key(key)} = {_text(held)}" for key, held in value.items())


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(value: str) -> str:
    """A basic string of TOML, which has no surrogate pairs as JSON has."""
    quoted = json.dumps(value, ensure_ascii=False)
    return quoted.replace("\x7f", "\\u007f")
