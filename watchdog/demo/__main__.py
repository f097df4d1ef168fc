"""`python -m watchdog.demo`."""

import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.abc import TaskStatus

from watchdog.console.terminal import Terminal
from watchdog.demo.play import play
from watchdog.errors import UsageError


def main() -> int:
    """Play the demo in a temporary folder, and remove it.

    Raises:
        UsageError: there is no place for one.
    """
    try:
        place = TemporaryDirectory(prefix="opencode-watchdog-demo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError(
            "The demo needs a folder for temporary files, and none can be written to. Name one with TMPDIR."
        ) from error
    with place as folder:
        return anyio.run(_play, Path(folder))


async def _play(folder: Path) -> int:
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        await group.start(_stop_on_signal, stop)
        code = await play(folder, Terminal(), stop=stop)
        group.cancel_scope.cancel()
    return code


async def _stop_on_signal(stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
    """The first signal ends the demo in good order; then the handlers are restored, so a second one kills."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            break
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
