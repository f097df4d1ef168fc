"""Which folders a server is asked about, and what one of them says of the others, on real servers."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.support.opencode import Lab
from tests.support.prompts import sleep
from tests.support.scripted_model import script, use
from tests.support.watchdog_run import Watchdog

pytestmark = pytest.mark.e2e

_COUNTING: str = """\
import { appendFileSync } from "node:fs"
export const Counting = async (input) => {
  appendFileSync(LOADS, input.directory + "\\n")
  return {}
}
"""


async def test_a_folder_with_a_broken_configuration_stops_nothing_in_another_folder(lab: Lab) -> None:
    """49: its server answers 400 for everything there, and as ever for the rest."""
    server = await lab.serve()
    bad, good = lab.project("bad"), lab.project("good")
    lost = await server.create_session(bad)
    await lost.prompt(script(use(sleep())))
    await lost.wait_for_bash()
    watchdog = Watchdog.for_lab(lab, server, tool_timeouts={"bash": 6})
    async with watchdog.run() as running:
        await running.wait_looks(2)
        server.kill9()
        (bad / "opencode.json").write_text("{ this is no configuration")
        server = await server.restart()
        hung = await server.create_session(good)
        await hung.prompt(script(use(sleep())))
        await hung.wait_for_bash()
        await running.wait_outcome(hung.id, "recovered", kind="stuck_tool")
        assert await hung.open_ids() == []


async def test_looking_at_an_idle_database_loads_no_folder(lab: Lab) -> None:
    """50: counted by a plugin, which every folder that is asked about would load."""
    loads = lab.home / "loads.txt"
    plugins = lab.home / ".config" / "opencode" / "plugin"
    plugins.mkdir(parents=True, exist_ok=True)
    (plugins / "counting.js").write_text(_COUNTING.replace("LOADS", json.dumps(str(loads))))
    server = await lab.serve()
    session = await server.create_session()
    await session.finish_prompt("hello")
    await server.stop()
    _twenty_folders(lab.database, lab.home)
    loads.write_text("")

    server = await lab.serve()
    watchdog = Watchdog.for_lab(lab, server)
    before = loads.read_text()
    scanned = await watchdog.command("scan", "--json")
    assert scanned.code == 0, scanned
    async with watchdog.run() as running:
        await running.wait_looks(4)
    assert loads.read_text() == before


async def test_a_session_that_was_deleted_while_it_ran_is_named_and_ended_by_a_watchdog_that_never_saw_it(
    lab: Lab,
) -> None:
    """54: it is in no table, and no event tells of it; another session was at work in its folder."""
    server = await lab.serve()
    hung = await server.create_session()
    await hung.prompt(script(use(sleep())))
    await hung.wait_for_bash()
    beside = await server.create_session()
    await beside.finish_prompt("hello")
    deleted = await server.client.delete(f"/session/{hung.id}", params={"directory": str(hung.directory)})
    assert deleted.is_success
    assert (await hung.status())["type"] == "busy"

    watchdog = Watchdog.for_lab(lab, discover=True)
    scanned = await watchdog.command("scan", "--json")
    assert any(f"at work on session {hung.id}, which is not in this" in each for each in scanned.document["degraded"])
    explained = await watchdog.command("explain", hung.id)
    assert "it was deleted while it ran, and http://127.0.0.1" in explained.stderr, explained
    released = await watchdog.command("release", hung.id, "--yes", "--json")
    assert released.code == 0, released
    assert (await hung.status())["type"] == "idle"


def _twenty_folders(database: Path, home: Path) -> None:
    """Let twenty sessions have been at work, each in a folder of its own."""
    with sqlite3.connect(database) as connection:
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(session)")]
        row = dict(zip(names, connection.execute("SELECT * FROM session").fetchone(), strict=True))
        for number in range(20):
            folder = home / f"old{number}"
            folder.mkdir()
            more = {**row, "id": f"{row['id']}{number}", "directory": str(folder)}
            if "slug" in more:
                more["slug"] = f"{row['slug']}-{number}"
            marks = ", ".join("?" * len(names))
            connection.execute(f"INSERT INTO session ({', '.join(names)}) VALUES ({marks})", list(more.values()))  # noqa: S608 - the names are the table's own
    connection.close()
