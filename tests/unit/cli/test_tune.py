"""`tune` through the real program, and what it prints at any width."""

import io
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.text import Text

from tests.support.database import NOW, OpencodeFile
from tests.support.program import Program, path, program, rows
from tests.unit.reporting.test_documents import example, shape
from tests.unit.tuning.history import HOUR, History
from tests.unit.tuning.test_tuning import counted, left
from watchdog.console.terminal import Terminal
from watchdog.opencode.db.past import STEP_MESSAGES
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.reporting.tables import Screen
from watchdog.reporting.tune_plot import drawn
from watchdog.reporting.tune_tables import tuning
from watchdog.tuning.advice import ENOUGH, advise
from watchdog.tuning.report import Tuning

__all__ = ["path", "program", "rows"]

HOSTILE = "\x1b[2Jmcp\u202e<b>&\n" + "x" * 300
AGES = "3650d"


@pytest.fixture
def history(rows: OpencodeFile) -> History:
    """Slow builds that today's limit cuts, calls that hung, one that is open, and a hostile name."""
    found = History(rows, at=NOW - 3000 * HOUR)
    rows.connection.execute("BEGIN")
    for number in range(ENOUGH):
        found.finished("build", 2000 + number)
        found.finished("bash", number / 10)
    found.finished(HOSTILE, 3)
    found.aborted("bash", 36_000)
    found.declined("bash", 60)
    rows.call(found.turn("ses_b", None), at=found.at - HOUR)
    found.finished("read", 1)
    rows.connection.execute("COMMIT")
    return found


async def measured(rows: OpencodeFile) -> Tuning:
    tally = await counted(rows)
    return Tuning(
        database=str(rows.path), since_ms=0, now_ms=NOW, tally=tally, leftovers=left(tally), advice=advise(tally)
    )


@pytest.mark.usefixtures("history")
async def test_it_says_what_the_history_says_as_json(program: Program, rows: OpencodeFile) -> None:
    program.settings(database=str(rows.path))
    told = await program.run("tune", "--since", AGES, "--show", "--json")
    assert told.code == 0, told
    document = told.document
    documented = example("tune")
    assert shape({**document, "advice": {}}) == shape({**documented, "advice": {}})
    by_tool = {each["tool"]: each for each in document["tools"]}
    build = by_tool["build"]
    assert (build["finished"], build["p50_seconds"], build["longest_seconds"]) == (ENOUGH, 2049.0, 2099.0)
    assert (build["limit_seconds"], build["would_have_cut"]) == (1800.0, ENOUGH)
    assert len(document["would_have_cut"]) == ENOUGH
    assert document["advice"] == {"tool_timeouts": {"bash": "5m", "build": "1h30m"}}
    assert (document["orphans"]["calls"], document["orphans"]["turns"]) == (1, 1)
    assert (document["aborted"]["calls"], by_tool["bash"]["declined"]) == (1, 1)
    assert HOSTILE in by_tool

    plain = await program.run("tune", "--since", AGES, "--plot", "out.svg")
    assert plain.code == 0, plain
    assert not set(plain.stdout) & set("\x1b█│\u202e")
    assert '[tool_timeouts]\nbash = "5m"\nbuild = "1h30m"\n' in plain.stdout
    assert "too few" in plain.stdout
    ET.fromstring((program.home / "out.svg").read_text(encoding="utf-8"))  # noqa: S314 - the program's own


async def test_what_it_cannot_do_is_said_in_a_sentence(program: Program, rows: OpencodeFile, tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).execute("PRAGMA journal_mode = wal").connection.close()
    for code, words, arguments in (
        (3, "no database", ["--database", str(tmp_path / "nowhere.db")]),
        (3, "no database of opencode's", ["--database", str(empty)]),
        (2, "--since can't be 'soon'", ["--database", str(rows.path), "--since", "soon"]),
        (2, "say how far back", ["--database", str(rows.path), "--since", "0"]),
        (2, "ends in .svg", ["--database", str(rows.path), "--plot", str(rows.path)]),
        (3, "can't be written", ["--database", str(rows.path), "--plot", str(tmp_path / "no" / "x.svg")]),
        (2, "is in PostgreSQL", ["--database", "postgresql+asyncpg://u:secret@127.0.0.1:1/x"]),
    ):
        told = await program.run("tune", *arguments)
        assert told.code == code, (arguments, told)
        assert words in told.stderr, (arguments, told)
        assert (told.stdout, "secret" in told.stderr) == ("", False), told
        assert len(told.stderr.strip().splitlines()) == 1, told
    nothing = await program.run("tune", "--database", str(rows.path), "--json")
    assert (nothing.code, nothing.document["tools"], nothing.document["advice"]) == (0, [], {})


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.usefixtures("history")
async def test_it_fits_any_width(rows: OpencodeFile, width: int) -> None:
    file = io.StringIO()
    console = Terminal(file=file, width=width)
    console._force_terminal = True
    tuning(Screen(console=console), await measured(rows), show=True)
    lines = Text.from_ansi(file.getvalue()).plain.splitlines()
    assert max(map(len, (line.rstrip() for line in lines))) <= width
    assert 'build = "1h30m"' in [line.strip() for line in lines]
    assert any("█" in line for line in lines)
    assert "\x1b[2J" not in file.getvalue()
    assert "\u202e" not in file.getvalue()


@pytest.mark.usefixtures("history")
async def test_the_picture_shows_each_tool_and_its_limits(rows: OpencodeFile) -> None:
    picture = ET.fromstring(drawn(await measured(rows)))  # noqa: S314 - the program's own
    svg = "{http://www.w3.org/2000/svg}"
    texts = [each.text or "" for each in picture.iter(f"{svg}text")]
    assert {"build", "bash", "today's limit", "advised limit"} <= set(texts)
    assert any(text.startswith("\\x1b[2Jmcp\\u202e<b>&") for text in texts)
    lines = [each.get("class") for each in picture.iter(f"{svg}line")]
    assert (lines.count("limit"), lines.count("safe")) == (4 + 1, 2 + 1)  # with the legend


async def test_it_reads_in_short_transactions_beside_a_writer(rows: OpencodeFile, history: History) -> None:
    written = 0

    async def write(_: object) -> None:
        nonlocal written
        rows.connection.execute("PRAGMA busy_timeout = 0")
        rows.set("session", "ses_a", title=f"written {written}")
        written += 1

    async with await OpencodeDatabase.open(rows.path) as store:
        before = store.reads["transaction"]
        await store.past(since_ms=0, each=write)
        steps = -(-history.turns // STEP_MESSAGES)
        assert (written, store.reads["transaction"] - before >= steps) == (steps, True)
