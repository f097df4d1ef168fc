"""What others do all the time, and what is no sign of life of a session."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.opencode import Session


@asynccontextmanager
async def pestering(session: Session, *, every: float = 0.25) -> AsyncIterator[None]:
    """Rename a session and ask for it, again and again, until the block ends."""
    task = asyncio.create_task(_pester(session, every), name="pester")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _pester(session: Session, every: float) -> None:
    for number in itertools.count():
        where = {"directory": str(session.directory)}
        title = {"title": f"Title number {number}"}
        renamed = await session.server.client.patch(f"/session/{session.id}", params=where, json=title)
        assert renamed.is_success, renamed.text
        await session.messages()
        await session.status()
        await asyncio.sleep(every)
