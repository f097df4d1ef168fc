"""`explain`: one look at a session, and everything that there is to say about it."""

from dataclasses import replace

from watchdog.chronicle import told
from watchdog.contract_explain import explain_document
from watchdog.errors import UsageError
from watchdog.exits import Exit
from watchdog.explain import explain as explained
from watchdog.explain import is_known
from watchdog.explanation import Explanation
from watchdog.model import Observation, SessionId
from watchdog.observe import with_pid
from watchdog.progress import busy
from watchdog.render import Screen
from watchdog.render_explain import explanation
from watchdog.settings import Loaded
from watchdog.sidecar import Sidecar, sidecar

_LOOKING = "looking at the database and its servers, which takes a while"


async def explain(loaded: Loaded, screen: Screen, session_id: str) -> Exit:
    """Look once, and explain why a session is stuck or left alone. Nothing is written.

    Raises:
        UsageError: there is no such session.
    """
    async with sidecar(loaded, feeds=False) as car:
        async with busy(_LOOKING):
            found = await _explanation(car, SessionId(session_id))
        if screen.as_json:
            screen.document(explain_document(str(car.path), found))
        else:
            explanation(screen, found)
        return Exit.STUCK if found.stuck else Exit.FINE


async def _explanation(car: Sidecar, session_id: SessionId) -> Explanation:
    """The same look and the same judgement as `scan --full`, with the session in it."""
    watch = car.watch()
    watch.policy = replace(watch.policy, orphan_looks=1)
    assessment = await watch.assess(also=[session_id], full=True, scan_parts=True, fresh=True)
    observation = assessment.observation
    if not is_known(observation, session_id):
        raise UsageError(f"There is no session {session_id} in this database; `scan` lists the unfinished ones.")
    seen = await _with_holders(car, observation)
    found = explained(seen, assessment.judgement, watch.policy, session_id)
    holds, history = await told(car.journal, session_id, [page.id for page in found.sessions])
    return replace(found, holds=holds, history=history)


async def _with_holders(car: Sidecar, observation: Observation) -> Observation:
    """Who has the database open, also where no proof needed it: a person wants to see it all the same."""
    if observation.holders is not None:
        return observation
    holders = await car.owners.look()
    servers = {server.name: server for server in car.fleet.servers()}
    reports = [with_pid(report, servers.get(report.name), holders) for report in observation.reports]
    return replace(observation, holders=holders, reports=tuple(reports))
