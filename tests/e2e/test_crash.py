"""A server dies with work open: the watchdog settles what provably nobody executes any more."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from tests.support.binaries import VERSIONS
from tests.support.opencode import Server, Session
from tests.support.prompts import QUESTION, sleep
from tests.support.rows import Rows
from tests.support.scripted_model import FINAL_TEXT, go_silent, script, task, use
from tests.support.watchdog_run import Watchdog

BIRTH_MARGIN = 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_a_crash_and_a_restart_nothing_stays_open_and_clients_see_it_and_sessions_go_on(
    server: Server,
) -> None:
    lab = server.lab
    left = await _leave_work_open(server)
    await lab.wait_for_orphan_age(BIRTH_MARGIN)
    server.kill9()
    before = lab.rows()
    assert len(before.open_turns) == 5
    assert len(before.open_calls) == 4

    server = await server.restart()
    sessions = [session.on(server) for session in left]
    watchdog = Watchdog.for_lab(lab, server, birth_margin=BIRTH_MARGIN)
    async with server.events() as events, watchdog.run() as running:
        for session in sessions:
            await running.wait_outcome(session.id, "recovered", kind="orphan")
        _assert_settled(before, lab.rows())
        for call in before.open_calls:
            await events.wait_for_state(call.part_id, "error")
        await _finish_next_prompts(sessions)
        assert {outcome["result"] for outcome in running.acts()} == {"recovered"}
    assert not lab.rows().open_ids


@pytest.mark.parametrize("version", VERSIONS)
async def test_without_any_server_recover_settles_in_the_database_what_a_later_server_shows_ended(
    server: Server,
) -> None:
    lab = server.lab
    left = await _leave_work_open(server)
    server.kill9()
    before = lab.rows()
    watchdog = Watchdog.for_lab(lab, server)

    rehearsed = await watchdog.command("recover", "--json", "--dry-run")
    assert {outcome["result"] for outcome in rehearsed.document["outcomes"]} == {"dry_run"}, rehearsed
    assert lab.rows() == before
    seen = await watchdog.command("scan", "--json")
    assert seen.code == 1, seen
    assert {verdict["kind"] for verdict in seen.document["verdicts"]} == {"orphan"}, seen
    recovered = await watchdog.command("recover", "--json")

    assert recovered.code == 0, recovered
    outcomes = recovered.document["outcomes"]
    assert {(one["kind"], one["result"]) for one in outcomes} == {("orphan", "recovered")}, recovered
    assert {one["session_id"] for one in outcomes} == {session.id for session in left}
    _assert_settled(before, lab.rows())
    clean = await watchdog.command("scan", "--json")
    assert (clean.code, clean.document["verdicts"]) == (0, []), clean

    server = await lab.serve()
    sessions = [session.on(server) for session in left]
    for session in sessions:
        assert await session.open_ids() == []
    await _finish_next_prompts(sessions)


async def test_a_watchdog_that_runs_while_its_server_crashes_and_restarts_settles_what_it_left(
    server: Server,
) -> None:
    lab, first = server.lab, server
    watchdog = Watchdog.for_lab(lab, first)
    async with watchdog.run() as running:
        left = await _leave_work_open(first)
        await running.wait_looks(3)
        assert running.outcomes() == []

        first.kill9()
        for session in left:
            await running.wait_outcome(session.id, "recovered", kind="orphan")
        server = await first.restart()
        await _finish_next_prompts([session.on(server) for session in left])
        assert {outcome["result"] for outcome in running.acts()} == {"recovered"}
    assert not lab.rows().open_ids


async def _leave_work_open(server: Server) -> list[Session]:
    """A bash, a question, a task with its child, and a turn whose model went silent: five sessions."""
    bash, asking, parent, silent = [await server.create_session() for _ in range(4)]
    await bash.prompt(script(use(sleep())))
    await asking.prompt(QUESTION)
    await parent.prompt(script(use(task("child", use(sleep())))))
    await silent.prompt(script(go_silent("Hm.")))
    child = await parent.wait_for_child("child")
    await asking.wait_for_ask()
    for session in (bash, child):
        await session.wait_for_bash()
    await silent.wait_for_turn()
    return [bash, asking, parent, child, silent]


def _assert_settled(before: Rows, after: Rows) -> None:
    """What was open has ended honestly, and kept what it had; nothing else changed."""
    assert not after.open_ids
    calls = {call.part_id for call in before.open_calls}
    for part_id in calls:
        was, is_now = (json.loads(rows.parts[part_id][-1])["state"] for rows in (before, after))
        assert is_now["status"] == "error"
        assert is_now["input"] == was["input"]
        assert is_now.get("metadata", {}).items() >= was.get("metadata", {}).items()
        assert is_now["time"]["end"] >= is_now["time"]["start"]
        assert "aborted" not in is_now["error"].lower()
    turns = {turn.message_id for turn in before.open_turns}
    for message_id in turns:
        message = json.loads(after.messages[message_id][-1])
        assert message["time"]["completed"] >= message["time"]["created"]
        assert message["error"]["data"]["message"]
    assert {key: row for key, row in after.parts.items() if key not in calls} == {
        key: row for key, row in before.parts.items() if key not in calls
    }
    assert {key: row for key, row in after.messages.items() if key not in turns} == {
        key: row for key, row in before.messages.items() if key not in turns
    }


async def _finish_next_prompts(sessions: Sequence[Session]) -> None:
    """Each session accepts its next prompt and finishes it, a tool call and all."""
    await asyncio.gather(*(session.finish_prompt(script(use(sleep(0)))) for session in sessions))
    for session in sessions:
        assert await session.text() == FINAL_TEXT
