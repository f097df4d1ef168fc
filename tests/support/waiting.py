"""Waiting for something to become true, with a deadline and a message that says what was awaited."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")

POLL_SECONDS: Final = 0.05
SECONDS: Final = 60.0
"""How long anything may take on a machine that is slow; a wait ends as soon as what is awaited is true."""


@overload
async def wait_until(
    look: Callable[[], Awaitable[T | None]],
    what: str,
    *,
    seconds: float = ...,
    explain: Callable[[], str] | None = ...,
) -> T: ...
@overload
async def wait_until(
    look: Callable[[], T | None],
    what: str,
    *,
    seconds: float = ...,
    explain: Callable[[], str] | None = ...,
) -> T: ...
async def wait_until(
    look: Callable[[], Any],
    what: str,
    *,
    seconds: float = SECONDS,
    explain: Callable[[], str] | None = None,
) -> Any:
    """Ask `look` every 50 ms until it answers something true, and return that.

    Raises:
        AssertionError: the deadline passed; the message names `what` and the last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        seen = await answer if inspect.isawaitable(answer) else answer
        if seen:
            return seen
        if time.monotonic() >= deadline:
            more = f"\n{explain()}" if explain is not None else ""
            raise AssertionError(f"waited {seconds:g} s in vain for {what}; last answer: {seen!r}{more}")
        await asyncio.sleep(POLL_SECONDS)
