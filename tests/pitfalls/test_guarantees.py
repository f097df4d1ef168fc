"""What `docs/guarantees.md` promises: every promise has its tests, and they exist. Some are kept here."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from tests.fakes.server import AbortBehaviour
from tests.pitfalls.stage import HOUR, MINUTE, Stage
from watchdog.model.outcome import Result
from watchdog.model.report import Holders
from watchdog.reporting.log import LogListener

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = ROOT / "docs" / "guarantees.md"
ENTRIES: Final = 68

_NAME: Final = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
_PROMISE: Final = re.compile(r"^- ", re.MULTILINE)
_NUMBERS: Final = re.compile(r"(\d+(?:, \d+)*(?: and \d+)?)[.:,]")


def promises(document: str) -> list[str]:
    """The promises of a document, each with the lines that belong to it."""
    return [part.partition("\n\n")[0] for part in _PROMISE.split(document)[1:]]


def cases_of(source: str) -> Iterator[tuple[str, str]]:
    """The tests of a module, those of classes as `Class::test` behind their class, with their docstrings."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield node.name, ast.get_docstring(node) or ""
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for each in inner:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_"):
                yield prefix + each.name, ast.get_docstring(each) or ""


def missing(document: str, root: Path) -> list[str]:
    """The tests that a document names and that do not exist."""
    known: dict[str, set[str]] = {}
    for file, _ in _NAME.findall(document):
        path = root / file
        known[file] = {name for name, _ in cases_of(path.read_text(encoding="utf-8"))} if path.is_file() else set()
    return [f"{file}::{name}" for file, name in _NAME.findall(document) if name not in known[file]]


def numbers(docstring: str) -> set[int]:
    """The entries that a test says it is about."""
    found = _NUMBERS.match(docstring)
    return {int(number) for number in re.findall(r"\d+", found[1])} if found else set()


def test_every_test_that_is_named_exists() -> None:
    assert missing(DOCUMENT.read_text(encoding="utf-8"), ROOT) == []


def test_each_line_of_what_can_be_ended_names_its_test() -> None:
    document = (ROOT / "README.md").read_text(encoding="utf-8")
    table = document.partition("## What it can end, and what it can't\n\n")[2].partition("\n\n")[0].splitlines()
    assert len(table) > 8
    assert [line for line in table[2:] if not _NAME.search(line)] == []
    assert missing("\n".join(table), ROOT) == []


def test_every_promise_names_a_test() -> None:
    found = promises(DOCUMENT.read_text(encoding="utf-8"))
    assert len(found) > 30
    assert [promise for promise in found if not _NAME.search(promise)] == []


def test_every_entry_has_a_test() -> None:
    files = sorted((ROOT / "tests" / "pitfalls").glob("test_*.py"))
    told = [
        (file.name, name, numbers(docstring))
        for file in files
        for name, docstring in cases_of(file.read_text(encoding="utf-8"))
    ]
    whole = {"test_pitfalls.py", "test_pitfalls_e2e.py"}
    assert [name for file, name, entries in told if file in whole and not entries] == []
    assert set(range(1, ENTRIES + 1)) - set().union(*(entries for *_, entries in told)) == set()


@pytest.mark.parametrize(
    "name",
    [
        "tests/pitfalls/test_guarantees.py::test_that_is_not_there",
        "tests/pitfalls/test_guarantees.py::TestNone::test_every_promise_names_a_test",
        "tests/pitfalls/test_none.py::test_every_promise_names_a_test",
    ],
)
def test_a_name_without_a_test_is_seen(name: str) -> None:
    assert missing(f"- It is so.\n  - `{name}`\n", ROOT) == [name]
    assert missing("- `tests/pitfalls/test_guarantees.py::test_every_promise_names_a_test`", ROOT) == []


def test_a_promise_without_a_name_is_seen() -> None:
    kept = "- One,\n  over two lines.\n  - `tests/a.py::test_b`"
    assert [
        bool(_NAME.search(promise)) for promise in promises(f"# It\n\n{kept}\n- Two.\n\n`tests/a.py::test_b`")
    ] == [
        True,
        False,
    ]


async def test_in_the_database_only_the_end_of_what_nobody_executes_is_written(stage: Stage) -> None:
    lost = stage.work("lost", age=HOUR, busy=False)
    stage.owners.holders = Holders()
    stuck, done = stage.work("stuck", age=HOUR), stage.work("done", age=HOUR)
    await stage.end(done.session)
    stage.server.statuses_by["/project"].pop(done.session)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    before, schema = stage.stored(), _schema(stage)
    async with stage.watching(tool_timeout=MINUTE) as play:
        await play.pass_time(3 * HOUR)
        assert Result.RECOVERED in play.diary.results
        assert Result.INEFFECTIVE in play.diary.results
        assert len(stage.server.aborted) == 5  # three attempts, and one an hour from then on
    after = stage.stored()
    changed = {
        row[0]: (old, row)
        for table, rows in after.items()
        for old, row in zip(before[table], rows, strict=True)
        if old != row
    }
    assert changed.keys() == {lost.call, lost.turn}
    for old, new in changed.values():
        assert [column for column, (was, is_now) in enumerate(zip(old, new, strict=True)) if was != is_now] == [
            len(new) - 1
        ]
    assert (_schema(stage), stuck.call in changed) == (schema, False)


async def test_no_log_line_holds_anything_that_was_said_in_a_session(stage: Stage) -> None:
    secret = "hunter2-in-a-prompt"  # noqa: S105 - the point of the test
    works = [stage.work("lost", age=HOUR, busy=False), stage.work("stuck", age=HOUR), stage.work("broken", age=HOUR)]
    for work in works:
        stage.rows.set("session", work.session, title=secret)
        part = json.loads(stage.rows.get("part", work.call))
        part["state"] |= {"input": {"command": secret}, "title": secret, "metadata": {"output": secret}}
        stage.rows.set("part", work.call, data=json.dumps(part))
        stage.rows.text(work.turn, at=stage.ago(0))
    stage.rows.set("part", "prt_broken", data=f'{{"type":"tool","state":"{secret}"')
    stage.owners.holders = Holders()
    stage.server.abort_behaviour = AbortBehaviour.LIES
    stage.more.append(LogListener())
    with capture_logs() as logs:
        async with stage.watching(tool_timeout=MINUTE, idle_timeout=MINUTE) as play:
            await play.pass_time(HOUR)
            assert set(play.diary.results) == {Result.RECOVERED, Result.INEFFECTIVE}
    assert {"verdict.found", "outcome", "verdict.given_up", "watch.degraded"} <= {line["event"] for line in logs}
    assert secret in str(stage.stored())
    assert secret not in json.dumps(logs, default=str)


def _schema(stage: Stage) -> list[tuple[str, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    return stage.rows.connection.execute(query).fetchall()
