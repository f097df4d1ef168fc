"""`leftovers` through the real program, on real processes. Nothing here says `--all`: others' tests run beside."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.database import OpencodeFile
from tests.support.left_over import Opencode, opencode, session, until
from tests.support.program import Program, now_ms, path, program, rows
from tests.unit.judging.test_leftovers import command
from tests.unit.reporting.test_documents import example, shape
from watchdog.cli import leftovers as module
from watchdog.errors import UsageError
from watchdog.model.leftovers import LeftOver

__all__ = ["path", "program", "rows"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="left-over commands are told on Linux only")


@pytest.fixture
def dead() -> Iterator[Opencode]:
    """An opencode; whoever uses it lets it die."""
    with opencode() as found:
        yield found


async def test_listed_with_its_session_ended_after_a_question_noted_and_not_to_be_undone(
    program: Program, path: Path, dead: Opencode, tmp_path: Path
) -> None:
    with OpencodeFile(path) as rows:
        session_id = rows.session(directory=str(tmp_path), at=now_ms())
        state = {"status": "running", "input": {"command": "sleep 83.25"}, "time": {"start": now_ms()}}
        turn = rows.turn(session_id, at=now_ms(), cwd=None)
        part = rows.part(turn, {"type": "tool", "tool": "bash", "callID": "c", "state": state}, at=now_ms())
    pid = dead.start("sleep 83.25", tmp_path)
    until(pid, "sleep 83.25")
    dead.die()

    listed = await program.run("leftovers", "--database", path, "--json")
    assert (listed.code, listed.document["version"]) == (0, 1), listed
    (found,) = [each for each in listed.document["leftovers"] if each["pid"] == pid]
    assert shape(found) == shape(example("leftovers")["leftovers"][0])
    assert found["command"] == "sleep 83.25"
    assert found["opencode_pid"] == dead.pid
    assert (found["session_id"], found["part_id"]) == (session_id, part)
    assert found["born_at"].endswith("Z")
    assert found["why"] == f"its opencode (process {dead.pid}) is gone"
    shown = await program.run("leftovers", "--database", path)
    assert f"left over\t{pid}\t" in shown.stdout, shown

    unasked = await program.run("leftovers", "--database", path, "--end", pid)
    assert (unasked.code, "--yes" in unasked.stderr) == (2, True), unasked
    wrong = await program.run("leftovers", "--database", path, "--end", pid, 1, "--yes")
    assert (wrong.code, "nothing was ended" in wrong.stderr) == (2, True), wrong
    assert session(pid) == [pid]

    ended = await program.run("leftovers", "--database", path, "--end", pid, "--yes", "--json")
    assert (ended.code, session(pid)) == (0, []), ended
    assert [(each["pid"], each["result"]) for each in ended.document["ended"]] == [(pid, "recovered")]

    history = await program.run("history", "--database", path, "--json")
    (noted,) = history.document["interventions"]
    assert (noted["verdict"]["kind"], noted["actor"]) == ("left_over", "person")
    undone = await program.run("undo", noted["id"], "--database", path)
    assert (undone.code, "can't be brought back" in undone.stdout) == (1, True), undone


@pytest.mark.parametrize("line", [["--end"], ["4711"], ["--end", "--all", "4711"], ["--end", "x"], ["--end", "0"]])
async def test_a_line_that_names_nothing_or_too_much_is_refused(program: Program, line: list[str]) -> None:
    refused = await program.run("leftovers", *line)
    assert (refused.code, refused.stdout) == (2, ""), refused


def test_all_of_them_are_all_but_those_that_are_never_ended() -> None:
    kept = LeftOver(command=replace(command(), keep="an opencode runs in it"), why="its opencode is gone")
    left = [LeftOver(command=command(), why="its opencode is gone"), kept]
    assert module._all(left) == left[:1]
    with pytest.raises(UsageError, match="an opencode runs in it"):
        module._chosen([kept], [kept.command.first.pid])


def test_the_question_says_how_many_and_that_it_cant_be_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_interactive", lambda: True)
    left = [LeftOver(command=command(), why="it is gone", stays=stays) for stays in (None, "its command has `&`")]
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    with pytest.raises(UsageError, match="Nothing was ended"):
        module._agreed(left, no)
    assert asked == [
        "End 2 commands, 1 of which may have been started to stay (4711 sleep; 4711 sleep)? It can't be undone."
    ]
