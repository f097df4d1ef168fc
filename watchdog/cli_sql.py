"""`sql`: statements for whoever looks after a PostgreSQL database. They are printed, and never run."""

from typing import Annotated, Literal

import typer

sql = typer.Typer(
    help="Print statements for a database in PostgreSQL; nothing is run.", no_args_is_help=True, add_completion=False
)


@sql.command()
def index(
    data: Annotated[
        Literal["jsonb", "json"], typer.Option("--data", help="The type of message.data and part.data.")
    ] = "jsonb",
) -> None:
    """Print the indexes that looks rest on."""
    from watchdog.in_postgres import with_driver

    with with_driver():
        from watchdog.postgres.indexes import as_script

    typer.echo(as_script(data), nl=False)


@sql.command()
def schema(
    role: Annotated[
        str | None, typer.Option("--role", help="The role of the server, which is to use the tables.", metavar="NAME")
    ] = None,
) -> None:
    """Print the watchdog's own tables, for a server whose role may not make them."""
    from watchdog.in_postgres import with_driver

    with with_driver():
        from watchdog.postgres.own import as_script

    typer.echo(as_script(role), nl=False)
