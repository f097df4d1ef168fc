"""`check --alive`, as a container's health check calls it."""

import json
import signal
from pathlib import Path

from tests.support.database import OpencodeFile
from tests.support.program import Program, path, program, rows
from watchdog.opencode.processes.lock import DatabaseLock

__all__ = ["path", "program", "rows"]


async def test_without_a_watchdog_nothing_is_alive(program: Program, path: Path, rows: OpencodeFile) -> None:  # noqa: ARG001
    done = await program.run("check", "--alive", "--database", path)
    assert (done.code, "no watchdog looks" in done.stdout) == (3, True), done


async def test_a_watchdog_that_runs_is_alive_and_a_dry_run_is_too(
    program: Program,
    path: Path,
    rows: OpencodeFile,  # noqa: ARG001
) -> None:
    for words in (("run",), ("run", "--dry-run")):
        async with program.started(*words, "--database", path) as running:
            await running.said("watch.started")
            done = await program.run("check", "--alive", "--json", "--database", path)
            for _ in range(50):
                if done.code != 0:
                    done = await program.run("check", "--alive", "--json", "--database", path)
            assert json.loads(done.stdout)["alive"] is True, done
            running.signal(signal.SIGTERM)
            assert (await running.finished()).code == 0


async def test_a_look_of_long_ago_is_no_sign_of_life(program: Program, path: Path, rows: OpencodeFile) -> None:  # noqa: ARG001
    with DatabaseLock(path) as lock:
        lock.beat(1_700_000_000_000)
    done = await program.run("check", "--alive", "--json", "--database", path)
    assert (done.code, json.loads(done.stdout)["alive"]) == (3, False)


async def test_without_a_database_it_says_so(program: Program, tmp_path: Path) -> None:
    done = await program.run("check", "--alive", "--database", tmp_path / "none.db")
    assert done.code == 3
    assert "Traceback" not in done.stderr
