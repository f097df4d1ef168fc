"""The ladder: every rung, and every outcome. What is asked for never counts; only what is seen."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeFleet
from tests.fakes.journal import FakeJournal
from tests.fakes.mandate import FakeMandate
from tests.fakes.owners import FakeOwners
from tests.fakes.server import AbortBehaviour, FakeServer
from tests.fakes.store import FakeStore
from tests.support.database import NOW
from watchdog.acting.attempt import Confirm, Ladder, confirmed
from watchdog.errors import DatabaseUnavailable, JournalUnusable, LeaseLost, ServerSilent, ServerUnreachable
from watchdog.journal.sqlite import SqliteJournal
from watchdog.judging.rulings import Consent
from watchdog.loop.watch import Pace, Watch
from watchdog.model.interventions import Hold
from watchdog.model.moments import Moment
from watchdog.model.outcome import GuardedWrite, Outcome, Result
from watchdog.model.policy import Policy
from watchdog.model.report import Holder, Holders, Served
from watchdog.model.session import EMBEDDED, Activity, Ask, AskKind, CallId, ServerName, SessionId, Status, TurnId
from watchdog.model.verdict import Verdict, VerdictKind

SESSION = SessionId("ses_1")
TURN = TurnId("msg_1")
CALL = CallId("prt_1")
PLACE = "/project"
LIVE = Holders(known=(Holder(pid=7, born_ms=0, command="opencode run"),))
BUSY = Status(activity=Activity.BUSY)

STUCK = Verdict(
    session_id=SESSION,
    kind=VerdictKind.STUCK_TOOL,
    cancel_session_id=SESSION,
    why="the bash call ran 31 min, past its limit of 30 min",
    age_seconds=1860,
    limit_seconds=1800,
    call_ids=(CALL,),
    turn_ids=(TURN,),
    newest_prompt_id="msg_0",
    message_id=TURN,
    call_id=CALL,
    tool="bash",
    life_ms=NOW + 2,
)
HEARD = Moment(5.0)
IDLE = replace(STUCK, kind=VerdictKind.IDLE_SESSION, call_ids=(), call_id=None, tool=None, rests_on_silence=True)
ORPHAN = replace(STUCK, kind=VerdictKind.ORPHAN, limit_seconds=None, why="nobody executes it")
GONE = Holders()
LATER = Holders(known=(Holder(pid=8, born_ms=NOW + 50_000, command="opencode serve"),))
"""One that was born too late: a proof that a second look has to confirm."""
POLICY = Policy(tool_timeout_seconds=30.0, idle_timeout_seconds=30.0)


@dataclass(kw_only=True)
class World:
    """One session with an open turn and an open call, a server that is at work on it, and what is proven."""

    store: FakeStore = field(default_factory=FakeStore)
    journal: FakeJournal = field(default_factory=FakeJournal)
    server: FakeServer = field(default_factory=FakeServer)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    clock: FakeClock = field(default_factory=lambda: FakeClock(wall_ms=NOW + 60_000, auto=True))
    owners: FakeOwners = field(default_factory=lambda: FakeOwners(LIVE))
    policy: Policy = POLICY

    def __post_init__(self) -> None:
        self.fleet.known.append(self.server)
        rows = self.store.content
        rows.session(SESSION, at=NOW - 10, directory=PLACE)
        rows.prompt(SESSION, "msg_0", at=NOW)
        rows.turn(SESSION, TURN, at=NOW + 1)
        rows.call(TURN, CALL, at=NOW + 2, input={"command": "sleep 9999"}, metadata={"output": "so far"})
        self.server.busy(SESSION, PLACE)
        self.server.turns.add((SESSION, TURN))
        self.server.on_abort = self.end

    async def end(self, _: SessionId) -> None:
        if CALL in self.store.content.tables["part"]:
            self.store.content.finish_call(CALL)
        self.store.content.finish_turn(TURN)

    async def carry_out(
        self,
        verdict: Verdict = STUCK,
        *,
        dry_run: bool = False,
        reason: str | None = None,
        claimant: ServerName | None = None,
        consent: Consent | None = None,
        confirm: Confirm = confirmed,
    ) -> Outcome:
        remedy = self.watch(confirm=confirm).remedy
        return await remedy.carry_out(verdict, dry_run=dry_run, reason=reason, claimant=claimant, consent=consent)

    def watch(self, *, confirm: Confirm = confirmed) -> Watch:
        """A watch on this world, which has not looked yet."""
        return Watch(
            store=self.store,
            fleet=self.fleet,
            owners=self.owners,
            clock=self.clock,
            mandate=FakeMandate(),
            journal=self.journal,
            boot_id="a boot",
            policy=self.policy,
            pace=Pace(),
            ladder=Ladder(abort_timeout_seconds=0.05, abort_grace_seconds=1.0),
            confirm=confirm,
        )

    def orphaned(self) -> "World":
        """The server is up, and at work on nothing."""
        self.server.statuses_by.clear()
        self.owners.holders = GONE
        return self

    def without_call(self) -> "World":
        """The model is silent: the turn is open and no call is."""
        self.store.content.delete("part", CALL)
        return self

    def data(self, table: str, id_: str) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.store.content.get(table, id_))


@dataclass(kw_only=True, eq=False)
class Hanging(FakeServer):
    """A server that accepts every question and answers none in time."""

    asked: int = 0

    async def statuses(self, directory: str) -> dict[SessionId, Status]:  # noqa: ARG002
        self.asked += 1
        await anyio.sleep(0.01)
        raise ServerSilent("it did not answer in time")

    async def vouches(self) -> bool:
        await anyio.sleep(0.01)
        raise ServerSilent("it did not answer in time")


@pytest.fixture
def world() -> World:
    return World()


def steps(outcome: Outcome) -> list[tuple[str, bool]]:
    return [(step.step, step.ok) for step in outcome.steps]


class TestReread:
    async def check(self, world: World, verdict: Verdict, why: str) -> None:
        outcome = await world.carry_out(verdict)
        assert (outcome.result, steps(outcome)) == (Result.UNCHANGED, [("reread", False)])
        assert why in outcome.why
        assert world.server.aborted == []
        assert world.store.written == []

    async def test_a_session_that_is_gone_is_let_go(self, world: World) -> None:
        world.store.content.delete("session", SESSION)
        await self.check(world, STUCK, "the session is gone")

    async def test_what_ended_by_itself_is_let_go(self, world: World) -> None:
        await world.end(SESSION)
        await self.check(world, STUCK, "it ended by itself")

    async def test_a_call_that_closed_while_its_turn_goes_on_is_let_go(self, world: World) -> None:
        world.store.content.finish_call(CALL)
        await self.check(world, STUCK, "the call ended by itself")

    async def test_one_of_two_judged_calls_that_closed_lets_the_other_go(self, world: World) -> None:
        other = world.store.content.call(TURN, at=NOW + 3)
        world.store.content.finish_call(CALL)
        await self.check(world, replace(STUCK, call_ids=(CALL, other)), "the call ended by itself")

    @pytest.mark.parametrize("verdict", [STUCK, IDLE, ORPHAN, replace(STUCK, released=True)])
    async def test_a_newer_prompt_ends_the_matter(self, world: World, verdict: Verdict) -> None:
        world.store.content.prompt(SESSION, at=NOW + 5)
        await self.check(world, verdict, "a person has prompted since")

    async def test_a_new_call_beside_the_hung_one_is_not_ended_with_it(self, world: World) -> None:
        world.store.content.call(TURN, at=NOW + 59_000)
        await self.check(world, STUCK, "a call beside it is spared")

    async def test_a_silent_session_that_began_a_call_is_let_go(self, world: World) -> None:
        await self.check(world, IDLE, "it is judged otherwise now")

    async def test_a_part_written_since_is_a_sign_of_life(self, world: World) -> None:
        world.without_call().store.content.text(TURN, at=NOW + 3)
        await self.check(world, IDLE, "it showed life again")

    async def test_an_event_heard_since_is_a_sign_of_life(self, world: World) -> None:
        world.without_call().server.signs[SESSION] = HEARD + 0.001
        await self.check(world, replace(IDLE, heard=HEARD), "it showed life again")

    async def test_life_that_was_known_when_it_was_judged_saves_nobody(self, world: World) -> None:
        world.without_call().server.signs[SESSION] = HEARD
        assert (await world.carry_out(replace(IDLE, heard=HEARD))).result is Result.RECOVERED

    async def test_life_that_only_an_embedded_host_knows_of_counts_too(self, world: World) -> None:
        lively = replace(BUSY, last_life_ms=STUCK.life_ms + 1)
        world.without_call().server.statuses_by = {PLACE: {SESSION: lively}}
        assert (await world.carry_out(IDLE)).result is Result.UNCHANGED
        assert world.server.aborted == []

    async def test_a_hung_call_that_writes_output_is_still_past_its_limit(self, world: World) -> None:
        world.server.signs[SESSION] = HEARD + 50
        assert (await world.carry_out()).result is Result.RECOVERED


class TestFind:
    async def test_the_abort_goes_where_the_session_is_at_work(self, world: World) -> None:
        rows = world.store.content
        rows.turn(SESSION, "msg_2", at=NOW + 3, cwd="/elsewhere")
        rows.call("msg_2", "prt_2", at=NOW + 4)
        world.server.statuses_by = {"/elsewhere": {SESSION: BUSY}}
        verdict = replace(STUCK, call_ids=(CallId("prt_2"),), turn_ids=(TurnId("msg_2"),))

        async def end(_: SessionId) -> None:
            rows.finish_call("prt_2")
            rows.finish_turn("msg_2")

        world.server.on_abort = end
        outcome = await world.carry_out(verdict)
        assert outcome.result is Result.RECOVERED
        assert world.server.aborted == [(SESSION, "/elsewhere")]

    async def test_a_server_that_does_not_answer_hides_no_other(self, world: World) -> None:
        dead = FakeServer(name=ServerName("http://127.0.0.1:1"), problem=ServerUnreachable("nobody is there"))
        world.fleet.known.insert(0, dead)
        assert (await world.carry_out()).result is Result.RECOVERED
        assert dead.aborted == []

    async def test_one_that_hangs_does_not_keep_the_others_from_being_asked(self, world: World) -> None:
        other = Hanging(name=ServerName("http://127.0.0.1:1"))
        world.fleet.known.insert(0, other)
        with anyio.fail_after(60):
            assert (await world.carry_out()).result is Result.RECOVERED
        assert other.asked

    async def test_a_session_that_another_server_is_at_work_on_now_is_judged_anew(self, world: World) -> None:
        before = FakeServer(name=ServerName("http://127.0.0.1:1"))
        world.fleet.known.insert(0, before)
        assert (await world.carry_out(claimant=before.name)).result is Result.UNCHANGED
        assert (before.aborted, world.server.aborted) == ([], [])

    async def test_a_session_that_another_replica_has_taken_up_is_judged_anew(self, world: World) -> None:
        world.server.name = EMBEDDED
        outcome = await world.carry_out(claimant=ServerName("replica b"))
        assert (outcome.result, world.server.aborted) == (Result.UNCHANGED, [])
        outcome = await world.carry_out(replace(STUCK, released=True), claimant=ServerName("replica b"))
        assert (outcome.result, world.server.aborted) == (Result.RECOVERED, [(SESSION, PLACE)])

    async def test_one_that_hangs_does_not_keep_another_from_showing_what_was_settled(self, world: World) -> None:
        world.fleet.known.insert(0, Hanging(name=ServerName("http://127.0.0.1:1")))
        with anyio.fail_after(60):
            assert (await world.orphaned().carry_out(ORPHAN)).result is Result.RECOVERED
        assert len(world.server.published) == 1

    async def test_a_session_that_another_process_runs_is_unreachable_and_nothing_is_written(
        self, world: World
    ) -> None:
        world.server.statuses_by.clear()
        outcome = await world.carry_out()
        assert (outcome.result, steps(outcome)) == (
            Result.UNREACHABLE,
            [("reread", True), ("find", False), ("prove", False)],
        )
        assert "opencode run (pid 7)" in outcome.why
        assert (world.server.aborted, world.store.written) == ([], [])

    async def test_what_ends_while_its_server_is_looked_for_ended_by_itself(self, world: World) -> None:
        statuses = world.server.statuses

        async def ends(directory: str) -> dict[SessionId, Status]:
            world.server.statuses_by.clear()
            await world.end(SESSION)
            return await statuses(directory)

        world.server.statuses = ends  # type: ignore[method-assign]
        outcome = await world.carry_out()
        assert (outcome.result, outcome.why) == (Result.UNCHANGED, "it ended by itself")
        assert world.journal.noted == {}

    async def test_what_no_host_claims_is_settled_by_a_release_only(self, world: World) -> None:
        elsewhere = Holders(complete=False, why_incomplete="other machines can't be seen", elsewhere=True)
        world.orphaned().owners.holders = elsewhere
        assert (await world.carry_out()).result is Result.UNCHANGED
        assert world.store.written == []
        outcome = await world.carry_out(replace(ORPHAN, released=True))
        assert outcome.result is Result.RECOVERED
        assert world.data("part", CALL)["state"]["status"] == "error"

    async def test_a_right_that_was_lost_at_the_last_moment_aborts_nothing_and_costs_no_attempt(
        self, world: World
    ) -> None:
        async def lost() -> None:
            raise LeaseLost("another replica has the right to act")

        outcome = await world.carry_out(confirm=lost)
        assert (outcome.result, outcome.why) == (Result.UNREACHABLE, "another replica has the right to act")
        assert world.server.aborted == []

    async def test_servers_that_say_nothing_are_named(self, world: World) -> None:
        world.server.problem = ServerUnreachable("nobody answers at port 4096")
        outcome = await world.carry_out()
        assert outcome.result is Result.UNREACHABLE
        assert "nobody answers at port 4096" in outcome.why

    async def test_an_orphan_that_was_taken_for_stuck_is_judged_anew(self, world: World) -> None:
        outcome = await world.orphaned().carry_out()
        assert (outcome.result, world.store.written, world.server.aborted) == (Result.UNCHANGED, [], [])
        assert "nobody executes it" in outcome.why

    async def test_an_orphan_that_a_second_look_must_confirm_is_not_written(self, world: World) -> None:
        world.orphaned().owners.holders = LATER
        assert (await world.carry_out()).result is Result.UNCHANGED
        assert world.store.written == []

    async def test_a_session_without_open_rows_that_nobody_runs_any_more_is_let_go(self, world: World) -> None:
        await world.end(SESSION)
        world.server.statuses_by.clear()
        outcome = await world.carry_out(replace(STUCK, call_ids=(), turn_ids=()))
        assert outcome.result is Result.UNCHANGED


class TestLastDoubt:
    @pytest.mark.parametrize("named", [True, False])
    async def test_a_question_that_was_asked_since_spares_the_session(self, world: World, named: bool) -> None:
        ask = Ask(id="que_1", kind=AskKind.QUESTION, session_id=SESSION, turn_id=TURN if named else None)
        world.server.asks_by = {PLACE: [ask]}
        outcome = await world.carry_out()
        assert outcome.result is Result.UNCHANGED
        assert "waits for a person" in outcome.why
        assert world.server.aborted == []

    async def test_a_question_under_the_turns_own_folder_spares_it_too(self, world: World) -> None:
        world.store.content.set(
            "message",
            TURN,
            data=json.dumps({"role": "assistant", "time": {"created": NOW + 1}, "path": {"cwd": "/other"}}),
        )
        world.server.asks_by = {"/other": [Ask(id="que_1", kind=AskKind.QUESTION, session_id=SESSION)]}
        assert (await world.carry_out()).result is Result.UNCHANGED
        assert world.server.aborted == []

    async def test_a_question_that_an_abort_left_behind_spares_nobody(self, world: World) -> None:
        left = Ask(id="que_1", kind=AskKind.QUESTION, session_id=SESSION, call_ref="call_of_long_ago")
        world.server.asks_by = {PLACE: [left]}
        assert (await world.carry_out()).result is Result.RECOVERED

    async def test_a_question_of_another_session_spares_nobody(self, world: World) -> None:
        world.server.asks_by = {PLACE: [Ask(id="que_1", kind=AskKind.QUESTION, session_id=SessionId("ses_2"))]}
        assert (await world.carry_out()).result is Result.RECOVERED

    async def test_a_person_who_asks_for_the_release_of_a_question_gets_it(self, world: World) -> None:
        world.server.asks_by = {PLACE: [Ask(id="que_1", kind=AskKind.QUESTION, session_id=SESSION)]}
        assert (await world.carry_out(replace(STUCK, released=True))).result is Result.RECOVERED

    async def test_a_server_that_does_not_say_what_it_asks_is_not_told_to_abort(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(_: str) -> tuple[Ask, ...]:
            raise ServerUnreachable("too late")

        monkeypatch.setattr(world.server, "pending_asks", fail)
        outcome = await world.carry_out()
        assert outcome.result is Result.UNCHANGED
        assert "does not say whether a person is asked" in outcome.why
        assert world.server.aborted == []

    async def test_a_call_that_closes_while_the_server_is_asked_is_let_go(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def meanwhile(_: str) -> tuple[Ask, ...]:
            await world.end(SESSION)
            return ()

        monkeypatch.setattr(world.server, "pending_asks", meanwhile)
        assert (await world.carry_out()).result is Result.UNCHANGED
        assert world.server.aborted == []

    async def test_a_prompt_that_comes_while_the_server_is_asked_is_not_dropped(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def meanwhile(_: str) -> tuple[Ask, ...]:
            world.store.content.prompt(SESSION, at=NOW + 5)
            return ()

        monkeypatch.setattr(world.server, "pending_asks", meanwhile)
        assert (await world.carry_out()).result is Result.UNCHANGED
        assert world.server.aborted == []


class TestAbort:
    async def test_an_abort_that_works_is_verified_in_the_database(self, world: World) -> None:
        outcome = await world.carry_out()
        assert outcome.result is Result.RECOVERED
        assert steps(outcome) == [
            ("reread", True),
            ("find", True),
            ("about_to_abort", True),
            ("abort", True),
            ("verify", True),
        ]
        assert outcome.why == STUCK.why
        assert world.store.written == []

    async def test_an_abort_that_takes_a_moment_is_waited_for(self, world: World) -> None:
        clock, sleep = world.clock, world.clock.sleep
        world.server.on_abort = None

        async def later(seconds: float) -> None:
            await sleep(seconds)
            if len(clock.sleeps) == 5:
                await world.end(SESSION)

        world.clock.sleep = later  # type: ignore[method-assign]
        assert (await world.carry_out()).result is Result.RECOVERED
        assert len(clock.sleeps) == 5

    async def test_an_abort_that_agrees_and_does_nothing_is_ineffective_and_says_what_is_open_and_who_may_run_it(
        self, world: World
    ) -> None:
        world.server.abort_behaviour = AbortBehaviour.LIES
        outcome = await world.carry_out()
        assert outcome.result is Result.INEFFECTIVE
        assert steps(outcome)[3:] == [("abort", True), ("verify", False), ("prove", False)]
        assert CALL in outcome.why
        assert TURN in outcome.why
        assert f"{world.server.name} says that it is at work on it" in outcome.why
        assert world.store.written == []
        assert sum(world.clock.sleeps) == pytest.approx(1.0)

    async def test_a_turn_that_stays_open_after_its_call_closed_is_not_recovered(self, world: World) -> None:
        async def half(_: SessionId) -> None:
            world.store.content.finish_call(CALL)

        world.server.on_abort = half
        outcome = await world.carry_out()
        assert outcome.result is Result.INEFFECTIVE
        assert CALL not in outcome.why

    async def test_an_abort_that_hangs_has_a_time_limit_of_its_own(self, world: World) -> None:
        world.server.abort_behaviour = AbortBehaviour.HANGS
        outcome = await world.carry_out()
        assert outcome.result is Result.INEFFECTIVE
        (aborted,) = [step for step in outcome.steps if step.step == "abort"]
        assert not aborted.ok
        assert "did not answer within 0.05 s" in aborted.detail

    async def test_an_abort_that_works_and_never_answers_is_recovered(self, world: World) -> None:
        world.server.abort_behaviour = AbortBehaviour.HANGS
        sleep = world.clock.sleep

        async def later(seconds: float) -> None:
            await world.end(SESSION)
            await sleep(seconds)

        world.clock.sleep = later  # type: ignore[method-assign]
        assert (await world.carry_out()).result is Result.RECOVERED

    async def test_an_abort_that_raises_is_told_and_the_database_decides(self, world: World) -> None:
        world.server.abort_behaviour = AbortBehaviour.RAISES
        outcome = await world.carry_out()
        assert outcome.result is Result.INEFFECTIVE
        assert ("abort", False) in steps(outcome)

    async def test_a_server_that_dies_on_the_abort_leaves_an_orphan_that_is_settled(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def dies(*_: object) -> None:
            world.server.problem = ServerUnreachable("it died")
            world.owners.holders = GONE

        monkeypatch.setattr(world.server, "abort", dies)
        outcome = await world.carry_out()
        assert outcome.result is Result.RECOVERED
        assert ("settle", True) in steps(outcome)

    async def test_new_calls_and_turns_after_the_abort_are_not_of_its_business(self, world: World) -> None:
        async def end_and_begin(_: SessionId) -> None:
            await world.end(SESSION)
            world.store.content.prompt(SESSION, at=NOW + 4)
            world.store.content.call(world.store.content.turn(SESSION, at=NOW + 5), at=NOW + 6)

        world.server.on_abort = end_and_begin
        assert (await world.carry_out()).result is Result.RECOVERED
        assert len(world.server.aborted) == 1

    async def test_the_prompts_that_an_abort_dropped_are_counted(self, world: World) -> None:
        for number in (5, 6):
            world.store.content.prompt(SESSION, f"msg_q{number}", at=NOW + number)
        outcome = await world.carry_out(replace(STUCK, newest_prompt_id="msg_q6"))
        assert outcome.result is Result.RECOVERED
        assert "2 queued prompts" in outcome.steps[-1].detail

    async def test_a_session_with_nothing_open_is_ended_when_the_server_lets_go_of_it(self, world: World) -> None:
        await world.end(SESSION)
        assert (await world.carry_out(replace(IDLE, turn_ids=(), life_ms=NOW + 9))).result is Result.RECOVERED

    @pytest.mark.parametrize("behaviour", [AbortBehaviour.LIES, AbortBehaviour.HANGS])
    async def test_a_session_with_nothing_open_that_stays_busy_is_not_recovered(
        self, world: World, behaviour: AbortBehaviour
    ) -> None:
        await world.end(SESSION)
        world.server.abort_behaviour = behaviour
        outcome = await world.carry_out(replace(IDLE, turn_ids=(), life_ms=NOW + 9))
        assert outcome.result is Result.INEFFECTIVE
        assert SESSION in outcome.why

    async def test_a_session_is_not_taken_for_idle_because_its_server_fell_silent(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.end(SESSION)

        async def fall_silent(*_: object) -> None:
            world.server.problem = ServerUnreachable("gone")

        monkeypatch.setattr(world.server, "abort", fall_silent)
        outcome = await world.carry_out(replace(IDLE, turn_ids=(), life_ms=NOW + 9))
        assert outcome.result is Result.INEFFECTIVE


class TestSettle:
    async def test_an_orphan_is_settled_published_and_read_back(self, world: World) -> None:
        outcome = await world.orphaned().carry_out(ORPHAN)
        assert outcome.result is Result.RECOVERED
        assert steps(outcome) == [
            ("reread", True),
            ("prove", True),
            ("settle", True),
            ("publish", True),
            ("read_back", True),
            ("verify", True),
        ]
        ((row, directory),) = world.server.published
        assert (row.id, directory) == (CALL, PLACE)
        assert row.data == world.store.content.get("part", CALL)

    async def test_nothing_else_in_the_rows_changes(self, world: World) -> None:
        content = world.store.content
        before = json.loads(json.dumps(content.tables))
        outcome = await world.orphaned().carry_out(ORPHAN, reason="a power cut")
        after = json.loads(json.dumps(content.tables))
        assert outcome.result is Result.RECOVERED
        call, turn = (
            json.loads(after["part"][CALL].pop("data")),
            json.loads(after["message"][TURN].pop("data")),
        )
        old_call = json.loads(before["part"][CALL].pop("data"))
        old_turn = json.loads(before["message"][TURN].pop("data"))
        assert after == before
        error, end = call["state"].pop("error"), call["state"]["time"].pop("end")
        del old_call["state"]["title"]
        assert call == {**old_call, "state": {**old_call["state"], "status": "error"}}
        assert end == turn["time"].pop("completed") == world.clock.now_ms
        assert turn.pop("error") == {"name": "MessageAbortedError", "data": {"message": error}}
        assert turn == {**old_turn, "finish": "tool-calls"}
        assert error == (
            "Ended by opencode-watchdog (a power cut): nobody executes it. "
            "A command that it had started may still be running."
        )

    @pytest.mark.parametrize(
        ("holders", "why"), [(LIVE, "opencode run (pid 7) may be at work on it"), (LATER, "a second look")]
    )
    async def test_a_proof_that_no_longer_holds_right_before_the_write_stops_it(
        self, world: World, holders: Holders, why: str
    ) -> None:
        world.orphaned().owners.holders = holders
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.UNCHANGED
        assert why in outcome.why
        assert world.store.written == []

    async def test_only_what_was_judged_and_is_proven_again_is_written(self, world: World) -> None:
        world.store.content.call(TURN, at=NOW + 9)
        await world.orphaned().carry_out(replace(ORPHAN, call_ids=(CALL,), turn_ids=()))
        ((writes, count),) = world.store.written
        assert ([write.row.id for write in writes], count) == ([CALL], 1)

    @pytest.mark.parametrize("change", ["call", "turn"])
    async def test_one_row_that_changed_at_the_last_moment_leaves_all_unwritten(
        self, world: World, change: str
    ) -> None:
        content = world.orphaned().store.content
        finish: dict[str, Callable[[], None]] = {
            "call": lambda: content.finish_call(CALL),
            "turn": lambda: content.finish_turn(TURN),
        }
        world.store.before_write = finish[change]
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.UNCHANGED
        assert "a row changed at the last moment" in outcome.why
        assert [count for _, count in world.store.written] == [0]
        assert world.server.published == []
        assert "opencode-watchdog" not in content.get("part", CALL) + content.get("message", TURN)

    async def test_rows_that_closed_while_the_proof_was_asked_for_again_are_not_written(self, world: World) -> None:
        def meanwhile() -> None:
            world.store.content.finish_call(CALL)
            world.store.content.finish_turn(TURN)

        world.orphaned().owners.before_look = meanwhile
        outcome = await world.carry_out(ORPHAN)
        assert (outcome.result, world.store.written) == (Result.UNCHANGED, [])

    async def test_a_row_that_can_not_be_settled_in_a_readable_shape_fails_instead_of_being_tried_for_ever(
        self, world: World
    ) -> None:
        world.store.content.finish_turn(TURN)
        broken = '{"type":"tool","tool":"bash","state":{"status":"running","input":{"x":1e999}}}'
        world.store.content.set("part", CALL, data=broken)
        await world.store.look(scan_parts=True)
        alone = replace(ORPHAN, turn_ids=())
        outcome = await world.orphaned().carry_out(alone)
        assert outcome.result is Result.FAILED
        assert CALL in outcome.why
        assert world.store.written == []

    async def test_without_a_server_the_database_alone_is_settled(self, world: World) -> None:
        world.orphaned().fleet.known.clear()
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.RECOVERED
        assert ("publish", True) in steps(outcome)

    async def test_a_server_of_another_database_publishes_nothing(self, world: World) -> None:
        world.orphaned().server.shown = False
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.RECOVERED
        assert world.server.published == []

    async def test_the_server_that_serves_the_database_is_found_beside_one_that_is_down_and_one_that_does_not(
        self, world: World
    ) -> None:
        down = FakeServer(name=ServerName("http://127.0.0.1:1"), problem=ServerUnreachable("down"))
        other = FakeServer(name=ServerName("http://127.0.0.1:2"), shown=False)
        world.orphaned().fleet.known[:0] = [down, other]
        assert (await world.carry_out(ORPHAN)).result is Result.RECOVERED
        assert other.published == []
        assert len(world.server.published) == 1

    async def test_a_row_that_somebody_rewrote_since_is_not_published(self, world: World) -> None:
        write = world.orphaned().store.write

        async def meanwhile(writes: Sequence[GuardedWrite], **more: Any) -> int:  # noqa: ANN401
            written = await write(writes, **more)
            world.store.content.set("part", CALL, data='{"type":"tool","tool":"bash","state":{"status":"error"}}')
            return written

        world.store.write = meanwhile  # type: ignore[method-assign]
        await world.carry_out(ORPHAN)
        assert world.server.published == []

    async def test_publishing_that_fails_changes_nothing_about_the_recovery(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object) -> None:
            raise ServerUnreachable("cut")

        monkeypatch.setattr(world.orphaned().server, "publish", fail)
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.RECOVERED
        assert ("publish", False) in steps(outcome)

    async def test_a_server_that_does_not_say_whether_it_can_read_puts_nothing_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object) -> bool:
            raise ServerUnreachable("cut")

        monkeypatch.setattr(world.orphaned().server, "readable", fail)
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.RECOVERED
        assert ("read_back", False) in steps(outcome)

    async def test_rows_that_make_the_session_unreadable_are_put_back_exactly(self, world: World) -> None:
        before = json.dumps(world.store.content.tables)
        world.orphaned().server.unreadable.add(SESSION)
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.FAILED
        assert steps(outcome)[-2:] == [("read_back", False), ("put_back", True)]
        assert json.dumps(world.store.content.tables) == before

    async def test_what_others_wrote_since_is_not_undone_by_putting_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = world.store.content.get("message", TURN)
        theirs = '{"type":"tool","tool":"bash","state":{"status":"completed","output":"theirs"}}'

        async def meanwhile(*_: object) -> bool:
            world.store.content.set("part", CALL, data=theirs)
            return False

        monkeypatch.setattr(world.orphaned().server, "readable", meanwhile)
        assert (await world.carry_out(ORPHAN)).result is Result.FAILED
        assert world.store.content.get("part", CALL) == theirs
        assert world.store.content.get("message", TURN) == before

    async def test_rows_that_are_open_again_afterwards_are_ineffective(self, world: World) -> None:
        before = world.store.content.get("part", CALL)
        readable = world.orphaned().server.readable

        async def meanwhile(served: Served, session_id: SessionId, directory: str) -> bool:
            world.store.content.set("part", CALL, data=before)
            world.store.content.set("message", TURN, data='{"role":"assistant","time":{"created":1}}')
            return await readable(served, session_id, directory)

        world.server.readable = meanwhile  # type: ignore[method-assign]
        outcome = await world.carry_out(ORPHAN)
        assert outcome.result is Result.INEFFECTIVE
        assert CALL in outcome.why


class TestDryRun:
    async def test_nothing_is_aborted(self, world: World) -> None:
        outcome = await world.carry_out(dry_run=True)
        assert outcome.result is Result.DRY_RUN
        assert f"would abort session {SESSION}" in outcome.why
        assert world.server.aborted == []

    async def test_nothing_is_written_published_or_put_back(self, world: World) -> None:
        before = json.dumps(world.store.content.tables)
        outcome = await world.orphaned().carry_out(ORPHAN, dry_run=True)
        assert outcome.result is Result.DRY_RUN
        assert "would settle 2 rows" in outcome.why
        assert (world.store.written, world.server.published) == ([], [])
        assert json.dumps(world.store.content.tables) == before


class TestDatabaseErrors:
    async def test_a_database_that_can_not_be_read_aborts_nothing_and_costs_no_attempt(self, world: World) -> None:
        world.store.failure = DatabaseUnavailable("the database is locked")
        outcome = await world.carry_out()
        assert (outcome.result, outcome.why) == (Result.UNREACHABLE, "the database is locked")
        assert world.server.aborted == []

    async def test_a_database_that_breaks_in_the_middle_keeps_the_steps_so_far(self, world: World) -> None:
        async def breaks(_: SessionId) -> None:
            world.store.failure = DatabaseUnavailable("the disk is full")

        world.server.on_abort = breaks
        outcome = await world.carry_out()
        assert outcome.result is Result.FAILED
        assert steps(outcome) == [("reread", True), ("find", True), ("about_to_abort", True), ("abort", True)]

    async def test_a_write_that_fails_is_told(self, world: World) -> None:
        def breaks() -> None:
            raise DatabaseUnavailable("the database is locked")

        world.orphaned().store.before_write = breaks
        outcome = await world.carry_out(ORPHAN)
        assert (outcome.result, outcome.why) == (Result.FAILED, "the database is locked")


ASK = Ask(id="que_1", kind=AskKind.QUESTION, session_id=SESSION, turn_id=TURN)
UNANSWERED = replace(STUCK, kind=VerdictKind.UNANSWERED, turn_ids=(), ask=ASK, why="nobody answered its question")


class TestUnanswered:
    def asked(self, world: World, ask: Ask = ASK) -> World:
        world.policy = replace(POLICY, human_timeout_seconds=0.0)
        world.server.asks_by = {PLACE: [ask]}
        world.server.on_reject = lambda _: world.store.content.finish_call(CALL)
        return world

    @pytest.mark.parametrize("kind", list(AskKind))
    async def test_it_is_rejected_at_its_server_and_verified(self, world: World, kind: AskKind) -> None:
        ask = replace(ASK, kind=kind)
        outcome = await self.asked(world, ask).carry_out(replace(UNANSWERED, ask=ask))
        assert (outcome.result, world.server.rejected) == (Result.RECOVERED, [("que_1", PLACE)])
        assert steps(outcome) == [
            ("reread", True),
            ("find", True),
            ("about_to_reject", True),
            ("reject", True),
            ("verify", True),
        ]
        assert world.server.aborted == []

    async def test_one_that_still_stands_is_ineffective(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def lie(*_: object) -> None:
            pass

        monkeypatch.setattr(self.asked(world).server, "reject", lie)
        outcome = await world.carry_out(UNANSWERED)
        assert (outcome.result, steps(outcome)[-1]) == (Result.INEFFECTIVE, ("verify", False))

    async def test_one_that_is_gone_while_its_call_stays_open_is_ineffective(self, world: World) -> None:
        self.asked(world).server.on_reject = None
        outcome = await world.carry_out(UNANSWERED)
        assert outcome.result is Result.INEFFECTIVE
        assert f"its call {CALL} is still open" in outcome.why

    async def test_one_that_was_answered_before_is_left(self, world: World) -> None:
        outcome = await world.carry_out(UNANSWERED)
        assert (outcome.result, world.server.rejected, world.journal.noted) == (Result.UNCHANGED, [], {})

    async def test_one_that_is_answered_at_the_last_moment_is_unchanged_although_its_call_runs_on(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def too_late(*_: object) -> None:
            world.server.asks_by.clear()
            raise ServerUnreachable("no such ask")

        monkeypatch.setattr(self.asked(world).server, "reject", too_late)
        outcome = await world.carry_out(UNANSWERED)
        assert (outcome.result, steps(outcome)[-2]) == (Result.UNCHANGED, ("reject", False))

    async def test_a_server_that_falls_silent_proves_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def dies(*_: object) -> None:
            world.server.problem = ServerUnreachable("gone")
            world.store.content.finish_call(CALL)

        monkeypatch.setattr(self.asked(world).server, "reject", dies)
        assert (await world.carry_out(UNANSWERED)).result is Result.INEFFECTIVE

    async def test_a_dry_run_rejects_nothing(self, world: World) -> None:
        outcome = await self.asked(world).carry_out(UNANSWERED, dry_run=True)
        assert (outcome.result, world.server.rejected, world.journal.noted) == (Result.DRY_RUN, [], {})

    async def test_what_is_below_the_first_rung_needs_the_journal(self, world: World) -> None:
        self.asked(world).journal.failure = JournalUnusable("the disk is full")
        outcome = await world.carry_out(UNANSWERED)
        assert (outcome.result, world.server.rejected) == (Result.UNREACHABLE, [])


class TestJournal:
    async def test_it_is_begun_before_the_abort_and_closed_after_it(self, world: World) -> None:
        seen: list[tuple[int, bool]] = []

        async def end(session_id: SessionId) -> None:
            seen.append((len(await world.journal.begun()), bool(world.journal.rows)))
            await world.end(session_id)

        world.server.on_abort = end
        outcome = await world.carry_out()
        assert seen == [(1, False)]
        (noted,) = world.journal.noted.values()
        assert (noted.outcome, noted.verdict) == (outcome, STUCK)

    async def test_the_rows_are_kept_and_durable_before_they_are_written(self, world: World, tmp_path: Path) -> None:
        world.orphaned()
        originals = {CALL: world.store.content.get("part", CALL), TURN: world.store.content.get("message", TURN)}
        seen: list[tuple[object, ...]] = []

        def look_at_the_file() -> None:
            with closing(sqlite3.connect(tmp_path / "j.db")) as other:
                seen.extend(other.execute("SELECT id, CAST(before AS BLOB) FROM kept_row"))
                seen.extend(other.execute("SELECT ended_ms FROM intervention"))

        world.store.before_write = look_at_the_file
        async with await SqliteJournal.open(tmp_path / "j.db") as journal:
            world.journal = journal  # type: ignore[assignment]
            assert (await world.carry_out(ORPHAN)).result is Result.RECOVERED
            assert await journal.begun() == ()
        assert dict(seen[:2]) == {id_: data.encode() for id_, data in originals.items()}  # type: ignore[arg-type]
        assert seen[2:] == [(None,)]

    @pytest.mark.parametrize("verdict", [STUCK, ORPHAN])
    async def test_without_a_record_nothing_is_done_and_no_attempt_counts(
        self, world: World, verdict: Verdict
    ) -> None:
        if verdict is ORPHAN:
            world.orphaned()
        world.journal.failure = JournalUnusable("the disk is full")
        outcome = await world.carry_out(verdict)
        assert (outcome.result, outcome.why) == (Result.UNREACHABLE, "the disk is full")
        assert (world.server.aborted, world.store.written) == ([], [])

    async def test_rows_that_can_not_be_kept_are_not_written(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object) -> None:
            raise JournalUnusable("the disk is full")

        monkeypatch.setattr(world.orphaned().journal, "keep", fail)
        assert (await world.carry_out(ORPHAN)).result is Result.UNREACHABLE
        assert world.store.written == []
        assert await world.journal.begun() == ()

    async def test_one_that_fails_after_the_act_changes_nothing_about_it_and_the_next_start_closes_it(
        self, world: World
    ) -> None:
        async def end(session_id: SessionId) -> None:
            await world.end(session_id)
            world.journal.failure = JournalUnusable("the disk is full")

        world.server.on_abort = end
        outcome = await world.carry_out()
        assert (outcome.result, steps(outcome)[-1]) == (Result.RECOVERED, ("journal", False))
        world.journal.failure = None
        assert len(await world.journal.begun()) == 1

    async def test_one_that_fails_while_an_abort_is_verified_does_not_make_it_an_attempt_that_never_was(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        holds = world.journal.holds

        async def fail(now_ms: int) -> dict[SessionId, Hold]:
            if world.server.aborted:
                raise JournalUnusable("the disk is full")
            return await holds(now_ms)

        world.server.abort_behaviour = AbortBehaviour.LIES
        monkeypatch.setattr(world.journal, "holds", fail)
        assert (await world.carry_out()).result is Result.FAILED
        assert len(world.server.aborted) == 1

    async def test_an_error_of_its_own_closes_what_was_begun(self, world: World) -> None:
        async def breaks(_: SessionId) -> None:
            raise ZeroDivisionError

        world.server.on_abort = breaks
        with pytest.raises(ZeroDivisionError):
            await world.carry_out()
        (noted,) = world.journal.noted.values()
        assert noted.outcome is not None
        assert noted.outcome.result is Result.FAILED

    async def test_a_dry_run_leaves_no_record(self, world: World) -> None:
        await world.carry_out(dry_run=True)
        await world.orphaned().carry_out(ORPHAN, dry_run=True)
        assert world.journal.noted == {}
