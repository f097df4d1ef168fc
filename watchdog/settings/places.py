"""Where the user's files are, according to the process's environment: its home, its folder, the XDG variables.

None of them has to exist: a service has no home, and a folder may be deleted under a shell. Only code that needs an
unknown place gets an error.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from watchdog.errors import SettingsError


def home() -> Path | None:
    """The user's home folder; None if HOME is no absolute path, or is missing and nothing else names one."""
    try:
        found = Path.home() if os.environ.get("HOME") != "" else None
    except RuntimeError:
        return None
    return found if found is not None and found.is_absolute() else None


def here() -> Path | None:
    """The folder that the process is in; None if it is gone, or can't be named."""
    try:
        return Path.cwd()
    except OSError:
        return None


def user_folder(environ: Mapping[str, str], variable: str, home: Path | None, inner: str) -> Path:
    """One of the user's folders, such as the one for state.

    Args:
        environ: the environment.
        variable: names the folder, in an absolute path; any other value counts as not set.
        home: the home folder, if there is one.
        inner: where the folder is by default, below home.

    Raises:
        SettingsError: there is neither of the two.
    """
    named = Path(environ.get(variable, ""))
    if named.is_absolute():
        return named
    if home is None:
        raise SettingsError(
            f"No home folder of this user is known. Set HOME or {variable} to an absolute path, or name what is "
            "needed: --database, and the settings journal and control_token."
        )
    return home / inner
