"""Writes the settings file that people start from."""

import json
import os
from pathlib import Path

from watchdog.errors import SettingsError
from watchdog.settings.described import example, json_schema
from watchdog.settings.places import home, user_folder

_SUFFIX = ".schema.json"


def usual_place() -> Path:
    """Where the user's own settings file is looked for.

    Raises:
        SettingsError: no home folder is known.
    """
    return user_folder(os.environ, "XDG_CONFIG_HOME", home(), ".config") / "opencode-watchdog" / "config.toml"


def begin(path: Path) -> tuple[Path, Path]:
    """Write the commented settings file and, beside it, its schema, which it names. Returns both.

    Raises:
        SettingsError: one of them is there already, or can't be written. Nothing is replaced, and nothing is left.
    """
    described = path.with_name(path.name + _SUFFIX)
    texts = {described: json.dumps(json_schema(), indent=2) + "\n", path: f"#:schema ./{described.name}\n{example()}"}
    for each in (path, described):
        if each.exists() or each.is_symlink():
            raise SettingsError(f"{each} is there already, and nothing was written. Name another file, or remove it.")
    made: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for each, text in texts.items():
            _write(each, text, made)
    except OSError as error:
        for each in made:
            each.unlink(missing_ok=True)
        raise SettingsError(
            f"{path} can't be written ({(error.strerror or type(error).__name__).lower()})."
        ) from error
    return described, path


def _write(path: Path, text: str, made: list[Path]) -> None:
    """Make a new file that its owner alone can read: people put passwords in it."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - it must be new, with a mode
        made.append(path)
        file.write(text)
