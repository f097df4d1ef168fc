"""What others fell into with the file itself: real SQLite files, real processes, real mounts.

The number in a docstring is the entry's.
"""

# ruff: noqa: ASYNC220, ASYNC240 - a test may block its own event loop for a moment

import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.pitfalls.stage import HOUR, Play, Stage
from tests.support.database import OpencodeFile
from tests.support.holding import holding, mounted, unshared
from tests.support.program import NOWHERE, Program, path, program
from watchdog.errors import DatabaseError, DatabaseUnsupported, OpenElsewhere, WriteRefused
from watchdog.model.outcome import GuardedWrite, Result
from watchdog.model.report import Holders
from watchdog.model.session import CallId, SessionId, TurnId
from watchdog.opencode.db import store as database
from watchdog.opencode.db.integrity import checking
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.processes.holders import ProcessOwners
from watchdog.timing.clock import SystemClock

__all__ = ["path", "program"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's lists of locks and mounts are Linux's")


def _names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


OF_ANOTHER_KERNEL = ["fakeowner", "drvfs", "lustre", "fuse.grpcfuse", "wslfs", "vmhgfs", "ocfs2", "glusterfs", "xxfs"]


# -- 38: file systems of another kernel -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", OF_ANOTHER_KERNEL)
async def test_a_file_system_of_another_kernel_that_no_deny_list_names_is_refused_unless_it_is_a_known_local_one(
    tmp_path: Path, kind: str
) -> None:
    """38."""
    path = tmp_path / "opencode.db"
    OpencodeFile(path).close()
    with pytest.raises(DatabaseUnsupported, match=kind):
        await OpencodeDatabase.open(path, filesystem_type=lambda _: kind)
    assert _names(tmp_path) == ["opencode.db"]
    async with await OpencodeDatabase.open(path, filesystem_type=lambda _: kind, local_filesystems=[kind]):
        pass


# -- 40: remote workspaces ------------------------------------------------------------------------------------

WORKSPACES = {
    "1.2.27": "ALTER TABLE session ADD workspace_id text;"
    " CREATE TABLE workspace (id text PRIMARY KEY, branch text, project_id text NOT NULL, type text NOT NULL,"
    " name text, directory text, extra text);",
    "1.18.33": "ALTER TABLE session ADD workspace_id text;"
    " CREATE TABLE workspace (id text PRIMARY KEY, type text NOT NULL, name text DEFAULT '' NOT NULL, branch text,"
    " directory text, extra text, project_id text NOT NULL, time_used integer NOT NULL DEFAULT 0);",
    "no table of workspaces": "ALTER TABLE session ADD workspace_id text;",
    "a table of workspaces of another shape": "ALTER TABLE session ADD workspace_id text;"
    " CREATE TABLE workspace (id text PRIMARY KEY, project_id text NOT NULL, config text);",
}


@pytest.mark.parametrize("version", WORKSPACES)
async def test_a_session_of_a_remote_workspace_mirrored_into_the_local_database_is_told_from_one_that_runs_here(
    tmp_path: Path, version: str
) -> None:
    """40, the reading half: a workspace that can't be told counts as remote."""
    typed = version[0] == "1"
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        rows.connection.executescript(WORKSPACES[version])
        expected: dict[str, str | None] = {"plain": None, "empty": None, "gone": "unknown"}
        for name, workspace in (("plain", None), ("empty", ""), ("gone", "wrk_gone")):
            _session(rows, name, workspace)
        for kind in ("worktree", "daytona", "") if typed else ():
            rows.put("workspace", id=f"wrk_{kind}", project_id="p", type=kind)
            _session(rows, kind or "nameless", f"wrk_{kind}")
        if typed:
            expected |= {"worktree": None, "daytona": "daytona", "nameless": "unknown"}
        async with await OpencodeDatabase.open(rows.path) as store:
            looked = (await store.look()).sessions
            alone = [await store.session(SessionId(f"ses_{name}")) for name in expected]
    assert {id_.removeprefix("ses_"): session.remote for id_, session in looked.items()} == expected
    assert [session.remote for session in alone if session is not None] == [*expected.values()]


async def test_a_database_that_learns_of_workspaces_while_it_is_watched_is_read_with_them(tmp_path: Path) -> None:
    """40: opencode is upgraded while the watchdog runs."""
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        _session(rows, "1", None)
        async with await OpencodeDatabase.open(rows.path) as store:
            assert [each.remote for each in (await store.look()).sessions.values()] == [None]
            rows.connection.executescript(WORKSPACES["1.18.33"])
            rows.put("workspace", id="wrk_1", project_id="p", type="cloud")
            rows.set("session", "ses_1", workspace_id="wrk_1")
            assert [each.remote for each in (await store.look()).sessions.values()] == ["cloud"]


def _session(rows: OpencodeFile, name: str, workspace: str | None) -> None:
    session = rows.session(f"ses_{name}")
    if workspace is not None:
        rows.set("session", session, workspace_id=workspace)
    rows.call(rows.turn(session))


# -- 37: one file, two names ----------------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A database with an open call, which nobody has open, in a folder of its own."""
    path = tmp_path / "here" / "opencode.db"
    path.parent.mkdir()
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session("ses_1"), "msg_1"), "prt_1")
    return path


async def look(path: Path) -> Holders:
    return await ProcessOwners(path, clock=SystemClock(), embedded=False).look()


async def refusal(path: Path) -> str:
    """What is said of a database that is refused; nothing may have appeared beside it."""
    before = _names(path.parent)
    with pytest.raises(DatabaseError) as caught:
        await OpencodeDatabase.open(path)
    assert _names(path.parent) == before
    assert isinstance(caught.value, DatabaseUnsupported | OpenElsewhere)
    holders = await look(path)
    assert (holders.known, holders.complete) == ((), False)
    assert holders.refusal == holders.why_incomplete == str(caught.value)
    return str(caught.value)


async def assert_healthy(path: Path, *pids: int) -> None:
    """It can be read and written, and exactly these have it open."""
    async with await OpencodeDatabase.open(path) as store:
        (row,) = await store.rows(turn_ids=[TurnId("msg_1")])
        assert await store.write([GuardedWrite(row=row, after=row.data + " ")]) == 1
    holders = await look(path)
    assert sorted(holder.pid for holder in holders.known) == sorted(pids)
    assert (holders.complete, holders.refusal) == (True, None)


@linux
async def test_only_the_file_is_mounted_into_a_container_so_its_shm_is_another_one(
    closed: Path, tmp_path: Path
) -> None:
    """37: whether the watchdog or the server is in it, and whether anybody has the file open."""
    other = tmp_path / "data" / "opencode.db"
    other.parent.mkdir()
    other.touch()
    with mounted(closed, other):
        said = await refusal(other)
        assert "is a mount point of its own" in said
        assert "Mount the folder" in said
        await assert_healthy(closed)
        with holding(closed) as server:
            assert "is a mount point of its own" in await refusal(other)
            await assert_healthy(closed, server.pid)
        with holding(other) as server:
            said = await refusal(closed)
            assert f"Process {server.pid}" in said
            assert str(other) in said
            with holding(closed):
                assert f"Process {server.pid}" in await refusal(closed)
        for left in (other.with_name("opencode.db-wal"), other.with_name("opencode.db-shm")):
            left.unlink(missing_ok=True)
        await assert_healthy(closed)


@linux
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_a_log_or_shared_memory_that_is_mounted_by_itself_is_another_one(
    closed: Path, tmp_path: Path, suffix: str
) -> None:
    """37, from the other side."""
    with holding(closed, "write"):
        other = tmp_path / "other"
        other.write_bytes(closed.with_name(f"opencode.db{suffix}").read_bytes())
        with mounted(other, closed.with_name(f"opencode.db{suffix}")):
            assert f"opencode.db{suffix} is a mount point of its own" in await refusal(closed)


@linux
async def test_a_holder_under_a_hard_link_is_noticed_and_a_hard_link_that_nobody_uses_is_none_of_our_business(
    closed: Path, tmp_path: Path
) -> None:
    """37: as a backup by hard links makes them."""
    link = tmp_path / "backup.db"
    link.hardlink_to(closed)
    await assert_healthy(closed)
    with holding(closed) as server:
        await assert_healthy(closed, server.pid)
    with holding(link, "write") as server:
        assert f"Process {server.pid}" in await refusal(closed)
        assert f"--database {link}" in await refusal(closed)
        await assert_healthy(link, server.pid)
        server.kill()
    assert link.with_name("backup.db-wal").stat().st_size


@linux
async def test_a_hard_link_beside_it_with_a_log_of_its_own_is_noticed_although_nobody_has_it_open(
    closed: Path,
) -> None:
    """37: what a crash left in that log is not in the file yet."""
    link = closed.with_name("other.db")
    link.hardlink_to(closed)
    with holding(link, "write") as server:
        server.kill()
    assert "other.db, which has a `-wal` of its own" in await refusal(closed)


@linux
async def test_a_shm_that_was_removed_under_a_live_process_is_noticed(closed: Path) -> None:
    """37: another process makes a new one, and the two no longer see each other."""
    with holding(closed, "write") as server:
        closed.with_name("opencode.db-shm").unlink()
        said = await refusal(closed)
        assert f"Process {server.pid}" in said
        assert "deleted or replaced" in said
        with holding(closed):
            assert f"Process {server.pid}" in await refusal(closed)


@linux
async def test_a_main_file_that_was_renamed_under_a_live_process_is_noticed(closed: Path) -> None:
    """37: the log stays under the old name."""
    with holding(closed, "write") as server:
        renamed = closed.rename(closed.with_name("renamed.db"))
        assert f"Process {server.pid}" in await refusal(renamed)


@linux
async def test_a_process_that_has_what_was_there_before_leaves_no_proof(closed: Path) -> None:
    """37: a backup was put in its place under a live server."""
    copy = closed.read_bytes()
    with holding(closed) as server:
        for each in list(closed.parent.iterdir()):
            each.unlink()
        closed.write_bytes(copy)
        async with await OpencodeDatabase.open(closed) as store:
            assert len((await store.look()).sessions) == 1
        holders = await look(closed)
        assert not holders.complete
        assert f"Process {server.pid} still has open what was at {closed}" in str(holders.why_incomplete)
    await assert_healthy(closed)


@linux
async def test_names_that_lead_to_the_same_folder_are_the_same(closed: Path, tmp_path: Path) -> None:
    """37, what is healthy: links, dots, a mounted folder, a renamed folder."""
    link, folder = tmp_path / "link.db", tmp_path / "folder"
    link.symlink_to(closed)
    folder.mkdir()
    (tmp_path / "linked").symlink_to(closed.parent)
    with holding(closed) as server, mounted(closed.parent, folder):
        for name in (link, closed.parent / ".." / "here" / "opencode.db", tmp_path / "linked" / "opencode.db"):
            await assert_healthy(name, server.pid)
        await assert_healthy(folder / "opencode.db", server.pid)
    with holding(closed) as server:
        moved = closed.parent.rename(tmp_path / "moved") / "opencode.db"
        await assert_healthy(moved, server.pid)


@linux
async def test_a_path_that_the_kernel_and_sqlite_follow_to_different_files_is_refused(
    closed: Path, tmp_path: Path
) -> None:
    """37: `/proc/PID/root`, by which people look into containers."""
    copy, folder = tmp_path / "copy.db", closed.parent
    copy.write_bytes(closed.read_bytes())
    script = f"mount -t tmpfs none {folder} && cp {copy} {closed} && echo in && cat"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"in\n":
            pytest.skip("a namespace of mounts may not be made here")
        assert "leads to another file" in await refusal(Path(f"/proc/{process.pid}/root") / closed.relative_to("/"))


@linux
async def test_the_folder_that_an_overlay_is_made_of_is_refused_and_the_overlay_is_not(
    closed: Path, tmp_path: Path
) -> None:
    """37: the same file has no locks there."""
    for name in ("lower", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path / 'lower'},upperdir={closed.parent},workdir={tmp_path / 'work'}"
    with mounted(Path("overlay"), tmp_path / "merged", "-t", "overlay", "-o", options):
        merged = tmp_path / "merged" / "opencode.db"
        with holding(merged) as server:
            await assert_healthy(merged, server.pid)
            assert "the overlay at" in await refusal(closed)


@linux
async def test_a_holder_that_can_not_be_seen_is_noticed_under_another_name(closed: Path, tmp_path: Path) -> None:
    """37: the watchdog is in a container, and the server is not."""
    link = tmp_path / "other.db"
    link.hardlink_to(closed)
    script = (
        "import sys; from pathlib import Path; from watchdog.opencode.file.one_file import shown\n"
        "from watchdog.errors import OpenElsewhere\n"
        "try:\n    print(shown(Path(sys.argv[1])).real)\nexcept OpenElsewhere as error:\n    print(error)"
    )

    def from_container() -> str:
        command = [*unshared(), sys.executable, "-c", script, str(closed)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    assert from_container() == str(closed)
    with holding(link):
        assert from_container().startswith("A process that can't be seen from here has the database")
    with holding(closed):
        assert "it can't be told under which of them it is open" in from_container()
        link.unlink()
        assert from_container() == str(closed)


@linux
async def test_somebody_who_opens_it_under_another_name_later_stops_every_read_proof_and_write_until_they_are_gone(
    closed: Path, tmp_path: Path
) -> None:
    """37: under a watchdog that runs."""
    link = tmp_path / "other.db"
    link.hardlink_to(closed)
    async with await OpencodeDatabase.open(closed) as store:
        (row,) = await store.rows(turn_ids=[TurnId("msg_1")])
        written = [GuardedWrite(row=row, after=row.data + " ")]
        with holding(link) as other:
            with pytest.raises(OpenElsewhere, match=f"Process {other.pid}"):
                await store.write(written)
            with pytest.raises(OpenElsewhere, match=f"Process {other.pid}"):
                await store.look()
            assert (await look(closed)).refusal is not None
        (link.with_name("other.db-wal")).unlink(missing_ok=True)
        assert len((await store.look()).sessions) == 1
        assert await store.write(written) == 1


@linux
async def test_a_watchdog_with_nothing_to_do_notices_it_too_and_says_so_for_as_long_as_it_lasts(
    closed: Path, tmp_path: Path
) -> None:
    """37: nothing changes in what it sees, for the writes are in the other log."""
    link = tmp_path / "other.db"
    link.hardlink_to(closed)
    async with await OpencodeDatabase.open(closed) as store:
        await store.look()
        with holding(link, "write") as other:
            with pytest.raises(OpenElsewhere, match=f"Process {other.pid}"):
                await _ask_often(store)
            with pytest.raises(OpenElsewhere, match=f"Process {other.pid}"):
                await store.changed()
        await store.changed()


async def _ask_often(store: OpencodeDatabase) -> None:
    for _ in range(20):
        await store.changed()


@linux
async def test_processes_that_open_and_close_it_all_the_time_are_never_taken_for_strangers(closed: Path) -> None:
    """37, what is healthy: each holds one of the two locks without the other for a moment."""
    script = (
        "import sqlite3, sys\n"
        "while True:\n"
        "    connection = sqlite3.connect(sys.argv[1])\n"
        "    connection.execute('select * from session').fetchall()\n"
        "    connection.close()\n"
    )
    with ExitStack() as stack, holding(closed) as server:
        for _ in range(2):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", script, str(closed)]))
            stack.callback(process.kill)
        for _ in range(20):
            holders = await look(closed)
            assert holders.refusal is None
            assert server.pid in [holder.pid for holder in holders.known]


@linux
async def test_check_says_of_the_file_what_it_is_mounted_on_its_names_and_who_has_it_under_another(
    program: Program, closed: Path, tmp_path: Path
) -> None:
    """37: also where it is refused."""
    program.settings(servers=[NOWHERE], discover=False, journal="off")
    link, alone = tmp_path / "other.db", tmp_path / "alone.db"
    link.hardlink_to(closed)
    alone.touch()
    with holding(link) as other, mounted(closed, alone):
        held = (await program.run("check", "--json", "--database", closed)).document
        plain = await program.run("check", "--database", closed)
        mounted_alone = (await program.run("check", "--json", "--database", alone)).document
    told = {name: held["database"][name] for name in ("mounted_alone", "links", "held_elsewhere")}
    assert told == {"mounted_alone": False, "links": 2, "held_elsewhere": [{"pid": other.pid, "name": str(link)}]}
    assert any(f"Process {other.pid}" in problem for problem in held["problems"])
    assert f"database\theld_elsewhere\tpid {other.pid}" in plain.stdout
    assert (plain.code, mounted_alone["database"]["mounted_alone"]) == (3, True)


# -- 67: triggers -----------------------------------------------------------------------------------------------

IN_THE_WAY = {
    "refuses it": [
        "CREATE TRIGGER guard BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'not so'); END",
        "CREATE TRIGGER guard AFTER UPDATE OF data ON {table} BEGIN SELECT RAISE(FAIL, 'not so'); END",
        "CREATE TRIGGER guard BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ROLLBACK, 'it''s not so'); END",
        "CREATE TRIGGER guard AFTER UPDATE ON {table} BEGIN INSERT INTO gone VALUES (1); END",
        "CREATE TRIGGER guard AFTER UPDATE ON {table} BEGIN SELECT no_such_function(new.id); END",
    ],
    "ignores it": ["CREATE TRIGGER guard BEFORE UPDATE ON {table} BEGIN SELECT RAISE(IGNORE); END"],
    "changes what is written": [
        "CREATE TRIGGER guard AFTER UPDATE ON {table} BEGIN UPDATE {table} SET data = '{{}}'; END",
        "CREATE TRIGGER guard AFTER UPDATE ON {table} BEGIN DELETE FROM {table} WHERE id = new.id; END",
        "CREATE TRIGGER guard AFTER UPDATE ON {table} BEGIN UPDATE {table} SET session_id = 'x'; END",
    ],
}


@pytest.mark.parametrize("table", ["part", "message"])
@pytest.mark.parametrize(
    ("what", "trigger"), [(what, trigger) for what, triggers in IN_THE_WAY.items() for trigger in triggers]
)
async def test_triggers_on_opencodes_tables_that_refuse_a_write_are_named_and_nothing_is_written(
    tmp_path: Path, table: str, what: str, trigger: str
) -> None:
    """67: also one that ignores the write, or changes it; never "just now"."""
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        turn = rows.turn(rows.session("ses_1"), "msg_1")
        rows.call(turn, "prt_1")
        rows.connection.execute("CREATE TRIGGER harmless AFTER UPDATE ON session BEGIN SELECT 1; END")
        rows.connection.execute(trigger.format(table=table))
        before = _stored(rows)
        async with await OpencodeDatabase.open(rows.path) as store:
            found = await store.rows(call_ids=[CallId("prt_1")], turn_ids=[turn])
            writes = [GuardedWrite(row=row, after=row.data + " ") for row in found]
            with pytest.raises(WriteRefused) as caught:
                await store.write(writes)
            assert _stored(rows) == before
            said = str(caught.value)
            assert f"The trigger `guard` on the table `{table}` {what}, so nothing was written." in said
            assert "just now" not in said
            rows.connection.execute("DROP TRIGGER guard")
            assert await store.write(writes) == 2


async def test_a_trigger_that_only_notes_what_is_written_is_in_nobodys_way(tmp_path: Path) -> None:
    """67, what is healthy."""
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        call = rows.call(rows.turn(rows.session()))
        rows.connection.executescript(
            "CREATE TABLE audit (id text); CREATE TRIGGER audit_part AFTER UPDATE ON part"
            " BEGIN INSERT INTO audit VALUES (new.id);"
            " UPDATE part SET time_updated = time_updated + 1 WHERE id = new.id; END"
        )
        async with await OpencodeDatabase.open(rows.path) as store:
            (row,) = await store.rows(call_ids=[call])
            assert await store.write([GuardedWrite(row=row, after="{}")]) == 1
            assert await store.write([GuardedWrite(row=row, after="[]")]) == 0
        assert rows.connection.execute("SELECT id FROM audit").fetchall() == [(call,)]


async def test_a_constraint_and_one_of_several_triggers_are_told_apart(tmp_path: Path) -> None:
    """67: the words of the error name the trigger, also one on another table; else each on the table is named."""
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        call = rows.call(rows.turn(rows.session(), "msg_1"))
        async with await OpencodeDatabase.open(rows.path) as store:
            (row,) = await store.rows(call_ids=[call])

            async def said() -> str:
                with pytest.raises(WriteRefused) as caught:
                    await store.write([GuardedWrite(row=row, after="x" * 10)])
                return str(caught.value)

            rows.connection.executescript(
                "CREATE TABLE log (id text); CREATE TRIGGER first AFTER UPDATE ON part BEGIN SELECT 1; END;"
                " CREATE TRIGGER second AFTER UPDATE ON part BEGIN INSERT INTO log VALUES (1); END;"
                " CREATE TRIGGER third BEFORE INSERT ON log BEGIN SELECT RAISE(ABORT, 'no log'); END;"
            )
            assert "The trigger `third`" in await said()
            rows.connection.execute("DROP TRIGGER third")
            rows.connection.execute("DROP TABLE log")
            assert "One of the triggers `first` and `second`" in await said()
            rows.connection.executescript(
                "DROP TRIGGER first; DROP TRIGGER second; CREATE UNIQUE INDEX one ON part (data);"
            )
            rows.part("msg_1", {}, "prt_other")
            rows.set("part", "prt_other", data="x" * 10)
            assert "A constraint on the table `part` refuses it" in await said()


async def test_a_look_goes_on_while_a_write_waits_for_a_locked_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """67, beside it: the write has a connection of its own."""
    begins, really = anyio.Event(), database._begin

    async def begin(connection: AsyncConnection, statement: str) -> None:
        begins.set()
        await really(connection, statement)

    monkeypatch.setattr(database, "_begin", begin)
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        call = rows.call(rows.turn(rows.session("ses_1"), "msg_1"))
        async with await OpencodeDatabase.open(rows.path) as store:
            (row,) = await store.rows(call_ids=[call])
            rows.connection.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as group:
                written: list[int] = []

                async def write() -> None:
                    written.append(await store.write([GuardedWrite(row=row, after=row.data + " ")]))

                group.start_soon(write)
                await begins.wait()
                for _ in range(3):
                    assert SessionId("ses_1") in (await store.look(full=True)).sessions
                    assert await store.session(SessionId("ses_1")) is not None
                assert written == []
                rows.connection.execute("COMMIT")
        assert written == [1]


def _stored(rows: OpencodeFile) -> list[list[tuple[object, ...]]]:
    return [rows.connection.execute(asked).fetchall() for asked in ("SELECT * FROM message", "SELECT * FROM part")]


# -- damage that SQLite does not report by itself -----------------------------------------------------------------


def damaged_index(rows: OpencodeFile, *, lost: bool) -> None:
    """Let an index lack rows, or be unreadable, while the table itself is whole."""
    turn = rows.turn(rows.session("ses_1"), "msg_1")
    for number in range(400):
        rows.call(turn, f"prt_{number}", status="completed")
    rows.call(turn, "prt_open")
    rows.connection.execute("CREATE INDEX of_tests ON part (time_updated, id)")
    ((root,),) = rows.connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'of_tests'").fetchall()
    rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    ((size,),) = rows.connection.execute("PRAGMA page_size").fetchall()
    rows.close()
    with rows.path.open("r+b") as file:
        file.seek((root - 1) * size + (3 if lost else 0))
        file.write(b"\0\1" if lost else b"\xff" * 64)


@pytest.mark.parametrize("lost", [True, False])
async def test_damage_that_sqlite_does_not_report_by_itself_is_found_by_a_deep_check_and_nothing_is_written_after_it(
    program: Program, tmp_path: Path, *, lost: bool
) -> None:
    """A page of an index: `recover` on a file that is known to be damaged refuses, and says what to do."""
    path = tmp_path / "opencode.db"
    damaged_index(OpencodeFile(path), lost=lost)
    program.settings(database=str(path), servers=[NOWHERE], discover=False, orphan_grace=0.1)
    shallow = await program.run("check", "--json")
    assert "damaged" not in shallow.stdout
    deep = await program.run("check", "--deep", "--json")
    assert deep.code == 3
    assert deep.document["database"]["damage"], deep
    assert any("table `part`" in problem for problem in deep.document["problems"]), deep
    before = path.read_bytes()
    done = await program.run("recover")
    assert done.code == 3, done
    assert "is damaged, as `check --deep` found: table `part`" in done.stdout + done.stderr
    assert "put a backup in its place" in done.stdout + done.stderr
    assert path.read_bytes() == before

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'of_tests'")
        connection.commit()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
    again = await program.run("check", "--deep", "--json")
    assert again.document["database"]["damage"] == [], again
    done = await program.run("recover", "--json")
    assert [each["result"] for each in done.document["outcomes"]] == ["recovered"], done


async def test_damage_that_sqlite_meets_stops_a_recovery_with_what_to_do(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with OpencodeFile(path) as rows:
        turn = rows.turn(rows.session())
        for _ in range(200):
            rows.call(turn)
        ((root,),) = rows.connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'part'").fetchall()
        ((size,),) = rows.connection.execute("PRAGMA page_size").fetchall()
        rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    before = path.read_bytes()
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    done = await program.run("recover")
    assert done.code == 3, done
    assert "is damaged" in done.stdout + done.stderr
    assert "put a backup in its place" in done.stdout + done.stderr
    assert path.read_bytes() == before


async def test_a_deep_check_can_be_interrupted_and_keeps_nobody_from_writing(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    with OpencodeFile(path) as rows:
        turn = rows.turn(rows.session())
        async with checking(path) as under_way:
            assert "part" in under_way.tables
            for table in under_way.tables:
                assert await under_way.check(table) == []
                rows.call(turn)
                busy, _, _ = rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                assert busy == 0
            with anyio.CancelScope() as scope:
                scope.cancel()
                await under_way.check("part")
            assert scope.cancelled_caught
            assert await under_way.check("part") == []


# -- 37: what the loop makes of a refusal --------------------------------------------------------------------------


async def test_while_the_file_is_open_under_another_name_nothing_is_proven_even_on_the_operators_word(
    stage: Stage,
) -> None:
    """37: with `sole_owner`, and with nobody else who has it open; once it is over, the orphan is settled."""
    work = stage.work(busy=False, age=2 * HOUR)
    why = "Process 7 has the database open under another name."
    stage.owners.holders = Holders(complete=False, why_incomplete=why, refusal=why)
    before = stage.stored()
    async with stage.watching(sole_owner=True, orphan_grace=1) as play:
        for _ in range(3):
            await _one_more_outage(play)
        assert {sentence for sentence, _ in play.diary.outages} == {why}
        assert (stage.stored(), play.diary.outcomes) == (before, [])
        stage.owners.holders = Holders()
        stage.hands.advance(HOUR)
        play.watch.wake()
        await play.diary.until(lambda: play.diary.outcomes)
    assert [(each.session_id, each.result) for each in play.diary.outcomes] == [(work.session, Result.RECOVERED)]


async def _one_more_outage(play: Play) -> None:
    seen = len(play.diary.outages)
    play.stage.hands.advance(HOUR)
    play.watch.wake()
    await play.diary.until(lambda: len(play.diary.outages) > seen)
