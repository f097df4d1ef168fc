"""The watchdog as the lifespan of an ASGI application."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.embedding.embed import running
from watchdog.ports import Host
from watchdog.settings.schema import Settings
from watchdog.timing.events import Listener


def lifespan(
    settings: Settings,
    *,
    host: Host,
    engine: AsyncEngine | None = None,
    listeners: Sequence[Listener] = (),
    dry_run: bool = False,
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The lifespan of an ASGI application that watches its own sessions: `FastAPI(lifespan=lifespan(…))`.

    While the application runs, the watchdog is at `app.state.watchdog`, if the application has a `state`. See
    `Watchdog` for the arguments, and `running` for the errors: the server then says that the application did not
    start.

    Returns:
        A function that takes the application, and gives the context in which it runs.
    """

    @asynccontextmanager
    async def watched(app: Any) -> AsyncIterator[None]:  # noqa: ANN401 - an application of any framework
        async with running(settings, host=host, engine=engine, listeners=listeners, dry_run=dry_run) as dog:
            if hasattr(app, "state"):
                app.state.watchdog = dog
            yield

    return watched
