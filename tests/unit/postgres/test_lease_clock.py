"""The lease on a real PostgreSQL whose clock goes back, as far as its row tells: an expiry that no lease can have."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support.postgres import Cluster, PostgresRows
from tests.support.program import Program, path, program, rows
from tests.support.terms import Terms
from tests.support.waiting import wait_until
from tests.unit.postgres.test_lease import FOR_EVER, PATIENCE, ROW, Jumping, Replicas, has, terms_of
from tests.unit.postgres.test_own import VERSION_1_AT_WORK
from watchdog.errors import LeaseLost
from watchdog.postgres.lease_row import LONGEST_SECONDS, Stillness

__all__ = ["path", "program", "rows"]

LONG_ENOUGH = FOR_EVER * 7 / 6 + 1
"""After so long nobody who has a lease of `FOR_EVER` can have it still, if nothing was heard of it."""
LATER = "expires_at = expires_at + interval '10 minutes'"
"""What the row looks like to a clock that went back by ten minutes."""


@pytest.fixture
async def replicas(postgres_url: str) -> AsyncIterator[Replicas]:
    async with Replicas(postgres_url) as replicas:
        yield replicas


@pytest.fixture
async def terms(postgres: Cluster, replicas: Replicas) -> Terms:
    return await terms_of(postgres, replicas)


async def test_one_that_is_gone_is_replaced_though_the_clock_went_back(replicas: Replicas, terms: Terms) -> None:
    await replicas.opened("a", 1.0)
    terms.change(LATER)
    second = await replicas.keeping("b", 1.0)
    await wait_until(has(second), "the second one", seconds=10.0)
    assert (second.term, terms.holder()) == (2, ("b", 2))


@pytest.mark.parametrize("after", [LONG_ENOUGH - 2, LONG_ENOUGH])
async def test_not_before_its_lease_and_a_sixth_of_it_are_over(
    replicas: Replicas, terms: Terms, after: float
) -> None:
    """By the length that the holder gave it, not by the challenger's own, and by the challenger's own clock."""
    await replicas.opened("a")
    terms.change(LATER)
    clock = Jumping()
    second = await replicas.opened("b", 3.0, clock=clock)
    clock.wall_ahead = -600.0
    clock.running_ahead = after
    await second.open()
    assert second.acquire() == (after == LONG_ENOUGH)


async def test_one_that_renews_is_never_robbed(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    terms.change(LATER)
    clock = Jumping()
    second = await replicas.opened("b", clock=clock)
    for _ in range(3):
        clock.running_ahead += LONG_ENOUGH / 2
        await first.confirm()
        await second.open()
        clock.running_ahead += LONG_ENOUGH / 2
        await second.open()
    assert (first.acquire(), second.acquire(), terms.holder()) == (True, False, ("a", 1))
    assert terms.notes()[-1].expires_at < terms.notes()[1].expires_at  # the first renewal believes the clock


async def test_a_renewal_between_the_look_and_the_taking_wins(replicas: Replicas, terms: Terms) -> None:
    await replicas.opened("a")
    clock = Jumping()
    second = await replicas.opened("b", clock=clock)
    clock.running_ahead = LONG_ENOUGH
    async with replicas.engine().connect() as first:
        await renewed(first)
        taking = asyncio.create_task(second.open())
        await wait_until(terms.waiting, "the one who wants to take it", seconds=PATIENCE)
        await first.commit()
        await taking
    assert (second.acquire(), terms.holder()) == (False, ("a", 1))


async def renewed(connection: AsyncConnection) -> None:
    """Renew it as the holder does, and do not commit that yet."""
    await connection.execute(text(f"UPDATE {ROW} SET expires_at = expires_at"))  # noqa: S608 - a name of ours


async def test_one_that_was_stopped_meanwhile_writes_and_aborts_nothing(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    terms.change(LATER)
    clock = Jumping()
    second = await replicas.opened("b", clock=clock)
    clock.running_ahead = LONG_ENOUGH
    await second.open()
    assert (first.acquire(), second.acquire()) == (True, True)  # as its own clock stood still, it can't know
    async with replicas.engine().begin() as connection:
        with pytest.raises(LeaseLost, match="B has the right"):
            await first.hold(connection)
    with pytest.raises(LeaseLost, match="B has the right"):
        await first.confirm()
    assert not first.acquire()
    await second.confirm()


async def test_nobody_takes_it_amid_a_transaction_that_holds_it(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    terms.change(LATER)
    clock = Jumping()
    second = await replicas.opened("b", 3.0, clock=clock)
    clock.running_ahead = LONG_ENOUGH
    async with replicas.engine().begin() as connection:
        await first.hold(connection)
        await second.open()
        assert not second.acquire()
    await second.open()
    assert second.acquire()


async def test_who_lost_it_to_the_own_clock_takes_it_anew(replicas: Replicas, terms: Terms) -> None:
    clock = Jumping()
    lease = await replicas.opened("a", clock=clock)
    terms.change(LATER)
    clock.running_ahead = FOR_EVER
    await lease.open()
    assert not lease.acquire()
    clock.running_ahead = FOR_EVER + LONG_ENOUGH
    await lease.open()
    assert (lease.acquire(), lease.term) == (True, 2)


async def test_given_back_it_is_taken_at_once_whatever_the_clock_says_then(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    await first.close()
    terms.change(LATER)
    second = await replicas.opened("b")
    assert (second.acquire(), second.term) == (True, 2)


async def test_who_turns_to_the_holder_is_certain_once_it_renews(replicas: Replicas, terms: Terms) -> None:
    first = await replicas.opened("a")
    second = await replicas.opened("b", 0.6)
    await second.make_certain()  # there is no doubt
    terms.change(LATER)
    await second.open()
    certain = asyncio.create_task(second.make_certain())
    await asyncio.sleep(0.3)
    assert not certain.done()
    await first.confirm()
    await asyncio.wait_for(certain, PATIENCE)
    assert (first.acquire(), second.acquire()) == (True, False)


async def test_a_command_acts_itself_where_the_holder_is_gone(
    replicas: Replicas, terms: Terms, program: Program, postgres_rows: PostgresRows
) -> None:
    session = postgres_rows.session()
    call = postgres_rows.call(postgres_rows.turn(session))
    await replicas.opened("a", 1.0)
    terms.change(LATER)
    done = await program.run("release", "--yes", session, "--database", replicas.url)
    assert done.code == 0, done.stdout + done.stderr
    assert json.loads(postgres_rows.get("part", call))["state"]["status"] == "error"


async def test_of_a_replica_of_an_older_version_the_longest_lease_is_believed(
    replicas: Replicas, terms: Terms, postgres: Cluster
) -> None:
    take, *_ = VERSION_1_AT_WORK.split(";")
    postgres.run(take, database=terms.database)
    terms.change(LATER)
    clock = Jumping()
    second = await replicas.opened("b", 3.0, clock=clock)
    for after, had in ((LONGEST_SECONDS, False), (LONGEST_SECONDS * 7 / 6 + 1, True)):
        clock.running_ahead = after
        await second.open()
        assert second.acquire() == had


def test_what_stood_still_is_timed_from_the_first_answer_to_the_last_question() -> None:
    still = Stillness()
    looks = [("1", 5.0, 6.0), ("1", 7.0, 9.0), ("2", 10.0, 11.0), ("2", 13.5, 14.0), ("1", 15.0, 15.0)]
    seconds = [still.seconds(mark, asked=asked, answered=answered) for mark, asked, answered in looks]
    assert seconds == [0.0, 1.0, 0.0, 2.5, 0.0]
