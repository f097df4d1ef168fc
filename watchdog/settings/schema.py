"""The settings: their names, their values, and where each came from.

Strongest first: flags, environment (`OPENCODE_WATCHDOG_…`), the TOML file, opencode's own configuration, defaults.
A stronger source replaces a weaker one as a whole, tables and lists too.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from watchdog.errors import SettingsError
from watchdog.model.policy import Policy
from watchdog.settings import values
from watchdog.settings.addresses import Address, parse_name, parse_origin
from watchdog.settings.certificates import CERT_FILE, problem_with
from watchdog.settings.database_url import PostgresUrl, looks_like_one
from watchdog.settings.durations import format_duration, parse_duration
from watchdog.settings.quiet import QuietHours, quiet_hours
from watchdog.settings.receivers import Occasion, addresses, occasions
from watchdog.settings.server_url import ServerUrl, entries, without_twins
from watchdog.settings.sources import SECRETS, Gathered, Surroundings, did_you_mean, gather
from watchdog.shown import stacked

TOKEN_PATTERN = r"[A-Za-z0-9._~+/=-]{16,200}"  # noqa: S105 - what one looks like
"""The form of a bearer token (RFC 6750), and its length."""
_LONGEST_SHOWN = 60
_CREDENTIALS = re.compile(r"(?<=//)[^/\s]*@|^[^/@\s]+:[^/@\s]*@")


class LogLevel(StrEnum):
    """The least severe log lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines look; `auto` is `console` on a terminal, else `json`."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class EndLeftovers(StrEnum):
    """Which left-over commands the watchdog ends by itself."""

    OFF = "off"
    ORPHANS = "orphans"


def _password(value: object) -> object:
    if isinstance(value, SecretStr):
        return value
    if value is not None and not isinstance(value, str):
        raise ValueError("it is a text in quotes")
    return value or None


def _receivers(value: object) -> tuple[SecretStr, ...]:
    if isinstance(value, list | tuple):
        value = [each.get_secret_value() if isinstance(each, SecretStr) else each for each in value]
    return tuple(SecretStr(address) for address in addresses(value))


def _token(value: object) -> object:
    if value is None or isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or not re.fullmatch(TOKEN_PATTERN, value, re.ASCII):
        raise ValueError("it is 16 to 200 letters, digits and any of . _ ~ + / = -, in quotes")
    return value


Timeout = Annotated[timedelta | None, BeforeValidator(parse_duration)]
"""A limit; None is off."""
Duration = Annotated[timedelta, BeforeValidator(values.above_zero)]
Grace = Annotated[timedelta, BeforeValidator(values.or_zero)]
"""A duration that may be zero."""
Flag = Annotated[bool, BeforeValidator(values.true_or_false)]
Overrides = Annotated[
    Mapping[Annotated[str, BeforeValidator(values.pattern)], Timeout],
    BeforeValidator(values.table),
    AfterValidator(lambda table: MappingProxyType(dict(table))),
    PlainSerializer(dict, return_type=dict[str, timedelta | None]),
]
Servers = Annotated[
    tuple[Annotated[ServerUrl, PlainValidator(values.server)], ...],
    BeforeValidator(entries),
    AfterValidator(without_twins),
]
Hosts = Annotated[
    tuple[Annotated[str, BeforeValidator(parse_name)], ...],
    BeforeValidator(values.list_of('hosts, such as ["watchdog.example.org"]')),
    AfterValidator(values.without_twins),
]
Origins = Annotated[
    tuple[Annotated[str, BeforeValidator(parse_origin)], ...],
    BeforeValidator(values.list_of('origins, such as ["https://ui.example.org"]')),
    AfterValidator(values.without_twins),
]
Filesystems = Annotated[
    tuple[Annotated[str, BeforeValidator(values.filesystem)], ...],
    BeforeValidator(values.list_of('types of file systems, such as ["ecryptfs"]')),
    AfterValidator(values.without_twins),
]


_LIMITS = (
    "tool_timeout",
    "tool_timeouts",
    "task_timeout",
    "idle_timeout",
    "task_hard_timeout",
    "human_timeout",
    "shell_timeout",
    "declared_timeout_grace",
    "max_declared_timeout",
)


class Settings(BaseSettings):
    """All settings. An embedding server makes one itself; the program uses `load_settings`.

    Making one reads neither the environment nor any file.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database: Annotated[Path | PostgresUrl | None, BeforeValidator(values.database_place)] = None
    servers: Servers = (ServerUrl("http://127.0.0.1:4096"),)
    discover: Flag = True
    server_username: Annotated[str, BeforeValidator(values.username)] = "opencode"
    server_password: Annotated[SecretStr | None, BeforeValidator(_password)] = None
    server_ca: Annotated[Path | None, BeforeValidator(values.path_or_off)] = None
    poll_interval: Annotated[timedelta, BeforeValidator(values.interval)] = timedelta(seconds=5)
    tool_timeout: Timeout = timedelta(minutes=30)
    task_timeout: Timeout = timedelta(hours=2)
    idle_timeout: Timeout = timedelta(minutes=15)
    task_hard_timeout: Timeout = None
    human_timeout: Timeout = None
    shell_timeout: Timeout = None
    tool_timeouts: Overrides = Field(default_factory=lambda: MappingProxyType({}))
    declared_timeout_grace: Grace = timedelta(seconds=60)
    max_declared_timeout: Grace = timedelta(hours=6)
    abort_timeout: Duration = timedelta(seconds=10)
    abort_grace: Duration = timedelta(seconds=10)
    orphan_grace: Duration = timedelta(seconds=30)
    birth_margin: Duration = timedelta(seconds=5)
    max_attempts: Annotated[int, BeforeValidator(values.attempts)] = 3
    max_concurrency: Annotated[int, BeforeValidator(values.concurrency)] = 8
    recover_on_start: Flag = True
    journal: Annotated[Path | PostgresUrl | Literal["off"] | None, BeforeValidator(values.journal_place)] = None
    journal_retention: Timeout = timedelta(days=90)
    end_leftovers: Annotated[EndLeftovers, BeforeValidator(values.word)] = EndLeftovers.OFF
    sole_owner: Flag = False
    local_filesystems: Filesystems = ()
    full_scan_interval: Duration = timedelta(minutes=10)
    shutdown_grace: Duration = timedelta(seconds=10)
    lease_duration: Annotated[timedelta, BeforeValidator(values.lease)] = timedelta(seconds=9)
    notify: Annotated[tuple[SecretStr, ...], BeforeValidator(_receivers)] = ()
    notify_on: Annotated[tuple[Occasion, ...], BeforeValidator(occasions)] = (Occasion.GIVEN_UP, Occasion.DEGRADED)
    notify_degraded_after: Duration = timedelta(minutes=5)
    notify_waiting_after: Duration = timedelta(minutes=15)
    notify_quiet: Annotated[QuietHours | None, BeforeValidator(quiet_hours)] = None
    control: Annotated[Address | None, BeforeValidator(values.address)] = None
    control_token: Annotated[SecretStr | None, BeforeValidator(_token)] = None
    control_read_token: Annotated[SecretStr | None, BeforeValidator(_token)] = None
    control_allow_remote: Flag = False
    control_hosts: Hosts = ()
    control_origins: Origins = ()
    log_level: Annotated[LogLevel, BeforeValidator(values.word)] = LogLevel.INFO
    log_format: Annotated[LogFormat, BeforeValidator(values.word)] = LogFormat.AUTO

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the names are pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only what is passed: `load_settings` gathers the rest, and knows where it came from."""
        return (init_settings,)

    def credentials_of(self, url: str) -> tuple[str, str | None]:
        """The name and the password for a server that asks: its own, or else the shared ones."""
        own = url if isinstance(url, ServerUrl) else ServerUrl(url)
        password = own.password or self.server_password
        return own.username or self.server_username, password.get_secret_value() if password else None

    def limits(self) -> dict[str, str]:
        """The limits of the judge in words, as far as they are a matter of taste."""
        return {name: _in_words(name, getattr(self, name)) for name in _LIMITS}

    def policy(self) -> Policy:
        """The policy of the judge, in seconds."""
        return Policy(
            tool_timeout_seconds=_seconds(self.tool_timeout),
            task_timeout_seconds=_seconds(self.task_timeout),
            idle_timeout_seconds=_seconds(self.idle_timeout),
            task_hard_timeout_seconds=_seconds(self.task_hard_timeout),
            human_timeout_seconds=_seconds(self.human_timeout),
            shell_timeout_seconds=_seconds(self.shell_timeout),
            tool_timeouts={pattern: _seconds(limit) for pattern, limit in self.tool_timeouts.items()},
            declared_timeout_grace_seconds=self.declared_timeout_grace.total_seconds(),
            max_declared_timeout_seconds=self.max_declared_timeout.total_seconds(),
            orphan_grace_seconds=self.orphan_grace.total_seconds(),
            birth_margin_seconds=self.birth_margin.total_seconds(),
            sole_owner=self.sole_owner,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Settings with their sources.

    Attributes:
        sources: where each setting's value came from, in words.
        config_file: the TOML file that was read, if any.
        warnings: sentences about problems that are not fatal.
    """

    settings: Settings
    sources: Mapping[str, str]
    config_file: Path | None
    warnings: tuple[str, ...]


def load_settings(
    *, flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path | None, home: Path | None
) -> Loaded:
    """Gather the settings from every source.

    Args:
        flags: by setting name, plus `config`; None and an empty list mean that the flag was not given.
        environ: the environment; the process's own is never read.
        cwd: the folder that relative paths start from; None if it is gone.
        home: the user's home folder; None if there is none.

    Raises:
        SettingsError: with one sentence on a line for each problem.
    """
    around = Surroundings(names=tuple(Settings.model_fields), environ=environ, cwd=cwd, home=home)
    gathered = gather(flags, around)
    settings: Settings | None = None
    try:
        settings = Settings(**{name: _as_any(given.value) for name, given in gathered.values.items()})
    except ValidationError as error:
        gathered.problems.extend(_sentence(detail, gathered) for detail in error.errors(include_url=False))
    if settings is not None:
        gathered.warnings.extend(_about_environment(settings, environ))
    if gathered.problems or settings is None:
        raise SettingsError(stacked(*gathered.problems))
    return Loaded(
        settings=settings,
        sources={
            name: gathered.values[name].source if name in gathered.values else "default" for name in around.names
        },
        config_file=gathered.config_file,
        warnings=tuple(gathered.warnings),
    )


def _about_environment(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """A warning about the environment: OpenSSL silently ignores a file that it can't use."""
    named = environ.get(CERT_FILE)
    if named and any(server.lower().startswith("https:") for server in settings.servers):
        problem = problem_with(Path(named))
        if problem is not None:
            yield f"environment variable {CERT_FILE}: {named} is not used: {problem}."


def effective(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Each setting as name, value in words, and source; the password only as `set` or `not set`."""
    return [
        (name, _in_words(name, getattr(loaded.settings, name)), source) for name, source in loaded.sources.items()
    ]


def _in_words(name: str, value: object) -> str:
    if name in SECRETS:
        return "set" if value else "not set"
    if name in {"control", "server_ca", "notify_quiet"} and value is None:
        return "off"
    if name == "journal" and value is None:
        return "in the user's state folder, or in the database of the sessions if that is PostgreSQL"
    if name == "database":
        return "found as opencode does" if value is None else str(value)
    if value is None or isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{pattern}={format_duration(limit)}" for pattern, limit in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(each.in_words if isinstance(each, ServerUrl) else each for each in value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(detail: ErrorDetails, gathered: Gathered) -> str:
    name, *inner = (str(part) for part in detail["loc"])
    given = gathered.values[name]
    place = f'{name}["{inner[0]}"]' if name == "tool_timeouts" and inner else name
    shown = "what was given" if name in SECRETS or _may_hold_password(name, detail) else _shown(detail["input"])
    sentence = f"{given.source}: {place} can't be {shown}: {_allowed(name, detail)}"
    return sentence if sentence.endswith("?") else f"{sentence}."


def _may_hold_password(name: str, detail: ErrorDetails) -> bool:
    """Whether the wrong value is a server's table, or a text that was meant to be one."""
    given = detail["input"]
    return name == "servers" and not (isinstance(given, str) and given.lstrip()[:1] not in {"{", "["})


def _allowed(name: str, detail: ErrorDetails) -> str:
    choices = {"log_level": LogLevel, "log_format": LogFormat}
    if name in choices:
        words = list(choices[name])
        near = did_you_mean(str(detail["input"]), words).removesuffix(".")
        return f"it is one of {', '.join(words)}{near}"
    return str(detail.get("ctx", {}).get("error", detail["msg"]))


def _shown(value: object) -> str:
    if looks_like_one(value):
        return "that address"  # whatever is wrong with it, a part of it is a password
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    text = _CREDENTIALS.sub("…@", text)
    text = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _as_any(value: object) -> Any:  # noqa: ANN401 - pydantic checks it
    return value
