"""What others fell into with the file itself: real SQLite files, real processes, real mounts.

The number in a docstring is the entry's.
"""

from pathlib import Path

import pytest

from tests.support.database import OpencodeFile
from watchdog.errors import DatabaseUnsupported
from watchdog.model import SessionId
from watchdog.opencode.database import OpencodeDatabase


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
