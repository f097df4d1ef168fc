"""opencode-watchdog: ends what will never end in an opencode server, and proves that it ended."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watchdog.embedding.asgi import lifespan
    from watchdog.embedding.embed import Watchdog, running
    from watchdog.embedding.host_calls import CallableHost
    from watchdog.errors import WatchdogError
    from watchdog.model.outcome import Outcome, Result
    from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status, TurnId
    from watchdog.ports import Host
    from watchdog.settings.schema import Settings

__all__ = [
    "Activity",
    "Ask",
    "AskKind",
    "CallableHost",
    "Host",
    "Outcome",
    "Result",
    "SessionId",
    "Settings",
    "Status",
    "TurnId",
    "Watchdog",
    "WatchdogError",
    "lifespan",
    "running",
]

_ROOMS = {
    "watchdog.embedding.asgi": ("lifespan",),
    "watchdog.embedding.embed": ("Watchdog", "running"),
    "watchdog.errors": ("WatchdogError",),
    "watchdog.embedding.host_calls": ("CallableHost",),
    "watchdog.model.session": (
        "Activity",
        "Ask",
        "AskKind",
        "SessionId",
        "Status",
        "TurnId",
    ),
    "watchdog.model.outcome": (
        "Outcome",
        "Result",
    ),
    "watchdog.ports": ("Host",),
    "watchdog.settings.schema": ("Settings",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module holds
    """Import what embedding needs when somebody asks for it, so the commands start quickly."""
    import importlib  # noqa: PLC0415 - as above

    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(room), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, although they are not imported yet."""
    return sorted({*globals(), *__all__})
