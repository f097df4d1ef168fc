"""`drain`: what would be lost if the servers were restarted now. It ends nothing."""

from dataclasses import replace

from watchdog.composing.command import backend
from watchdog.console.exits import Exit
from watchdog.explaining.drain import Drain, drain
from watchdog.judging.limits import duration
from watchdog.loop.watch import Watch
from watchdog.ports import Owners
from watchdog.reporting import drain_tables as render
from watchdog.reporting.drain_documents import drain_document
from watchdog.reporting.progress import busy, countdown
from watchdog.reporting.tables import Screen, note
from watchdog.settings.durations import duration_of
from watchdog.settings.schema import Loaded

_LOOKING = "looking at the database and its servers, which takes a while"


async def tell(loaded: Loaded, screen: Screen, *, wait: str | None) -> Exit:
    """Say what would be lost; with `wait`, once nothing would, or when that time is over.

    Raises:
        UsageError: `wait` is no duration.
    """
    seconds = _seconds(wait)
    async with backend(loaded, acts=False, needs_journal=False) as car:
        watch = car.watch()
        watch.policy = replace(watch.policy, orphan_looks=1)
        async with busy(_LOOKING):
            found = await _look(watch, car.owners)
        if not found.ready and seconds:
            found = await _waited(watch, car.owners, found, seconds)
        if screen.as_json:
            screen.document(drain_document(car.place, found))
        else:
            render.drain(screen, found)
        return Exit.FINE if found.ready else Exit.STUCK


async def _look(watch: Watch, owners: Owners) -> Drain:
    assessment = await watch.assess(full=True, fresh=True)
    return drain(assessment.observation, assessment.judgement, await owners.look())


async def _waited(watch: Watch, owners: Owners, found: Drain, seconds: float) -> Drain:
    """Look again and again until nothing would be lost, and say whenever that changes."""
    until = watch.clock.read().awake_seconds + seconds
    said = render.summary(found)
    async with countdown(f"{said}; waiting for at most {duration(seconds)}", seconds):
        while not found.ready and (left := until - watch.clock.read().awake_seconds) > 0:
            await watch.clock.sleep(min(left, watch.pace.poll_interval_seconds))
            found = await _look(watch, owners)
            if (now := render.summary(found)) != said and not found.ready:
                note(now)
            said = now
    return found


def _seconds(wait: str | None) -> float:
    length = duration_of("--wait", wait)
    return 0.0 if length is None else length.total_seconds()
