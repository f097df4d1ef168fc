"""The commands that are about processes, theirs or the servers': what they take on their line.

The rooms behind a command are imported only when it is called and its settings are read.
"""

from typing import Annotated

import typer

from watchdog.cli.options import AsJson, Config, Database, Servers, go, quiet
from watchdog.console.confirm import confirm as ask


def leftovers(
    pids: Annotated[
        list[int] | None,
        typer.Argument(metavar="[PID]…", help="With --end: which ones.", min=1, show_default=False),
    ] = None,
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    end: Annotated[bool, typer.Option("--end", help="End them, with all of their processes.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="End all of them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="End them without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """List commands that outlived their opencode or their call; --end ends some, which can't be undone."""
    if all_ and pids:
        raise typer.BadParameter("--all means all of them: leave out the PIDs")
    if pids and not end:
        raise typer.BadParameter("a PID says what to end: put --end in front of it")
    if end and not (pids or all_):
        raise typer.BadParameter("--end needs a PID, or --all")
    from watchdog.reporting.tables import Screen

    loaded, screen = quiet(config, database, server), Screen(as_json=as_json)
    from watchdog.cli import leftovers as command

    if not (pids or all_):
        go(lambda: command.list_them(loaded, screen))
    chosen = None if all_ else frozenset(pids or ())
    go(lambda: command.end_them(loaded, screen, chosen, confirm=None if yes else ask))


def drain(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    wait: Annotated[
        str | None,
        typer.Option("--wait", help="Wait until nothing would be lost, at most so long.", metavar="DURATION"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what would be lost if the servers were restarted now; exit code 0 if nothing. It ends nothing."""
    from watchdog.reporting.tables import Screen

    loaded, screen = quiet(config, database, server), Screen(as_json=as_json)
    from watchdog.cli import drain as command

    go(lambda: command.tell(loaded, screen, wait=wait))
