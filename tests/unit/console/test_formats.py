import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog
from pydantic import SecretStr

from watchdog.console.formats import NOISY, configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


class Ascii(io.StringIO):
    def write(self, text: str) -> int:
        return super().write(text.encode("ascii").decode("ascii"))


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    levels = {name: logging.getLogger(name).level for name in NOISY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def test_without_a_terminal_each_line_is_one_json_object() -> None:
    out = io.StringIO()
    configure(stream=out)
    structlog.get_logger().info("verdict.found", session_id="ses_1", age_seconds=1.5)
    structlog.get_logger().warning("two\nlines")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["event"], first["level"], first["session_id"]) == ("verdict.found", "info", "ses_1")
    assert (second["event"], second["level"]) == ("two\nlines", "warning")
    assert first["timestamp"].endswith("Z")
    assert datetime.fromisoformat(first["timestamp"]).utcoffset() == timedelta(0)


def test_on_a_terminal_lines_are_for_people_and_coloured() -> None:
    out = Terminal()
    configure(stream=out)
    structlog.get_logger().info("verdict.found", session_id="ses_1")
    assert "verdict.found" in out.getvalue()
    assert "\x1b[" in out.getvalue()


def test_the_console_without_a_terminal_has_no_colours() -> None:
    out = io.StringIO()
    configure(stream=out, log_format="console")
    structlog.get_logger().info("verdict.found")
    assert "verdict.found" in out.getvalue()
    assert "\x1b[" not in out.getvalue()


def test_json_can_be_had_on_a_terminal() -> None:
    out = Terminal()
    configure(stream=out, log_format="json")
    structlog.get_logger().info("verdict.found")
    assert json.loads(out.getvalue())["event"] == "verdict.found"


def test_less_severe_lines_are_left_out() -> None:
    out = io.StringIO()
    configure(stream=out, level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_other_packages_look_the_same_and_the_talkative_speak_from_warnings_on() -> None:
    out = io.StringIO()
    configure(stream=out, level="debug")
    logging.getLogger("httpx").info("GET http://…")
    logging.getLogger("sqlalchemy.engine").info("SELECT")
    logging.getLogger("aiosqlite").debug("execute")
    logging.getLogger("httpx").warning("trouble with %s", "it")
    logging.getLogger("other").info("hello")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("trouble with it", "warning"), ("hello", "info")]
    assert all("timestamp" in line for line in lines)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_neither_a_password_nor_content_gets_through(log_format: str) -> None:
    out = io.StringIO()
    configure(stream=out, log_format="json" if log_format == "json" else "console")
    structlog.get_logger().info(
        "careless",
        server_password=SecretStr("hush"),
        wrapped=SecretStr("hush"),
        text="hush",
        input={"command": "hush"},
        part={"id": "prt_1", "state": [{"output": "hush"}]},
        Authorization="Basic hush",
        headers=[{"password": "hush"}],
    )
    assert "hush" not in out.getvalue()
    assert "prt_1" in out.getvalue()


def _break(local: str) -> None:
    secret = local
    raise RuntimeError("broken" if secret else "whole")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(log_format: str) -> None:
    out = io.StringIO()
    configure(stream=out, log_format="json" if log_format == "json" else "console")
    try:
        _break("hush")
    except RuntimeError:
        structlog.get_logger().exception("tick.failed")
    assert "RuntimeError: broken" in out.getvalue()
    assert "hush'" not in out.getvalue()


def test_a_full_disk_or_a_closed_pipe_stops_nothing() -> None:
    for out in (Full(), io.StringIO()):
        configure(stream=out)
        if not isinstance(out, Full):
            out.close()
        structlog.get_logger().info("verdict.found")
        logging.getLogger("other").warning("hello")


def test_what_a_stream_can_not_encode_is_escaped() -> None:
    out = Ascii()
    configure(stream=out, log_format="console")
    structlog.get_logger().info("naïve")
    assert "na\\xefve" in out.getvalue()
