"""What a killed server leaves running: listed with its session and its call, and ended on request."""

import sys

import pytest

from tests.support.left_over import session as processes
from tests.support.opencode import Server
from tests.support.prompts import bash
from tests.support.scripted_model import script, use
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Json, Watchdog
from watchdog.opencode.processes.commands import read_table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="left-over commands are told on Linux only")

HUNG = "sleep 8601"
MEANT_TO_STAY = "nohup sleep 8602 >/dev/null 2>&1 & echo started; sleep 8603"


async def test_after_kill_9_a_command_is_listed_with_its_session_and_call_and_ended_on_request(
    server: Server,
) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(bash(HUNG))))
    await session.wait_for_call("bash")
    await wait_until(lambda: _started(server), "its process")
    watchdog = Watchdog.for_lab(lab, server)

    async def hung() -> Json | None:
        found = await _left(watchdog)
        return next((each for each in found if each["command"] == HUNG), None)

    assert await hung() is None, "its opencode is at work on it"
    server.kill9()
    found = await wait_until(hung, "the left-over command")

    (call,) = lab.rows().open_calls
    assert (found["session_id"], found["part_id"]) == (session.id, call.part_id)
    assert found["opencode_pid"] == server.process.pid
    ended = await watchdog.command("leftovers", "--end", str(found["pid"]), "--yes", "--json")
    assert [each["result"] for each in ended.document["ended"]] == ["recovered"], ended
    assert processes(found["pid"]) == []


def _started(server: Server) -> list[int]:
    """The processes of commands that a server started."""
    return [pid for pid, mark in read_table().marks.items() if mark == server.process.pid]


async def _left(watchdog: Watchdog) -> list[Json]:
    listed = await watchdog.command("leftovers", "--json")
    assert listed.code == 0, listed
    found: list[Json] = listed.document["leftovers"]
    return [each for each in found if each["session_id"] is not None]


async def test_with_the_setting_the_command_of_an_orphan_is_ended_and_one_that_was_meant_to_stay_is_reported(
    server: Server,
) -> None:
    lab = server.lab
    hung, staying = [await server.create_session() for _ in range(2)]
    await hung.prompt(script(use(bash(HUNG))))
    await staying.prompt(script(use(bash(MEANT_TO_STAY))))
    for each in (hung, staying):
        await each.wait_for_call("bash")
    await wait_until(lambda: len(_started(server)) == 3, "three processes")
    watchdog = Watchdog.for_lab(lab, server, end_leftovers="orphans")

    async def both() -> dict[str, Json] | None:
        found = {each["session_id"]: each for each in await _left(watchdog)}
        return found if {hung.id, staying.id} <= found.keys() else None

    server.kill9()
    left = await wait_until(both, "the left-over commands")
    async with watchdog.run() as running:
        outcomes = [await running.wait_outcome(each.id, "recovered", kind="orphan") for each in (hung, staying)]
    said = [[step["detail"] for step in each["steps"] if step["step"] == "end_command"] for each in outcomes]

    pid, stays = left[hung.id]["pid"], left[staying.id]["pid"]
    assert said[0] == [f"process {pid} was ended: its opencode (process {server.process.pid}) is gone"]
    assert said[1] == [f"process {stays} is left alone: its command has `nohup`"]
    assert processes(pid) == []
    assert len(processes(stays)) == 2
    history = await watchdog.command("history", "--json")
    (noted,) = [each for each in history.document["interventions"] if each["verdict"]["kind"] == "left_over"]
    assert (noted["actor"], noted["verdict"]["session_id"]) == ("watchdog", hung.id)
