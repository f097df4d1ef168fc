"""The command line.

The rooms behind a command are imported only when it is called and its settings are read, so `--help` is quick.
"""

import sys
from functools import partial
from typing import Annotated

import typer

from watchdog.cli.bridge import bridge
from watchdog.cli.config import config as settings_file
from watchdog.cli.holds import hold, pause, resume, unhold
from watchdog.cli.looking_back import tune
from watchdog.cli.options import (
    AsJson,
    Config,
    Control,
    Database,
    Direct,
    DryRun,
    Number,
    Servers,
    Session,
    Wait,
    Yes,
    begin,
    go,
    load,
    number,
    quiet,
)
from watchdog.cli.processes import drain, leftovers
from watchdog.cli.sql import sql
from watchdog.console.confirm import confirm as ask
from watchdog.console.late import import_structlog
from watchdog.console.streams import write
from watchdog.shown import shown

app = typer.Typer(
    name="opencode-watchdog",
    help="The safety net beside an opencode server: finds work that will never end, ends exactly that, and proves "
    "that it ended.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 fine, 1 something stuck or not recovered, 2 usage or settings, 3 database or server "
    "unusable, or the result can't be written, 70 internal error, 130 interrupted.",
)

app.add_typer(bridge, name="bridge")
app.add_typer(settings_file, name="config")
app.add_typer(sql, name="sql")


def _tell_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        from importlib.metadata import version

        write(sys.stdout, shown(f"opencode-watchdog {version('opencode-watchdog')}"))
        raise typer.Exit


@app.callback()
def _everything(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    control: Control = None,
    *,
    dry_run: DryRun = False,
    wait: Wait = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the log as JSON, a line each.")] = False,
) -> None:
    """Watch until stopped (SIGTERM or Ctrl-C)."""
    loaded = load(config, database, server, control, log_format="json" if as_json else None)
    import_structlog()
    from watchdog.cli import run as service
    from watchdog.console import formats as logs

    logs.configure(level=loaded.settings.log_level.value, log_format=loaded.settings.log_format.value)
    go(lambda: service.run(loaded, dry_run=dry_run, wait=wait))


@app.command()
def page(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    control: Control = None,
    *,
    browse: Annotated[bool, typer.Option("--browser/--no-browser", help="Whether to open it in a browser.")] = True,
    new_token: Annotated[bool, typer.Option("--new-token", help="Make a new token first; the old one ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a link to the page of `run --control` that works once, within a minute, and open it in a browser."""
    from watchdog.cli.page import page as shown
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server, control=control)
    go(partial(shown, loaded, Screen(as_json=as_json), browse=browse, new_token=new_token))


@app.command()
def status(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again whenever it changes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the running watchdog does; exit code 0 if it acts and all is well, 1 if not, 3 if none runs."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli.status import status as show

    go(lambda: show(loaded, Screen(as_json=as_json), watch=watch))


@app.command()
def scan(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    as_json: AsJson = False,
    full: Annotated[bool, typer.Option("--full", help="Search every part, closed turns included.")] = False,
    direct: Direct = False,
) -> None:
    """Print what is stuck and what is spared, and why: as the running watchdog sees it, or as one look shows it."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import commands

    go(lambda: commands.scan(loaded, Screen(as_json=as_json), full=full, direct=direct or bool(server)))


@app.command()
def explain(
    session: Session,
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """Say why one session is stuck or left alone: its tree, each clock, each witness, and what to do."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import explain as explaining

    go(lambda: explaining.explain(loaded, Screen(as_json=as_json), session, direct=direct or bool(server)))


@app.command()
def recover(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Settle once what a crash or a restart left open."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import commands

    go(lambda: commands.recover(loaded, Screen(as_json=as_json), dry_run=dry_run))


@app.command()
def release(
    session: Session,
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, kept in what ends.", metavar="TEXT")] = None,
    below: Annotated[bool, typer.Option("--below", help="End what lives below it, too.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """End now whatever is open in a session, whatever the limits say: the way out."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import commands

    confirm, screen = None if yes else ask, Screen(as_json=as_json)
    direct = direct or bool(server)
    go(lambda: commands.release(loaded, screen, session, reason=reason, confirm=confirm, below=below, direct=direct))


@app.command("delete-message")
def delete_message(
    session: Session,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="The id of a message: msg_…")],
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """Release a session if it is busy, then delete one of its messages, and make sure that it is gone."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import commands

    confirm, screen, direct = None if yes else ask, Screen(as_json=as_json), direct or bool(server)
    go(lambda: commands.delete_message(loaded, screen, session, message, confirm=confirm, direct=direct))


@app.command()
def check(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    as_json: AsJson = False,
    alive: Annotated[bool, typer.Option("--alive", help="Say only whether `run` looked lately, for probes.")] = False,
    notify: Annotated[bool, typer.Option("--notify", help="Send a test message to each receiver of alerts.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also check the whole database for damage.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Show each setting, the defaults, too.")] = False,
) -> None:
    """Say whether the settings, the database and the servers are usable, and who has the database open."""
    from watchdog.reporting.tables import Screen

    given = [name for name, wanted in (("--alive", alive), ("--notify", notify), ("--deep", deep)) if wanted]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} don't go together")
    loaded, screen = quiet(config, database, server, warn=False), Screen(as_json=as_json)
    if alive:
        from watchdog.cli.alive import check_alive

        go(lambda: check_alive(loaded, screen))
    if notify:
        from watchdog.alerts.setup import check_notify

        go(lambda: check_notify(loaded, screen))
    from watchdog.checking import check as checkup

    go(lambda: checkup.check(loaded, screen, deep=deep, settings=settings))


@app.command()
def history(
    number: Annotated[
        int | None,
        typer.Argument(metavar="[ID]", help="One intervention, with its rows.", parser=number, show_default=False),
    ] = None,
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    session: Annotated[str | None, typer.Option("--session", help="Only those of one session.", metavar="ID")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="How far back: 2d, 12h, 30m.", metavar="DURATION")
    ] = None,
    direct: Direct = False,
    as_json: AsJson = False,
) -> None:
    """List what was done, the newest first; or show one of them with the rows before and after."""
    from watchdog.reporting.tables import Screen

    if number is not None and (session or since):
        raise typer.BadParameter("an ID stands alone: leave out --session and --since")
    loaded, screen, direct = quiet(config, database, server), Screen(as_json=as_json), direct or bool(server)
    from watchdog.cli import journal as chronicle

    if number is not None:
        go(lambda: chronicle.intervention(loaded, screen, number, direct=direct))
    go(lambda: chronicle.history(loaded, screen, session_id=session, since=since, direct=direct))


@app.command()
def undo(
    number: Number,
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """Put the rows of an intervention back as they were, if nothing has happened since; and hold the session."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import journal as chronicle

    go(lambda: chronicle.undo(loaded, Screen(as_json=as_json), number, direct=direct or bool(server)))


@app.command()
def demo() -> None:
    """Show in seconds what it does, on sessions of its own: without opencode, and touching nothing of yours."""
    from watchdog.demo.__main__ import main as play

    begin()
    raise typer.Exit(play())


for command in (hold, unhold, pause, resume, leftovers, drain, tune):
    app.command()(command)
