"""The address of a PostgreSQL database, which usually holds a password and is shown without it."""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

_HOW: Final = (
    "a database in PostgreSQL is an address such as postgresql+asyncpg://user:password@host:5432/name, in which "
    "special characters of a password are percent-encoded (%2F for /)"
)
_SCHEME: Final = re.compile(r"\s*postgres(ql)?(\+[a-z0-9_]+)?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """Where a database is, and how to log in.

    Attributes:
        place: the address without name, password and options.
    """

    place: str
    _url: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address as people write it.

        Raises:
            ValueError: it is no address, or one for another driver than asyncpg.
        """
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError:
            raise ValueError(_HOW) from None
        name = parts.path.removeprefix("/")
        if (
            not looks_like_one(text)
            or not name
            or re.search("[/@]", name)
            or parts.fragment
            or re.search(r"\s", text.strip())
        ):
            raise ValueError(_HOW)
        if parts.scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
            raise ValueError(f"{_HOW}: the driver is asyncpg")
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
        url = "postgresql+asyncpg" + text.strip()[len(parts.scheme) :]
        return cls(f"postgresql://{host}{f':{port}' if port else ''}/{name}", url)

    def reveal(self) -> str:
        """The whole address, for SQLAlchemy: never print it."""
        return self._url

    def __str__(self) -> str:
        return self.place


def looks_like_one(value: object) -> bool:
    """Whether a text means an address of PostgreSQL rather than the path of a file."""
    return isinstance(value, str) and _SCHEME.match(value) is not None


def holds_password(value: object) -> bool:
    """Whether a text that means an address contains a password."""
    if not looks_like_one(value):
        return False
    try:
        parts = urlsplit(str(value).strip())
    except ValueError:
        return True
    return bool(parts.password) or "password=" in parts.query
