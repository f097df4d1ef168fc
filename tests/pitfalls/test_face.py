"""What people see: foreign words, and the surroundings of the program. Each through the real program.

The tests are named by the sentences of the list of pitfalls.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import httpx
import pytest

from tests.support.database import OpencodeFile
from tests.support.hostile import HOSTILE, ORDINARY, obeyed
from tests.support.opencode import free_port
from tests.support.program import NOWHERE, Program, path, program
from tests.support.surroundings import COMMANDS, SURROUNDINGS, Place, Seen, Wrong, all_in, drawn_for
from tests.support.waiting import wait_until

__all__ = ["path", "program"]

DOCUMENTED: Final = {0, 1, 2, 3}
"""Without 70, an internal error, and 130, an interruption."""
TOKEN: Final = "a-token-of-this-test-0123456789"  # noqa: S105
DRAWN: Final = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[0-9]*[A-DGK]|\x1b\[\?25[lh]|\r")
"""What the program itself tells a terminal."""
WORDS: Final = [*HOSTILE.values(), *ORDINARY]


def _spelt(words: str) -> str:
    """A word as an argument or a path can hold it: any bytes, but no NUL."""
    spelt = "".join(each for each in words if not "\ud800" <= each < "\udc80" and not "\udcff" < each <= "\udfff")
    return spelt.replace("\0", "")


def _fill(database: Path) -> dict[str, str]:
    """A call that a crash left open for each word: tool, folder and ids are called so. The words by session."""
    sessions = {}
    with OpencodeFile(database) as rows:
        for number, word in enumerate(WORDS):
            storable = word.replace("\0", "").encode(errors="replace").decode()
            id_ = f"ses_{number}_{storable[:40]}"
            turn = rows.turn(rows.session(id_, directory=f"/w/{storable[:300]}"), f"msg_{number}_{storable[:40]}")
            rows.call(turn, f"prt_{number}_{storable[:40]}", tool=word)
            sessions[id_] = word.encode(
                errors="replace"
            ).decode()  # as it is read: no database of text holds half a pair
    return sessions


def _is_fit(text: str, *, own: str = "\n\t") -> None:
    found = obeyed(text, own=own)
    assert not found, ([ascii(each) for each in found], ascii(text[:2000]))


def _is_fit_for_json(text: str) -> Any:  # noqa: ANN401 - JSON
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    return json.loads(text)


@contextmanager
def _receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Somebody who takes alerts."""
    taken: list[dict[str, Any]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not into the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"json://127.0.0.1:{server.server_port}/alerts", taken
        server.shutdown()
        thread.join()


# -- 63 --------------------------------------------------------------------------------------------------------


def _complaints(seen: Seen, *, hidden: bool) -> Iterator[str]:
    """What is wrong with how a command ended."""
    said = seen.stdout + seen.stderr
    if seen.code not in DOCUMENTED:
        yield f"exit code {seen.code}"
    if "Traceback" in said or "Exception ignored" in said or "internal error" in said:
        yield "it shows its insides"
    if seen.code in {2, 3} and not hidden and seen.name not in {"run", "check"} and "error: " not in said:
        yield "it says nothing of what went wrong"
    if obeyed(said, own="\n\t\x1b"):
        yield "it shows what a terminal obeys"


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_no_folder_no_home_no_room_or_no_stream_is_a_sentence_and_no_traceback(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """63."""
    wrong = SURROUNDINGS[name]
    hidden = "2>" in wrong.line or wrong.streams is not None
    found = all_in(wrong, tmp_path / "wrong", only=drawn_for(name))
    complaints = {each: list(_complaints(seen, hidden=hidden)) for each, seen in found.items()}
    assert {each: (what, found[each]) for each, what in complaints.items() if what} == {}
    if wrong.alike:
        _RIGHT.update(all_in(Wrong(), tmp_path_factory.mktemp("right"), only=found.keys() - _RIGHT.keys()))
        assert {each: seen.code for each, seen in found.items()} == {each: _RIGHT[each].code for each in found}


_RIGHT: dict[str, Seen] = {}
"""How commands end where nothing is wrong, once they were tried there."""


@pytest.mark.parametrize(
    "name", ["TMPDIR is gone", "no HOME, and no entry of the user", "the locale is C", "no file may grow"]
)
def test_json_is_one_whole_document_or_nothing(name: str, tmp_path: Path) -> None:
    found = all_in(SURROUNDINGS[name], tmp_path, as_json=True, only=drawn_for(name) | {"check", "explain", "history"})
    for seen in found.values():
        if seen.stdout:
            assert isinstance(json.loads(seen.stdout), dict), seen
        else:
            assert seen.code in {2, 3}, seen
            assert seen.stderr.startswith("error: "), seen


@pytest.mark.parametrize("unbuffered", ["1", None])
def test_json_that_did_not_fit_is_no_document_and_the_exit_code_says_so(
    tmp_path: Path, unbuffered: str | None
) -> None:
    """A disk that took a part of it: here, a file that may not grow any further."""
    place = Place(
        folder=tmp_path, line=f'ulimit -f 100; exec "$@" >{tmp_path}/out', more={"PYTHONUNBUFFERED": unbuffered}
    )
    place.prepare()
    with OpencodeFile(place.database) as rows:
        for _ in range(400):
            rows.call(rows.turn(rows.session()))
    seen = place.run(next(each for each in COMMANDS if each.name == "scan"), as_json=True)
    written = (tmp_path / "out").read_text(encoding="utf-8")
    assert 10_000 < len(written) < 110_000
    with pytest.raises(json.JSONDecodeError):
        json.loads(written)
    assert seen.code == 3
    assert "error: Standard output can't be written" in seen.stderr


def test_a_result_that_can_not_be_written_is_exit_code_3_and_a_sentence(tmp_path: Path) -> None:
    found = all_in(SURROUNDINGS["standard output is full"], tmp_path)
    for seen in found.values():
        if seen.name != "run":
            assert seen.code == 3 or "error: " in seen.stderr, seen
    told = [seen for seen in found.values() if "Standard output can't be written" in seen.stderr]
    assert {seen.name for seen in told} >= {"scan", "check", "recover", "explain", "history", "sql index"}
    assert all(seen.code == 3 for seen in told)


def test_every_command_is_in_the_table() -> None:
    names = [command.name for command in COMMANDS]
    assert {"run", "scan", "explain", "recover", "release", "check", "history", "undo", "page", "sql index"} <= set(
        names
    )
    assert len(names) == len(set(names))


# -- 64 --------------------------------------------------------------------------------------------------------


async def test_control_characters_escape_sequences_and_bidi_marks_never_reach_a_pipe_as_they_are(
    program: Program, path: Path
) -> None:
    """64, for what looks, and for what settles."""
    sessions = _fill(path)
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    for arguments in (["scan"], ["check"], ["recover", "--dry-run"], ["recover"], ["history"]):
        done = await program.run(*arguments)
        _is_fit(done.stdout + done.stderr)
        if arguments in (["scan"], ["recover"]):
            lines = [
                line.split("\t") for line in done.stdout.splitlines() if line.startswith(("stuck\t", "outcome\t"))
            ]
            assert len(lines) == len(sessions)
            assert {len(cells) for cells in lines} == {8 if arguments == ["scan"] else 5}
    for number in range(0, len(WORDS), 5):
        done = await program.run("history", str(number + 1))
        _is_fit(done.stdout + done.stderr)
        done = await program.run("explain", list(sessions)[number])
        _is_fit(done.stdout + done.stderr)


async def test_json_keeps_every_word_exactly_and_spells_it_so_that_nothing_is_obeyed(
    program: Program, path: Path
) -> None:
    """64: for programs the words are what they are."""
    sessions = _fill(path)
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    found = _is_fit_for_json((await program.run("scan", "--json")).stdout)
    assert {each["session_id"]: each["tool"] for each in found["verdicts"]} == sessions
    assert not any(obeyed(each["why"]) for each in found["verdicts"])
    for _ in range(3):  # a machine that is busy may leave some for later
        _is_fit_for_json((await program.run("recover", "--json")).stdout)
    kept = _is_fit_for_json((await program.run("history", "--json")).stdout)
    assert {each["verdict"]["session_id"]: each["verdict"]["tool"] for each in kept["interventions"]} == sessions
    one = _is_fit_for_json((await program.run("history", "3", "--json")).stdout)
    assert one["rows"]


async def test_what_is_written_into_rows_and_into_the_journal_is_fit_to_be_shown(
    program: Program, path: Path
) -> None:
    """64: a settled row's text and a journal are read by people, too."""
    sessions = _fill(path)
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    reason = _spelt(HOSTILE["sets a title"] + HOSTILE["turns the direction"] + HOSTILE["breaks the line"])
    for session in list(sessions)[:3]:
        done = await program.run("release", session, "--yes", "--reason", reason)
        _is_fit(done.stdout + done.stderr)
    assert (await program.run("recover")).code == 0
    with closing(sqlite3.connect(path)) as connection:
        texts = [
            text
            for (text,) in connection.execute(
                "SELECT coalesce(data ->> '$.state.error', data ->> '$.error.data.message') FROM part "
                "UNION ALL SELECT data ->> '$.error.data.message' FROM message"
            )
        ]
    assert len(texts) == 2 * len(sessions)
    for text in texts:
        assert text.startswith("Ended by opencode-watchdog")
        _is_fit(text, own="")
    (journal,) = (program.home / ".local/state/opencode-watchdog").glob("*.journal.db")
    with closing(sqlite3.connect(journal)) as connection:
        kept = list(connection.execute("SELECT reason, verdict ->> '$.why', outcome FROM intervention"))
    for said, why, outcome in kept:
        _is_fit((said or "") + why, own="")
        for step in json.loads(outcome)["steps"]:
            _is_fit(step["detail"], own="")


@pytest.mark.parametrize("columns", [1, 20, 80, 200])
async def test_control_characters_escape_sequences_and_bidi_marks_never_reach_a_terminal_as_they_are(
    program: Program, path: Path, columns: int
) -> None:
    """64, where there is a terminal to obey."""
    sessions = _fill(path)
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    seen = ""
    for arguments in (["scan"], ["explain", next(iter(sessions))], ["explain", "\x1b[2J"], ["recover"], ["history"]):
        with program.at_a_terminal(*arguments, columns=columns) as terminal:
            await terminal.ended()
            seen = terminal.shown
        _is_fit(DRAWN.sub("", seen), own="\n")
        assert "\x1b]" not in seen
    assert "[red]tool[/red]" in "".join(DRAWN.sub("", seen).split()) or columns < 80


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_control_characters_escape_sequences_and_bidi_marks_never_reach_a_log_line_an_alert_or_the_api(
    program: Program, path: Path, log_format: str
) -> None:
    """64, for a service."""
    sessions = _fill(path)
    port = free_port()
    with _receiver() as (address, taken):
        program.settings(
            database=str(path), servers=[NOWHERE], discover=False, poll_interval=0.2, log_format=log_format,
            log_level="debug", control=f"127.0.0.1:{port}", control_token=TOKEN, notify=[address],
            notify_on=["given_up", "degraded", "outcome"], shutdown_grace=60,
        )  # fmt: skip
        (program.home / "opencode-watchdog.toml").chmod(0o600)
        async with program.started("run") as running:
            await wait_until(
                lambda: len(re.findall(r'"event": "outcome"| outcome ', running.stderr())) >= len(sessions),
                "an outcome of each session",
                explain=running.stderr,
            )
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
                answers = [
                    await client.get(f"http://127.0.0.1:{port}{place}")
                    for place in ("/api/v1/sessions", "/api/v1/interventions?limit=100", "/metrics", "/readyz")
                ]
            await wait_until(lambda: taken, "an alert")
            running.process.terminate()
            done = await running.finished()
    assert done.code == 0
    _is_fit(done.stderr, own="\n")
    if log_format == "json":
        told = [_is_fit_for_json(line) for line in done.stderr.splitlines()]
        found = {each["session_id"]: each["tool"] for each in told if each["event"] == "verdict.found"}
        assert found == sessions
    for alert in taken:
        _is_fit(alert["title"], own="")
        _is_fit(alert["message"])
    for answer in answers:
        assert answer.status_code in {200, 503}, answer
        _is_fit(answer.text)


@pytest.mark.parametrize("words", [_spelt(each[:200]) for each in HOSTILE.values()], ids=HOSTILE)
async def test_what_a_person_typed_or_set_is_told_back_in_words_that_nothing_obeys(
    program: Program, path: Path, words: str
) -> None:
    """64, for error sentences."""
    OpencodeFile(path).close()
    program.more = {"OPENCODE_WATCHDOG_DATABASE": str(path), "OPENCODE_WATCHDOG_SERVERS": NOWHERE}
    for arguments in (
        ["explain", f"s{words}"],
        ["scan", "--database", f"/d/{words}"],
        ["scan", f"--{words}"],
        [f"s{words}"],
    ):
        done = await program.run(*arguments)
        assert done.code in {2, 3}, done
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        _is_fit(done.stderr, own="\n")
    program.more |= {"OPENCODE_WATCHDOG_TOOL_TIMEOUT": words, f"OPENCODE_WATCHDOG_{words.replace('=', '')}": "x"}
    done = await program.run("scan")
    assert done.code == 2
    _is_fit(done.stderr, own="\n")
    assert done.stderr.startswith("error: ")
