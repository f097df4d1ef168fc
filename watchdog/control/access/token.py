"""The token of the API: made at the first start or on request, kept where only its owner can read it."""

import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from watchdog.errors import SettingsError
from watchdog.settings.places import user_folder
from watchdog.settings.schema import TOKEN_PATTERN

_NAME: Final = "control-token"
_MOST_BYTES: Final = 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def token_path(environ: Mapping[str, str], home: Path | None) -> Path:
    """Where the token is kept: in the user's state folder, one for all watchdogs of a user."""
    return user_folder(environ, "XDG_STATE_HOME", home, ".local/state") / "opencode-watchdog" / _NAME


def token_at(path: Path) -> str:
    """The token at a path. The first caller makes it.

    Raises:
        SettingsError: it can't be made or read, others can read it, or it is no token.
    """
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SettingsError(
            f"The token of the HTTP API can't be kept at {path}: {reason}. Fix that, or set control_token."
        ) from error


def renew_token(path: Path) -> None:
    """Make another token in the place of the one at a path.

    Raises:
        SettingsError: it can't be written.
    """
    try:
        write_privately(path, _new())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SettingsError(f"The token of the HTTP API can't be kept at {path}: {reason}.") from error


class KeptToken:
    """The token at a path, as it is now: the file is read again after it changed.

    Args:
        path: the path. There must be a token when this is made.

    Raises:
        SettingsError: there is no usable one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token: str | None = token_at(path)
        self._mark = self._marked()

    def __call__(self) -> str | None:
        """The token; None while there is no usable one."""
        mark = self._marked()
        if mark != self._mark:
            self._mark = mark
            self._read()
        return self._token

    def _read(self) -> None:
        log = structlog.get_logger("watchdog")
        try:
            self._token = _read(self._path)
            log.info("control.token_renewed")
        except (OSError, SettingsError) as error:
            self._token = None
            log.warning("control.no_token", why=f"Nobody gets in: {error}")

    def _marked(self) -> tuple[int, ...] | None:
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def write_privately(path: Path, text: str) -> None:
    """Write a file that only its owner can read, and replace the existing one, in one step.

    Makes its folder if there is none.

    Raises:
        OSError: it can't be written.
    """
    beside = _written_beside(path, text)
    try:
        beside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def _make(path: Path) -> None:
    """Make a token. If several do so at once, the first to link its file wins."""
    beside = _written_beside(path, _new())
    try:
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()


def _new() -> str:
    return secrets.token_urlsafe(32) + "\n"


def _written_beside(path: Path, text: str) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    return beside


def _read(path: Path) -> str:
    # The file itself is checked before its content counts: a link, a pipe or somebody else's file is no token.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise SettingsError(f"{path} is not a file of this user; remove it, and a new token is made.")
        if found.st_mode & _OTHERS:
            raise SettingsError(
                f"Others can read or write the token of the HTTP API at {path}: remove it, and a new one is made."
            )
        text = file.read(_MOST_BYTES).decode("ascii", errors="replace").strip()
    if not re.fullmatch(TOKEN_PATTERN, text, re.ASCII):
        raise SettingsError(f"{path} holds no token; remove it, and a new one is made.")
    return text
