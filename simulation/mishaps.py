"""What happens to files: the database is put back from a copy, rows can't be read, a journal of another version."""

from collections.abc import Mapping
from typing import Any, Final

from simulation.world import World

MEMORY: Final = "memory"
_UNREADABLE: Final = ('{"role":"assistant","time":{"crea', "null", '{"type":"tool","tool":"bash","state":null}', "")


def backup(world: World) -> bool:
    """A copy of the database is made."""
    world.backup = world.rows.copy()
    return True


def restore(world: World, *, seconds: float) -> bool:
    """The last copy is put in the place of the database.

    What has the removed file open goes on with that, as if nothing had happened, until it is started again.
    """
    if world.backup is None or "replaced" in world.troubles:
        return False
    world.log("restore")
    left = [process for process in world.processes if not process.elsewhere]
    for process in left:
        process.lose_the_file()
    world.rows = world.backup.copy()
    for session in world.sessions.values():
        session.gone = session.id not in world.rows.tables["session"]

    def start_again() -> None:
        for process in left:
            if process.alive:
                world.end_process(process)
                world.spawn(world.started_again(process, 1.0))

    world.spawn(world.mended("replaced", seconds, start_again))
    return True


def damage(world: World, *, session: str, table: str, how: int, seconds: float) -> bool:
    """The newest row of a session can't be read for a while, or until it is written again."""
    rows = world.rows
    id_ = next(reversed(rows.messages.get(session, {})), None)
    if table == "part" and id_ is not None:
        id_ = next(reversed(rows.parts.get(id_, {})), None)
    if id_ is None or (table, id_) in rows.damaged:
        return False
    rows.damage(table, id_, _UNREADABLE[how % len(_UNREADABLE)])
    world.log("damage", table, id_)

    def heal() -> None:
        rows.heal(table, id_)
        world.oracles.disturbed("healed", world.now)

    world.later(seconds, heal)
    return True


def other_journal(world: World, *, how: str, down: float) -> bool:
    """The watchdog is replaced by one that finds the memory of another version in the journal."""
    product = world.product
    if product is None or "frozen" in world.troubles:
        return False
    world.kill_product(product)
    world.journal.values[MEMORY] = dict(_memory(world, how))

    def start() -> None:
        world.oracles.disturbed("forgot", world.now)
        world.start_product()

    world.spawn(world.mended("no watchdog", down, start))
    return True


def _memory(world: World, how: str) -> Mapping[str, Any]:
    """A memory of the `first` version, of a `later` one, or one that is `none`."""
    kept = world.journal.values.get(MEMORY, {})
    if how == "none":
        return {"version": 2, "boot_id": world.machine.boot_id, "clock": "later"}
    if how == "later":
        return {**kept, "version": 3}
    reading = world.machine.read()
    last = {
        "wall_ms": reading.wall_ms,
        "awake_seconds": reading.awake_seconds,
        "running_seconds": reading.running_seconds,
    }
    return {
        "version": 1,
        "boot_id": world.machine.boot_id,
        "timeline": {"credits": [], "last": last, "not_credited": [0.0, 0.0, 0.0], "step_ms": None},
        "folded_at": None,
        **{name: {} for name in ("calls", "asks", "attempts", "let_go", "claimed_by")},
    }
