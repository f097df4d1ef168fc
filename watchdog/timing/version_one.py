"""The memory in the first version of the journal's file: wall times, and credits that moved them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from watchdog.timing.clock import check_numbers

VERSION = 1
LONGEST_PAUSE_SECONDS = 600.0


def migrated(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a file of the first version in the form of the second one; a later one is returned as it is.

    Every clock gets the age that the first version would have shown at its last look, never more.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it holds no memory of a known version.
    """
    if value["version"] == VERSION + 1:
        return value
    if value["version"] != VERSION:
        raise ValueError("it is of another version")
    last, noted = value["timeline"]["last"], value["timeline"]["credits"]
    for part in (*noted, last or {}):
        check_numbers(part.values())
    step, sleep, unnoted = value["timeline"]["not_credited"]
    check_numbers([step, sleep, unnoted, value["timeline"]["step_ms"] or 0, value["folded_at"] or 0])
    wall_ms, awake = (last["wall_ms"], last["awake_seconds"]) if last else (0, 0.0)

    def age(at_ms: float, since: float, paused_ms: float = 0.0) -> float:
        check_numbers([at_ms, since, paused_ms])
        return max(0.0, (wall_ms - _shifted(noted, at_ms, since) - paused_ms) / 1000)

    folded_at = value["folded_at"]
    return {
        "version": VERSION + 1,
        "boot_id": value["boot_id"],
        "clock": {
            "awake_seconds": awake,
            "last": last,
            "steady_since_ms": None,
            "steady_slack_seconds": 0.0,
        },
        "calls": {id_: _call(call, age) for id_, call in value["calls"].items()},
        "asks": {id_: age(ask["at_ms"], ask["known_since"]) for id_, ask in value["asks"].items()},
        "attempts": {key: _attempts(tried, wall_ms) for key, tried in value["attempts"].items()},
        "let_go": value["let_go"],
        "claimed_by": value["claimed_by"],
        "lives": {},
        "retries": {},
        "stopped": {},
        "folded_seconds_ago": None if folded_at is None else max(0.0, awake - folded_at),
    }


def _call(call: Mapping[str, Any], age: Callable[[float, float, float], float]) -> dict[str, Any]:
    known = dict(call)
    start_ms, since, paused_ms = known.pop("start_ms"), known.pop("known_since"), known.pop("paused_ms")
    return {**known, "age_seconds": age(start_ms, since, paused_ms)}


def _attempts(tried: Mapping[str, Any], wall_ms: float) -> dict[str, Any]:
    known = dict(tried)
    not_before_ms = known.pop("not_before_ms")
    check_numbers([not_before_ms])
    return {**known, "not_before_seconds": max(0.0, min(LONGEST_PAUSE_SECONDS, (not_before_ms - wall_ms) / 1000))}


def _shifted(credits_: Sequence[Mapping[str, float]], at_ms: float, known_since: float) -> float:
    """Where the first version's credits moved a wall time that it knew since a reading of its awake clock."""
    shifted = at_ms
    for credit in credits_:
        forward = credit["amount_ms"] >= 0
        if known_since < credit["at_awake_seconds"] or (forward and shifted < credit["at_ms"]):
            shifted = min(shifted + credit["amount_ms"], credit["at_ms"])
        elif not forward and at_ms < credit["floor_ms"]:
            shifted += credit["amount_ms"]
    return shifted
