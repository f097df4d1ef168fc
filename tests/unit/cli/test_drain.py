"""`drain` through the real program: what a restart would lose, the wait for the moment when it loses nothing."""

import json
from pathlib import Path

from tests.fakes.server import FakeServer, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, path, program, rows
from tests.support.waiting import wait_until
from tests.unit.cli.test_commands import at_work, orphan
from tests.unit.reporting.test_documents import example, shape

__all__ = ["path", "program", "rows"]


async def test_it_waits_until_nothing_would_be_lost_and_ends_nothing(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    part = at_work(rows, fake)
    before = json.loads(rows.get("part", part))
    async with loopback(over_http(fake)) as url:
        program.settings(database=str(rows.path), servers=[url], discover=False, poll_interval="200ms")
        told = await program.run("drain", "--json")
        assert told.code == 1, told
        documented = example("drain")
        assert shape({**told.document, "problems": []}) == shape(
            {**documented, "would_lose": [{**documented["would_lose"][0], "asks": [], "queued_prompts": 0}]}
        )
        (loss,) = told.document["would_lose"]
        assert (loss["session_id"], loss["certain"], loss["calls"][0]["part_id"]) == ("ses_busy", True, part)

        async with program.started("drain", "--wait", "60s") as waiting:
            await wait_until(lambda: "waiting for at most" in waiting.stderr(), "the progress")
            rows.finish_call(part)
            rows.finish_turn(rows.get("part", part, "message_id"))
            fake.statuses_by.clear()
            done = await waiting.finished(60)
    assert (done.code, "nothing would be lost" in done.stdout) == (0, True), done
    assert fake.aborted == []
    assert before["state"]["status"] == "running"


async def test_what_a_crash_left_open_is_lost_already(program: Program, path: Path) -> None:
    orphan(path)
    program.settings(database=str(path), servers=[NOWHERE], discover=False)
    told = await program.run("drain", "--json")
    assert (told.code, told.document["would_lose"]) == (0, []), told


async def test_a_wait_that_is_no_duration_is_refused(program: Program) -> None:
    refused = await program.run("drain", "--wait", "soon")
    assert (refused.code, refused.stdout) == (2, ""), refused
