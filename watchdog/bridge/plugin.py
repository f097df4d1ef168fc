"""The plugin as a file: where opencode finds it, whether it is there, and how it comes and goes."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Final

from watchdog.errors import SettingsError
from watchdog.settings.places import user_folder

NAME: Final = "opencode-watchdog-bridge.js"
_FOLDER: Final = "plugin"


class State(StrEnum):
    """Whether the file is there."""

    CURRENT = "current"
    DIFFERENT = "different"
    """It is of another version of this program, or was changed."""
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the plugin may be, and whether it is."""

    path: Path
    state: State


def shipped() -> bytes:
    """The plugin of this version."""
    return (files("watchdog.bridge") / "plugin.js").read_bytes()


def places(environ: Mapping[str, str], home: Path | None) -> tuple[Place, ...]:
    """Where opencode looks for it, the place to install it first.

    opencode reads OPENCODE_CONFIG_DIR besides its usual folder.

    Raises:
        SettingsError: nobody knows where.
    """
    named = environ.get("OPENCODE_CONFIG_DIR", "")
    if named and not Path(named).is_absolute():
        raise SettingsError(
            f"OPENCODE_CONFIG_DIR is {named}, which opencode reads from the folder that it was started in, and that "
            "one can't be known. Set a whole path."
        )
    usual = user_folder(environ, "XDG_CONFIG_HOME", home, ".config") / "opencode"
    found = [*([Path(named)] if named else []), usual]
    return tuple(_place(folder / _FOLDER / NAME) for folder in dict.fromkeys(found))


def install(place: Place) -> None:
    """Put the plugin there, in one step: opencode never reads half of it.

    Raises:
        SettingsError: it can't be written there.
    """
    folder = place.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(shipped())
                os.fchmod(file.fileno(), 0o644)
            Path(name).replace(place.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SettingsError(f"The bridge can't be written to {place.path}: {error.strerror or error}.") from error


def remove(found: Iterable[Place]) -> None:
    """Take it away wherever it is, with the folders around it in which nothing else is.

    Raises:
        SettingsError: it can't be removed.
    """
    for place in found:
        if place.state is State.ABSENT:
            continue
        try:
            place.path.unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(f"{place.path} can't be removed: {error.strerror or error}.") from error
        with suppress(OSError):  # something else is in it
            place.path.parent.rmdir()
            place.path.parent.parent.rmdir()


def _place(path: Path) -> Place:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Place(path=path, state=State.ABSENT)
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror or error}.") from error
    return Place(path=path, state=State.CURRENT if content == shipped() else State.DIFFERENT)
