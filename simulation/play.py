"""Plays one script from its beginning to its end, and says what came of it."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass

from simulation.acts import ACTIONS
from simulation.leaving import TICK_SECONDS
from simulation.ledger import Violation
from simulation.loop import SimulatedLoop, simulate
from simulation.machine import APART_SECONDS, Machine
from simulation.script import Script
from simulation.world import World
from simulation.writing import FAULTS
from watchdog import strides

REST_SECONDS = 1_200.0
"""How long a world goes on at least after all faults ended. What is at work and well need not come to its end."""
LAST_SECONDS = 30_000.0
"""How long after all faults ended everything may take: the longest limit, an hour of having given up, and a while."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a script.

    Attributes:
        digest: of everything that happened; two runs of one script have the same.
        landed: how often each kind of event did what it was planned for.
        missed: how often it could not.
        counts: what the product did, by name.
        seconds: how long the world lasted awake; `lived` with its nights.
    """

    script: Script
    violation: Violation | None
    digest: str
    seconds: float
    lived: float
    sessions: int
    landed: Mapping[str, int]
    missed: Mapping[str, int]
    counts: Mapping[str, int]
    longest_overrun: float
    lines: tuple[str, ...]

    @property
    def void(self) -> bool:
        """Whether more of the faults that were planned could not happen than happened: such a world shows nothing."""
        landed, missed = (sum(each.get(what, 0) for what in FAULTS) for each in (self.landed, self.missed))
        return missed > landed


def play(script: Script) -> Played:
    """Play a script."""
    return simulate(lambda loop: _Play(loop, script).run(), seed=script.seed)


class _Play:
    def __init__(self, loop: SimulatedLoop, script: Script) -> None:
        self.world = World(loop, script)
        self.script = script

    async def run(self) -> Played:
        real, breaths = strides.seconds, _Breaths(self.script.seed)
        strides.seconds = breaths
        strides._Breath.taken_at = float("-inf")  # noqa: SLF001 - each run begins like the first
        try:
            await self._live()
        finally:
            strides.seconds = real
        return self._played()

    async def _live(self) -> None:
        world = self.world
        for plan in self.script.setting.plans:
            world.start_process(plan)
        self._start_products()
        everything = world.loop.create_task(self._everything())
        over = world.loop.create_task(world.over.wait())
        await asyncio.wait([everything, over], return_when=asyncio.FIRST_COMPLETED)
        everything.cancel()
        over.cancel()
        for process in [*world.processes]:
            world.end_process(process)
        for product in world.products:
            world.kill_product(product)
        await asyncio.wait([product.task for product in world.products], timeout=120)
        if everything.done() and not everything.cancelled() and (error := everything.exception()) is not None:
            raise error

    def _start_products(self) -> None:
        """One watchdog, or the replicas, whose wall clocks are apart as far as is allowed."""
        setting, chance = self.script.setting, random.Random(self.script.seed)  # noqa: S311 - no secret
        if not setting.replicas:
            self.world.start_product()
        for _ in range(setting.replicas):
            ahead = chance.uniform(-APART_SECONDS, APART_SECONDS)
            self.world.start_product(Machine(self.world.loop, steady=setting.steady, ahead=ahead))

    async def _everything(self) -> None:
        world = self.world
        world.spawn(self._tick())
        for event in self.script.events:
            world.next_event_at = event.at
            await asyncio.sleep(max(0.0, event.at - world.now))
            done = ACTIONS[event.what](world, **event.args)
            (world.landed if done else world.missed)[event.what] += 1
        world.next_event_at = self.script.seconds + LAST_SECONDS
        await asyncio.sleep(max(0.0, self.script.seconds - world.now))
        if world.calm.is_set():
            await self._come_to_rest()

    async def _come_to_rest(self) -> None:
        """All faults are over: within a bound nothing that is stuck may be left."""
        until = self.world.now + LAST_SECONDS
        await asyncio.sleep(REST_SECONDS)
        while self.world.now < until:
            if not self.world.oracles.left():
                return
            await asyncio.sleep(60.0)
        if left := self.world.oracles.left():
            self.world.oracles.fail("not at rest", "; ".join(left))

    async def _tick(self) -> None:
        world = self.world
        while True:
            await asyncio.sleep(max(TICK_SECONDS, world.setting.poll / 4))
            world.oracles.tick()
            if not world.is_unfinished:
                world.stirred.clear()
                await world.stirred.wait()

    def _played(self) -> Played:
        world = self.world
        return Played(
            script=self.script,
            violation=world.oracles.violation,
            digest=world.digest,
            seconds=world.now,
            lived=world.machine.lived,
            sessions=len(world.sessions),
            landed=dict(world.landed),
            missed=dict(world.missed),
            counts=dict(world.oracles.counts),
            longest_overrun=world.oracles.longest_overrun,
            lines=tuple(world.lines),
        )


class _Breaths:
    """What measures slices of time in the product: a slice is over whenever a seed says so."""

    def __init__(self, seed: int) -> None:
        self._every = 3 + seed % 61
        self._count = 0

    def __call__(self) -> float:
        self._count += 1
        return self._count * strides.SLICE_SECONDS / self._every
