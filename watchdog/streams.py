"""The standard streams: whether a person looks at them, and what becomes of them when nobody reads any more."""

import os
import sys
from typing import Any, TextIO

_SAYS_OTHERWISE = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables by which rich takes a pipe for a terminal."""


def may_be_terminal(stream: TextIO) -> bool:
    """Whether rich would take a stream for a terminal, or might. Where not, it need not be imported."""
    return stream.isatty() or any(os.environ.get(name) for name in _SAYS_OTHERWISE)


def is_interactive() -> bool:
    """Whether there is a person who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def fall_silent(stream: Any) -> None:  # noqa: ANN401 - anything that was written to
    """Let what is still in a stream, and whatever comes, go nowhere: nobody reads it any more."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
