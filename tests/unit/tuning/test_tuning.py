"""What `tune` finds in a history whose truth is known: read from a real database, counted, and weighed."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.database import NOW, OpencodeFile
from tests.support.program import path, rows
from tests.unit.tuning.history import HOUR, MINUTE, History
from watchdog.model.past import Stretch
from watchdog.model.policy import Policy
from watchdog.model.report import Holder, Holders
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.settings.schema import Settings, load_settings
from watchdog.tuning.advice import ENOUGH, advise, pattern_for, roomy
from watchdog.tuning.paste import as_toml
from watchdog.tuning.stops import Leftovers, leftovers
from watchdog.tuning.tally import Judged, Tally, ToolTally

__all__ = ["path", "rows"]

LONG_AGO = 0
BASH, WEB = "bash", "webfetch"


@pytest.fixture
def history(rows: OpencodeFile) -> History:
    return History(rows)


async def counted(
    rows: OpencodeFile, policy: Policy | None = None, *, since_ms: int = LONG_AGO, by_watchdog: tuple[str, ...] = ()
) -> Tally:
    tally = Tally(policy or Policy(), by_watchdog=by_watchdog)

    async def take(stretch: Stretch) -> None:
        tally.unreadable += stretch.unreadable
        for turn in stretch.turns:
            tally.take(turn)

    async with await OpencodeDatabase.open(rows.path) as store:
        await store.past(since_ms=since_ms, each=take)
        for task in tally.long_tasks:
            tally.judge_task(task, (await store.past_of(task.call.child_id)).turns)  # type: ignore[arg-type]
    return tally


def of(tally: Tally, tool: str, judged: Judged = Judged.TOOL) -> ToolTally:
    (found,) = [each for each in tally.tools if (each.tool, each.judged) == (tool, judged)]
    return found


def left(tally: Tally, holders: Holders | None = None) -> Leftovers:
    return leftovers(tally.left_open(), tally.begun, holders or Holders(), margin_ms=5000)


async def test_quantiles_and_cuts_are_those_of_the_history(rows: OpencodeFile, history: History) -> None:
    for number in range(997):
        history.finished(BASH, (number * 7919 % 997) * 2 + 0.25)
    slow = [history.finished(WEB, seconds) for seconds in (1799.999, 1800.0, 2500.0)]
    tally = await counted(rows)
    bash = of(tally, BASH)
    assert [bash.finished.quantile(percent) for percent in (50, 95, 99)] == [
        history.truth(BASH, percent) for percent in (50, 95, 99)
    ]
    assert (len(bash.finished), bash.finished.longest) == (997, 1992.25)
    assert bash.would_have_cut == sum(seconds >= 1800 for seconds in history.durations[BASH]) == 97
    assert of(tally, WEB).would_have_cut == 2
    assert [cut.part_id for cut in tally.cuts if cut.tool == WEB] == slow[1:]
    assert (tally.sessions, tally.turns, tally.calls, tally.unreadable) == (1, 1000, 1000, 0)
    assert sum(bash.finished.columns) == 997


async def test_only_what_began_since_then_counts(rows: OpencodeFile, history: History) -> None:
    history.finished(BASH, 10)
    since = history.at
    history.finished(BASH, 20)
    assert of(await counted(rows, since_ms=since), BASH).finished.longest == 20.0
    assert len(of(await counted(rows, since_ms=since), BASH).finished) == 1


async def test_each_call_is_judged_by_its_own_rule(rows: OpencodeFile, history: History) -> None:
    rows.session("ses_child", parent="ses_a")
    history.finished("mcp_slow", 3000)
    history.finished("mcp_free", 9000)
    history.finished(BASH, 3000, timeout=3600)  # it says itself that it may
    history.finished(BASH, 30_000, timeout=7200)
    history.finished("question", 500_000)
    history.finished("task", 7000, child="ses_child")  # 2 h are allowed
    history.finished("task", 1900)  # it started no subagent
    prompt = rows.prompt("ses_a", at=history.at)
    rows.part(prompt, {"type": "text", "text": "!", "synthetic": True}, at=history.at)
    shell = rows.turn("ses_a", at=history.at, completed_at=history.at + HOUR * 9, more={"parentID": prompt})
    state = {"status": "completed", "input": {"command": "npm run dev"}, "output": ""}
    time = {"start": history.at, "end": history.at + HOUR * 9}
    rows.part(shell, {"type": "tool", "tool": BASH, "state": {**state, "time": time}}, at=history.at)
    policy = Policy(tool_timeouts={"mcp_*": 3600.0, "mcp_free": None})
    tally = await counted(rows, policy)
    cuts = {(each.tool, each.judged): each.would_have_cut for each in tally.tools}
    assert cuts == {
        ("mcp_slow", Judged.TOOL): 0,
        ("mcp_free", Judged.TOOL): 0,
        (BASH, Judged.TOOL): 1,
        (BASH, Judged.PERSONAL): 0,
        ("question", Judged.QUESTION): 0,
        ("task", Judged.TASK): 0,
        ("task", Judged.TOOL): 1,
    }
    limits = {(each.tool, each.judged): each.limit_seconds for each in tally.tools}
    assert limits["mcp_slow", Judged.TOOL] == 3600.0
    assert limits["task", Judged.TASK] == 7200.0
    assert limits["question", Judged.QUESTION] is None
    asked = await counted(rows, Policy(human_timeout_seconds=3600.0, shell_timeout_seconds=3600.0))
    assert of(asked, "question", Judged.QUESTION).would_have_cut == 1
    assert of(asked, BASH, Judged.PERSONAL).would_have_cut == 1


@pytest.mark.parametrize(
    ("silent_at", "cut"), [(None, False), (1, False), (3, True)], ids=["busy", "silent early", "silent late"]
)
async def test_a_long_task_would_have_been_cut_only_while_its_subagent_was_silent(
    rows: OpencodeFile, history: History, silent_at: int | None, *, cut: bool
) -> None:
    rows.session("ses_child", parent="ses_a")
    began = history.at
    turn = rows.turn("ses_child", at=began, completed_at=began + 4 * HOUR)
    for minute in range(0, 240, 10):
        if silent_at is None or minute // 60 != silent_at:
            rows.text(turn, at=began + minute * MINUTE)
    history.finished("task", 4 * 3600, child="ses_child")
    found = of(await counted(rows), "task", Judged.TASK)
    assert found.would_have_cut == cut
    hard = of(await counted(rows, Policy(task_hard_timeout_seconds=10_800.0)), "task", Judged.TASK)
    assert hard.would_have_cut == 1


async def test_what_people_gave_up_and_turned_down_is_told_from_what_finished(
    rows: OpencodeFile, history: History
) -> None:
    history.aborted(BASH, 5000)
    ours = history.aborted(BASH, 7000)
    history.aborted(BASH, 90, output="so far\n\n<bash_metadata>\nUser aborted the command\n</bash_metadata>")
    history.declined(BASH, 4000)
    history.ended(BASH, 80_000, status="error", error="Ended by opencode-watchdog: nobody executes it.", input={})
    history.ended(BASH, 3, status="error", error="exit code 1", input={})
    tally = await counted(rows, by_watchdog=(ours,))
    bash = of(tally, BASH)
    assert sorted(each.seconds for each in bash.aborted) == [90.0, 5000.0]
    assert (tally.aborted.quantile(50), tally.aborted.longest) == (90.0, 5000.0)
    assert (bash.declined.longest, len(bash.declined), bash.settled, tally.by_watchdog) == (4000.0, 1, 1, 1)
    assert (len(bash.finished), bash.finished.longest, bash.would_have_cut) == (1, 3.0, 0)


async def test_silences_are_what_lies_between_writes_with_no_call_open(rows: OpencodeFile) -> None:
    rows.session("ses_a")
    at = NOW
    turn = rows.turn("ses_a", at=at, completed_at=at + 100 * MINUTE)
    rows.text(turn, at=at + 10 * MINUTE, updated_at=at + 30 * MINUTE)
    time = {"start": at + 30 * MINUTE, "end": at + 90 * MINUTE}
    state = {"status": "completed", "input": {"description": "x"}, "output": "", "time": time}
    data = {"type": "tool", "tool": BASH, "state": state}
    rows.part(turn, data, at=at + 30 * MINUTE, updated_at=at + 90 * MINUTE)
    given_up = rows.turn(
        "ses_a", at=at, completed_at=at + 50 * MINUTE, more={"error": {"name": "MessageAbortedError"}}
    )
    rows.text(given_up, at=at + 5 * MINUTE, updated_at=at + 50 * MINUTE)  # an abort writes what it closes
    tally = await counted(rows)
    assert (len(tally.silences), tally.silences.longest, tally.idle_cuts) == (1, 20 * 60.0, 1)
    assert tally.given_up == [45 * 60.0]


async def test_orphans_are_told_from_what_may_be_at_work(rows: OpencodeFile) -> None:
    for number, at in enumerate((NOW, NOW + 20_000, NOW + HOUR)):
        session = rows.session(f"ses_{number}")
        turn = rows.turn(session, at=at)
        rows.call(turn, at=at)
        rows.call(turn, at=at, status="pending")
    closed = rows.turn("ses_0", at=NOW + 2 * HOUR, completed_at=NOW + 2 * HOUR + 1000)
    rows.call(closed, at=NOW + 2 * HOUR)
    tally = await counted(rows)
    found = left(tally)
    assert found.orphans == (7, 3, 3)
    assert (found.perhaps.sessions, found.since_ms) == (0, NOW)
    assert [(stop.amount.calls, stop.last_ms, stop.next_turn_ms) for stop in found.stops] == [
        (4, NOW + 20_000, NOW + HOUR),
        (2, NOW + HOUR, NOW + 2 * HOUR),
        (1, NOW + 2 * HOUR, None),
    ]
    server = Holder(pid=1, born_ms=NOW + 10 * MINUTE, command="opencode serve")
    watched = left(tally, Holders(known=(server,)))
    assert (watched.orphans, watched.perhaps) == ((5, 2, 2), (2, 1, 1))
    unknown = left(tally, Holders(complete=False, why_incomplete="nobody can tell."))
    assert (unknown.orphans, unknown.perhaps) == ((3, 1, 1), (4, 2, 2))


# The advice.


@pytest.mark.parametrize(
    ("longest", "limit"),
    [(0.0, 300.0), (150.0, 300.0), (151.0, 600.0), (1500.0, 3600.0), (32_400.0, 64_800.0), (40_000.0, 86_400.0)],
)
def test_a_limit_has_room_above_the_longest_in_a_round_number(longest: float, limit: float) -> None:
    assert roomy(longest) == limit
    assert roomy(1e12) is None


async def test_the_advice_would_have_cut_nothing_and_ended_what_hung(rows: OpencodeFile, history: History) -> None:
    for number in range(ENOUGH):
        history.finished("build", 2000 + number)  # today's limit cuts each
        history.finished(WEB, number / 10)
        history.finished("grep", 1)
    history.aborted(WEB, 36_000)
    history.aborted(WEB, 60)  # that is no hanging
    tally = await counted(rows, Policy(tool_timeouts={"mcp_*": 3600.0}))
    advice = advise(tally)
    assert advice.settings == {"tool_timeouts": {"mcp_*": "1h", "build": "1h30m", WEB: "5m"}}
    web = advice.limits[[each.tool for each in tally.tools].index(WEB)]
    assert (web.ended, web.saved_seconds, web.ended_today, web.saved_today_seconds) == (1, 35_700.0, 1, 34_200.0)
    assert any("95 %" in note and "build" in note for note in advice.notes)
    after = await counted(rows, pasted(advice.settings, rows.path.parent).policy())
    assert all(each.would_have_cut == 0 for each in after.tools)
    assert advise(after).settings == {}


async def test_few_calls_yield_no_advice_and_that_is_said(rows: OpencodeFile, history: History) -> None:
    for _ in range(ENOUGH - 1):
        history.finished("build", 4000)
    advice = advise(await counted(rows))
    assert advice.settings == {}
    assert advice.limits[0].seconds is None
    assert "too few" in advice.notes[-1]
    assert "build" in advice.notes[-1]
    history.finished("build", 4000)
    assert advise(await counted(rows)).settings == {"tool_timeouts": {"build": "3h"}}


async def test_a_question_and_a_task_never_lead_to_a_limit_for_tools(rows: OpencodeFile, history: History) -> None:
    rows.session("ses_child", parent="ses_a")
    for _ in range(ENOUGH):
        history.finished("question", 9000)
        history.finished("task", 9000, child="ses_child")
    advice = advise(await counted(rows))
    assert advice.settings == {}
    turn = rows.turn("ses_child", at=NOW, completed_at=history.at)
    assert turn
    assert advise(await counted(rows)).settings == {"task_timeout": "6h"}


async def test_a_limit_that_is_off_stays_off(rows: OpencodeFile, history: History) -> None:
    for _ in range(ENOUGH):
        history.finished("build", 10)
    history.aborted("build", 9000)
    assert advise(await counted(rows, Policy(tool_timeout_seconds=None))).settings == {}
    assert advise(await counted(rows)).settings == {"tool_timeouts": {"build": "5m"}}


NAMES = [
    "plain",
    "with space",
    "mcp[x]*?",
    'quo"te\\',
    "ümläut",
    "工具",
    "😀tool",
    "tool_timeout",
    "a.b",
    "-",
    "[",
    "]",
]


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_pasted_means_exactly_that_tool(rows: OpencodeFile, history: History, name: str) -> None:
    for _ in range(ENOUGH):
        history.finished(name, 4000)
    advice = advise(await counted(rows), reserved=Settings.model_fields)
    settings = pasted(advice.settings, rows.path.parent)
    assert [limit.total_seconds() for limit in settings.tool_timeouts.values() if limit] == [10_800.0]
    again = await counted(rows, settings.policy())
    assert of(again, name).limit_seconds == 10_800.0
    assert Tally(settings.policy()).policy.tool_timeouts.keys() == {pattern_for(name, Settings.model_fields)}


@pytest.mark.parametrize("name", ["\x1b[2Jx", "a\u202eb", " padded ", "x" * 300, "new\nline", "\ud800"])
async def test_a_name_that_nobody_could_paste_yields_a_sentence(
    rows: OpencodeFile, history: History, name: str
) -> None:
    for _ in range(ENOUGH):
        history.finished(name, 4000)
    advice = advise(await counted(rows))
    if advice.settings:
        assert name == "\ud800"  # it is read as a question mark
        return
    assert any("no limit is advised" in note for note in advice.notes)


def pasted(settings: Mapping[str, Any], folder: Path) -> Settings:
    """The settings once the advice is pasted."""
    text = "\n".join(as_toml(settings)) + "\n"
    assert tomllib.loads(text) == json.loads(json.dumps(settings))
    file = folder / "pasted.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(flags={"config": file}, environ={}, cwd=folder, home=folder).settings


# Hostile rows.

BAD_CALLS: Mapping[str, Any] = {
    "no times": {"status": "completed", "input": {}},
    "NULL times": {"status": "completed", "input": {}, "time": {"start": None, "end": None}},
    "end before start": {"status": "completed", "input": {}, "time": {"start": NOW + 9, "end": NOW + 8}},
    "end before everything": {"status": "completed", "input": {}, "time": {"end": 5}},
    "texts for times": {"status": "completed", "input": {}, "time": {"start": "now", "end": "then"}},
    "infinite": {"status": "completed", "input": {}, "time": {"start": NOW, "end": float("inf")}},
    "an unknown status": {"status": "dreaming", "input": {}, "time": {"start": NOW, "end": NOW}},
    "no state": None,
}


@pytest.mark.parametrize("state", BAD_CALLS.values(), ids=list(BAD_CALLS))
async def test_a_call_that_cannot_be_read_counts_nowhere_but_as_that(rows: OpencodeFile, state: object) -> None:
    turn = rows.turn(rows.session(), at=NOW, completed_at=NOW + 1000)
    text = json.dumps({"type": "tool", "tool": BASH, "state": state}).replace("Infinity", "1e999")
    rows.part(turn, text, at=NOW)
    tally = await counted(rows)
    assert (tally.unreadable, tally.calls, tally.turns) == (1, 0, 1)


async def test_hostile_rows_spoil_nothing_else(rows: OpencodeFile, history: History) -> None:
    history.finished(BASH, 12)
    turn = rows.turn("ses_a", at=NOW, completed_at=NOW + 1000)
    for data in (
        '{"type":"tool","tool":"bash"',
        '["tool"]',
        '"tool"',
        '{"type":"tool","tool":"","state":{}}',
        '{"type":"tool","tool":{"a":1},"state":{"status":"running"}}',
        f'{{"type":"tool","tool":"bash","state":{{"status":"completed","time":{{"start":1,"end":{"9" * 6000}}}}}}}',
        '{"type":"tool","tool":' + "[" * 1500 + "]" * 1500 + "}",
    ):
        rows.part(turn, data, at=NOW)
    rows.put("part", id="prt_blob", message_id=turn, session_id="ses_a", time_created=b"\x00", time_updated="soon",
             data=b'{"type":"tool"}')  # fmt: skip
    rows.message("ses_a", "{broken")
    rows.message("ses_a", json.dumps({"role": 7}))
    rows.put("message", id="msg_x", session_id="ses_a", time_created="then", time_updated=0,
             data=json.dumps({"role": "assistant", "time": {}}))  # fmt: skip
    rows.message("ses_a", json.dumps({"role": "assistant", "time": {"created": NOW, "completed": "later"}}))
    history.finished(BASH, 14)
    big = {"status": "completed", "input": {"description": "x"}, "output": "x" * 3_000_000,
           "time": {"start": NOW, "end": NOW + 13_000}}  # fmt: skip
    rows.part(turn, {"type": "tool", "tool": BASH, "state": big}, at=NOW)
    tally = await counted(rows)
    bash = of(tally, BASH)
    assert bash.finished.longest == 14.0
    assert len(bash.finished) in {2, 3}  # a number that no reader takes may hide the turn that holds it
    assert tally.unreadable >= 4


async def test_an_empty_history_says_nothing(rows: OpencodeFile) -> None:
    tally = await counted(rows)
    assert (tally.sessions, tally.turns, tally.calls, tally.tools) == (0, 0, 0, [])
    assert advise(tally).settings == {}
    assert left(tally).stops == ()
