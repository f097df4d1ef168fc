"""The options that several commands take, and the way from a command line to its settings and its exit code.

The rooms behind a command are imported only when it is called.
"""

import gc
import logging
import os
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from watchdog.console.late import AtTheFirstLine, import_structlog
from watchdog.settings.places import here, home

if TYPE_CHECKING:
    from watchdog.console.exits import Exit
    from watchdog.settings.schema import Loaded

INTERRUPTED = 130


def number(text: str) -> int:
    """The number of an intervention.

    Raises:
        typer.BadParameter: it is no number.
    """
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) or int(text) == 0:
        raise typer.BadParameter(f"{text} is no number of an intervention; `history` lists them")
    return int(text)


# The command line does not judge whether a path can be read: the rooms behind it say what to do.
Config = Annotated[
    Path | None,
    typer.Option("--config", help="The TOML file with the settings.", metavar="FILE", readable=False),
]
Database = Annotated[
    str | None,
    typer.Option("--database", help="opencode's database; usually found automatically.", metavar="PATH"),
]
Servers = Annotated[
    list[str] | None, typer.Option("--server", help="An opencode server; may be given several times.", metavar="URL")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but act.")]
Direct = Annotated[
    bool, typer.Option("--direct", help="Look, or act, without the watchdog that runs; --server does so, too.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for a database that is not there yet.")]
Yes = Annotated[bool, typer.Option("--yes", help="End it even if it shows life, without asking.")]
Control = Annotated[
    str | None,
    typer.Option("--control", help="Address of the API and the page, such as 127.0.0.1:4097.", metavar="ADDRESS"),
]
Session = Annotated[str, typer.Argument(metavar="SESSION", help="The id of a session: ses_…", show_default=False)]
Number = Annotated[
    int, typer.Argument(metavar="ID", help="The number of an intervention; see history.", parser=number)
]
For = Annotated[
    str | None,
    typer.Option("--for", help="For how long: 2h, 30m, 7d; without it, until somebody ends it.", metavar="DURATION"),
]


def load(
    config: Path | None,
    database: str | None,
    servers: list[str] | None,
    control: str | None = None,
    *,
    log_format: str | None = None,
) -> "Loaded":
    """The settings that these flags, the environment and the files give."""
    from watchdog.settings.schema import load_settings

    flags = {"config": config, "database": database, "servers": servers, "control": control, "log_format": log_format}
    return load_settings(flags=flags, environ=os.environ, cwd=here(), home=home())


def quiet(
    config: Path | None,
    database: str | None,
    servers: list[str] | None,
    *,
    control: str | None = None,
    warn: bool = True,
) -> "Loaded":
    """Settings for a command whose result is what it prints: it logs only problems."""
    from watchdog.reporting.tables import note
    from watchdog.settings.database_url import PostgresUrl

    loaded = load(config, database, servers, control)
    logging.basicConfig(handlers=[AtTheFirstLine(loaded.settings.log_format.value)], level=logging.ERROR, force=True)
    if isinstance(loaded.settings.database, PostgresUrl):
        # A part of a replica logs by itself, beside the result.
        import_structlog()
        from watchdog.console import formats as logs

        logs.configure(level="error", log_format=loaded.settings.log_format.value)
    for warning in loaded.warnings if warn else ():
        note(f"warning: {warning}")
    return loaded


def begin() -> None:
    """Look for garbage from now on, but not in what is imported: that stays."""
    gc.freeze()
    gc.enable()


def go(command: "Callable[[], Coroutine[Any, Any, Exit]]") -> NoReturn:
    """Run a command to its end, and leave with its exit code."""
    import anyio

    begin()
    try:
        code = int(anyio.run(command))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)
