"""Shows on standard error that something takes long: nobody should wonder whether it hangs."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from watchdog.render import Paper, note

PATIENCE_SECONDS = 2.0
_STEP_SECONDS = 0.1


@asynccontextmanager
async def busy(text: str, *, patience_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[None]:
    """Say what is done if it takes longer than a person waits without a word: a spinner, or one line when piped.

    An error of the block is raised as it is.
    """

    async def show() -> None:
        await anyio.sleep(patience_seconds)
        console = Paper(stderr=True)
        if not console.is_terminal:
            note(text)
            return
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
            progress.add_task(text, total=None)
            await anyio.sleep_forever()

    async with _beside(show):
        yield


@asynccontextmanager
async def countdown(text: str, seconds: float) -> AsyncIterator[None]:
    """Show a bar for a wait whose length is known, or say it once when piped."""

    async def show() -> None:
        console = Paper(stderr=True)
        if not console.is_terminal:
            note(text)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(text, total=seconds)
            while True:
                await anyio.sleep(_STEP_SECONDS)
                progress.advance(task, _STEP_SECONDS)

    async with _beside(show):
        yield


@asynccontextmanager
async def _beside(show: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Show something while the block runs. Its error is raised as it is, in no group."""
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
