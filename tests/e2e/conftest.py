"""Laboratories for the end-to-end tests; each test has its own, and nothing of it outlives it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.binaries import NEWEST, e2e_required, opencode_binary
from tests.support.house import House
from tests.support.opencode import Lab, Server

OpenLab = Callable[..., Awaitable[Lab]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder run real servers."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def version() -> str:
    """The opencode version to run; parametrised where older ones matter."""
    return NEWEST


@pytest.fixture
async def open_lab(tmp_path: Path, version: str) -> AsyncIterator[OpenLab]:
    """Open laboratories by name, each a home of its own; all end with the test."""
    require(version)
    async with AsyncExitStack() as stack:

        async def opening(name: str = "home", *, mcp: bool = False) -> Lab:
            return await stack.enter_async_context(Lab.open(tmp_path / name, version=version, mcp=mcp))

        yield opening


@pytest.fixture
async def lab(open_lab: OpenLab) -> Lab:
    """The one laboratory that most tests need."""
    return await open_lab()


@pytest.fixture
async def server(house_of: Callable[[str], House], tmp_path: Path, version: str) -> AsyncIterator[Server]:
    """A server that other tests have after this one, which must let it live; `server.lab` is this test's own."""
    require(version)
    async with house_of(version).guest(tmp_path / "home") as server:
        yield server


def require(version: str) -> None:
    """Skip without the binary, or fail where CI says that it must be there."""
    if opencode_binary(version) is not None:
        return
    sentence = f"no opencode {version}: `python -m tests.support.binaries` fetches it"
    if e2e_required():
        pytest.fail(sentence)
    pytest.skip(sentence)
