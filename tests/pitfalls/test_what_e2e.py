"""What is ended, and what it leaves behind, on real servers. The number in a docstring is the pitfall's."""

import asyncio
import json

import pytest

from tests.support.binaries import VERSIONS
from tests.support.opencode import HANGING_TOOL, Lab, Server, Session
from tests.support.prompts import gated, sleep
from tests.support.scripted_model import FINAL_TEXT, call, known_as, script, task, use
from tests.support.waiting import SECONDS
from tests.support.watchdog_run import FORGOTTEN_GRACE, Watchdog

pytestmark = pytest.mark.e2e


async def test_an_ask_left_over_from_an_aborted_turn_does_not_protect_the_call_of_the_same_id_in_the_next_one(
    lab: Lab,
) -> None:
    """53: the model numbers its calls anew in each turn, and the server lists the old ask for ever."""
    server = await lab.serve()
    session = await server.create_session()
    await session.prompt(script(use(known_as(gated(), "call_0"))))
    ask = await session.wait_for_ask()
    await session.abort()
    await session.wait_closed()
    await session.prompt(script(use(known_as(sleep(), "call_0"))))
    await session.wait_for_bash()
    listed = await server.permissions()
    assert [(each["id"], each["tool"]["callID"]) for each in listed] == [(ask["id"], "call_0")]
    watchdog = Watchdog.for_lab(lab, server, tool_timeouts={"bash": 3})
    async with watchdog.run() as running:
        await running.wait_outcome(session.id, "recovered", kind="stuck_tool")
    assert await session.open_ids() == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_a_crash_in_a_subtask_and_a_repair_the_next_prompt_is_answered_and_no_task_runs_twice(
    server: Server,
) -> None:
    """55: without a finish, the next prompt would make opencode run the subtask of the prompt before it again."""
    lab = server.lab
    session = await server.create_session()
    await session.finish_prompt("hello")
    await session.prompt_subtask("child", script(use(sleep())))
    child = await session.wait_for_child("child")
    await child.wait_for_bash()
    server.kill9()
    await _recover(lab)

    again = session.on(await lab.serve())
    await _answers_the_next_prompt(again)
    assert lab.children_of(again) == [child.id]
    assert [part["state"]["status"] for part in await again.calls("task")] == ["error"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_a_crash_in_a_compaction_and_a_repair_the_next_prompt_is_answered_and_nothing_is_lost(
    server: Server,
) -> None:
    """55: a compaction that never ended is not run again, and does not pass for one that did."""
    lab = server.lab
    session = await server.create_session()
    await session.finish_prompt("the first thing")
    lab.model.holds_summaries = True
    asking = asyncio.create_task(session.compact())
    await lab.model.wait_for_step("silent")
    server.kill9()
    await asyncio.gather(asking, return_exceptions=True)
    [turn] = lab.rows().open_turns
    assert json.loads(lab.rows().messages[turn.message_id][-1])["summary"] is True
    await _recover(lab)

    lab.model.holds_summaries = False
    asked = len(lab.model.requests)
    again = session.on(await lab.serve())
    await _answers_the_next_prompt(again)
    assert [turn["info"].get("summary", False) for turn in await again.turns()] == [False, True, False]
    assert any("the first thing" in request.told for request in lab.model.requests[asked:])


async def _recover(lab: Lab) -> None:
    recovered = await Watchdog.for_lab(lab, *lab.servers).command("recover", "--json")
    assert recovered.code == 0, recovered
    assert {one["result"] for one in recovered.document["outcomes"]} == {"recovered"}, recovered
    assert not lab.rows().open_ids


async def _answers_the_next_prompt(session: Session) -> None:
    before = len(await session.turns())
    await session.finish_prompt(script())
    turns = await session.turns()
    assert len(turns) == before + 1, turns
    assert FINAL_TEXT in await session.text()


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_the_end_of_a_hung_child_its_parent_carries_on_and_before_1_14_is_ended_as_well(
    server: Server,
) -> None:
    """Before 1.14 the parent goes on waiting for a child whose tool did not listen to the abort."""
    lab = server.lab
    parent = await server.create_session()
    await parent.prompt(script(use(task("child", use(call(HANGING_TOOL))))))
    child = await parent.wait_for_child("child")
    await child.wait_for_call(HANGING_TOOL)
    grace = FORGOTTEN_GRACE if server.forgets else SECONDS
    limits: dict[str, str | int | float] = {HANGING_TOOL: 3}
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=5, tool_timeouts=limits, abort_grace=grace)
    async with watchdog.run() as running:
        await running.wait_outcome(child.id, "recovered", kind="stuck_tool")
        if server.forgets:
            await running.wait_outcome(parent.id, "recovered", kind="stuck_task")
        else:
            await parent.wait_finished(turns=2)
        assert {outcome["result"] for outcome in running.acts()} == {"recovered"}
    assert await parent.open_ids() == await child.open_ids() == []
    assert (FINAL_TEXT in await parent.text()) is not server.forgets


async def test_an_abort_that_drops_queued_prompts_says_which_ones(server: Server) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    await session.prompt("and then this")
    watchdog = Watchdog.for_lab(lab, server, tool_timeouts={"bash": 3})
    async with watchdog.run() as running:
        outcome = await running.wait_outcome(session.id, "recovered", kind="stuck_tool")
    queued = [each["info"]["id"] for each in await session.messages() if each["info"]["role"] == "user"][-1]
    assert outcome["dropped_prompts"] == [queued]
    history = await watchdog.command("history", "--json")
    assert history.document["interventions"][0]["outcome"]["dropped_prompts"] == [queued]
