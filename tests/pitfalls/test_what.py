"""What is ended: judged again by the same judge right before it, with everything below it, asks and holds included.

The real loop on a real database. The number in a docstring is the pitfall's.
"""

import errno
import os
from pathlib import Path

import pytest

from tests.pitfalls.stage import HOUR, MINUTE, PLACE, Stage
from tests.support.database import NOW
from watchdog.lock import DatabaseLock
from watchdog.model import Ask, AskKind, Result, Session, SessionId, SpareReason, Verdict, VerdictKind


@pytest.mark.parametrize("kind", AskKind)
async def test_an_ask_that_an_aborted_turn_left_over_spares_no_call_of_the_same_id_in_the_next_turn(
    stage: Stage, kind: AskKind
) -> None:
    """53: models that number their calls anew in each turn."""
    work = stage.work()
    stage.asking(work, kind=kind)
    stage.rows.finish_call(work.call, at=stage.ago(0))
    stage.rows.finish_turn(work.turn, at=stage.ago(0))
    stage.hands.advance(1)
    stage.rows.prompt(work.session, "msg_user_again", at=stage.ago(0))
    turn = stage.rows.turn(work.session, "msg_turn_again", at=stage.ago(0), cwd=PLACE)
    state = {"status": "running", "input": {}, "time": {"start": stage.ago(0)}}
    part = {"type": "tool", "tool": "bash", "callID": work.ref, "state": state}
    stage.rows.part(turn, part, "prt_again", at=stage.ago(0))
    async with stage.watching(tool_timeout=30 * MINUTE) as play:
        assert play.reason(work.session) == {SpareReason.WITHIN_LIMIT}
        await play.pass_time(31 * MINUTE)
        assert play.diary.results == [Result.RECOVERED]


@pytest.mark.parametrize("turn_named", [True, False])
async def test_an_ask_that_names_the_call_spares_it_whether_or_not_it_names_the_turn(
    stage: Stage, turn_named: bool
) -> None:
    """53: what an ask does not say can't be held against it."""
    work = stage.work()
    turn = work.turn if turn_named else None
    ask = Ask(id="ask", kind=AskKind.QUESTION, session_id=work.session, turn_id=turn, call_ref=work.ref)
    stage.server.asks_by[PLACE] = [ask]
    async with stage.watching(tool_timeout=30 * MINUTE) as play:
        await play.pass_time(3 * HOUR)
        assert play.diary.finds == []
        assert play.reason(work.session) == {SpareReason.WAITING_ON_HUMAN}


async def test_a_lock_file_that_can_not_be_opened_for_a_while_is_locked_again_afterwards_and_the_loop_acts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """62: the disk is full when the lock file has to be made again."""
    open_really = os.open

    def full(path: str | Path, flags: int, mode: int = 0o777, **more: int) -> int:
        if str(path).endswith(".watchdog.lock"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_really(path, flags, mode, **more)

    work = stage.work(age=MINUTE)
    with DatabaseLock(stage.path) as lock, monkeypatch.context() as meddled:
        stage.mandate = lock
        lock.path.unlink()
        meddled.setattr(os, "open", full)
        async with stage.watching(tool_timeout=MINUTE, poll_interval=0.05) as play:
            await play.diary.until(lambda: len(play.diary.outages) > 3)
            assert "no space left on device" in play.diary.outages[-1][0]
            assert play.diary.finds == []
            meddled.undo()
            await play.diary.until(lambda: play.diary.outcomes)
    assert play.diary.results == [Result.RECOVERED]
    assert stage.server.aborted == [(work.session, PLACE)]


async def test_an_error_of_its_own_in_what_a_crash_left_begun_is_contained_and_ends_no_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """61: it is told and closed, and the rest is closed and ended as ever."""
    left = [stage.work(str(number), age=MINUTE) for number in range(2)]
    fresh = stage.work("fresh", age=MINUTE)
    for work in left:
        verdict = Verdict(
            session_id=work.session,
            kind=VerdictKind.STUCK_TOOL,
            cancel_session_id=work.session,
            why="it ran too long",
            age_seconds=60,
            call_ids=(work.call,),
            turn_ids=(work.turn,),
            newest_prompt_id=f"msg_user_{work.session.removeprefix('ses_')}",
        )
        await stage.journal.begin(verdict, at_ms=NOW)
    read = stage.store.session

    async def broken(session_id: SessionId) -> Session | None:
        if session_id == left[0].session and not stage.server.aborted:
            raise ZeroDivisionError
        return await read(session_id)

    monkeypatch.setattr(stage.store, "session", broken)
    async with stage.watching(tool_timeout=MINUTE) as play:
        assert [type(error) for error in play.diary.failures] == [ZeroDivisionError]
        assert not await stage.journal.begun()
        assert play.diary.outcomes[0].why == "an error of the watchdog's own: ZeroDivisionError"
        assert (fresh.session, PLACE) in stage.server.aborted
        await play.pass_time(HOUR)
    assert {session for session, _ in stage.server.aborted} == {fresh.session, *(work.session for work in left)}
