"""Python's cyclic garbage collector, for a process that is a watchdog and nothing else."""

import gc
from typing import Final

_NEW_OBJECTS: Final = 20_000


def collect_seldom() -> None:
    """Leave the objects of the start-up alone forever, and look for cycles after 20,000 new objects instead of 700.

    A look makes many small values and no cycles: reference counts free them. Without this, a judgement of 10,000
    sessions spends a third of its time in the collector, which finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
