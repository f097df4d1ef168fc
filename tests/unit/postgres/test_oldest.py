"""Everything that is asked of PostgreSQL, once, on the oldest one that is said to work."""

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from tests.support.oldest_postgres import programs
from tests.support.postgres import Cluster, Kind, PostgresRows
from tests.support.program import Program, path, program, rows
from tests.unit.embedding.test_postgres import SOON, World
from watchdog.model.outcome import Result
from watchdog.postgres.fit import OLDEST

__all__ = ["path", "program", "rows"]


@pytest.fixture(scope="module")
def oldest() -> Iterator[Cluster]:
    with programs() as folder, Cluster(programs=folder) as cluster:
        yield cluster


@pytest.mark.parametrize("kind", ["jsonb", "json"])
async def test_what_hangs_is_ended_settled_passed_on_and_undone(
    oldest: Cluster, program: Program, kind: Kind
) -> None:
    url = oldest.opencode_database(kind)
    async with AsyncExitStack() as stack:
        world = World(oldest, url, stack.enter_context(PostgresRows(url)), stack)
        assert int(world.rows.run("SHOW server_version_num")[0][0]) // 10_000 == OLDEST
        first, second = world.replica(), world.replica()
        async with first.running(tool_timeout=SOON), second.running(tool_timeout=SOON) as other:
            mine, others = first.begin("1"), second.begin("2")
            assert (await first.outcome(mine)).result is Result.RECOVERED
            assert (await first.outcome(others)).result is Result.RECOVERED
            assert second.host.aborted == [others]
            orphan = first.begin("3", busy=False)
            assert [each.result for each in await other.release(orphan)] == [Result.RECOVERED]
            assert first.call("3") == "error"
            done = await program.run("check", "--database", url)
            assert done.code == 0, done.stdout
            (number,) = world.rows.run("SELECT max(id) FROM opencode_watchdog.intervention")[0]
            undone = await program.run("undo", str(number), "--database", url)
            assert undone.code == 0, undone.stdout + undone.stderr
            assert first.call("3") == "running"
