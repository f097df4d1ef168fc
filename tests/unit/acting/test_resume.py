"""What a crash of the watchdog left begun is closed by looking at the rows, and never carried on."""

import json
from dataclasses import replace

import pytest

from tests.unit.acting.test_intervention import CALL, IDLE, ORPHAN, PLACE, SESSION, STUCK, TURN, World, steps
from watchdog.acting.intervention import Remedy
from watchdog.errors import DatabaseUnavailable, JournalUnusable, ServerUnreachable
from watchdog.judging.settled_rows import settle
from watchdog.model.interventions import Intervention
from watchdog.model.outcome import GuardedWrite, Outcome, Result
from watchdog.model.session import Ask, AskKind
from watchdog.model.verdict import Verdict, VerdictKind

ASK = Ask(id="que_1", kind=AskKind.QUESTION, session_id=SESSION)
UNANSWERED = replace(STUCK, kind=VerdictKind.UNANSWERED, turn_ids=(), ask=ASK)


@pytest.fixture
def world() -> World:
    return World()


async def begin(world: World, verdict: Verdict, writes: tuple[GuardedWrite, ...] = ()) -> None:
    number = await world.journal.begin(verdict, at_ms=1)
    if writes:
        await world.journal.keep(number, writes)


async def resume(world: World) -> Outcome:
    (begun,) = await world.journal.begun()
    outcome = await remedy(world).resume(begun)
    assert await closed(world) == outcome
    return outcome


async def closed(world: World) -> Outcome | None:
    assert await world.journal.begun() == ()
    (only,) = world.journal.noted.values()
    return only.outcome


def remedy(world: World) -> Remedy:
    return world.watch().remedy


async def writes_for(world: World) -> tuple[GuardedWrite, ...]:
    rows = await world.store.rows(call_ids=[CALL], turn_ids=[TURN])
    return settle(rows, text="ended", now_ms=world.clock.now_ms)


class TestSettling:
    async def test_what_was_not_written_is_unchanged_and_nothing_is_carried_on(self, world: World) -> None:
        world.orphaned()
        await begin(world, ORPHAN, await writes_for(world))
        outcome = await resume(world)
        assert (outcome.result, world.store.written) == (Result.UNCHANGED, [])
        assert "before anything was written" in outcome.why

    async def test_what_was_written_is_shown_and_read_back(self, world: World) -> None:
        writes = await writes_for(world.orphaned())
        await begin(world, ORPHAN, writes)
        await world.store.write(writes)
        outcome = await resume(world)
        assert outcome.result is Result.RECOVERED
        assert [row.id for row, _ in world.server.published] == [CALL]
        assert ("read_back", True) in steps(outcome)

    async def test_what_was_written_and_does_not_read_is_put_back(self, world: World) -> None:
        before = json.dumps(world.store.content.tables)
        writes = await writes_for(world.orphaned())
        await begin(world, ORPHAN, writes)
        await world.store.write(writes)
        world.server.unreadable.add(SESSION)
        assert (await resume(world)).result is Result.FAILED
        assert json.dumps(world.store.content.tables) == before

    async def test_what_somebody_else_ended_meanwhile_is_not_claimed(self, world: World) -> None:
        await begin(world.orphaned(), ORPHAN, await writes_for(world))
        await world.end(SESSION)
        assert (await resume(world)).result is Result.UNCHANGED

    async def test_a_session_that_is_gone_is_unchanged(self, world: World) -> None:
        await begin(world.orphaned(), ORPHAN, await writes_for(world))
        world.store.content.delete("session", SESSION)
        assert (await resume(world)).result is Result.UNCHANGED

    async def test_while_the_database_can_not_be_read_it_stays_begun(self, world: World) -> None:
        await begin(world, ORPHAN)
        world.store.failure = DatabaseUnavailable("the database is locked")
        (begun,) = await world.journal.begun()
        with pytest.raises(DatabaseUnavailable):
            await remedy(world).resume(begun)
        assert await world.journal.begun() == (begun,)


class TestEndingACommand:
    async def test_it_is_closed_with_a_word_on_where_to_look(self, world: World) -> None:
        await begin(world, replace(ORPHAN, kind=VerdictKind.LEFT_OVER, turn_ids=(), call_ids=()))
        outcome = await resume(world)
        assert outcome.result is Result.UNCHANGED
        assert "`leftovers` shows" in outcome.why
        assert world.server.aborted == []


class TestCancelling:
    async def test_what_is_still_open_was_not_effective_and_is_not_aborted_again(self, world: World) -> None:
        await begin(world, STUCK)
        assert (await resume(world)).result is Result.INEFFECTIVE
        assert world.server.aborted == []

    async def test_what_is_closed_is_recovered(self, world: World) -> None:
        await begin(world, STUCK)
        await world.end(SESSION)
        assert (await resume(world)).result is Result.RECOVERED

    @pytest.mark.parametrize(
        ("busy", "silent", "result"),
        [
            (True, False, Result.INEFFECTIVE),
            (False, False, Result.RECOVERED),
            (False, True, Result.INEFFECTIVE),
        ],
    )
    async def test_without_rows_the_word_of_the_servers_counts_and_silence_is_no_word(
        self, world: World, busy: bool, silent: bool, result: Result
    ) -> None:
        await begin(world, replace(IDLE, turn_ids=()))
        await world.end(SESSION)
        if not busy:
            world.server.statuses_by.clear()
        world.server.problem = ServerUnreachable("gone") if silent else None
        assert (await resume(world)).result is result


class TestUnanswered:
    @pytest.mark.parametrize("stands", [True, False])
    async def test_an_ask_without_a_call_is_looked_for(self, world: World, stands: bool) -> None:
        await begin(world, replace(UNANSWERED, call_ids=()))
        world.server.asks_by = {PLACE: [ASK] if stands else []}
        assert (await resume(world)).result is (Result.INEFFECTIVE if stands else Result.RECOVERED)
        assert world.server.rejected == []


async def test_a_journal_that_fails_leaves_it_begun_for_the_next_start(world: World) -> None:
    await begin(world, STUCK)
    (begun,) = await world.journal.begun()
    world.journal.failure = JournalUnusable("the disk is full")
    outcome = await remedy(world).resume(begun)
    assert not outcome.steps or outcome.steps[-1].step == "journal"
    world.journal.failure = None
    assert [each.id for each in await world.journal.begun()] == [begun.id]


async def test_it_is_counted_before_it_is_closed(world: World) -> None:
    await begin(world, STUCK)
    (begun,) = await world.journal.begun()
    open_then: list[tuple[Intervention, ...]] = []

    async def count(_: Outcome, /, *, attempted: bool) -> None:  # noqa: ARG001
        open_then.append(await world.journal.begun())

    await remedy(world).resume(begun, count=count)
    assert open_then == [(begun,)]
    assert await world.journal.begun() == ()
