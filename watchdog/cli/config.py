"""`config`: the settings file, described for editors and for people."""

import sys
from pathlib import Path
from typing import Annotated

import typer

config = typer.Typer(
    help="Write a settings file to start from, or its schema for editors.", no_args_is_help=True, add_completion=False
)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the settings file."""
    import json

    from watchdog.console.streams import write
    from watchdog.settings.described import json_schema
    from watchdog.shown import whole

    write(sys.stdout, *map(whole, json.dumps(json_schema(), indent=2).split("\n")))


@config.command()
def init(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Where to; usually the user's own settings file.", show_default=False),
    ] = None,
) -> None:
    """Write a settings file in which everything is explained and nothing is changed, with its schema beside it."""
    from watchdog.console.streams import write
    from watchdog.settings.beginning import begin, usual_place
    from watchdog.shown import tabbed

    for path in begin(file or usual_place()):
        write(sys.stdout, tabbed("written", str(path)))
