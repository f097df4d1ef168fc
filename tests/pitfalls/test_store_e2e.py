"""What others fell into with the file itself, beside a real server.

The number in a docstring is the entry's.
"""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.holding import holding, mounted
from tests.support.opencode import Lab, Server
from tests.support.prompts import sleep
from tests.support.scripted_model import script, use
from tests.support.watchdog_run import Watchdog

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's lists of locks and mounts are Linux's"),
]


async def test_only_the_database_file_is_mounted_into_a_container_and_everything_that_looks_or_acts_is_refused(
    server: Server, tmp_path: Path
) -> None:
    """37."""
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    before = lab.rows()

    alone = tmp_path / "data" / "opencode.db"
    alone.parent.mkdir()
    alone.touch()
    with mounted(lab.database, alone):
        for command in ("scan", "recover", "check"):
            done = await Watchdog.for_lab(lab, server, database=str(alone)).command(command)
            assert done.code == 3, done
            assert "is a mount point of its own" in done.stdout + done.stderr, done
            assert "Mount the folder" in done.stdout + done.stderr, done
        assert [each.name for each in alone.parent.iterdir()] == ["opencode.db"]
    assert lab.rows() == before
    assert (await session.status())["type"] == "busy"


async def test_a_server_that_has_the_file_under_another_name_is_noticed_from_the_name_that_it_does_not_use(
    server: Server, tmp_path: Path
) -> None:
    """37: a hard link, which no table of mounts shows."""
    lab = server.lab
    await (await server.create_session()).finish_prompt("hello")
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    before = lab.rows()

    link = tmp_path / "data" / "opencode.db"
    link.parent.mkdir()
    link.hardlink_to(lab.database)
    for command in ("scan", "recover", "check"):
        done = await Watchdog.for_lab(lab, server, database=str(link)).command(command)
        assert done.code == 3, done
        assert f"Process {server.pid} has the database" in done.stdout + done.stderr, done
    assert [each.name for each in link.parent.iterdir()] == ["opencode.db"]
    assert lab.rows() == before
    link.unlink()
    done = await Watchdog.for_lab(lab, server).command("check")
    assert done.code == 0, done


async def test_a_running_watchdog_does_nothing_while_a_process_has_the_file_under_another_name_and_goes_on_after_it(
    lab: Lab, tmp_path: Path
) -> None:
    """37: it says so, once, and is degraded meanwhile."""
    server = await lab.serve()
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    link = tmp_path / "data" / "opencode.db"
    link.parent.mkdir()
    link.hardlink_to(lab.database)
    async with Watchdog.for_lab(lab, server).run() as running:
        with holding(link) as other:
            said = await running.wait_for("database.unavailable")
            assert f"Process {other.pid} has the database" in said["why"]
            server.kill9()
            await asyncio.sleep(4)  # longer than a proof takes: that is the test
            assert running.acts() == running.events("database.recovered") == []
        await running.wait_outcome(session.id, "recovered", kind="orphan")


async def test_a_trigger_that_refuses_the_end_of_an_orphan_is_named_and_its_end_comes_once_it_is_gone(
    lab: Lab,
) -> None:
    """67."""
    server = await lab.serve()
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    server.kill9()
    _execute(lab, "CREATE TRIGGER guard BEFORE UPDATE ON part BEGIN SELECT RAISE(ABORT, 'not so'); END")
    before = lab.rows()

    watchdog = Watchdog.for_lab(lab)
    done = await watchdog.command("recover", "--json")
    assert done.code == 1, done
    (outcome,) = done.document["outcomes"]
    assert outcome["result"] == "failed", outcome
    assert "The trigger `guard` on the table `part` refuses it" in outcome["why"], outcome
    assert "just now" not in done.stdout
    assert lab.rows() == before

    _execute(lab, "DROP TRIGGER guard")
    done = await watchdog.command("recover", "--json")
    assert [each["result"] for each in done.document["outcomes"]] == ["recovered"], done


def _execute(lab: Lab, statement: str) -> None:
    with closing(sqlite3.connect(lab.database, isolation_level=None)) as connection:
        connection.execute(statement)
