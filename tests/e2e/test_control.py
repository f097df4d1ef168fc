"""The HTTP API of a real `run`, beside a real opencode server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.opencode import Lab, Server, Session, free_port
from tests.support.prompts import QUESTION, sleep
from tests.support.scripted_model import script, use
from tests.support.waiting import SECONDS, wait_until
from tests.support.watchdog_run import Running, Setting, Watchdog
from watchdog.model.session import EVERYTHING

KEPT_AT = ".local/state/opencode-watchdog/control-token"


@asynccontextmanager
async def watched(
    lab: Lab, *servers: Server, **settings: Setting
) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    """A `run --control`, and a client that shows the token which the start made."""
    port = free_port()
    async with Watchdog.for_lab(lab, *servers, **settings).run("--control", f"127.0.0.1:{port}") as running:
        token = (lab.home / KEPT_AT).read_text(encoding="ascii").strip()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=SECONDS,
            trust_env=False,
        ) as client:
            yield running, client
        log = running.tail() + str(running.lines)
        assert token not in log


async def done(client: httpx.AsyncClient, answer: httpx.Response) -> Any:  # noqa: ANN401
    """What came of something that was asked for, however long it takes."""
    if answer.status_code != httpx.codes.ACCEPTED:
        return answer.json()

    async def over() -> Any:  # noqa: ANN401
        found = (await client.get(answer.headers["location"])).json()
        return found["document"] if found["state"] == "done" else None

    return await wait_until(over, "the end of the operation")


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the watchdog says that it is."""

    async def look() -> bool:
        return (await client.get("/readyz")).status_code == httpx.codes.OK

    await wait_until(look, "readiness")


async def hung(server: Server) -> Session:
    """A session whose bash call runs for ten minutes."""
    session = await server.create_session(title="a <b>title</b>")
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    return session


async def test_a_person_sees_a_hung_tool_and_ends_it(server: Server) -> None:
    lab = server.lab
    session = await hung(server)
    async with watched(lab, server) as (running, client):
        await ready(client)
        (line,) = (await client.get("/api/v1/sessions")).json()["sessions"]
        assert (line["session_id"], line["title"], line["state"]) == (session.id, "a <b>title</b>", "within_limit")
        where = f"/api/v1/sessions/{session.id}"
        explained = (await client.get(where)).json()
        witnesses = explained["sessions"][0]["witnesses"]
        assert [each["stance"] for each in witnesses if each["witness"] == "server"] == ["at_work"]

        both = await asyncio.gather(*(client.post(f"{where}/release", json={"reason": "it hangs"}) for _ in range(2)))
        documents = [await done(client, answer) for answer in both]
        assert documents[0] == documents[1]
        assert [outcome["result"] for outcome in documents[0]["outcomes"]] == ["recovered"]
        assert await session.open_ids() == []
        (kept,) = (await client.get("/api/v1/interventions")).json()["interventions"]
        assert (kept["actor"], kept["reason"]) == ("person", "it hangs")
        assert "a <b>title</b>" not in str(running.lines)
        await session.finish_prompt("go on")
        assert "opencode_watchdog_outcomes_total" in (await client.get("/metrics")).text


async def test_a_message_of_a_stuck_question_is_deleted(server: Server) -> None:
    lab = server.lab
    session = await server.create_session()
    await session.prompt(QUESTION)
    await session.wait_for_ask()
    message = (await session.turns())[-1]["info"]["id"]
    assert not (await session.delete_message(message)).is_success
    async with watched(lab, server) as (_, client):
        await ready(client)
        (line,) = (await client.get("/api/v1/sessions")).json()["sessions"]
        assert [wait["what"] for wait in line["waits_for"]] == ["question"]
        answer = await client.delete(f"/api/v1/sessions/{session.id}/messages/{message}")
        assert (await done(client, answer))["deleted"], answer.text
    assert [each["info"]["role"] for each in await session.messages()] == ["user"]
    await session.finish_prompt("go on")


async def test_a_session_on_hold_is_not_ended_until_the_hold_ends(server: Server) -> None:
    lab = server.lab
    async with watched(lab, server, tool_timeout=1) as (running, client):
        session = await server.create_session()
        held = await client.post(f"/api/v1/sessions/{session.id}/hold")
        assert held.status_code == 200, held.text
        await session.prompt(script(use(sleep())))
        await session.wait_for_bash()
        await running.watch_for(2)
        assert running.acts() == []
        (line,) = (await client.get("/api/v1/sessions")).json()["sessions"]
        assert (line["state"], line["on_hold"]) == ("on_hold", True)
        assert (await client.post(f"/api/v1/sessions/{session.id}/unhold")).json()["was_on_hold"]
        await running.wait_outcome(session.id, "recovered", kind="stuck_tool")


async def test_what_a_crash_left_is_settled_and_taken_back(server: Server) -> None:
    lab = server.lab
    session = await hung(server)
    await lab.wait_for_orphan_age(3)
    server.kill9()
    server = await server.restart()
    session = session.on(server)
    await session.messages()
    # The loop would settle it by itself; a pause does not bind a person.
    assert (await Watchdog.for_lab(lab, server).command("pause")).code == 0
    async with watched(lab, server, recover_on_start=False) as (_, client):
        await ready(client)
        document = await done(client, await client.post(f"/api/v1/sessions/{session.id}/release"))
        assert [outcome["result"] for outcome in document["outcomes"]] == ["recovered"], document
        settled = await session.calls("bash")
        (kept,) = (await client.get("/api/v1/interventions")).json()["interventions"]
        rows = (await client.get(f"/api/v1/interventions/{kept['id']}")).json()["rows"]
        assert {row["table"] for row in rows} == {"message", "part"}
        undone = await done(client, await client.post(f"/api/v1/interventions/{kept['id']}/undo"))
        assert undone["result"] == "undone", undone
        assert settled[0]["state"]["status"] == "error"
        assert (await session.calls("bash"))[0]["state"]["status"] == "running"
        holds = (await client.get("/api/v1/sessions")).json()["on_hold"]
        assert {hold["session_id"] for hold in holds} == {EVERYTHING, session.id}


async def test_an_address_that_is_taken_is_told_at_once_and_the_first_goes_on_until_its_end(server: Server) -> None:
    lab = server.lab
    port = free_port()
    watchdog = Watchdog.for_lab(lab, server)
    async with watchdog.run("--control", f"127.0.0.1:{port}") as running:
        second = await watchdog.command("run", "--control", f"127.0.0.1:{port}")
        assert second.code == 2, second
        assert f"127.0.0.1:{port} can't be listened at: address already in use" in second.stderr
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS, trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert await running.stop() == 0
