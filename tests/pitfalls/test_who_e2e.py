"""Whose word counts, on real servers. The number in a docstring is the pitfall's."""

import asyncio
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.binaries import FORK, VERSIONS
from tests.support.opencode import Lab, Server
from tests.support.prompts import sleep
from tests.support.rows import read_rows
from tests.support.scripted_model import script, use
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Watchdog

pytestmark = pytest.mark.e2e

_HOLDING = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM message").fetchone()
time.sleep(600)
"""


async def test_a_copy_taken_while_a_call_runs_has_no_claim_on_the_server_of_the_original(
    server: Server, tmp_path: Path
) -> None:
    """36: a backup has the ids of the live database; nothing that is done with it reaches the live one's server."""
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep(6))))
    await session.wait_for_bash()
    copy = backup(lab.database, tmp_path / "copy.db")
    await session.wait_finished()
    live = lab.rows()
    (call,) = await session.calls("bash")
    assert call["state"]["status"] == "completed"

    watchdog = Watchdog.for_lab(lab, server, database=str(copy), tool_timeout=1)
    checked = await watchdog.command("check", "--json")
    assert checked.code == 3, checked
    assert any("but on another database" in each for each in checked.document["problems"]), checked
    scanned = await watchdog.command("scan", "--json")
    assert any("but on another database" in each for each in scanned.document["degraded"]), scanned
    recovered = await watchdog.command("recover", "--json")
    assert [each["result"] for each in recovered.document["outcomes"]] == ["recovered"]
    assert steps(recovered.document["outcomes"][0]) == {"reread", "prove", "settle", "publish", "verify"}
    assert lab.rows() == live
    undone = await watchdog.command("undo", "1", "--json")
    assert undone.document["result"] == "undone", undone
    assert lab.rows() == live
    assert read_rows(copy) != live

    newer = await server.create_session()
    await newer.prompt(script(use(sleep())))
    await newer.wait_for_bash()
    async with watchdog.run() as running:
        await running.wait_looks(8)
    assert (await newer.status())["type"] == "busy"
    assert (await session.calls("bash"))[0] == call


async def test_a_copy_of_a_turn_that_runs_now_is_not_aborted_at_the_server_of_the_original(
    server: Server, tmp_path: Path
) -> None:
    """36: while its call runs, the copy's row and the server's own read alike."""
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    copy = backup(lab.database, tmp_path / "copy.db")
    watchdog = Watchdog.for_lab(lab, server, database=str(copy), tool_timeout=1)
    async with watchdog.run() as running:
        await running.wait_looks(8)
    assert (await session.status())["type"] == "busy"
    assert [part["state"]["status"] for part in await session.calls("bash")] == ["running"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_behind_a_forwarded_port_a_server_is_known_by_its_copy_of_the_turn(
    server: Server, tmp_path: Path
) -> None:
    """36: the process at the address is only the tunnel, which has no database open at all."""
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    copy = backup(lab.database, tmp_path / "copy.db")
    with sqlite3.connect(copy) as changed:
        changed.execute("UPDATE message SET data = json_set(data, '$.mode', 'x') WHERE data LIKE '%assistant%'")
    changed.close()
    held = lab.start([sys.executable, "-c", _HOLDING, str(copy)], lab.home / "holder.log")
    async with TcpProxy(server.port) as tunnel:
        through = [f"http://127.0.0.1:{tunnel.port}"]
        other = Watchdog.for_lab(lab, server, database=str(copy), servers=through, tool_timeout=1)
        async with other.run() as running:
            await running.wait_looks(6)
        assert (await session.status())["type"] == "busy"
        watchdog = Watchdog.for_lab(lab, server, servers=through, tool_timeout=1)
        async with watchdog.run() as running:
            await running.wait_outcome(session.id, "recovered", kind="stuck_tool")
    held.kill()
    held.wait()
    assert await session.open_ids() == []


def backup(live: Path, copy: Path) -> Path:
    """A copy as SQLite's backup API takes it, in WAL mode as the original is."""
    with sqlite3.connect(live) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = WAL")
    source.close()
    target.close()
    return copy


def steps(outcome: dict[str, Any]) -> set[str]:
    found: list[dict[str, str]] = json.loads(json.dumps(outcome["steps"]))
    return {each["step"] for each in found}


@pytest.mark.parametrize("version", [FORK])
async def test_a_fork_that_says_it_is_idle_proves_nothing_while_a_persons_command_runs_in_it(lab: Lab) -> None:
    """39: it tells nobody that it is at work on it, and its number is of no version that was measured."""
    server = await lab.serve()
    session = await server.create_session()
    shell = asyncio.create_task(
        server.client.post(
            f"/session/{session.id}/shell",
            params={"directory": str(session.directory)},
            json={"command": "sleep 20; echo whole", "agent": "code", "model": {"providerID": "a", "modelID": "b"}},
        )
    )
    (call,) = await wait_until(lambda: _open_calls(lab), "the command")
    assert (await server.client.get("/session/status", params={"directory": str(session.directory)})).json() == {}
    watchdog = Watchdog.for_lab(lab, server)
    checked, recovered = await watchdog.command("check"), await watchdog.command("recover", "--json")
    assert "a fork's, perhaps, and none that was measured" in checked.stdout
    assert json.loads(recovered.stdout)["outcomes"] == []
    assert (await shell).status_code == 200
    state = json.loads(lab.rows().parts[call.part_id][-1])["state"]
    assert (state["status"], "whole" in state["output"]) == ("completed", True)


async def _open_calls(lab: Lab) -> Any:  # noqa: ANN401
    return lab.rows().open_calls if lab.database.exists() else None
