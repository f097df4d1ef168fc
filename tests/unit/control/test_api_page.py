"""`docs/api.md`, held against a live API: its documents, and each line that it prints."""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.fakes.server import FakeServer
from tests.support.control import TOKEN, api
from tests.support.database import OpencodeFile
from tests.support.program import path, rows
from tests.support.waiting import wait_until
from tests.unit.cli.test_commands import at_work
from tests.unit.control.test_app import lost
from tests.unit.reporting.test_documents import shape
from watchdog.control import shapes
from watchdog.control.access.gate import Bounds
from watchdog.control.access.problems import _TITLES
from watchdog.model.session import SessionId

__all__ = ["path", "rows"]

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", PAGE.split("## A line for each route")[1], re.DOTALL)
PREPARATION, LINES = SHELL[0], SHELL[1].splitlines()


def documents() -> list[dict[str, Any]]:
    return [json.loads(each) for each in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_the_documents_of_the_page_have_the_shapes_of_the_openapi_document() -> None:
    problem, state, sessions, operation = documents()
    shapes.ProblemShape.model_validate(problem)
    shapes.State.model_validate(state)
    shapes.Sessions.model_validate(sessions)
    shapes.OperationShape.model_validate(operation)


async def test_the_overview_has_the_shape_that_is_promised(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    end, gate = fake.on_abort, anyio.Event()
    assert end is not None

    async def slowly(id_: SessionId) -> None:
        fake.busy(id_, "/project")  # until it has ended
        await gate.wait()
        del fake.statuses_by["/project"][id_]
        await end(id_)

    fake.on_abort = slowly
    async with api(rows, fake, tool_timeout=0.01) as served:

        async def stuck() -> dict[str, Any] | None:
            found = await served.ask("GET", "/api/v1/sessions")
            return found if found["verdicts"] else None

        document = await wait_until(stuck, "a verdict")
        gate.set()
    promised: Any = documents()[2]
    assert shape(document) == shape(promised)


def test_every_kind_of_problem_is_on_the_page() -> None:
    table = PAGE.split("| last part of `type` |")[1].split("\n\n")[0]
    cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([a-z-]+)`", cells)) == set(_TITLES)


async def test_there_is_a_line_for_each_route(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer()) as served:
        document = await served.ask("GET", "/api/v1/openapi.json")
    written = {(re.search(r"-X (\w+)", line) or ["", "GET"])[1] + " " + _path(line) for line in LINES}
    for template, methods in document["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        for method in methods:
            assert any(re.fullmatch(f"{method.upper()} {pattern}", each) for each in written), (method, template)


def _path(line: str) -> str:
    found = re.search(r"\$API(/[^\s?\"]*)", line)
    assert found is not None, line
    return found[1]


async def test_each_line_works_as_it_is_printed(
    tmp_path: Path, rows: OpencodeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    home = tmp_path / "home"
    kept = home / ".local/state/opencode-watchdog/control-token"
    kept.parent.mkdir(parents=True)
    kept.write_text(TOKEN)
    monkeypatch.setenv("HOME", str(home))
    fake = FakeServer()
    at_work(rows, fake, "ses_1")
    rows.message("ses_1", {"role": "user", "time": {"created": 1}}, "msg_1", at=1)
    fake.turns.add(("ses_1", "msg_1"))  # type: ignore[arg-type]
    fake.on_delete = lambda _, id_: rows.delete("message", id_)
    lost(rows)
    assert LINES
    async with api(rows, fake, bounds=Bounds(patience_seconds=30)) as served:
        prepared = PREPARATION.replace("http://127.0.0.1:4097", served.url)
        assert prepared != PREPARATION
        for line in LINES:
            answer = await _answer(prepared, line)
            if "/operations/" in line:
                assert answer["type"].endswith(":no-such-operation"), line
            elif line.endswith("/readyz"):
                assert answer["reasons"] == ["1 of 1 configured servers can't be used."]
            elif line.split()[0] == "curl" and answer:
                assert "type" not in answer, (line, answer)
    assert (home / "token.header").stat().st_mode & 0o777 == 0o600
    assert fake.aborted == [("ses_1", "/project")]
    assert fake.deleted == [("ses_1", "msg_1")]


async def _answer(prepared: str, line: str) -> dict[str, Any]:
    """Run a line in a shell; what it printed, if that is JSON. One that streams is stopped at its first event."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", f"{prepared}\nexec {line}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    if " -N " in line:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == (b"event: state\n" if "/state/" in line else b"event: hello\n")
        process.kill()
        await process.communicate()
        return {}
    printed, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, (line, complaints)
    assert printed, line
    try:
        document: dict[str, Any] = json.loads(printed)
    except ValueError:
        assert printed.startswith((b"<!doctype html>", b"/*", b"# HELP")), (line, printed[:80])
        return {}
    return document
