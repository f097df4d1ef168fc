"""The simulated world: fixed seeds in which nothing may be found, and that its oracles have teeth."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import ANY

import pytest
from rich.console import Console

from simulation.ledger import Violation
from simulation.mutants import DAYS, MUTANTS
from simulation.play import play
from simulation.quiet import LOOKS
from simulation.script import Event, Plan, Script, Setting
from simulation.shrink import fails_as, shrink, until
from simulation.world import World
from simulation.worlds import WorldPlan, plan_of, play_plan
from simulation.writing import Mix, write
from simulation.years import Wish, Years
from watchdog.timing.pace import Pace

HUNG = {"do": "calls", "calls": [{"tool": "bash", "run": None}]}
QUIET = Setting(poll=30.0, tool_timeout=600.0, idle_timeout=300.0)


@pytest.mark.parametrize("seed", SEEDS := (1, 2, 3, 5))
def test_in_these_worlds_nothing_is_cut_and_nothing_is_left(seed: int) -> None:
    played = play(write(seed, DAYS))
    assert played.violation is None, f"python -m simulation --seed {seed} --days {DAYS}: {played.violation}"


def test_in_quiet_weeks_with_a_clock_that_drifts_nothing_is_cut_and_nothing_is_left() -> None:
    plan = WorldPlan(seed=3, days=4.0, quiet=True)
    script = plan.script()
    assert script.setting.drift
    came = play_plan(plan)
    assert came.violation is None, plan.again
    assert came.lived > 2 * came.seconds > 0


def test_two_runs_of_one_seed_are_the_same_to_the_last_event() -> None:
    script = write(2, 0.01)
    assert play(script).digest == play(script).digest != play(write(3, 0.01)).digest


def test_beats_that_are_skipped_would_have_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    script = write(2, 0.06, Mix(faults=("feed", "freeze", "wedge", "crash", "sleep"), an_hour=20.0))
    played = play(script)
    assert played.landed["feed"] > 2
    monkeypatch.setattr(World, "undisturbed_until", property(lambda world: world.now))  # each beat is sent
    assert play(script).digest == played.digest


def test_the_longer_the_poll_interval_the_longer_a_quiet_world_lasts() -> None:
    plans = [plan_of(seed) for seed in range(1, 60, 2)]
    polls = sorted(plan.script().setting.poll for plan in plans)
    assert polls[0] < 10
    assert 400 < polls[-1] <= 600
    for plan in plans:
        script = plan.script()
        assert script.seconds / script.setting.poll == pytest.approx(LOOKS, rel=0.05)


def test_what_hangs_is_ended_at_its_limit_and_what_works_is_not() -> None:
    healthy = {
        "do": "calls",
        "calls": [{"tool": "bash", "run": 590.0}, {"tool": "question", "run": 1.0, "ask": 4_000.0}],
    }
    script = Script(
        seed=1,
        seconds=6_000.0,
        setting=QUIET,
        events=(
            Event(10.0, "prompt", {"session": "ses_hung", "steps": [HUNG]}),
            Event(20.0, "prompt", {"session": "ses_silent", "steps": [{"do": "hang"}]}),
            Event(30.0, "prompt", {"session": "ses_healthy", "steps": [healthy]}),
        ),
    )
    played = play(script)
    assert played.violation is None
    assert played.counts["aborts"] == 2
    assert 0 < played.longest_overrun < QUIET.poll


def test_what_a_crash_left_is_settled_and_the_journal_has_it() -> None:
    crash = Event(200.0, "crash", {"plan": 0, "down": 20.0})
    events = (Event(10.0, "prompt", {"session": "ses_1", "steps": [HUNG]}), crash, Event(1_000.0, "calm"))
    played = play(Script(seed=1, seconds=1_000.0, setting=QUIET, events=events))
    assert (played.violation, played.counts["settled"]) == (None, 1)


def test_a_server_that_takes_aborts_and_does_nothing_is_told_of_and_tried_no_more() -> None:
    events = (
        Event(10.0, "prompt", {"session": "ses_1", "steps": [HUNG]}),
        Event(20.0, "wedge", {"plan": 0, "how": "deaf", "seconds": 9_000.0}),
    )
    played = play(Script(seed=1, seconds=3_600.0, setting=QUIET, events=events))
    assert played.violation is None
    assert (played.counts["aborts"], played.counts["alerts"]) == (QUIET.max_attempts, 1)


def test_a_terminal_ui_keeps_what_it_runs_however_long() -> None:
    setting = Setting(poll=30.0, plans=(Plan(), Plan(port=None)))
    events = (Event(10.0, "prompt", {"session": "ses_1", "plan": 1, "steps": [HUNG]}),)
    played = play(Script(seed=1, seconds=7_200.0, setting=setting, events=events))
    assert played.violation is None
    assert "aborts" not in played.counts


def test_after_the_clock_was_set_back_the_call_of_the_newest_turn_is_still_given_its_limit() -> None:
    events = (
        Event(10.0, "prompt", {"session": "ses_1", "steps": [{"do": "text", "seconds": 30.0, "gap": 10.0}]}),
        Event(100.0, "step", {"seconds": -3_600.0}),
        Event(
            110.0,
            "prompt",
            {"session": "ses_1", "steps": [{"do": "calls", "calls": [{"tool": "bash", "run": 550.0}]}]},
        ),
    )
    played = play(Script(seed=1, seconds=1_200.0, setting=QUIET, events=events))
    assert (played.violation, played.counts.get("aborts")) == (None, None)


def test_what_a_healthy_call_beside_it_or_a_hold_kept_is_not_counted_as_late() -> None:
    beside = {"tool": "bash", "timeout": 1_500.0, "run": 1_550.0}
    events = (
        prompt("ses_1", {"do": "calls", "calls": [*HUNG["calls"], beside]}),
        prompt("ses_2", HUNG),
        Event(20.0, "hold", {"session": "ses_2", "seconds": 1_500.0}),
    )
    played = play(Script(seed=1, seconds=2_400.0, setting=QUIET, events=events))
    assert (played.violation, played.counts["aborts"]) == (None, 2)
    assert 0 < played.longest_overrun <= QUIET.poll


def test_what_is_ended_later_than_the_stated_bound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    late = {"do": "calls", "calls": [{"tool": "bash", "run": 1_150.0}]}
    script = Script(seed=1, seconds=2_400.0, setting=QUIET, events=(prompt("ses_1", late),))
    assert play(script).violation is None
    monkeypatch.setattr(Pace, "delay", lambda *_, **__: 450.0)
    assert play(script).violation == Violation("late", ANY, ANY)


def test_years_go_on_where_they_were_left_off(tmp_path: Path) -> None:
    kept = tmp_path / "years.jsonl"
    came = play_plan(WorldPlan(seed=2, days=0.01))
    kept.write_text(json.dumps(asdict(came)) + "\n")
    wish = Wish(first=2, years=0.0, seconds=None, jobs=1, days=0.01, kept=kept)
    years = Years(wish, Console(quiet=True))
    assert (years.came, years.run()) == ([came], 0)
    kept.write_text('{"seed": 2}\n')
    with pytest.raises(SystemExit, match="Name another file"):
        Years(wish, Console(quiet=True))


def test_what_could_not_happen_is_counted() -> None:
    events = (Event(10.0, "user_abort", {"session": "ses_none"}), Event(20.0, "sleep", {"seconds": 60.0}))
    played = play(Script(seed=1, seconds=60.0, setting=QUIET, events=events))
    assert (played.missed, played.landed) == ({"user_abort": 1}, {"sleep": 1})


QUESTION = {"do": "calls", "calls": [{"tool": "question", "run": 1.0, "ask": 1_500.0}]}
HOLD = Event(20.0, "hold", {"session": "ses_1"})
CRASH = Event(200.0, "crash", {"plan": 0, "down": 20.0})
DEAF = Event(20.0, "wedge", {"plan": 0, "how": "deaf", "seconds": 9_000.0})
CUT = Event(100.0, "feed", {"plan": 0, "how": "cut", "seconds": 600.0})
STREAM = {"do": "text", "seconds": 1_500.0, "gap": 60.0}
KILLS = tuple(Event(900.0 + 200 * number, "kill", {"down": 5.0}) for number in range(6))
TASK = {"do": "calls", "calls": [{"tool": "task", "run": 1.0, "child": [STREAM]}]}
LATE = {"do": "calls", "calls": [{"tool": "bash", "run": 604.0}]}
ONE_LANE = replace(QUIET, max_concurrency=1, latency=0.2)
TERMINAL = replace(QUIET, plans=(Plan(), Plan(port=None)))


def prompt(session: str, *steps: object, plan: int = 0) -> Event:
    return Event(10.0, "prompt", {"session": session, "plan": plan, "steps": list(steps)})


@pytest.mark.parametrize(
    ("name", "setting", "events", "kind"),
    [
        ("asks ignored", QUIET, (prompt("ses_1", QUESTION),), "healthy cut"),
        ("no tool rule", QUIET, (prompt("ses_1", HUNG),), "left hanging"),
        ("clocks start anew", QUIET, (prompt("ses_1", HUNG),), "left hanging"),
        ("no idle rule", QUIET, (prompt("ses_1", {"do": "hang"}),), "silently spared"),
        ("pings are life", QUIET, (prompt("ses_1", {"do": "hang"}),), "left hanging"),
        ("holds ignored", QUIET, (prompt("ses_1", HUNG), HOLD), "hold ignored"),
        ("no record", QUIET, (prompt("ses_1", HUNG), CRASH), "unjournaled"),
        ("no orphans", QUIET, (prompt("ses_1", HUNG), CRASH), "orphan left"),
        ("no finish", QUIET, (prompt("ses_1", HUNG), CRASH), "unreadable"),
        ("giving up is not told", QUIET, (prompt("ses_1", HUNG), DEAF), "not reported"),
        ("never given up", QUIET, (prompt("ses_1", HUNG), DEAF), "cap"),
        ("given up for a minute", QUIET, (prompt("ses_1", HUNG), DEAF), "cap"),
        ("nothing kept", QUIET, (prompt("ses_1", HUNG), DEAF, *KILLS), "cap"),
        ("deaf and sure", QUIET, (prompt("ses_1", STREAM), CUT), "healthy cut"),
        ("gaps forgotten", QUIET, (prompt("ses_1", STREAM), CUT), "healthy cut"),
        ("no lanes", ONE_LANE, tuple(prompt(f"ses_{number}", HUNG) for number in range(3)), "cap"),
        ("births ignored", TERMINAL, (prompt("ses_1", LATE, plan=1),), "healthy rewritten"),
        (
            "no second look",
            ONE_LANE,
            (prompt("ses_1", HUNG), prompt("ses_2", LATE, STREAM), DEAF),
            "healthy",  # cut or rewritten
        ),
        (
            "a deleted one's children ignored",
            QUIET,
            (prompt("ses_1", {**STREAM, "seconds": 100.0}, TASK), Event(40.0, "delete", {"session": "ses_1"})),
            "healthy cut",
        ),
    ],
)
def test_a_planted_bug_is_found(name: str, setting: Setting, events: tuple[Event, ...], kind: str) -> None:
    script = Script(seed=1, seconds=2_400.0, setting=setting, events=events)
    assert play(script).violation is None
    with MUTANTS[name].planted():
        violation = play(script).violation
    assert violation is not None
    assert kind in violation.kind


def test_every_planted_bug_patches_what_is_there_and_puts_it_back() -> None:
    assert len(MUTANTS) >= 30
    for mutant in MUTANTS.values():
        before = [patch.where.__dict__[patch.name] for patch in mutant.patches]
        with mutant.planted():
            assert all(patch.where.__dict__[patch.name] is patch.instead for patch in mutant.patches)
        assert [patch.where.__dict__[patch.name] for patch in mutant.patches] == before


def test_a_failing_script_is_shrunk_to_what_it_takes_and_reads_as_python() -> None:
    noise = tuple(Event(50.0 * number, "sleep", {"seconds": 5.0}) for number in range(1, 8))
    both = Event(
        15.0, "prompt", {"session": "ses_1", "steps": [{"do": "text", "seconds": 30.0, "gap": 10.0}, QUESTION]}
    )
    script = Script(seed=1, seconds=2_000.0, setting=QUIET, events=(both, *noise))
    with MUTANTS["asks ignored"].planted():
        violation = play(script).violation
        assert isinstance(violation, Violation)
        shrunk = shrink(until(script, violation.at), fails_as(violation.kind), most=60)
    assert [event.what for event in shrunk.events] == ["prompt"]
    assert shrunk.events[0].args["steps"] == [QUESTION]
    assert eval(shrunk.code(), {"Script": Script, "Event": Event, "Setting": Setting, "Plan": Plan}) == shrunk  # noqa: S307
    assert play(shrunk).violation is None
