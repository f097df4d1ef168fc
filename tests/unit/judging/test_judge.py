"""The judge's tables: both sides of each threshold, and each reason for sparing."""

from dataclasses import replace

import pytest

from tests.unit.observations import (
    AT,
    DIRECTORY,
    POLICY,
    SERVER,
    ago,
    back,
    busy,
    call,
    holder,
    observation,
    question,
    report,
    session,
    turn,
)
from watchdog.judging.judge import judge
from watchdog.judging.limits import limit_of
from watchdog.judging.rulings import Consent, Dropped, again, release
from watchdog.model.policy import Policy
from watchdog.model.report import Attempts, Holders, Observation, Process, ServerReport, Stopped
from watchdog.model.session import (
    EVERYTHING,
    Activity,
    CallId,
    CallStatus,
    ServerName,
    Session,
    SessionId,
    Status,
    ToolCall,
    TurnId,
)
from watchdog.model.verdict import Judgement, SpareReason, VerdictKind


def judged(seen: Observation, policy: Policy = POLICY) -> Judgement:
    return judge(seen, policy, AT)


def kinds(judgement: Judgement) -> list[tuple[str, str, str]]:
    return [(each.kind.value, each.session_id, each.cancel_session_id) for each in judgement.verdicts]


def reasons(judgement: Judgement, session_id: str = "ses_1") -> set[str]:
    return {each.reason.value for each in judgement.spared if each.session_id == session_id}


def parent_and_child(
    *, child_calls: tuple[ToolCall, ...] = (), task_age: float = 10, child_age: float = 9
) -> tuple[Session, Session]:
    task = call("prt_task", tool="task", age=task_age, child_id=SessionId("ses_2"))
    child = session("ses_2", parent="ses_1", age=child_age, calls=child_calls)
    return session(calls=[task]), child


class TestStuckTool:
    @pytest.mark.parametrize(("age", "stuck"), [(59.9, False), (60.0, True), (3600, True)])
    def test_a_leaf_is_stuck_from_its_limit_on_and_not_before(self, age: float, stuck: bool) -> None:
        judgement = judged(observation(session(calls=[call(age=age)]), reports=[busy("ses_1")]))
        assert kinds(judgement) == ([("stuck_tool", "ses_1", "ses_1")] if stuck else [])
        assert reasons(judgement) == (set() if stuck else {"within_limit"})

    def test_a_pending_call_is_a_leaf_like_a_running_one(self) -> None:
        pending = call(age=61, tool="write", status=CallStatus.PENDING)
        assert kinds(judged(observation(session(calls=[pending]), reports=[busy("ses_1")])))

    @pytest.mark.parametrize("tool", ["bash", "webfetch", "mcp_thing"])
    def test_a_call_whose_arguments_still_stream_has_the_longest_limit_that_it_may_turn_out_to_declare(
        self, tool: str
    ) -> None:
        longest = POLICY.max_declared_timeout_seconds + POLICY.declared_timeout_grace_seconds
        for age, status, stuck in [
            (longest - 1, CallStatus.PENDING, False),
            (longest, CallStatus.PENDING, True),
            (61, CallStatus.RUNNING, True),
        ]:
            streaming = session(calls=[call(age=age, tool=tool, status=status)])
            assert bool(kinds(judged(observation(streaming, reports=[busy("ses_1")])))) is stuck

    def test_what_has_no_limit_has_none_while_its_arguments_stream(self) -> None:
        streaming = session(calls=[call(age=99_999, status=CallStatus.PENDING)])
        policy = replace(POLICY, tool_timeout_seconds=None)
        assert reasons(judged(observation(streaming, reports=[busy("ses_1")]), policy)) == {"within_limit"}

    def test_the_verdict_names_every_observed_row_and_the_newest_prompt(self) -> None:
        seen = observation(session(calls=[call(age=61), call("prt_2", age=90)]), reports=[busy("ses_1")])
        (verdict,) = judged(seen).verdicts
        assert verdict.row_ids == {"prt_1", "prt_2", "msg_1"}
        assert (verdict.call_id, verdict.newest_prompt_id) == ("prt_2", "msg_prompt")

    def test_a_hung_tool_beside_healthy_work_in_one_turn_is_spared(self) -> None:
        seen = observation(session(calls=[call(age=61), call("prt_2", age=5)]), reports=[busy("ses_1")])
        judgement = judged(seen)
        assert not judgement.verdicts
        assert reasons(judgement) == {"waiting_on_sibling", "within_limit"}

    def test_a_call_of_an_older_turn_never_ends_the_newer_one(self) -> None:
        turns = [turn("msg_0", age=500, superseded=True), turn("msg_1")]
        seen = observation(session(turns=turns, calls=[call(turn="msg_0", age=400)]), reports=[busy("ses_1")])
        judgement = judged(replace(seen, holders=Holders(known=(holder(),))))
        assert not judgement.verdicts
        assert "waiting_on_sibling" in reasons(judgement)

    def test_the_call_clock_counts_and_not_the_age_of_the_row(self) -> None:
        seen = observation(
            session(calls=[call(age=10_000)]),
            reports=[busy("ses_1")],
            call_clocks={CallId("prt_1"): back(59)},
        )
        assert reasons(judged(seen)) == {"within_limit"}

    @pytest.mark.parametrize(("since", "uneasy"), [(59, False), (60, True)])
    def test_a_clock_that_stands_still_is_told_and_is_uneasy_from_the_calls_limit_on(
        self, since: float, uneasy: bool
    ) -> None:
        stopped = Stopped(why="nobody answers", since=back(since))
        seen = observation(session(calls=[call(age=5)]), stopped={SessionId("ses_1"): stopped})
        (spared,) = judged(seen).spared
        assert (spared.reason.value, spared.uneasy) == ("clock_stopped", uneasy)
        assert (
            spared.why == f"the clock of the bash call has stood still for {since} s, at 5 s of 60 s: nobody answers"
        )
        assert judged(seen).next_deadline is None

    def test_a_clock_that_stands_still_matters_to_no_call_without_a_limit(self) -> None:
        stopped = {SessionId("ses_1"): Stopped(why="nobody answers", since=back(999))}
        policy = replace(POLICY, tool_timeout_seconds=None)
        assert reasons(judged(observation(session(calls=[call()]), stopped=stopped), policy)) == {"within_limit"}

    def test_a_server_that_does_not_say_what_it_asks_is_no_witness(self) -> None:
        seen = observation(session(calls=[call(age=61)]), reports=[replace(busy("ses_1"), asks={})])
        assert reasons(judged(seen)) == {"no_witness"}

    def test_a_question_that_no_server_answers_for_is_spared(self) -> None:
        seen = observation(session(calls=[call(tool="question", age=9999)]), holders=[holder()])
        assert reasons(judged(seen)) == {"no_witness"}

    def test_a_call_past_its_limit_that_no_server_answers_for_is_still_reported(self) -> None:
        seen = observation(session(calls=[call(age=61)]), holders=[holder()])
        assert kinds(judged(seen)) == [("stuck_tool", "ses_1", "ses_1")]


class TestLimits:
    @pytest.mark.parametrize(
        ("tool", "declared_ms", "limit"),
        [
            ("bash", None, 60),
            ("mcp_slow", None, 3600),
            ("mcp_slow_very", None, None),
            ("bash", 10_000, 70),
            ("bash", 600_000, 660),
            ("bash", 1e12, 21_660),
            ("bash", -5, 60),
            ("bash", float("nan"), 60),
            ("mcp_slow_very", 600_000, None),
        ],
    )
    def test_the_longest_pattern_wins_and_a_declared_timeout_only_lengthens(
        self, tool: str, declared_ms: float | None, limit: float | None
    ) -> None:
        policy = replace(POLICY, tool_timeouts={"mcp_*": 3600.0, "mcp_slow_*": None})
        assert limit_of(call(tool=tool, declared_timeout_ms=declared_ms), policy) == limit

    def test_without_a_limit_a_call_is_spared_and_says_so(self) -> None:
        policy = replace(POLICY, tool_timeout_seconds=None)
        judgement = judged(observation(session(calls=[call(age=10**6)]), reports=[busy("ses_1")]), policy)
        assert reasons(judgement) == {"within_limit"}
        assert "no limit" in judgement.spared[0].why


class TestChildren:
    def test_the_hung_leaf_of_a_child_ends_the_child_and_not_the_parent(self) -> None:
        parent, child = parent_and_child(
            child_calls=(call("prt_2", session="ses_2", turn="msg_2", age=61),), task_age=70, child_age=65
        )
        judgement = judged(observation(parent, child, reports=[busy("ses_1", "ses_2")]))
        assert kinds(judgement) == [("stuck_tool", "ses_2", "ses_2")]
        assert reasons(judgement) == {"waiting_on_child"}

    def test_a_parent_whose_child_streams_is_spared_however_old_its_task(self) -> None:
        parent, child = parent_and_child(task_age=299)
        judgement = judged(observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_2": 1}))
        assert reasons(judgement) == {"waiting_on_child"}
        assert reasons(judgement, "ses_2") == {"recently_active"}

    def test_a_task_call_without_a_child_id_waits_on_the_child_that_was_created_after_it(self) -> None:
        parent = session(calls=[call("prt_task", tool="task", age=61)])
        child = session("ses_2", parent="ses_1", age=60)
        earlier = replace(child, created_ms=ago(62))
        assert "waiting_on_child" in reasons(judged(observation(parent, child, reports=[busy("ses_1", "ses_2")])))
        judgement = judged(observation(parent, earlier, reports=[busy("ses_1")]))
        assert kinds(judgement) == [("stuck_tool", "ses_1", "ses_1")]

    @pytest.mark.parametrize(("silence", "stuck"), [(59, False), (61, True)])
    def test_a_task_that_never_returns_is_counted_from_its_childs_last_sign_of_life(
        self, silence: float, stuck: bool
    ) -> None:
        parent, child = parent_and_child(task_age=1000)
        ended = replace(child, turns=(), calls=(), last_life_ms=ago(silence))
        judgement = judged(observation(parent, ended, reports=[busy("ses_1")]))
        assert kinds(judgement) == ([("stuck_task", "ses_1", "ses_1")] if stuck else [])

    def test_a_task_past_its_limit_ends_its_deepest_silent_descendant(self) -> None:
        policy = replace(POLICY, tool_timeouts={"bash": None})
        hung = call("prt_2", session="ses_2", turn="msg_2", age=290)
        parent, child = parent_and_child(child_calls=(hung,), task_age=301)
        seen = observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_2": 31})
        (verdict,) = judged(seen, policy).verdicts
        assert (verdict.kind, verdict.session_id, verdict.cancel_session_id) == ("stuck_task", "ses_1", "ses_2")
        assert verdict.call_id == "prt_task"
        assert verdict.row_ids == {"prt_2", "msg_2"}
        assert verdict.rests_on_silence

    @pytest.mark.parametrize(("task_age", "silence"), [(299, 31), (301, 29)])
    def test_a_task_is_not_ended_before_both_its_limits(self, task_age: float, silence: float) -> None:
        policy = replace(POLICY, tool_timeouts={"bash": None})
        hung = call("prt_2", session="ses_2", turn="msg_2", age=290)
        parent, child = parent_and_child(child_calls=(hung,), task_age=task_age)
        seen = observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_2": silence})
        assert not judged(seen, policy).verdicts

    def test_a_call_within_its_own_limit_is_never_ended_for_the_task_above_it(self) -> None:
        running = call("prt_2", session="ses_2", turn="msg_2", age=50)
        parent, child = parent_and_child(child_calls=(running,), task_age=1000)
        seen = observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_2": 50})
        assert not judged(seen).verdicts

    def test_the_hard_limit_ends_a_subagent_that_is_alive(self) -> None:
        policy = replace(POLICY, task_hard_timeout_seconds=500)
        parent, child = parent_and_child(task_age=501)
        seen = observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_2": 1})
        assert kinds(judged(seen, policy)) == [("stuck_task", "ses_1", "ses_2")]
        parent, child = parent_and_child(task_age=499)
        seen = observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_2": 1})
        assert not judged(seen, policy).verdicts

    def test_only_the_deepest_of_a_path_is_ended_in_one_round(self) -> None:
        parent, child = parent_and_child(
            child_calls=(call("prt_2", session="ses_2", turn="msg_2", age=61),), task_age=70
        )
        parent = replace(parent, calls=(*parent.calls, call("prt_3", age=65)))
        judgement = judged(observation(parent, child, reports=[busy("ses_1", "ses_2")]))
        assert kinds(judgement) == [("stuck_tool", "ses_2", "ses_2")]

    def test_a_session_that_is_its_own_parent_is_judged_like_any_other(self) -> None:
        loop = session(parent="ses_1", calls=[call("prt_task", tool="task", age=61, child_id=SessionId("ses_1"))])
        assert kinds(judged(observation(loop, reports=[busy("ses_1")])))

    def test_a_cycle_of_sessions_neither_hangs_nor_fails(self) -> None:
        one = session("ses_1", parent="ses_3", calls=[call(tool="task", age=400, child_id=SessionId("ses_2"))])
        two = session("ses_2", parent="ses_1")
        three = session("ses_3", parent="ses_2")
        judgement = judged(observation(one, two, three, reports=[busy("ses_1", "ses_2", "ses_3")]))
        assert judgement.spared


class TestIdle:
    @pytest.mark.parametrize(("silence", "stuck"), [(29.9, False), (30.0, True)])
    def test_a_witnessed_silence_is_ended_at_the_limit(self, silence: float, stuck: bool) -> None:
        judgement = judged(observation(session(), reports=[busy("ses_1")], idle={"ses_1": silence}))
        assert kinds(judgement) == ([("idle_session", "ses_1", "ses_1")] if stuck else [])
        assert reasons(judgement) == (set() if stuck else {"recently_active"})

    def test_a_busy_session_without_an_open_turn_can_be_idle_too(self) -> None:
        bare = session(turns=[])
        assert kinds(judged(observation(bare, reports=[busy("ses_1")], idle={"ses_1": 31})))

    def test_silence_without_a_witness_proves_nothing(self) -> None:
        assert reasons(judged(observation(session(life=9999), reports=[busy("ses_1")]))) == {"no_witness"}

    def test_silence_that_no_server_answers_for_proves_nothing(self) -> None:
        seen = observation(session(life=9999), holders=[holder(7, command="opencode run")])
        judgement = judged(seen)
        assert reasons(judgement) == {"no_witness"}
        assert "opencode run (pid 7)" in judgement.spared[0].why

    def test_an_open_call_keeps_the_idle_rule_away(self) -> None:
        seen = observation(session(calls=[call(age=50)]), reports=[busy("ses_1")], idle={"ses_1": 50})
        assert reasons(judged(seen)) == {"within_limit"}

    def test_a_session_with_an_unfinished_child_is_not_idle(self) -> None:
        parent, child = session(age=50), session("ses_2", parent="ses_1", age=5)
        seen = observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_1": 99, "ses_2": 1})
        assert reasons(judged(seen)) == {"waiting_on_child"}

    def test_what_an_earlier_turn_left_behind_below_does_not_hide_a_silence(self) -> None:
        parent, stale = session(age=5000), session("ses_2", parent="ses_1", age=4000)
        seen = observation(
            parent,
            stale,
            reports=[busy("ses_1")],
            idle={"ses_1": 99},
            holders=[holder(age=6000), holder(8, age=6000)],
        )
        assert kinds(judged(seen)) == [("idle_session", "ses_1", "ses_1")]

    def test_a_verdict_on_what_an_earlier_turn_left_behind_below_comes_first(self) -> None:
        hung = call("prt_2", session="ses_2", turn="msg_2", age=4000)
        parent, stale = session(age=5000), session("ses_2", parent="ses_1", age=4000, calls=[hung])
        seen = observation(parent, stale, reports=[busy("ses_1")], idle={"ses_1": 99}, holders=[holder(8, age=6000)])
        judgement = judged(seen)
        assert kinds(judgement) == [("stuck_tool", "ses_2", "ses_2")]
        assert [each.why for each in judgement.spared] == ["session ses_2 below it is ended first"]

    def test_what_is_at_work_two_below_a_child_of_an_earlier_turn_keeps_the_session_alive(self) -> None:
        parent, middle = session(age=5000), session("ses_2", parent="ses_1", age=4000, turns=())
        lowest = session("ses_3", parent="ses_2", age=10)
        seen = observation(parent, middle, lowest, reports=[busy("ses_1", "ses_3")], idle={"ses_1": 99, "ses_3": 1})
        assert reasons(judged(seen)) == {"waiting_on_child"}

    def test_of_two_servers_that_claim_a_session_the_one_that_spares_it_counts(self) -> None:
        later = ServerName("http://127.0.0.1:4097")
        retry = report(statuses={"ses_1": Status(activity=Activity.RETRY, retry_at_ms=ago(-60))}, name=later)
        mute = replace(busy("ses_1", name=later), asks={})
        for reports, reason in (([busy("ses_1"), retry], "retrying"), ([busy("ses_1"), mute], "no_witness")):
            for told in (reports, reports[::-1]):
                assert reasons(judged(observation(session(), reports=told, idle={"ses_1": 99}))) == {reason}

    @pytest.mark.parametrize(("due", "spared"), [(1200, True), (-29, True), (-31, False)])
    def test_a_retry_is_waited_out_until_its_next_try_plus_the_limit(self, due: float, spared: bool) -> None:
        retry = report(statuses={"ses_1": Status(activity=Activity.RETRY, retry_at_ms=ago(-due))})
        judgement = judged(observation(session(), reports=[retry], idle={"ses_1": 5000}))
        assert reasons(judgement) == ({"retrying"} if spared else set())
        assert bool(judgement.verdicts) is not spared

    def test_idle_timeout_off_ends_no_silence(self) -> None:
        policy = replace(POLICY, idle_timeout_seconds=None)
        assert reasons(judged(observation(session(), reports=[busy("ses_1")], idle={"ses_1": 10**6}), policy)) == {
            "within_limit"
        }


class TestHumans:
    def test_a_question_is_never_ended(self) -> None:
        asked = busy("ses_1", asks=[question("ses_1", turn="msg_1", call_ref="call_prt_1")])
        seen = observation(session(calls=[call(tool="question", age=10**6)]), reports=[asked])
        assert reasons(judged(seen)) == {"waiting_on_human"}

    def test_an_ask_that_names_no_call_spares_them_all(self) -> None:
        seen = observation(
            session(calls=[call(age=61), call("prt_2", age=61)]), reports=[busy("ses_1", asks=[question("ses_1")])]
        )
        assert reasons(judged(seen)) == {"waiting_on_human"}

    def test_an_ask_that_is_left_over_from_an_aborted_call_spares_nothing(self) -> None:
        stale = busy("ses_1", asks=[question("ses_1", turn="msg_0", call_ref="call_gone")])
        assert kinds(judged(observation(session(calls=[call(age=61)]), reports=[stale])))

    def test_an_ask_in_a_child_that_shows_nothing_open_spares_the_task_above_it(self) -> None:
        parent, child = parent_and_child(task_age=1000)
        ended = replace(child, turns=(), last_life_ms=ago(900))
        judgement = judged(observation(parent, ended, reports=[busy("ses_1", asks=[question("ses_2")])]))
        assert not judgement.verdicts
        assert reasons(judgement) == {"waiting_on_human"}

    def test_an_ask_for_one_call_spares_the_hung_one_beside_it_as_its_sibling(self) -> None:
        asked = busy("ses_1", asks=[question("ses_1", call_ref="call_prt_2")])
        seen = observation(session(calls=[call(age=61), call("prt_2", age=61)]), reports=[asked])
        assert reasons(judged(seen)) == {"waiting_on_sibling", "waiting_on_human"}

    def test_a_question_in_a_child_spares_the_task_above_even_past_the_hard_limit(self) -> None:
        policy = replace(POLICY, task_hard_timeout_seconds=100)
        parent, child = parent_and_child(
            child_calls=(call("prt_2", session="ses_2", turn="msg_2", tool="question", age=900),), task_age=1000
        )
        asked = busy("ses_1", "ses_2", asks=[question("ses_2", call_ref="call_prt_2")])
        judgement = judged(observation(parent, child, reports=[asked], idle={"ses_2": 999}), policy)
        assert not judgement.verdicts
        assert reasons(judgement) == {"waiting_on_human"}
        assert reasons(judgement, "ses_2") == {"waiting_on_human"}

    def test_a_session_without_open_calls_that_asks_is_not_idle(self) -> None:
        seen = observation(session(), reports=[busy("ses_1", asks=[question("ses_1")])], idle={"ses_1": 999})
        assert reasons(judged(seen)) == {"waiting_on_human"}


class TestOrphans:
    def test_with_nobody_there_one_look_is_enough(self) -> None:
        (verdict,) = judged(observation(session(calls=[call()]), holders=())).verdicts
        assert (verdict.kind, verdict.confirmed) == (VerdictKind.ORPHAN, True)
        assert verdict.row_ids == {"prt_1", "msg_1"}

    def test_the_first_look_is_spared_and_marks_what_nobody_claims(self) -> None:
        judgement = judged(observation(session(calls=[call(age=50)]), holders=[holder(age=40)]))
        assert reasons(judgement) == {"first_look"}
        assert judgement.unclaimed == {"prt_1", "msg_1"}

    @pytest.mark.parametrize(("since", "stuck"), [(29.9, False), (30.0, True)])
    def test_the_second_look_comes_after_the_grace(self, since: float, stuck: bool) -> None:
        seen = observation(
            session(calls=[call(age=50)]),
            holders=[holder(age=40)],
            looks={"prt_1": back(since), "msg_1": back(since)},
        )
        assert kinds(judged(seen)) == ([("orphan", "ses_1", "ses_1")] if stuck else [])

    def test_a_look_at_only_a_part_of_the_rows_is_no_second_look(self) -> None:
        seen = observation(session(calls=[call(age=50)]), holders=[holder(age=40)], looks={"msg_1": back(99)})
        assert reasons(judged(seen)) == {"first_look"}

    @pytest.mark.parametrize(("born", "excluded"), [(45.0, False), (44.9, True)])
    def test_a_process_is_excluded_by_a_birth_later_than_the_margin(self, born: float, excluded: bool) -> None:
        seen = observation(session(turns=[turn(age=50)]), holders=[holder(age=born)])
        assert bool(judged(seen).unclaimed) is excluded

    def test_the_youngest_call_of_the_turn_counts_for_the_birth(self) -> None:
        seen = observation(session(turns=[turn(age=500)], calls=[call(age=10)]), holders=[holder(age=100)])
        assert not judged(seen).unclaimed

    def test_an_old_server_that_let_go_at_our_abort_is_excluded_at_once_whatever_it_still_asks(self) -> None:
        old = report(served=["msg_1"], vouches=False, asks=[question("ses_1")])
        seen = observation(session(), reports=[old], holders=[holder()], let_go={TurnId("msg_1"): SERVER})
        (verdict,) = judged(seen).verdicts
        assert (verdict.kind, verdict.confirmed) == (VerdictKind.ORPHAN, True)
        assert not judged(replace(seen, let_go={TurnId("msg_1"): ServerName("http://other")})).unclaimed
        assert not judged(replace(seen, let_go={TurnId("msg_0"): SERVER})).unclaimed
        again = report(served=["msg_1"], statuses={"ses_1": Status(activity=Activity.BUSY)})
        assert not judged(replace(seen, reports=(again,))).unclaimed

    def test_a_birth_before_the_clock_is_known_to_be_steady_excludes_nobody(self) -> None:
        seen = observation(session(turns=[turn(age=50)]), holders=[holder(age=10)], steady_since_ms=ago(9))
        assert not judged(seen).unclaimed
        assert judged(replace(seen, steady_since_ms=ago(60))).unclaimed

    def test_who_was_born_after_the_clock_was_set_can_not_execute_what_is_older_than_that(self) -> None:
        seen = observation(session(turns=[turn(age=50)]), holders=[holder(age=10)], steady_since_ms=ago(16))
        assert judged(seen).unclaimed
        assert not judged(replace(seen, steady_slack_seconds=2)).unclaimed

    def test_a_server_that_serves_the_turn_and_is_idle_is_excluded_by_its_answer(self) -> None:
        seen = observation(session(), reports=[report(served=["msg_1"])], holders=[holder()])
        assert judged(seen).unclaimed == {"msg_1"}

    @pytest.mark.parametrize(
        "flaw",
        [
            {"served": []},
            {"vouches": False},
            {"problem": "it answered 500"},
            {"pid": 999},
            {"pid": None},
            {"statuses": {"ses_1": Status(activity=Activity.BUSY)}},
            {"asks": [question("ses_1")]},
            {"directories": ["/elsewhere"]},
        ],
        ids=lambda flaw: next(iter(flaw)),
    )
    def test_anything_less_excludes_nobody(self, flaw: dict[str, object]) -> None:
        said = report(**{"served": ["msg_1"], **flaw})  # type: ignore[arg-type]
        assert not judged(observation(session(), reports=[said], holders=[holder()])).unclaimed

    def test_the_turns_own_folder_must_have_been_asked_too(self) -> None:
        seen = observation(
            session(turns=[turn(cwd="/elsewhere")]), reports=[report(served=["msg_1"])], holders=[holder()]
        )
        assert not judged(seen).unclaimed
        both = report(served=["msg_1"], directories=[DIRECTORY, "/elsewhere"])
        assert judged(replace(seen, reports=(both,))).unclaimed

    def test_one_holder_that_is_not_excluded_is_enough_to_spare(self) -> None:
        seen = observation(
            session(), reports=[report(served=["msg_1"])], holders=[holder(), holder(7, command="opencode run")]
        )
        judgement = judged(seen)
        assert not judgement.unclaimed
        assert "opencode run (pid 7)" in judgement.spared[0].why

    def test_a_watchdog_that_is_embedded_does_not_take_its_own_process_for_nobody(self) -> None:
        own = holder(age=1, embeds_us=True)
        assert not judged(observation(session(turns=[turn(age=500)]), holders=[own])).unclaimed
        seen = observation(session(), reports=[report(served=["msg_1"])], holders=[replace(own, pid=100)])
        assert judged(seen).unclaimed

    def test_a_hidden_holder_leaves_no_proof(self) -> None:
        hidden = Holders(complete=False, why_incomplete="a lock is held by a process that can't be seen")
        assert not judged(observation(session(), holders=hidden)).unclaimed

    def test_sole_owner_needs_a_server_that_serves_this_database(self) -> None:
        policy = replace(POLICY, sole_owner=True)
        hidden = Holders(complete=False, why_incomplete="a lock is held by a process that can't be seen")
        seen = observation(session(), holders=hidden, reports=[report(served=["msg_1"], pid=None)])
        assert judged(seen, policy).unclaimed
        assert not judged(replace(seen, reports=(report(pid=None),)), policy).unclaimed
        assert not judged(seen).unclaimed

    def test_unknown_holders_leave_no_proof(self) -> None:
        assert not judged(observation(session())).unclaimed

    def test_the_old_turn_of_a_busy_session_is_an_orphan_by_birth_alone(self) -> None:
        turns = [turn("msg_0", age=500, superseded=True), turn("msg_1", age=5)]
        seen = observation(
            session(turns=turns, calls=[call(turn="msg_0", age=400)]),
            reports=[busy("ses_1")],
            holders=[holder(age=100)],
            idle={"ses_1": 1},
        )
        assert judged(seen).unclaimed == {"msg_0", "prt_1"}


class TestAttempts:
    def test_a_pause_between_attempts_is_kept(self) -> None:
        seen = observation(
            session(calls=[call(age=61)]),
            reports=[busy("ses_1")],
            attempts={"cancel:prt_1": Attempts(count=1, not_before=AT + 0.001, newest_prompt_id="msg_prompt")},
        )
        assert reasons(judged(seen)) == {"cooling_down"}
        assert judge(seen, POLICY, AT + 0.001).verdicts

    TRIED = Attempts(count=3, given_up=True, newest_prompt_id="msg_prompt", not_before=AT + 3600)

    def given_up(self, process: Process | None, *, pid: int = 7, born_ms: int = 1_000_000) -> Observation:
        tried = replace(self.TRIED, process=process)
        report = replace(busy("ses_1"), pid=pid, born_ms=born_ms)
        return observation(session(calls=[call(age=61)]), reports=[report], attempts={"cancel:prt_1": tried})

    def test_what_was_given_up_is_left_for_an_hour_and_then_tried_again(self) -> None:
        seen = self.given_up(None)
        assert reasons(judged(seen)) == {"given_up"}
        assert judged(seen).spared[0].until == AT + 3600
        assert judge(seen, POLICY, AT + 3600).verdicts

    @pytest.mark.parametrize(
        ("pid", "born_ms", "again"),
        [(7, 1_000_000, False), (7, 1_001_000, False), (8, 1_000_000, True), (7, 1_100_000, True)],
    )
    def test_what_was_given_up_is_tried_again_at_once_when_the_server_is_another_process(
        self, pid: int, born_ms: int, again: bool
    ) -> None:
        told = Process(server=busy("ses_1").name, pid=7, born_ms=1_000_000)
        assert bool(judged(self.given_up(told, pid=pid, born_ms=born_ms)).verdicts) is again

    def test_a_second_abort_never_drops_a_prompt_that_came_after_the_first(self) -> None:
        tried = Attempts(count=1, newest_prompt_id="msg_earlier")
        seen = observation(session(calls=[call(age=61)]), reports=[busy("ses_1")], attempts={"cancel:prt_1": tried})
        assert reasons(judged(seen)) == {"given_up"}

    def test_attempts_to_cancel_do_not_count_against_settling(self) -> None:
        tried = Attempts(count=3, given_up=True)
        seen = observation(session(calls=[call()]), holders=(), attempts={"cancel:prt_1": tried})
        assert kinds(judged(seen)) == [("orphan", "ses_1", "ses_1")]


class TestHolds:
    @pytest.mark.parametrize("held", ["ses_1", EVERYTHING])
    def test_what_a_person_holds_is_left_alone_orphan_or_not(self, held: str) -> None:
        on_hold = {SessionId(held): "a person said so"}
        for seen in (
            observation(session(calls=[call(age=61)]), reports=[busy("ses_1")], on_hold=on_hold),
            observation(session(calls=[call(age=61)]), holders=(), on_hold=on_hold),
            observation(session(), reports=[busy("ses_1")], idle={"ses_1": 99}, on_hold=on_hold),
        ):
            assert reasons(judged(seen)) == {"on_hold"}
            assert not judged(seen).verdicts

    def test_a_hold_below_spares_the_session_whose_end_would_end_it(self) -> None:
        parent, child = parent_and_child(task_age=1000)
        ended = replace(child, turns=(), calls=(), last_life_ms=ago(61))
        seen = observation(parent, ended, reports=[busy("ses_1")])
        assert judged(seen).verdicts
        assert reasons(judged(replace(seen, on_hold={SessionId("ses_2"): "a person said so"}))) == {"on_hold"}

    def test_a_hold_on_the_session_that_is_stuck_spares_the_one_below_that_would_be_ended_for_it(self) -> None:
        policy = replace(POLICY, task_hard_timeout_seconds=500)
        parent, child = parent_and_child(task_age=501)
        seen = observation(parent, child, reports=[busy("ses_1", "ses_2")], idle={"ses_2": 1})
        assert judged(seen, policy).verdicts
        assert not judged(replace(seen, on_hold={SessionId("ses_1"): "a person said so"}), policy).verdicts

    def test_a_hold_of_another_session_changes_nothing(self) -> None:
        seen = observation(session(calls=[call(age=61)]), reports=[busy("ses_1")], on_hold={SessionId("ses_9"): "x"})
        assert kinds(judged(seen))


class TestUnanswered:
    ASK = question("ses_1", turn="msg_1", call_ref="call_prt_1")
    POLICY = replace(POLICY, human_timeout_seconds=3600)

    def seen(self, since: float) -> Observation:
        return observation(
            session(calls=[call(tool="question", age=9999)]),
            reports=[busy("ses_1", asks=[self.ASK])],
            ask_clocks={"que_1": back(since)},
        )

    @pytest.mark.parametrize(("since", "over"), [(3599, False), (3600, True)])
    def test_an_ask_is_turned_down_at_human_timeout_and_not_before(self, since: float, over: bool) -> None:
        judgement = judged(self.seen(since), self.POLICY)
        assert kinds(judgement) == ([("unanswered", "ses_1", "ses_1")] if over else [])
        assert "waiting_on_human" in reasons(judgement)
        if over:
            (verdict,) = judgement.verdicts
            assert (verdict.ask, set(verdict.row_ids)) == (self.ASK, {"prt_1"})

    def test_it_is_off_unless_it_is_set(self) -> None:
        assert not judged(self.seen(10**6)).verdicts

    def test_an_ask_on_hold_is_left_to_its_human(self) -> None:
        seen = replace(self.seen(10**6), on_hold={SessionId("ses_1"): "a person said so"})
        assert not judged(seen, self.POLICY).verdicts

    def test_the_deadline_of_an_ask_wakes_the_loop(self) -> None:
        assert judged(self.seen(3000), self.POLICY).next_deadline == AT + 600


class TestRelease:
    def test_a_release_ends_all_that_is_open_whatever_its_age(self) -> None:
        seen = observation(session(calls=[call(age=1)]), reports=[busy("ses_1")])
        verdict = release(seen, POLICY, seen.snapshot.sessions[SessionId("ses_1")])
        assert verdict.kind is VerdictKind.STUCK_TOOL
        assert verdict.row_ids == {"prt_1", "msg_1"}
        assert verdict.released

    def test_a_release_of_what_nobody_executes_is_an_orphan(self) -> None:
        seen = observation(session(calls=[call(age=1)]), holders=())
        assert release(seen, POLICY, seen.snapshot.sessions[SessionId("ses_1")]).kind is VerdictKind.ORPHAN

    def test_a_proof_that_does_not_hold_again_names_what_stands_against_it(self) -> None:
        gone = observation(session(), holders=())
        (verdict,) = judged(gone).verdicts
        assert again(gone, judged(gone), POLICY, verdict, Consent()) == verdict
        seen = observation(session(), holders=[holder(7, command="opencode run")])
        dropped = again(seen, judged(seen), POLICY, verdict, Consent())
        assert isinstance(dropped, Dropped)
        assert "opencode run (pid 7)" in dropped.why


def test_every_reason_for_sparing_is_used_by_some_case() -> None:
    import pathlib  # noqa: PLC0415 - only here

    source = pathlib.Path(__file__).read_text(encoding="utf-8")
    assert [reason.value for reason in SpareReason if f'"{reason.value}"' not in source] == []


def test_the_next_deadline_is_the_earliest_of_all_clocks() -> None:
    seen = observation(
        session(calls=[call(age=50)]), session("ses_2"), reports=[busy("ses_1", "ses_2")], idle={"ses_2": 25}
    )
    assert judged(seen).next_deadline == AT + 5


class TestElsewhere:
    """The database is one that any machine may use."""

    OPEN = session(calls=[call(age=9999)])
    ANYWHERE = Holders(complete=False, why_incomplete="nobody sees other machines", elsewhere=True)

    @pytest.mark.parametrize("policy", [POLICY, replace(POLICY, sole_owner=True)])
    @pytest.mark.parametrize("served", [(), ("msg_1",)])
    def test_what_no_host_claims_is_told_and_never_ended(self, policy: Policy, served: tuple[str, ...]) -> None:
        seen = observation(self.OPEN, reports=[report(served=served, pid=None)], holders=self.ANYWHERE)
        judgement = judged(seen, policy)
        assert judgement.verdicts == ()
        (spared,) = judgement.spared
        assert (spared.reason, spared.call_id) == (SpareReason.NO_WITNESS, None)
        assert spared.why == "no live host says that it is at work on it; only a release settles it"

    def test_where_a_host_does_not_answer_that_is_told(self) -> None:
        silent = report(name=ServerName("replica b"), problem="it was not heard of for 5 s")
        judgement = judged(observation(self.OPEN, reports=[report(), silent], holders=self.ANYWHERE))
        assert judgement.verdicts == ()
        assert judgement.spared[0].why == "no host says that it is at work on it, and not all of them answer"

    def test_what_a_host_claims_is_judged_as_anywhere(self) -> None:
        seen = observation(self.OPEN, reports=[busy("ses_1", name=ServerName("replica b"))], holders=self.ANYWHERE)
        assert kinds(judged(seen)) == [("stuck_tool", "ses_1", "ses_1")]

    def test_a_release_may_settle_what_every_host_denies_and_nothing_else_may(self) -> None:
        seen = observation(self.OPEN, reports=[report(), report(name=ServerName("b"))], holders=self.ANYWHERE)
        released = release(seen, POLICY, self.OPEN)
        assert (released.kind, sorted(released.row_ids)) == (VerdictKind.ORPHAN, ["msg_1", "prt_1"])
        assert again(seen, judged(seen), POLICY, released, Consent()) == released
        assert isinstance(again(seen, judged(seen), POLICY, replace(released, released=False), Consent()), Dropped)

    @pytest.mark.parametrize(
        "reports",
        [
            [busy("ses_1")],
            [report(), report(name=ServerName("b"), problem="it hangs")],
            [report(), report(name=ServerName("b"), directories=("/elsewhere",))],
        ],
        ids=["claimed", "one hangs", "one was not asked"],
    )
    def test_a_release_settles_nothing_that_a_host_may_be_at_work_on(self, reports: list[ServerReport]) -> None:
        seen = observation(self.OPEN, reports=reports, holders=self.ANYWHERE)
        assert release(seen, POLICY, self.OPEN).kind is not VerdictKind.ORPHAN

    def test_where_processes_can_be_seen_a_word_settles_nothing(self) -> None:
        seen = observation(self.OPEN, reports=[report()], holders=Holders(complete=False, why_incomplete="hidden"))
        assert release(seen, POLICY, self.OPEN).kind is not VerdictKind.ORPHAN
