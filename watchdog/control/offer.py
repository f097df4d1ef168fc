"""The HTTP API for the loop, whether it is on or off."""

from collections.abc import Callable
from dataclasses import dataclass

from watchdog.loop.watch import Watch
from watchdog.timing.events import Listener


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """The HTTP API of a watchdog, before there is a loop.

    Attributes:
        listeners: listeners for the loop; none while it is off.
        begin: begins to serve, once there is a loop.
    """

    listeners: tuple[Listener, ...] = ()
    begin: Callable[[Watch], None] = lambda _: None
