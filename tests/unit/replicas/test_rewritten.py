"""What is written again and again is small, and only what changed: counted in rows, on a real PostgreSQL."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.support.postgres import PostgresRows
from tests.support.waiting import wait_until
from tests.unit.replicas.test_replicas import BUSY, ONE, PATIENCE, TWO, Jumping
from watchdog.model.session import Activity, SessionId, Status
from watchdog.postgres import own
from watchdog.postgres.connection import own_engine
from watchdog.postgres.line import Line
from watchdog.replicas.edition import Edition
from watchdog.replicas.publications import Claims, Publication, Saying, dump_claim, dump_id
from watchdog.replicas.register import Register

BEATS, REPLICAS = 15, 40
ROW_BYTES = 400
"""Of one version of a replica's row, with what the index may take."""
MANY = [SessionId(f"ses_{number}") for number in range(50)]


class Beats:
    """Replicas that publish as often as a test likes; what they are at work on does not change."""

    def __init__(self, line: Line, rows: PostgresRows) -> None:
        self.line = line
        self.rows = rows
        self.register = Register(line, Jumping())

    async def beat(self, number: int) -> None:
        """Let each publish once: the first time with all of its claims."""
        claims = json.dumps({dump_id(id_): dump_claim(BUSY, ()) for id_ in MANY})
        for replica in range(REPLICAS):
            process = f"{replica:032x}"
            said = Publication(
                process=process,
                edition=f"{process}.0",
                revision=0,
                saying=Saying(asked_at=1_800_000_000.123 + number, age_seconds=0.002),
                clock_ahead_seconds=0.001,
            )
            first = number == 0
            name = f"a-host-of-some-length-{replica}-4711-abcdef"
            changes, after = (claims, -1) if first else ("{}", 0)
            assert await self.register.publish(name, said, changes, after=after)

    def size(self, table: str) -> int:
        (row,) = self.rows.run("SELECT pg_total_relation_size($1::text::regclass)", f"opencode_watchdog.{table}")
        return int(row[0])

    def updated(self, table: str) -> tuple[int, int]:
        """How many rows were written anew, and how many of them within their page."""
        (row,) = self.rows.run(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = $1::text::regclass",
            f"opencode_watchdog.{table}",
        )
        return row[0], row[1]


@pytest.fixture
async def beats(postgres_url: str) -> AsyncIterator[Beats]:
    engine = own_engine(postgres_url)
    await own.prepare(engine)
    line = Line(engine, channel="x", heard=lambda _: None)
    with PostgresRows(postgres_url) as rows:
        yield Beats(line, rows)
    await line.close()
    await engine.dispose()


async def test_a_beat_rewrites_one_small_row_in_its_page(beats: Beats) -> None:
    for number in range(BEATS + 1):
        await beats.beat(number)
    await beats.line.close()  # so that what it did is counted

    def counted() -> bool:
        return beats.updated("replica")[0] >= BEATS * REPLICAS

    await wait_until(counted, "the count", seconds=PATIENCE)
    written, in_the_page = beats.updated("replica")
    assert written == BEATS * REPLICAS
    assert in_the_page >= 0.95 * written
    assert (beats.updated("claim")[0], beats.updated("edition")[0]) == (0, 0)


async def test_while_a_transaction_is_held_elsewhere_only_these_rows_pile_up(beats: Beats) -> None:
    await beats.beat(0)
    before = {table: beats.size(table) for table in ("replica", "claim", "edition")}
    with PostgresRows(beats.rows.url) as holding:
        holding.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holding.run("SELECT txid_current()")
        for number in range(1, BEATS + 1):
            await beats.beat(number)
        grown = {table: beats.size(table) - size for table, size in before.items()}
        holding.run("COMMIT")
    assert grown["claim"] == grown["edition"] == 0
    assert 0 < grown["replica"] <= BEATS * REPLICAS * ROW_BYTES


def life(ms: int) -> Claims:
    return Claims(statuses={ONE: Status(activity=Activity.BUSY, last_life_ms=ms), TWO: BUSY})


class TestSignsOfLife:
    """A session that streams shows life all the time: that is a row at each beat, for each."""

    @pytest.mark.parametrize(("newer_ms", "changed"), [(0, 0), (9_999, 0), (10_000, 1), (-1, 1)])
    async def test_one_is_worth_a_row_once_it_is_some_seconds_newer(self, newer_ms: int, changed: int) -> None:
        edition = Edition("x")
        edition.confirm(await edition.change(life(50_000), exact=False))
        change = await edition.change(life(50_000 + newer_ms), exact=False)
        assert len(change.claims) == change.revision - change.after == changed

    async def test_it_is_compared_with_the_one_that_was_written(self) -> None:
        edition = Edition("x")
        changes = []
        for second in range(31):
            change = await edition.change(life(second * 1000), exact=False)
            edition.confirm(change)
            changes.append(len(change.claims))
        assert [second for second, count in enumerate(changes) if count] == [0, 10, 20, 30]

    async def test_whoever_asks_gets_the_last_one(self) -> None:
        edition = Edition("x")
        edition.confirm(await edition.change(life(50_000), exact=False))
        assert (await edition.change(life(50_001), exact=True)).claims.keys() == {ONE}

    async def test_anything_else_is_a_change_at_once(self) -> None:
        edition = Edition("x")
        edition.confirm(await edition.change(life(50_000), exact=False))
        retrying = Status(activity=Activity.RETRY, retry_at_ms=1, last_life_ms=50_001)
        change = await edition.change(Claims(statuses={ONE: retrying, TWO: BUSY}), exact=False)
        assert change.claims.keys() == {ONE}
