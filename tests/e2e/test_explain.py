"""What `explain` says of a real server's sessions."""

import sys
from typing import Any

from tests.support.opencode import Lab, Server
from tests.support.prompts import QUESTION, sleep
from tests.support.scripted_model import question, script, task, use
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Finished, Watchdog

TERMINAL_UI = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
print("open", flush=True)
time.sleep(600)
"""


def witnesses(page: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [each for each in page["witnesses"] if each["witness"] == kind]


async def test_a_question_below_a_task_stops_the_clock_above_and_the_page_says_whom_to_answer(server: Server) -> None:
    lab = server.lab
    parent = await server.create_session()
    await parent.prompt(script(use(task("asking", use(question("The secret question?"))))))
    child = await parent.wait_for_child("asking")
    await child.wait_for_ask()

    done = await Watchdog.for_lab(lab, server).command("explain", parent.id, "--json")

    assert (done.code, done.document["session_id"]) == (0, parent.id), done
    assert "secret" not in done.stdout
    above, below = done.document["sessions"]
    assert (above["asked"], below["asked"], below["parent_id"]) == (True, False, parent.id)
    [clock] = above["turns"][0]["calls"][0]["clocks"]
    assert (clock["setting"], clock["stands_still"]) == ("task_timeout", "a person is asked for something below it")
    [ask] = witnesses(below, "ask")
    assert ask["part_id"] == below["turns"][0]["calls"][0]["part_id"]
    assert [each["stance"] for each in witnesses(below, "server")] == ["at_work"]
    assert (server.pid, "at_work") in [(each["pid"], each["stance"]) for each in witnesses(below, "holder")]
    assert any(f"Answer what session {child.id} asks" in each for each in done.document["advice"])


async def test_a_stuck_call_is_exit_code_1_and_names_its_limit(server: Server) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()

    strict = Watchdog.for_lab(lab, server, tool_timeouts={"ba*": "10ms"}, declared_timeout_grace=0)
    looks: list[Finished] = []

    async def judged() -> bool:
        looks.append(await strict.command("explain", session.id, "--json"))
        return looks[-1].code != 0

    # At a first look some seconds do not count, for which the wall clock may have been set since the boot.
    await wait_until(judged, "explain to find it stuck", explain=lambda: str(looks[-1]))
    stuck = looks[-1]

    assert stuck.code == 1, stuck
    assert stuck.document["judgement"].startswith("It is stuck (stuck_tool): the bash call ran ")
    [clock] = stuck.document["sessions"][0]["turns"][0]["calls"][0]["clocks"]
    assert (clock["origin"], clock["limit_seconds"]) == ('tool_timeouts "ba*"', 0.01)
    assert clock["remaining_seconds"] == 0
    assert any(f"`opencode-watchdog release {session.id}` ends it now" in each for each in stuck.document["advice"])


async def test_after_a_crash_the_process_that_blocks_the_proof_is_named_until_it_quits(lab: Lab) -> None:
    server = await lab.serve()
    log = lab.home / "ui.log"
    ui = lab.start([sys.executable, "-c", TERMINAL_UI, str(lab.database)], log)
    await wait_until(lambda: "open" in log.read_text(), "the other process has the database open")
    session = await server.create_session()
    await session.prompt(QUESTION)
    await session.wait_for_ask()
    watchdog = Watchdog.for_lab(lab, server)
    server.kill9()

    blocked = await watchdog.command("explain", session.id, "--json")
    assert blocked.code == 0, blocked
    [process] = witnesses(blocked.document["sessions"][0], "holder")
    assert (process["pid"], process["stance"]) == (ui.pid, "blocks")
    assert any(
        f"(pid {ui.pid}) may be at work on" in each and "quit it" in each for each in blocked.document["advice"]
    )

    ui.kill()
    ui.wait()
    free = await watchdog.command("explain", session.id, "--json")
    assert free.code == 1, free
    assert free.document["judgement"].startswith("It is stuck (orphan): nobody executes it: no process has")
