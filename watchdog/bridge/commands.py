"""`bridge install`, `bridge status` and `bridge remove`."""

import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from watchdog.bridge import plugin
from watchdog.bridge.plugin import State
from watchdog.bridge.status import Status, look
from watchdog.composing.sidecar import bridges_of
from watchdog.console.exits import Exit
from watchdog.errors import UsageError
from watchdog.opencode.http.bridges import Bridges
from watchdog.opencode.http.doors import Door, folders
from watchdog.opencode.http.peers import party_of
from watchdog.reporting.documents import VERSION
from watchdog.reporting.tables import Screen
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded
from watchdog.settings.sockets import APP
from watchdog.timing.clock import Countable, SystemClock

PLATFORM: str = sys.platform
CLOSING_SECONDS: Final = 2.0
"""How long bridges that were told to close are waited for; they answer first, and close a moment later."""
_LOOK_SECONDS: Final = 0.05
_COLOURS: Final = {State.CURRENT: "green", State.DIFFERENT: "yellow", State.ABSENT: None}


async def install(loaded: Loaded, screen: Screen) -> Exit:
    """Put the plugin where opencode finds it.

    Raises:
        UsageError: it can't work on this platform.
        SettingsError: it can't be put there.
    """
    if PLATFORM != "linux":
        raise UsageError("The bridge works on Linux only: elsewhere nothing shows which process opened a socket.")
    plugin.install(plugin.places(os.environ, home())[0])
    return await status(loaded, screen)


async def status(loaded: Loaded, screen: Screen) -> Exit:
    """Say whether it is there, and which processes have it."""
    found = await look(loaded)
    if screen.as_json:
        screen.document({"version": VERSION, **document(found)})
    else:
        show(screen, found)
        for warning in found.warnings:
            screen.line("warning", warning, "yellow")
        screen.line("summary", summary(found), "bold green" if found.current else "bold yellow")
    return Exit.FINE


async def remove(loaded: Loaded, screen: Screen) -> Exit:
    """Take it away, have the processes that run close their sockets, and remove the folders of these."""
    plugin.remove(plugin.places(os.environ, home()))
    bridges = bridges_of(loaded.settings, Countable(SystemClock()))
    closing: set[Path] = set()
    for pid, path in (await bridges.doors()).items():
        party = await anyio.to_thread.run_sync(party_of, pid)
        if party is not None and await bridges.greeting(Door(path=path, party=party), closing=True) is not None:
            closing.add(path)
    with anyio.move_on_after(CLOSING_SECONDS):
        await _closed(bridges, closing)
    for folder in folders(os.environ, home()):
        with suppress(OSError):  # it is not there, or something else is in it
            folder.rmdir()
            if folder.name != APP:
                folder.parent.rmdir()
    return await status(loaded, screen)


async def _closed(bridges: Bridges, closing: set[Path]) -> None:
    doors = await bridges.doors()  # what dead processes left is removed by this
    while not closing.isdisjoint(doors.values()):
        await anyio.sleep(_LOOK_SECONDS)
        doors = await bridges.doors()


def document(found: Status) -> dict[str, Any]:
    """What is known of the bridge, as JSON."""
    return {
        "installed": found.installed,
        "current": found.current,
        "places": [{"path": str(place.path), "state": place.state.value} for place in found.places],
        "processes": [{**asdict(each), "restart": not each.understood} for each in found.processes],
        "warnings": list(found.warnings),
    }


def show(screen: Screen, found: Status) -> None:
    """The same, for people."""
    screen.rows(
        "bridge",
        ("bridge", ""),
        [(str(place.path), (place.state.value, _COLOURS[place.state])) for place in found.places],
    )
    screen.rows(
        "bridged",
        ("process", "pid", ""),
        [
            (each.what, str(each.pid), (each.in_words, "green" if each.understood else "yellow"))
            for each in found.processes
            if found.installed or each.loaded
        ],
    )


def summary(found: Status) -> str:
    """All of it in one sentence."""
    if not found.installed:
        return "The bridge is not installed: `opencode-watchdog bridge install` installs it."
    if not found.current:
        return "The bridge of another version is installed: `opencode-watchdog bridge install` renews it."
    left = sum(not each.understood for each in found.processes)
    return f"The bridge is installed; {left} running process{'es have' if left != 1 else ' has'} to be restarted."
