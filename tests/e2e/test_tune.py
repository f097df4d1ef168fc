"""What `tune` reads in a real server's rows: a call that finished, one that was aborted, one that was declined."""

from tests.support.opencode import Server
from tests.support.prompts import bash, gated, sleep
from tests.support.scripted_model import script, use
from tests.support.watchdog_run import Watchdog


async def test_real_rows_tell_what_finished_from_what_was_given_up_or_turned_down(server: Server) -> None:
    done, given_up, declined, open_ = [await server.create_session() for _ in range(4)]
    await done.prompt(script(use(bash("echo done"))))
    await done.wait_finished()
    await given_up.prompt(script(use(sleep())))
    await given_up.wait_for_bash()
    await given_up.abort()
    await given_up.wait_closed()
    await declined.prompt(script(use(gated())))
    ask = await declined.wait_for_ask()
    await declined._reply(f"/permission/{ask['id']}/reply", {"reply": "reject"})
    await declined.wait_closed()
    await open_.prompt(script(use(sleep())))
    await open_.wait_for_bash()

    told = await Watchdog.for_lab(server.lab, server).command("tune", "--json")
    assert told.code == 0, told
    (tool,) = [each for each in told.document["tools"] if each["tool"] == "bash"]
    assert (tool["finished"], tool["gave_up"], tool["declined"], tool["judged_as"]) == (1, 1, 1, "tool"), told
    assert told.document["unreadable"] == 0
    assert told.document["orphans"]["perhaps_at_work"] == {"calls": 1, "turns": 1, "sessions": 1}
    assert (told.document["orphans"]["calls"], told.document["advice"]) == (0, {})
    await open_.abort()
    await open_.wait_closed()
