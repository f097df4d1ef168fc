"""The memory between looks, kept in the journal so that it outlives the process that made it."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

import anyio

from watchdog.clock import Timeline, check_numbers
from watchdog.memory import AskMemory, CallMemory, Memory
from watchdog.model import EMBEDDED, Attempts, CallId, ServerName, SessionId, TurnId
from watchdog.ports import Clock, Journal, Reading

VERSION = 1
REPLICAS: Final = "replicas"
"""Stands for the id of a boot where several machines share one memory: what ran goes on when one of them is gone."""
_KEY = "memory"
_SAVE_EVERY_SECONDS = 60.0


class Recollection:
    """Takes the memory of an earlier process up, and keeps this one's.

    Args:
        memory: is told whether hosts on any machine may run the sessions.
        boot_id: of this boot of the machine, or `REPLICAS`.
    """

    def __init__(self, *, journal: Journal, clock: Clock, memory: Memory, timeline: Timeline, boot_id: str) -> None:
        self._journal = journal
        self._clock = clock
        self._memory = memory
        self._timeline = timeline
        self._boot_id = boot_id
        memory.elsewhere = boot_id == REPLICAS
        self._recalled = False
        self._saved: tuple[object, float] | None = None
        self._saving = anyio.Lock()
        self._taken = 0
        self._kept = 0
        """The number of the last picture of the memory that was taken, and of the last that was saved."""

    async def recall(self) -> bool:
        """Take up, once, what an earlier process remembered.

        Returns:
            Whether something was taken up now.

        Raises:
            JournalUnusable: the journal can't be read.
        """
        if self._recalled:
            return False
        remembered = await self._journal.load(_KEY)
        self._recalled = True
        return remembered is not None and self._restore(remembered, self._memory, self._timeline)

    async def take_over(self) -> None:
        """Take up what was tried by the one who acted until now, while this process only observed.

        Of replicas that one may have seen waits that this one has not: of two clocks the later one counts.

        Raises:
            JournalUnusable: the journal can't be read.
        """
        remembered = await self._journal.load(_KEY)
        other = Memory()
        if remembered is None or not self._restore(remembered, other, Timeline()):
            return
        for key, tried in other.attempts.items():
            own = self._memory.attempts.get(key)
            if own is None or (own.count, own.tries) < (tried.count, tried.tries):
                self._memory.attempts[key] = tried
        self._memory.let_go = other.let_go | self._memory.let_go
        if self._boot_id == REPLICAS:
            for id_, call in other.calls.items():
                known = self._memory.calls.setdefault(id_, call)
                known.start_ms += max(0.0, call.start_ms + call.paused_ms - known.start_ms - known.paused_ms)

    def _restore(self, remembered: Mapping[str, Any], memory: Memory, timeline: Timeline) -> bool:
        if self._boot_id == REPLICAS:
            return restore_elsewhere(remembered, memory, self._clock.read())
        return restore(remembered, memory, timeline, self._boot_id)

    async def keep(self) -> None:
        """Keep the memory as it is now if something in it changed, and once a minute for the clocks.

        Whoever comes while a picture of it is being saved shares the next one with all who wait.

        Raises:
            JournalUnusable: the journal can't be written.
        """
        taken = self._taken
        async with self._saving:
            if self._kept > taken:
                return
            now = self._clock.read().awake_seconds
            state = self._memory.state()
            if self._saved is not None and self._saved[0] == state and now - self._saved[1] < _SAVE_EVERY_SECONDS:
                return
            self._taken += 1
            await self._journal.save(_KEY, dump(self._memory, self._timeline, self._boot_id))
            self._saved, self._kept = (state, now), self._taken


def _flat(kind: type) -> Callable[[object], dict[str, Any]]:
    """What makes a dictionary of a dataclass whose fields are plain values; `asdict` would copy each of them."""
    names = [field.name for field in fields(kind)]
    values = attrgetter(*names)
    return lambda item: dict(zip(names, values(item), strict=True))


_CALL, _ASK, _ATTEMPTS = _flat(CallMemory), _flat(AskMemory), _flat(Attempts)


def dump(memory: Memory, timeline: Timeline, boot_id: str) -> dict[str, Any]:
    """Everything that must survive a restart: first sights, waits, attempts, and the time that was slept through."""
    return {
        "version": VERSION,
        "boot_id": boot_id,
        "timeline": timeline.dump(),
        "calls": {id_: _CALL(call) for id_, call in memory.calls.items()},
        "asks": {id_: _ASK(ask) for id_, ask in memory.asks.items()},
        "attempts": {key: _ATTEMPTS(tried) for key, tried in memory.attempts.items()},
        "let_go": dict(memory.let_go),
        "claimed_by": dict(memory.claimed_by),
        "folded_at": memory.folded_at,
    }


def restore(value: Mapping[str, Any], memory: Memory, timeline: Timeline, boot_id: str) -> bool:
    """Take up what an earlier process remembered. Returns whether it was of use.

    The awake clock starts anew with each boot: of an earlier boot only what is told by the wall clock and by counts
    is kept. What was running then was ended by the reboot.
    """
    try:
        same_boot = bool(boot_id) and value["boot_id"] == boot_id
        past = _read(value)
        if same_boot:
            timeline.restore(value["timeline"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    memory.attempts = past.attempts
    if same_boot:
        memory.calls, memory.asks, memory.let_go = past.calls, past.asks, past.let_go
        memory.claimed_by, memory.folded_at = past.claimed_by, past.folded_at
        memory.taken_up = True
    return True


def restore_elsewhere(value: Mapping[str, Any], memory: Memory, now: Reading) -> bool:
    """Take up what another replica remembered, on whatever machine. Returns whether it was of use.

    Its awake clock says nothing here: its credits are added to what it remembered, and the wall clock tells how long
    ago it looked. Its own host is known under another name here, so that one's claims are heard of anew.

    Args:
        now: the clocks of this machine.
    """
    try:
        past, timeline = _read(value), Timeline()
        timeline.restore(value["timeline"])
        last = value["timeline"]["last"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    since = now.awake_seconds
    for call in past.calls.values():
        call.start_ms, call.known_since = timeline.shift(call.start_ms, known_since=call.known_since), since
    shifted = {id_: timeline.shift(ask.at_ms, known_since=ask.known_since) for id_, ask in past.asks.items()}
    memory.attempts, memory.calls = past.attempts, past.calls
    memory.asks = {id_: AskMemory(at_ms=int(at_ms), known_since=since) for id_, at_ms in shifted.items()}
    memory.let_go = {turn: name for turn, name in past.let_go.items() if name != EMBEDDED}
    memory.claimed_by = {id_: name for id_, name in past.claimed_by.items() if name != EMBEDDED}
    memory.heard = dict.fromkeys(past.claimed_by)
    if last is not None and past.folded_at is not None:
        ago_seconds = (now.wall_ms - last["wall_ms"]) / 1000 + last["awake_seconds"] - past.folded_at
        memory.folded_at = since - max(0.0, ago_seconds)
    memory.taken_up = True
    return True


def _read(value: Mapping[str, Any]) -> Memory:
    """What an earlier process remembered, as it was there.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not what `dump` gave, or of another version.
    """
    if value["version"] != VERSION:
        raise ValueError("it is of another version")
    calls = {CallId(id_): CallMemory(**call) for id_, call in value["calls"].items()}
    asks = {str(id_): AskMemory(**ask) for id_, ask in value["asks"].items()}
    attempts = {str(key): Attempts(**tried) for key, tried in value["attempts"].items()}
    let_go = {TurnId(turn): ServerName(name) for turn, name in value["let_go"].items()}
    claimed_by = {SessionId(id_): ServerName(name) for id_, name in value["claimed_by"].items()}
    folded_at = value["folded_at"]
    for call in calls.values():
        check_numbers([call.start_ms, call.known_since, call.paused_ms, call.written_ms])
    for ask in asks.values():
        check_numbers([ask.at_ms, ask.known_since])
    for tried in attempts.values():
        check_numbers([tried.count, tried.tries, tried.not_before_ms])
    check_numbers([folded_at or 0])
    if not all(isinstance(name, str) for name in (*let_go.values(), *claimed_by.values())):
        raise ValueError("a name is none")
    return Memory(
        calls=calls, asks=asks, attempts=attempts, let_go=let_go, claimed_by=claimed_by, folded_at=folded_at
    )
