"""What a watchdog must leave alone on a real server, with limits so short that a guess would end it."""

from tests.e2e.conftest import OpenLab
from tests.support.opencode import Server
from tests.support.prompts import QUESTION, gated, sleep
from tests.support.scripted_model import FINAL_TEXT, question, refuse, script, task, use
from tests.support.watchdog_run import Setting, Watchdog

ONE_SECOND: dict[str, Setting] = {
    "tool_timeout": 1,
    "task_timeout": 1,
    "idle_timeout": 1,
    "declared_timeout_grace": 0,
}
LONG_PAST_EVERY_LIMIT = 3.5


async def test_asks_in_a_second_directory_and_in_a_child_are_left_to_their_human(server: Server) -> None:
    lab = server.lab
    elsewhere = lab.project("elsewhere")
    asking, held = await server.create_session(elsewhere), await server.create_session(elsewhere)
    parent = await server.create_session()
    await asking.prompt(QUESTION)
    await held.prompt(script(use(gated())))
    await parent.prompt(script(use(task("held", use(gated())), task("asking", use(question("Really?"))))))
    held_child, asking_child = await parent.wait_for_child("held"), await parent.wait_for_child("asking")
    questions = [(one, await one.wait_for_ask()) for one in (asking, asking_child)]
    permissions = [(one, await one.wait_for_ask()) for one in (held, held_child)]
    before = lab.rows()

    watchdog = Watchdog.for_lab(lab, server, **ONE_SECOND)
    async with watchdog.run() as running:
        await running.watch_for(LONG_PAST_EVERY_LIMIT)
        assert running.outcomes() == []
        assert lab.rows() == before
        seen = await watchdog.command("scan", "--json")
        assert (seen.code, seen.document["verdicts"]) == (0, []), seen
        reasons = {(spared["session_id"], spared["reason"]) for spared in seen.document["spared"]}
        for one in (asking, held, asking_child, held_child):
            assert (one.id, "waiting_on_human") in reasons, seen

    # Once they are answered their clocks run; no machine is so slow that it reaches these limits.
    watchdog = Watchdog.for_lab(lab, server, tool_timeout=30, task_timeout=30, idle_timeout=30)
    async with watchdog.run() as running:
        for session, ask in questions:
            await session.answer(ask)
        for session, ask in permissions:
            await session.allow(ask)
        for session in (asking, held, parent):
            assert "error" not in (await session.wait_finished(turns=2))["info"]
            assert await session.text() == FINAL_TEXT
        assert running.outcomes() == []


async def test_a_session_that_waits_out_a_rate_limit_is_left_to_retry(server: Server) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(script(refuse(429, "slow down", retry_after="600")))
    retry = await session.wait_for_status("retry")
    before = lab.rows()

    watchdog = Watchdog.for_lab(lab, server, **ONE_SECOND)
    async with watchdog.run() as running:
        await running.watch_for(LONG_PAST_EVERY_LIMIT)
        seen = await watchdog.command("scan", "--json")
        assert running.outcomes() == []

    assert (seen.code, seen.document["verdicts"]) == (0, []), seen
    assert [spared["reason"] for spared in seen.document["spared"]] == ["retrying"], seen
    assert lab.rows() == before
    assert await session.status() == retry


async def test_a_server_of_another_database_is_no_witness_even_for_a_sole_owner(
    open_lab: OpenLab, server: Server
) -> None:
    other, lab = server, await open_lab("ours")
    session = await (await lab.serve()).create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    before = lab.rows()

    watchdog = Watchdog.for_lab(lab, other, sole_owner=True, **ONE_SECOND)
    async with watchdog.run() as running:
        await running.watch_for(LONG_PAST_EVERY_LIMIT)
        assert {outcome["result"] for outcome in running.outcomes()} <= {"unreachable"}
    recovered = await watchdog.command("recover", "--json")

    assert not [one for one in recovered.document["outcomes"] if one["result"] == "recovered"], recovered
    assert lab.rows() == before
    assert (await session.status())["type"] == "busy"
