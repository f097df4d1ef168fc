"""The prompts that more than one test uses."""

from typing import Any

from tests.support.opencode import GATED, STARTED
from tests.support.scripted_model import call, question, script, use

Json = dict[str, Any]

QUESTION = script(use(question("Shall I go on?")))


def bash(command: str, *, timeout_ms: int | None = None) -> Json:
    """A call of bash, for `use`; with the time limit that the model asks for, if any."""
    declared = {} if timeout_ms is None else {"timeout": timeout_ms}
    return call("bash", command=command, description="a test's command", **declared)


def sleep(seconds: int = 600) -> Json:
    """A bash call that says `STARTED` and then nothing for ten minutes; await it with `wait_for_bash`."""
    return bash(f"echo {STARTED}; sleep {seconds}")


def until(file: str, command: str) -> Json:
    """A bash call that says `STARTED`, waits for a file in the session's folder, and then runs a command."""
    waiting = f"echo {STARTED}; until [ -e {file} ]; do sleep 0.2; done; {command}"
    return bash(waiting, timeout_ms=600_000)


def gated() -> Json:
    """A bash call that waits for a human's permission."""
    return bash(GATED)
