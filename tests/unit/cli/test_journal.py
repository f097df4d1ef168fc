"""What people read in the journal and say to it, through the real program on real files."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.server import FakeServer, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, rows
from tests.support.watchdog_run import Finished
from tests.unit.reporting.test_documents import example, shape
from watchdog.journal.sqlite import SqliteJournal
from watchdog.model.outcome import Row
from watchdog.model.session import TurnId
from watchdog.reporting.journal_tables import shortened

__all__ = ["path", "program", "rows"]

LOST = "ses_lost"
GIVEN = "a command of somebody's"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where the program keeps its journal."""
    return tmp_path / "state" / "a.journal.db"


@pytest.fixture
def set_up(program: Program, path: Path, journal: Path) -> Program:
    """The program with settings that name a database, a journal, and no server."""
    program.settings(database=str(path), servers=[NOWHERE], discover=False, journal=str(journal), orphan_grace="1s")
    return program


@pytest.fixture
async def recovered(set_up: Program, path: Path) -> Program:
    """One intervention: a session that a crash left behind was settled."""
    with OpencodeFile(path) as made:
        turn = made.turn(made.session(LOST), "msg_1")
        made.call(turn, "prt_1", input={"command": GIVEN, "more": "x" * 1000, "bell": "\x1b[31m\x07"})
    done = await set_up.run("recover")
    assert done.code == 0, done
    return set_up


def data(path: Path) -> list[str]:
    """The rows that were settled."""
    with OpencodeFile(path) as found:
        return [found.get("part", "prt_1"), found.get("message", "msg_1")]


def lines(done: Finished, kind: str) -> list[list[str]]:
    """The cells of the lines of a kind."""
    found = [line.split("\t") for line in done.stdout.splitlines()]
    return [cells[1:] for cells in found if cells[0] == kind]


# history


async def test_history_lists_what_was_done_as_documented(recovered: Program) -> None:
    done = await recovered.run("history")
    (listed,) = lines(done, "intervention")
    assert [listed[0], *listed[2:]] == ["1", "orphan", LOST, "bash", "recovered", "watchdog", "-"]
    assert lines(done, "summary") == [["1 intervention, 0 on hold"]]
    document = (await recovered.run("history", "--json")).document
    documented = example("history")
    assert list(document) == list(documented)
    assert list(document["interventions"][0]) == list(documented["interventions"][0])
    assert shape(document["interventions"][0]["verdict"]) == shape(documented["interventions"][0]["verdict"])
    assert shape(document["interventions"][0]["outcome"]) == shape(documented["interventions"][0]["outcome"])
    assert GIVEN not in str(document)


async def test_history_can_be_of_one_session_or_of_a_while(recovered: Program) -> None:
    async def count(*arguments: str) -> int:
        return len((await recovered.run("history", "--json", *arguments)).document["interventions"])

    assert await count("--session", LOST, "--since", "2d") == 1
    assert await count("--session", "ses_other") == 0
    assert await count("--since", "1ms") == 0


async def test_one_intervention_is_shown_with_its_rows_side_by_side(recovered: Program) -> None:
    done = await recovered.run("history", "1")
    shown = {tuple(cells[:3]): cells[3:] for cells in lines(done, "row")}
    assert shown["part", "prt_1", "state.status"] == ["running", "error"]
    assert shown["part", "prt_1", "state.input.command"] == [GIVEN, GIVEN]
    assert shown["part", "prt_1", "state.input.more"][0].endswith("… (1000 characters)")
    assert shown["part", "prt_1", "state.input.bell"][0] == "\\x1b[31m\\x07"
    assert shown["message", "msg_1", "error.name"] == ["-", "MessageAbortedError"]
    assert "prove" in [cells[0] for cells in lines(done, "step")]
    document = (await recovered.run("history", "1", "--json")).document
    documented = example("history ID")
    assert list(document) == list(documented)
    assert list(document["rows"][0]) == list(documented["rows"][0])
    assert document["rows"][0]["before"]["state"]["input"]["more"] == "x" * 1000


async def test_on_a_terminal_the_rows_stand_beside_each_other(recovered: Program) -> None:
    with recovered.at_a_terminal("history", "1") as terminal:
        assert await terminal.ended() == 0
        assert "part prt_1" in terminal.lines
        assert any(re.match(r"state\.status +running +error", line) for line in terminal.lines)
        assert "\x07" not in terminal.shown
        assert max(map(len, terminal.lines)) <= 80
    with recovered.at_a_terminal("history") as terminal:
        assert await terminal.ended() == 0
        assert max(map(len, terminal.lines)) <= 80


@pytest.mark.parametrize(
    "arguments",
    [
        ("history", "7"), ("history", "x"), ("history", "1", "--since", "1d"), ("history", "--since", "soon"),
        ("undo", "7"), ("undo",), ("hold", "ses_none"), ("hold", LOST, "--for", "soon"), ("pause", "--for", "-1h"),
    ],
)  # fmt: skip
async def test_what_does_not_exist_or_makes_no_sense_is_a_usage_error(
    recovered: Program, arguments: tuple[str, ...]
) -> None:
    done = await recovered.run(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr


# undo


async def test_undo_puts_the_rows_back_and_holds_the_session_until_it_is_released(
    recovered: Program, path: Path
) -> None:
    before = (await recovered.run("history", "1", "--json")).document["rows"]
    done = await recovered.run("undo", "1", "--json")
    assert done.code == 0
    assert shape(done.document) == shape(example("undo"))
    assert done.document["result"] == "undone"
    assert {row["before"]["time"]["created"] for row in before if row["table"] == "message"}
    assert '"running"' in data(path)[0]
    again = await recovered.run("undo", "1", "--json")
    assert (again.code, again.document["result"]) == (0, "already_undone")
    spared = (await recovered.run("scan", "--json")).document["spared"]
    assert [(each["reason"], each["why"][:13]) for each in spared] == [("on_hold", "it was undone")]
    assert lines(await recovered.run("recover"), "summary") == [["nothing to recover"]]
    told = (await recovered.run("explain", LOST, "--json")).document
    assert "it was undone" in told["on_hold"][0]
    assert "recovered, undone" in told["interventions"][0]
    released = await recovered.run("release", LOST, "--yes")
    assert released.code == 0, released
    assert '"error"' in data(path)[0]
    assert (await recovered.run("history", "--json")).document["on_hold"] == []


async def test_undo_touches_nothing_when_the_session_went_on(recovered: Program, path: Path) -> None:
    with OpencodeFile(path) as made:
        made.turn(LOST, "msg_2", at=now_ms(), completed_at=now_ms())
    left = data(path)
    done = await recovered.run("undo", "1")
    assert done.code == 1
    assert "the session went on with turn msg_2" in done.stdout
    assert data(path) == left


async def test_undo_is_shown_by_a_server_that_is_up(recovered: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:

        async def copies(turn_id: TurnId) -> list[Row]:
            ids: dict[str, Any] = {"message_id": turn_id, "session_id": LOST, "created_ms": 0, "updated_ms": 0}
            found = [("message", turn_id), ("part", "prt_1")]
            return [Row(table=table, id=id_, data=rows.get(table, id_), **ids) for table, id_ in found]

        async with loopback(over_http(fake := FakeServer(copies=copies))) as url:
            done = await recovered.run("undo", "1", "--json", "--server", url)
    assert done.code == 0
    assert [row.id for row, _ in fake.published] == ["prt_1"]
    assert [step["step"] for step in done.document["steps"]] == ["write", "publish", "read_back", "hold"]


async def test_undo_works_while_a_watchdog_runs_which_then_leaves_it_alone(set_up: Program, path: Path) -> None:
    with OpencodeFile(path) as made:
        made.call(made.turn(made.session(LOST), "msg_1"), "prt_1")
    async with set_up.started("run") as running:
        await running.said('"result": "recovered"')
        other = Program(home=path.parent, more=set_up.more)
        config = set_up.home / "opencode-watchdog.toml"
        done = await other.run("undo", "1", "--json", "--config", config)
        assert (done.code, done.document["result"]) == (0, "undone"), done
        await running.said('"event": "watch.on_hold"')
        assert '"running"' in data(path)[0]


# hold and pause


async def test_hold_and_unhold_say_what_stands_now(recovered: Program) -> None:
    held = (await recovered.run("hold", LOST, "--for", "2h", "--json")).document
    assert list(held) == list(example("hold"))
    assert shape(held["on_hold"]) == shape(example("hold")["on_hold"])
    assert (held["session_id"], held["was_on_hold"]) == (LOST, False)
    ended = (await recovered.run("unhold", LOST, "--json")).document
    assert (ended["was_on_hold"], ended["on_hold"]) == (True, [])
    again = await recovered.run("unhold", LOST)
    assert (again.code, lines(again, "summary")) == (0, [[f"session {LOST} was not on hold"]])


async def test_a_pause_holds_everything_until_it_is_resumed(set_up: Program, path: Path) -> None:
    with OpencodeFile(path) as made:
        made.call(made.turn(made.session(LOST), "msg_1"), "prt_1")
    paused = await set_up.run("pause")
    assert lines(paused, "summary") == [["everything is on hold until somebody ends it"]]
    assert lines(await set_up.run("scan"), "spared")[0][0] == "on_hold"
    assert lines(await set_up.run("recover"), "summary") == [["nothing to recover"]]
    warned = (await set_up.run("check", "--json")).document
    assert [each["everything"] for each in warned["journal"]["on_hold"]] == [True]
    assert any("everything is on hold" in each for each in warned["warnings"])
    resumed = (await set_up.run("resume", "--json")).document
    assert (resumed["session_id"], resumed["was_on_hold"], resumed["on_hold"]) == ("*", True, [])
    assert (await set_up.run("recover")).code == 0


async def test_a_hold_for_a_while_ends_by_itself(recovered: Program) -> None:
    await recovered.run("hold", LOST, "--for", "1ms")
    assert (await recovered.run("history", "--json")).document["on_hold"] == []


# no journal


@pytest.mark.parametrize(
    "arguments",
    [("history",), ("history", "1"), ("undo", "1"), ("hold", "x"), ("unhold", "x"), ("pause",), ("resume",)],
)
async def test_without_a_journal_these_commands_say_so(
    program: Program, rows: OpencodeFile, arguments: tuple[str, ...]
) -> None:
    program.settings(database=str(rows.path), servers=[NOWHERE], discover=False, journal="off")
    done = await program.run(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert "There is no journal" in done.stderr


async def test_check_says_what_is_lost_without_a_journal(program: Program, rows: OpencodeFile) -> None:
    program.settings(database=str(rows.path), servers=[NOWHERE], discover=False, journal="off")
    document = (await program.run("check", "--json")).document
    assert document["journal"]["path"] is None
    assert any("can't be listed or undone" in each for each in document["warnings"])


# a journal that can't be used


async def make(journal: Path) -> None:
    """A journal with nothing in it."""
    async with await SqliteJournal.open(journal):
        pass


def sql(path: Path, statement: str) -> None:
    """Run one statement on a file, and have it in the file itself."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def newer(journal: Path) -> None:
    sql(journal, "PRAGMA user_version = 99")


def another(journal: Path) -> None:
    journal.unlink()
    sql(journal, "CREATE TABLE something (id)")


def garbage(journal: Path) -> None:
    journal.write_bytes(b"no database at all, but long enough to be taken for one" * 100)


def folder(journal: Path) -> None:
    journal.unlink()
    journal.mkdir()


def unreadable_content(journal: Path) -> None:
    sql(
        journal,
        "INSERT INTO intervention (session_id, began_ms, actor, verdict) VALUES ('ses_1', 9999999999999, 'x', '{}')",
    )


BROKEN = [
    (newer, "is of a newer opencode-watchdog"),
    (another, "but no journal"),
    (garbage, "is not a SQLite database"),
    (folder, "is a folder"),
    (unreadable_content, "that this version can't read"),
]


@pytest.mark.parametrize(("damage", "says"), BROKEN)
async def test_a_journal_that_cannot_be_used_is_a_sentence_and_exit_code_3(
    set_up: Program, rows: OpencodeFile, journal: Path, damage: Callable[[Path], None], says: str
) -> None:
    rows.session(LOST)
    await make(journal)
    damage(journal)
    done = await set_up.run("history")
    assert (done.code, done.stdout) == (3, ""), done
    assert says in done.stderr
    document = (await set_up.run("check", "--json")).document
    assert says in document["journal"]["problem"]
    assert any(says in each for each in document["problems"])


async def test_a_locked_journal_is_a_sentence_and_exit_code_3(
    set_up: Program, rows: OpencodeFile, journal: Path
) -> None:
    rows.session(LOST)
    await make(journal)
    connection = sqlite3.connect(journal, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    done = await set_up.run("hold", LOST)
    connection.close()
    assert (done.code, done.stdout) == (3, "")
    assert "is locked by another process" in done.stderr


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[None]:
    """Something mounted for the block; skips where that is not permitted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def fill(folder: Path) -> None:
    """Leave no room on a disk."""
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)


def may_not_be_written(folder: Path) -> None:
    """Make what is mounted there read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


async def test_a_full_disk_is_a_sentence_and_exit_code_3(set_up: Program, rows: OpencodeFile, journal: Path) -> None:
    rows.session(LOST)
    journal.parent.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=256k", "none", at=journal.parent):
        await make(journal)
        fill(journal.parent)
        done = await set_up.run("hold", LOST)
        assert (done.code, done.stdout) == (3, ""), done
        assert "disk" in done.stderr
        assert str(journal) in done.stderr


async def test_a_read_only_disk_is_a_sentence_and_exit_code_3(
    set_up: Program, rows: OpencodeFile, journal: Path
) -> None:
    rows.session(LOST)
    journal.parent.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=1m", "none", at=journal.parent):
        await make(journal)
        may_not_be_written(journal.parent)
        done = await set_up.run("hold", LOST)
    assert (done.code, done.stdout) == (3, ""), done
    assert str(journal) in done.stderr


def set_modes(journal: Path, folder_mode: int, file_mode: int | None = None) -> None:
    if file_mode is not None:
        journal.chmod(file_mode)
    journal.parent.chmod(folder_mode)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everything")
@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o500, 0o400), (0o700, 0o000), (0o000, 0o600)])
async def test_a_journal_that_this_user_may_not_use_is_a_sentence_and_exit_code_3(
    set_up: Program, rows: OpencodeFile, journal: Path, folder_mode: int, file_mode: int
) -> None:
    rows.session(LOST)
    await make(journal)
    set_modes(journal, folder_mode, file_mode)
    try:
        done = await set_up.run("hold", LOST)
    finally:
        set_modes(journal, 0o700)
    assert (done.code, done.stdout) == (3, ""), done
    assert str(journal) in done.stderr


# words


def test_a_long_value_is_cut_and_says_how_long_it_was() -> None:
    assert shortened("x" * 160) == "x" * 160
    assert shortened("x" * 161) == "x" * 160 + "… (161 characters)"
