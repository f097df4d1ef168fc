"""Whoever reads or writes rows of a server's gives way to it: each deadlock is built, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import pytest

from tests.support.database import NOW
from tests.support.postgres import Cluster, PostgresRows
from watchdog.errors import DatabaseUnavailable, GaveWay
from watchdog.model.outcome import GuardedWrite
from watchdog.model.session import CallId, TurnId
from watchdog.postgres.connection import own_engine
from watchdog.postgres.store import Limits, PostgresStore
from watchdog.timing.clock import SystemClock

DEADLOCK_SECONDS = 0.4
"""After so long a wait PostgreSQL looks for a deadlock here, and ends whoever finds one."""
PATIENCE = 60.0
ADVISORY = "PERFORM pg_advisory_xact_lock(7)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A session with an open call in an open turn, the server's own connection, and the watchdog's store, twice."""

    rows: PostgresRows
    server: asyncpg.Connection
    store: PostgresStore
    impatient: PostgresStore
    session: str
    turn: TurnId
    call: CallId

    async def writes(self) -> list[GuardedWrite]:
        found = await self.store.rows(call_ids=[self.call], turn_ids=[self.turn])
        return [GuardedWrite(row=row, after='{"type": "text"}') for row in found]

    async def lock_session(self) -> None:
        """As a new message does: its foreign key locks the session's row."""
        await self.server.execute(
            "INSERT INTO message (id, session_id, time_created, time_updated, data) VALUES ($1, $2, $3, $3, $4)",
            "msg_prompt", self.session, NOW, '{"role": "user"}',
        )  # fmt: skip

    async def lock_call(self) -> None:
        await self.server.execute("UPDATE part SET time_updated = time_updated WHERE id = $1", self.call)

    async def lock_turn(self) -> None:
        await self.server.execute("UPDATE message SET time_updated = time_updated WHERE id = $1", self.turn)

    async def lock_advisory(self) -> None:
        await self.server.execute("SELECT pg_advisory_xact_lock(7)")

    async def lock_table(self) -> None:
        """As a migration does."""
        await self.server.execute("LOCK TABLE part IN SHARE MODE")


@pytest.fixture
async def scene(postgres: Cluster, postgres_rows: PostgresRows) -> AsyncIterator[Scene]:
    rows = postgres_rows
    name = rows.url.rpartition("/")[2]
    postgres.run(f'ALTER DATABASE "{name}" SET deadlock_timeout = {round(DEADLOCK_SECONDS * 1000)}')
    session = rows.session()
    turn = rows.turn(session)
    call = rows.call(turn)
    engine = own_engine(rows.url)
    server = await asyncpg.connect(rows.url.replace("+asyncpg", ""))
    store = await PostgresStore.open(engine, clock=SystemClock())
    impatient = await PostgresStore.open(engine, clock=SystemClock(), limits=Limits(pauses=(0.01,)))
    yield Scene(rows=rows, server=server, store=store, impatient=impatient, session=session, turn=turn, call=call)
    await server.close()
    await engine.dispose()


def trigger(rows: PostgresRows, body: str, when: str = "TRIGGER {} BEFORE UPDATE ON part") -> None:
    """One of the host's own, that works for the watchdog's rows only."""
    rows.script(f"""
        CREATE FUNCTION host() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('application_name') = 'opencode-watchdog' THEN {body}; END IF;
            RETURN NEW;
        END $$;
        CREATE {when.format("host")} FOR EACH ROW EXECUTE FUNCTION host()
    """)


Lock = Callable[[Scene], Awaitable[None]]
CYCLES: dict[str, tuple[Lock, Lock, bool]] = {
    "the call, then the session": (Scene.lock_call, Scene.lock_session, True),
    "the session, then the call": (Scene.lock_session, Scene.lock_call, True),
    "the turn, then the session": (Scene.lock_turn, Scene.lock_session, True),
    "the turn, then the call": (Scene.lock_turn, Scene.lock_call, False),
    "the call, then the turn": (Scene.lock_call, Scene.lock_turn, False),
    "the table, then the session": (Scene.lock_table, Scene.lock_session, True),
    "a trigger's lock, then the session": (Scene.lock_advisory, Scene.lock_session, True),
    "a trigger's lock, then the call": (Scene.lock_advisory, Scene.lock_call, False),
}
"""What the server locks, one after the other, and whether the watchdog writes for the newest turn."""


@pytest.mark.parametrize("cycle", CYCLES)
async def test_a_server_that_wants_the_same_rows_in_another_order_always_commits(scene: Scene, cycle: str) -> None:
    first, second, newest = CYCLES[cycle]
    if first is Scene.lock_advisory:
        trigger(scene.rows, ADVISORY)
    writes = await scene.writes()
    async with scene.server.transaction():
        await first(scene)
        ours = asyncio.create_task(scene.store.write(writes, while_newest=scene.turn if newest else None))
        await asyncio.sleep(1.5 * DEADLOCK_SECONDS)  # what waits until now has looked for a deadlock, and found none
        await second(scene)
    assert await asyncio.wait_for(ours, PATIENCE) == len(writes)


@pytest.mark.parametrize(
    "when",
    [
        "TRIGGER {} BEFORE UPDATE ON part",
        "CONSTRAINT TRIGGER {} AFTER UPDATE ON part DEFERRABLE INITIALLY DEFERRED",
    ],
)
async def test_a_trigger_that_comes_to_wait_late_does_not_cost_the_server_that_waits_already(
    scene: Scene, when: str
) -> None:
    """The server waits for the session's row first, and would be the first to look for the deadlock."""
    trigger(scene.rows, f"PERFORM pg_sleep({0.9 * DEADLOCK_SECONDS}); {ADVISORY}", when)
    writes = await scene.writes()
    async with scene.server.transaction():
        await scene.lock_advisory()
        ours = asyncio.create_task(scene.impatient.write(writes, while_newest=scene.turn))
        while not scene.rows.run("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
            await asyncio.sleep(0.001)
            assert not ours.done()
        await scene.lock_session()
    with pytest.raises(GaveWay, match="took longer"):
        await asyncio.wait_for(ours, PATIENCE)
    scene.rows.script("DROP FUNCTION host() CASCADE")
    assert await scene.store.write(await scene.writes()) == len(writes)


@pytest.mark.parametrize("lock", [Scene.lock_call, Scene.lock_session, Scene.lock_table])
async def test_rows_that_stay_locked_are_said_to_be_and_are_written_later(scene: Scene, lock: Lock) -> None:
    writes = await scene.writes()
    async with scene.server.transaction():
        await lock(scene)
        with pytest.raises(GaveWay, match=r"has locked rows .* nothing was written.*tried again"):
            await scene.impatient.write(writes, while_newest=scene.turn)
    assert await scene.impatient.write(writes, while_newest=scene.turn) == len(writes)


class TestALook:
    """Beside a server that alters its tables, one after the other in one transaction, as a migration does."""

    @pytest.mark.parametrize(
        ("first", "second"), [("part", "message"), ("message", "part"), ("part", "session"), ("message", "session")]
    )
    async def test_a_server_that_locks_the_tables_in_another_order_always_commits(
        self, scene: Scene, first: str, second: str
    ) -> None:
        async with scene.server.transaction():
            await scene.server.execute(f"LOCK TABLE {first} IN ACCESS EXCLUSIVE MODE")
            ours = asyncio.create_task(scene.store.look())
            await asyncio.sleep(1.5 * DEADLOCK_SECONDS)
            await scene.server.execute(f"LOCK TABLE {second} IN ACCESS EXCLUSIVE MODE")
        found = await asyncio.wait_for(ours, PATIENCE)
        assert found.open_rows == {scene.turn, scene.call}

    async def test_what_was_written_anew_meanwhile_is_seen_and_not_taken_to_be_empty(self, scene: Scene) -> None:
        """A transaction that looked at anything before sees no row of a table that was written anew since then."""
        async with scene.server.transaction():
            await scene.server.execute("ALTER TABLE part ALTER COLUMN data TYPE jsonb USING data || '{}'")
            ours = asyncio.create_task(scene.store.look())
            await asyncio.sleep(0.2)
        found = await asyncio.wait_for(ours, PATIENCE)
        assert found.open_rows == {scene.turn, scene.call}

    async def test_a_table_that_is_not_read_is_not_locked_either(self, postgres: Cluster, scene: Scene) -> None:
        postgres.run("CREATE TABLE workspace (id text, type text)", database=scene.rows.url.rpartition("/")[2])
        assert scene.call in (await scene.store.look(full=True)).open_rows

    @pytest.mark.parametrize("table", ["session", "message", "part"])
    async def test_tables_that_stay_locked_are_said_to_be_and_are_read_later(self, scene: Scene, table: str) -> None:
        async with scene.server.transaction():
            await scene.server.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseUnavailable, match=r"has locked a table of .* a migration, say.*next look"):
                await scene.impatient.look()
        assert (await scene.impatient.look()).open_rows == {scene.turn, scene.call}


async def test_no_wait_is_long_by_what_the_database_and_the_role_say(postgres: Cluster, scene: Scene) -> None:
    rows, name = scene.rows, scene.rows.url.rpartition("/")[2]
    rows.run("CREATE TABLE seen (lock_timeout text, statement_timeout text)")
    trigger(rows, "INSERT INTO seen SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
    for deadlock, lock, statement in ((1000, 0, 0), (200, 0, 0), (60_000, 0, 0), (1, 0, 0), (1000, 7, 77)):
        for setting, value in (("deadlock", deadlock), ("lock", lock), ("statement", statement)):
            postgres.run(f'ALTER DATABASE "{name}" SET {setting}_timeout = {value}')
        engine = own_engine(rows.url)
        store = await PostgresStore.open(engine, clock=SystemClock())
        assert await store.write([each for each in await scene.writes() if each.row.table == "part"]) == 1
        await engine.dispose()
    seen = [tuple(row) for row in rows.run("SELECT * FROM seen")]
    assert seen == [("125ms", "250ms"), ("25ms", "50ms"), ("125ms", "250ms"), ("1ms", "25ms"), ("7ms", "77ms")]
