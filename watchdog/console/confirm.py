"""A question to a person at a terminal."""

import signal

import typer

from watchdog.shown import shown


def confirm(question: str) -> bool:
    """Ask a person. Ctrl-C and Ctrl-D mean no, at once: asyncio's own handler would wait for an answer first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(shown(question), err=True)
    except typer.Abort:
        return False
    finally:
        signal.signal(signal.SIGINT, before)
