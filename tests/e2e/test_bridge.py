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

from tests.support.clients import through_bridge
from tests.support.opencode import Lab, Server, Session
from tests.support.prompts import sleep
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
