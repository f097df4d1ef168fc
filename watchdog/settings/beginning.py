"""Writes the settings file that people start from."""

import json
import os
from collections.abc import Iterator
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


def begin(path: Path) -> Iterator[Path]:
    """Write the commented settings file and, beside it, its schema, which it names. Yields what was written.

    Raises:
        SettingsError: one of them is there already, or can't be written. Nothing is replaced.
    """
    described = path.with_name(path.name + _SUFFIX)
    for each in (path, described):
        if each.exists() or each.is_symlink():
            raise SettingsError(f"{each} is there already, and nothing was written. Name another file, or remove it.")
    yield _written(described, json.dumps(json_schema(), indent=2) + "\n")
    yield _written(path, f"#:schema ./{described.name}\n{example()}")


def _written(path: Path, text: str) -> Path:
    """A new file that its owner alone can read: people put passwords in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - it must be new, with a mode
            file.write(text)
    except OSError as error:
        raise SettingsError(
            f"{path} can't be written ({(error.strerror or type(error).__name__).lower()})."
        ) from error
    return path
