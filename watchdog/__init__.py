"""opencode-watchdog: ends what will never end in an opencode server, and proves that it ended."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watchdog.embed import running
    from watchdog.settings import Settings

__all__ = ["Settings", "running"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module holds
    """Import what embedding needs when it is asked for, so that the commands start quickly."""
    import importlib  # noqa: PLC0415 - as above

    rooms = {"running": "watchdog.embed", "Settings": "watchdog.settings"}
    if name not in rooms:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(rooms[name]), name)
