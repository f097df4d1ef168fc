"""`sql`: statements for the person who looks after a PostgreSQL database. It prints them, and never runs them."""

import sys
from typing import Annotated, Literal

import typer

from watchdog.console.streams import write
from watchdog.errors import UsageError
from watchdog.shown import whole

sql = typer.Typer(
    help="Print statements for a PostgreSQL database; run none.", no_args_is_help=True, add_completion=False
)


@sql.command()
def index(
    data: Annotated[
        Literal["jsonb", "json"], typer.Option("--data", help="The type of message.data and part.data.")
    ] = "jsonb",
) -> None:
    """Print the indexes that looks rest on."""
    from watchdog.composing.in_postgres import with_driver

    with with_driver():
        from watchdog.postgres.indexes import as_script

    _print(as_script(data))


@sql.command()
def schema(
    role: Annotated[
        str | None, typer.Option("--role", help="The server's role, which will use the tables.", metavar="NAME")
    ] = None,
) -> None:
    """Print the watchdog's own tables, for a server whose role may not make them."""
    if role is not None and (not role or whole(role) != role):
        raise UsageError(f'No role is called "{role}": a name has characters, and each can be seen.')
    from watchdog.composing.in_postgres import with_driver

    with with_driver():
        from watchdog.postgres.own import as_script

    _print(as_script(role))


def _print(script: str) -> None:
    write(sys.stdout, *map(whole, script.removesuffix("\n").split("\n")))
