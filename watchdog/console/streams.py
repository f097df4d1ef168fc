"""The standard streams: writing to them, whether a person looks at them, and what happens to them.

Only this module writes to them, and it writes only `Shown`.
"""

import errno
import os
import re
import stat
import sys
from io import BufferedWriter, RawIOBase, TextIOWrapper
from typing import IO, Any, Final, TextIO

from watchdog.errors import OutputUnusable
from watchdog.shown import Shown, defused

_SAYS_OTHERWISE = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables that make rich take a pipe for a terminal."""
_DRAWING: Final = re.compile(r"(\x1b\[[0-9;]*m|\x1b\[[0-9]*[A-DGK]|\x1b\[\?25[lh]|\r)")
"""What rich needs to know about a terminal: colours, and where to draw a progress bar."""


class Guarded(TextIOWrapper):
    """A standard stream that lets through nothing that a terminal would obey, whoever writes: the net below `Shown`.

    Python's own messages, and those of packages, pass here, too.

    Args:
        owed: the stream carries the result: a failed write is an error, unless the reader left.
    """

    def __init__(self, stream: TextIOWrapper, *, owed: bool) -> None:
        encoding, by_lines, inner = stream.encoding, stream.line_buffering, stream.detach()
        self._at_once = isinstance(inner, RawIOBase)
        if isinstance(inner, RawIOBase):
            # With PYTHONUNBUFFERED nothing notices that a disk took only a part of a write.
            inner = BufferedWriter(inner)
        # A path that is no UTF-8, or a terminal that knows no UTF-8, must not end the program.
        super().__init__(inner, encoding, "backslashreplace", line_buffering=by_lines)
        self._owed = owed

    def write(self, text: str, /) -> int:
        """Write."""
        try:
            super().write(_drawn(text) if self.isatty() else defused(text))
            if self._at_once:
                super().flush()
        except OSError as error:
            _lose(self, error, owed=self._owed)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            super().flush()
        except OSError as error:
            _lose(self, error, owed=self._owed)


def _drawn(text: str) -> str:
    parts = _DRAWING.split(text)
    return "".join(part if index % 2 else defused(part) for index, part in enumerate(parts))


def take_over() -> None:
    """Guard the standard streams.

    One that was closed before the start goes nowhere, and its descriptor stays occupied.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lives
    sys.stdout, sys.stderr = _guarded(sys.stdout, owed=True), _guarded(sys.stderr, owed=False)


def _guarded(stream: TextIO | None, *, owed: bool) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for as long as the process lives
    return Guarded(stream, owed=owed) if isinstance(stream, TextIOWrapper) else stream


def finish() -> None:
    """Finish standard error: otherwise Python makes an exit code of its own out of what a full disk did not take."""
    sys.stderr.flush()
    fall_silent(sys.stderr)


def may_be_terminal(stream: TextIO) -> bool:
    """Whether rich would take a stream for a terminal, or might. If not, it need not be imported."""
    return stream.isatty() or any(os.environ.get(name) for name in _SAYS_OTHERWISE)


def is_interactive() -> bool:
    """Whether there is a person who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def write(stream: IO[str], *lines: Shown) -> None:
    """Write a part of the result. If nobody reads any more, it goes nowhere.

    Raises:
        OutputUnusable: it could not be written.
    """
    _put(stream, lines, owed=True)


def tell(stream: IO[str], *lines: Shown) -> None:
    """Print something beside the result. It is no error if nobody can read it."""
    _put(stream, lines, owed=False)


def _put(stream: IO[str], lines: tuple[Shown, ...], *, owed: bool) -> None:
    try:
        stream.write("".join(f"{line}\n" for line in lines))
        stream.flush()
    except OSError as error:
        _lose(stream, error, owed=owed)


def _lose(stream: Any, error: OSError, *, owed: bool) -> None:  # noqa: ANN401 - anything that was written to
    """Stop writing to a stream whose reader left. A full one may have room again: then a log goes on.

    Raises:
        OutputUnusable: it has a reader, who still needs the rest.
    """
    gone = error.errno == errno.EPIPE or (error.errno == errno.EIO and _is_device(stream))
    if gone or owed:
        fall_silent(stream)
    if owed and not gone:
        why = (error.strerror or type(error).__name__).lower()
        raise OutputUnusable(
            f"Standard output can't be written ({why}), so the result is incomplete. What was done stays "
            "done, and `history` shows it."
        ) from error


def _is_device(stream: Any) -> bool:  # noqa: ANN401 - as above
    """Whether it is a terminal, which answers with an error once it was hung up."""
    try:
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def fall_silent(stream: Any) -> None:  # noqa: ANN401 - anything that was written to
    """Send everything that is left in a stream, and all later writes, nowhere: nobody reads it any more."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
