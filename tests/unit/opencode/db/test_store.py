"""The real database: what is refused, what is translated, and what happens beside other processes."""

# ruff: noqa: ASYNC220, ASYNC240 - a test may block its own event loop for a moment

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy.exc
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from tests.support.database import NOW, SHARED, OpencodeFile
from watchdog.errors import (
    DatabaseError,
    DatabaseMissing,
    DatabaseUnavailable,
    DatabaseUnsupported,
    SettingsError,
)
from watchdog.judging.settled_rows import settled_call
from watchdog.model.outcome import GuardedWrite
from watchdog.opencode.db.reader import translated
from watchdog.opencode.db.store import Limits, OpencodeDatabase
from watchdog.opencode.file import identity
from watchdog.opencode.file.identity import filesystem_type, find_database, type_in_listing
from watchdog.opencode.file.mounts import Mounts, type_in_mounts

QUICK = Limits(read_seconds=0.05, write_seconds=0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "opencode.db"


@pytest.fixture
def rows(path: Path) -> Iterator[OpencodeFile]:
    with OpencodeFile(path) as rows:
        yield rows


@pytest.fixture
async def database(rows: OpencodeFile) -> AsyncIterator[OpencodeDatabase]:
    async with await OpencodeDatabase.open(rows.path, limits=QUICK) as database:
        yield database


async def refusal(path: Path, error: type[DatabaseError], *, kind: str | None = "ext4") -> str:
    with pytest.raises(error) as caught:
        await OpencodeDatabase.open(path, filesystem_type=lambda _: kind)
    return str(caught.value)


# What is refused.


async def test_a_server_that_is_cancelled_gets_its_connection_back(tmp_path: Path) -> None:
    path = tmp_path / "opencode.db"
    OpencodeFile(path).close()
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    with anyio.CancelScope() as scope:
        async with await OpencodeDatabase.open(path, engine=engine) as database:
            await database.look()
            scope.cancel()
            await anyio.sleep(1)
    assert scope.cancelled_caught
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()


async def test_no_database_is_refused(path: Path) -> None:
    assert await refusal(path, DatabaseMissing) == (
        f"There is no database {path}. Name the right file with --database PATH."
    )
    assert not path.exists()


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in await refusal(tmp_path, DatabaseUnsupported)


async def test_a_file_that_is_not_sqlite_is_refused(path: Path) -> None:
    path.write_text("Dear diary, today I was no database at all. " * 40)
    assert await refusal(path, DatabaseUnsupported) == (
        f"{path} is not a SQLite database. Name opencode's with --database PATH."
    )


async def test_an_empty_file_is_refused(path: Path) -> None:
    path.touch()
    assert "it has no table `session`" in await refusal(path, DatabaseUnsupported)


@pytest.mark.parametrize("table", ["session", "message", "part"])
async def test_a_database_without_one_of_the_tables_is_refused(path: Path, table: str) -> None:
    with OpencodeFile(path) as rows:
        rows.connection.execute(f"ALTER TABLE {table} RENAME TO {table}_old")
        assert f"it has no table `{table}`" in await refusal(path, DatabaseUnsupported)


async def test_a_database_without_one_of_the_columns_is_refused(path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.connection.execute("ALTER TABLE part RENAME COLUMN data TO content")
        assert "it has no columns data in its table `part`" in await refusal(path, DatabaseUnsupported)


@pytest.mark.parametrize("schema", ["", "CREATE TABLE session (id text PRIMARY KEY);"])
async def test_a_database_of_the_second_generation_alone_is_refused_by_name(path: Path, schema: str) -> None:
    with OpencodeFile(path, schema=schema + "CREATE TABLE session_v2 (id text PRIMARY KEY);"):
        assert "is one of opencode 2.x" in await refusal(path, DatabaseUnsupported)


class TestSharedWithTheSecondGeneration:
    async def test_what_1x_left_open_is_read_and_what_2x_runs_is_counted(self, path: Path) -> None:
        with OpencodeFile(path, schema=SHARED) as rows:
            session = rows.session()
            call = rows.call(rows.turn(session))
            at_work, at_rest = (rows.second_generation_session(claimed_ms=claim) for claim in (1_000, None))
            async with await OpencodeDatabase.open(path) as database:
                found = await database.look()
                assert {each.id for each in found.sessions[session].calls} == {call}
                assert found.sessions.keys().isdisjoint({at_work, at_rest})
                assert found.second_generation == 1
                assert (await database.describe()).second_generation == 2

    async def test_the_claim_has_another_name_in_other_releases(self, path: Path) -> None:
        with OpencodeFile(path, schema=SHARED.replace("time_suspended", "execution_claimed_at")) as rows:
            rows.second_generation_session(claimed_ms=1_000, claim="execution_claimed_at")
            async with await OpencodeDatabase.open(path) as database:
                assert (await database.look()).second_generation == 1

    async def test_one_that_does_not_show_what_2x_is_at_work_on_is_refused(self, path: Path) -> None:
        with OpencodeFile(path, schema=SHARED.replace("time_suspended", "unknown")):
            assert "is one of opencode 2.x" in await refusal(path, DatabaseUnsupported)

    async def test_an_upgrade_while_watching_stops_nothing(
        self, rows: OpencodeFile, database: OpencodeDatabase
    ) -> None:
        session = rows.session()
        call = rows.call(rows.turn(session))
        await database.look()
        rows.connection.execute("CREATE TABLE session_v2 (id text PRIMARY KEY, time_suspended integer)")
        rows.put("session_v2", id="ses_2", time_suspended=1)
        found = await database.look()
        assert {each.id for each in found.sessions[session].calls} == {call}
        assert found.second_generation == 1


async def test_a_database_that_is_not_in_wal_mode_is_refused(path: Path) -> None:
    with OpencodeFile(path, journal_mode="delete"):
        assert "is in journal mode `delete`" in await refusal(path, DatabaseUnsupported)


FOREIGN = ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse", "fuseblk", "fuse.sshfs", "fakeowner", "drvfs"]


@pytest.mark.parametrize("kind", [*FOREIGN, "lustre", "gpfs", "beegfs", "gfs2", "EXT4", "ext5", "never-heard-of"])
async def test_a_file_system_that_is_not_known_to_be_local_is_refused_and_the_operator_may_vouch_for_it(
    rows: OpencodeFile, kind: str
) -> None:
    said = await refusal(rows.path, DatabaseUnsupported, kind=kind)
    assert f"is on a file system of type {kind}" in said
    assert f'local_filesystems = ["{kind}"]' in said
    async with await OpencodeDatabase.open(
        rows.path, filesystem_type=lambda _: kind, local_filesystems=["other", kind]
    ):
        pass


async def test_a_file_system_that_can_not_be_told_is_refused_unless_the_operator_vouches(rows: OpencodeFile) -> None:
    said = await refusal(rows.path, DatabaseUnsupported, kind=None)
    assert "whose type can't be told" in said
    assert 'local_filesystems = ["unknown"]' in said
    async with await OpencodeDatabase.open(rows.path, filesystem_type=lambda _: None, local_filesystems=("unknown",)):
        pass


@pytest.mark.parametrize(
    "kind", ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "bcachefs", "overlay", "tmpfs", "apfs"]
)
async def test_a_local_file_system_is_accepted(rows: OpencodeFile, kind: str) -> None:
    async with await OpencodeDatabase.open(rows.path, filesystem_type=lambda _: kind):
        pass


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that everybody may look into, and for the length of the test no root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def become_nobody() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


async def test_a_file_without_permission_is_refused(nobody: Path) -> None:
    path = nobody / "opencode.db"
    OpencodeFile(path).close()
    path.chmod(0o000)
    become_nobody()
    assert "This user may not read the database" in await refusal(path, DatabaseUnavailable)


async def test_a_file_in_a_folder_without_permission_is_refused(nobody: Path) -> None:
    path = nobody / "opencode.db"
    OpencodeFile(path).close()
    nobody.chmod(0o000)
    become_nobody()
    assert "can't be looked at: Permission denied" in await refusal(path, DatabaseUnavailable)
    with pytest.raises(DatabaseUnavailable, match="may not look into"):
        find_database({"XDG_DATA_HOME": str(nobody)}, nobody)


async def test_a_file_that_may_only_be_read_says_so_when_it_is_written(nobody: Path) -> None:
    path = nobody / "opencode.db"
    with OpencodeFile(path) as rows:
        call = rows.call(rows.turn(rows.session()))
        become_nobody()
        async with await OpencodeDatabase.open(path) as database:
            found = await database.rows(call_ids=[call])
            with pytest.raises(DatabaseUnavailable, match="may not be written by this user"):
                await database.write([GuardedWrite(row=found[0], after="{}")])


# Where it is.


def test_the_database_is_found_where_opencode_keeps_it(tmp_path: Path) -> None:
    default = tmp_path / ".local/share/opencode/opencode.db"
    elsewhere = tmp_path / "data/opencode/opencode.db"
    for file in (default, elsewhere):
        file.parent.mkdir(parents=True)
        file.touch()
    assert find_database({}, tmp_path) == default
    assert find_database({"XDG_DATA_HOME": str(tmp_path / "data")}, tmp_path) == elsewhere


def data_folder(tmp_path: Path, *files: str) -> dict[str, str]:
    for file in ("opencode", *files):
        target = tmp_path / "opencode" / file if file != "opencode" else tmp_path / "opencode"
        if target.suffix:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        else:
            target.mkdir(parents=True, exist_ok=True)
    return {"XDG_DATA_HOME": str(tmp_path)}


def test_the_environment_names_the_database_in_the_data_folder_or_anywhere(tmp_path: Path) -> None:
    environ = data_folder(tmp_path, "mine.db", "opencode.db")
    folder = tmp_path / "opencode"
    assert find_database({**environ, "OPENCODE_DB": "mine.db"}, tmp_path) == folder / "mine.db"
    assert find_database({"OPENCODE_DB": str(folder / "mine.db")}, tmp_path) == folder / "mine.db"
    with pytest.raises(DatabaseMissing, match="OPENCODE_DB names"):
        find_database({**environ, "OPENCODE_DB": "other.db"}, tmp_path)


def test_a_database_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnsupported, match="memory of one process"):
        find_database({"OPENCODE_DB": ":memory:"}, tmp_path)


def test_the_only_channel_is_the_choice(tmp_path: Path) -> None:
    assert find_database(data_folder(tmp_path, "opencode-dev.db"), tmp_path).name == "opencode-dev.db"


@pytest.mark.parametrize("names", [("opencode-beta.db", "opencode-dev.db"), ("opencode.db", "opencode-dev.db")])
def test_several_databases_without_a_choice_are_listed(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        find_database(data_folder(tmp_path, *names), tmp_path)
    assert all(str(tmp_path / "opencode" / name) in str(caught.value) for name in names)
    assert "--database PATH" in str(caught.value)


def test_the_json_files_of_opencode_before_1_2_are_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnsupported, match=r"opencode before 1\.2 and no database. Upgrade"):
        find_database(data_folder(tmp_path, "storage/session/global/ses_1.json"), tmp_path)


@pytest.mark.parametrize("files", [(), ("storage",), ("opencode-dev.db-wal",)])
def test_no_database_at_all_says_where_it_looked(tmp_path: Path, files: tuple[str, ...]) -> None:
    environ = data_folder(tmp_path, *files)
    with pytest.raises(DatabaseMissing) as caught:
        find_database(environ, tmp_path)
    assert str(tmp_path / "opencode") in str(caught.value)
    assert "--database PATH" in str(caught.value)


MOUNTS = [
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    "30 22 0:25 / /home rw - xfs /dev/sdb rw",
    r"31 22 0:26 / /mnt/my\040share rw master:3 propagate_from:2 - nfs4 host:/x rw",
    "32 22 0:27 / /over rw - ext4 /dev/sdc rw",
    "33 22 0:28 / /over rw - 9p host rw",
    "no mount",
    "",
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/x.db", "ext4"),
        ("/home/x.db", "xfs"),
        ("/homestead/x.db", "ext4"),
        ("/mnt/my share/deep/x.db", "nfs4"),
        ("/over/x.db", "9p"),
    ],
)
def test_the_longest_mount_tells_the_type_and_the_latest_of_equals(path: str, kind: str) -> None:
    assert type_in_mounts(Path(path), MOUNTS) == kind


def test_a_mount_below_one_that_hides_it_tells_nothing() -> None:
    lines = [
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
        "30 22 0:25 / /data/deep rw - ext4 /dev/sdb rw",
        "31 22 0:26 / /data rw - nfs4 host:/x rw",
        "32 31 0:27 / /data/local rw - xfs /dev/sdc rw",
        "33 32 0:28 / /data/local rw - fakeowner host rw",
    ]
    assert type_in_mounts(Path("/data/deep/x.db"), lines) == "nfs4"
    assert type_in_mounts(Path("/data/local/x.db"), lines) == "fakeowner"
    assert type_in_mounts(Path("/data"), lines) == "nfs4"


def test_an_overlay_is_what_its_upper_folder_is_on_where_that_can_be_seen(tmp_path: Path) -> None:
    upper, shared = tmp_path / "up per", tmp_path / "shared"
    upper.mkdir()
    shared.mkdir()

    def over(folder: Path) -> list[str]:
        written = str(folder).replace(" ", "\\040")
        return [
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
            f"30 22 0:25 / {shared} rw - fakeowner host rw",
            f"31 22 0:26 / /over rw - overlay overlay rw,lowerdir=/l,upperdir={written},workdir=/w",
        ]

    assert type_in_mounts(Path("/over/x.db"), over(upper)) == "overlay"
    assert type_in_mounts(Path("/over/x.db"), over(shared)) == "fakeowner"
    assert type_in_mounts(Path("/over/x.db"), over(tmp_path / "of the host")) == "overlay"
    assert type_in_mounts(Path("/over/x.db"), over(Path("/over"))) == "overlay"


def test_a_file_that_is_mounted_by_itself_is_told_from_one_in_a_mounted_folder() -> None:
    table = Mounts(
        [
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
            "30 22 8:1 /home/opencode.db /data/opencode.db rw - ext4 /dev/sda1 rw",
            "31 22 8:1 /home /folder rw - ext4 /dev/sda1 rw",
        ]
    )
    assert table.is_mounted(Path("/data/opencode.db"))
    assert not table.is_mounted(Path("/data/opencode.db-shm"))
    assert not table.is_mounted(Path("/folder/opencode.db"))


LISTING = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)
//me@nas/x (y) on /Volumes/my share (smbfs, nodev, nosuid, mounted by me)
host:/a on /over (nfs)
/dev/disk9 on /over (HFS, local)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/Users/me/x.db", "apfs"),
        ("/Volumes/my share/deep/x.db", "smbfs"),
        ("/Volumes/my share (2)/x.db", "apfs"),
        ("/over/x.db", "hfs"),
    ],
)
def test_where_there_is_no_table_what_mount_prints_tells(path: str, kind: str) -> None:
    assert type_in_listing(Path(path), LISTING) == kind


def test_where_nothing_tells_the_type_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "PLATFORM", "darwin")
    monkeypatch.setattr(identity, "_listing", str)
    assert filesystem_type(tmp_path) is None


def test_this_machine_tells_a_type_or_nothing(tmp_path: Path) -> None:
    found = filesystem_type(tmp_path)
    assert found is None or found
    assert type_in_mounts(tmp_path, []) is None


# What others do meanwhile.


async def test_a_look_ends_its_transaction(rows: OpencodeFile, database: OpencodeDatabase) -> None:
    rows.call(rows.turn(rows.session()))
    await database.look(scan_parts=True)
    await database.changed()
    busy, _, _ = rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0


async def test_reads_are_counted_and_a_question_whether_anything_changed_is_no_transaction(
    rows: OpencodeFile, database: OpencodeDatabase
) -> None:
    rows.call(rows.turn(rows.session()))
    await database.look()
    before = database.reads
    assert not await database.changed()
    assert database.reads == {**before, "version": before["version"] + 1}
    await database.look()
    assert database.reads["transaction"] == before["transaction"] + 1


async def test_a_disconnected_store_holds_no_lock_and_comes_back_by_itself(
    rows: OpencodeFile, database: OpencodeDatabase
) -> None:
    turn = rows.turn(rows.session())
    call = rows.call(turn)
    rows.finish_turn(turn)
    await database.look(scan_parts=True)
    await database.disconnect()
    await database.disconnect()
    rows.close()
    assert not rows.path.with_name("opencode.db-shm").exists()
    assert await database.changed()
    assert [c.id for s in (await database.look()).sessions.values() for c in s.calls] == [call]
    assert not await database.changed()


def replace(path: Path, new: Path) -> None:
    """Restore another file in its place, as a person should: without the old one's WAL."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    with OpencodeFile(tmp_path / "other.db") as new:
        new.turn(new.session("ses_new"))
    return new.path


@pytest.mark.parametrize("ask_first", [True, False])
async def test_a_replaced_file_is_read_anew(
    rows: OpencodeFile, database: OpencodeDatabase, other: Path, ask_first: bool
) -> None:
    turn = rows.turn(rows.session("ses_old"))
    rows.call(turn)
    rows.finish_turn(turn)
    assert set((await database.look(scan_parts=True)).sessions) == {"ses_old"}
    replace(database.path, other)
    if ask_first:
        assert await database.changed()
    assert set((await database.look()).sessions) == {"ses_new"}
    assert not await database.changed()


async def test_a_file_that_is_gone_is_unavailable_until_it_is_back(
    rows: OpencodeFile, database: OpencodeDatabase
) -> None:
    call = rows.call(rows.turn(rows.session()))
    (row,) = await database.rows(call_ids=[call])
    await database.look()
    aside = rows.path.rename(rows.path.with_name("aside.db"))
    for ask in (database.changed, database.look, partial(database.directories, since_ms=0)):
        with pytest.raises(DatabaseUnavailable, match="is gone"):
            await ask()
    with pytest.raises(DatabaseUnavailable, match="is gone"):
        await database.write([GuardedWrite(row=row, after="{}")])
    aside.rename(rows.path)
    assert await database.changed()
    assert len((await database.look()).sessions) == 1


async def test_a_file_that_stops_being_a_database_is_unavailable(
    rows: OpencodeFile, database: OpencodeDatabase
) -> None:
    await database.look()
    garbage = rows.path.with_name("garbage")
    garbage.write_bytes(b"garbage!" * 1024)
    replace(rows.path, garbage)
    with pytest.raises(DatabaseUnavailable, match="is not a SQLite database any more"):
        await database.look()


async def test_a_lock_longer_than_the_wait_makes_a_write_unavailable_and_not_a_read(
    rows: OpencodeFile, database: OpencodeDatabase
) -> None:
    call = rows.call(rows.turn(rows.session()))
    (row,) = await database.rows(call_ids=[call])
    rows.connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="is locked by another process"):
        await database.write([GuardedWrite(row=row, after="{}")])
    assert len((await database.look()).sessions) == 1
    rows.connection.execute("ROLLBACK")
    assert await database.write([GuardedWrite(row=row, after="{}")]) == 1


async def test_an_exclusive_lock_makes_a_read_unavailable_until_it_ends(
    rows: OpencodeFile, database: OpencodeDatabase
) -> None:
    await database.disconnect()
    rows.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    rows.session()
    rows.close()
    with closing(sqlite3.connect(rows.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("INSERT INTO project VALUES ('p', '/')")
        with pytest.raises(DatabaseUnavailable, match="is locked by another process"):
            await database.look()
    assert (await database.look()).sessions == {}


async def test_a_lock_shorter_than_the_wait_is_waited_out(rows: OpencodeFile) -> None:
    call = rows.call(rows.turn(rows.session()))
    async with await OpencodeDatabase.open(rows.path) as database:
        (row,) = await database.rows(call_ids=[call])
        rows.connection.execute("BEGIN IMMEDIATE")
        rows.finish_call(call)
        release = threading.Timer(0.2, rows.connection.execute, ["COMMIT"])
        release.start()
        assert await database.write([GuardedWrite(row=row, after="{}")]) == 0
        release.join()
    assert '"completed"' in rows.get("part", call)


WRITER = textwrap.dedent(
    """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
    for number in sys.stdin:
        after = sys.stdin.readline().rstrip()
        connection.execute("UPDATE part SET data = ? WHERE id = ?", [after, number.strip()])
        print("done", flush=True)
    """
)


async def test_a_guarded_write_beside_a_writing_process_leaves_one_of_the_two_whole(rows: OpencodeFile) -> None:
    session = rows.session()
    turn = rows.turn(session)
    theirs = '{"type": "tool", "tool": "bash", "state": {"status": "completed", "output": "theirs"}}'
    won = lost = 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(rows.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        async with await OpencodeDatabase.open(rows.path) as database:
            for number in range(60):
                call = rows.call(turn)
                (row,) = await database.rows(call_ids=[call])
                ours = settled_call(row, text="ended", now_ms=NOW)
                assert ours is not None
                task = asyncio.create_task(database.write([GuardedWrite(row=row, after=ours)]))
                await asyncio.sleep(number % 10 * 0.01)
                writer.stdin.write(f"{call}\n{theirs}\n")
                writer.stdin.flush()
                changed = await task
                # Opencode's own write is not guarded: whenever it comes, the row ends as opencode wrote it.
                assert await asyncio.to_thread(writer.stdout.readline) == "done\n"
                assert rows.get("part", call) == theirs
                won, lost = won + (changed == 1), lost + (changed == 0)
        writer.stdin.close()
    assert won + lost == 60
    assert won


async def test_of_two_guarded_writers_exactly_one_wins_each_row(rows: OpencodeFile) -> None:
    turn = rows.turn(rows.session())
    async with (
        await OpencodeDatabase.open(rows.path) as one,
        await OpencodeDatabase.open(rows.path) as two,
    ):
        for _ in range(100):
            call = rows.call(turn)
            (row,) = await one.rows(call_ids=[call])
            writes = [GuardedWrite(row=row, after='{"by":"one"}')], [GuardedWrite(row=row, after='{"by":"two"}')]
            results = await asyncio.gather(one.write(writes[0]), two.write(writes[1]))
            assert sorted(results) == [0, 1]
            assert rows.get("part", call) == writes[results.index(1)][0].after


async def test_bytes_that_are_no_utf8_fail_no_look(rows: OpencodeFile, database: OpencodeDatabase) -> None:
    session = rows.session()
    turn = rows.turn(session)
    call = rows.call(turn, tool="x")
    rows.connection.execute(
        "UPDATE part SET data = CAST(replace(CAST(data AS BLOB), CAST('\"x\"' AS BLOB), x'22ff22') AS TEXT)"
    )
    odd = rows.call(turn, tool="\ud800")
    blob = rows.call(turn)
    rows.set("part", blob, data=b'{"type": "tool"}')
    found = await database.look()
    assert [c.id for c in found.sessions[session].calls] == [call, odd]
    assert [c.tool for c in found.sessions[session].calls] == ["\ufffd", "?"]
    assert [damage.id for damage in found.damaged] == [blob]
    (row,) = await database.rows(call_ids=[call, blob])
    assert await database.write([GuardedWrite(row=row, after="{}")]) == 0


async def test_a_cancelled_look_leaves_no_transaction_and_the_next_one_works(rows: OpencodeFile) -> None:
    session = rows.session()
    turn = rows.turn(session)
    rows.connection.execute("BEGIN")
    for _ in range(3000):
        rows.call(turn)
    rows.connection.execute("COMMIT")
    async with await OpencodeDatabase.open(rows.path) as database:
        for wait in (0.0, 0.001, 0.003, 0.01, 0.02):
            with anyio.move_on_after(wait):
                await database.look(scan_parts=True)
            task = asyncio.create_task(database.look(scan_parts=True))
            await asyncio.sleep(wait)
            task.cancel()
            await asyncio.wait([task])
            rows.session()
            busy, _, _ = rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert busy == 0
        assert len((await database.look()).sessions[session].calls) == 3000


async def test_a_cancelled_write_is_either_done_or_not(rows: OpencodeFile) -> None:
    turn = rows.turn(rows.session())
    async with await OpencodeDatabase.open(rows.path) as database:
        for wait in (0.0, 0.0005, 0.001, 0.002, 0.004):
            call = rows.call(turn)
            (row,) = await database.rows(call_ids=[call])
            with anyio.move_on_after(wait):
                await database.write([GuardedWrite(row=row, after="{}")])
            assert rows.get("part", call) in ("{}", row.data)
            rows.session()


async def test_calls_at_the_same_time_take_turns(rows: OpencodeFile, database: OpencodeDatabase) -> None:
    session = rows.session()
    rows.call(rows.turn(session))
    asks = [
        database.look(scan_parts=True),
        database.changed(),
        database.session(session),
        database.directories(since_ms=0),
    ]
    results = await asyncio.gather(*asks, *[database.look() for _ in range(5)])
    assert len(results) == 9


async def test_many_open_calls_are_all_found(rows: OpencodeFile, database: OpencodeDatabase) -> None:
    rows.connection.execute("BEGIN")
    calls = {rows.call(rows.turn(rows.session())) for _ in range(1200)}
    rows.connection.execute("COMMIT")
    found = await database.look()
    assert {call.id for session in found.sessions.values() for call in session.calls} == calls


async def test_experimental_sessions_are_counted(rows: OpencodeFile, database: OpencodeDatabase) -> None:
    assert await database.experimental_sessions() == 0
    rows.put("session_message", id="m", session_id="s", type="x", time_created=1, time_updated=1, data="{}")
    assert await database.experimental_sessions() == 1
    found = await database.describe()
    assert (found.journal_mode, found.sessions, found.experimental_sessions) == ("wal", 0, 1)
    assert found.size_bytes > 0
    rows.connection.execute("DROP TABLE session_message")
    assert await database.experimental_sessions() == 0


# Every error of the driver and of SQLAlchemy.


def family(error: type[BaseException]) -> Iterator[type[BaseException]]:
    yield error
    for child in error.__subclasses__():
        yield from family(child)


ERRORS = sorted(
    {*family(sqlite3.Error), *family(sqlite3.Warning), *family(sqlalchemy.exc.SQLAlchemyError)},
    key=lambda e: (e.__module__, e.__qualname__),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.__module__}.{error.__qualname__}")
def test_every_error_of_the_driver_is_translated_without_its_content(error: type[BaseException]) -> None:
    raised = error.__new__(error)
    raised.args = ("UPDATE part SET data = 'secret'",)
    with pytest.raises(DatabaseUnavailable) as caught, translated(Path("/x.db")):
        raise raised
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("The database /x.db ")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "is locked by another process"),
        (sqlite3.SQLITE_FULL, "the disk is full"),
        (sqlite3.SQLITE_IOERR_READ, "the disk reports an error"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "may not be written"),
        (sqlite3.SQLITE_CORRUPT, "is damaged"),
        (sqlite3.SQLITE_CANTOPEN, "can't be opened"),
    ],
)
def test_the_code_of_sqlite_chooses_the_sentence(code: int, sentence: str) -> None:
    error = sqlite3.OperationalError("secret")
    error.sqlite_errorcode = code
    with pytest.raises(DatabaseUnavailable, match=sentence), translated(Path("/x.db")):
        raise sqlalchemy.exc.OperationalError("SELECT secret", {}, error)


# Embedded in a server that owns the engine.


def begin_immediately(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@pytest.mark.parametrize("prepare", [lambda _: None, begin_immediately])
@pytest.mark.parametrize("pool", [None, StaticPool])
async def test_an_engine_of_the_server_is_used_and_left_alone(
    rows: OpencodeFile, prepare: Callable[[AsyncEngine], None], pool: type[StaticPool] | None
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{rows.path}", poolclass=pool)
    prepare(engine)
    session = rows.session()
    call = rows.call(rows.turn(session))
    async with await OpencodeDatabase.open(rows.path, engine=engine) as database:
        assert set((await database.look(scan_parts=True)).sessions) == {session}
        await database.disconnect()
        assert await database.changed() is (pool is not None)
        (row,) = await database.rows(call_ids=[call])
        assert await database.write([GuardedWrite(row=row, after='{"a": 1}')]) == 1
        assert await database.write([GuardedWrite(row=row, after="{}")]) == 0
        assert await database.changed()
        async with engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE session SET title = 'x'")
        await database.look()
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT title FROM session")).scalar() == "x"
    await engine.dispose()
    assert rows.get("part", call) == '{"a": 1}'


class AlwaysInTransaction(sqlite3.Connection):
    """A connection with `autocommit=False`, as Python 3.12 has it: whatever ends a transaction begins the next."""

    def __init__(self, *arguments: Any, **more: Any) -> None:  # noqa: ANN401 - whatever sqlite3 takes
        super().__init__(*arguments, **{**more, "isolation_level": None})
        self.execute("BEGIN")

    def rollback(self) -> None:
        super().rollback()
        self.execute("BEGIN")

    def commit(self) -> None:
        super().commit()
        self.execute("BEGIN")


async def test_an_engine_whose_connections_are_always_in_a_transaction_is_read_anew_each_time(
    rows: OpencodeFile,
) -> None:
    turn = rows.turn(rows.session())
    engine = create_async_engine(f"sqlite+aiosqlite:///{rows.path}", connect_args={"factory": AlwaysInTransaction})
    async with await OpencodeDatabase.open(rows.path, engine=engine) as database:
        await database.look()
        assert not await database.changed()
        call = rows.call(turn)
        assert await database.changed()
        assert [c.id for each in (await database.look()).sessions.values() for c in each.calls] == [call]
        busy, _, _ = rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
    await engine.dispose()


async def test_cancelled_reads_leave_nothing_in_the_log(rows: OpencodeFile, caplog: pytest.LogCaptureFixture) -> None:
    """A cursor that was left half read would make the pool's own ROLLBACK fail, which SQLAlchemy logs."""
    turn = rows.turn(rows.session())
    rows.connection.execute("BEGIN")
    for _ in range(2000):
        rows.call(turn)
    rows.connection.execute("COMMIT")
    async with await OpencodeDatabase.open(rows.path) as database:
        for number in range(80):
            with anyio.move_on_after(number / 10_000):
                await database.look(scan_parts=True)
    assert caplog.records == []
