"""What real opencode does by itself: the facts that the watchdog relies on, with no watchdog around."""

import asyncio

import pytest

from tests.e2e.conftest import OpenLab
from tests.support.binaries import VERSIONS
from tests.support.opencode import HANGING_TOOL, SILENT_MCP_TOOL, Server
from tests.support.prompts import QUESTION, gated, sleep
from tests.support.scripted_model import call, refuse, script, stream, streamed_words, use

pytestmark = pytest.mark.parametrize("version", VERSIONS)


async def test_what_a_crash_leaves_open_stays_open_and_the_next_server_calls_it_idle(server: Server) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()

    server.kill9()
    left = lab.rows()
    restarted = await server.restart()

    assert len(left.open_turns) == len(left.open_calls) == 1
    assert await restarted.status() == {}
    assert await session.on(restarted).abort() is True
    assert lab.rows() == left


async def test_an_abort_ends_calls_that_ignore_it_from_1_14_on_and_before_only_forgets_them(
    open_lab: OpenLab,
) -> None:
    lab = await open_lab(mcp=True)
    server = await lab.serve()
    hanging, silent, asking = [await server.create_session() for _ in range(3)]
    await hanging.prompt(script(use(call(HANGING_TOOL))))
    await silent.prompt(script(use(call(SILENT_MCP_TOOL))))
    await asking.prompt(QUESTION)
    await hanging.wait_for_call(HANGING_TOOL)
    await silent.wait_for_call(SILENT_MCP_TOOL)
    await asking.wait_for_ask()

    for session in (hanging, silent, asking):
        assert await session.abort() is True
        await session.wait_for_status("idle")

    for session in (hanging, silent, asking):
        if server.forgets:
            assert len(await session.open_ids()) == 2
        else:
            await session.wait_closed()
    for session in (hanging, silent, asking):
        await session.finish_prompt("go on")
    assert bool(lab.rows().open_ids) is server.forgets


async def test_asks_retries_and_streams_are_what_the_server_says_they_are(server: Server) -> None:
    asked, held, refused, streaming = [await server.create_session() for _ in range(4)]
    await asked.prompt(QUESTION)
    await held.prompt(script(use(gated())))
    await refused.prompt(script(refuse(429, "slow down", retry_after="600")))
    words = stream("reasoning", 2)
    await streaming.prompt(script(words))

    question, permission = await asyncio.gather(asked.wait_for_ask(), held.wait_for_ask())
    [question_call, permission_call] = [*await asked.calls("question"), *await held.calls("bash")]
    assert question["tool"]["callID"] == question_call["callID"]
    assert permission["tool"]["callID"] == permission_call["callID"]
    assert permission_call["state"]["status"] == "running"
    assert (await refused.wait_for_status("retry"))["next"] > 0

    turn = await streaming.wait_finished()
    [reasoning] = [part["text"] for part in turn["parts"] if part["type"] == "reasoning"]
    assert reasoning.split() == streamed_words(words).split()
    await asked.answer(question)
    await held.allow(permission)
    for session in (asked, held):
        assert "error" not in (await session.wait_finished(turns=2))["info"]
