"""What happens to one of several watchdogs, and to the clock of their database."""

from contextvars import Context
from functools import partial
from typing import Final

from simulation.product import Product
from simulation.world import World

BACK_SECONDS: Final = 30.0


def replica(world: World, *, which: int, how: str, seconds: float, amid: bool = False) -> bool:
    """One of them is stopped, sleeps with its machine, is cut off from the database, has its clock set, or is killed.

    Args:
        which: one of those that run; -1 for the one that acts.
        amid: it waits for the moment at which that one has begun to do something.
    """
    alive = [each for each in world.products if not each.line.dead]
    product = world.product if which < 0 or not alive else alive[which % len(alive)]
    if product is None or product.lease is None or product.number in world.hurt:
        return False
    world.hurt.add(product.number)
    hurt = partial(_hurt, world, product, how, seconds)
    if amid:  # it happens to that process, and so is nothing that runs in it
        product.line.amid = lambda: world.loop.call_soon(hurt, context=Context())
    else:
        hurt()
    return True


def _hurt(world: World, product: Product, how: str, seconds: float) -> None:
    world.log("replica", product.number, how)
    began, cut_off = world.now, world.database.cut_off
    if how in {"stop", "doze"}:
        world.loop.stop_process(product.number)
    elif how == "cut":
        cut_off.add(product.number)
    elif how == "clock":
        product.machine.step(-BACK_SECONDS)
    else:
        world.kill_product(product)

    def mend() -> None:
        world.hurt.discard(product.number)
        cut_off.discard(product.number)
        if how == "kill":
            world.start_product(product.machine)
        elif how == "doze":
            product.machine.dozed(world.now - began)
        elif how == "clock":
            product.machine.step(BACK_SECONDS)
        world.loop.continue_process(product.number)

    world.spawn(world.mended("replica", seconds, mend))


def database_clock(world: World, *, seconds: float) -> bool:
    """The clock of the machine of the database is set."""
    if not world.setting.replicas:
        return False
    world.database.set(seconds)
    world.oracles.disturbed("replica", world.now)
    return True
