"""Start-up cost: what a command does not need is not imported. The process itself tells, when it ends."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, path, program

__all__ = ["path", "program"]

SESSION = "ses_1"
HEAVY = {
    "httpx",
    "psutil",
    "pydantic",
    "pydantic_settings",
    "rich",
    "rich.progress",
    "sqlalchemy",
    "structlog",
    "watchdog.embedding.embed",
    "watchdog.judging.judge",
}
SETTINGS = {"pydantic", "pydantic_settings"}
WORK = SETTINGS | {"httpx", "psutil", "sqlalchemy", "watchdog.judging.judge"}
RECORDING = """
import json, os, sys

def tell(code, leave=os._exit):
    with open(os.environ["IMPORTED"], "w") as file:
        json.dump(sorted(sys.modules), file)
    leave(code)

os._exit = tell
from watchdog.__main__ import main
main()
"""

LOGGING = """
import logging
import watchdog.cli.journal

async def history(*_, **__):
    logging.getLogger("other").error("late")
    return 0

watchdog.cli.journal.history = history
"""


@pytest.fixture
def telling(program: Program, path: Path) -> Program:
    """The program on a database with a session, which tells at its end what it had imported."""
    with OpencodeFile(path) as rows:
        rows.session(SESSION)
        rows.call(rows.turn(SESSION), status="running")
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    told = {"IMPORTED": str(program.home / "imported.json")}
    return Program(home=program.home, more={**program.more, **told}, line=[sys.executable, "-c", RECORDING])


def heavy(program: Program) -> set[str]:
    """What of the heavy modules it had imported."""
    return HEAVY & set(json.loads((program.home / "imported.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("arguments", "code", "needed"),
    [
        (("--version",), 0, set()),
        (("--help",), 0, {"rich"}),
        (("scan", "--help"), 0, {"rich", "pydantic"}),  # typer's own way to read types
        (("check", "--alive"), 3, SETTINGS),
        (("history",), 0, SETTINGS),
        (("history", "--json"), 0, SETTINGS),
        (("pause", "--json"), 0, SETTINGS),
        (("hold", SESSION), 0, SETTINGS | {"sqlalchemy"}),
        (("scan",), 1, WORK),
        (("scan", "--json"), 1, WORK),
        (("recover", "--dry-run", "--json"), 1, WORK),
        (("scan", "--config", "missing.toml"), 2, SETTINGS),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
async def test_a_command_without_a_terminal_imports_only_what_it_needs(
    telling: Program, arguments: tuple[str, ...], code: int, needed: set[str]
) -> None:
    done = await telling.run(*arguments)
    assert (done.code, heavy(telling)) == (code, needed), done


async def test_a_command_on_a_terminal_draws_with_rich(telling: Program) -> None:
    with telling.at_a_terminal("history") as terminal:
        assert await terminal.ended() == 0
    assert heavy(telling) == SETTINGS | {"rich"}


async def test_the_service_imports_nothing_that_only_a_terminal_shows(telling: Program) -> None:
    async with telling.started("run") as process:
        await process.said("watch.started")
        process.signal(signal.SIGTERM)
        assert (await process.finished()).code == 0
    assert heavy(telling) == WORK | {"structlog"}


async def test_a_line_that_is_logged_after_all_is_logged_as_ever(telling: Program) -> None:
    telling.line[2] = LOGGING + RECORDING
    done = await telling.run("history")
    assert json.loads(done.stderr)["event"] == "late"
    assert json.loads(done.stderr)["level"] == "error"
