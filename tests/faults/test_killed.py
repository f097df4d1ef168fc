"""The watchdog is killed at every step of the ladder; the next start ends in the same state as if it had not been."""

import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.server import AbortBehaviour, FakeServer, loopback, over_http
from tests.faults.points import KILLED, Entry, Point, dying, entries, memory, points, whole
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program
from tests.support.waiting import wait_until
from watchdog.model.outcome import Row
from watchdog.model.session import Ask, AskKind, SessionId, TurnId

__all__ = ["path", "program"]

SESSION = "ses_1"
TURN = "msg_turn"
CALL = "prt_1"
PLACE = "/project"
SETTLING = ("journal.begin", "journal.keep", "store.write", "journal.end")
SHOWING = ("store.write", "server.publish", "server.readable")
SAVING = [Point(method="journal.save", before=before, nth=nth) for nth in (1, 2) for before in (True, False)]
"""The first is before anything is done, the second notes the attempt, before the intervention is closed."""
CANCELLING = ("journal.begin", "server.abort", "journal.end")
REJECTING = ("journal.begin", "server.reject", "journal.end")


@dataclass(kw_only=True)
class Scene:
    """A session with an open turn and an open call, on a real file, and what it was before."""

    path: Path
    program: Program
    server: FakeServer = field(default_factory=FakeServer)
    original: dict[str, str] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        return self.program.home / "journal.db"

    def fill(self, rows: OpencodeFile, *, age: float, tool: str = "bash") -> None:
        at = now_ms() - round(age * 1000)
        rows.session(SESSION, at=at - 9)
        rows.prompt(SESSION, "msg_0", at=at - 5)
        rows.turn(SESSION, TURN, at=at)
        state = {"status": "running", "input": {"command": "sleep 9999"}, "time": {"start": at}}
        rows.part(TURN, {"type": "tool", "tool": tool, "callID": "ref_1", "state": state}, CALL, at=at)
        self.original = {CALL: rows.get("part", CALL), TURN: rows.get("message", TURN)}

    def settings(self, url: str = NOWHERE, **more: Any) -> None:  # noqa: ANN401
        self.program.settings(
            database=str(self.path), servers=[url], discover=False, journal=str(self.journal), abort_grace="1s",
            poll_interval="200ms", orphan_grace="1s", log_format="json", **more,
        )  # fmt: skip

    def rows(self) -> dict[str, Any]:
        with OpencodeFile(self.path) as rows:
            return {CALL: json.loads(rows.get("part", CALL)), TURN: json.loads(rows.get("message", TURN))}

    def row(self, rows: OpencodeFile, table: str, id_: str) -> Row:
        """A row as its server reads it."""
        return Row(
            table=table, id=id_, message_id=TurnId(TURN), session_id=SessionId(SESSION),
            created_ms=0, updated_ms=0, data=rows.get(table, id_),
        )  # fmt: skip

    def check_files(self) -> None:
        assert whole(self.path)
        assert whole(self.journal)

    def check_settled(self) -> None:
        """Both rows are settled, in a readable shape, and keep what they held."""
        found = self.rows()
        state = found[CALL]["state"]
        assert (state["status"], state["input"]) == ("error", {"command": "sleep 9999"})
        assert state["time"]["end"] >= state["time"]["start"]
        assert found[TURN]["time"]["completed"]
        assert found[TURN]["error"]["data"]["message"] == state["error"]

    def check_journal(self, result: str) -> list[Entry]:
        """Everything that was begun is closed; what was kept is the original; the last outcome is this one."""
        found = entries(self.journal)
        assert [each for each in found if not each.ended or each.result is None] == []
        assert all(each.kept in ({}, self.original) for each in found)
        assert [each.result for each in found if each.result == result] == [result]
        assert found[-1].result == result
        return found


@pytest.fixture
def scene(path: Path, program: Program) -> Scene:
    return Scene(path=path, program=program)


async def start_and_stop(program: Program, true: Callable[[], object]) -> None:
    """Run the service until something is true, then stop it as a supervisor does."""
    async with program.started("run") as process:
        await wait_until(true, "the end", explain=process.stderr)
        process.signal(signal.SIGTERM)
        await process.finished()


async def die(program: Program, point: Point, command: str) -> None:
    """Let it die there."""
    async with dying(program, point).started(command) as process:
        await wait_until(lambda: process.process.poll() is not None, f"its death {point}",
                         explain=process.stderr)  # fmt: skip
        assert process.process.returncode == KILLED, process.stderr()


# an orphan to settle


@pytest.mark.parametrize("point", points(*SETTLING), ids=str)
async def test_a_recover_that_is_killed_is_followed_by_one_that_settles_once(scene: Scene, point: Point) -> None:
    with OpencodeFile(scene.path) as rows:
        scene.fill(rows, age=3600)
    scene.settings()
    await die(scene.program, point, "recover")
    done = await scene.program.run("recover")
    assert done.code == 0, done.stdout + done.stderr
    scene.check_settled()
    scene.check_journal("recovered")
    scene.check_files()


@asynccontextmanager
async def serving(scene: Scene, **settings: object) -> AsyncIterator[None]:
    async with loopback(over_http(scene.server)) as url:
        scene.settings(url, **settings)
        yield


@pytest.mark.parametrize("point", points(*SHOWING), ids=str)
async def test_a_service_that_is_killed_while_it_settles_is_followed_by_one_that_settles_once(
    scene: Scene, point: Point
) -> None:
    with OpencodeFile(scene.path) as rows:  # its server has the database open, and says that it is not at work on it
        scene.fill(rows, age=3600)

        async def copies(_: TurnId) -> list[Row]:
            return [scene.row(rows, table, id_) for table, id_ in (("message", TURN), ("part", CALL))]

        scene.server.copies = copies
        async with serving(scene):
            await die(scene.program, point, "run")
            await start_and_stop(scene.program, lambda: all_closed(scene) and len(scene.server.published) > 0)
    scene.check_settled()
    scene.check_journal("recovered")
    scene.check_files()
    published = {json.dumps(json.loads(row.data), sort_keys=True) for row, _ in scene.server.published}
    assert published == {json.dumps(scene.rows()[CALL], sort_keys=True)}


def all_closed(scene: Scene) -> bool:
    """Whether the last thing that was begun is recovered."""
    if not scene.journal.exists():
        return False
    found = entries(scene.journal)
    return bool(found) and all(each.ended for each in found) and found[-1].result == "recovered"


# a hung call to abort


@pytest.mark.parametrize("point", points(*CANCELLING), ids=str)
async def test_a_service_that_is_killed_while_it_aborts_is_followed_by_one_that_sees_it_through(
    scene: Scene, point: Point
) -> None:
    with OpencodeFile(scene.path) as rows:
        scene.fill(rows, age=60)
        scene.server.busy(SessionId(SESSION), PLACE)

        async def end(_: SessionId) -> None:
            rows.finish_call(CALL, at=now_ms())
            rows.finish_turn(TURN, at=now_ms())

        scene.server.on_abort = end
        async with serving(scene, tool_timeout="30s"):
            await die(scene.program, point, "run")
            await start_and_stop(scene.program, lambda: all_closed(scene))
    found = scene.rows()
    assert (found[CALL]["state"]["status"], "completed" in found[TURN]["time"]) == ("completed", True)
    assert [each.kept for each in scene.check_journal("recovered")][-1] == {}
    assert len(scene.server.aborted) == 1
    scene.check_files()


@pytest.mark.parametrize("point", [*points(*CANCELLING), *SAVING], ids=str)
async def test_a_service_that_is_killed_at_each_attempt_acts_no_more_often_than_one_that_lives(
    scene: Scene, point: Point
) -> None:
    with OpencodeFile(scene.path) as rows:
        scene.fill(rows, age=60)
        scene.server.busy(SessionId(SESSION), PLACE)
        scene.server.abort_behaviour = AbortBehaviour.LIES
        async with serving(scene, tool_timeout="30s", max_attempts=2):
            await die(scene.program, point, "run")
            await start_and_stop(scene.program, lambda: given_up(scene))
    assert 1 <= len(scene.server.aborted) <= 2
    found = entries(scene.journal)
    assert {each.result for each in found} == {"ineffective"}
    assert scene.rows()[CALL] == json.loads(scene.original[CALL])
    scene.check_files()


def given_up(scene: Scene) -> bool:
    if not scene.journal.exists():
        return False
    tried = memory(scene.journal).get("attempts", {}).values()
    return any(each["given_up"] for each in tried) and all(each.ended for each in entries(scene.journal))


# an ask that nobody answers


@pytest.mark.parametrize("point", points(*REJECTING), ids=str)
async def test_a_service_that_is_killed_while_it_turns_an_ask_down_is_followed_by_one_that_sees_it_through(
    scene: Scene, point: Point
) -> None:
    ask = Ask(
        id="que_1", kind=AskKind.QUESTION, session_id=SessionId(SESSION), turn_id=TurnId(TURN), call_ref="ref_1"
    )
    with OpencodeFile(scene.path) as rows:
        scene.fill(rows, age=60, tool="question")
        scene.server.busy(SessionId(SESSION), PLACE)
        scene.server.asks_by = {PLACE: [ask]}

        def end(_: Ask) -> None:
            rows.finish_call(CALL, at=now_ms())
            rows.finish_turn(TURN, at=now_ms())
            scene.server.statuses_by.clear()

        scene.server.on_reject = end
        async with serving(scene, human_timeout="500ms"):
            await die(scene.program, point, "run")
            await start_and_stop(scene.program, lambda: all_closed(scene))
    assert scene.server.rejected == [("que_1", PLACE)]
    assert scene.rows()[CALL]["state"]["status"] == "completed"
    scene.check_journal("recovered")
    scene.check_files()
