"""`check --alive`: whether a watchdog looked at the database lately, for the health check of a container."""

from watchdog.composing.files import locate_file
from watchdog.console.exits import Exit
from watchdog.judging.limits import duration
from watchdog.opencode.processes.lock import DatabaseLock
from watchdog.ports import Clock
from watchdog.reporting.tables import Screen
from watchdog.settings.schema import Loaded
from watchdog.timing.clock import SystemClock
from watchdog.timing.pace import silent_seconds


async def check_alive(loaded: Loaded, screen: Screen, *, clock: Clock | None = None) -> Exit:
    """Say when `run` last looked. A loop that hangs, or that can't read the database, has not looked lately.

    Raises:
        DatabaseError: there is no database, or its folder can't be used.
    """
    with DatabaseLock(locate_file(loaded)) as lock:
        beat = lock.last_beat_ms()
    allowed = silent_seconds(loaded.settings.poll_interval.total_seconds())
    now = (clock or SystemClock()).read().wall_ms
    ago = None if beat is None else max(0.0, (now - beat) / 1000)
    alive = ago is not None and ago <= allowed
    if screen.as_json:
        screen.document({"alive": alive, "looked_seconds_ago": ago, "allowed_seconds": allowed})
    else:
        when = "no watchdog looks at the database" if ago is None else f"a watchdog looked {duration(ago)} ago"
        screen.line("summary", when, "bold green" if alive else "bold red")
    return Exit.FINE if alive else Exit.UNUSABLE
