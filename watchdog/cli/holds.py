"""The commands that place and end holds: what they take on their line.

The rooms behind a command are imported only when it is called and its settings are read.
"""

from watchdog.cli.options import AsJson, Config, Database, Direct, For, Servers, Session, go, quiet


def hold(
    session: Session,
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    lasts: For = None,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """Leave a session alone, whatever it looks like."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import journal as chronicle

    go(lambda: chronicle.hold(loaded, Screen(as_json=as_json), session, lasts=lasts, direct=direct or bool(server)))


def unhold(
    session: Session,
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """End a hold."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import journal as chronicle

    go(lambda: chronicle.unhold(loaded, Screen(as_json=as_json), session, direct=direct or bool(server)))


def pause(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    lasts: For = None,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """Leave everything alone."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import journal as chronicle

    go(lambda: chronicle.pause(loaded, Screen(as_json=as_json), lasts=lasts, direct=direct or bool(server)))


def resume(
    config: Config = None,
    database: Database = None,
    server: Servers = None,
    *,
    as_json: AsJson = False,
    direct: Direct = False,
) -> None:
    """End a pause."""
    from watchdog.reporting.tables import Screen

    loaded = quiet(config, database, server)
    from watchdog.cli import journal as chronicle

    go(lambda: chronicle.resume(loaded, Screen(as_json=as_json), direct=direct or bool(server)))
