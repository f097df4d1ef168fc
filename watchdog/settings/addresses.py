"""Addresses to listen at, and the names that requests may use."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

_HOW: Final = "it is an address and a port, such as 127.0.0.1:4097 or [::1]:4097, or off"
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_MOST_PORT: Final = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: an IP address without brackets, or `localhost`.
        port: 1 to 65535.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse an address as people write it.

    Raises:
        ValueError: it is no address; the text shows what one looks like.
    """
    host, separator, port = text.strip().rpartition(":")
    if not separator or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 1 <= int(port) <= _MOST_PORT:
        raise ValueError(_HOW)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(_HOW)
    if host != "localhost" and not is_ip(host):
        raise ValueError(_HOW)
    return Address(host=host, port=int(port))


def is_ip(host: str) -> bool:
    """Whether a host is an IP address and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address, or the name of one."""
    return host == "localhost" or (is_ip(host) and ip_address(host).is_loopback)


def host_of(value: str) -> str | None:
    """The host that a `Host` header names, in small letters and without brackets and port; None if it names none."""
    try:
        parts = urlsplit(f"//{value}")
        _ = parts.port  # raises for a text that names none
    except ValueError:
        return None
    odd = parts.path or parts.query or parts.fragment or "@" in value
    return None if odd or not parts.hostname else parts.hostname


def parse_name(value: object) -> str:
    """The name or address of a host, without a port.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not (_NAME.fullmatch(value.strip()) or is_ip(value.strip())):
        raise ValueError("a host is a name or an IP address without a port, such as watchdog.example.org")
    return value.strip().lower()


def parse_origin(value: object) -> str:
    """The origin of a page: scheme, host, and a port that is not the scheme's own (RFC 6454).

    Raises:
        ValueError: it is none.
    """
    how = "an origin is a scheme and a host, such as https://ui.example.org, and nothing behind it"
    if not isinstance(value, str):
        raise ValueError(how)  # noqa: TRY004 - pydantic collects a ValueError, and no TypeError
    try:
        parts = urlsplit(value.strip().rstrip("/"))
        port = parts.port
    except ValueError:
        raise ValueError(how) from None
    odd = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in {"http", "https"} or not parts.hostname or odd:
        raise ValueError(how)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    own = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in (None, own) else f":{port}")
