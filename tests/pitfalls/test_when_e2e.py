"""Time, on real servers."""

import anyio
import httpx
import pytest

from tests.e2e.conftest import OpenLab
from tests.support.binaries import NEWEST
from tests.support.waiting import wait_until
from tests.support.watchdog_run import Watchdog

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("version", ["1.2.27", "1.15.3", NEWEST])
async def test_a_persons_own_command_is_left_alone_and_the_models_is_ended(open_lab: OpenLab) -> None:
    lab = await open_lab()
    server = await lab.serve()
    own = await server.create_session()
    async with httpx.AsyncClient(timeout=120) as client, anyio.create_task_group() as group:

        async def run() -> None:
            body = {"agent": "build", "command": "sleep 30"}
            await client.post(f"{server.url}/session/{own.id}/shell", json=body)

        group.start_soon(run)
        await wait_until(lambda: lab.rows().open_calls, "the command's row")
        watchdog = Watchdog.for_lab(lab, server, tool_timeout=1, declared_timeout_grace=0)
        async with watchdog.run() as running:
            await running.watch_for(8)
            assert running.outcomes() == []
        assert lab.rows().open_calls
        group.cancel_scope.cancel()
