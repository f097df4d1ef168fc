"""The program's log, set up late: its imports happen when there is a line for it."""

import logging
import sys
from typing import Literal


def import_structlog() -> None:
    """Import it without rich, which it would import for tracebacks that the log never shows."""
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment] # how Python is told that there is no such package
    try:
        import structlog  # noqa: F401 - it stays imported
    finally:
        del sys.modules["rich"]


class AtTheFirstLine(logging.Handler):
    """Sets the log up at the first line: most commands log nothing, and need not pay for it.

    Args:
        log_format: as in `configure`.
    """

    def __init__(self, log_format: Literal["auto", "console", "json"]) -> None:
        super().__init__()
        self._log_format = log_format

    def emit(self, record: logging.LogRecord) -> None:
        """Set it up, and pass the line on."""
        from watchdog.console import formats as logs

        logs.configure(level="error", log_format=self._log_format)
        logging.getLogger(record.name).handle(record)
