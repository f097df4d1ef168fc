"""What is ended: judged again by the same judge right before it, with everything below it, asks and holds included.

The real loop on a real database. The number in a docstring is the pitfall's.
"""

import pytest

from tests.pitfalls.stage import HOUR, MINUTE, PLACE, Stage
from watchdog.model import Ask, AskKind, Result, SpareReason


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
