"""The overview: which sessions it shows, in which order, and what each waits for."""

from tests.unit.observations import AT, NOW, POLICY, busy, call, observation, question, report, session, turn
from watchdog.explaining.overview import Awaited, SessionLine, overview
from watchdog.judging.judge import judge
from watchdog.model.report import Observation
from watchdog.model.session import EVERYTHING, Activity, SessionId, Status
from watchdog.reporting.overview_documents import session_lines


def lines(seen: Observation) -> dict[str, SessionLine]:
    """The lines by session, in their order."""
    return {line.id: line for line in overview(seen, judge(seen, POLICY, AT), POLICY)}


def test_what_is_finished_is_shown_only_above_or_below_what_is_not() -> None:
    task = call("prt_t", session="ses_mid", turn="msg_mid", tool="task", child_id=SessionId("ses_child"))
    seen = observation(
        session("ses_top", turns=[], age=300),
        session("ses_mid", parent="ses_top", calls=[task], age=200),
        session("ses_child", parent="ses_mid", turns=[], age=100),
        session("ses_asked_for", turns=[], age=50),
        session("ses_done_child", parent="ses_mid", turns=[], age=20),
        reports=[busy("ses_mid")],
    )
    found = lines(seen)
    assert list(found) == ["ses_top", "ses_mid", "ses_child"]
    assert [line.parent_id for line in found.values()] == [None, "ses_top", "ses_mid"]
    assert [line.unfinished for line in found.values()] == [False, True, False]
    assert [found[id_].state for id_ in ("ses_top", "ses_child")] == ["finished", "finished"]


def test_trees_with_something_stuck_come_first_then_the_oldest() -> None:
    hung = call("prt_1", session="ses_stuck", turn="msg_stuck", age=100)
    seen = observation(
        session("ses_oldest", age=900),
        session("ses_young", age=10),
        session("ses_top", age=600),
        session("ses_stuck", parent="ses_top", age=500, calls=[hung]),
        reports=[busy("ses_oldest", "ses_young", "ses_top", "ses_stuck")],
        idle={"ses_oldest": 1, "ses_young": 1, "ses_top": 1},
    )
    found = lines(seen)
    assert list(found) == ["ses_top", "ses_stuck", "ses_oldest", "ses_young"]
    assert found["ses_stuck"].state == "stuck"
    assert found["ses_stuck"].stuck


def test_parents_that_go_round_in_a_circle_are_each_shown_once() -> None:
    seen = observation(
        session("ses_a", parent="ses_b"), session("ses_b", parent="ses_a"), reports=[busy("ses_a", "ses_b")]
    )
    assert sorted(lines(seen)) == ["ses_a", "ses_b"]


def test_what_a_session_waits_for() -> None:
    task = call("prt_t", session="ses_1", tool="task", child_id=SessionId("ses_2"))
    seen = observation(
        session("ses_1", calls=[task]),
        session("ses_2", parent="ses_1", calls=[call("prt_q", session="ses_2", turn="msg_2")]),
        session("ses_3"),
        reports=[
            report(
                statuses={
                    "ses_1": Status(activity=Activity.BUSY),
                    "ses_2": Status(activity=Activity.BUSY),
                    "ses_3": Status(activity=Activity.RETRY, retry_at_ms=NOW + 5000),
                },
                asks=[question("ses_2", turn="msg_2", call_ref="call_prt_q")],
            )
        ],
    )
    found = lines(seen)
    waits = {
        id_: [(each.what, each.session_id, each.call_id, each.until_ms) for each in line.waits]
        for id_, line in found.items()
    }
    assert waits == {
        "ses_1": [(Awaited.CHILD, "ses_2", "prt_t", None)],
        "ses_2": [(Awaited.QUESTION, "ses_2", "prt_q", None)],
        "ses_3": [(Awaited.RETRY, "ses_3", None, NOW + 5000)],
    }
    assert [found[id_].state for id_ in found] == ["waiting_on_human", "waiting_on_human", "retrying"]


def test_holds_of_one_session_and_of_all() -> None:
    both = [session("ses_1"), session("ses_2")]
    one = observation(*both, reports=[busy("ses_1", "ses_2")], on_hold={SessionId("ses_1"): "a person said so"})
    assert [line.on_hold for line in lines(one).values()] == [True, False]
    everything = observation(*both, reports=[busy("ses_1", "ses_2")], on_hold={EVERYTHING: "a person said so"})
    assert [line.on_hold for line in lines(everything).values()] == [True, True]


def test_clocks_tell_how_far_they_are_and_when_they_end() -> None:
    running, past = call("prt_1", age=15), call("prt_2", age=90)
    seen = observation(session(turns=[turn()], calls=[running, past]), reports=[busy("ses_1")])
    (line,) = session_lines(
        overview(seen, judge(seen, POLICY, AT), POLICY),
        at_ms=NOW,
        titles={SessionId("ses_1"): "x"},
        acting=[SessionId("ses_1")],
    )
    assert [(clock["part_id"], clock["fraction"]) for clock in line["clocks"]] == [("prt_1", 0.25), ("prt_2", 1.0)]
    assert [clock["until"] for clock in line["clocks"]] == ["2027-01-15T08:00:45.000Z", "2027-01-15T07:59:30.000Z"]
    assert (line["title"], line["acting"], line["open_message_ids"]) == ("x", True, ["msg_1"])


def test_a_clock_that_stands_still_or_that_nobody_can_tell_has_no_end() -> None:
    asking = observation(
        session(calls=[call()]),
        reports=[report(statuses={"ses_1": Status(activity=Activity.BUSY)}, asks=[question("ses_1")])],
    )
    silent = observation(session("ses_1", age=100), reports=[busy("ses_1")])
    for seen, fraction in ((asking, 0.1667), (silent, None)):
        (line,) = session_lines(overview(seen, judge(seen, POLICY, AT), POLICY), at_ms=NOW, titles={}, acting=())
        assert [clock["until"] for clock in line["clocks"]] == [None]
        assert line["title"] is None
        assert [clock["fraction"] for clock in line["clocks"]] == [fraction]
