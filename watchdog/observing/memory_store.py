"""The memory between looks, kept in the journal so that it outlives its process."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from watchdog.judging.gradual import Gradual
from watchdog.model.moments import Moment, WallMs
from watchdog.model.report import Attempts, Observation, Process, Stopped
from watchdog.model.session import EMBEDDED, CallId, ServerName, SessionId, TurnId
from watchdog.observing.memory import CallMemory, Memory
from watchdog.ports import Journal, Reading
from watchdog.strides import gradually
from watchdog.timing.clock import Countable, check_numbers
from watchdog.timing.sightings import Convert, Sightings
from watchdog.timing.version_one import migrated

VERSION = 2
REPLICAS: Final = "replicas"
"""Stands for the id of a boot if several machines share one memory: what ran goes on when one of them is gone."""
_KEY = "memory"
Key = TypeVar("Key")
Value = TypeVar("Value")
_SAVE_EVERY_SECONDS = 60.0
_UNWATCHED_SECONDS = 120.0
"""Time in which nobody looked counts up to this. A write in a longer gap may have been an approval."""


class Recollection:
    """Folds looks into the memory, takes up that of an earlier process, and keeps this one's: one after the other.

    Each takes several strides, and nobody may see a half-changed memory.

    Args:
        memory: the memory; it is told whether hosts on any machine may run the sessions.
        boot_id: of this boot of the machine, or `REPLICAS`.
    """

    def __init__(self, *, journal: Journal, clock: Countable, memory: Memory, boot_id: str) -> None:
        self._journal = journal
        self._clock = clock
        self._memory = memory
        self._boot_id = boot_id
        memory.elsewhere = boot_id == REPLICAS
        self._recalled = False
        self._saved: tuple[object, float] | None = None
        self._saving = anyio.Lock(fast_acquire=True)
        self._turn = anyio.Lock(fast_acquire=True)
        self._taken = 0
        self._kept = 0
        """The number of the last snapshot of the memory that was taken, and of the last that was saved."""

    async def recall(self) -> bool:
        """Take up, once, the memory of an earlier process.

        Returns:
            Whether it took something up now.

        Raises:
            JournalUnusable: the journal can't be read.
        """
        async with self._turn:
            if self._recalled:
                return False
            remembered = await self._journal.load(_KEY)
            self._recalled = True
            return remembered is not None and self._restore(remembered, self._memory, resume=True)

    async def fold(self, observation: Observation, convert: Convert) -> Observation:
        """See `Memory.fold_gradually`. When cancelled, it still runs to its end first."""
        async with self._turn:
            return await gradually(self._memory.fold_gradually(observation, convert), whole=True)

    async def complete(self, observation: Observation, convert: Convert) -> Observation:
        """Complete an observation of a few sessions in the same way, and remember nothing of it."""
        async with self._turn:
            aside = self._memory.aside(observation)
        return await gradually(aside.fold_gradually(observation, convert))

    async def take_over(self) -> None:
        """Take up the attempts of the leader before this one, which until now only observed.

        Of replicas that leader may have seen waits that this one has not: of two clocks the later one counts.

        Raises:
            JournalUnusable: the journal can't be read.
        """
        remembered = await self._journal.load(_KEY)
        other = Memory()
        if remembered is None or not self._restore(remembered, other, resume=False):
            return
        async with self._turn:
            self._take_over(other)

    def _take_over(self, other: Memory) -> None:
        for key, tried in other.attempts.items():
            own = self._memory.attempts.get(key)
            if own is None or (own.count, own.tries) < (tried.count, tried.tries):
                self._memory.attempts[key] = tried
        self._memory.let_go = other.let_go | self._memory.let_go
        if self._boot_id == REPLICAS:
            for id_, call in other.calls.items():
                known = self._memory.calls.setdefault(id_, call)
                known.start = max(known.start, call.start)

    def _restore(self, remembered: Mapping[str, Any], memory: Memory, *, resume: bool) -> bool:
        if self._boot_id == REPLICAS:
            return restore_elsewhere(remembered, memory, self._clock)
        return restore(remembered, memory, self._clock, self._boot_id, resume=resume)

    async def keep(self) -> None:
        """Keep the memory as it is now if something in it changed, and once a minute for the clocks.

        Callers that come while a snapshot of it is being saved share the next one.

        Raises:
            JournalUnusable: the journal can't be written.
        """
        taken = self._taken
        async with self._saving:
            if self._kept > taken:
                return
            async with self._turn:
                now = self._clock.read().awake_seconds
                state = self._memory.state()
                if self._saved is not None and self._saved[0] == state and now - self._saved[1] < _SAVE_EVERY_SECONDS:
                    return
                self._taken += 1
                picture = await gradually(dump(self._memory, self._clock, self._boot_id))
            await self._journal.save(_KEY, picture)
            self._saved, self._kept = (state, now), self._taken


def dump(memory: Memory, clock: Countable, boot_id: str) -> Gradual[dict[str, Any]]:
    """Everything that must survive a restart: first sights, waits, attempts. Moments are stored as ages.

    The memory may change in the meantime. The dump has its state at the beginning, or what became of it.
    """
    now = clock.now()

    def told(call: CallMemory) -> dict[str, Any]:
        return {
            "age_seconds": now - call.start,
            "paused": call.paused,
            "written_ms": call.written_ms,
            "witnessed": call.witnessed,
        }

    return {
        "version": VERSION,
        "boot_id": boot_id,
        "clock": clock.dump(),
        "folded_seconds_ago": None if memory.folded_at is None else now - memory.folded_at,
        "attempts": {key: _told(tried, now) for key, tried in memory.attempts.items()},
        "let_go": dict(memory.let_go),
        "claimed_by": dict(memory.claimed_by),
        "calls": (yield from _each(memory.calls, told)),
        "asks": (yield from _each(memory.asks, lambda since: now - since)),
        "lives": (yield from _each(memory.lives.known, partial(_seen, now))),
        "retries": (yield from _each(memory.retries.known, partial(_seen, now))),
        "stopped": (yield from _each(memory.stopped, lambda each: [each.why, now - each.since])),
    }


def _each(values: Mapping[Key, Value], told: Callable[[Value], object]) -> Gradual[dict[Key, object]]:
    """Each value in its stored form."""
    found = {}
    for key, value in [*values.items()]:
        yield
        found[key] = told(value)
    return found


def restore(value: Mapping[str, Any], memory: Memory, clock: Countable, boot_id: str, *, resume: bool = True) -> bool:
    """Take up the memory of an earlier process. Returns whether it was of use.

    The reboot ended everything that ran at an earlier boot: of that one only attempts are kept.

    Args:
        resume: the clock goes on where that process looked last.
    """
    now = clock.read()
    try:
        same_boot = bool(boot_id) and value["boot_id"] == boot_id
        value = migrated(value)
        gap = now.awake_seconds - _number(value["clock"]["awake_seconds"])
        last = _last(value["clock"])
        past = _read(value, clock.at(now) + -(max(0.0, min(gap, _UNWATCHED_SECONDS)) if same_boot else 0.0))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    memory.attempts = past.attempts
    if same_boot:
        memory.calls, memory.asks, memory.let_go = past.calls, past.asks, past.let_go
        memory.claimed_by, memory.folded_at = past.claimed_by, past.folded_at
        memory.lives, memory.retries, memory.stopped = past.lives, past.retries, past.stopped
        memory.unwatched = gap > _UNWATCHED_SECONDS
        if last is not None and resume:
            clock.resume(last)
    return True


def restore_elsewhere(value: Mapping[str, Any], memory: Memory, clock: Countable) -> bool:
    """Take up the memory of another replica, on any machine. Returns whether it was of use.

    Its awake clock says nothing here: the wall clock tells how long ago it looked, up to a short gap. Its own host
    has another name here, so that host's claims are heard of again.
    """
    now = clock.read()
    try:
        value = migrated(value)
        last = _last(value["clock"])
        gap = 0.0 if last is None else (now.wall_ms - last.wall_ms) / 1000
        gap -= 0.0 if last is None else _number(value["clock"]["awake_seconds"]) - last.awake_seconds
        past = _read(value, clock.at(now) + -max(0.0, min(gap, _UNWATCHED_SECONDS)))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    memory.attempts, memory.calls, memory.asks = past.attempts, past.calls, past.asks
    memory.let_go = {turn: name for turn, name in past.let_go.items() if name != EMBEDDED}
    memory.claimed_by = {id_: name for id_, name in past.claimed_by.items() if name != EMBEDDED}
    memory.heard = dict.fromkeys(past.claimed_by)
    memory.lives, memory.folded_at = past.lives, past.folded_at
    memory.unwatched = gap > _UNWATCHED_SECONDS
    return True


def _told(tried: Attempts, now: Moment) -> dict[str, Any]:
    return {
        "count": tried.count,
        "tries": tried.tries,
        "not_before_seconds": None if tried.not_before is None else tried.not_before - now,
        "given_up": tried.given_up,
        "newest_prompt_id": tried.newest_prompt_id,
        "process": None if tried.process is None else asdict(tried.process),
    }


def _seen(now: Moment, told: Mapping[ServerName, tuple[WallMs, Moment]]) -> dict[str, Any]:
    return {who: [wall_ms, now - moment] for who, (wall_ms, moment) in told.items()}


def _number(value: Any) -> float:  # noqa: ANN401 - whatever the file holds
    check_numbers([value])
    return float(value)


def _last(clock: Mapping[str, Any]) -> Reading | None:
    """What the clocks showed when that process looked last."""
    last, since, slack = clock["last"], clock["steady_since_ms"], _number(clock["steady_slack_seconds"])
    check_numbers([since or 0])
    if last is None:
        return None
    reading = Reading(**last, steady_since_ms=since, steady_slack_seconds=slack)
    check_numbers([reading.wall_ms, reading.awake_seconds, reading.running_seconds])
    return reading


def _read(value: Mapping[str, Any], at: Moment) -> Memory:
    """The memory of an earlier process.

    Args:
        at: the moment at which it was kept, on the clock of this process.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not a result of `dump`, or of another version.
    """
    let_go = {TurnId(turn): ServerName(name) for turn, name in value["let_go"].items()}
    claimed_by = {SessionId(id_): ServerName(name) for id_, name in value["claimed_by"].items()}
    if not all(isinstance(name, str) for name in (*let_go.values(), *claimed_by.values())):
        raise ValueError("a name is none")
    ago = value["folded_seconds_ago"]
    return Memory(
        calls={CallId(id_): _call(call, at) for id_, call in value["calls"].items()},
        asks={str(id_): at + -_number(age) for id_, age in value["asks"].items()},
        attempts={str(key): _attempts(tried, at) for key, tried in value["attempts"].items()},
        let_go=let_go,
        claimed_by=claimed_by,
        lives=_sightings(value["lives"], at),
        retries=_sightings(value["retries"], at),
        stopped={
            SessionId(id_): Stopped(why=str(why), since=at + -_number(age))
            for id_, (why, age) in value["stopped"].items()
        },
        folded_at=None if ago is None else at + -_number(ago),
    )


def _call(call: Mapping[str, Any], at: Moment) -> CallMemory:
    known = dict(call)
    known["start"] = at + -_number(known.pop("age_seconds"))
    check_numbers([known["written_ms"]])
    return CallMemory(**known)


def _attempts(tried: Mapping[str, Any], at: Moment) -> Attempts:
    known = dict(tried)
    left, process = known.pop("not_before_seconds"), known.pop("process", None)
    check_numbers([known["count"], known["tries"]])
    return replace(
        Attempts(**known),
        not_before=None if left is None else at + _number(left),
        process=None if process is None else Process(**process),
    )


def _sightings(value: Mapping[str, Any], at: Moment) -> Sightings:
    known = {
        SessionId(id_): {
            ServerName(who): (int(_number(wall)), at + -_number(age)) for who, (wall, age) in told.items()
        }
        for id_, told in value.items()
    }
    return Sightings(known)
