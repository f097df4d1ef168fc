"""Whether a base URL leads to where a process listens."""

# ruff: noqa: S104 - nothing is bound here

import pytest

from tests.fakes.server import endpoint
from watchdog.model.report import Endpoint, Holder
from watchdog.observing.endpoints import (
    ANY,
    ANY_MAPPED,
    EXACT,
    NOWHERE,
    destinations_of,
    is_here,
    leads,
    listener,
    own_addresses,
)

OWN = frozenset({"127.0.0.1", "::1", "192.168.7.5", "fe80::1", "2001:db8::5"})


def own() -> frozenset[str]:
    return OWN


def holder(pid: int, *addresses: str) -> Holder:
    places = tuple(endpoint(4096, address) for address in addresses)
    return Holder(pid=pid, born_ms=0, command="opencode serve", endpoints=places)


@pytest.mark.parametrize(
    ("to", "at", "fit"),
    [
        ("127.0.0.1", "127.0.0.1", EXACT),
        ("127.0.0.2", "127.0.0.2", EXACT),
        ("127.0.0.2", "127.0.0.1", NOWHERE),
        ("127.0.0.1", "0.0.0.0", ANY),
        ("127.9.9.9", "0.0.0.0", ANY),
        ("192.168.7.5", "0.0.0.0", ANY),
        ("192.168.7.5", "192.168.7.5", EXACT),
        ("192.168.7.5", "127.0.0.1", NOWHERE),
        ("192.168.7.6", "0.0.0.0", NOWHERE),
        ("127.0.0.1", "::", ANY_MAPPED),
        ("192.168.7.5", "::", ANY_MAPPED),
        ("192.168.7.6", "::", NOWHERE),
        ("127.0.0.1", "::ffff:127.0.0.1", EXACT),
        ("::ffff:127.0.0.1", "127.0.0.1", EXACT),
        ("127.0.0.1", "::ffff:0.0.0.0", ANY),
        ("::1", "::1", EXACT),
        ("0:0:0:0:0:0:0:1", "::1", EXACT),
        ("::1", "::", ANY),
        ("::1", "0.0.0.0", NOWHERE),
        ("::1", "127.0.0.1", NOWHERE),
        ("2001:db8::5", "::", ANY),
        ("2001:DB8::5", "2001:db8::5", EXACT),
        ("2001:db8::6", "::", NOWHERE),
        ("fe80::1%eth0", "fe80::1", EXACT),
        ("fe80::1%eth0", "::", ANY),
        ("nonsense", "0.0.0.0", NOWHERE),
        ("127.0.0.1", "nonsense", NOWHERE),
    ],
)
def test_how_closely_an_endpoint_fits(to: str, at: str, fit: int) -> None:
    assert leads(endpoint(4096, to), endpoint(4096, at), own) == fit
    assert leads(endpoint(4097, to), endpoint(4096, at), own) == NOWHERE


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("localhost", ["127.0.0.1", "::1"]),
        ("LocalHost.", ["127.0.0.1", "::1"]),
        ("box.localhost", ["127.0.0.1", "::1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("[::1]", ["::1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::", ["::1"]),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("fe80::1%eth0", ["fe80::1"]),
        ("box.example.org", []),
        ("2130706433", []),
    ],
)
def test_where_the_host_of_a_url_leads(host: str, addresses: list[str]) -> None:
    assert [each.address for each in destinations_of(host, 4096)] == addresses


class TestTheProcessThatListens:
    def test_it_is_the_one_whose_endpoint_fits_best(self) -> None:
        all_, one = holder(1, "0.0.0.0"), holder(2, "127.0.0.1")
        assert listener(destinations_of("127.0.0.1", 4096), (all_, one), own) == one
        assert listener(destinations_of("192.168.7.5", 4096), (all_, one), own) == all_

    def test_two_that_fit_equally_well_leave_it_open(self) -> None:
        assert listener(destinations_of("127.0.0.1", 4096), (holder(1, "127.0.0.1"), holder(2, "127.0.0.1"))) is None

    def test_a_name_of_two_addresses_with_a_process_on_each_leaves_it_open(self) -> None:
        one, two = holder(1, "127.0.0.1"), holder(2, "::1")
        assert listener(destinations_of("localhost", 4096), (one,), own) == one
        assert listener(destinations_of("localhost", 4096), (one, two), own) is None

    def test_one_process_on_both_addresses_of_a_name_is_one(self) -> None:
        both = holder(1, "127.0.0.1", "::1")
        assert listener(destinations_of("localhost", 4096), (both, holder(2)), own) == both

    def test_where_nothing_is_known_nobody_listens(self) -> None:
        assert listener((), (holder(1, "0.0.0.0"),), own) is None
        assert listener(destinations_of("127.0.0.1", 4096), (), own) is None


def test_the_addresses_of_this_machine() -> None:
    assert "127.0.0.1" in own_addresses()
    assert is_here(endpoint(1, "127.8.8.8"), own)
    assert is_here(endpoint(1, "192.168.7.5"), own)
    assert not is_here(endpoint(1, "192.168.7.6"), own)
    assert not is_here(endpoint(1, "nonsense"), own)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4096"),
        ("0.0.0.0", "http://127.0.0.1:4096"),
        ("::", "http://127.0.0.1:4096"),
        ("::1", "http://[::1]:4096"),
        ("192.168.7.5", "http://192.168.7.5:4096"),
    ],
)
def test_how_an_endpoint_is_asked_from_here(address: str, url: str) -> None:
    assert Endpoint(address=address, port=4096).url == url
