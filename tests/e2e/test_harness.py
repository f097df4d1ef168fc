"""What real opencode does by itself: the facts that the watchdog relies on, with no watchdog around."""

import asyncio

import pytest

from tests.e2e.conftest import OpenLab
from tests.support.binaries import VERSIONS
from tests.support.opencode import HANGING_TOOL, SILENT_MCP_TOOL, Lab
from tests.support.prompts import QUESTION, bash, gated, sleep
from tests.support.scripted_model import FINAL_TEXT, call, refuse, say, script, stream, streamed_words, task, use
from tests.support.waiting import wait_until


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_a_crash_leaves_open_stays_open_and_the_next_server_calls_it_idle(lab: Lab) -> None:
    server = await lab.serve()
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_call("bash")

    server.kill9()
    left = lab.rows()
    restarted = await server.restart()

    assert len(left.open_turns) == len(left.open_calls) == 1
    assert await restarted.status() == {}
    assert await session.on(restarted).abort() is True
    assert lab.rows() == left


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_abort_ends_a_bash_call_and_its_turn_at_once(lab: Lab) -> None:
    session = await (await lab.serve()).create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_call("bash")

    assert await session.abort() is True
    await session.wait_closed(seconds=5)

    assert (await session.turns())[-1]["info"]["error"]["name"] == "MessageAbortedError"
    await session.finish_prompt("go on")


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_abort_of_a_tool_that_ignores_it_ends_the_call_except_on_old_versions(open_lab: OpenLab) -> None:
    lab = await open_lab(mcp=True)
    server = await lab.serve()
    sessions = [await server.create_session() for _ in range(2)]
    for session, tool in zip(sessions, (HANGING_TOOL, SILENT_MCP_TOOL), strict=True):
        await session.prompt(script(use(call(tool))))
        await session.wait_for_call(tool)

    for session in sessions:
        assert await session.abort() is True

    for session in sessions:
        if server.generation >= (1, 14):
            await session.wait_closed(seconds=5)
        else:  # it forgets the session, and leaves the turn and the call open for ever
            await asyncio.sleep(1)
            assert await session.status() == {"type": "idle"}
            assert len(await session.open_ids()) == 2
        await session.finish_prompt("go on")


@pytest.mark.parametrize("version", VERSIONS)
async def test_aborting_a_child_lets_its_parent_and_its_sibling_finish(lab: Lab) -> None:
    parent = await (await lab.serve()).create_session()
    healthy = bash("sleep 3; echo healthy")
    await parent.prompt(script(use(task("hung", use(sleep())), task("healthy", use(healthy)))))
    children = await parent.wait_for_child(count=2)
    for child in children:
        await child.wait_for_call("bash")
    [hung] = [one for one in children if "600" in str(await one.calls("bash"))]

    await hung.abort()
    turn = await parent.wait_finished(turns=2)

    assert "error" not in turn["info"]
    assert await parent.text() == FINAL_TEXT
    assert sorted(part["state"]["status"] for part in await parent.calls("task")) != ["error", "error"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_asks_retries_and_streams_are_what_the_server_says_they_are(lab: Lab) -> None:
    server = await lab.serve()
    asked, held, refused, streaming = [await server.create_session() for _ in range(4)]
    await asked.prompt(QUESTION)
    await held.prompt(script(use(gated())))
    await refused.prompt(script(refuse(429, "slow down", retry_after="600")))
    words = stream("reasoning", 2)
    await streaming.prompt(script(words, say("unused")))

    async def retry() -> bool:
        return "next" in await refused.status()

    await asked.wait_for_call("question")
    await held.wait_for_call("bash")
    await wait_until(retry, "a session that retries")
    assert [ask["sessionID"] for ask in await server.questions()] == [asked.id]
    assert [ask["sessionID"] for ask in await server.permissions()] == [held.id]
    last = await streaming.wait_finished()
    [reasoning] = [part["text"] for part in last["parts"] if part["type"] == "reasoning"]
    assert reasoning.split() == streamed_words(words).split()
    for session in (asked, held):
        await session.abort()
        await session.wait_closed()
