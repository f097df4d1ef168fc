"""Actors and faults of the simulated world: what each does, and that the oracles know the truth of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from simulation.mutants import MUTANTS
from simulation.play import Played, play
from simulation.script import Event, Plan, Script, Setting

QUIET = Setting(poll=30.0, tool_timeout=600.0, idle_timeout=300.0)
FORGETFUL = replace(QUIET, retention=300.0, full_scan=100.0)
REPLICAS = replace(QUIET, replicas=3, poll=10.0)
DEAF = Event(20.0, "wedge", {"plan": 0, "how": "deaf", "seconds": 9_000.0})
AMID = Event(100.0, "replica", {"which": -1, "how": "stop", "seconds": 60.0, "amid": True})
REMOTE = replace(QUIET, plans=(Plan(), Plan(port=None, remote=True)))
PATIENT = replace(QUIET, human_timeout=900.0)


def calls(*each: Mapping[str, Any]) -> dict[str, Any]:
    return {"do": "calls", "calls": [*each]}


HUNG = calls({"tool": "bash", "run": None})
LONG = calls({"tool": "bash", "run": 590.0})
ASKS = calls({"tool": "question", "run": 1.0, "ask": 1_500.0})
PARENT = calls({"tool": "task", "run": 1.0, "child": [ASKS]})
CRASH = Event(200.0, "crash", {"plan": 0, "down": 20.0})


def prompt(session: str, *steps: object, plan: int = 0, at: float = 10.0) -> Event:
    return Event(at, "prompt", {"session": session, "plan": plan, "steps": list(steps)})


def played(*events: Event, setting: Setting = QUIET, seconds: float = 2_400.0) -> Played:
    found = play(Script(seed=1, seconds=seconds, setting=setting, events=events))
    assert found.violation is None
    assert not found.missed
    return found


def test_what_nobody_answers_in_time_is_turned_down_and_ends_its_turn() -> None:
    found = played(prompt("ses_1", ASKS, LONG), setting=PATIENT)
    assert (found.counts["rejections"], found.counts.get("aborts")) == (1, None)
    assert sum("over ses_1" in line for line in found.lines if float(line.split()[0]) < 1_000) == 1


def test_a_person_ends_what_works_and_not_what_another_one_is_asked_below_it() -> None:
    release = Event(60.0, "release", {"session": "ses_1"})
    assert played(prompt("ses_1", LONG), release).counts["aborts"] == 1
    assert "aborts" not in played(prompt("ses_1", PARENT), release).counts
    with_all = replace(release, args={"session": "ses_1", "below": True})
    assert played(prompt("ses_1", PARENT), with_all).counts["aborts"] == 1


def test_what_was_settled_is_taken_back_and_left_alone_from_then_on() -> None:
    found = played(prompt("ses_1", HUNG), CRASH, Event(600.0, "undo"))
    assert found.counts["settled"] == 2
    assert any("undone 1 undone" in line for line in found.lines)


@pytest.mark.parametrize(("table", "how"), [("message", 0), ("part", 1), ("part", 2)])
def test_beside_a_row_that_can_not_be_read_nothing_is_ended(table: str, how: int) -> None:
    damage = Event(60.0, "damage", {"session": "ses_1", "table": table, "how": how, "seconds": 1_500.0})
    found = played(prompt("ses_1", {"do": "text", "seconds": 5.0, "gap": 5.0}, LONG), damage, seconds=1_200.0)
    assert "aborts" not in found.counts


def test_a_database_that_is_put_back_has_the_work_of_then_and_nothing_is_sent_to_who_has_the_removed_one() -> None:
    found = played(
        prompt("ses_1", HUNG),
        Event(100.0, "backup"),
        prompt("ses_2", HUNG, at=200.0),
        Event(300.0, "restore", {"seconds": 600.0}),
        Event(2_000.0, "calm"),
    )
    assert (found.counts["settled"], found.counts.get("aborts")) == (1, None)


@pytest.mark.parametrize("how", ["first", "later", "none"])
def test_a_memory_of_another_version_is_no_reason_to_end_anything_early(how: str) -> None:
    other = Event(300.0, "other_journal", {"how": how, "down": 10.0})
    asks = calls({"tool": "bash", "run": 590.0, "ask": 200.0})
    found = played(prompt("ses_1", asks, LONG), prompt("ses_2", HUNG), other, Event(2_000.0, "calm"))
    assert found.counts["aborts"] == 1


def test_a_tool_that_does_not_heed_the_abort_writes_over_it_at_its_own_end() -> None:
    late = calls({"tool": "bash", "run": None, "late": 30.0})
    found = played(prompt("ses_1", late), Event(100.0, "user_abort", {"session": "ses_1"}))
    assert any("late" in line for line in found.lines)
    assert "settled" not in found.counts


def test_what_a_session_of_a_remote_workspace_started_is_left_alone() -> None:
    """Found by seeds 26 and 29: the row of a child does not say that it runs elsewhere."""
    task = calls({"tool": "task", "run": 1.0, "child": [LONG]})
    found = played(prompt("ses_1", task, plan=1), setting=REMOTE)
    assert "settled" not in found.counts


def test_what_a_session_of_a_remote_workspace_starts_after_its_deletion_is_left_alone() -> None:
    task = {"do": "calls", "calls": [{"tool": "task", "run": 1.0, "child": [LONG]}]}
    started = prompt("ses_1", {"do": "text", "seconds": 60.0, "gap": 30.0}, task, plan=1)
    found = played(started, Event(30.0, "delete", {"session": "ses_1"}), setting=REMOTE)
    assert "settled" not in found.counts


def test_what_was_deleted_and_never_tries_its_provider_again_is_ended_in_the_end() -> None:
    retry = {"do": "retry", "seconds": 600.0, "forever": True}
    found = played(prompt("ses_1", retry), Event(10.5, "delete", {"session": "ses_1"}), Event(2_000.0, "calm"))
    assert found.counts["aborts"] == 1


@pytest.mark.parametrize(
    ("name", "setting", "events", "kind"),
    [
        ("release takes all", QUIET, (prompt("ses_1", PARENT), Event(60.0, "release", {"session": "ses_1"})), "cut"),
        ("undone without a hold", QUIET, (prompt("ses_1", HUNG), CRASH, Event(600.0, "undo")), "hold ignored"),
        (
            "undone over",
            QUIET,
            (prompt("ses_1", HUNG), CRASH, prompt("ses_1", LONG, at=500.0), Event(600.0, "undo")),
            "undone over",
        ),
        ("turned down early", PATIENT, (prompt("ses_1", ASKS),), "healthy cut"),
        ("never turned down", PATIENT, (prompt("ses_1", ASKS),), "not turned down"),
        ("remote ignored", REMOTE, (prompt("ses_1", LONG, plan=1),), "healthy rewritten"),
        ("nothing pruned", FORGETFUL, (prompt("ses_1", HUNG),), "journal"),
        ("a write is not fenced", REPLICAS, (prompt("ses_1", HUNG), AMID, CRASH), "two act"),
        ("an abort is not confirmed", REPLICAS, (prompt("ses_1", HUNG), AMID, DEAF), "two act"),
        (
            "damage ignored",
            QUIET,
            (
                prompt("ses_1", LONG),
                Event(60.0, "damage", {"session": "ses_1", "table": "part", "how": 1, "seconds": 900.0}),
            ),
            "healthy cut",
        ),
    ],
)
def test_a_planted_bug_is_found(name: str, setting: Setting, events: tuple[Event, ...], kind: str) -> None:
    script = Script(seed=1, seconds=1_500.0, setting=setting, events=events)
    assert play(script).violation is None
    with MUTANTS[name].planted():
        violation = play(script).violation
    assert violation is not None
    assert kind in violation.kind


def test_a_world_of_which_most_faults_could_not_happen_is_void() -> None:
    prompted, missed = prompt("ses_1", HUNG), Event(60.0, "pretend", {"plan": 0, "session": "ses_1", "busy": True})
    for events, void in (((prompted, missed), True), ((prompted, missed, CRASH), False), ((prompted,), False)):
        assert play(Script(seed=1, seconds=300.0, setting=QUIET, events=events)).void == void
