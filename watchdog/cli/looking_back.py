"""`tune` on the command line. The rooms behind it are imported only when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from watchdog.cli.options import AsJson, Config, Database, Servers, go, quiet


def tune(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    since: Annotated[str, typer.Option("--since", help="How far back: 90d, 12h.", metavar="DURATION")] = "90d",
    show: Annotated[bool, typer.Option("--show", help="List each call that today's limits would have cut.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the durations by tool, with the limits.", metavar="FILE.svg")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read the history, and say which limits would have cut nothing that finished. It only reads."""
    from watchdog.reporting.tables import Screen

    loaded, screen = quiet(config, database, server), Screen(as_json=as_json)
    from watchdog.cli import tune as command

    go(lambda: command.tune(loaded, screen, since=since, show=show, plot=plot))
