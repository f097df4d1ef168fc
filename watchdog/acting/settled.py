"""What becomes of the commands of calls that were settled: it is said in their text, and some are ended."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from watchdog.acting.ending import Ending
from watchdog.errors import WatchdogError
from watchdog.judging.leftovers import MAY_BE_RUNNING, fate, runs_a_command, to_be_ended
from watchdog.model.interventions import Actor
from watchdog.model.leftovers import Commands, Settled
from watchdog.model.outcome import Result, Row
from watchdog.model.session import CallId
from watchdog.ports import Clock, Processes
from watchdog.sharing import Batches

_REUSE_SECONDS: Final = 2.0
_DAY_MS: Final = 24 * 60 * 60 * 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """What is known of the commands of some rows, before these are settled.

    Attributes:
        sentences: what the settled rows say of it, by their ids.
        seen: the look behind it; None if nothing could be looked at.
    """

    sentences: Mapping[str, str] = field(default_factory=dict)
    seen: Commands | None = None


def unseen(rows: Iterable[Row]) -> Fates:
    """What is known of them where nobody can look at processes, or where no call among them runs a command."""
    return Fates(sentences=dict.fromkeys((row.id for row in rows), MAY_BE_RUNNING))


class SettledCommands:
    """Looks for the commands of calls that are to be settled, and ends those that may be ended.

    Args:
        clock: the one by which a look becomes too old.
        ends: what ends them; None if they are only reported.
    """

    def __init__(self, processes: Processes, clock: Clock, ends: Ending | None = None) -> None:
        self._processes = processes
        self._clock = clock
        self._ends = ends
        self._looks: Batches[int, Commands] = Batches(self._look)
        self._last: tuple[float, int, Commands] | None = None

    async def _look(self, since: Iterable[int]) -> Commands:
        """A look of a moment ago will do: no orphan starts anything, and what is to be ended is looked at again."""
        day = min(since) // _DAY_MS * _DAY_MS
        now = self._clock.read().awake_seconds
        if self._last is not None and now - self._last[0] <= _REUSE_SECONDS and self._last[1] <= day:
            return self._last[2]
        seen = await self._processes.look(since_ms=day, to_tell=True)
        self._last = (self._clock.read().awake_seconds, day, seen)
        return seen

    async def fates(self, rows: Iterable[Row]) -> Fates:
        """Look at what the calls among some rows have started. All who ask within some seconds share a look.

        Raises:
            DatabaseError: the database can't be read.
        """
        rows = tuple(rows)
        calls = {row.id: row.created_ms for row in rows if runs_a_command(row)}
        if not calls:
            return unseen(rows)
        seen = await self._looks.join(min(calls.values()))
        ends = self._ends is not None
        said = {id_: fate(seen, CallId(id_), created_ms, ends=ends) for id_, created_ms in calls.items()}
        # A turn, and a call of another kind, can say it only if it is the same for all.
        all_ = next(iter(said.values())) if len(set(said.values())) == 1 and len(calls) == _calls(rows) else None
        return Fates(sentences={row.id: said.get(row.id) or all_ or MAY_BE_RUNNING for row in rows}, seen=seen)

    async def end(self, settled: Settled, fates: Fates, *, actor: Actor) -> tuple[tuple[bool, str], ...]:
        """End what belongs to settled calls and was not started to stay.

        Returns:
            For each command whether it is as it should be now, and what was seen. An error is one of these: the calls
            stay settled.
        """
        if fates.seen is None:
            return ()
        return tuple([each async for each in self._end(settled, fates.seen, actor)])

    async def _end(self, settled: Settled, seen: Commands, actor: Actor) -> AsyncIterator[tuple[bool, str]]:
        ending, staying = to_be_ended(seen, settled.call_ids)
        for left, why in staying:
            yield True, f"process {left.command.first.pid} is left alone: {why}"
        for left in ending:
            if self._ends is None:
                yield True, f"process {left.command.first.pid} goes on: `leftovers` can end it"
                continue
            try:
                outcome = await self._ends.end(left, settled, actor=actor)
            except WatchdogError as error:
                yield False, str(error)
            else:
                yield outcome.result in {Result.RECOVERED, Result.UNCHANGED}, outcome.why


def _calls(rows: Iterable[Row]) -> int:
    return sum(row.table == "part" for row in rows)
