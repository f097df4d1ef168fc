"""The stage for the loop's tests; the laboratories of the end-to-end tests are those of `tests/e2e`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.conftest import lab, open_lab, server, version
from tests.pitfalls.stage import Stage

__all__ = ["lab", "open_lab", "server", "stage", "version"]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A database of opencode's, a server and a clock."""
    async with Stage.open(tmp_path / "opencode.db") as stage:
        yield stage
