"""`explain`: one look at a session, and all there is to say about it."""

from dataclasses import replace

from watchdog.composing.backend import Backend
from watchdog.composing.command import backend
from watchdog.console.exits import Exit
from watchdog.explaining.values import Explanation
from watchdog.model.session import SessionId
from watchdog.operating.explained import Telling
from watchdog.reporting.explain_documents import explain_document
from watchdog.reporting.explain_tables import explanation
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen
from watchdog.settings.schema import Loaded

_LOOKING = "looking at the database and its servers, which takes a while"


async def explain(loaded: Loaded, screen: Screen, session_id: str) -> Exit:
    """Look once, and explain why a session is stuck or left alone. Nothing is written.

    Raises:
        NoSuchSession: there is no such session.
    """
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
