"""`explain`: one look at a session, and everything that there is to say about it."""

from dataclasses import replace

from watchdog.contract_explain import explain_document
from watchdog.equipment import Equipment, equipment
from watchdog.exits import Exit
from watchdog.explanation import Explanation
from watchdog.model import SessionId
from watchdog.progress import busy
from watchdog.render import Screen
from watchdog.render_explain import explanation
from watchdog.settings import Loaded
from watchdog.telling import Telling

_LOOKING = "looking at the database and its servers, which takes a while"


async def explain(loaded: Loaded, screen: Screen, session_id: str) -> Exit:
    """Look once, and explain why a session is stuck or left alone. Nothing is written.

    Raises:
        NoSuchSession: there is no such session.
    """
    async with equipment(loaded, acts=False) as car:
        async with busy(_LOOKING):
            found = await _explanation(car, SessionId(session_id))
        if screen.as_json:
            screen.document(explain_document(car.place, found))
        else:
            explanation(screen, found)
        return Exit.STUCK if found.stuck else Exit.FINE


async def _explanation(car: Equipment, session_id: SessionId) -> Explanation:
    """The same look and the same judgement as `scan --full`, with the session in it."""
    watch = car.watch()
    watch.policy = replace(watch.policy, orphan_looks=1)
    assessment = await watch.assess(also=[session_id], full=True, scan_parts=True, fresh=True)
    telling = Telling(fleet=car.fleet, owners=car.owners, journal=car.journal)
    return await telling.explanation(assessment, watch.policy, session_id)
