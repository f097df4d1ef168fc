"""Shows on standard error that something takes long, so nobody wonders whether it hangs."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from watchdog.reporting.tables import note
from watchdog.shown import shown

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_SECONDS = 2.0
_STEP_SECONDS = 0.1


@asynccontextmanager
async def busy(
    text: str, *, total: int | None = None, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[Callable[[], None]]:
    """Say what is going on if it takes longer than a person waits without a word; piped, one line says it.

    Args:
        text: what is going on.
        total: how many steps there are, if that is known; the block gets a function to call after each.
        patience_seconds: how long to be silent.
    """
    done = 0

    def step() -> None:
        nonlocal done
        done += 1

    async def show() -> None:
        await anyio.sleep(patience_seconds)
        with _progress(text, bar=total is not None, time_left=False) as progress:
            task = progress.add_task(shown(text), total=total)
            while True:
                progress.update(task, completed=done)
                await anyio.sleep(_STEP_SECONDS)

    async with _beside(show):
        yield step


@asynccontextmanager
async def countdown(text: str, seconds: float) -> AsyncIterator[None]:
    """Show a bar for a wait whose length is known; piped, one line says it."""

    async def show() -> None:
        with _progress(text, bar=True, time_left=True) as progress:
            task = progress.add_task(shown(text), total=seconds)
            while True:
                await anyio.sleep(_STEP_SECONDS)
                progress.advance(task, _STEP_SECONDS)

    async with _beside(show):
        yield


def _progress(text: str, *, bar: bool, time_left: bool) -> "Progress":
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

    from watchdog.console.terminal import Terminal

    console = Terminal(stderr=True)
    if not console.is_terminal:
        note(text)
    shown: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn() if bar else SpinnerColumn(),
    ]
    if time_left:
        shown.append(TimeRemainingColumn())
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)


@asynccontextmanager
async def _beside(show: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Show something while the block runs. Its error comes out as it is, in no group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(show, name="show progress")
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
