"""What was tried for one call or turn, how often it is tried again, and when giving up ends."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from watchdog.model.moments import Moment
from watchdog.model.report import SAME_BIRTH_MS, Attempts, Process, ServerReport
from watchdog.model.session import SessionId

LONGEST_PAUSE_SECONDS: Final = 600.0
GIVEN_UP_SECONDS: Final = 3600.0
"""How long it is left alone once it was given up: the obstacle may be gone by then."""
_MOST_DOUBLINGS: Final = 20


def after(
    before: Attempts, *, counts: bool, now: Moment, pause_seconds: float, most: int, process: Process | None
) -> Attempts:
    """The attempts so far, with one more.

    Args:
        counts: it was an attempt, and did not work.
        pause_seconds: the first pause; each further try doubles it, up to ten minutes.
        most: after how many attempts it is given up.
        process: the server that was told to abort, if one was.
    """
    if before.process is not None and process is not None and not same(before.process, process):
        before = Attempts(newest_prompt_id=before.newest_prompt_id)  # nothing is known of this one yet
    count, tries = before.count + (1 if counts else 0), before.tries + 1
    pause = min(pause_seconds * 2 ** min(tries - 1, _MOST_DOUBLINGS), max(LONGEST_PAUSE_SECONDS, pause_seconds))
    given_up = count >= most and (counts or before.given_up)
    return replace(
        before,
        count=count,
        tries=tries,
        not_before=now + (GIVEN_UP_SECONDS if given_up and counts else pause),
        given_up=given_up,
        process=process or before.process,
    )


def process_of(reports: Iterable[ServerReport], session_id: SessionId) -> Process | None:
    """The process of the server that says that it is at work on a session; None if none does, or more than one."""
    found = [
        Process(server=report.name, pid=report.pid, born_ms=report.born_ms)
        for report in reports
        if session_id in report.said
    ]
    return found[0] if len(found) == 1 else None


def same(one: Process, other: Process) -> bool:
    """Whether it may be the same process: each look computes births again, and they move a little."""
    if one.server != other.server:
        return False
    if one.pid is None or other.pid is None or one.born_ms is None or other.born_ms is None:
        return True
    return one.pid == other.pid and abs(one.born_ms - other.born_ms) <= SAME_BIRTH_MS
