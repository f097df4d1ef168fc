"""The sessions of the demo: what happens in each, and how each must read in the database at the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from watchdog.demo.book import Scene
from watchdog.demo.host import CALL_ABORTED, TASK_CANCELLED, TURN_ABORTED, DemoHost
from watchdog.model.session import SessionId
from watchdog.settings.schema import Settings

SETTINGS = Settings(
    journal="off",
    poll_interval=timedelta(milliseconds=250),
    tool_timeout=timedelta(seconds=4),
    task_timeout=timedelta(seconds=6),
    idle_timeout=timedelta(seconds=3),
    orphan_grace=timedelta(seconds=1),
    abort_timeout=timedelta(seconds=1),
    abort_grace=timedelta(seconds=2),
    shutdown_grace=timedelta(seconds=3),
)
"""Limits of seconds, to keep the demo short. The real defaults are minutes and hours."""

_COMMANDS = ("ruff check .", "mypy", "pytest tests/unit", "git diff --stat")


class Ending(StrEnum):
    """How a session must read in the database at the end, in words for people."""

    ABORTED = "ended by an abort"
    SETTLED = "settled by the watchdog"
    CARRIED_ON = "finished by itself"
    AT_WORK = "still at work"
    UNTOUCHED = "untouched"

    @property
    def by_the_watchdog(self) -> bool:
        """Whether the watchdog ends the session."""
        return self in {Ending.ABORTED, Ending.SETTLED}

    @property
    def is_an_end(self) -> bool:
        """Whether the session's turn ends, one way or another."""
        return self.by_the_watchdog or self is Ending.CARRIED_ON


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One session.

    Attributes:
        name: what the session is, in a few words.
        about: what it does.
        ending: how it must read at the end.
    """

    session_id: SessionId
    name: str
    about: str
    ending: Ending


def _story(id_: str, name: str, about: str, ending: Ending) -> Story:
    return Story(session_id=SessionId(id_), name=name, about=about, ending=ending)


STORIES = (
    _story("ses_hung", "hung tool call", "a bash that never returns", Ending.ABORTED),
    _story("ses_parent", "healthy parent", "its task waits on a child", Ending.UNTOUCHED),
    _story("ses_child", "└ healthy child", "one command after another", Ending.AT_WORK),
    _story("ses_waiting", "waiting parent", "its task waits on a child", Ending.CARRIED_ON),
    _story("ses_stuck", "└ stuck child", "a bash that never returns", Ending.ABORTED),
    _story("ses_silent", "silent model", "its stream stops", Ending.ABORTED),
    _story("ses_stream", "healthy stream", "text, none of it written", Ending.UNTOUCHED),
    _story("ses_question", "question", "waits for a human", Ending.UNTOUCHED),
    _story("ses_tests", "long test run", "declares its own timeout", Ending.UNTOUCHED),
    _story("ses_crash_call", "crashed tool call", "left open by a crash", Ending.SETTLED),
    _story("ses_crash_turn", "crashed turn", "left open by a crash", Ending.SETTLED),
)


async def begin_all(host: DemoHost) -> None:
    """Begin every story."""
    await _begin_crashed(host)
    question = await host.begin("question", title="Which database?", ago_seconds=7400)
    await host.call(question, "question", {"questions": [{"question": "Which database?"}]}, ago_seconds=7380)
    question.asks = True
    tests = await host.begin("tests", title="Run all tests", ago_seconds=760)
    await host.call(tests, "bash", {"command": "make test", "timeout": 1_800_000}, ago_seconds=740)
    hung = await host.begin("hung", title="Build it")
    await host.call(hung, "bash", {"command": "make build"})
    await _begin_families(host)
    silent = await host.begin("silent", title="Explain the cache", text=True)
    host.stream(silent, seconds=1.0)
    stream = await host.begin("stream", title="Write the guide", text=True)
    host.stream(stream)


async def _begin_crashed(host: DemoHost) -> None:
    call = await host.begin("crash_call", title="Migrate", ago_seconds=2500)
    await host.call(call, "bash", {"command": "make migrate"}, ago_seconds=2460)
    turn = await host.begin("crash_turn", title="Summarise", ago_seconds=2480, text=True)
    for work in (call, turn):
        host.crash(work)


async def _begin_families(host: DemoHost) -> None:
    healthy = await host.begin("parent", title="Review everything")
    await host.call(healthy, "task", {"prompt": "Check the code."}, metadata={"sessionId": "ses_child"})
    child = await host.begin("child", title="Check the code", parent=healthy)
    await host.call(child, "bash", {"command": "make format"})
    host.work_through(child, _COMMANDS, each_seconds=2.4)
    waiting = await host.begin("waiting", title="Release it")
    await host.call(waiting, "task", {"prompt": "Build the image."}, metadata={"sessionId": "ses_stuck"})
    stuck = await host.begin("stuck", title="Build the image", parent=waiting)
    host.stream(stuck, seconds=1.0)
    host.call_later(stuck, "bash", {"command": "make image"}, after_seconds=1.0)


# -- how it must read, from the rows alone -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Whether a session reads as it must.

    Attributes:
        reads: how it reads in the database, for people.
    """

    story: Story
    right: bool
    reads: str


def examine(story: Story, before: Scene, now: Scene) -> Finding:
    """Compare a session's rows with how they must read.

    Args:
        story: the session.
        before: its rows when the watchdog began.
        now: its rows now.
    """
    checks = {
        Ending.ABORTED: _is_aborted(now),
        Ending.SETTLED: _is_settled(now),
        Ending.CARRIED_ON: _carried_on(now),
        Ending.AT_WORK: _is_at_work(now),
        Ending.UNTOUCHED: now.rows == before.rows,
    }
    same = "; every row is as it was" if now.rows == before.rows else ""
    return Finding(story=story, right=checks[story.ending], reads=describe(now) + same)


def examine_all(before: Mapping[SessionId, Scene], now: Mapping[SessionId, Scene]) -> list[Finding]:
    """Compare every story's rows with how they must read."""
    return [
        examine(story, before.get(story.session_id, Scene()), now.get(story.session_id, Scene())) for story in STORIES
    ]


def describe(scene: Scene) -> str:
    """How a session reads in the database, for people: its turn, its newest call, and the error of its end."""
    if not scene.turn:
        return "no such session"
    parts = ["turn open" if is_open(scene) else "turn aborted" if "error" in scene.turn else "turn finished"]
    if scene.calls:
        state = scene.calls[-1]["state"]
        parts.append(f"{scene.calls[-1]['tool']} {state['status']}")
        error = state.get("error", "")
    else:
        error = _turn_error(scene)
    return ", ".join(parts) + (f": {error}" if error else "")


def is_open(scene: Scene) -> bool:
    """Whether the session's turn is open."""
    return "completed" not in scene.turn.get("time", {})


def _turn_error(scene: Scene) -> str:
    error = scene.turn.get("error")
    return str(error["data"]["message"]) if error else ""


def _call_errors(scene: Scene) -> list[str | None]:
    return [call["state"].get("error") for call in scene.calls]


def _is_aborted(scene: Scene) -> bool:
    closed = all(error == CALL_ABORTED for error in _call_errors(scene))
    return closed and not is_open(scene) and _turn_error(scene) == TURN_ABORTED


def _is_settled(scene: Scene) -> bool:
    texts = [*_call_errors(scene), _turn_error(scene)]
    return not is_open(scene) and all(str(text).startswith("Ended by opencode-watchdog") for text in texts)


def _carried_on(scene: Scene) -> bool:
    finished = not is_open(scene) and "error" not in scene.turn
    return finished and _call_errors(scene) == [TASK_CANCELLED] and scene.texts == 1


def _is_at_work(scene: Scene) -> bool:
    states = [call["state"]["status"] for call in scene.calls]
    done = ["completed"] * (len(states) - 1)
    return is_open(scene) and "error" not in scene.turn and bool(done) and states == [*done, "running"]
