"""What a server has to be, and what is said of one that is not: real ones, and a real PgBouncer before one."""

import asyncio
import re

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import watchdog
from tests.support.pgbouncer import Mode, PgBouncer
from tests.support.postgres import Cluster, PostgresRows
from tests.support.program import Program, path, program, rows
from tests.support.waiting import wait_until
from tests.unit.checking.test_check import said
from tests.unit.embedding.test_postgres import SOON, World, world
from tests.unit.postgres.test_lease import Replicas, has
from watchdog import CallableHost, Settings
from watchdog.errors import DatabaseUnavailable, DatabaseUnsupported, WatchdogError, sentences
from watchdog.model.outcome import Result
from watchdog.postgres import fit
from watchdog.postgres.connection import own_engine, sentence

__all__ = ["path", "program", "rows", "world"]

POOLED = re.compile(r"is behind a pooler .*Give it the address of PostgreSQL itself, or of a pool in session mode\.$")
STANDBY = re.compile(r"is read-only: it is a standby\. Give the address of the primary")


async def refusal(url: str, *, writes: bool = True) -> str:
    """What is said of a database; nothing if it will do."""
    engine = own_engine(url)
    try:
        await fit.make_sure(engine, writes=writes)
    except (DatabaseUnavailable, DatabaseUnsupported) as error:
        return str(error)
    finally:
        await engine.dispose()
    return ""


async def refused_at_start(url: str) -> str:
    """What a server is told that would start with the watchdog in it."""
    engine = create_async_engine(url)
    host = CallableHost(statuses=dict, pending_asks=list, abort=lambda _: None)
    with pytest.raises((WatchdogError, ExceptionGroup)) as caught:
        async with watchdog.running(Settings(), host=host, engine=engine):
            raise AssertionError("it was started")
    await engine.dispose()
    (sentence,) = sentences(caught.value)
    return sentence


class TestPooler:
    @pytest.mark.parametrize("more", ["", "server_round_robin = 1"])
    async def test_one_that_lends_for_a_transaction_is_known_by_that(
        self, postgres: Cluster, postgres_url: str, more: str
    ) -> None:
        with PgBouncer(postgres, "transaction", more) as bouncer:
            url = bouncer.url(postgres_url)
            assert POOLED.search(await refusal(url))
            for each in await asyncio.gather(*(refusal(url) for _ in range(8))):
                assert POOLED.search(each)

    @pytest.mark.parametrize(("mode", "size"), [("transaction", 1), ("session", 2)])
    async def test_one_that_is_too_small_to_tell_is_too_small(
        self, postgres: Cluster, postgres_url: str, monkeypatch: pytest.MonkeyPatch, mode: Mode, size: int
    ) -> None:
        monkeypatch.setattr(fit, "_PROBE_SECONDS", 1.0)
        with PgBouncer(postgres, mode, f"default_pool_size = {size}") as bouncer:
            found = await refusal(bouncer.url(postgres_url))
        assert "does not give three connections at once, and the watchdog needs them. Make its pool larger." in found

    @pytest.mark.parametrize("mode", ["transaction", "statement"])
    async def test_a_server_behind_one_is_told_at_its_start_and_so_is_who_checks(
        self, program: Program, postgres: Cluster, postgres_url: str, mode: Mode
    ) -> None:
        with PgBouncer(postgres, mode) as bouncer:
            url = bouncer.url(postgres_url)
            done = await program.run("check", "--database", url)
            assert done.code == 3
            (problem,) = said(done, "problem")
            assert POOLED.search(problem)
            assert POOLED.search(await refused_at_start(url))
        with PostgresRows(postgres_url) as there:
            assert there.run("SELECT 1 FROM pg_namespace WHERE nspname = 'opencode_watchdog'") == []

    async def test_in_session_mode_what_hangs_in_another_replica_is_ended(self, world: World) -> None:
        with PgBouncer(world.cluster, "session") as bouncer:
            first, second = (world.replica(bouncer.url(world.url)) for _ in range(2))
            async with first.running(tool_timeout=SOON), second.running(tool_timeout=SOON):
                mine, others = first.begin("1"), second.begin("2")
                assert (await first.outcome(mine)).result is Result.RECOVERED
                assert (await first.outcome(others)).result is Result.RECOVERED
            assert second.host.aborted == [others]
            await first.engine.dispose()
            await second.engine.dispose()

    @pytest.mark.parametrize(
        "error", [asyncpg.exceptions.DuplicatePreparedStatementError, asyncpg.exceptions.InvalidSQLStatementNameError]
    )
    def test_one_that_comes_between_later_is_told_by_what_fails_then(
        self, error: type[asyncpg.PostgresError]
    ) -> None:
        assert POOLED.search(f"The database {sentence(error('prepared statement'))}.")


class TestVersion:
    async def test_one_that_is_too_old_is_named_with_what_is_needed(
        self, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert await refusal(postgres_url) == ""
        monkeypatch.setattr(fit, "OLDEST", 99)
        assert re.search(
            r"is in PostgreSQL \d+\.\d+.*; the watchdog needs 99 or later\.", await refused_at_start(postgres_url)
        )


class TestReadOnly:
    async def test_a_standby_is_no_place_to_act_until_it_is_the_primary(
        self, own_cluster: Cluster, program: Program
    ) -> None:
        url = own_cluster.opencode_database()
        async with Replicas(url) as replicas:
            lease = await replicas.keeping("a", 2.0)
            await asyncio.to_thread(own_cluster.stop)
            (own_cluster.data / "standby.signal").touch()
            await asyncio.to_thread(own_cluster.start)
            await wait_until(lambda: not lease.acquire(), "its loss", seconds=60)
            assert STANDBY.search(await refused_at_start(url))
            assert await refusal(url, writes=False) == ""
            done = await program.run("check", "--database", url)
            assert (done.code, said(done, "problem")) == (0, [])
            with pytest.raises(DatabaseUnavailable, match="is read-only: it is a standby, or default"):
                await replicas.replica("b").open()
            assert own_cluster.run("SELECT pg_promote()")[0][0]
            await wait_until(has(lease), "the next term", seconds=60)
        assert await refusal(url) == ""

    @pytest.mark.parametrize("of", ["DATABASE {database}", "ROLE opencode IN DATABASE {database}"])
    async def test_a_setting_is_named_and_not_overridden(self, postgres: Cluster, postgres_url: str, of: str) -> None:
        async with Replicas(postgres_url) as replicas:
            await (await replicas.opened("a")).close()
            where = of.format(database=postgres_url.rpartition("/")[2])
            postgres.run(f"ALTER {where} SET default_transaction_read_only = on")
            found = await refused_at_start(postgres_url)
            assert "is read-only: default_transaction_read_only is on, for the server, the database or this" in found
            with pytest.raises(DatabaseUnavailable, match="is read-only"):
                await replicas.replica("b").open()  # there is one to take
