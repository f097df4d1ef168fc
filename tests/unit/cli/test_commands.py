"""What the commands do, through the real program, with opencode's servers in this process."""

import itertools
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from tests.fakes.server import AbortBehaviour, FakeServer, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, python, rows
from tests.support.waiting import SECONDS
from watchdog.model.report import Served
from watchdog.model.session import SessionId

__all__ = ["path", "program", "rows"]

WAITS_AFTER_THE_FIRST = """
import time
import watchdog.cli.commands as commands
from dataclasses import replace
from watchdog.model.verdict import SpareReason, Spared
from watchdog.loop.watch import Watch

assess = Watch.assess
async def assess_and_doubt(self, **more):
    found = await assess(self, **more)
    doubt = Spared(session_id='ses_x', reason=SpareReason.FIRST_LOOK, why='', until=self.clock.now() + 60)
    return replace(found, judgement=replace(found.judgement, spared=(doubt,)))
Watch.assess = assess_and_doubt
"""
CTRL_C = "\x03"


def orphan(path: Path, session: str = "ses_lost") -> str:
    """A session that a crash left behind: nobody has its database open."""
    with OpencodeFile(path) as rows:
        return rows.call(rows.turn(rows.session(session)))


def state(path: Path, call: str) -> dict[str, object]:
    """A call's state in the database."""
    with OpencodeFile(path) as rows:
        found: dict[str, object] = json.loads(rows.get("part", call))["state"]
        return found


def whole(path: Path) -> bytes:
    """The file, while nobody has it open."""
    return path.read_bytes()


def at_work(rows: OpencodeFile, fake: FakeServer, session: str = "ses_busy") -> str:
    """A session that the server is at work on; an abort closes its rows, as opencode does."""
    now = now_ms()
    turn = rows.turn(rows.session(session, at=now), at=now)
    call = rows.call(turn, at=now)
    fake.busy(SessionId(session), "/project")
    fake.turns.add((SessionId(session), turn))

    async def end(_: SessionId) -> None:
        rows.finish_call(call, at=now_ms())
        rows.finish_turn(turn, at=now_ms())

    fake.on_abort = end
    return call


@asynccontextmanager
async def serving(program: Program, rows: OpencodeFile, fake: FakeServer) -> AsyncIterator[str]:
    """The fake as a server on loopback, and settings that name it and this database."""
    async with loopback(over_http(fake)) as url:
        program.settings(
            database=str(rows.path), servers=[url], discover=False, abort_grace="2s", poll_interval=0.1,
            log_format="json",
        )  # fmt: skip
        yield url


# scan


async def test_scan_with_nothing_open_is_fine(program: Program, rows: OpencodeFile) -> None:
    done = await program.run("scan", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 0
    assert done.stdout == "summary\t0 stuck, 0 spared\n"


async def test_scan_of_an_orphan_is_a_line_of_cells_and_exit_code_1(program: Program, path: Path) -> None:
    orphan(path)
    done = await program.run("scan", "--database", path, "--server", NOWHERE)
    assert done.code == 1
    degraded, stuck, summary = done.stdout.splitlines()
    assert degraded == f"degraded\t{NOWHERE} can't be reached (ConnectError)."
    cells = stuck.split("\t")
    assert cells[:5] == ["stuck", "orphan", "ses_lost", "ses_lost", "bash"]
    assert len(cells) == 8
    assert cells[7].startswith("nobody executes it: no process has the database open; it began ")
    assert summary == "summary\t1 stuck, 0 spared"


async def test_scan_shows_an_orphan_that_takes_a_second_look_and_says_so(
    program: Program, rows: OpencodeFile
) -> None:
    rows.call(rows.turn(rows.session()))  # long before this process was born
    done = await program.run("scan", "--json", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 1
    assert "acting on it takes a second look, 30 s later" in done.document["verdicts"][0]["why"]


async def test_only_a_full_scan_finds_an_open_call_in_a_closed_turn(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session(), completed_at=now_ms()))
    quick = await program.run("scan", "--database", path, "--server", NOWHERE)
    full = await program.run("scan", "--full", "--database", path, "--server", NOWHERE)
    assert (quick.code, full.code) == (0, 1)


async def test_scan_writes_nothing(program: Program, path: Path) -> None:
    call = orphan(path)
    before = whole(path)
    await program.run("scan", "--full", "--database", path, "--server", NOWHERE)
    assert state(path, call)["status"] == "running"
    assert whole(path) == before


async def test_scan_on_a_terminal_is_a_table_that_fits_80_columns(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        for name in "abc":
            turn = rows.turn(rows.session(f"ses_{name * 26}"))
            rows.call(turn, f"prt_{name * 26}", tool="mcp_a_tool_with_a_name_that_does_not_end")
    with program.at_a_terminal("scan", "--database", path, "--server", NOWHERE) as terminal:
        assert await terminal.ended() == 1
    assert all(len(line) <= 80 for line in terminal.lines), terminal.text
    assert any("ses_" + "a" * 26 in line for line in terminal.lines), "an id is broken"
    assert terminal.lines[-1] == "3 stuck, 0 spared"
    assert "\x1b[35morphan" in terminal.shown
    assert "\x1b[1;31m3 stuck" in terminal.shown


# recover


async def test_recover_settles_at_once_when_nobody_has_the_database_open(program: Program, path: Path) -> None:
    call = orphan(path)
    done = await program.run("recover", "--json", "--database", path, "--server", NOWHERE)
    assert done.code == 0
    assert [(each["session_id"], each["result"]) for each in done.document["outcomes"]] == [("ses_lost", "recovered")]
    assert state(path, call)["status"] == "error"
    again = await program.run("recover", "--database", path, "--server", NOWHERE)
    assert (again.code, again.stdout) == (0, "summary\tnothing to recover\n")


async def test_recover_settles_many_at_once_and_tells_of_each_once(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        calls = [rows.call(rows.turn(rows.session(f"ses_{number}"))) for number in range(40)]
    program.settings(max_concurrency=2)
    done = await program.run("recover", "--json", "--database", path, "--server", NOWHERE)
    assert done.code == 0
    outcomes = done.document["outcomes"]
    assert sorted(each["session_id"] for each in outcomes) == sorted(f"ses_{number}" for number in range(40))
    assert {each["result"] for each in outcomes} == {"recovered"}, [
        each for each in outcomes if each["result"] != "recovered"
    ]
    assert {state(path, call)["status"] for call in calls} == {"error"}


async def test_recover_in_a_dry_run_writes_nothing(program: Program, path: Path) -> None:
    call = orphan(path)
    done = await program.run("recover", "--dry-run", "--database", path, "--server", NOWHERE)
    assert done.code == 1
    outcome, summary = done.stdout.splitlines()
    assert outcome.startswith("outcome\tdry_run\tses_lost\torphan\twould settle 2 rows: nobody executes it")
    assert summary == "summary\t1 dry run"
    assert state(path, call)["status"] == "running"


async def test_recover_waits_for_its_second_look_and_says_so(program: Program, rows: OpencodeFile) -> None:
    call = rows.call(rows.turn(rows.session()))
    program.settings(orphan_grace="1s", servers=[NOWHERE], database=str(rows.path))
    done = await program.run("recover", "--json")
    assert done.code == 0
    assert done.document["outcomes"][0]["result"] == "recovered"
    assert done.stderr.startswith("a second look at 1 session comes in ")
    assert '"error"' in rows.get("part", call)


async def test_recover_names_what_it_must_leave_alone(program: Program, rows: OpencodeFile) -> None:
    rows.turn(rows.session("ses_young", at=now_ms()), at=now_ms())
    plain = await program.run("recover", "--database", rows.path, "--server", NOWHERE)
    assert plain.code == 0
    spared, summary = plain.stdout.splitlines()
    assert spared.startswith("spared\tno_witness\tses_young\t-\t")
    assert summary == "summary\tnothing to recover"
    as_json = await program.run("recover", "--json", "--database", rows.path, "--server", NOWHERE)
    assert [each["session_id"] for each in as_json.document["spared"]] == ["ses_young"]


async def test_recover_never_touches_what_a_server_is_at_work_on(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    call = at_work(rows, fake)
    async with serving(program, rows, fake):
        done = await program.run("recover", "--json")
    assert (done.code, done.document["outcomes"]) == (0, [])
    assert '"running"' in rows.get("part", call)
    assert fake.aborted == []


async def test_recover_ends_although_a_row_never_rests(program: Program, rows: OpencodeFile) -> None:
    call = rows.call(rows.turn(rows.session()))
    program.settings(orphan_grace="2s", servers=[NOWHERE], database=str(rows.path))
    async with program.started("recover", "--json") as process:
        with anyio.fail_after(2 * SECONDS):
            for number in itertools.count():
                rows.set("part", call, time_updated=now_ms() + number)
                await anyio.sleep(0.05)
                if process.process.poll() is not None:
                    break
        done = await process.finished()
    assert done.code == 0
    assert done.document["outcomes"] == []
    assert '"running"' in rows.get("part", call)


async def test_an_interrupted_recover_ends_at_once_without_a_traceback(program: Program, rows: OpencodeFile) -> None:
    call = rows.call(rows.turn(rows.session()))
    async with program.started("recover", "--database", rows.path, "--server", NOWHERE) as process:
        await process.said("a second look at 1 session comes in")
        process.signal(signal.SIGINT)
        done = await process.finished(5)
    assert (done.code, done.stdout) == (130, "")
    assert '"running"' in rows.get("part", call)


async def test_an_interrupted_recover_tells_what_it_had_done(program: Program, path: Path) -> None:
    """The wait for the second look of one orphan comes after another was settled at once."""
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session("ses_old")))
        program.line = python(WAITS_AFTER_THE_FIRST)
        program.settings(database=str(path), servers=[NOWHERE])
    async with program.started("recover", "--json") as process:
        await process.said("a second look at 1 session comes in")
        process.signal(signal.SIGINT)
        done = await process.finished(5)
    assert done.code == 130
    assert [each["session_id"] for each in done.document["outcomes"]] == ["ses_old"]


async def test_on_a_terminal_a_wait_shows_as_a_bar_that_goes_away(program: Program, rows: OpencodeFile) -> None:
    rows.call(rows.turn(rows.session("ses_old")))
    program.settings(orphan_grace="1s", servers=[NOWHERE], database=str(rows.path))
    with program.at_a_terminal("recover") as terminal:
        await terminal.showed("a second look at 1 session comes in")
        assert await terminal.ended() == 0
    assert "━" in terminal.text
    assert terminal.lines[-1] == "1 recovered"


# release


async def test_release_settles_an_orphan_and_keeps_the_reason(program: Program, path: Path) -> None:
    call = orphan(path)
    done = await program.run(
        "release", "ses_lost", "--reason", "the laptop died", "--json", "--database", path, "--server", NOWHERE
    )
    assert done.code == 0
    assert [each["result"] for each in done.document["outcomes"]] == ["recovered"]
    settled = state(path, call)
    assert settled["status"] == "error"
    assert "the laptop died" in str(settled["error"])


async def test_release_settles_what_an_orphan_had_started_too(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.task(rows.turn(rows.session("ses_above")), child="ses_below")
        call = rows.call(rows.turn(rows.session("ses_below", parent="ses_above")))
    done = await program.run("release", "ses_above", "--json", "--database", path, "--server", NOWHERE)
    assert done.code == 0
    assert [each["session_id"] for each in done.document["outcomes"]] == ["ses_above", "ses_below"]
    assert state(path, call)["status"] == "error"


async def test_release_of_an_unknown_session_is_a_usage_error(program: Program, rows: OpencodeFile) -> None:
    done = await program.run("release", "ses_nobody", "--database", rows.path, "--server", NOWHERE)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == (
        "error: There is no session ses_nobody in this database; `scan` lists the unfinished ones.\n"
    )


async def test_release_with_nothing_open_changes_nothing(program: Program, rows: OpencodeFile) -> None:
    rows.finish_turn(rows.turn(rows.session("ses_done")), at=now_ms())
    done = await program.run("release", "ses_done", "--json", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 0
    assert done.document["outcomes"][0]["result"] == "unchanged"
    assert done.document["outcomes"][0]["why"] == "nothing is open in it, and no server is at work on it"


async def test_release_of_something_alive_refuses_without_a_terminal(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with serving(program, rows, fake):
        done = await program.run("release", "ses_busy")
    assert (done.code, done.stdout) == (2, "")
    assert "Session ses_busy may be alive: the bash call has run for " in done.stderr
    assert "There is no terminal to ask at; --yes ends it all the same." in done.stderr
    assert fake.aborted == []


async def test_release_asks_too_when_a_server_is_at_work_on_something_that_does_not_show(
    program: Program, rows: OpencodeFile
) -> None:
    fake = FakeServer()
    rows.turn(rows.session("ses_talks"))  # months ago: but a model may be streaming right now
    fake.busy(SessionId("ses_talks"), "/project")
    async with serving(program, rows, fake):
        done = await program.run("release", "ses_talks")
    assert done.code == 2
    assert "Session ses_talks may be alive" in done.stderr
    assert fake.aborted == []


async def test_release_with_yes_aborts_through_the_server(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    call = at_work(rows, fake)
    async with serving(program, rows, fake):
        done = await program.run("release", "ses_busy", "--yes", "--json")
    assert done.code == 0
    assert fake.aborted == [("ses_busy", "/project")]
    assert [each["step"] for each in done.document["outcomes"][0]["steps"]] == [
        "reread",
        "find",
        "about_to_abort",
        "abort",
        "verify",
    ]
    assert '"completed"' in rows.get("part", call)


async def test_an_abort_that_changes_nothing_is_never_a_success(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer(abort_behaviour=AbortBehaviour.LIES)
    at_work(rows, fake)
    async with serving(program, rows, fake):
        done = await program.run("release", "ses_busy", "--yes")
    assert done.code == 1
    assert done.stdout.startswith("outcome\tineffective\tses_busy\t")


async def test_what_no_server_runs_is_unreachable_and_the_process_is_named(
    program: Program, rows: OpencodeFile
) -> None:
    now = now_ms()
    call = rows.call(rows.turn(rows.session("ses_tui", at=now), at=now), at=now)
    async with serving(program, rows, FakeServer(vouching=False)):
        done = await program.run("release", "ses_tui", "--yes")
    assert done.code == 1
    assert done.stdout.startswith("outcome\tunreachable\tses_tui\t")
    assert "may be at work on it" in done.stdout
    assert '"running"' in rows.get("part", call)


async def test_a_person_who_agrees_at_the_terminal_ends_it(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    call = at_work(rows, fake)
    async with serving(program, rows, fake):
        with program.at_a_terminal("release", "ses_busy") as terminal:
            await terminal.showed("End it all the same? [y/N]:")
            assert fake.aborted == []
            terminal.type("y\n")
            assert await terminal.ended() == 0
    assert "recovered" in terminal.text
    assert terminal.lines[-1] == "1 recovered"
    assert '"completed"' in rows.get("part", call)


async def test_a_person_who_refuses_leaves_it_alone(program: Program, rows: OpencodeFile) -> None:
    for answer in ("n\n", "\n", CTRL_C, "\x04"):
        fake = FakeServer()
        at_work(rows, fake, f"ses_{ord(answer[0])}")
        async with serving(program, rows, fake):
            with program.at_a_terminal("release", f"ses_{ord(answer[0])}") as terminal:
                await terminal.showed("End it all the same? [y/N]:")
                terminal.type(answer)
                assert await terminal.ended(5) == 2
        assert "was left alone, as you said" in " ".join(terminal.text.split())
        assert fake.aborted == []


async def test_what_ends_while_the_person_thinks_is_not_ended_twice(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with serving(program, rows, fake):
        with program.at_a_terminal("release", "ses_busy") as terminal:
            await terminal.showed("End it all the same? [y/N]:")
            fake.statuses_by.clear()
            assert fake.on_abort is not None
            await fake.on_abort(SessionId("ses_busy"))
            terminal.type("y\n")
            assert await terminal.ended() == 0
    assert fake.aborted == []
    assert terminal.lines[-1] == "1 unchanged"


# delete-message


async def test_a_message_of_a_busy_session_is_deleted_after_its_release(program: Program, rows: OpencodeFile) -> None:
    class Forgetful(FakeServer):
        async def delete_message(
            self, served: Served, session_id: SessionId, message_id: str, directory: str
        ) -> None:
            await super().delete_message(served, session_id, message_id, directory)
            rows.delete("part", call)
            rows.delete("message", message_id)

    fake = Forgetful()
    call = at_work(rows, fake)
    turn = rows.get("part", call, "message_id")
    async with serving(program, rows, fake):
        refused = await program.run("delete-message", "ses_busy", turn)
        done = await program.run("delete-message", "ses_busy", turn, "--yes", "--json")
    assert refused.code == 2
    assert "may be alive" in refused.stderr
    assert done.code == 0
    assert done.document["deleted"] is True
    assert done.document["message_id"] == turn
    assert [each["result"] for each in done.document["outcomes"]] == ["recovered"]
    assert fake.deleted == [("ses_busy", turn)]


async def test_a_message_that_stays_is_no_success(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    turn = rows.turn(rows.session("ses_done"), completed_at=now_ms())
    fake.turns.add((SessionId("ses_done"), turn))
    async with serving(program, rows, fake):
        done = await program.run("delete-message", "ses_done", turn)
    assert done.code == 1
    assert done.stdout == f"summary\t{turn} is still there\n"


async def test_a_session_that_can_not_be_released_keeps_its_message(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer(abort_behaviour=AbortBehaviour.LIES)
    turn = rows.get("part", at_work(rows, fake), "message_id")
    async with serving(program, rows, fake):
        done = await program.run("delete-message", "ses_busy", turn, "--yes", "--json")
    assert done.code == 1
    assert done.document["deleted"] is False
    assert [each["result"] for each in done.document["outcomes"]] == ["ineffective"]
    assert fake.deleted == []


async def test_without_a_server_a_message_can_not_be_deleted(program: Program, rows: OpencodeFile) -> None:
    turn = rows.turn(rows.session("ses_done"), completed_at=now_ms())
    done = await program.run("delete-message", "ses_done", turn, "--database", rows.path, "--server", NOWHERE)
    assert (done.code, done.stdout) == (3, "")
    assert "only a server can delete it" in done.stderr
    assert "can't be reached" in done.stderr


async def test_a_message_in_postgresql_is_refused_with_the_reason_before_anything_is_ended(program: Program) -> None:
    done = await program.run("delete-message", "ses_1", "msg_1", "--database", "postgresql://127.0.0.1:1/sessions")
    assert (done.code, done.stdout) == (2, "")
    said = " ".join(done.stderr.split())
    assert "No message in postgresql://127.0.0.1:1/sessions can be deleted from here" in said
    assert "host has no function for that" in said
    assert "`release ses_1`" in said


async def test_a_message_that_is_not_there_is_a_usage_error(program: Program, rows: OpencodeFile) -> None:
    rows.session("ses_done")
    done = await program.run("delete-message", "ses_done", "msg_no", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 2
    assert "ses_done has no message msg_no" in done.stderr
