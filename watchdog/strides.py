"""Long work in the event loop, in strides: whatever else waits for the loop comes in between.

A stride is a slice of time, shared by everything that works in strides: several pieces of work in a row hold the loop
no longer than a single one.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from time import perf_counter
from typing import Final, TypeVar

import anyio.lowlevel

from watchdog.judging.gradual import Gradual, at_once, step

SLICE_SECONDS: Final = 0.005
"""How long the loop is held at a stretch. The time of a single item comes on top."""
seconds: Callable[[], float] = perf_counter
"""The clock that measures the slices. No age counts by it."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Breath:
    """When the loop last went to others."""

    taken_at = float("-inf")


async def in_strides(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Go through some items, and let others use the loop whenever a slice of time is used up."""
    for item in items:
        if seconds() - _Breath.taken_at > SLICE_SECONDS:
            await _breathe()
        yield item


async def gradually(work: Gradual[Result], *, whole: bool = False) -> Result:
    """Do a piece of work, and let others use the loop whenever a slice of time is used up.

    Args:
        work: work that stops after each item.
        whole: it must not be left half done. If cancelled, it runs to its end at once.
    """
    while (done := step(work)) is None:
        if seconds() - _Breath.taken_at > SLICE_SECONDS:
            try:
                await _breathe()
            except BaseException:
                if whole:
                    at_once(work)
                raise
    return done.result


async def _breathe() -> None:
    await anyio.lowlevel.checkpoint()
    _Breath.taken_at = seconds()
