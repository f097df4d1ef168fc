"""Where processes listen, where base URLs lead, and whether the two are the same."""

import socket
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import psutil

from watchdog.model.report import Endpoint, Holder

EXACT: Final = 3
ANY: Final = 2
"""A wildcard of the same family."""
ANY_MAPPED: Final = 1
"""An IPv6 wildcard, which also takes IPv4 connections, unless it was told not to."""
NOWHERE: Final = 0

_V4, _V6 = ip_address("127.0.0.1"), ip_address("::1")

OwnAddresses = Callable[[], Collection[str]]


def own_addresses() -> frozenset[str]:
    """The IP addresses of this machine's interfaces, without zones."""
    try:
        found = [each.address for interface in psutil.net_if_addrs().values() for each in interface if _is_inet(each)]
    except (psutil.Error, OSError):
        return frozenset()
    return frozenset(str(parsed) for parsed in map(_parsed, found) if parsed is not None)


def normal(address: str) -> str:
    """An address in the one form in which equal addresses are equal: no zone, no IPv4 inside IPv6."""
    parsed = _parsed(address)
    return address if parsed is None else str(parsed)


def destinations_of(host: str, port: int) -> tuple[Endpoint, ...]:
    """Where the host of a URL leads, as far as that is known without asking anybody: an address, or `localhost`."""
    bare = host.strip("[]").rstrip(".").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return tuple(Endpoint(address=str(each), port=port) for each in (_V4, _V6))
    parsed = _parsed(bare)
    if parsed is None:
        return ()
    if parsed.is_unspecified:  # to connect to a wildcard is to connect to this machine
        parsed = _V4 if parsed.version == _V4.version else _V6
    return (Endpoint(address=str(parsed), port=port),)


def is_here(destination: Endpoint, own: OwnAddresses = own_addresses) -> bool:
    """Whether an address is one of this machine's."""
    parsed = _parsed(destination.address)
    return parsed is not None and (parsed.is_loopback or parsed.is_unspecified or str(parsed) in own())


def leads(destination: Endpoint, endpoint: Endpoint, own: OwnAddresses = own_addresses) -> int:
    """How closely a listening endpoint fits where a connection goes: `EXACT`, `ANY`, `ANY_MAPPED` or `NOWHERE`.

    If several endpoints match, the system hands a connection to the closest one.
    """
    if destination.port != endpoint.port:
        return NOWHERE
    to, at = _parsed(destination.address), _parsed(endpoint.address)
    if to is None or at is None:
        return NOWHERE
    if to == at:
        return EXACT
    if not at.is_unspecified or not is_here(destination, own):
        return NOWHERE
    if to.version == at.version:
        return ANY
    return ANY_MAPPED if isinstance(at, IPv6Address) else NOWHERE


def listener(
    destinations: Iterable[Endpoint], holders: Iterable[Holder], own: OwnAddresses = own_addresses
) -> Holder | None:
    """The process that takes the connections to these destinations; None if it is none of these, or unknown.

    Two processes may match equally well (each on one address of a name, or both on one address): then nobody knows
    which of them answers.
    """
    holders = tuple(holders)
    found: dict[int, Holder] = {}
    for destination in destinations:
        fits = {
            holder.pid: max((leads(destination, each, own) for each in holder.endpoints), default=NOWHERE)
            for holder in holders
        }
        best = max(fits.values(), default=NOWHERE)
        if best != NOWHERE:
            found |= {holder.pid: holder for holder in holders if fits[holder.pid] == best}
    return next(iter(found.values())) if len(found) == 1 else None


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped


def _is_inet(address: object) -> bool:
    return getattr(address, "family", None) in {socket.AF_INET, socket.AF_INET6}
