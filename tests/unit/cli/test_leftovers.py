"""`leftovers` through the real program, on real processes. Nothing here says `--all`: others' tests run beside."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from tests.support.database import OpencodeFile
from tests.support.left_over import Opencode, opencode, session, until
from tests.support.program import NOWHERE, Program, now_ms, path, program, rows
from tests.support.waiting import wait_until
from tests.unit.judging.test_leftovers import command
from tests.unit.reporting.test_documents import example, shape
from watchdog.cli import leftovers as module
from watchdog.errors import UsageError
from watchdog.model.leftovers import Commands, LeftOver

__all__ = ["path", "program", "rows"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="left-over commands are told on Linux only")


@pytest.fixture
def dead() -> Iterator[Opencode]:
    """An opencode; whoever uses it lets it die."""
    with opencode() as found:
        yield found


def running(path: Path, folder: Path, command: str) -> tuple[str, str]:
    """A session with an open call that runs a command: their ids."""
    with OpencodeFile(path) as rows:
        session_id = rows.session(f"ses_{command.rsplit(maxsplit=1)[-1]}", directory=str(folder), at=now_ms())
        turn = rows.turn(session_id, f"msg_{session_id}", at=now_ms(), cwd=None)
        state = {"status": "running", "input": {"command": command}, "time": {"start": now_ms()}}
        data = {"type": "tool", "tool": "bash", "callID": "c", "state": state}
        return session_id, rows.part(turn, data, f"prt_{session_id}", at=now_ms())


async def test_listed_with_its_session_ended_after_a_question_noted_and_not_to_be_undone(
    program: Program, path: Path, dead: Opencode, tmp_path: Path
) -> None:
    session_id, part = running(path, tmp_path, "sleep 83.25")
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


async def test_nothing_is_ended_while_nobody_can_tell_in_which_of_them_an_opencode_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = LeftOver(command=command(), why="its opencode is gone")

    async def look() -> Commands:
        return Commands(left=(left,), refusal="The holders of the database can't be looked up (OSError).")

    @asynccontextmanager
    async def sidecar(*_: object, **__: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(processes=SimpleNamespace(look=look))

    monkeypatch.setattr(module, "sidecar", sidecar)
    for pids in ([left.command.first.pid], None):
        with pytest.raises(UsageError, match=r"can't be looked up \(OSError\)\. .*: nothing was ended\.$"):
            await module.end_them(Mock(), Mock(), pids, confirm=None)


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


@pytest.mark.parametrize("ends", [True, False], ids=["orphans", "off"])
async def test_with_the_setting_the_command_of_a_settled_call_is_ended_unless_it_was_started_to_stay(
    program: Program, path: Path, dead: Opencode, tmp_path: Path, *, ends: bool
) -> None:
    commands = ["sleep 84.25", "nohup sleep 84.5 & sleep 84.75", "cd / && sleep 85.25", "sleep 85.5"]
    parts = [running(path, tmp_path, each)[1] for each in commands]
    hung, staying, elsewhere = [dead.start(each, tmp_path) for each in commands[:3]]
    until(hung, "sleep 84.25")
    await wait_until(lambda: len(session(staying)) == 3, "the command that stays")
    await wait_until(lambda: Path(f"/proc/{elsewhere}/cwd").readlink() == Path("/"), "the other folder")
    dead.die()
    settings = {"end_leftovers": "orphans"} if ends else {}
    program.settings(database=str(path), servers=[NOWHERE], discover=False, **settings)

    done = await program.run("recover", "--json")

    assert done.code == 0, done
    assert (session(hung) == []) is ends
    assert len(session(staying)) == 3
    assert elsewhere in session(elsewhere)
    with OpencodeFile(path) as rows:
        said = [json.loads(rows.get("part", each))["state"]["error"].partition(". ")[2] for each in parts]
    assert said == [
        f"Its command was still running (process {hung}), and is ended, too."
        if ends
        else f"Its command is still running (process {hung}).",
        f"Its command is still running (process {staying}).",
        "A command that it had started may still be running.",
        "A command that it had started may still be running.",
    ]
    steps = [
        step["detail"]
        for each in done.document["outcomes"]
        for step in each["steps"]
        if step["step"] == "end_command"
    ]
    assert f"process {staying} is left alone: its command has `nohup`" in steps
    assert len(steps) == 2
    history = await program.run("history", "--json")
    ended = [each for each in history.document["interventions"] if each["verdict"]["kind"] == "left_over"]
    assert [(each["actor"], each["outcome"]["result"]) for each in ended] == [("watchdog", "recovered")] * ends


async def test_a_settled_call_says_so_if_no_process_of_its_command_is_left(
    program: Program, path: Path, tmp_path: Path
) -> None:
    _, part = running(path, tmp_path, "sleep 85.75")
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    done = await program.run("recover")
    assert done.code == 0, done
    with OpencodeFile(path) as rows:
        error = json.loads(rows.get("part", part))["state"]["error"]
    assert error.endswith(("No process of its command was found.", "may still be running."))
