"""Work that hangs in a server that lives: exactly that is ended, and proven to have ended."""

import sqlite3
from contextlib import closing

import pytest

from tests.e2e.conftest import OpenLab
from tests.support.binaries import VERSIONS
from tests.support.database import SHARED, OpencodeFile
from tests.support.opencode import HANGING_TOOL, SILENT_MCP_TOOL, Server
from tests.support.prompts import sleep, until
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
from tests.support.waiting import SECONDS
from tests.support.watchdog_run import FORGOTTEN_GRACE, Watchdog


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_hung_child_is_cancelled_and_its_parent_finishes_by_itself_beside_an_undisturbed_child(
    server: Server,
) -> None:
    lab = server.lab
    parent = await server.create_session()
    healthy_bash = until("go", "echo healthy-output")
    await parent.prompt(script(use(task("hung", use(sleep())), task("healthy", use(healthy_bash)))))
    hung, healthy = await parent.wait_for_child("hung"), await parent.wait_for_child("healthy")
    await hung.wait_for_bash()
    await healthy.wait_for_bash()

    watchdog = Watchdog.for_lab(lab, server, tool_timeouts={"bash": 3})
    async with watchdog.run() as running:
        outcome = await running.wait_outcome(hung.id, "recovered", kind="stuck_tool")
        assert (await healthy.calls("bash"))[0]["state"]["status"] == "running"
        (lab.project() / "go").touch()
        turn = await parent.wait_finished(turns=2)

        assert running.acts() == [outcome]
    assert "error" not in turn["info"]
    assert await parent.text() == FINAL_TEXT
    assert "error" not in (await parent.turns())[0]["info"]
    assert "healthy-output" in (await healthy.calls("bash"))[0]["state"]["output"]
    assert "error" not in (await healthy.turns())[-1]["info"]
    assert (await hung.turns())[-1]["info"]["error"]["name"] == "MessageAbortedError"
    assert not lab.rows().open_ids


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_tool_that_ignores_cancellation_and_an_mcp_call_that_never_answers_are_ended(
    open_lab: OpenLab,
) -> None:
    lab = await open_lab(mcp=True)
    server = await lab.serve()
    tools = (HANGING_TOOL, SILENT_MCP_TOOL)
    sessions = {tool: await server.create_session() for tool in tools}
    for tool, session in sessions.items():
        await session.prompt(script(use(call(tool))))
    for tool, session in sessions.items():
        await session.wait_for_call(tool)

    grace = FORGOTTEN_GRACE if server.forgets else SECONDS
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=2, abort_grace=grace)
    async with watchdog.run() as running:
        for tool, session in sessions.items():
            outcome = await running.wait_outcome(session.id, "recovered", kind="stuck_tool")

            assert any(step["step"] == "abort" and step["ok"] for step in outcome["steps"]), outcome
            assert await session.open_ids() == []
            assert (await session.calls(tool))[0]["state"]["status"] == "error"
            await session.finish_prompt("go on")


async def test_an_override_and_a_declared_timeout_outlast_the_limit(server: Server) -> None:
    lab = server.lab
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=1, tool_timeouts={"ha*": "6s", "h*": "1s"})
    hanging, declared = await server.create_session(), await server.create_session()
    # What a call declares is known once it runs.
    await declared.prompt(script(use(until("go", "echo patient"))))
    await declared.wait_for_bash()
    async with watchdog.run() as running:
        await hanging.prompt(script(use(call(HANGING_TOOL))))

        await running.wait_outcome(hanging.id, "recovered", kind="stuck_tool")
        (lab.project() / "go").touch()
        await declared.wait_finished(turns=2)

        lasted = (await hanging.calls(HANGING_TOOL))[0]["state"]["time"]
        assert lasted["end"] - lasted["start"] >= 5_750
        assert running.outcomes(declared.id) == []
    assert "patient" in (await declared.calls("bash"))[0]["state"]["output"]


async def test_slow_streams_come_through_whole_and_a_model_that_goes_silent_is_cancelled(server: Server) -> None:
    lab = server.lab
    talking, thinking, silent = [await server.create_session() for _ in range(3)]
    text, reasoning = stream_on("text"), stream_on("reasoning")
    await talking.prompt(script(text))
    await thinking.prompt(script(reasoning))
    await silent.prompt(script(go_silent("Let me think.")))
    for session in (talking, thinking, silent):
        await session.wait_for_turn()

    watchdog = Watchdog.for_lab(lab, server, idle_timeout=5)
    async with watchdog.run() as running:
        outcome = await running.wait_outcome(silent.id, "recovered", kind="idle_session")
        await running.wait_looks(2)
        lab.model.let_finish()
        said, thought = await talking.wait_finished(), await thinking.wait_finished()

        assert running.acts() == [outcome]
    assert (await talking.text()).split() == lab.model.said(text).split()
    assert "error" not in said["info"]
    [part] = [part["text"] for part in thought["parts"] if part["type"] == "reasoning"]
    assert part.split() == lab.model.said(reasoning).split()
    assert "error" not in thought["info"]
    assert (await silent.turns())[-1]["info"]["error"]["name"] == "MessageAbortedError"


async def test_a_hung_tool_is_not_ended_before_the_healthy_task_beside_it_is_done(server: Server) -> None:
    lab = server.lab
    words = stream_on("text")
    session = await server.create_session()
    await session.prompt(script(use(call(HANGING_TOOL), task("healthy", words))))
    healthy = await session.wait_for_child("healthy")
    hanging = await session.wait_for_call(HANGING_TOOL)

    watchdog = Watchdog.for_lab(lab, server, tool_timeouts={HANGING_TOOL: 2})
    async with watchdog.run() as running:
        await running.wait_spared("waiting_on_sibling", hanging["id"])
        await running.wait_looks(4)
        assert running.outcomes() == []
        lab.model.let_finish()

        await running.wait_outcome(session.id, "recovered", kind="stuck_tool")
        await session.wait_closed()

        assert running.outcomes(healthy.id) == []
    [finished], [hung] = await session.calls("task"), await session.calls(HANGING_TOOL)
    assert finished["state"]["status"] == "completed"
    assert lab.model.said(words).strip() in finished["state"]["output"]
    assert hung["state"]["status"] == "error"
    assert hung["state"]["time"]["end"] >= finished["state"]["time"]["end"]


async def test_a_prompt_sent_right_after_the_watchdogs_abort_runs_undisturbed(server: Server) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    words = stream("text", 4)
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=2, idle_timeout=15)
    async with server.events() as events, watchdog.run() as running:
        await events.wait_for(
            lambda event: event.type == "message.updated" and "error" in event.properties["info"],
            "the abort",
        )
        turn = await session.finish_prompt(script(words))

        await running.wait_outcome(session.id, "recovered", kind="stuck_tool")
        await running.wait_looks(4)
        assert [outcome["result"] for outcome in running.acts()] == ["recovered"]
    assert "error" not in turn["info"]
    assert (await session.text()).split() == streamed_words(words).split()


async def test_the_watchdog_says_what_it_would_do_and_does_nothing_in_a_dry_run(server: Server) -> None:
    lab = server.lab
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=1)
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    before = lab.rows()

    async with watchdog.run("--dry-run") as running:
        await running.wait_outcome(session.id, "dry_run", kind="stuck_tool")
        await running.wait_looks(4)

    assert lab.rows() == before
    assert (await session.status())["type"] == "busy"


async def test_in_a_database_that_opencode_2_has_opened_too_a_hung_call_is_ended_and_what_2x_runs_is_named_and_left(
    open_lab: OpenLab,
) -> None:
    lab = await open_lab()
    server = await lab.serve()
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    second = SHARED[SHARED.index("CREATE TABLE session_v2") :].partition(";")[0]
    with OpencodeFile(lab.database) as rows:
        rows.connection.execute(second)
        rows.second_generation_session(claimed_ms=1)
        (before,) = rows.connection.execute("SELECT * FROM session_v2")

    watchdog = Watchdog.for_lab(lab, server, tool_timeouts={"bash": 3})
    async with watchdog.run() as running:
        outcome = await running.wait_outcome(session.id, "recovered", kind="stuck_tool")
        assert running.acts() == [outcome]
        assert [each for each in running.events("watch.degraded") if "opencode 2.x is at work" in each["why"]]
    assert not lab.rows().open_ids
    with closing(sqlite3.connect(lab.database)) as connection:
        assert connection.execute("SELECT * FROM session_v2").fetchall() == [before]
