"""`explain`: one look at a session, and all there is to say about it."""

from dataclasses import replace

from watchdog.composing.backend import Backend
from watchdog.composing.command import backend
from watchdog.composing.running import running_watchdog
from watchdog.console.exits import Exit
from watchdog.explaining.values import Explanation
from watchdog.model.session import SessionId
from watchdog.operating.explained import Telling
from watchdog.reporting.explain_documents import explain_document
from watchdog.reporting.explain_tables import explanation
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen, note
from watchdog.settings.schema import Loaded

_LOOKING = "looking at the database and its servers, which takes a while"


async def explain(loaded: Loaded, screen: Screen, session_id: str, *, direct: bool) -> Exit:
    """Explain why a session is stuck or left alone: as the running watchdog sees it, or as one look shows it.

    Args:
        direct: take a look of its own in any case.

    Raises:
        NoSuchSession: there is no such session.
    """
    running = None if direct else await running_watchdog(loaded, note)
    if running is not None:
        note(running.words)
        async with busy(_LOOKING):
            document, told = await running.explanation(SessionId(session_id))
        if screen.as_json:
            screen.document(document)
        else:
            explanation(screen, told)
        return Exit.STUCK if told.stuck else Exit.FINE
    async with backend(loaded, acts=False) as car:
        async with busy(_LOOKING):
            found = await _explanation(car, SessionId(session_id))
        if screen.as_json:
            screen.document(explain_document(car.place, found))
        else:
            explanation(screen, found)
        return Exit.STUCK if found.stuck else Exit.FINE


async def _explanation(car: Backend, session_id: SessionId) -> Explanation:
    """The same look and the same judgement as `scan --full`, with the session in it."""
    watch = car.watch()
    watch.policy = replace(watch.policy, orphan_looks=1)
    assessment = await watch.assess(also=[session_id], full=True, scan_parts=True, fresh=True)
    telling = Telling(fleet=car.fleet, owners=car.owners, journal=car.journal)
    return await telling.explanation(assessment, watch.policy, session_id)
