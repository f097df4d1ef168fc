"""Two processes on one database: whose session it is decides what can be done."""

import json
import os
import signal

from tests.support.forked import Process
from tests.support.opencode import Lab, Server, Session
from tests.support.prompts import sleep
from tests.support.rows import session_ids
from tests.support.scripted_model import script, use
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Watchdog


async def test_a_call_of_an_unconfigured_server_is_unreachable_until_that_server_is_dead(server: Server) -> None:
    lab = server.lab
    first, second = server, await lab.serve()
    session = await second.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    before = lab.rows()

    watchdog = Watchdog.for_lab(lab, first, tool_timeout=1)
    async with watchdog.run() as running:
        unreachable = await running.wait_outcome(session.id, "unreachable", kind="stuck_tool")
        assert str(second.pid) in json.dumps(unreachable), unreachable
        assert lab.rows() == before
        assert (await session.status())["type"] == "busy"

        second.kill9()
        await running.wait_outcome(session.id, "recovered", kind="orphan")

    on_first = session.on(first)
    assert await on_first.open_ids() == []
    await on_first.finish_prompt("go on")


async def test_with_discovery_an_unconfigured_server_is_found_and_its_call_cancelled_there(server: Server) -> None:
    lab = server.lab
    first, second = server, await lab.serve()
    session = await second.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()

    watchdog = Watchdog.for_lab(lab, first, tool_timeout=1, discover=True)
    async with watchdog.run() as running:
        await running.wait_outcome(session.id, "recovered", kind="stuck_tool")

    assert await session.open_ids() == []
    assert (await session.turns())[-1]["info"]["error"]["name"] == "MessageAbortedError"
    await session.finish_prompt("go on")


async def test_a_call_of_opencode_run_is_unreachable_until_that_process_is_dead(lab: Lab) -> None:
    server = await lab.serve()
    client = lab.opencode_run(script(use(sleep())), name="run")
    session = await _running_session(lab)
    before = lab.rows()

    watchdog = Watchdog.for_lab(lab, server, tool_timeout=1, discover=True)
    async with watchdog.run() as running:
        unreachable = await running.wait_outcome(session.id, "unreachable", kind="stuck_tool")
        assert str(client.pid) in json.dumps(unreachable), unreachable
        assert client.poll() is None
        assert lab.rows() == before

        _kill9(client)
        await running.wait_outcome(session.id, "recovered", kind="orphan")

    assert await session.open_ids() == []
    await session.finish_prompt("go on")


async def test_when_one_of_two_servers_crashes_and_restarts_only_its_own_call_is_settled(server: Server) -> None:
    lab = server.lab
    first, second = server, await lab.serve()
    lost, alive = await first.create_session(), await second.create_session()
    for session in (lost, alive):
        await session.prompt(script(use(sleep())))
        await session.wait_for_bash()
    before = lab.rows().of_session(alive.id)

    watchdog = Watchdog.for_lab(lab, first, discover=True)
    async with watchdog.run() as running:
        first.kill9()
        restarted = await first.restart()
        await running.wait_outcome(lost.id, "recovered", kind="orphan")
        await running.watch_for(3)
        assert running.outcomes(alive.id) == []

    assert lab.rows().of_session(alive.id) == before
    assert (await alive.status())["type"] == "busy"
    await lost.on(restarted).finish_prompt("go on")


async def test_of_two_watchdogs_on_one_database_only_the_first_acts(server: Server) -> None:
    lab = server.lab
    session = await server.create_session()
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=3)
    async with watchdog.run() as first, watchdog.run() as second:
        await session.prompt(script(use(sleep())))
        await first.wait_outcome(session.id, "recovered", kind="stuck_tool")
        await second.wait_looks(4)
        assert second.outcomes() == []
    await session.finish_prompt("go on")


async def _running_session(lab: Lab) -> Session:
    """The session that `opencode run` made, once its command runs; any server shows what is stored."""
    server, folder = lab.servers[0], lab.project("run")

    def look() -> str | None:
        return next(iter(session_ids(lab.database)), None)

    session = server.session(await wait_until(look, "the session of opencode run"), folder)
    await session.wait_for_bash()
    return session


def _kill9(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
