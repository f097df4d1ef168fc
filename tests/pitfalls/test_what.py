"""What is ended: judged again by the same judge right before it, with everything below it, asks and holds included.

The real loop on a real database. The number in a docstring is the pitfall's.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.server import AbortBehaviour
from tests.pitfalls.stage import ELSEWHERE, HOUR, MINUTE, PLACE, Stage, Work
from tests.support.database import NOW
from watchdog.errors import NoSuchSession, ServerDeclined, ServerUntold, UsageError, WatchdogError
from watchdog.judging.rulings import Living
from watchdog.loop.watch import Assessment
from watchdog.model.interventions import Hold, Intervention, InterventionId
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Holders
from watchdog.model.session import Ask, AskKind, Session, SessionId
from watchdog.model.verdict import SpareReason, Verdict, VerdictKind
from watchdog.opencode.processes.lock import DatabaseLock
from watchdog.operating.release import Releasing
from watchdog.timing.clock import Advance


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


# -- trying goes on ------------------------------------------------------------------------------------------


async def test_after_two_minutes_of_a_locked_database_what_was_to_be_settled_is_settled(stage: Stage) -> None:
    """51: a write that found the database busy is no attempt."""
    stage.work(busy=False)
    stage.owners.holders = Holders()
    stage.rows.connection.execute("BEGIN IMMEDIATE")
    async with stage.watching(max_attempts=3) as play:
        await play.pass_time(2 * MINUTE)
        assert set(play.diary.results) == {Result.FAILED}
        assert len(play.diary.results) > 3
        stage.rows.connection.execute("ROLLBACK")
        await play.pass_time(10 * MINUTE)
        assert play.diary.results[-1] is Result.RECOVERED
    assert play.diary.alerts == []


async def test_a_server_that_ignored_aborts_for_three_minutes_is_told_again_within_the_hour(stage: Stage) -> None:
    """51: given up, one alert, silence, and then it is tried again."""
    work = stage.work(age=MINUTE)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    async with stage.watching(tool_timeout=MINUTE, max_attempts=3) as play:
        await play.pass_time(3 * MINUTE)
        assert play.reason(work.session) == {SpareReason.GIVEN_UP}
        assert len(stage.server.aborted) == 3
        stage.server.abort_behaviour = AbortBehaviour.WORKS
        await play.pass_time(30 * MINUTE)
        assert len(stage.server.aborted) == 3
        await play.pass_time(31 * MINUTE)
        assert play.diary.results[-1] is Result.RECOVERED
    assert len(stage.server.aborted) == 4
    assert len(play.diary.alerts) == 1


async def test_what_was_given_up_is_left_to_the_person_who_has_prompted_since(stage: Stage) -> None:
    """51: another abort, an hour later, would drop that prompt."""
    work = stage.work(age=MINUTE)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    async with stage.watching(tool_timeout=MINUTE, max_attempts=3, poll_interval=MINUTE) as play:
        await play.pass_time(3 * MINUTE)
        stage.rows.prompt(work.session, "msg_user_more", at=stage.ago(0))
        await play.pass_time(90 * MINUTE)
        assert play.reason(work.session) == {SpareReason.GIVEN_UP}
    assert len(stage.server.aborted) == 3
    assert len(play.diary.alerts) == 1


async def test_what_a_server_of_before_1_14_lets_go_of_at_an_abort_is_settled_though_its_silence_proves_nothing(
    stage: Stage,
) -> None:
    work = stage.work(age=MINUTE)
    stage.server.on_abort, stage.server.vouching = None, False
    async with stage.watching(tool_timeout=MINUTE) as play:
        assert play.diary.results == [Result.RECOVERED]
    assert stage.server.aborted == [(work.session, PLACE)]
    assert not play.diary.looks[-1].observation.snapshot.open_rows


# -- right before the act ------------------------------------------------------------------------------------


def finished_child(stage: Stage) -> tuple[Work, SessionId]:
    """A parent whose task call never returned, though its child ended long ago."""
    parent = stage.work("parent", tool="task", age=HOUR)
    child = stage.rows.session("ses_child", parent=parent.session, directory=PLACE, at=stage.ago(HOUR))
    stage.rows.prompt(child, "msg_asked", at=stage.ago(HOUR))
    turn = stage.rows.turn(child, "msg_did", at=stage.ago(HOUR), cwd=PLACE)
    stage.rows.finish_turn(turn, at=stage.ago(HOUR - 60))
    return parent, child


def prompt(stage: Stage, child: SessionId) -> None:
    stage.rows.prompt(child, "msg_again", at=stage.ago(0))


def prompt_and_work(stage: Stage, child: SessionId) -> None:
    prompt(stage, child)
    stage.server.busy(child, PLACE)


def begin_a_turn(stage: Stage, child: SessionId) -> None:
    prompt(stage, child)
    stage.rows.turn(child, "msg_new", at=stage.ago(0), cwd=PLACE)


def ask_in(stage: Stage, child: SessionId) -> None:
    ask = Ask(id="que_1", kind=AskKind.QUESTION, session_id=child)
    stage.server.asks_by.setdefault(PLACE, []).append(ask)


def hold_on(stage: Stage, child: SessionId) -> None:
    stage.journal.on_hold[child] = Hold(session_id=child, since_ms=NOW, until_ms=None, why="a person said so")


MEDDLERS = [prompt, prompt_and_work, begin_a_turn, ask_in, hold_on]


class Meddling:
    """A listener in whose presence somebody does something once, when a verdict is about to be carried out."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        self._meddle: Callable[[], None] | None = meddle

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        pass

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        pass

    def found(self, verdict: Verdict) -> None:  # noqa: ARG002
        meddle, self._meddle = self._meddle, None
        if meddle is not None:
            meddle()

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        pass

    def failed(self, verdict: Verdict, error: Exception) -> None:
        pass

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        pass


def meddle_when_noted(stage: Stage, meddle: Callable[[], None]) -> None:
    """Let somebody do something while the journal notes that an abort is about to be sent."""
    begin = stage.journal.begin

    async def meanwhile(verdict: Verdict, **noted: Any) -> InterventionId:  # noqa: ANN401
        meddle()
        return await begin(verdict, **noted)

    stage.journal.begin = meanwhile  # type: ignore[method-assign]


@pytest.mark.parametrize("meddle", MEDDLERS)
@pytest.mark.parametrize("when", ["found", "noted"])
async def test_a_person_who_turns_to_a_session_below_the_one_to_be_ended_right_before_the_act_loses_nothing(
    stage: Stage, meddle: Callable[[Stage, SessionId], None], when: str
) -> None:
    """47: a prompt, a turn, an ask or a hold in a session below, which had ended long before."""
    parent, child = finished_child(stage)
    if when == "found":
        stage.more.append(Meddling(lambda: meddle(stage, child)))
    else:
        meddle_when_noted(stage, lambda: meddle(stage, child))
    async with stage.watching(tool_timeout=30 * MINUTE) as play:
        await play.diary.until(lambda: play.diary.outcomes)
        assert play.diary.outcomes[0].result is Result.UNCHANGED
        assert stage.server.aborted == []
        await play.pass_time(5 * MINUTE)
        assert stage.server.aborted == []
        assert play.reason(parent.session)


async def test_a_finished_session_below_that_nobody_turns_to_protects_nothing(stage: Stage) -> None:
    """47: the other side."""
    parent, _ = finished_child(stage)
    async with stage.watching(tool_timeout=30 * MINUTE) as play:
        assert play.diary.results == [Result.RECOVERED]
    assert stage.server.aborted == [(parent.session, PLACE)]


@pytest.mark.parametrize("when", ["found", "noted"])
async def test_a_hold_that_is_placed_between_the_look_and_the_turning_down_of_an_ask_stops_it(
    stage: Stage, when: str
) -> None:
    """48."""
    work = stage.work()
    stage.asking(work)
    if when == "found":
        stage.more.append(Meddling(lambda: hold_on(stage, work.session)))
    else:
        meddle_when_noted(stage, lambda: hold_on(stage, work.session))
    async with stage.watching(human_timeout=MINUTE) as play:
        await play.pass_time(2 * MINUTE)
        assert play.diary.results == [Result.UNCHANGED]
        assert "a person said so" in play.diary.outcomes[0].why
        assert play.reason(work.session) == {SpareReason.ON_HOLD}
    assert stage.server.rejected == []


async def test_a_hold_that_is_placed_while_rows_are_kept_stops_the_settling(stage: Stage) -> None:
    """48, of an orphan."""
    work = stage.work(busy=False)
    stage.owners.holders = Holders()
    before = stage.stored()
    meddle_when_noted(stage, lambda: hold_on(stage, work.session))
    async with stage.watching() as play:
        assert play.diary.results == [Result.UNCHANGED]
    assert stage.stored() == before


# -- release -------------------------------------------------------------------------------------------------


def refuse(*_: object) -> bool:
    raise UsageError("no")


async def test_a_release_that_is_refused_leaves_the_hold_as_it_was(stage: Stage) -> None:
    """45: refused, answered with no, or broken off."""
    work = stage.work()
    hold_on(stage, work.session)
    async with stage.watching() as play:
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        with pytest.raises(UsageError):
            await releasing.release(work.session, reason=None, agreed=refuse)
        assert work.session in stage.journal.on_hold
        assert stage.server.aborted == []
        (outcome,) = await releasing.release(work.session, reason=None)
        assert outcome.result is Result.RECOVERED
    assert work.session not in stage.journal.on_hold


@pytest.mark.parametrize("error", [ServerUntold("it is down"), ServerDeclined("it changed hands")])
async def test_a_release_that_could_not_be_told_to_the_server_leaves_the_hold_as_it_was(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: WatchdogError
) -> None:
    """45: nothing was ended, so nothing is left without its hold."""

    async def refuse_it(*_: object) -> None:
        raise error

    work = stage.work()
    hold_on(stage, work.session)
    async with stage.watching() as play:
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        with monkeypatch.context() as meddled:
            meddled.setattr(stage.server, "abort", refuse_it)
            (outcome,) = await releasing.release(work.session, reason=None)
        assert outcome.result in {Result.UNREACHABLE, Result.UNCHANGED}
        assert work.session in stage.journal.on_hold


async def test_a_release_that_is_dropped_right_before_the_act_leaves_the_hold_as_it_was(stage: Stage) -> None:
    """45: somebody asks a person below it at the last moment."""
    parent, child = finished_child(stage)
    hold_on(stage, parent.session)
    async with stage.watching(tool_timeout="off") as play:
        meddle_when_noted(stage, lambda: ask_in(stage, child))
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        (outcome,) = await releasing.release(parent.session, reason=None)
        assert outcome.result is Result.UNCHANGED
        assert stage.server.aborted == []
        assert parent.session in stage.journal.on_hold


async def test_a_release_that_finds_the_database_locked_leaves_the_hold_until_it_is_written(stage: Stage) -> None:
    """45: of an orphan."""
    work = stage.work(busy=False)
    hold_on(stage, work.session)
    stage.owners.holders = Holders()
    async with stage.watching() as play:
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        stage.rows.connection.execute("BEGIN IMMEDIATE")
        (outcome,) = await releasing.release(work.session, reason=None)
        stage.rows.connection.execute("ROLLBACK")
        assert outcome.result is not Result.RECOVERED
        assert work.session in stage.journal.on_hold
        (outcome,) = await releasing.release(work.session, reason=None)
        assert outcome.result is Result.RECOVERED
    assert work.session not in stage.journal.on_hold


async def test_a_release_of_a_crashed_parent_spares_a_child_in_which_a_person_works(stage: Stage) -> None:
    """46: what nobody executes is settled, and the living child is left unless it is asked for, too."""
    parent = stage.work("parent", tool="task", age=HOUR, busy=False)
    child = stage.work("child", parent=parent.session)
    left = stage.work("left", age=HOUR, parent=parent.session, busy=False)
    async with stage.watching(recover_on_start=False, orphan_grace=1) as play:
        stage.owners.holders = Holders()
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        outcomes = await releasing.release(parent.session, reason=None)
        assert {each.session_id: each.result for each in outcomes} == {
            parent.session: Result.RECOVERED,
            child.session: Result.UNCHANGED,
            left.session: Result.RECOVERED,
        }
        assert stage.server.aborted == []


@pytest.mark.parametrize("meddle", [prompt, prompt_and_work, ask_in, hold_on])
async def test_a_release_ends_nothing_below_in_which_a_person_works_unless_told_to(
    stage: Stage, meddle: Callable[[Stage, SessionId], None]
) -> None:
    """46: of a parent that is alive, and would take its child with it."""
    parent, child = finished_child(stage)
    meddle(stage, child)
    async with stage.watching(tool_timeout="off") as play:
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        shown: list[Living] = []

        def look(_: Assessment, __: Session, below: Sequence[Living]) -> bool:
            shown.extend(below)
            raise UsageError("no")

        with pytest.raises(UsageError):
            await releasing.release(parent.session, reason=None, agreed=look)
        assert [each.session_id for each in shown] == [child]
        (outcome,) = await releasing.release(parent.session, reason=None)
        assert outcome.result is Result.UNCHANGED
        assert child in outcome.why
        assert stage.server.aborted == []
        outcomes = await releasing.release(parent.session, reason=None, below=True)
        assert outcomes[0].result is Result.RECOVERED
    assert (parent.session, PLACE) in stage.server.aborted


async def test_a_release_in_the_very_moment_of_the_watchdogs_own_abort_answers_with_that_acts_outcome(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that act is over before the release has looked: nothing is open in it then."""
    work = stage.work(age=MINUTE)
    async with stage.watching(tool_timeout="off") as play:
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        look = play.watch.assess

        async def meanwhile(**how: Any) -> Assessment:  # noqa: ANN401
            monkeypatch.setattr(play.watch, "assess", look)
            play.watch.policy = replace(play.watch.policy, tool_timeout_seconds=30.0)
            await play.look()
            await play.calm()
            return await look(**how)

        monkeypatch.setattr(play.watch, "assess", meanwhile)
        (outcome,) = await releasing.release(work.session, reason=None)
        assert outcome == play.diary.outcomes[0]
        assert outcome.result is Result.RECOVERED
    assert stage.server.aborted == [(work.session, PLACE)]


async def test_a_watchdog_that_was_killed_between_its_abort_and_its_record_leaves_an_entry_that_says_so(
    stage: Stage,
) -> None:
    work = stage.work(age=MINUTE)
    noted: list[Intervention] = []

    async def die(_: SessionId) -> None:
        noted.extend(await stage.journal.begun())
        await stage.end(work.session)

    stage.server.on_abort = die
    async with stage.watching(tool_timeout=MINUTE):
        pass
    (begun,) = noted
    assert begun.about_to is not None
    assert (begun.about_to.step, stage.server.name in begun.about_to.detail) == ("about_to_abort", True)
    stage.journal.noted = {begun.id: begun}  # what a kill would have left
    async with stage.watching(tool_timeout=MINUTE) as play:
        (closed,) = play.diary.outcomes
    assert [step.step for step in closed.steps] == ["about_to_abort", "verify"]
    assert closed.result is Result.RECOVERED


async def test_a_session_that_runs_under_another_folder_than_its_row_names_is_ended_there(stage: Stage) -> None:
    """68: the server's own word names the folder."""
    work = stage.work(age=MINUTE, directory=PLACE)
    stage.server.statuses_by.clear()
    stage.server.busy(work.session, ELSEWHERE)
    async with stage.watching(tool_timeout=MINUTE) as play:
        assert play.diary.results == [Result.RECOVERED]
    assert stage.server.aborted == [(work.session, ELSEWHERE)]


async def test_a_session_that_was_deleted_while_it_ran_is_ended_by_a_release(stage: Stage) -> None:
    """54."""
    work = stage.work()
    async with stage.watching() as play:
        for table, id_ in (("part", work.call), ("message", work.turn), ("message", "msg_user_1")):
            stage.rows.delete(table, id_)
        stage.rows.delete("session", work.session)
        releasing = Releasing(play.watch, stage.store, stage.fleet)
        (outcome,) = await releasing.release(work.session, reason=None)
        assert outcome.result is Result.RECOVERED
        assert stage.server.aborted == [(work.session, PLACE)]
        with pytest.raises(NoSuchSession):
            await releasing.release(work.session, reason=None)
