"""Processes that listen on no port, or ask for a password that nobody gave, are reached through the bridge."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import editor, tell, terminal_ui, through_bridge
from tests.support.opencode import Lab, Server, Session
from tests.support.prompts import QUESTION, sleep
from tests.support.scripted_model import script, use
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Watchdog

Json = dict[str, Any]


@pytest.fixture
def lab(lab: Lab) -> Iterator[Lab]:
    """A laboratory whose user has a runtime folder: a short one, as in life, for the path of a socket is limited."""
    lab.runtime = Path(tempfile.mkdtemp(prefix="run-"))
    yield lab
    shutil.rmtree(lab.runtime)


async def test_a_hung_call_of_opencode_run_is_ended_there_and_what_a_killed_one_left_is_settled(lab: Lab) -> None:
    watchdog = Watchdog.for_lab(lab, tool_timeout=3, discover=True)
    await bridge(watchdog, "install")
    hung = lab.opencode_run(script(use(sleep())), name="hung")
    server = await through_bridge(lab, hung)  # of two that make the database at once, one may end
    killed = lab.opencode_run(script(use(sleep())), name="killed")
    other = await through_bridge(lab, killed)
    session, lost = await running(server, "hung"), await running(other, "killed")
    assert {each["pid"]: each["understood"] for each in (await bridge(watchdog, "status"))["processes"]} == {
        hung.pid: True,
        killed.pid: True,
    }
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    async with watchdog.run() as watching:
        ended = await watching.wait_outcome(session.id, "recovered", kind="stuck_tool")
        assert f"bridge:{hung.pid}" in json.dumps(ended)
        await watching.wait_outcome(lost.id, "recovered", kind="orphan")
    assert hung.wait(timeout=20) is not None
    assert sockets(lab) == []


def sockets(lab: Lab) -> list[str]:
    assert lab.runtime is not None
    return [path.name for path in lab.runtime.glob("*/*.sock")]


async def bridge(watchdog: Watchdog, command: str) -> Json:
    done = await watchdog.command("bridge", command, "--json")
    assert done.code == 0, done
    return done.document


async def running(server: Server, folder: str) -> Session:
    """The session that a process runs in a folder, once its command runs."""

    async def look() -> str | None:
        return next(iter(await server.status(server.lab.project(folder))), None)

    session = server.session(await wait_until(look, f"the session in {folder}"), server.lab.project(folder))
    await session.wait_for_bash()
    return session


async def test_what_hangs_in_a_terminal_an_editor_or_behind_a_password_is_ended_and_a_question_is_spared(
    lab: Lab,
) -> None:
    """Two bridges and a process that answers at its address, on one database."""
    watchdog = Watchdog.for_lab(lab, tool_timeout=3, discover=True)
    await bridge(watchdog, "install")
    app = await lab.serve(password="of the desktop app")  # noqa: S106 - nobody gives it to the watchdog
    behind_a_password = await app.create_session()
    await behind_a_password.prompt(script(use(sleep())))
    with terminal_ui(lab, lab.project("terminal")) as terminal, editor(lab, lab.project("editor")) as (acp, edited):
        ui = await through_bridge(lab, terminal)
        hung, asking = [await ui.create_session(lab.project("terminal")) for _ in range(2)]
        await hung.prompt(script(use(sleep())))
        await asking.prompt(QUESTION)
        ask = await asking.wait_for_ask()
        tell(acp, "session/prompt", sessionId=edited, prompt=[{"type": "text", "text": script(use(sleep()))}])
        in_editor = (await through_bridge(lab, acp)).session(edited, lab.project("editor"))
        for session in (hung, behind_a_password, in_editor):
            await session.wait_for_bash()
        async with watchdog.run() as watching:
            outcomes = {
                session.id: json.dumps(await watching.wait_outcome(session.id, "recovered", kind="stuck_tool"))
                for session in (hung, behind_a_password, in_editor)
            }
            await watching.wait_looks(2)
            assert watching.outcomes(asking.id) == []
        assert f"bridge:{terminal.pid}" in outcomes[hung.id]
        assert f"bridge:{app.pid}" in outcomes[behind_a_password.id]
        assert "bridge:" not in outcomes[in_editor.id], "it listens, and needs no bridge"
        assert [each["id"] for each in await ui.questions(lab.project("terminal"))] == [ask["id"]]
        await hung.finish_prompt("go on")


@pytest.mark.parametrize("version", ["1.15.3"])
async def test_where_the_inside_of_a_server_has_another_state_its_own_address_is_asked_with_its_own_password(
    lab: Lab,
) -> None:
    watchdog = Watchdog.for_lab(lab, tool_timeout=1, discover=True)
    await bridge(watchdog, "install")
    server = await lab.serve(password="nobody gives it to the watchdog")  # noqa: S106
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    async with watchdog.run() as watching:
        ended = await watching.wait_outcome(session.id, "recovered", kind="stuck_tool")
    assert f"bridge:{server.pid}" in json.dumps(ended)
    await session.finish_prompt("go on")
    removed = await bridge(watchdog, "remove")
    assert (removed["installed"], removed["processes"][0]["loaded"], sockets(lab)) == (False, False, [])
    assert server.process.poll() is None
