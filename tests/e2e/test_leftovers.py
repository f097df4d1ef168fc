"""What a killed server leaves running: listed with its session and its call, and ended on request."""

import sys

import pytest

from tests.support.left_over import session as processes
from tests.support.opencode import Server
from tests.support.prompts import bash
from tests.support.scripted_model import script, use
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Json, Watchdog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="left-over commands are told on Linux only")

HUNG = "sleep 8601"


async def test_after_kill_9_a_command_is_listed_with_its_session_and_call_and_ended_on_request(
    server: Server,
) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(bash(HUNG))))
    await session.wait_for_call("bash")
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


async def _left(watchdog: Watchdog) -> list[Json]:
    listed = await watchdog.command("leftovers", "--json")
    assert listed.code == 0, listed
    found: list[Json] = listed.document["leftovers"]
    return [each for each in found if each["session_id"] is not None]
