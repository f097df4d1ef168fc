"""What all tests share: a real PostgreSQL, and real opencode servers for tests that leave them as they were."""

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.support.house import House
from tests.support.postgres import own_cluster, postgres, postgres_rows, postgres_url

__all__ = ["own_cluster", "postgres", "postgres_rows", "postgres_url"]

LONGEST: Final = ("tests/soak/", "tests/faults/test_failover.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and mostly waits: workers that are idle take over the rest."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(scope="session")
def house_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], House]]:
    """The house of each version of opencode, opened when it is first asked for."""
    houses: dict[str, House] = {}

    def house(version: str) -> House:
        if version not in houses:
            houses[version] = House(tmp_path_factory.mktemp("house"), version)
        return houses[version]

    yield house
    for each in houses.values():
        each.close()
