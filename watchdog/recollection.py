"""The memory between looks as a JSON value, so that it outlives the process that made it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from watchdog.clock import Timeline
from watchdog.memory import AskMemory, CallMemory, Memory
from watchdog.model import Attempts, CallId, ServerName, SessionId, TurnId

VERSION = 1


def dump(memory: Memory, timeline: Timeline, boot_id: str) -> dict[str, Any]:
    """Everything that must survive a restart: first sights, waits, attempts, and the time that was slept through."""
    return {
        "version": VERSION,
        "boot_id": boot_id,
        "timeline": timeline.dump(),
        "calls": {id_: asdict(call) for id_, call in memory.calls.items()},
        "asks": {id_: asdict(ask) for id_, ask in memory.asks.items()},
        "attempts": {key: asdict(tried) for key, tried in memory.attempts.items()},
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
        if value["version"] != VERSION:
            return False
        same_boot = bool(boot_id) and value["boot_id"] == boot_id
        calls = {CallId(id_): CallMemory(**call) for id_, call in value["calls"].items()}
        asks = {str(id_): AskMemory(**ask) for id_, ask in value["asks"].items()}
        attempts = {str(key): Attempts(**tried) for key, tried in value["attempts"].items()}
        let_go = {TurnId(turn): ServerName(name) for turn, name in value["let_go"].items()}
        claimed_by = {SessionId(id_): ServerName(name) for id_, name in value["claimed_by"].items()}
        folded_at = value["folded_at"]
        if same_boot:
            timeline.restore(value["timeline"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    memory.attempts = attempts
    if same_boot:
        memory.calls, memory.asks, memory.let_go = calls, asks, let_go
        memory.claimed_by, memory.folded_at = claimed_by, folded_at
    return True
