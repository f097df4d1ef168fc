"""`opencode-watchdog` and `python -m watchdog`."""

import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, Protocol, runtime_checkable

from watchdog.console.streams import finish, take_over, tell
from watchdog.errors import (
    AlreadyWatched,
    DatabaseError,
    JournalUnusable,
    OutputUnusable,
    ServerError,
    SettingsError,
    UsageError,
    WatchdogError,
)
from watchdog.shown import shown, words_of

USAGE, UNUSABLE, INTERNAL = 2, 3, 70


@runtime_checkable
class WrongLine(Protocol):
    """The errors that typer raises about a command line."""

    exit_code: int

    def format_message(self) -> str:
        """What is wrong with it."""


def main() -> NoReturn:
    """Run the program, and turn an exception into a sentence and an exit code."""
    gc.disable()  # until all is imported: nothing of that is garbage, and looking for some takes a tenth of the start
    # httpx brings a command line of its own, and with it click, pygments and rich; pretend that it can't be imported.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    from watchdog.cli.main import app

    take_over()
    code = _ended(lambda: app(prog_name="opencode-watchdog", standalone_mode=False))
    code = _ended(sys.stdout.flush) or code
    finish()
    os._exit(code)  # all is closed and written; to take apart what was imported would take as long as a look


def _ended(work: Callable[[], int | None]) -> int:
    try:
        return int(work() or 0)
    except BaseExceptionGroup as group:
        return _explain(_first(group))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - this is where errors end
        return _explain(error)


def _first(error: BaseException) -> BaseException:
    """The most telling error of a group: one of the watchdog's own if there is one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [_first(each) for each in error.exceptions]
    return next((each for each in inner if isinstance(each, WatchdogError)), inner[0])


def _explain(error: BaseException) -> int:
    from watchdog.cli.options import INTERRUPTED
    from watchdog.reporting.tables import complain

    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, WrongLine):
        return _explain_line(error)
    if isinstance(error, WatchdogError):
        complain(words_of(error))
        if isinstance(error, SettingsError | UsageError):
            return USAGE
        unusable = DatabaseError | ServerError | JournalUnusable | AlreadyWatched | OutputUnusable
        return UNUSABLE if isinstance(error, unusable) else INTERNAL
    for part in traceback.format_exception(error):
        tell(sys.stderr, *map(shown, part.rstrip("\n").split("\n")))
    complain(f"internal error: {type(error).__name__}. Nothing was left half done; please report the lines above.")
    return INTERNAL


def _explain_line(error: WrongLine) -> int:
    """Say what is wrong with the command line. Without a command, its help was shown, and that is enough."""
    from watchdog.reporting.tables import complain

    context = getattr(error, "ctx", None)
    message = error.format_message().replace("Value error, ", "")
    if type(error).__name__ != "NoArgsIsHelpError" and message:
        path = getattr(context, "command_path", "opencode-watchdog")
        complain(
            f"{message} See {path} --help." if message.endswith((".", "?", "!")) else f"{message}. See {path} --help."
        )
    return USAGE


if __name__ == "__main__":
    main()
