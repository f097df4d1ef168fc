"""`bridge`: reaches the opencode processes that listen on no port. See docs/bridge.md."""

import typer

from watchdog.cli.options import AsJson, Config, Database, go, quiet

bridge = typer.Typer(
    help="Reach a terminal UI, `opencode run` and others without a port, by a plugin: off until you install it.",
    no_args_is_help=True,
    add_completion=False,
)


@bridge.command()
def install(config: Config = None, database: Database = None, *, as_json: AsJson = False) -> None:
    """Put the plugin where opencode finds it; say which running processes have to be restarted to load it."""
    from watchdog.reporting.tables import Screen

    loaded, screen = quiet(config, database, None), Screen(as_json=as_json)
    from watchdog.bridge import commands

    go(lambda: commands.install(loaded, screen))


@bridge.command()
def status(config: Config = None, database: Database = None, *, as_json: AsJson = False) -> None:
    """Say whether the plugin is there, and which running processes have it."""
    from watchdog.reporting.tables import Screen

    loaded, screen = quiet(config, database, None), Screen(as_json=as_json)
    from watchdog.bridge import commands

    go(lambda: commands.status(loaded, screen))


@bridge.command()
def remove(config: Config = None, database: Database = None, *, as_json: AsJson = False) -> None:
    """Take the plugin away, and close the sockets of the processes that run: nothing of it is left."""
    from watchdog.reporting.tables import Screen

    loaded, screen = quiet(config, database, None), Screen(as_json=as_json)
    from watchdog.bridge import commands

    go(lambda: commands.remove(loaded, screen))
