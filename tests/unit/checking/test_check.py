"""`check` in all its states, for people and as JSON."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.server import FakeServer, loopback, over_http, read_request, reply
from tests.support.database import SHARED, OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, rows
from tests.support.watchdog_run import Finished
from watchdog.opencode.processes.holders import INITIAL_NAMESPACE, own_namespace
from watchdog.opencode.processes.lock import DatabaseLock, lock_path
from watchdog.settings.schema import Settings

__all__ = ["path", "program", "rows"]

VISIBLE = pytest.mark.skipif(
    sys.platform != "linux" or own_namespace() != INITIAL_NAMESPACE,
    reason="who has a database open is only known for sure in Linux's own pid namespace",
)


@asynccontextmanager
async def server(fake: FakeServer, version: str = "1.18.33") -> AsyncIterator[str]:
    async with loopback(over_http(fake, version=version)) as url:
        yield url


def said(done: Finished, kind: str) -> list[str]:
    """The lines of a kind, without it."""
    return [line.partition("\t")[2] for line in done.stdout.splitlines() if line.startswith(f"{kind}\t")]


# Settings.


async def test_each_effective_setting_is_shown_with_where_it_came_from(program: Program, rows: OpencodeFile) -> None:
    config = program.settings(tool_timeout="45m", tool_timeouts={"mcp_*": "1h"})
    program.more = {"OPENCODE_WATCHDOG_IDLE_TIMEOUT": "off", "OPENCODE_SERVER_PASSWORD": "a secret"}
    done = await program.run("check", "--settings", "--database", rows.path, "--server", NOWHERE)
    found = [line.split("\t") for line in said(done, "settings")]
    assert [name for name, _, _ in found] == list(Settings.model_fields)
    assert ["tool_timeout", "45m", f"file {config}, key tool_timeout"] in found
    assert ["idle_timeout", "off", "environment variable OPENCODE_WATCHDOG_IDLE_TIMEOUT"] in found
    assert ["server_password", "set", "environment variable OPENCODE_SERVER_PASSWORD"] in found
    assert ["poll_interval", "5s", "default"] in found
    document = (await program.run("check", "--json", "--database", rows.path, "--server", NOWHERE)).document
    assert document["settings"]["tool_timeouts"]["value"] == "mcp_*=1h"
    assert document["config_file"] == str(config)


async def test_what_is_wrong_comes_first_and_the_settings_that_somebody_gave_come_last(
    program: Program, rows: OpencodeFile
) -> None:
    config = program.settings(tool_timeout="45m", server_password="a secret")  # noqa: S106
    config.chmod(0o644)
    done = await program.run("check", "--database", rows.path, "--server", NOWHERE)
    kinds = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert kinds[:3] == ["problem", "problem", "warning"]
    assert kinds[-5:] == [*["settings"] * 4, "summary"]
    assert kinds.count("settings") == 4
    assert [line.split("\t")[0] for line in said(done, "settings")] == [
        "database", "servers", "server_password", "tool_timeout",
    ]  # fmt: skip


async def test_a_warning_of_the_settings_is_a_warning_here(program: Program, rows: OpencodeFile) -> None:
    program.settings(server_password="a secret").chmod(0o644)  # noqa: S106
    async with server(FakeServer()) as url:
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert done.code == 0
    assert len(said(done, "warning")) == 1
    assert said(done, "summary") == ["usable, with 1 warning above"]


# The database, who has it open, and who watches it.


@VISIBLE
async def test_all_is_well(program: Program, rows: OpencodeFile) -> None:
    rows.session()
    async with server(FakeServer()) as url:
        plain = await program.run("check", "--database", rows.path, "--server", url)
        as_json = await program.run("check", "--json", "--database", rows.path, "--server", url)
    assert (plain.code, plain.stderr) == (0, "")
    assert plain.stdout.splitlines()[-1] == "summary\tusable"
    assert said(plain, "servers") == [f"{url}\t1.18.33\t{os.getpid()}"]
    assert said(plain, "proofs") == ["Linux names every process that has the database open."]
    document = as_json.document
    assert document["usable"] is True
    assert document["problems"] == document["warnings"] == []
    assert document["database"]["path"] == str(rows.path)
    assert document["database"]["sessions"] == 1
    assert document["database"]["journal_mode"] == "wal"
    assert document["database"]["watched_by"] is None
    told = {name: document["database"][name] for name in ("mounted_alone", "links", "held_elsewhere")}
    assert told == {"mounted_alone": False, "links": 1, "held_elsewhere": []}
    assert document["servers"] == [
        {"name": url, "version": "1.18.33", "pid": os.getpid(), "problem": None, "doubt": None}
    ]
    assert [each["pid"] for each in document["holders"]] == [os.getpid()]
    assert document["proofs"] == {
        "possible": True, "why": "Linux names every process that has the database open.",
    }  # fmt: skip


async def test_nobody_has_it_open(program: Program, path: Path) -> None:
    OpencodeFile(path).close()
    done = await program.run("check", "--database", path, "--server", NOWHERE)
    assert said(done, "holders") == ["nobody has the database open"]


async def test_who_watches_it_is_named_only_while_the_lock_is_held(program: Program, rows: OpencodeFile) -> None:
    program.settings(database=str(rows.path), servers=[NOWHERE], poll_interval=0.1, log_level="debug")

    async def watched_by() -> object:
        done = await other.run("check", "--json", *where)
        return done.document["database"]["watched_by"]

    other = Program(home=rows.path.parent)
    where = ("--database", rows.path, "--server", NOWHERE)
    async with program.started("run") as running:
        await running.said("watch.looked")
        assert await watched_by() == {"pid": running.process.pid}
        running.signal(signal.SIGKILL)
        await running.finished(5)
    assert lock_path(rows.path).read_text(encoding="ascii").split("\n")[0] == str(running.process.pid)
    assert await watched_by() is None
    with DatabaseLock(rows.path) as lock:
        assert lock.acquire(), "check keeps no lock"


async def test_a_database_that_can_not_be_used_still_shows_the_settings(program: Program, path: Path) -> None:
    plain = await program.run("check", "--database", path)
    as_json = await program.run("check", "--json", "--database", path)
    assert plain.code == as_json.code == 3
    assert said(plain, "settings") == [f"database\t{path}\tflag --database"]
    assert said(plain, "problem") == [f"There is no database {path}. Name the right file with --database PATH."]
    assert said(plain, "summary") == ["not usable: 1 problem above"]
    assert as_json.document["usable"] is False
    assert as_json.document["database"] == {"path": str(path)}
    assert as_json.document["proofs"]["possible"] is False


async def test_no_database_anywhere(program: Program) -> None:
    done = await program.run("check")
    assert done.code == 3
    assert "There is no opencode database: looked for" in said(done, "problem")[0]


async def test_experimental_sessions_are_a_warning(program: Program, rows: OpencodeFile) -> None:
    session = rows.session()
    times = {"time_created": 1, "time_updated": 1}
    rows.put("session_message", id="msg_x", session_id=session, type="user", data="{}", **times)
    async with server(FakeServer()) as url:
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert done.code == 0
    assert any("experimental sessions" in each for each in said(done, "warning"))


async def test_sessions_of_the_second_generation_are_a_warning_and_a_scan_never_passes_over_them(
    program: Program, tmp_path: Path
) -> None:
    with OpencodeFile(tmp_path / "shared.db", schema=SHARED) as rows:
        rows.second_generation_session(claimed_ms=1_000)
        async with server(FakeServer()) as url:
            checked = await program.run("check", "--database", rows.path, "--server", url)
            looked = await program.run("scan", "--json", "--database", rows.path, "--server", url)
    assert any("keeps 1 session of its own" in each for each in said(checked, "warning"))
    assert looked.code == 0
    assert any("1 session of opencode 2.x is at work" in each for each in looked.document["degraded"])


# Servers.


async def test_no_server(program: Program, rows: OpencodeFile) -> None:
    done = await program.run("check", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 3
    unreachable, useless = said(done, "problem")
    assert unreachable == (
        f"{NOWHERE} can't be reached (ConnectError). "
        "Start `opencode serve` there, or name the right address with --server."
    )
    assert useless == "no server can be used: nothing that is alive can be ended, only orphans settled."
    assert said(done, "summary")[0].startswith("not usable: 2 problems")


async def test_a_server_that_wants_a_password(program: Program, rows: OpencodeFile) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply({}, status=401))
        await writer.drain()

    async with loopback(refuse) as url:
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert done.code == 3
    assert said(done, "problem")[0] == (
        f"{url} answered 401: it asks for a password, and none is set. Set `server_password` (or "
        f"OPENCODE_SERVER_PASSWORD), or for this server alone "
        f'`servers = [{{ url = "{url}", username = "…", password = "…" }}]`.'
    )


async def test_something_else_listens_there(program: Program, rows: OpencodeFile) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply(b"<html>It works!</html>", content_type="text/html"))
        await writer.drain()

    async with loopback(page) as url:
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert done.code == 3
    assert "Is it an opencode server?" in said(done, "problem")[0]


async def test_a_server_of_a_database_that_nobody_has_open_serves_another_one(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.turn(rows.session())
    async with server(FakeServer()) as url:
        done = await program.run("check", "--database", path, "--server", url)
    assert done.code == 3
    assert said(done, "problem")[0] == (
        f"{url} is opencode, but on another database: no process has this one open. Name its database with "
        "--database, or the right server with --server."
    )


async def test_a_server_whose_process_has_another_database_open_is_named_with_it(
    program: Program, path: Path, tmp_path: Path
) -> None:
    OpencodeFile(path).close()
    with OpencodeFile(tmp_path / "live.db") as live:
        live.session()
        async with server(FakeServer()) as url:
            done = await program.run("check", "--database", path, "--server", url)
    assert done.code == 3
    assert said(done, "problem")[0].startswith(f"{url} is ")
    assert f"(pid {os.getpid()}), but on another database." in said(done, "problem")[0]


async def test_a_server_whose_process_has_this_database_open_is_the_right_one(
    program: Program, rows: OpencodeFile
) -> None:
    fake = FakeServer()
    session = rows.session(at=now_ms())
    rows.turn(session, at=now_ms())
    async with server(fake) as url:
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert done.code == 0, done.stdout


async def test_an_old_server_is_usable_with_a_warning(program: Program, rows: OpencodeFile) -> None:
    async with server(FakeServer(vouching=False)) as url:
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert done.code == 0
    assert any("older than opencode 1.14" in each for each in said(done, "warning"))


@VISIBLE
async def test_a_default_server_that_is_not_there_is_only_a_warning_beside_one_that_is_found(
    program: Program, rows: OpencodeFile
) -> None:
    async with server(FakeServer()) as url:
        found = await program.run("check", "--database", rows.path)
        named = await program.run("check", "--database", rows.path, "--server", NOWHERE)
    assert url in found.stdout
    assert found.code == 0, found.stdout
    assert any("http://127.0.0.1:4096 can't be reached" in each for each in said(found, "warning"))
    assert named.code == 3, "somebody named it, so it should be there"


# The installation.


async def test_the_other_package_named_watchdog_is_a_problem(program: Program, rows: OpencodeFile) -> None:
    info = program.home / "elsewhere/watchdog-6.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watchdog\nVersion: 6.0.0\n", encoding="utf-8")
    program.more = {"PYTHONPATH": os.pathsep.join([program.environ["PYTHONPATH"], str(info.parent)])}
    async with server(FakeServer()) as url:
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert done.code == 3
    assert said(done, "problem")[0].startswith("the package watchdog 6.0.0 (file-system events) is installed")
    assert said(done, "summary") == ["not usable: 1 problem above"]


# On a terminal.


async def test_on_a_terminal_it_fits_80_columns_and_ends_in_one_clear_line(
    program: Program, rows: OpencodeFile
) -> None:
    async with server(FakeServer()) as url:
        with program.at_a_terminal("check", "--database", rows.path, "--server", url) as terminal:
            assert await terminal.ended() == 0
        with program.at_a_terminal("check", "--database", rows.path, "--server", NOWHERE) as unhappy:
            assert await unhappy.ended() == 3
    for each in (terminal, unhappy):
        assert all(len(line) <= 80 for line in each.lines), each.text
    assert terminal.lines[-1] == "usable"
    assert "\x1b[1;32musable" in terminal.shown
    assert unhappy.lines[-1].startswith("not usable: ")
    assert "\x1b[1;31mnot usable" in unhappy.shown


# The bridge.


async def test_the_bridge_is_shown_with_the_processes_that_lack_it_and_another_version_is_a_warning(
    program: Program, rows: OpencodeFile
) -> None:
    program.more = {"XDG_RUNTIME_DIR": str(program.home)}
    async with server(FakeServer()) as url:
        absent = (await program.run("check", "--json", "--database", rows.path, "--server", url)).document
        plugin = program.home / ".config" / "opencode" / "plugin" / "opencode-watchdog-bridge.js"
        plugin.parent.mkdir(parents=True)
        plugin.write_text("// of another version")
        done = await program.run("check", "--database", rows.path, "--server", url)
    assert (absent["bridge"]["installed"], absent["bridge"]["current"]) == (False, False)
    assert not any("bridge" in each for each in absent["warnings"])
    assert said(done, "bridge") == [f"{plugin}\tdifferent"]
    assert any(line.endswith("has no bridge: restart it to load the plugin") for line in said(done, "bridged"))
    assert any("`opencode-watchdog bridge install` renews it" in line for line in said(done, "warning"))
