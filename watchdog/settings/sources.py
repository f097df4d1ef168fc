"""Where settings come from: flags, environment, TOML file, opencode's own configuration.

This module only checks whether a name is known; `schema` checks the values.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from stat import S_IRWXG, S_IRWXO

from watchdog.errors import SettingsError
from watchdog.settings.database_url import holds_password, looks_like_one
from watchdog.settings.likeness import likeness
from watchdog.settings.server_url import holds_password as has_servers_password

PREFIX = "OPENCODE_WATCHDOG_"
PROJECT_FILE = "opencode-watchdog.toml"
FLAG_NAMES = {"servers": "--server"}
EXPERIMENTAL = ("tool_timeout", "task_timeout", "idle_timeout")
INHERITED = {"server_username": "OPENCODE_SERVER_USERNAME", "server_password": "OPENCODE_SERVER_PASSWORD"}
SECRETS = {
    "server_password": "a password",
    "control_token": "a token",
    "control_read_token": "a token",
    "notify": "the addresses of receivers",
}
"""The settings that are never shown, and their meaning."""

_TOML_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])')


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A value as it was given, and its source."""

    value: object
    source: str


@dataclass(kw_only=True, slots=True)
class Gathered:
    """The result of all sources: for each setting, its value from the source that wins.

    Attributes:
        problems: sentences about problems that stop the program.
        warnings: sentences about problems that don't.
        config_file: the TOML file that was read.
    """

    values: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config_file: Path | None = None

    def offer(self, name: str, value: object, source: str) -> None:
        """Take a value, unless a stronger source gave one already."""
        self.values.setdefault(name, Given(value=value, source=source))


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """The parts of the process that matter: this module never reads the process itself."""

    names: Collection[str]
    environ: Mapping[str, str]
    cwd: Path | None
    home: Path | None

    @property
    def config_home(self) -> Path | None:
        """The user's configuration folder, on every platform as on Linux, like opencode; None where nobody knows it.

        A relative path counts as not set, as the specification says.
        """
        named = Path(self.environ.get("XDG_CONFIG_HOME", ""))
        if named.is_absolute():
            return named
        return None if self.home is None else self.home / ".config"

    def located(self, path: str, base: Path | None) -> Path:
        """A path as people write it, made absolute.

        Raises:
            SettingsError: it begins in a folder that nobody knows.
        """
        if path == "~" or path.startswith("~/"):
            if self.home is None:
                raise SettingsError(f"{path} begins in the home folder, and this user has none. Give a whole path.")
            return self.home / path[2:]
        if base is None and not Path(path).is_absolute():
            raise SettingsError(
                f"{path} begins in the folder that this was started in, and that folder is gone. Give a whole path."
            )
        return (base or Path("/")) / path

    def placed(self, name: str, value: object, base: Path | None) -> object:
        """The value; if it is the path of a file, made absolute."""
        if (
            name not in {"database", "journal", "server_ca"}
            or not isinstance(value, str | Path)
            or not str(value).strip()
        ):
            return value
        if looks_like_one(value) or (name != "database" and str(value).strip().lower() == "off"):
            return value
        return self.located(str(value), base)


def gather(flags: Mapping[str, object], around: Surroundings) -> Gathered:
    """Collect what every source says, the strongest first."""
    gathered = Gathered()
    _from_flags(gathered, flags, around)
    _from_environment(gathered, around)
    _from_file(gathered, flags.get("config"), around)
    _from_opencode(gathered, around)
    for name, variable in INHERITED.items():
        if around.environ.get(variable):
            gathered.offer(name, around.environ[variable], f"environment variable {variable}")
    return gathered


def did_you_mean(name: str, names: Collection[str], spelt: Callable[[str], str] = str) -> str:
    """The end of a sentence about an unknown name: a likely one, as it is spelt there, or nothing."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
    return f'; did you mean "{spelt(near[0])}"?' if near else "."


def strip_jsonc(text: str) -> str:
    """Turn JSON with comments and trailing commas into JSON; every other character keeps its line and column."""

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    return _TRAILING_COMMA.sub(blank, _COMMENT.sub(blank, text))


def _from_flags(gathered: Gathered, flags: Mapping[str, object], around: Surroundings) -> None:
    for name, value in flags.items():
        if name == "config" or value is None or value in ((), []):
            continue
        flag = FLAG_NAMES.get(name, "--" + name.replace("_", "-"))
        if name not in around.names:
            gathered.problems.append(f"flag {flag}: there is no such setting{did_you_mean(name, around.names)}")
        else:
            gathered.offer(name, around.placed(name, value, around.cwd), f"flag {flag}")


def _from_environment(gathered: Gathered, around: Surroundings) -> None:
    known = {PREFIX + name.upper() for name in around.names}
    for variable, value in sorted(around.environ.items()):
        if not variable.upper().startswith(PREFIX):
            continue
        name = variable[len(PREFIX) :]
        source = f"environment variable {variable}"
        if variable in known:
            if value.strip():
                gathered.offer(name.lower(), around.placed(name.lower(), value, around.cwd), source)
        elif (meant := likeness(name, around.names)) is not None:
            gathered.problems.append(f'{source}: there is no such setting; did you mean "{PREFIX}{meant.upper()}"?')
        elif variable.startswith(PREFIX):
            gathered.warnings.append(f"{source}: it is ignored, because there is no such setting.")


def _from_file(gathered: Gathered, config: object, around: Surroundings) -> None:
    if config:
        candidates = [around.located(str(config), around.cwd)]
    else:
        folders = (around.cwd, around.config_home and around.config_home / "opencode-watchdog")
        names = (PROJECT_FILE, "config.toml")
        candidates = [folder / name for folder, name in zip(folders, names, strict=True) if folder is not None]
    for path in candidates:
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            gathered.problems.append(f"file {path}: it can't be read ({_reason(error)}).")
            return
        gathered.config_file = path
        _take_table(gathered, path, _toml(gathered, path, content), around)
        return
    if config:
        gathered.problems.append(f"flag --config: there is no file {candidates[0]}.")


def _toml(gathered: Gathered, path: Path, content: bytes) -> dict[str, object]:
    try:
        text = content.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        gathered.problems.append(f"file {path}, line {line}: it isn't UTF-8 text.")
    except RecursionError:
        gathered.problems.append(f"file {path}: its values are nested too deeply.")
    except tomllib.TOMLDecodeError as error:
        gathered.problems.append(f"file {path}, {_toml_complaint(str(error), content.decode('utf-8-sig'))}")
    return {}


def _toml_complaint(message: str, text: str) -> str:
    """The parser's message with the place first; `end of document` is a place, too."""
    lines = text.rstrip("\n").split("\n")
    line, column = str(len(lines)), str(len(lines[-1]) + 1)
    place = _TOML_PLACE.search(message)
    if place and place.group("line"):
        line, column = place.group("line"), place.group("column")
    return f"line {line}, column {column}: it isn't TOML: {_TOML_PLACE.sub('', message)}."


def _take_table(gathered: Gathered, path: Path, table: Mapping[str, object], around: Surroundings) -> None:
    for name, value in table.items():
        if name not in around.names:
            hint = did_you_mean(name, around.names)
            gathered.problems.append(f"file {path}, key {name}: there is no such setting{hint}")
            continue
        gathered.offer(name, around.placed(name, value, path.parent), f"file {path}, key {name}")
        if name == "tool_timeouts" and isinstance(value, Mapping):
            gathered.problems.extend(_strays(path, value, around.names))
    held = [what for name, what in SECRETS.items() if table.get(name)]
    held += ["a password" for name in ("database", "journal") if holds_password(table.get(name))]
    held += ["a password"] if has_servers_password(table.get("servers")) else []
    if held and _readable_by_others(path):
        gathered.warnings.append(f"file {path} holds {held[0]} and others can read it: run chmod 600 {path}")


def _strays(path: Path, overrides: Mapping[str, object], names: Collection[str]) -> Iterator[str]:
    """A setting that follows `[tool_timeouts]` in the file belongs to that table, which nobody intends."""
    for name in overrides:
        if name in names and "_" in name:
            yield (
                f"file {path}, key tool_timeouts.{name}: {name} is a setting and not a tool; move it above the line "
                "[tool_timeouts], because what follows that line belongs to the table."
            )


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (S_IRWXG | S_IRWXO))
    except OSError:
        return False


def _from_opencode(gathered: Gathered, around: Surroundings) -> None:
    named = around.environ.get("OPENCODE_CONFIG")
    if named and around.cwd is None and not Path(named).is_absolute():
        gathered.warnings.append("environment variable OPENCODE_CONFIG: the folder that its path begins in is gone.")
        return
    if named:
        paths = [(around.cwd or Path("/")) / named]
    elif around.config_home is not None:
        paths = [around.config_home / "opencode" / name for name in ("opencode.jsonc", "opencode.json")]
    else:
        return
    for path in paths:
        try:
            content = path.read_text(encoding="utf-8-sig")
        except (FileNotFoundError, NotADirectoryError):
            if named:
                gathered.warnings.append(f"environment variable OPENCODE_CONFIG: there is no file {path}.")
            continue
        except (OSError, UnicodeDecodeError) as error:
            gathered.warnings.append(f"file {path}: it is ignored, because it can't be read ({_reason(error)}).")
            continue
        _take_experimental(gathered, path, content)


def _take_experimental(gathered: Gathered, path: Path, content: str) -> None:
    """Take the three limits.

    A broken file is only a warning, because it is opencode's; a wrong limit is a problem.
    """
    try:
        document = json.loads(strip_jsonc(content))
    except json.JSONDecodeError as error:
        where = f"file {path}, line {error.lineno}, column {error.colno}"
        gathered.warnings.append(f"{where}: the file is ignored, because it isn't JSON: {error.msg}.")
        return
    except (ValueError, RecursionError):
        gathered.warnings.append(f"file {path}: the file is ignored, because it can't be read as JSON.")
        return
    experimental = document.get("experimental") if isinstance(document, dict) else None
    if not isinstance(experimental, dict):
        return
    for name in EXPERIMENTAL:
        value = experimental.get(name)
        if value is None or name in gathered.values:
            continue
        source = f"file {path}, key experimental.{name}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            gathered.problems.append(f"{source}: it needs a number of milliseconds, or 0 to turn the limit off.")
        else:
            gathered.offer(name, _milliseconds(value), source)


def _milliseconds(value: float) -> timedelta | float:
    """The duration, or seconds that are out of range, which the check of the value will refuse."""
    try:
        return timedelta(milliseconds=value) if abs(value) >= 1 or value == 0 else value / 1000
    except (OverflowError, ValueError):
        return float("inf") if value > 0 else float("-inf") if value < 0 else float("nan")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (
        "not UTF-8 text"
        if isinstance(error, UnicodeDecodeError)
        else (error.strerror or type(error).__name__).lower()
    )
