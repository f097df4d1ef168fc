"""The demo ends by itself, says what it saw, and can fail."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from watchdog.demo.board import Board
from watchdog.demo.book import Json, Scene
from watchdog.demo.host import CALL_ABORTED, TASK_CANCELLED, TURN_ABORTED, DemoHost
from watchdog.demo.play import Pace, play
from watchdog.demo.screen import Screen
from watchdog.demo.stories import STORIES, Ending, Story, examine
from watchdog.model.session import Ask, SessionId, Status

LONGEST_SECONDS = 120
SETTLED = "Ended by opencode-watchdog: nobody executes it."


def a_terminal(*, width: int = 100, height: int = 30) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, highlight=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def demo_in(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "watchdog.demo"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class IdleAborts(DemoHost):
    """A host whose abort does nothing."""

    async def abort(self, session_id: SessionId) -> None:
        pass


class Denies(DemoHost):
    """A host that says of every session that it is not at work on it."""

    async def statuses(self) -> Mapping[SessionId, Status]:
        return {}

    async def pending_asks(self) -> Sequence[Ask]:
        return []


def test_without_a_terminal_it_prints_plain_lines_and_ends_well_by_itself(tmp_path: Path) -> None:
    with demo_in(tmp_path) as demo:
        out, err = demo.communicate(timeout=LONGEST_SECONDS)
    assert (demo.returncode, err) == (0, ""), out
    assert "\x1b" not in out
    for story in STORIES:
        name = story.name.removeprefix("└ ")
        assert any(line.split(" s  ", 1)[-1].startswith(name) for line in out.splitlines()), name
        assert f"  ok    {name}" in out
    assert "Right, after" in out
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    with demo_in(tmp_path) as demo:
        assert demo.stdout is not None
        while "hung tool call" not in demo.stdout.readline():
            pass
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=LONGEST_SECONDS)
    assert (demo.returncode, err) == (130, "")
    assert out.endswith("Stopped.\n")
    assert list(tmp_path.iterdir()) == []


async def test_a_host_that_does_not_abort_makes_it_fail(tmp_path: Path) -> None:
    console = a_terminal()
    before = structlog.get_config()
    code = await play(tmp_path, console, make_host=IdleAborts, pace=Pace(longest_seconds=10))
    assert code == 1
    assert "wrong: hung tool call: it must be ended by an abort" in text_of(console)
    assert "log: warning outcome msg_hung" in text_of(console)
    assert "wrong: crashed" not in text_of(console)
    assert "Right, after" not in text_of(console)
    assert structlog.get_config() == before


async def test_healthy_sessions_that_are_ended_make_it_fail(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=300)
    code = await play(tmp_path, console, make_host=Denies, pace=Pace(longest_seconds=5))
    assert code == 1
    for name in ("healthy parent", "healthy stream", "question", "long test run", "waiting parent"):
        assert f"wrong: {name}: it must be " in text_of(console)


@pytest.mark.parametrize(("width", "height"), [(100, 30), (100, 24), (80, 24), (60, 40)])
def test_a_frame_fits_the_terminal(width: int, height: int) -> None:
    console = a_terminal(width=width, height=height)
    board = Board()
    for standing in board.standings.values():
        standing.why = "a sentence that is far too long for one line " * 5
    frame = Screen(console).frame(board, {}, 1.0, "some words " * 20)
    lines = frame.plain.splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) < width


# --- how a session must read


def a_scene(calls: Sequence[Json] = (), error: str | None = None, *, is_open: bool = False, texts: int = 0) -> Scene:
    turn: Json = {"time": {"created": 1} if is_open else {"created": 1, "completed": 2}}
    if error is not None:
        turn["error"] = {"name": "MessageAbortedError", "data": {"message": error}}
    return Scene(turn=turn, calls=list(calls), texts=texts, rows={"msg_1": str(turn), "prt_1": str(calls)})


def a_call(status: str, error: str | None = None) -> Json:
    return {"tool": "bash", "state": {"status": status, **({} if error is None else {"error": error})}}


def is_right(ending: Ending, now: Scene, before: Scene | None = None) -> bool:
    story = Story(session_id=SessionId("ses_1"), name="one", about="", ending=ending)
    return examine(story, before or Scene(), now).right


ABORTED = a_scene([a_call("error", CALL_ABORTED)], TURN_ABORTED)
SETTLED_SCENE = a_scene([a_call("error", SETTLED)], SETTLED)
CARRIED_ON = a_scene([a_call("error", TASK_CANCELLED)], texts=1)
AT_WORK = a_scene([a_call("completed"), a_call("running")], is_open=True)
OPEN = a_scene([a_call("running")], is_open=True)
RIGHT = {
    Ending.ABORTED: ABORTED,
    Ending.SETTLED: SETTLED_SCENE,
    Ending.CARRIED_ON: CARRIED_ON,
    Ending.AT_WORK: AT_WORK,
}


@pytest.mark.parametrize("ending", RIGHT)
def test_each_ending_is_told_from_every_other(ending: Ending) -> None:
    assert {other: is_right(ending, scene) for other, scene in RIGHT.items()} == {
        other: other is ending for other in RIGHT
    }
    assert not is_right(ending, OPEN)
    assert not is_right(ending, Scene())


def test_half_an_ending_is_none() -> None:
    assert not is_right(Ending.ABORTED, a_scene([a_call("running")], TURN_ABORTED))
    assert not is_right(Ending.SETTLED, a_scene([a_call("running")], SETTLED))
    assert not is_right(Ending.SETTLED, a_scene([a_call("error", SETTLED)], is_open=True))
    assert not is_right(Ending.CARRIED_ON, a_scene([a_call("error", TASK_CANCELLED)], TURN_ABORTED, texts=1))
    assert not is_right(Ending.AT_WORK, a_scene([a_call("error", "x"), a_call("running")], is_open=True))


def test_untouched_means_every_row() -> None:
    assert is_right(Ending.UNTOUCHED, OPEN, before=OPEN)
    assert not is_right(Ending.UNTOUCHED, AT_WORK, before=OPEN)
    assert not is_right(Ending.UNTOUCHED, Scene(), before=OPEN)
