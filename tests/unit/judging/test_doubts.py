"""Doubts that once were not doubted enough: each of these could have ended healthy work, or hidden stuck work."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.support.database import NOW as ROWS_NOW
from tests.support.database import OpencodeFile
from tests.unit.acting.test_intervention import ORPHAN, PLACE, SESSION, STUCK, World
from tests.unit.observations import AT, POLICY, busy, call, holder, observation, question, report, session, turn
from watchdog.judging.gradual import at_once
from watchdog.judging.judge import judge
from watchdog.judging.orphan_proof import stands
from watchdog.model.interventions import Actor, Hold, InterventionId
from watchdog.model.outcome import Result, Step
from watchdog.model.report import Holders, Observation, ServerReport
from watchdog.model.session import EVERYTHING, Ask, AskKind, CallId, ServerName, SessionId, Snapshot
from watchdog.model.verdict import Verdict
from watchdog.observing.memory import Memory
from watchdog.observing.observe import with_pid
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.timing.clock import Countable

PRT = CallId("prt_1")


class TestLateNews:
    """A wait on a human that is learned after the first look starts the clock anew."""

    def ages(self, *looks: tuple[ServerReport, ...]) -> list[float]:
        clock, memory = FakeClock(), Memory()
        counter = Countable(clock)
        gated = session(calls=[call(created_ms=clock.now_ms - 10_800_000, updated_ms=clock.now_ms - 10_800_000)])
        ages = []
        for reports in looks:
            instant = counter.look()
            seen = Observation(
                at_ms=instant.at_ms,
                now=instant.now,
                steady_since_ms=instant.steady_since_ms,
                snapshot=Snapshot(sessions={gated.id: gated}),
                reports=reports,
            )
            folded = at_once(memory.fold_gradually(seen, instant))
            ages.append(folded.now - folded.call_clocks[PRT])
            clock.advance(5)
        return ages

    def test_a_server_that_did_not_answer_at_first_may_have_been_asking(self) -> None:
        silent = replace(busy("ses_1"), statuses={}, asks={}, problem="it answered 500")
        asking = busy("ses_1", asks=[question("ses_1", turn="msg_1", call_ref="call_prt_1")])
        assert self.ages((silent,), (asking,), (busy("ses_1"),)) == pytest.approx([10_800, 0, 0])

    def test_one_that_answered_from_the_start_is_believed(self) -> None:
        assert self.ages((busy("ses_1"),), (busy("ses_1"),)) == pytest.approx([10_800, 10_805])


def test_two_processes_on_one_port_leave_open_which_of_them_answered() -> None:
    from tests.fakes.server import FakeServer, endpoint  # noqa: PLC0415 - only here

    server = FakeServer(name=ServerName("http://127.0.0.1:4096"), leads_to=(endpoint(4096),))
    one, other = holder(7, endpoints=(endpoint(4096),)), holder(100, endpoints=(endpoint(4096),))
    assert with_pid(report(pid=None), server, Holders(known=(one,))).pid == 7
    assert with_pid(report(pid=None), server, Holders(known=(one, other))).pid is None


def test_for_a_sole_owner_every_server_that_can_not_be_seen_has_to_deny() -> None:
    policy = replace(POLICY, sole_owner=True)
    hidden = Holders(complete=False, why_incomplete="a process that can't be seen has it open")
    denies = report(served=["msg_1"], pid=None)
    silent = replace(denies, name=ServerName("http://127.0.0.1:4097"), problem="it timed out", statuses={}, asks={})
    assert judge(observation(session(), holders=hidden, reports=[denies]), policy, AT).unclaimed
    assert not judge(observation(session(), holders=hidden, reports=[denies, silent]), policy, AT).unclaimed


def test_an_ask_whose_call_does_not_show_counts_while_its_turn_is_open() -> None:
    ask = Ask(id="per_1", kind=AskKind.PERMISSION, session_id=SessionId("ses_1"), turn_id=turn().id, call_ref="new")
    assert stands(ask, session(calls=[call()]))
    assert not stands(ask, session(turns=[turn(open=False)]))
    assert not stands(ask, session(turns=[turn(superseded=True), turn("msg_2")]))


def test_what_the_machine_slept_before_the_first_look_is_no_age() -> None:
    clock = FakeClock()
    counter, began = Countable(clock), clock.now_ms
    clock.advance(60)
    clock.sleep_machine(8 * 3600)
    clock.advance(60)
    first = counter.look()
    assert 0 <= first.now - first.moment_of(began) <= 120
    since = clock.now_ms
    clock.advance(100)
    second = counter.look()
    assert second.now - second.moment_of(since) == pytest.approx(100, abs=0.1)


class TestLastMoment:
    """Between the judgement and the act there is time: a hold and a question are seen in it."""

    @pytest.mark.parametrize("held", [EVERYTHING, SESSION])
    @pytest.mark.parametrize("verdict", [STUCK, ORPHAN], ids=lambda each: each.kind.value)
    async def test_a_hold_that_came_since_stops_the_watchdog(self, held: SessionId, verdict: Verdict) -> None:
        world = World()
        if verdict is ORPHAN:
            world.orphaned()
        await world.journal.hold(Hold(session_id=held, since_ms=1, until_ms=None, why="a person said so"))
        outcome = await world.carry_out(verdict)
        assert (outcome.result, outcome.why) == (Result.UNCHANGED, "a person said so")
        assert world.server.aborted == []
        assert world.store.written == []

    async def test_a_question_that_is_asked_while_the_intervention_is_noted_stops_the_abort(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World()
        begin: Callable[..., Awaitable[InterventionId]] = world.journal.begin

        async def meanwhile(
            verdict: Verdict, *, at_ms: int, actor: Actor, reason: str | None, about_to: Step | None
        ) -> InterventionId:
            asked = Ask(id="que_1", kind=AskKind.QUESTION, session_id=SESSION)
            world.server.asks_by[PLACE] = [asked]
            return await begin(verdict, at_ms=at_ms, actor=actor, reason=reason, about_to=about_to)

        monkeypatch.setattr(world.journal, "begin", meanwhile)
        outcome = await world.carry_out(STUCK)
        assert (outcome.result, world.server.aborted) == (Result.UNCHANGED, [])

    async def test_what_no_server_claimed_when_it_was_judged_is_judged_anew_once_one_does(self) -> None:
        world = World()
        outcome = await world.carry_out(replace(STUCK, claimed=False))
        assert (outcome.result, world.server.aborted) == (Result.UNCHANGED, [])


async def test_a_call_is_followed_until_it_closes_even_if_its_turn_closes_first(tmp_path: Path) -> None:
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        opened = rows.session(at=ROWS_NOW)
        its_turn = rows.turn(opened)
        its_call = rows.call(its_turn)
        async with await OpencodeDatabase.open(rows.path) as database:
            assert [each.id for each in (await database.look()).sessions[opened].calls] == [its_call]
            rows.finish_turn(its_turn)
            assert [each.id for each in (await database.look()).sessions[opened].calls] == [its_call]
            rows.finish_call(its_call)
            assert opened not in (await database.look()).sessions
