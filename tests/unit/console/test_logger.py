"""Where an embedded watchdog's lines go: the standard library's logging, or structlog where that is set up."""

import json
import logging
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.database import OpencodeFile
from tests.support.waiting import SECONDS
from watchdog.console.logger import logger

SERVER = textwrap.dedent("""
    import asyncio, logging, sys, time
    from datetime import timedelta
    from pathlib import Path
    import structlog
    import watchdog

    {setup}

    class Host:
        async def statuses(self, *_):
            return {{"ses_1": watchdog.Status(activity=watchdog.Activity.BUSY)}}

        async def pending_asks(self, *_):
            return []

        async def abort(self, *_):
            raise RuntimeError("secret words")

    async def main():
        settings = watchdog.Settings(
            database=Path(sys.argv[1]), journal="off", tool_timeout=timedelta(seconds=1),
            abort_grace=timedelta(seconds=0.1), poll_interval=timedelta(milliseconds=50),
        )
        async with watchdog.running(settings, host=Host()) as dog:
            await asyncio.wait_for(dog.release("ses_1"), 60)

    asyncio.run(main())
""")


def served(setup: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A server whose host can't end its session, so that there is something to say."""
    with OpencodeFile(place / "opencode.db") as rows:
        rows.call(rows.turn(rows.session("ses_1")), status="running")
        line = [sys.executable, "-c", SERVER.format(setup=setup), str(rows.path)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "secret words" not in done.stdout + done.stderr
    return done


def test_a_server_that_set_nothing_up_reads_only_what_matters_on_its_standard_error(tmp_path: Path) -> None:
    done = served("", tmp_path)
    assert done.stdout == ""
    assert re.search(r"^outcome .*session_id=ses_1 .*result=\w+", done.stderr, re.MULTILINE)
    assert "verdict.found" not in done.stderr, "logging's own limit without a handler is a warning"


def test_a_handler_of_the_servers_gets_each_line_with_its_fields(tmp_path: Path) -> None:
    setup = "logging.basicConfig(stream=sys.stderr, level='INFO', format='%(levelname)s|%(name)s|%(message)s')"
    done = served(setup, tmp_path)
    assert done.stdout == ""
    assert re.search(r"^INFO\|watchdog\|verdict\.found .*session_id=ses_1 ", done.stderr, re.MULTILINE)
    assert re.search(r"^WARNING\|watchdog\|outcome .*session_id=ses_1 ", done.stderr, re.MULTILINE)


def test_a_server_with_structlog_set_up_gets_them_there(tmp_path: Path) -> None:
    setup = "structlog.configure(processors=[structlog.processors.JSONRenderer()])"
    done = served(setup, tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"verdict.found", "outcome"} <= {line["event"] for line in lines}
    assert "outcome" not in done.stderr


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(structlog, "is_configured", lambda: False)
    caplog.set_level(logging.INFO, "watchdog")
    return caplog


HARD: dict[str, Any] = {
    "name": "taken",
    "message": "a field, too",
    "why": 'two words "quoted" 100 %s',
    "forged": "one\nERROR two\x1b[31m",
    "token": "hidden",
    "nested": [{"session_id": "ses_1", "password": "hidden"}],
    "seconds": 0.5,
    "none": None,
}


def test_a_line_is_whole_readable_and_holds_no_secret(unconfigured: pytest.LogCaptureFixture) -> None:
    logger().warning("host.blocked", **HARD)
    (record,) = unconfigured.records
    assert (record.name, record.levelname) == ("watchdog", "WARNING")
    line = record.getMessage()
    assert line.isprintable()
    assert line.startswith("host.blocked name=taken ")
    assert r'why="two words \"quoted\" 100 %s"' in line
    assert line.endswith("seconds=0.5 none=null")
    assert "hidden" not in line
    fields = record.__dict__["fields"]
    assert (fields["event"], fields["name"], fields["seconds"]) == ("host.blocked", "taken", 0.5)
    assert "hidden" not in repr(fields)
    assert record.funcName == "test_a_line_is_whole_readable_and_holds_no_secret"


def test_an_error_comes_with_its_traceback(unconfigured: pytest.LogCaptureFixture) -> None:
    error = ZeroDivisionError()
    logger().error("watch.failed", exc_info=error)
    (record,) = unconfigured.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.getMessage() == "watch.failed"


def test_what_nobody_wants_to_hear_is_not_put_into_words(unconfigured: pytest.LogCaptureFixture) -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError

    logger().debug("watch.looked", spared=Loud())
    assert unconfigured.records == []


def test_who_sets_structlog_up_later_gets_the_lines_from_then_on(unconfigured: pytest.LogCaptureFixture) -> None:
    logger().info("before")
    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(structlog, "is_configured", lambda: True)
        logger().info("after")
    assert [record.getMessage() for record in unconfigured.records] == ["before"]
    assert [line["event"] for line in logs] == ["after"]
