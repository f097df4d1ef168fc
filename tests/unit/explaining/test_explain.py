"""What `explain` says: of each situation, as JSON, on a terminal and in a pipe; and what it never says."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.fakes.server import FakeServer, endpoint, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, rows
from tests.unit.judging.test_properties import IDS, scene
from tests.unit.observations import (
    AT,
    NOW,
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
from watchdog.console.terminal import Terminal
from watchdog.explaining.clocks import stands_still
from watchdog.explaining.explain import explain
from watchdog.explaining.values import Clock, Explanation, Setting, Stance, WitnessKind
from watchdog.explaining.values import Testimony as Said  # pytest takes what begins with Test for tests
from watchdog.judging.facts import Case
from watchdog.judging.judge import judge
from watchdog.model.policy import Policy
from watchdog.model.report import Attempts, Holders, Observation, Witness
from watchdog.model.session import Activity, AskKind, Damage, ServerName, Session, SessionId, Snapshot, Status
from watchdog.observing.memory import Memory, _waits
from watchdog.reporting.explain_documents import explain_document
from watchdog.reporting.explain_tables import explanation as render
from watchdog.reporting.tables import Screen

__all__ = ["path", "program", "rows"]

UNHEARD = Witness()


def explained(seen: Observation, id_: str = "ses_1", *, policy: Policy = POLICY, **more: Any) -> Explanation:  # noqa: ANN401
    """The explanation of a session, as the judge decides."""
    return explain(seen, judge(seen, policy, AT), policy, SessionId(id_), **more)


def family(*, child_age: float = 20, task_age: float = 30) -> tuple[Session, Session]:
    """A session whose task call waits on its child, which runs a command."""
    parent = session("ses_1", calls=[call("prt_1", tool="task", age=task_age, child_id=SessionId("ses_2"))])
    running = [call("prt_2", session="ses_2", turn="msg_2", age=child_age)]
    return parent, session("ses_2", parent="ses_1", calls=running, age=task_age)


# Situations.


@dataclass(frozen=True, kw_only=True)
class Situation:
    """An observation, and what must be said of it."""

    seen: Observation
    sentence: str
    stuck: bool = False
    advice: tuple[str, ...] = ()
    id: str = "ses_1"
    policy: Policy = POLICY
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


LOST = session(calls=[call(age=50)])
OLD = holder(4711, age=900, command="opencode …")
ASK_THERE = (
    "opencode … (pid 4711) may be at work on msg_1, and it can't be asked: look there. If nothing runs there, quit "
    "it; what it leaves open is then settled. With `opencode-watchdog bridge install` the next one can be asked."
)
SITUATIONS: Mapping[str, Situation] = {
    "a stuck leaf": Situation(
        seen=observation(session(calls=[call(age=61)]), reports=[busy("ses_1")]),
        sentence="It is stuck (stuck_tool): the bash call ran 61 s, past its limit of 60 s. It is to be ended.",
        stuck=True,
        advice=("`opencode-watchdog release ses_1` ends it now",),
        names=("stuck_tool",),
    ),
    "a stuck leaf that nobody can reach": Situation(
        seen=observation(session(calls=[call(age=61)]), holders=[OLD]),
        sentence="No server that answers holds it, so nobody can end it from here.",
        stuck=True,
        advice=("opencode … (pid 4711) may be at work on msg_1, and it can't be asked: look there.",),
        names=("stuck_tool",),
    ),
    "within its limit": Situation(
        seen=observation(session(calls=[call(age=20)]), reports=[busy("ses_1")]),
        sentence="It is left alone: the bash call has run for 20 s of 60 s (within_limit). "
        "By the mere passing of time that may change in 40 s.",
        names=("within_limit",),
    ),
    "waiting on its child": Situation(
        seen=observation(*family(), reports=[busy("ses_1", "ses_2")]),
        sentence="It is left alone: its child session ses_2 is unfinished (waiting_on_child).",
        names=("waiting_on_child",),
    ),
    "waiting on a child that is stuck": Situation(
        seen=observation(*family(child_age=61, task_age=70), reports=[busy("ses_1", "ses_2")]),
        sentence="Session ses_2 in its tree is stuck and is ended first.",
        stuck=True,
        names=("waiting_on_child",),
    ),
    "a person is asked": Situation(
        seen=observation(
            session(calls=[call(age=500)]),
            reports=[replace(busy("ses_1"), asks={"/work/tree": (question("ses_1"),)})],
        ),
        sentence="It is left alone: the bash call waits for a person to answer (waiting_on_human).",
        advice=("Answer what session ses_1 asks, in its client; or end it: `opencode-watchdog release ses_1`.",),
        names=("waiting_on_human",),
    ),
    "a retry": Situation(
        seen=observation(
            session(), reports=[report(statuses={"ses_1": Status(activity=Activity.RETRY, retry_at_ms=NOW + 60_000)})]
        ),
        sentence="It is left alone: it waits to try its provider again (retrying). "
        "By the mere passing of time that may change in 90 s.",
        names=("retrying",),
    ),
    "nobody can tell, because of a process": Situation(
        seen=observation(session(), holders=[OLD]),
        sentence="It is left alone: no server answers for it, and opencode … (pid 4711) may be at work on it "
        "(no_witness).",
        advice=(ASK_THERE,),
        names=("no_witness",),
    ),
    "a call within its limit that a process holds": Situation(
        seen=observation(LOST, holders=[OLD]),
        sentence="That nobody is at work on it can't be proven: opencode … (pid 4711) may be at work on it.",
        names=("within_limit",),
    ),
    "a server that was not named": Situation(
        seen=observation(session(), holders=[replace(OLD, endpoints=(endpoint(4097),))]),
        sentence="(no_witness)",
        advice=("if it is a server, name it (`servers` or --server http://127.0.0.1:4097)",),
    ),
    "a server that refuses": Situation(
        seen=observation(session(), holders=[holder()], reports=[report(problem="It answered 401.")]),
        sentence="(no_witness)",
        advice=(f"make {SERVER} answer. It answered 401.",),
    ),
    "a server of old": Situation(
        seen=observation(session(), holders=[holder()], reports=[report(vouches=False)]),
        sentence="(no_witness)",
        advice=(f"{SERVER} can't exclude it before version 1.14: upgrade it",),
    ),
    "a server of another database": Situation(
        seen=observation(session(), holders=[holder()], reports=[report()]),
        sentence="(no_witness)",
        advice=(f"{SERVER} does not exclude it (it is not proven to serve this database).",),
    ),
    "a process that is not seen": Situation(
        seen=observation(session(), holders=Holders(complete=False, why_incomplete="One is hidden.")),
        sentence="It is left alone: no server answers for it, and One is hidden (no_witness).",
        advice=("if only the configured servers use this database, set `sole_owner = true`.",),
    ),
    "a process that is not seen, under sole_owner": Situation(
        seen=observation(session(), holders=Holders(complete=False, why_incomplete="One is hidden.")),
        policy=replace(POLICY, sole_owner=True),
        sentence="(no_witness)",
        advice=("no configured server excludes itself: name the server that uses this database",),
    ),
    "a first look": Situation(
        seen=observation(LOST, holders=[holder(age=10)], looks={"prt_1": back(20), "msg_1": back(20)}),
        sentence="opencode serve (pid 100) started after it began",
        advice=("Wait 10 s for the second look",),
        names=("first_look",),
    ),
    "a look that only shows": Situation(
        seen=observation(LOST, holders=[holder(age=10)]),
        policy=replace(POLICY, orphan_looks=1),
        sentence="acting on it takes a second look, 30 s later. Then it is settled.",
        stuck=True,
        advice=("Wait 30 s for the second look",),
        names=("orphan",),
    ),
    "given up": Situation(
        seen=observation(
            session(calls=[call(age=61)]),
            reports=[busy("ses_1")],
            attempts={
                "cancel:prt_1": Attempts(
                    count=3, tries=3, given_up=True, newest_prompt_id="msg_prompt", not_before=AT + 3600
                )
            },
        ),
        sentence="3 attempts did not end it; it is left to a person, and tried again in 60 min (given_up)",
        advice=("Look at session ses_1; if it should end, `opencode-watchdog release ses_1` tries again.",),
        names=("given_up",),
    ),
    "an orphan with nobody": Situation(
        seen=observation(LOST, holders=[]),
        sentence="It is stuck (orphan): nobody executes it: no process has the database open; it began 60 s ago. "
        "It is to be settled.",
        stuck=True,
        advice=("`opencode-watchdog recover` settles it now.",),
        names=("orphan",),
    ),
    "nobody hears it": Situation(
        seen=observation(session(), reports=[busy("ses_1", witness=UNHEARD)]),
        sentence="That is so for this look alone, which does not listen; a running watchdog does.",
        names=("no_witness",),
        notes=("explain looks once and does not listen to the event feeds",),
    ),
    "finished": Situation(
        seen=observation(session(turns=[])),
        sentence="It is finished: nothing is open in it, and no server is at work on it.",
    ),
    "finished above an unfinished one": Situation(
        seen=observation(session(turns=[]), session("ses_2", parent="ses_1"), reports=[busy("ses_2")]),
        sentence="It is finished: nothing is open in it, and no server is at work on it. "
        "Session ses_2 below it is unfinished.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_each_situation_is_said_in_a_sentence_with_what_to_do(situation: Situation) -> None:
    found = explained(situation.seen, situation.id, policy=situation.policy)
    assert situation.sentence in found.sentence
    assert found.stuck is situation.stuck
    for words in situation.advice:
        assert any(words in each for each in found.advice), found.advice
    asked = next(page for page in found.sessions if page.asked)
    if situation.names:
        assert tuple(dict.fromkeys(finding.name for finding in asked.findings)) == situation.names
    for words in situation.notes:
        assert any(words in each for each in found.notes), found.notes


def test_what_is_as_it_should_be_needs_no_advice() -> None:
    assert explained(SITUATIONS["within its limit"].seen).advice == ()
    assert explained(SITUATIONS["waiting on its child"].seen).advice == ()
    assert explained(SITUATIONS["nobody hears it"].seen).advice == ()


def test_a_feed_that_a_running_watchdog_can_not_hear_is_a_matter_for_a_person() -> None:
    found = explained(SITUATIONS["nobody hears it"].seen, listening=True)
    assert found.sentence.endswith("is not connected (no_witness).")
    assert found.advice == ("If you know that session ses_1 should end, `opencode-watchdog release ses_1` ends it.",)


def test_a_damaged_row_is_named_and_never_touched() -> None:
    damage = Damage(table="part", id="prt_x", session_id=SessionId("ses_1"), problem="its JSON is broken")
    seen = observation(session(turns=[]))
    seen = replace(seen, snapshot=replace(seen.snapshot, damaged=(damage,)))
    found = explained(seen)
    assert found.sentence == "A row of it can't be read; it is reported, and never touched."
    assert "part prt_x of session ses_1 can't be read: its JSON is broken" in found.notes


def test_a_session_whose_own_row_is_damaged_is_still_explained() -> None:
    damage = Damage(table="session", id="ses_1", session_id=SessionId("ses_1"), problem="its directory can't be read")
    found = explained(Observation(at_ms=NOW, now=AT, steady_since_ms=0, snapshot=Snapshot(damaged=(damage,))))
    assert found.sessions == ()
    assert piped(found)[0][2] == "damaged"
    assert "never touched" in found.sentence
    assert terminal(found, 80)


def test_a_session_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(KeyError):
        explained(observation(session()), "ses_9")


# The tree.


def test_the_tree_goes_from_the_root_down_to_all_children_and_marks_the_one() -> None:
    parent, child = family()
    other = session("ses_3", turns=[], parent="ses_1", age=10)
    stranger = session("ses_4")
    found = explained(observation(other, child, stranger, parent), "ses_2")
    assert [(page.id, page.parent_id, page.depth, page.asked) for page in found.sessions] == [
        ("ses_1", None, 0, False),
        ("ses_2", "ses_1", 1, True),
        ("ses_3", "ses_1", 1, False),
    ]


def test_a_child_that_only_its_task_call_names_is_part_of_the_tree() -> None:
    parent, child = family()
    found = explained(observation(parent, replace(child, parent_id=None)), "ses_2")
    assert [page.id for page in found.sessions] == ["ses_1", "ses_2"]


@pytest.mark.parametrize("asked", ["ses_1", "ses_2", "ses_3"])
def test_a_cycle_is_walked_once_and_said(asked: str) -> None:
    seen = observation(
        session("ses_1", parent="ses_2"), session("ses_2", parent="ses_1"), session("ses_3", parent="ses_2")
    )
    found = explained(seen, asked)
    assert sorted(page.id for page in found.sessions) == ["ses_1", "ses_2", "ses_3"]
    assert "The parents of these sessions form a circle; each is shown once." in found.notes
    assert terminal(found, 80)


def test_a_session_that_is_its_own_parent_is_a_root() -> None:
    assert [page.depth for page in explained(observation(session(parent="ses_1"))).sessions] == [0]


def test_a_tree_of_a_thousand_levels_is_shown() -> None:
    chain = [session(f"ses_{n}", parent=f"ses_{n - 1}" if n > 1 else None, turns=[]) for n in range(1, 1001)]
    found = explained(observation(*chain), "ses_1000")
    assert found.sessions[-1].depth == 999
    assert "ses_1000" in terminal(found, 80)


# Clocks.


def clock_of(seen: Observation, policy: Policy = POLICY, id_: str = "ses_1") -> Clock:
    """The first clock of the first call."""
    page = next(page for page in explained(seen, id_, policy=policy).sessions if page.asked)
    return page.turns[0].calls[0].clocks[0]


@pytest.mark.parametrize(
    ("policy", "declared_ms", "origin", "limit"),
    [
        ({}, None, "tool_timeout", 60),
        ({"tool_timeout_seconds": None}, None, "tool_timeout: off", None),
        ({"tool_timeouts": {"b*": 90.0, "bas?": 80.0}}, None, 'tool_timeouts "bas?"', 80),
        ({"tool_timeouts": {"bash": None}}, None, 'tool_timeouts "bash": off', None),
        ({}, 100_000, "100 s that it declares + 60 s grace", 160),
        ({}, 0, "tool_timeout", 60),
        ({"tool_timeout_seconds": 1000}, 100_000, "tool_timeout", 1000),
        (
            {"max_declared_timeout_seconds": 110},
            10**9,
            "110 s that it declares (max_declared_timeout) + 60 s grace",
            170,
        ),
    ],
)
def test_a_limit_says_where_it_comes_from(
    policy: dict[str, Any], declared_ms: float | None, origin: str, limit: float | None
) -> None:
    seen = observation(session(calls=[call(age=50, declared_timeout_ms=declared_ms)]), reports=[busy("ses_1")])
    clock = clock_of(seen, replace(POLICY, **policy))
    assert (clock.origin, clock.limit_seconds) == (origin, limit)
    assert clock.remaining_seconds == (None if limit is None else limit - 50)


def test_a_task_has_the_clocks_of_a_task_while_it_waits() -> None:
    seen = observation(*family(), reports=[busy("ses_1", "ses_2")])
    clock = clock_of(seen)
    assert (clock.setting, clock.origin, clock.remaining_seconds) == (Setting.TASK_TIMEOUT, "task_timeout", 270)
    hard = explained(seen, policy=replace(POLICY, task_timeout_seconds=None, task_hard_timeout_seconds=900))
    origins = [each.origin for each in hard.sessions[0].turns[0].calls[0].clocks]
    assert origins == ["task_timeout: off", "task_hard_timeout"]


def test_a_task_whose_child_ended_counts_from_the_childs_last_sign_of_life() -> None:
    parent, child = family()
    clock = clock_of(observation(parent, replace(child, turns=(), calls=()), reports=[busy("ses_1")]))
    assert (clock.origin, clock.age_seconds) == ("tool_timeout, since its child session ended", 20)


@pytest.mark.parametrize(
    ("reports", "still"),
    [
        ([busy("ses_1", "ses_2")], None),
        ([replace(busy("ses_1", "ses_2"), asks={"/work/tree": (question("ses_2"),)})],
         "a person is asked for something below it"),
        ([replace(busy("ses_1", "ses_2"), asks={"/work/tree": (question("ses_1"),)})],
         "a person is asked for something"),
        ([replace(busy("ses_1", "ses_2"), asks={})],
         f"{SERVER} does not say whether a person is asked for something"),
        ([report(statuses={"ses_1": Status(activity=Activity.RETRY)})],
         "its session waits to try its provider again"),
        ([report(statuses={"ses_2": Status(activity=Activity.RETRY)})],
         "a session below it waits to try its provider again"),
    ],
)  # fmt: skip
def test_a_clock_says_why_it_stands_still(reports: list[Any], still: str | None) -> None:
    assert clock_of(observation(*family(), reports=reports)).still == still


@pytest.mark.parametrize(
    ("start", "updated", "note"),
    [
        (40, 50, None),
        (30, 30, "counts from the last write of its row: until then it may have waited for an approval"),
        (25, 40, "15 s do not count: waits for a person or a provider, sleep of the machine, or what nobody saw"),
    ],
)
def test_a_clock_says_what_it_leaves_out(start: float, updated: float, note: str | None) -> None:
    running = call(age=40, updated_ms=ago(updated))
    seen = observation(session(calls=[running]), reports=[busy("ses_1")], call_clocks={running.id: back(start)})
    clock = clock_of(seen)
    assert (clock.age_seconds, clock.uncounted_seconds, clock.note) == (start, 40 - start, note)


def test_a_call_that_waits_at_first_sight_counts_from_now() -> None:
    running = call(age=40)
    asking = replace(busy("ses_1"), asks={"/work/tree": (question("ses_1"),)})
    seen = observation(session(calls=[running]), reports=[asking], call_clocks={running.id: AT})
    assert clock_of(seen).note == "counts from this look on: it was already waiting when it was first seen"


def test_a_call_of_an_older_turn_has_no_clock() -> None:
    seen = observation(session(turns=[turn(superseded=True)], calls=[call()]), reports=[busy("ses_1")])
    assert explained(seen).sessions[0].turns[0].calls[0].clocks == ()


@pytest.mark.parametrize(
    ("seen", "policy", "expected"),
    [
        (observation(session(), reports=[busy("ses_1")], idle={"ses_1": 10}), POLICY, ("idle_timeout", 10, 20)),
        (observation(session(), reports=[busy("ses_1")]), POLICY, ("idle_timeout", None, None)),
        (
            observation(session(), reports=[busy("ses_1")], idle={"ses_1": 10}),
            replace(POLICY, idle_timeout_seconds=None),
            ("idle_timeout: off", 10, None),
        ),
    ],
)
def test_silence_has_a_clock_where_no_call_is_open(
    seen: Observation, policy: Policy, expected: tuple[str, float | None, float | None]
) -> None:
    [clock] = explained(seen, policy=policy).sessions[0].clocks
    assert (clock.origin, clock.age_seconds, clock.remaining_seconds) == expected


def test_silence_counts_for_the_task_above_where_no_call_has_a_limit() -> None:
    seen = observation(*family(), reports=[busy("ses_1", "ses_2")], idle={"ses_2": 5})
    free = replace(POLICY, tool_timeouts={"bash": None})
    assert explained(seen).sessions[1].clocks == ()
    assert [clock.age_seconds for clock in explained(seen, policy=free).sessions[1].clocks] == [5]


def test_silence_counts_from_the_next_try_of_the_provider() -> None:
    waiting = Status(activity=Activity.RETRY, retry_at_ms=ago(3))
    [clock] = explained(observation(session(), reports=[report(statuses={"ses_1": waiting})], idle={"ses_1": 40})) \
        .sessions[0].clocks  # fmt: skip
    assert clock.age_seconds == 3


def test_the_second_look_has_a_clock() -> None:
    [*_, clock] = explained(SITUATIONS["a first look"].seen).sessions[0].clocks
    assert (clock.setting, clock.age_seconds, clock.remaining_seconds) == (Setting.ORPHAN_GRACE, 20, 10)


# Witnesses.


def witnesses(seen: Observation, kind: WitnessKind, **more: Any) -> list[Said]:  # noqa: ANN401
    """What the witnesses of a kind say of the session."""
    page = next(page for page in explained(seen, **more).sessions if page.asked)
    return [each for each in page.testimonies if each.kind is kind]


def test_the_database_says_the_last_sign_of_life() -> None:
    [said] = witnesses(observation(LOST), WitnessKind.DATABASE)
    assert said.since_ms == ago(20)


@pytest.mark.parametrize(
    ("witness", "listening", "says", "since"),
    [
        (Witness(), False, "not listened to by this look", None),
        (Witness(), True, "not connected", None),
        (Witness(connected=True, since=back(90)), True, "connected", ago(90)),
        (
            Witness(connected=True, since=back(90), gaps=((back(50), back(45)), (back(20), back(19)))),
            True,
            "connected, 2 gaps of 6 s in all",
            ago(90),
        ),
    ],
)
def test_a_feed_says_since_when_it_is_heard_and_its_gaps(
    witness: Witness, *, listening: bool, says: str, since: int | None
) -> None:
    [said] = witnesses(
        observation(LOST, reports=[busy("ses_1", witness=witness)]), WitnessKind.FEED, listening=listening
    )
    assert (said.says, said.since_ms) == (says, since)


def test_a_feed_says_when_it_last_heard_of_the_session() -> None:
    [said] = witnesses(
        observation(LOST, reports=[busy("ses_1", life={SessionId("ses_1"): back(7)})]), WitnessKind.FEED
    )
    assert said.says == "connected; last heard of it 7 s ago"


@pytest.mark.parametrize(
    ("server", "stance", "says"),
    [
        (busy("ses_1"), Stance.AT_WORK, "at work on it"),
        (report(statuses={"ses_1": Status(activity=Activity.RETRY, retry_at_ms=NOW + 5000)}), Stance.WAITS,
         "waits to try its provider again (due in 5 s)"),
        (report(statuses={"ses_1": Status(activity=Activity.RETRY)}), Stance.WAITS,
         "waits to try its provider again"),
        (report(problem="It broke.", directories=()), Stance.SILENT, "no answer: It broke."),
        (report(problem="It broke elsewhere."), Stance.SILENT,
         "no answer: It broke elsewhere."),
        (report(directories=()), Stance.SILENT, "was not asked about its folder: nothing is open there"),
        (report(served=["msg_1"]), Stance.EXCLUDED, "not at work on it; it serves this database"),
        (report(vouches=False), Stance.SILENT, "not at work on it; before version 1.14 that proves nothing"),
        (report(), Stance.SILENT, "not at work on it; it is not proven to serve this database"),
        (report(served=["msg_1"], asks=[question("ses_1")]), Stance.SILENT,
         "not at work on it; it asks a person something for it"),
    ],
)  # fmt: skip
def test_each_answer_of_a_server_is_weighed(server: Any, stance: Stance, says: str) -> None:  # noqa: ANN401
    [said] = witnesses(observation(LOST, reports=[server]), WitnessKind.SERVER)
    assert (said.stance, said.says, said.who) == (stance, says, SERVER)


@pytest.mark.parametrize(
    ("ask", "stance", "says"),
    [
        (question("ses_1", call_ref="call_prt_1"), Stance.WAITS, "waits for a person, for the bash call prt_1"),
        (question("ses_1"), Stance.WAITS, "waits for a person, for anything open in the session"),
        (question("ses_1", call_ref="call_old"), Stance.SILENT,
         "left over: what it was for is not open any more"),
    ],
)  # fmt: skip
def test_an_ask_says_for_which_call_it_waits(ask: Any, stance: Stance, says: str) -> None:  # noqa: ANN401
    asking = replace(busy("ses_1"), asks={"/work/tree": (ask,)})
    [said] = witnesses(observation(LOST, reports=[asking]), WitnessKind.ASK)
    assert (said.who, said.stance) == ("question que_1", stance)
    assert said.says == f"{says} ({SERVER})"
    permission = replace(asking, asks={"/work/tree": (replace(ask, kind=AskKind.PERMISSION),)})
    assert witnesses(observation(LOST, reports=[permission]), WitnessKind.ASK)[0].who == "permission que_1"


@pytest.mark.parametrize(
    ("process", "server", "stance", "says"),
    [
        (holder(age=10), None, Stance.EXCLUDED, "excluded by birth: born 40 s after it began"),
        (holder(age=47), None, Stance.BLOCKS,
         "born only 3 s after it began, within birth_margin, and no server answers for it"),
        (holder(age=100), None, Stance.BLOCKS, "born 50 s before it began, and no server answers for it"),
        (holder(age=100), report(served=["msg_1"]), Stance.EXCLUDED,
         f"excluded by its answer: {SERVER} is not at work on it"),
        (holder(age=100), report(problem="It broke."), Stance.BLOCKS,
         f"born 50 s before it began, and {SERVER} does not exclude it: no usable answer: It broke."),
        (holder(age=10, embeds_us=True), None, Stance.BLOCKS,
         "it is the server that the watchdog is part of, and no server answers for it"),
        (holder(age=100), busy("ses_1"), Stance.AT_WORK, "the server that is at work on it"),
        (holder(9, age=100), busy("ses_1"), Stance.SILENT, "has the database open; nothing has to be proven"),
    ],
)  # fmt: skip
def test_each_process_is_excluded_or_says_why_not(process: Any, server: Any, stance: Stance, says: str) -> None:  # noqa: ANN401
    reports = [server] if server else []
    [said] = witnesses(observation(LOST, reports=reports, holders=[process]), WitnessKind.HOLDER)
    assert (said.stance, said.says) == (stance, says)
    assert (said.pid, said.since_ms) == (process.pid, process.born_ms)


def test_after_a_step_of_the_clock_no_process_is_excluded_by_its_birth() -> None:
    [said] = witnesses(observation(LOST, holders=[holder(age=10)], steady_since_ms=ago(5)), WitnessKind.HOLDER)
    assert said.stance is Stance.BLOCKS
    assert said.says.startswith("the clock may have been set after it began, so births can't be compared")


def test_no_holder_an_unknown_one_and_a_hidden_one_are_told_apart() -> None:
    def said(holders: Holders | None, **more: Any) -> tuple[str, Stance]:  # noqa: ANN401
        [each] = witnesses(observation(LOST, holders=holders, **more), WitnessKind.HOLDER)
        return each.says, each.stance

    assert said(Holders()) == ("no process has the database open", Stance.EXCLUDED)
    assert said(None, reports=[busy("ses_1")])[1] is Stance.SILENT
    assert said(Holders(complete=False, why_incomplete="One is hidden.")) == ("One is hidden.", Stance.BLOCKS)


def test_sole_owner_shows_where_it_vouches() -> None:
    seen = observation(LOST, reports=[report(served=["msg_1"])], holders=Holders(complete=False))
    [said] = witnesses(seen, WitnessKind.HOLDER, policy=replace(POLICY, sole_owner=True))
    assert said.stance is Stance.SILENT
    assert "sole_owner vouches" in said.says


# Always.


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**48))
def test_whatever_was_seen_can_be_explained_and_shown(seed: int) -> None:
    made = scene(seed)
    id_ = made.id_ if made.id_ in made.seen.snapshot.sessions else IDS[0]
    found = explain(made.seen, made.judged(), made.policy, id_, holds=["held"], history=["done"])
    ids = [page.id for page in found.sessions]
    assert ids.count(id_) == 1
    assert len(ids) == len(set(ids))
    assert json.loads(json.dumps(explain_document("/db", found)))["session_id"] == id_
    shown = terminal(found, 120)
    assert all(finding.name in shown for page in found.sessions for finding in page.findings)
    assert all(len(line) <= 80 for line in terminal(found, 80).splitlines())
    assert all(len(line) > 1 for line in piped(found))


def test_a_running_watchdog_needs_no_excuses() -> None:
    seen = observation(session(), reports=[busy("ses_1")], idle={"ses_1": 1})
    assert explained(seen, listening=True).notes == ()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**48))
def test_a_clock_stands_still_exactly_when_memory_stops_it(seed: int) -> None:
    made = scene(seed)
    case, memory = Case(made.seen, made.policy, AT), Memory()
    for each in made.seen.snapshot.sessions.values():
        for part in each.calls:
            stopped = memory._stands_still(made.seen, each) or _waits(case.family, each, part)
            stopped = stopped or each.id in made.seen.stopped
            assert (stands_still(case, each, part) is not None) is stopped


def test_times_that_no_calendar_has_are_told_as_unknown() -> None:
    far = 10**18
    seen = observation(replace(LOST, last_life_ms=far, created_ms=far), holders=[replace(OLD, born_ms=-far)])
    found = explained(seen, policy=replace(POLICY, tool_timeout_seconds=1e15))
    document = explain_document("/db", found)["sessions"][0]
    assert {each["since"] for each in document["witnesses"]} == {None}
    assert document["findings"][0]["until"] is None
    assert terminal(found, 20)
    assert ["witness", "ses_1", "database", "silent", "-", "-", "last sign of life in the rows"] in piped(found)


# JSON.


def test_the_document_is_exact() -> None:
    seen = observation(LOST, holders=[OLD], degraded=(f"{SERVER} can't be reached.",))
    found = explained(seen, holds=["ann said so"], history=["12 failed"], listening=True)
    assert explain_document("/opencode.db", found) == {
        "version": 1,
        "database": "/opencode.db",
        "observed_at": "2027-01-15T08:00:00.000Z",
        "session_id": "ses_1",
        "stuck": False,
        "judgement": "It is left alone: the bash call has run for 50 s of 60 s (within_limit). By the mere passing "
        "of time that may change in 10 s. That nobody is at work on it can't be proven: opencode … (pid 4711) may be "
        "at work on it.",
        "advice": [
            ASK_THERE
        ],
        "on_hold": ["ann said so"],
        "interventions": ["12 failed"],
        "notes": [f"{SERVER} can't be reached."],
        "sessions": [
            {
                "session_id": "ses_1", "parent_id": None, "depth": 0, "asked": True, "unfinished": True,
                "damaged": False,
                "findings": [
                    {
                        "name": "within_limit", "stuck": False, "part_id": "prt_1",
                        "why": "the bash call has run for 50 s of 60 s", "until": "2027-01-15T08:00:10.000Z",
                    }
                ],
                "turns": [
                    {
                        "message_id": "msg_1", "open": True, "superseded": False, "age_seconds": 60.0,
                        "calls": [
                            {
                                "part_id": "prt_1", "tool": "bash", "status": "running", "age_seconds": 50.0,
                                "waits_on_session_id": None,
                                "clocks": [
                                    {
                                        "setting": "tool_timeout", "origin": "tool_timeout", "age_seconds": 50.0,
                                        "limit_seconds": 60, "remaining_seconds": 10.0, "uncounted_seconds": 0.0,
                                        "stands_still": None, "note": None,
                                    }
                                ],
                            }
                        ],
                    }
                ],
                "clocks": [],
                "witnesses": [
                    {
                        "witness": "database", "who": "", "says": "last sign of life in the rows",
                        "stance": "silent", "since": "2027-01-15T07:59:40.000Z", "pid": None, "message_id": None,
                        "part_id": None,
                    },
                    {
                        "witness": "holder", "who": "opencode … (pid 4711)",
                        "says": "born 14.2 min before it began, and no server answers for it", "stance": "blocks",
                        "since": "2027-01-15T07:45:00.000Z", "pid": 4711, "message_id": "msg_1", "part_id": None,
                    },
                ],
            }
        ],
    }  # fmt: skip


PAGE = Path(__file__).parents[3] / "docs/explain.md"


def documented() -> Explanation:
    """The example of the documentation: a terminal UI stands against a proof."""
    root, child = "ses_6fa1c0d2effe3Xk2b9QmZr7TtU", "ses_6fa1c0d2effe9Yp4c1WnAs8VvW"
    above, below = "msg_905e3f2f1001aBcDeFgHiJkLmN", "msg_905e3f2f3001pQrStUvWxYzAb"
    task = call(
        "prt_905e3f2f2001aBcDeFgHiJkLmN", session=root, turn=above, tool="task", age=3000, child_id=SessionId(child)
    )
    running = call("prt_905e3f2f4001pQrStUvWxYzAb", session=child, turn=below, age=1500)
    seen = observation(
        session(root, turns=[turn(above, session=root, age=3600)], calls=[task], age=4000, life=3000),
        session(child, parent=root, turns=[turn(below, session=child, age=2990)], calls=[running], life=1500),
        reports=[report(witness=UNHEARD, pid=52114, served=[above, below])],
        holders=[holder(48211, age=90_000, command="opencode …"), holder(52114, age=600)],
    )
    return explained(seen, child, policy=Policy())


def blocks(language: str) -> list[str]:
    """The blocks of the documentation in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_documented_page_is_what_a_person_sees() -> None:
    shown = "\n".join(line.rstrip() for line in terminal(documented(), 80).splitlines())
    assert blocks("text")[0].strip() == shown.strip()


def test_the_documented_document_is_what_is_printed() -> None:
    document = explain_document("/home/ann/.local/share/opencode/opencode.db", documented())
    document["sessions"] = [each for each in document["sessions"] if each["asked"]]
    assert json.loads(blocks("json")[0]) == document


@pytest.mark.parametrize("words", [Stance, WitnessKind, Setting])
def test_every_word_that_may_appear_is_documented(words: type[Stance | WitnessKind | Setting]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [word.value for word in words if f"| `{word.value}` |" not in page] == []


# On a terminal, and in a pipe.


def terminal(found: Explanation, width: int, *, encoding: str = "utf-8") -> str:
    """What a person sees, without colours."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(
        file=file, width=width, force_terminal=True, color_system=None, highlight=False, soft_wrap=True,
        legacy_windows=False,
    )  # fmt: skip
    render(Screen(console=console), found)
    file.seek(0)
    return file.read()


def piped(found: Explanation) -> list[list[str]]:
    """The cells of each line in a pipe."""
    file = io.StringIO()
    render(Screen(console=Terminal(file=file)), found)
    return [line.split("\t") for line in file.getvalue().splitlines()]


LONG = "ses_" + "a" * 26


def long_family() -> Observation:
    """Ids as long as opencode's, three deep."""
    ids = [f"ses_{letter * 26}" for letter in "abc"]
    made = []
    for depth, id_ in enumerate(ids):
        message, below = f"msg_{id_[4:]}", ids[depth + 1] if depth < 2 else None
        tool = "task" if below else "mcp_a_tool_with_a_name_that_does_not_end"
        part = call(f"prt_{id_[4:]}", session=id_, turn=message, tool=tool, age=50, child_id=below)
        made.append(session(id_, parent=ids[depth - 1] if depth else None, calls=[part], age=60 - depth))
    return observation(*made, reports=[busy(*ids)], holders=[holder()])


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_and_breaks_no_id(width: int) -> None:
    shown = terminal(explained(long_family(), "ses_" + "b" * 26, holds=["held " * 30], history=["done " * 30]), width)
    lines = shown.splitlines()
    assert all(len(line) <= width for line in lines), shown
    for letter in "abc":
        for kind in ("ses", "msg", "prt"):
            assert f"{kind}_{letter * 26}" in shown
    assert f"ses_{'b' * 26} ◀ this one" in shown
    assert "━━━━━━━━━━━━━━━━──── 50 s of 60 s, 10 s left" in shown
    assert "on hold" in shown
    assert "earlier interventions" in shown


def test_a_terminal_without_unicode_gets_plain_characters() -> None:
    shown = terminal(explained(long_family(), LONG), 80, encoding="ascii")
    assert "################---- 50 s of 60 s" in shown
    assert f"{LONG} <- this one" in shown


def test_colours_mean_something() -> None:
    def coloured(seen: Observation) -> str:
        file = io.StringIO()
        console = Console(file=file, width=100, force_terminal=True, color_system="standard", highlight=False)
        render(Screen(console=console), explained(seen))
        return file.getvalue()

    stuck, fine = coloured(SITUATIONS["a stuck leaf"].seen), coloured(SITUATIONS["within its limit"].seen)
    assert "\x1b[31m━━━━" in stuck
    assert "\x1b[31m╭─" in stuck
    assert "\x1b[32m━━━━" in fine
    assert "\x1b[32m╭─" in fine
    assert "\x1b[31mblocks" in coloured(SITUATIONS["nobody can tell, because of a process"].seen)


def test_a_pipe_gets_one_line_for_each_thing() -> None:
    found = explained(observation(LOST, holders=[OLD]), listening=True, holds=["held"], history=["done"])
    assert piped(found) == [
        ["judgement", "ses_1", "unfinished", found.sentence],
        ["session", "ses_1", "-", "0", "unfinished", "asked"],
        ["finding", "ses_1", "prt_1", "within_limit", "the bash call has run for 50 s of 60 s"],
        ["turn", "ses_1", "msg_1", "open", "60 s"],
        ["call", "ses_1", "prt_1", "bash", "running", "50 s", "-"],
        ["clock", "ses_1", "prt_1", "tool_timeout", "50 s", "60 s", "10 s", "tool_timeout"],
        ["witness", "ses_1", "database", "silent", "-", "2027-01-15T07:59:40.000Z", "last sign of life in the rows"],
        ["witness", "ses_1", "holder", "blocks", "opencode … (pid 4711)", "2027-01-15T07:45:00.000Z",
         "born 14.2 min before it began, and no server answers for it"],
        ["advice", *found.advice],
        ["on hold", "held"],
        ["intervention", "done"],
    ]  # fmt: skip


def test_nothing_that_a_terminal_obeys_comes_through() -> None:
    seen = observation(
        session(calls=[call(tool="evil\x1b[2J\ttool[red]")]), reports=[busy("ses_1", name=ServerName("a\nb"))]
    )
    found = explained(seen)
    assert "\x1b" not in terminal(found, 80)
    assert "evil\\x1b[2J\\ttool[red]" in terminal(found, 80)
    assert all("\x1b" not in cell for line in piped(found) for cell in line)


# Through the real program, on a real file.

SECRET = "the-secret-of-the-prompt"  # noqa: S105


def whole(path: Path) -> bytes:
    """The file, while nobody has it open."""
    return path.read_bytes()


def fill(rows: OpencodeFile, *, at: int) -> None:
    """A session with a child; every text of it is a secret."""
    turn_id = rows.turn(rows.session("ses_root", at=at), "msg_root", at=at, more={"error": SECRET})
    rows.task(turn_id, child="ses_child", at=at)
    below = rows.turn(rows.session("ses_child", parent="ses_root", at=at), "msg_child", at=at)
    rows.call(below, "prt_child", at=at, input={"command": SECRET}, metadata={"output": SECRET})
    rows.part(below, {"type": "text", "text": SECRET}, at=at)
    rows.set("session", "ses_child", title=SECRET)
    rows.set("session", "ses_root", title=SECRET)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
async def test_a_healthy_session_is_exit_code_0_and_its_texts_stay_where_they_are(
    program: Program, rows: OpencodeFile, arguments: list[str]
) -> None:
    fill(rows, at=now_ms())
    done = await program.run("explain", "ses_child", *arguments, "--database", rows.path, "--server", NOWHERE)
    assert (done.code, done.stderr) == (0, "")
    assert "ses_child" in done.stdout
    assert SECRET not in done.stdout
    assert "Do it." not in done.stdout


async def test_the_document_names_the_process_that_stands_against_a_proof(
    program: Program, rows: OpencodeFile
) -> None:
    fill(rows, at=now_ms())
    done = await program.run("explain", "ses_child", "--json", "--database", rows.path, "--server", NOWHERE)
    sessions = done.document["sessions"]
    assert [(each["session_id"], each["asked"]) for each in sessions] == [("ses_root", False), ("ses_child", True)]
    [process] = [each for each in sessions[1]["witnesses"] if each["witness"] == "holder"]
    assert process["stance"] == "blocks"
    assert any(
        f"(pid {process['pid']}) may be at work on msg_root and 1 more" in each for each in done.document["advice"]
    )


async def test_an_orphan_is_exit_code_1(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        fill(rows, at=now_ms())
    done = await program.run("explain", "ses_root", "--database", path, "--server", NOWHERE)
    assert done.code == 1
    first = done.stdout.splitlines()[0].split("\t")
    assert first[:3] == ["judgement", "ses_root", "stuck"]
    assert first[3].startswith("It is stuck (orphan): nobody executes it: no process has the database open")


async def test_an_unknown_session_is_exit_code_2(program: Program, rows: OpencodeFile) -> None:
    done = await program.run("explain", "ses_nowhere", "--database", rows.path, "--server", NOWHERE)
    assert (done.code, done.stdout) == (2, "")
    assert "There is no session ses_nowhere in this database" in done.stderr


async def test_a_finished_session_is_explained_too(program: Program, rows: OpencodeFile) -> None:
    rows.turn(rows.session("ses_done"), completed_at=now_ms())
    done = await program.run("explain", "ses_done", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 0
    assert "It is finished: nothing is open in it" in done.stdout


async def test_a_cycle_in_a_real_file_ends(program: Program, rows: OpencodeFile) -> None:
    rows.turn(rows.session("ses_a", parent="ses_b", at=now_ms()), at=now_ms())
    rows.turn(rows.session("ses_b", parent="ses_a", at=now_ms()), at=now_ms())
    done = await program.run("explain", "ses_a", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 0
    assert "form a circle" in done.stdout


async def test_a_server_at_work_is_a_witness_and_every_holder_is_named(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    fill(rows, at=now_ms())
    for id_ in ("ses_root", "ses_child"):
        fake.busy(SessionId(id_), "/project")
    async with loopback(over_http(fake)) as url:
        program.settings(database=str(rows.path), servers=[url], discover=False)
        done = await program.run("explain", "ses_child")
    assert done.code == 0
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    said = [line for line in lines if line[:3] == ["witness", "ses_child", "server"]]
    assert [(line[3], line[4], line[6]) for line in said] == [("at_work", url, "at work on it")]
    assert any(line[:3] == ["witness", "ses_child", "holder"] and "(pid " in line[4] for line in lines)
    assert any("not listened to by this look" in line[-1] for line in lines)


async def test_explain_writes_nothing(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        fill(rows, at=now_ms())
    before = whole(path)
    await program.run("explain", "ses_root", "--database", path, "--server", NOWHERE)
    assert whole(path) == before


async def test_on_a_terminal_it_is_a_page_that_fits_80_columns(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        fill(rows, at=now_ms())
    with program.at_a_terminal("explain", "ses_child", "--database", path, "--server", NOWHERE) as page:
        assert await page.ended() == 1
    assert all(len(line) <= 80 for line in page.lines), page.text
    assert any(line.startswith("╭─ ses_child") for line in page.lines)
    assert any("└── ses_child ◀ this one orphan" in line for line in page.lines)
    assert SECRET not in page.text
