"""What can happen in the world, by name. Each returns whether it did what it was planned for."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Final

from simulation.mishaps import backup, damage, other_journal, restore
from simulation.partings import database_clock, replica
from simulation.requests import release, undo
from simulation.servers import Process
from simulation.work import Session
from simulation.world import World
from watchdog.model.interventions import Hold
from watchdog.model.session import SessionId

Action = Callable[..., bool]
Steps = Sequence[Mapping[str, Any]]
_OLD_SECONDS: Final = 86_400.0


def _at(world: World, plan: int) -> Process | None:
    """The process that a plan of the setting has become."""
    wanted = world.setting.plans[plan % len(world.setting.plans)]
    return next((each for each in world.processes if each.plan is wanted), None)


def prompt(world: World, *, session: str, plan: int = 0, directory: str = "/project", steps: Steps) -> bool:
    """A person prompts a session, which is made if there is none, at one of the processes."""
    process = _at(world, plan)
    known = world.sessions.get(session)
    if process is None or process.elsewhere or (known is not None and known.gone):
        return False
    if known is not None and known.run is not None and known.run.process is not process:
        return False  # two processes at one session is nothing that opencode knows of
    remote = process.plan.remote
    if known is not None and known.remote != remote:
        return False
    world.prompt(process, known or world.new_session(directory, id_=session, remote=remote), steps)
    return True


def prompt_below(world: World, *, session: str, steps: Steps) -> bool:
    """A person prompts the newest child of a session, where that runs."""
    above = world.sessions.get(session)
    child = above.children[-1] if above is not None and above.children else None
    if child is None or child.gone:
        return False
    process = child.run.process if child.run is not None else _at(world, 0)
    if process is None or not process.alive or process.elsewhere:
        return False
    world.prompt(process, child, steps)
    return True


def user_abort(world: World, *, session: str, steps: Steps = ()) -> bool:
    """A person ends what a session does, and prompts again at once, if steps are given."""
    known = world.sessions.get(session)
    if known is None or known.run is None:
        return False
    process = known.run.process
    world.log("user aborts", session)
    process.abort(known)
    if steps and not known.gone:
        world.prompt(process, known, steps)
    return True


def delete(world: World, *, session: str) -> bool:
    """A person deletes a session; what runs in it runs on."""
    known = world.sessions.get(session)
    if known is None or known.gone:
        return False
    for each in [known, *known.below()]:
        each.gone = True
        world.rows.delete_session(each.id)
    world.log("deleted", session)
    return True


def hold(world: World, *, session: str, seconds: float | None = None) -> bool:
    """A person wants a session left alone; `*` is all of them."""
    known = world.sessions.get(session)
    if known is None:
        if session != "*":
            return False
        known = world.sessions["*"] = Session("*", "")
        known.gone = True
    until = None if seconds is None else world.wall_ms + round(seconds * 1000)
    known.held_until = inf if until is None else until
    id_ = SessionId(session)
    world.journal.on_hold[id_] = Hold(session_id=id_, since_ms=world.wall_ms, until_ms=until, why="a person said so")
    world.log("hold", session, until)
    return True


def unhold(world: World, *, session: str) -> bool:
    """A person lets a session go again."""
    known = world.sessions.get(session)
    if known is None or known.held_until <= world.wall_ms:
        return False
    known.held_until = -inf
    world.journal.on_hold.pop(SessionId(session), None)
    world.oracles.disturbed("hold", world.now)
    return True


def crash(world: World, *, plan: int, down: float) -> bool:
    """A process dies, and is started again after a while on the same port."""
    process = _at(world, plan)
    if process is None:
        return False
    world.end_process(process)
    world.spawn(world.started_again(process, down))
    return True


def wedge(world: World, *, plan: int, how: str, seconds: float) -> bool:
    """A server stands still, answers nonsense, or takes aborts and does nothing."""
    process = _at(world, plan)
    if process is None or process.trouble is not None or process.plan.port is None or process.elsewhere:
        return False
    process.trouble = how
    if how in {"broken", "garbage"}:
        process.cut()

    def mend() -> None:
        process.trouble = None

    world.spawn(world.mended(how, seconds, mend))
    return True


def bad_folder(world: World, *, plan: int, directory: str, seconds: float) -> bool:
    """A server can't answer for one folder."""
    process = _at(world, plan)
    if process is None or directory in process.bad_folders:
        return False
    process.bad_folders.add(directory)
    world.spawn(world.mended("folder", seconds, partial(process.bad_folders.discard, directory)))
    return True


def feed(world: World, *, plan: int, how: str, seconds: float) -> bool:
    """A server's feed is cut for a while, or held back and delivered late."""
    process = _at(world, plan)
    if process is None or process.feed != "flows" or not process.streams:
        return False
    process.feed = how
    if how == "cut":
        process.cut()
    world.spawn(world.mended("feed", seconds, process.let_flow))
    return True


def sleep(world: World, *, seconds: float) -> bool:
    """The laptop sleeps."""
    world.log("sleep", seconds)
    world.machine.sleep(seconds)
    world.oracles.disturbed("sleep", world.now)
    return True


def step(world: World, *, seconds: float) -> bool:
    """The wall clock is set, or the virtual machine was paused."""
    world.log("step", seconds)
    world.machine.step(seconds)
    world.oracles.disturbed("step", world.now)
    return True


def reboot(world: World, *, down: float) -> bool:
    """The machine starts anew."""
    world.log("reboot")
    for process in [*world.processes]:
        world.end_process(process)
        world.spawn(world.started_again(process, down))
    for product in [each for each in world.products if not each.line.dead]:
        world.kill_product(product)
        world.spawn(world.mended("no watchdog", down, world.start_product))
    world.machine.reboot()
    world.oracles.disturbed("reboot", world.now)
    return True


def freeze(world: World, *, seconds: float) -> bool:
    """The watchdog's process is stopped for a while."""
    product = world.product
    if product is None or "frozen" in world.troubles:
        return False
    world.loop.stop_process(product.number)
    world.spawn(world.mended("frozen", seconds, partial(world.loop.continue_process, product.number)))
    return True


def kill(world: World, *, down: float) -> bool:
    """The watchdog is killed wherever it is, and started again after a while."""
    product = world.product
    if product is None or "frozen" in world.troubles:
        return False
    world.kill_product(product)
    world.spawn(world.mended("no watchdog", down, world.start_product))
    return True


def second(world: World, *, seconds: float) -> bool:
    """Another watchdog runs beside the first one for a while."""
    if world.product is None:
        return False
    other = world.start_product()
    world.spawn(_end_second(world, other.number, seconds))
    return True


async def _end_second(world: World, number: int, seconds: float) -> None:
    await world.troubled("two watchdogs", seconds)
    for product in world.products:
        if product.number == number and not product.line.dead and product is not world.product:
            world.kill_product(product)


def lock(world: World, *, seconds: float) -> bool:
    """Somebody has the database locked."""
    if world.locked:
        return False
    world.locked = True

    def unlock() -> None:
        world.locked = False

    world.spawn(world.mended("locked", seconds, unlock))
    return True


def lock_journal(world: World, *, seconds: float) -> bool:
    """The journal can't be used."""
    if world.journal_locked:
        return False
    world.journal_locked = True

    def unlock() -> None:
        world.journal_locked = False

    world.spawn(world.mended("journal", seconds, unlock))
    return True


def pretend(world: World, *, plan: int, session: str, busy: bool) -> bool:
    """A server of a copy says that it is at work on a session of that id, or that it is not."""
    process, known = _at(world, plan), world.sessions.get(session)
    if process is None or not process.elsewhere or known is None:
        return False
    (process.pretends.add if busy else process.pretends.discard)((known.id, known.directory))
    return True


def tidy(world: World) -> bool:
    """What ended long ago is thrown away."""
    old = [
        each
        for each in world.sessions.values()
        if each.parent is None and not each.gone and each.id != "*" and world.now - each.ended_at > _OLD_SECONDS
        and not any(one.run or one.queue for one in (each, *each.below()))
    ]  # fmt: skip
    orphans = world.orphans()
    for session in old:
        family = [session, *session.below()]
        if not any(each.id in orphans for each in family):
            for each in family:
                each.gone = True
                world.rows.delete_session(each.id)
                world.sessions.pop(each.id, None)
    return True


def calm(world: World) -> bool:
    """All faults stop for good."""
    world.log("calm")
    world.calm.set()
    for session in world.sessions.values():
        session.held_until = -inf
    world.journal.on_hold.clear()
    return True


ACTIONS: Final[Mapping[str, Action]] = {
    each.__name__: each
    for each in (
        prompt, prompt_below, user_abort, delete, hold, unhold, crash, wedge, bad_folder, feed, sleep, step, reboot,
        freeze, kill, second, lock, lock_journal, pretend, tidy, calm, release, undo,
        backup, restore, damage, other_journal, replica, database_clock,
    )
}  # fmt: skip
