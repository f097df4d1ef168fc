"""What a restart of a real server would lose, and the moment from which it loses nothing."""

from tests.support.opencode import Server
from tests.support.prompts import QUESTION, sleep
from tests.support.scripted_model import script, use
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Json, Watchdog


async def test_work_a_question_and_a_queued_prompt_would_be_lost_until_they_are_over(server: Server) -> None:
    working, asking = [await server.create_session() for _ in range(2)]
    watchdog = Watchdog.for_lab(server.lab, server)
    assert (await watchdog.command("drain")).code == 0
    await working.prompt(script(use(sleep())))
    await asking.prompt(QUESTION)
    await working.wait_for_bash()
    await asking.wait_for_ask()
    await working.prompt("And then?")

    async def queued() -> Json | None:
        told = await watchdog.command("drain", "--json")
        assert told.code == 1, told
        losses: Json = {each["session_id"]: each for each in told.document["would_lose"]}
        return losses if losses[working.id]["queued_prompts"] == 1 else None

    losses = await wait_until(queued, "the queued prompt")
    assert losses.keys() == {working.id, asking.id}
    assert [call["tool"] for call in losses[working.id]["calls"]] == ["bash"]
    assert [ask["kind"] for ask in losses[asking.id]["asks"]] == ["question"]

    for each in (working, asking):
        assert await each.abort()
        await each.wait_closed()
    over = await watchdog.command("drain", "--wait", "60s", "--json")
    assert (over.code, over.document["would_lose"]) == (0, []), over
