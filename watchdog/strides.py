"""Long work in the event loop, in strides: whatever else waits for the loop comes in between."""

from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

import anyio.lowlevel

STRIDE: Final = 200
"""How many sessions are worked on at a stretch: a few milliseconds."""

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_strides(items: Iterable[Item], *, stride: int = STRIDE) -> AsyncIterator[Item]:
    """Go through some items, and let others use the loop after every so many."""
    for number, item in enumerate(items, 1):
        yield item
        if number % stride == 0:
            await anyio.lowlevel.checkpoint()
