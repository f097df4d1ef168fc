"""The settings described for editors, and the file that people start from.

`config.example.toml` is the one place where each setting is explained: the schema takes its words from there.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from watchdog.errors import SettingsError
from watchdog.settings.durations import PATTERN
from watchdog.settings.receivers import Occasion
from watchdog.settings.schema import EndLeftovers, LogFormat, LogLevel, Settings

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
EXAMPLE: Final = "config.example.toml"
_LINE: Final = re.compile(r"#\[?(?P<name>[a-z_]+)(?: = .*|\])")
_RULE: Final = re.compile(r"-{3,}")

_TIMEOUT: Final = {
    "anyOf": [{"type": "string", "pattern": f"^({PATTERN}|[oO][fF][fF])$"}, {"type": "number", "minimum": 0}]
}
_DURATION: Final = {
    "anyOf": [{"type": "string", "pattern": f"^{PATTERN}$"}, {"type": "number", "exclusiveMinimum": 0}]
}
_FLAG: Final = {"type": "boolean"}
_TEXT: Final = {"type": "string", "minLength": 1}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_SERVER: Final = {
    "anyOf": [
        _TEXT,
        {
            "type": "object",
            "properties": {"url": _TEXT, "username": _TEXT, "password": _TEXT},
            "required": ["url"],
            "additionalProperties": False,
        },
    ]
}


def _one_of(*words: str) -> dict[str, Any]:
    return {"enum": [*words]}


_FORMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "database": _TEXT,
    "servers": {"type": "array", "items": _SERVER},
    "discover": _FLAG,
    "server_username": _TEXT,
    "server_password": {"type": "string"},
    "server_ca": _TEXT,
    "poll_interval": _DURATION,
    "tool_timeout": _TIMEOUT,
    "task_timeout": _TIMEOUT,
    "idle_timeout": _TIMEOUT,
    "task_hard_timeout": _TIMEOUT,
    "human_timeout": _TIMEOUT,
    "shell_timeout": _TIMEOUT,
    "tool_timeouts": {"type": "object", "propertyNames": _TEXT, "additionalProperties": _TIMEOUT},
    "declared_timeout_grace": _TIMEOUT,
    "max_declared_timeout": _TIMEOUT,
    "abort_timeout": _DURATION,
    "abort_grace": _DURATION,
    "orphan_grace": _DURATION,
    "birth_margin": _DURATION,
    "max_attempts": {"type": "integer", "minimum": 1},
    "max_concurrency": {"type": "integer", "minimum": 1, "maximum": 64},
    "recover_on_start": _FLAG,
    "journal": _TEXT,
    "journal_retention": _TIMEOUT,
    "end_leftovers": _one_of(*EndLeftovers),
    "sole_owner": _FLAG,
    "local_filesystems": _TEXTS,
    "full_scan_interval": _DURATION,
    "shutdown_grace": _DURATION,
    "lease_duration": _DURATION,
    "notify": _TEXTS,
    "notify_on": {"type": "array", "items": _one_of(*Occasion)},
    "notify_degraded_after": _DURATION,
    "notify_waiting_after": _DURATION,
    "notify_quiet": {"type": "string", "pattern": "^(off|[0-9]{1,2}:[0-9]{2} *- *[0-9]{1,2}:[0-9]{2})$"},
    "control": _TEXT,
    "control_token": {"type": "string", "minLength": 16, "maxLength": 200},
    "control_read_token": {"type": "string", "minLength": 16, "maxLength": 200},
    "control_allow_remote": _FLAG,
    "control_hosts": _TEXTS,
    "control_origins": _TEXTS,
    "log_level": _one_of(*LogLevel),
    "log_format": _one_of(*LogFormat),
}


def json_schema() -> dict[str, Any]:
    """The settings file as JSON Schema: how it is meant to be written.

    The program takes a few other spellings, too (`"yes"` for true), and refuses some of what the schema lets through.

    Raises:
        SettingsError: the explanations are missing: the installation is incomplete.
    """
    words = dict(explanations(example()))
    return {
        "$schema": DIALECT,
        "title": "Settings of opencode-watchdog",
        "type": "object",
        "properties": {name: {**_FORMS[name], "description": words[name]} for name in Settings.model_fields},
        "additionalProperties": False,
    }


def example() -> str:
    """The commented settings file, with each line that would set something commented out.

    Raises:
        SettingsError: it is missing: the installation is incomplete.
    """
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):  # as it is installed, and in a checkout
        try:
            return (folder / EXAMPLE).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
    raise SettingsError(f"{EXAMPLE} is missing from this installation. Install opencode-watchdog anew.")


def explanations(text: str) -> Iterator[tuple[str, str]]:
    """Each setting that a settings file names in a comment, with the comment above it."""
    comment: list[str] = []
    over = False
    for line in text.splitlines():
        if (found := _LINE.fullmatch(line)) and found["name"] in Settings.model_fields:
            yield found["name"], " ".join(comment)
        elif line.startswith("# "):
            comment = [*([] if over else comment), *([] if _RULE.search(line) else [line[2:].strip()])]
        over = not line.strip()
