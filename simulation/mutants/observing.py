"""Bugs in what is seen, heard and remembered, and in the clocks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from simulation.mutants.planting import Mutant, Patch, always
from simulation.script import Plan
from simulation.writing import Mix
from watchdog.loop.watch import Watch
from watchdog.model.moments import NEVER, Moment
from watchdog.model.report import Served, Shown, Witness
from watchdog.observing import answers, memory
from watchdog.observing.memory import Memory
from watchdog.observing.memory_store import Recollection
from watchdog.opencode.http.feed import Feed
from watchdog.ports import Reading
from watchdog.timing.clock import Countable

_fold, _status = Memory._fold_calls, Feed._status  # noqa: SLF001
_at = Countable.at


def _deaf(witness: Witness, life: Moment) -> Moment | None:
    """Hears silence where nothing is heard."""
    return max(life, witness.since or NEVER)


def _seamless(witness: Witness, life: Moment) -> Moment | None:
    """Forgets that it was not listening."""
    return life if witness.connected and life != NEVER else None


def _sleepless(clock: Any, reading: Reading) -> Moment:  # noqa: ANN401
    return _at(clock, replace(reading, awake_seconds=reading.running_seconds))


def _anew(self: Any, observation: Any, family: Any, session: Any, *more: Any) -> None:  # noqa: ANN401
    _fold(self, observation, family, session, *more)
    for call in session.calls:
        self.calls[call.id].start = observation.now


def _any_server(server: Any, *_: Any) -> Served:  # noqa: ANN401
    return Served(server=server.name, by=Shown.PROCESS)


def _pinged(feed: Any, session_id: Any, status: Any, directory: Any, now: Any) -> None:  # noqa: ANN401
    _status(feed, session_id, status, directory, now)
    feed._life[session_id] = now  # noqa: SLF001


async def _nothing(*_: Any, **__: Any) -> None:  # noqa: ANN401
    return None


def _keep_all(_: Any, __: Any) -> Any:  # noqa: ANN401
    return
    yield


_UNHEARD = Mix(faults=("feed",), an_hour=12.0, setting={"idle_timeout": 200.0})
_COPIED = Mix(faults=("pretend",), an_hour=12.0, setting={"plans": (Plan(), Plan(port=4200, copy=True))})
_KILLED = Mix(
    faults=("deaf", "kill"),
    an_hour=8.0,
    busy=12.0,
    hangs=0.6,
    setting={"max_attempts": 3, "tool_timeout": 300.0, "idle_timeout": 200.0, "plans": (Plan(),)},
)

OBSERVING: Final[Mapping[str, Mutant]] = {
    "waits count": Mutant(
        "time that a call waited for a person counts", (Patch(memory, "_waits", always(value=False)),)
    ),
    "sleep counts": Mutant(
        "time asleep counts", (Patch(Countable, "at", _sleepless),), mix=Mix(faults=("sleep",), an_hour=6.0)
    ),
    "clocks start anew": Mutant("each look starts the clocks of calls anew", (Patch(Memory, "_fold_calls", _anew),)),
    "feed unheard": Mutant("streams on the feed are no life", (Patch(Feed, "_lives", always(None)),)),
    "deaf and sure": Mutant(
        "silence counts while the feed is cut", (Patch(Witness, "silent_since", _deaf),), mix=_UNHEARD
    ),
    "gaps forgotten": Mutant(
        "what was not heard counts as silence", (Patch(Witness, "silent_since", _seamless),), mix=_UNHEARD
    ),
    "pings are life": Mutant("a status that repeats itself is life", (Patch(Feed, "_status", _pinged),)),
    "any server serves": Mutant(
        "a server of a copy is heard and told", (Patch(answers, "by_process", _any_server),), mix=_COPIED
    ),
    "nothing forgotten": Mutant(
        "what is over is remembered", (Patch(Memory, "_forget", _keep_all),), mix=Mix(busy=20.0)
    ),
    "nothing pruned": Mutant(
        "the journal grows for ever",
        (Patch(Watch, "_prune", _nothing),),
        mix=Mix(hangs=0.4, busy=12.0, setting={"retention": 1_200.0}),
    ),
    "nothing kept": Mutant(
        "nothing is remembered over a restart",
        (Patch(Recollection, "keep", _nothing),),
        mix=_KILLED,
    ),
}
