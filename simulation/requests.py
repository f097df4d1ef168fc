"""What people ask of the watchdog itself: to end something now, and to take back what it did."""

from math import inf

from simulation.work import Session
from simulation.world import World
from watchdog.acting.undo import Undoing, UndoResult
from watchdog.model.session import SessionId
from watchdog.operating.operations import Answer
from watchdog.operating.operator import Operator


def release(world: World, *, session: str, below: bool = False) -> bool:
    """A person has a session ended, with what works below it for itself, if they say so."""
    known, product = world.sessions.get(session), world.product
    if known is None or product is None or known.id == "*":
        return False

    async def request(operator: Operator) -> Answer:
        world.log("release", session, below)
        known.releases.append(below)
        return await operator.release(SessionId(session), below=below).result()

    def then(answer: Answer | None) -> None:
        known.released_at, known.released_below = world.now, below
        known.releases.remove(below)
        world.log("released", session, answer is not None)
        _heed(world, known)

    return product.ask(request, then)


def undo(world: World, *, back: int = 0) -> bool:
    """A person takes back what the watchdog wrote: the last time, or some times before."""
    product, journal = world.product, world.journal
    written = [each for each in journal.noted.values() if journal.rows.get(each.id) and each.undone_ms is None]
    if product is None or len(written) <= back:
        return False
    number = written[-1 - back].id
    session = world.sessions.get(written[-1 - back].verdict.cancel_session_id)

    async def request(operator: Operator) -> Answer:
        world.log("undo", number)
        world.undoing.append(number)
        return await (await operator.undo(number)).result()

    def then(answer: Answer | None) -> None:
        world.undoing.remove(number)
        world.log("undone", number, getattr(answer, "result", None))
        if session is not None:
            _heed(world, session)
            if isinstance(answer, Undoing) and answer.result is UndoResult.UNDONE:
                session.held_until = inf  # as they are told

    return product.ask(request, then)


def _heed(world: World, session: Session) -> None:
    """A person reads that a session is on hold since, or no longer."""
    hold = world.journal.on_hold.get(SessionId(session.id))
    if hold is None and session.held_until > world.wall_ms:
        world.oracles.disturbed("hold", world.now)
    session.held_until = -inf if hold is None else inf if hold.until_ms is None else hold.until_ms
