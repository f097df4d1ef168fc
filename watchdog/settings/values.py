"""The values of settings as people write them. Each parser raises `ValueError` with what a value may be."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from watchdog.settings.addresses import Address, parse_address
from watchdog.settings.database_url import PostgresUrl, looks_like_one
from watchdog.settings.durations import parse_duration
from watchdog.settings.server_url import HOW, ServerUrl, checked_keys

_MOST_CONCURRENCY = 64


def above_zero(value: object) -> timedelta:
    """A duration that is not off."""
    duration = parse_duration(value)
    if duration is None:
        raise ValueError("it can't be turned off; give a duration above zero")
    return duration


def interval(value: object) -> timedelta:
    """How often to look: a duration of at least 50 ms."""
    duration = above_zero(value)
    if duration < timedelta(milliseconds=50):
        raise ValueError("it is at least 50ms")
    return duration


def lease(value: object) -> timedelta:
    """How long a lease lasts: from half a second to five minutes."""
    duration = above_zero(value)
    if not timedelta(milliseconds=500) <= duration <= timedelta(minutes=5):
        raise ValueError("it is from 500ms to 5m")
    return duration


def or_zero(value: object) -> timedelta:
    """A duration that may be zero."""
    return parse_duration(value) or timedelta(0)


def true_or_false(value: object) -> bool:
    """A flag, as people write it."""
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("it is true or false")


def attempts(value: object) -> int:
    """A whole number, 1 or more."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value.strip(), re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("it is a whole number, 1 or more")
    return value


def concurrency(value: object) -> int:
    """A whole number from 1 to 64."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value.strip(), re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_CONCURRENCY:
        raise ValueError(f"it is a whole number from 1 to {_MOST_CONCURRENCY}")
    return value


def word(value: object) -> object:
    """A word without its blanks, in small letters."""
    return value.strip().lower() if isinstance(value, str) else value


def path(value: object) -> object:
    """The path of a file."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("it is the path of a file, in quotes")
    return Path(value)


def path_or_off(value: object) -> object:
    """The path of a file; None for `off`."""
    return None if isinstance(value, str) and value.strip().lower() == "off" else path(value)


def database_place(value: object) -> object:
    """The path of a file, or the address of a database in PostgreSQL."""
    if isinstance(value, PostgresUrl):
        return value
    return PostgresUrl.parse(str(value)) if looks_like_one(value) else path(value)


def journal_place(value: object) -> object:
    """The path of a file, the address of a database in PostgreSQL, or `off`."""
    if isinstance(value, str) and value.strip().lower() == "off":
        return "off"
    if isinstance(value, PostgresUrl) or looks_like_one(value):
        return database_place(value)
    try:
        return path(value)
    except ValueError:
        raise ValueError('it is the path of a file, in quotes, or "off"') from None


def username(value: object) -> object:
    """A name for basic authentication."""
    if not isinstance(value, str) or not value or ":" in value:
        raise ValueError("it is a text in quotes, not empty and without a colon")
    return value


def address(value: object) -> Address | None:
    """An address to listen at; None for `off`."""
    if value is None or isinstance(value, Address):
        return value
    if isinstance(value, str) and value.strip().lower() in {"off", ""}:
        return None
    return parse_address(value if isinstance(value, str) else "")


def _json_or(value: str, opening: str) -> object:
    """The JSON in a text from the environment, if it looks like JSON, else None."""
    if not value.lstrip().startswith(opening):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("it starts like JSON but isn't") from None


def list_of(what: str) -> Callable[[object], object]:
    """A parser of lists, as JSON or with commas in an environment variable."""

    def parse(value: object) -> object:
        if isinstance(value, str):
            found = _json_or(value, "[")
            return found if found is not None else [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise ValueError(f"it is a list of {what}")  # noqa: TRY004 - see `url`
        return value

    return parse


def server(value: object) -> ServerUrl:
    """The base URL of a server, or a table with one."""
    if isinstance(value, ServerUrl):
        return value
    if not isinstance(value, Mapping):
        return ServerUrl(url(value))
    checked_keys(value)
    name, secret = value.get("username"), value.get("password")
    if isinstance(secret, SecretStr):
        secret = secret.get_secret_value()
    if secret is not None and (not isinstance(secret, str) or not secret):
        raise ValueError("its password is a text in quotes, and not empty")
    return ServerUrl(
        url(value["url"]),
        username=None if name is None else str(username(name)),
        password=None if secret is None else SecretStr(secret),
    )


def url(value: object) -> str:
    """The base URL of a server, without credentials."""
    if not isinstance(value, str):
        raise ValueError(HOW)  # noqa: TRY004 - pydantic collects a ValueError, and no TypeError
    try:
        parts = urlsplit(value.strip())
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable, parts = False, urlsplit("")
    if not usable or parts.query or parts.fragment or re.search(r"[\s\\]", value.strip()):
        raise ValueError(HOW)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "a name and a password don't belong in the URL; set server_username and server_password, or give this "
            'server its own: { url = "…", username = "…", password = "…" }'
        )
    return value.strip().rstrip("/")


def filesystem(value: object) -> str:
    """The type of a file system, as the table of mounts spells it."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._+-]{0,39}", value.strip(), re.ASCII):
        raise ValueError(
            "a type of a file system is a word such as ecryptfs or fuse.sshfs, as `findmnt -o TARGET,FSTYPE` shows it"
        )
    return value.strip()


def without_twins(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Each item once, in the order given."""
    return tuple(dict.fromkeys(urls))


def table(value: object) -> object:
    """A table of tools and limits."""
    if isinstance(value, str):
        found = _json_or(value, "{")
        return found if found is not None else dict(_pair(part) for part in value.split(",") if part.strip())
    if not isinstance(value, Mapping):
        raise ValueError('it is a table of tools and limits, such as bash = "1h"')  # noqa: TRY004 - see `url`
    return dict(value)


def _pair(text: str) -> tuple[str, str]:
    pattern, separator, limit = text.partition("=")
    if not separator:
        raise ValueError("it is JSON or reads like bash=1h,mcp_*=off")
    return pattern.strip(), limit.strip()


def pattern(value: object) -> str:
    """A tool's name, or a glob pattern."""
    if not isinstance(value, str) or not value or value != value.strip():
        raise ValueError("a pattern is a tool's name, with * and ? where anything may stand")
    if "]" not in value[value.rfind("[") :] and "[" in value:
        raise ValueError("a pattern that has a [ needs its ]")
    return value
