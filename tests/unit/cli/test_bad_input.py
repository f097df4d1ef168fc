"""Whatever is wrong with what the program is given: what a person reads, and the exit code."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.server import Handler, loopback, read_request, reply
from tests.support.database import SCHEMA, OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, python, rows
from tests.support.watchdog_run import Json
from watchdog.opencode.processes.lock import DatabaseLock

__all__ = ["path", "program", "rows"]

AS_NOBODY = (
    "import os, watchdog.cli.commands, watchdog.checking.check, watchdog.cli.main\n"
    "if os.geteuid() == 0: os.setuid(65534)"
)


async def refused(program: Program, *arguments: object, code: int) -> str:
    """The message of a command that must refuse: on standard error, and nothing on standard output."""
    done = await program.run(*arguments)
    assert done.code == code, done
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _chmod(path: Path, mode: int) -> None:
    path.chmod(mode)


# The database.


@pytest.mark.parametrize("command", ["scan", "recover", "run"])
async def test_no_database_says_so_and_never_that_nothing_is_stuck(
    program: Program, path: Path, command: str
) -> None:
    message = await refused(program, command, "--database", path, code=3)
    assert f"There is no database {path}" in message
    assert "--database PATH" in message


async def test_without_a_choice_it_says_where_it_looked(program: Program) -> None:
    message = await refused(program, "scan", code=3)
    assert f"looked for opencode.db and opencode-*.db in {program.home}/.local/share/opencode" in message
    assert "Start opencode once" in message


async def test_several_databases_are_listed(program: Program) -> None:
    folder = program.home / ".local/share/opencode"
    folder.mkdir(parents=True)
    for name in ("opencode.db", "opencode-beta.db"):
        OpencodeFile(folder / name).close()
    message = await refused(program, "scan", code=2)
    assert str(folder / "opencode.db") in message
    assert str(folder / "opencode-beta.db") in message
    assert "Choose one with --database" in message


async def test_a_file_that_is_not_sqlite(program: Program, path: Path) -> None:
    _write(path, "This is a letter to my grandmother, and it is quite long.\n" * 50)
    assert f"{path} is not a SQLite database" in await refused(program, "scan", "--database", path, code=3)


async def test_a_database_without_parts_is_no_database_of_opencodes(program: Program, path: Path) -> None:
    OpencodeFile(path, schema=SCHEMA.replace("CREATE TABLE part (", "CREATE TABLE parts (").split("CREATE INDEX")[0])
    message = await refused(program, "scan", "--database", path, code=3)
    assert "is no database of opencode's: it has no table `part`" in message


async def test_a_database_of_opencode_2_is_named_as_such(program: Program, path: Path) -> None:
    OpencodeFile(path, schema="CREATE TABLE session_v2 (id text PRIMARY KEY);").close()
    message = await refused(program, "scan", "--database", path, code=3)
    assert "opencode 2.x" in message
    assert "Look for a newer opencode-watchdog" in message


async def test_the_json_files_of_opencode_1_1_are_named_as_such(program: Program) -> None:
    storage = program.home / ".local/share/opencode/storage/session"
    storage.mkdir(parents=True)
    (storage / "ses_1.json").write_text("{}", encoding="utf-8")
    message = await refused(program, "scan", code=3)
    assert "the JSON files of opencode before 1.2 and no database" in message
    assert "Upgrade opencode" in message


async def test_a_folder(program: Program, tmp_path: Path) -> None:
    message = await refused(program, "scan", "--database", tmp_path, code=3)
    assert f"{tmp_path} is a folder. Name the database file in it" in message


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may look into, unlike those that pytest makes."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def test_no_permission_to_read_it(shared: Path) -> None:
    database = shared / "opencode.db"
    OpencodeFile(database).close()
    database.chmod(0o000)
    message = await refused(Program(home=shared, line=python(AS_NOBODY)), "scan", "--database", database, code=3)
    assert f"may not read the database {database}" in message
    assert "Run the watchdog as the user that runs opencode" in message


async def test_no_permission_to_write_beside_it(shared: Path) -> None:
    database = shared / "opencode.db"
    with OpencodeFile(database):  # its -wal and -shm are there, so that it can be read
        _chmod(shared, 0o555)
        program = Program(home=shared, line=python(AS_NOBODY))
        message = await refused(program, "scan", "--database", database, "--server", NOWHERE, code=3)
    assert "needs to write in the folder of the database" in message


async def test_a_network_file_system(program: Program, path: Path, rows: OpencodeFile) -> None:
    mounts = path.parent / "mounts"
    mounts.write_text("36 35 98:0 / / rw,noatime - nfs4 server:/export rw\n", encoding="utf-8")
    program.line = python(
        f"import pathlib, watchdog.opencode.file.identity as place\nplace.MOUNTS = pathlib.Path({str(mounts)!r})"
    )
    message = await refused(program, "scan", "--database", rows.path, code=3)
    assert "is on a file system of type nfs4, which other machines may share" in message
    assert "Run the watchdog where the database's own disk is" in message


# Rows.

BROKEN_PARTS = {
    "its JSON is broken": '{"type": "tool", "tool": "bash", "state": {"status": "runn',
    "its JSON is no object": '"running"',
    "it has no state": '{"type": "tool", "tool": "bash"}',
    "its time.start is no time": (
        '{"type": "tool", "tool": "bash", "state": {"status": "running", "input": {}, "time": {"start": "noon"}}}'
    ),
    "it has no tool name": '{"type": "tool", "state": {"status": "running", "input": {}, "time": {"start": 1}}}',
}


@pytest.mark.parametrize("problem", BROKEN_PARTS)
async def test_a_part_that_can_not_be_read_is_reported_and_the_rest_is_judged(
    program: Program, path: Path, problem: str
) -> None:
    with OpencodeFile(path) as rows:
        part = rows.part(rows.turn(rows.session()), BROKEN_PARTS[problem])
        rows.call(rows.turn(rows.session("ses_well")))
    document = await scanned(program, path, "--full", code=1)
    assert document["counts"]["damaged_rows"] == 1
    assert any(part in each and problem in each for each in document["degraded"]), document["degraded"]
    assert "ses_well" in {each["session_id"] for each in document["verdicts"]}
    assert part not in {each["part_id"] for each in document["verdicts"]}


@pytest.mark.parametrize("time", ["noon", -5, 1.5e308, None])
async def test_a_row_whose_times_are_none_is_reported_and_the_rest_is_judged(
    program: Program, path: Path, time: object
) -> None:
    with OpencodeFile(path, schema=SCHEMA.replace("time_created integer NOT NULL", "time_created integer")) as rows:
        call = rows.call(rows.turn(rows.session()))
        rows.set("part", call, time_created=time)
        rows.call(rows.turn(rows.session("ses_well")))
    done = await program.run("scan", "--json", "--database", path, "--server", NOWHERE)
    document = done.document
    assert done.code == 1
    assert "ses_well" in {each["session_id"] for each in document["verdicts"]}
    if time != 1.5e308:  # absurd, but a time
        assert document["counts"]["damaged_rows"] == 1
        assert any(call in each for each in document["degraded"])


async def test_a_row_from_the_future_is_no_older_than_nothing(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session("ses_future"), at=now_ms() + 10**9), at=now_ms() + 10**9)
        rows.call(rows.turn(rows.session("ses_well")))
    document = await scanned(program, path, code=1)
    ages = {each["session_id"]: each["age_seconds"] for each in document["verdicts"]}
    assert ages["ses_future"] == 0.0  # nobody has the database open: an orphan at any age
    assert ages["ses_well"] > 0


async def test_a_session_that_is_its_own_parent_and_its_own_child(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.session("ses_ring", parent="ses_ring")
        rows.task(rows.turn("ses_ring"), child="ses_ring")
        rows.call(rows.turn(rows.session("ses_well")))
    document = await scanned(program, path, code=1)
    assert {each["session_id"] for each in document["verdicts"]} == {"ses_ring", "ses_well"}
    settled = await program.run("recover", "--database", path, "--server", NOWHERE)
    assert settled.code == 0
    assert (await scanned(program, path, code=0))["verdicts"] == []


async def scanned(program: Program, path: Path, *more: str, code: int) -> Json:
    done = await program.run("scan", "--json", "--database", path, "--server", NOWHERE, *more)
    assert done.code == code, done
    return done.document


# A second watchdog.


async def test_recover_refuses_beside_another_watchdog(program: Program, rows: OpencodeFile) -> None:
    call = rows.call(rows.turn(rows.session()))
    with DatabaseLock(rows.path) as lock:
        assert lock.acquire()
        message = await refused(program, "recover", "--database", rows.path, "--server", NOWHERE, code=3)
        assert f"Another watchdog (pid {os.getpid()}) acts on {rows.path}" in message
        assert "Stop it first, or leave the work to it" in message
    assert '"running"' in rows.get("part", call)


async def test_recover_may_try_beside_another_watchdog(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session()))
    with DatabaseLock(path) as lock:
        assert lock.acquire()
        done = await program.run("recover", "--dry-run", "--database", path, "--server", NOWHERE)
    assert (done.code, done.stderr) == (1, "")


async def test_run_beside_another_watchdog_observes_and_says_so(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        call = rows.call(rows.turn(rows.session()))
    program.settings(database=str(path), servers=[NOWHERE], poll_interval=0.1, log_format="json")
    with DatabaseLock(path) as lock:
        assert lock.acquire()
        async with program.started("run") as running:
            await running.said("another watchdog acts on this database; this one only looks")
            await running.said('"event": "verdict.observed"')
            with OpencodeFile(path) as rows:
                assert '"running"' in rows.get("part", call)
            lock.release()
            await running.said("the other watchdog is gone")
            await running.said('"result": "recovered"')


# Servers: whatever one answers, it is never evidence.

HALF_A_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{"
ANSWERS = {
    "answered 401: it asks for a password, and none is set": reply({}, status=401),
    "answered 500 (application/json), which its API does not promise": reply({"name": "Unknown"}, status=500),
    "answered 200 with a page (text/html)": reply(b"<html>Welcome</html>", content_type="text/html"),
    "can't be reached": b"",
    "broke off in the middle of its answer": HALF_A_REPLY,
    "does not speak HTTP": b"220 mail.example ESMTP\r\n\r\n",
}


def answering(raw: bytes) -> Handler:
    """A server that gives one answer to everything, and hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await writer.drain()

    return handle


@pytest.fixture
def held(rows: OpencodeFile) -> OpencodeFile:
    """An open turn, silent for longer than allowed, that this process, which has the database open, may be at."""
    rows.turn(rows.session("ses_held", at=now_ms()), at=now_ms())
    return rows


@pytest.mark.parametrize("words", ANSWERS)
async def test_a_server_that_answers_nonsense_is_degraded_and_proves_nothing(
    program: Program, held: OpencodeFile, words: str
) -> None:
    program.settings(idle_timeout="1ms", sole_owner=True, discover=False)
    async with loopback(answering(ANSWERS[words])) as url:
        done = await program.run("scan", "--json", "--database", held.path, "--server", url)
    document = done.document
    assert done.code == 0, done
    assert document["verdicts"] == []
    assert [each["reason"] for each in document["spared"]] == ["no_witness"]
    assert [each for each in document["degraded"] if words in each], document["degraded"]


async def test_a_server_that_says_nothing_at_all_is_degraded_and_the_wait_is_explained(
    program: Program, held: OpencodeFile
) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    program.settings(idle_timeout="1ms", sole_owner=True, discover=False)
    async with loopback(silent) as url:
        done = await program.run("scan", "--json", "--database", held.path, "--server", url)
    assert done.code == 0
    assert done.document["verdicts"] == []
    assert done.document["degraded"] == [f"{url} did not answer within 5 s."]
    assert done.stderr == "looking at the database and its servers, which takes a while\n"


async def test_an_orphan_is_settled_whatever_a_server_of_nobody_answers(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session()))
    async with loopback(answering(reply({}, status=500))) as url:
        done = await program.run("recover", "--json", "--database", path, "--server", url)
    assert done.code == 0
    assert [each["result"] for each in done.document["outcomes"]] == ["recovered"]


# Settings and the command line: exit code 2.


async def test_a_syntax_error_names_file_line_and_column(program: Program) -> None:
    config = program.settings()
    config.write_text('poll_interval = "5s"\ntool_timeout = \n', encoding="utf-8")
    message = await refused(program, "scan", code=2)
    assert message == f"error: file {config}, line 2, column 16: it isn't TOML: Invalid value."


async def test_an_unknown_key_is_an_error_with_the_likely_one(program: Program) -> None:
    config = program.settings(tool_timout="30m")
    message = await refused(program, "scan", code=2)
    assert message == f'error: file {config}, key tool_timout: there is no such setting; did you mean "tool_timeout"?'


async def test_an_unknown_variable_is_an_error_with_the_likely_one(program: Program) -> None:
    program.more = {"OPENCODE_WATCHDOG_TOOL_TIMOUT": "30m"}
    message = await refused(program, "scan", code=2)
    assert "environment variable OPENCODE_WATCHDOG_TOOL_TIMOUT: there is no such setting" in message
    assert 'did you mean "OPENCODE_WATCHDOG_TOOL_TIMEOUT"?' in message


async def test_a_negative_duration(program: Program) -> None:
    config = program.settings(tool_timeout="-5m")
    message = await refused(program, "scan", code=2)
    assert message.startswith(f"error: file {config}, key tool_timeout")
    assert message.endswith('can\'t be "-5m": a duration is never negative.')


async def test_every_problem_is_told_at_once(program: Program) -> None:
    program.settings(tool_timeout="-5m", max_attempts=0)
    message = await refused(program, "check", code=2)
    assert "tool_timeout can't be" in message
    assert "max_attempts can't be 0" in message


async def test_a_config_file_that_is_not_there(program: Program) -> None:
    message = await refused(program, "run", "--config", program.home / "no.toml", code=2)
    assert str(program.home / "no.toml") in message


async def test_a_config_file_that_may_not_be_read(shared: Path) -> None:
    path = Program(home=shared).settings()
    path.chmod(0o000)
    message = await refused(Program(home=shared, line=python(AS_NOBODY)), "scan", code=2)
    assert str(path) in message
    assert "ermission" in message


async def test_a_url_that_is_none(program: Program) -> None:
    message = await refused(program, "scan", "--server", "localhost:4096", code=2)
    assert "flag --server" in message
    assert "http://127.0.0.1:4096" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scam"], "No such command 'scam'"),
        (["scan", "--jsn"], "No such option: --jsn"),
        (["release"], "Missing argument 'SESSION'"),
        (["delete-message", "ses_1"], "Missing argument 'MESSAGE'"),
        (["scan", "ses_1"], "unexpected extra argument"),
        (["run", "--full"], "No such option: --full"),
        (["--database"], "No such option: --database"),
    ],
)
async def test_a_wrong_command_line_is_explained(program: Program, arguments: list[str], words: str) -> None:
    message = await refused(program, *arguments, code=2)
    assert words in message
    assert "--help" in message
