"""`opencode-watchdog` and `python -m watchdog`."""

import os
import sys
import traceback
from io import TextIOWrapper
from typing import TextIO

from watchdog.errors import (
    AlreadyWatched,
    DatabaseError,
    JournalUnusable,
    ServerError,
    SettingsError,
    UsageError,
    WatchdogError,
)

USAGE, UNUSABLE, INTERNAL = 2, 3, 70


def main() -> None:
    """Run the program, and turn what it raises into a sentence and an exit code."""
    # httpx brings a command line of its own, and with it click, pygments and rich; as if that could not be imported.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    from watchdog.cli import app

    _take_any_text()
    try:
        app(prog_name="opencode-watchdog")
    except BaseExceptionGroup as group:
        sys.exit(_explain(_first(group)))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - this is where errors end
        sys.exit(_explain(error))


def _take_any_text() -> None:
    """A path that is no UTF-8, a terminal that knows no UTF-8, or a closed stream must not end the program."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lives
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    """A stream for one that was closed before the start; it takes the descriptor, too, before a database does."""
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for as long as the process lives


def _first(error: BaseException) -> BaseException:
    """The error in a group that says the most: one of the watchdog's own if there is one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [_first(each) for each in error.exceptions]
    return next((each for each in inner if isinstance(each, WatchdogError)), inner[0])


def _explain(error: BaseException) -> int:
    from watchdog.cli import INTERRUPTED
    from watchdog.render import complain

    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, WatchdogError):
        complain(str(error))
        if isinstance(error, SettingsError | UsageError):
            return USAGE
        unusable = isinstance(error, DatabaseError | ServerError | JournalUnusable | AlreadyWatched)
        return UNUSABLE if unusable else INTERNAL
    traceback.print_exception(error)
    complain(f"internal error: {type(error).__name__}. Nothing was left half done; please report what stands above.")
    return INTERNAL


if __name__ == "__main__":
    main()
