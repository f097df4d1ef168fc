"""What others fell into, on a real server: those entries that it shows cheaply and that `tests/e2e` does not.

The number in a docstring is the entry's.
"""

import asyncio
import json
import os
import signal
import time
from datetime import datetime
from typing import Any

import pytest

from tests.pitfalls.pester import pestering
from tests.support.opencode import Server
from tests.support.prompts import bash, sleep
from tests.support.scripted_model import (
    FINAL_TEXT,
    call,
    go_silent,
    script,
    stream,
    stream_on,
    streamed_words,
    task,
    use,
)
from tests.support.watchdog_run import Watchdog

pytestmark = pytest.mark.e2e


async def test_a_watchdog_that_was_stopped_for_longer_than_the_limit_kills_nothing_when_it_goes_on(
    server: Server,
) -> None:
    """5: on the real clocks, stopped as a machine stops it."""
    lab = server.lab
    session = await server.create_session()
    await session.finish_prompt(script(use(bash("true"))))
    watchdog = Watchdog.for_lab(lab, server, tool_timeouts={"bash": 5})
    async with watchdog.run() as running:
        await session.prompt(script(use(sleep())))
        await running.wait_for("watch.looked", lambda line: _spares(line, session.id, "within_limit"))
        os.kill(running.process.pid, signal.SIGSTOP)
        stopped = time.time()
        try:
            [hung] = await session.wait_for_bash()
            await asyncio.sleep(7)  # longer than the limit: that is the test
        finally:
            resumed = time.time()
            os.kill(running.process.pid, signal.SIGCONT)
        outcome = await running.wait_outcome(session.id, "recovered", kind="stuck_tool")
    looks = [line for line in running.events("watch.looked") if _at(line) > resumed]
    if stopped - hung["state"]["time"]["start"] / 1000 < 4:  # on a busy machine it may have been nearly over by then
        assert _spares(looks[0], session.id, "within_limit"), outcome
    verdict = next(line for line in running.events("verdict.found") if line["session_id"] == session.id)
    lasted = _at(verdict) - hung["state"]["time"]["start"] / 1000
    # It was stopped for that long less the time until it would have looked again.
    assert 5 <= verdict["age_seconds"] < lasted - (resumed - stopped) + 1, outcome


async def test_a_parent_is_left_while_its_child_streams_although_nothing_else_of_it_moves(server: Server) -> None:
    """6."""
    lab = server.lab
    words = stream_on("text")
    parent = await server.create_session()
    await parent.prompt(script(use(task("child", words))))
    child = await parent.wait_for_child("child")
    await child.wait_for_turn()
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=1, task_timeout=1, idle_timeout=3)
    async with watchdog.run() as running:
        await running.watch_for(5)
        assert running.outcomes() == []
    lab.model.let_finish()
    turn = await parent.wait_finished(turns=2)
    assert "error" not in turn["info"]
    assert lab.model.said(words).split() == (await child.text()).split()


async def test_pings_and_titles_do_not_keep_a_silent_session_alive(server: Server) -> None:
    """9: titles change and everything is asked for all the time, by others."""
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(go_silent("Hm.")))
    await session.wait_for_turn()
    watchdog = Watchdog.for_lab(lab, server, idle_timeout=3)
    async with server.events() as events, pestering(session):
        await events.wait_for(lambda event: event.type == "session.updated", "a title")
        async with watchdog.run() as running:
            outcome = await running.wait_outcome(session.id, "recovered", kind="idle_session")
    verdict = next(line for line in running.events("verdict.found") if line["session_id"] == session.id)
    titles = [event.at for event in events.seen if event.type == "session.updated"]
    assert [at for at in titles if _at(verdict) - 3 < at < _at(verdict)], outcome
    assert (await session.turns())[-1]["info"]["error"]["name"] == "MessageAbortedError"


async def test_a_turn_that_stays_open_after_its_last_tool_completed_is_ended_by_the_idle_rule(server: Server) -> None:
    """25."""
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(bash("echo done")), go_silent()))
    await session.wait_for_call("bash", "completed")
    await lab.model.wait_for_step("silent")
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=1, idle_timeout=2)
    async with watchdog.run() as running:
        await running.wait_outcome(session.id, "recovered", kind="idle_session")
    assert await session.open_ids() == []
    assert [part["state"]["status"] for part in await session.calls("bash")] == ["completed"]
    await session.finish_prompt("go on")


async def test_a_model_that_takes_long_to_stream_the_arguments_of_a_call_is_let_finish(server: Server) -> None:
    """30: all that time there is no row that changes and no event."""
    lab = server.lab
    session = await server.create_session()
    target = lab.project() / "large.txt"
    write = call("write", filePath=str(target), content="words " * 400)
    await session.prompt(script(use(write, arguments_seconds=None)))
    await session.wait_for_call("write", "pending")
    [pending] = lab.rows().open_calls
    watchdog = Watchdog.for_lab(lab, server, idle_timeout=2.5)
    async with watchdog.run() as running:
        await running.watch_for(4)
        assert running.outcomes() == []
        looks = [spared for line in running.events("watch.looked") for spared in line["spared"]]
    lab.model.let_finish()
    turn = await session.wait_finished(turns=2)
    [write_] = await session.calls("write")
    assert write_["state"]["time"]["start"] - pending.created_ms > 4_000
    assert {"within_limit"} == {spared["reason"] for spared in looks if spared["part_id"] == pending.part_id}
    assert "error" not in turn["info"]
    assert target.read_text() == "words " * 400


async def test_after_a_repair_of_pending_and_running_calls_the_messages_read_and_the_next_prompt_is_taken(
    server: Server,
) -> None:
    """15, 16 and 29: every part and turn is closed, in a shape that opencode reads."""
    lab = server.lab
    running, pending = await server.create_session(), await server.create_session()
    await running.prompt(script(use(sleep(), bash("echo ä; sleep 600", timeout_ms=900_000))))
    await pending.prompt(script(use(bash("echo " + "x" * 400), arguments_seconds=None)))
    await running.wait_for_bash()
    await pending.wait_for_call("bash", "pending")
    server.kill9()
    before = lab.rows()
    assert {one.status for one in before.open_calls} == {"pending", "running"}
    assert len(before.open_turns) == 2

    recovered = await Watchdog.for_lab(lab, server).command("recover", "--json")

    assert recovered.code == 0, recovered
    after = lab.rows()
    assert not after.open_ids
    for one in before.open_calls:
        assert json.loads(after.parts[one.part_id][-1])["state"]["status"] == "error"
    for turn in before.open_turns:
        assert json.loads(after.messages[turn.message_id][-1])["time"]["completed"]
    restarted = await server.restart()
    for session in (running.on(restarted), pending.on(restarted)):
        assert [part["state"]["status"] for part in await session.calls("bash")]
        await session.finish_prompt(script(use(sleep(0))))
        assert await session.text() == FINAL_TEXT


async def test_the_turn_of_a_person_who_aborts_a_hung_one_and_prompts_at_once_is_not_hit(server: Server) -> None:
    """13: at the very moment at which the watchdog finds the first one stuck."""
    lab = server.lab
    session = await server.create_session()
    words = stream("text", 2)
    await session.prompt(script(use(sleep())))
    [first] = await session.wait_for_bash()
    began = first["state"]["time"]["start"] / 1000
    limit = time.time() - began + 3
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=limit)
    async with watchdog.run() as running:
        await asyncio.sleep(max(0.0, began + limit - 0.1 - time.time()))
        await session.abort()
        turn = await session.finish_prompt(script(words))
        await running.wait_looks(2)
        assert {outcome["result"] for outcome in running.outcomes()} <= {"recovered", "unchanged"}
    assert "error" not in turn["info"]
    assert (await session.text()).split() == streamed_words(words).split()


def _spares(look: dict[str, Any], session_id: str, reason: str) -> bool:
    """Whether a look left a call of that session alone for that reason."""
    return any(
        (each["session_id"], each["reason"]) == (session_id, reason) and each["part_id"] for each in look["spared"]
    )


def _at(line: dict[str, Any]) -> float:
    """When a line was logged, in seconds since the epoch."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()
