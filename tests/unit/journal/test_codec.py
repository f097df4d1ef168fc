"""What a newer watchdog wrote into the journal: read as far as it is known here, or left to that one."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.unit.journal.test_contract import engine_on
from tests.unit.journal.test_sqlite import OUTCOME, VERDICT, by_another_process
from watchdog.journal.codec import dump, read_begun, read_intervention
from watchdog.journal.sqlite import SqliteJournal
from watchdog.model.interventions import Actor
from watchdog.ports import History
from watchdog.postgres.journal import PostgresJournal

Write = Callable[[str], Any]
"""Makes a text the verdict of all interventions."""


def row(**more: object) -> Mapping[str, Any]:
    fields = {"id": 1, "began_ms": 2, "actor": "watchdog", "reason": None, "ended_ms": 3, "undone_ms": None}
    return {**fields, "verdict": dump(VERDICT), "outcome": dump(OUTCOME), **more}


def test_fields_that_are_not_known_here_are_left_out_wherever_they_are() -> None:
    verdict, outcome = json.loads(dump(VERDICT)), json.loads(dump(OUTCOME))
    assert verdict["ask"]
    assert outcome["steps"]
    for newer in (verdict, verdict["ask"], outcome, *outcome["steps"]):
        newer["of_a_newer_version"] = {"a": [1]}
    read = read_intervention(row(verdict=json.dumps(verdict), outcome=json.dumps(outcome)))
    assert (read.verdict, read.outcome, read.actor) == (VERDICT, OUTCOME, Actor.WATCHDOG)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(dump(VERDICT)).items() if key != name})


UNREADABLE = {
    "a field is missing": without("why"),
    "a list is missing": without("call_ids"),
    "another kind": json.dumps({**json.loads(dump(VERDICT)), "kind": "of_a_newer_version"}),
    "an ask of another shape": json.dumps({**json.loads(dump(VERDICT)), "ask": ["que_1"]}),
    "a list": "[1, 2]",
    "null": "null",
    "no JSON": "{",
}


@pytest.mark.parametrize("verdict", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_one_that_cannot_be_read_is_named_and_left_out(verdict: str, caplog: pytest.LogCaptureFixture) -> None:
    read = read_begun([row(), row(id=2, verdict=verdict), row(id=3)])
    assert [each.id for each in read] == [1, 3]
    ((name, level, said),) = caplog.record_tuples
    assert (name, level) == ("watchdog", logging.WARNING)
    assert said.startswith("journal.unreadable: intervention 2: it can't be read")


@pytest.fixture(params=["sqlite", "postgres"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[History, Write]]:
    """A journal, and what writes into it as another version does."""
    if request.param == "sqlite":
        path = tmp_path / "j.db"

        async def write(verdict: str) -> None:
            by_another_process(path, f"UPDATE intervention SET verdict = '{verdict}'")  # noqa: S608 - of this test

        async with await SqliteJournal.open(path) as opened:
            yield opened, write
    else:
        async with engine_on(request.getfixturevalue("postgres_url")) as engine:

            async def write_there(verdict: str) -> None:
                async with engine.begin() as connection:
                    statement = "UPDATE opencode_watchdog.intervention SET verdict = :verdict"
                    await connection.execute(text(statement), {"verdict": verdict})

            yield await PostgresJournal.open(engine), write_there


async def test_what_was_begun_is_told_without_the_one_that_cannot_be_read(
    journal: tuple[History, Write], caplog: pytest.LogCaptureFixture
) -> None:
    kept, write = journal
    newer = await kept.begin(VERDICT, at_ms=1)
    await write(UNREADABLE["another kind"])
    known = await kept.begin(VERDICT, at_ms=2)
    assert [each.id for each in await kept.begun()] == [known]
    assert [f"intervention {newer}:" in said for _, _, said in caplog.record_tuples] == [True]
