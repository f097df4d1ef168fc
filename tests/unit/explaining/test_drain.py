"""What would be lost if the servers were restarted: everything that only their memory has, and nothing else."""

from dataclasses import replace

import pytest

from tests.unit.observations import AT, POLICY, busy, call, holder, observation, question, report, session
from watchdog.explaining.drain import Drain, drain
from watchdog.judging.judge import judge
from watchdog.model.report import Holders, Observation, ServerReport
from watchdog.model.session import SessionId


def drained(seen: Observation) -> Drain:
    return drain(seen, judge(seen, POLICY, AT), Holders(known=(holder(),)))


def test_where_nothing_is_open_nothing_would_be_lost() -> None:
    assert drained(observation(reports=[report(served=["ses_1"])])).ready


def test_work_is_lost_with_its_calls_and_the_prompts_behind_it() -> None:
    working = replace(session(calls=[call(), call("prt_2", tool="edit")]), queued_prompts=2)
    (loss,) = drained(observation(working, reports=[busy("ses_1")])).losses
    assert loss.certain
    assert loss.queued_prompts == 2
    assert loss.why == "http://127.0.0.1:4096 is at work on it: 2 open calls (bash, edit), 2 queued prompts"


def test_a_question_is_lost_although_its_session_is_idle() -> None:
    asking = session(calls=[call(tool="question")])
    (loss,) = drained(observation(asking, reports=[report(asks=[question("ses_1")])])).losses
    assert loss.certain
    assert len(loss.asks) == 1


def test_a_session_that_is_busy_before_it_wrote_anything_is_work() -> None:
    (loss,) = drained(observation(reports=[busy("ses_new")])).losses
    assert loss.session_id == "ses_new"


def test_if_nobody_has_the_database_open_only_a_servers_own_word_counts() -> None:
    working = observation(session(), reports=[busy("ses_1")])
    assert not drain(working, judge(working, POLICY, AT), Holders()).ready
    down = observation(session(), reports=[report(problem="It can't be reached.")], holders=Holders())
    assert drain(down, judge(down, POLICY, AT), Holders()).ready
    assert not drain(down, judge(down, POLICY, AT), Holders(complete=False)).ready


def test_what_nobody_executes_is_lost_already() -> None:
    assert drained(observation(session(), holders=Holders())).ready


def test_what_another_process_is_at_work_on_is_not_lost_by_a_restart_of_the_servers() -> None:
    assert drained(observation(session(), reports=[report(served=["ses_1"])], holders=[holder()])).ready


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [report(served=["ses_1"], vouches=False)],
        [report(problem="It does not answer.", statuses=None)],
    ],
    ids=["no server answers for it", "its silence means nothing", "it does not answer"],
)
def test_where_nobody_can_say_who_is_at_work_it_may_be_lost(reports: list[ServerReport]) -> None:
    found = drained(observation(session(), reports=reports, holders=[holder()]))
    assert not found.ready
    assert [(loss.session_id, loss.certain) for loss in found.losses] == [(SessionId("ses_1"), False)]


def test_a_server_that_does_not_answer_may_be_at_work() -> None:
    found = drained(observation(reports=[report(problem="It does not answer.")]))
    assert (found.ready, found.losses, found.problems) == (False, (), ("It does not answer.",))


def test_one_folder_that_a_server_cant_answer_for_may_hide_work() -> None:
    half = report(served=["ses_1"], problems={"/elsewhere": "It does not answer for /elsewhere."})
    assert not drained(observation(reports=[half])).ready


def test_what_2_x_is_at_work_on_is_never_taken_for_nothing() -> None:
    seen = observation(reports=[report(served=["ses_1"])])
    assert not drained(replace(seen, snapshot=replace(seen.snapshot, second_generation=2))).ready


def test_a_server_on_another_database_says_nothing_of_this_one() -> None:
    assert drained(observation(reports=[report(not_shown="It is on another database.")])).ready
