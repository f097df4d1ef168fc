"""Several of `docs/examples/server.py` on one database in PostgreSQL: one acts for all, and another one after it."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from tests.support.postgres import Cluster, PostgresRows
from tests.support.program import Program, program
from tests.support.waiting import SECONDS, wait_until
from tests.unit.embedding.test_example_server import ABORTED, HANG, LIMITS, Client, Server, started, states

__all__ = ["program"]

SHARED: Final = json.dumps(
    {
        **json.loads(LIMITS),
        "tool_timeouts": {"hang": "1s", "question": "6s"},  # what is asked may be known five seconds late
        "poll_interval": "300ms",
        "idle_timeout": "10m",  # a sign of life takes seconds to the one that acts
        "lease_duration": "2s",
    }
)
AN_HOUR_MS: Final = 3_600_000
OLDER: Final = """
    UPDATE part SET time_created = time_created - $2::bigint, data = jsonb_set(
        data, '{state,time,start}', to_jsonb((data #>> '{state,time,start}')::bigint - $2::bigint)
    ) WHERE session_id = ANY($1::text[])
"""


@dataclass(kw_only=True)
class Fleet:
    """Some servers on one database."""

    url: str
    servers: Sequence[Server]


@dataclass(kw_only=True)
class Replica:
    """One of them, and who asks it."""

    server: Server
    client: Client

    def holds(self, lease: str) -> bool:
        """Whether it is the holder of a lease: a replica's name tells its process."""
        return re.fullmatch(rf"\S+-{self.server.process.pid}-\w+", lease) is not None


@asynccontextmanager
async def asked(fleet: Fleet) -> AsyncIterator[list[Replica]]:
    """The servers that live, each with a client, the one that acts first."""
    async with AsyncExitStack() as stack:
        replicas = []
        for server in fleet.servers:
            if server.process.poll() is None:
                url = await wait_until(server.url, "the server", explain=server.log)
                http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=SECONDS))
                replicas.append(Replica(server=server, client=Client(http)))

        def one_acts() -> list[Replica]:
            with PostgresRows(fleet.url) as rows:
                found = rows.run("SELECT holder FROM opencode_watchdog.lease WHERE expires_at > now()")
            return [each for each in replicas if any(each.holds(lease["holder"]) for lease in found)]

        (leader,) = await wait_until(one_acts, "the one that acts")
        try:
            yield [leader, *(each for each in replicas if each is not leader)]
        except Exception as error:
            for each in replicas:
                error.add_note(each.server.told())
            raise


@pytest.fixture(scope="module")
def fleet(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three of them, started at once on an empty database."""
    url = postgres.fresh_database()
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp(f"replica-{number}") for number in range(3)]
        yield Fleet(url=url, servers=[stack.enter_context(started(each, url, SHARED)) for each in folders])


async def test_what_hangs_in_one_that_does_not_act_is_ended_by_way_of_the_one_that_does(fleet: Fleet) -> None:
    async with asked(fleet) as (leader, *others):

        async def tried(client: Client) -> None:
            question = await client.begin({"tool": "question"})
            await client.calling(question)
            short = await client.begin({"tool": "sleep", "seconds": 6.5})  # longer than a question may take
            assert states(await client.ended(short)) == ["completed"]
            hung = await client.begin(HANG)
            found = await client.ended(hung)
            assert (states(found), found["turn"]["error"]["name"]) == (["error"], ABORTED)
            found = await leader.client.read(question)  # every one of them reads it
            assert (states(found), "completed" in found["turn"]["time"]) == (["running"], False)
            (await client.http.post(f"/sessions/{question}/answer")).raise_for_status()
            assert (await client.ended(question))["turn"].get("error") is None

        await asyncio.gather(*(tried(each.client) for each in (leader, *others)))


async def test_a_parent_in_one_that_does_not_act_goes_on_when_its_hung_child_is_ended(fleet: Fleet) -> None:
    async with asked(fleet) as (_, other, *_):
        parent = await other.client.begin({"tool": "task", "children": [HANG, {"tool": "sleep", "seconds": 0.2}]})
        children = await other.client.children(parent, 2)
        found = await other.client.ended(parent)
        assert (sorted(states(found)), found["turn"].get("error")) == (["completed", "error"], None)
        ends = [(await other.client.ended(child))["turn"].get("error", {}).get("name") for child in children]
        assert sorted(str(end) for end in ends) == [ABORTED, "None"]


async def test_a_release_asked_of_one_that_does_not_act_is_carried_out_by_the_one_that_does(fleet: Fleet) -> None:
    async with asked(fleet) as (_, other, *_):
        session = await other.client.begin({"tool": "question"})
        await other.client.calling(session)
        answer = await other.client.http.post(f"/sessions/{session}/release")
        assert answer.raise_for_status().json() == {"results": ["recovered"]}
        assert states(await other.client.ended(session)) == ["error"]
        missing = await other.client.http.post("/sessions/ses_missing/release")
        assert missing.status_code == httpx.codes.CONFLICT
        assert "There is no session ses_missing" in missing.json()["detail"]


async def test_after_the_one_that_acts_is_killed_another_one_does_and_what_it_ran_is_left_to_a_release(
    fleet: Fleet, program: Program
) -> None:
    async with asked(fleet) as (leader, other, _):
        lost = await leader.client.begin({"tool": "sleep", "seconds": 600})
        waiting = await leader.client.begin({"tool": "question"})
        for session in (lost, waiting):
            await leader.client.calling(session)
        leader.server.stop(signal.SIGKILL)
        with PostgresRows(fleet.url) as rows:  # from now on past every limit
            rows.run(OLDER, [lost, waiting], AN_HOUR_MS)
        before = await other.client.read(lost), await other.client.read(waiting)
    async with asked(fleet) as (successor, third):
        hung = await third.client.begin(HANG)
        assert (await third.client.ended(hung))["turn"]["error"]["name"] == ABORTED

        async def reported() -> list[Any]:
            done = await program.run("scan", "--database", fleet.url, "--json")
            found = [each for each in json.loads(done.stdout)["spared"] if each["session_id"] in {lost, waiting}]
            return found if all("no live host" in each["why"] for each in found) else []

        found = await wait_until(reported, "word that nobody is at work on them")
        assert {each["session_id"] for each in found} == {lost, waiting}
        assert {(each["reason"], each["why"]) for each in found} == {
            ("no_witness", "no live host says that it is at work on it; only a release settles it")
        }
        # It has been so for as long as what hangs needs to be ended, and nothing is touched.
        again = await third.client.begin(HANG)
        await third.client.ended(again)
        assert (await third.client.read(lost), await third.client.read(waiting)) == before
        for session in (lost, waiting):
            answer = await successor.client.http.post(f"/sessions/{session}/release")
            assert answer.raise_for_status().json() == {"results": ["recovered"]}
            assert states(await third.client.read(session)) == ["error"]
