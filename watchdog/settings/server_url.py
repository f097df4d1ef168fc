"""The address of a server, with the name and the password that belong to it."""

import difflib
import json
from collections.abc import Mapping
from typing import Final, Self

from pydantic import SecretStr

KEYS: Final = ("url", "username", "password")
HOW: Final = (
    'a server is a URL such as http://127.0.0.1:4096, or a table: { url = "…", username = "…", password = "…" }'
)


class ServerUrl(str):
    """The base URL of a server: a text. The credentials are beside it and never in it.

    Attributes:
        username: its own name for basic authentication; None for the one that all servers share.
        password: the same.
    """

    __slots__ = ("password", "username")

    username: str | None
    password: SecretStr | None

    def __new__(  # noqa: D102 - see the class
        cls, url: str, *, username: str | None = None, password: SecretStr | None = None
    ) -> Self:
        made = super().__new__(cls, url)
        made.username, made.password = username, password
        return made

    @property
    def has_its_own(self) -> bool:
        """Whether it has a name or a password of its own."""
        return self.username is not None or self.password is not None

    @property
    def in_words(self) -> str:
        """The URL, and whether it has a password of its own."""
        return f"{self} (with a password of its own)" if self.password is not None else str(self)


def holds_password(servers: object) -> bool:
    """Whether the entry of a server in a file contains a password."""
    entries = servers if isinstance(servers, list) else [servers]
    return any(isinstance(each, Mapping) and bool(each.get("password")) for each in entries)


def entries(value: object) -> object:
    """A list of servers, as JSON or with commas in an environment variable.

    Raises:
        ValueError: it is no such list.
    """
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith(("[", "{")):
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("it starts like JSON but isn't") from None
        return value if isinstance(value, list) else [value]
    if isinstance(value, Mapping):
        raise ValueError("it is a list: [[servers]] begins a table of it, and [servers] does not")  # noqa: TRY004 - pydantic collects a ValueError, and no TypeError
    if not isinstance(value, list | tuple):
        raise ValueError('it is a list of URLs, such as ["http://127.0.0.1:4096"]')  # noqa: TRY004
    return value


def checked_keys(table: Mapping[object, object]) -> None:
    """Check that a server's table has what it needs, and nothing else.

    Raises:
        ValueError: it does not.
    """
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key).lower(), KEYS, n=1)
            raise ValueError(
                f"a server has no {json.dumps(str(key))}" + (f'; did you mean "{near[0]}"?' if near else "")
            )
    if "url" not in table:
        raise ValueError(f"a server has a url; {HOW}")


def without_twins(servers: tuple[ServerUrl, ...]) -> tuple[ServerUrl, ...]:
    """Each server once, in the order given; of two the one that has a password of its own.

    Raises:
        ValueError: two of them have different passwords.
    """
    kept: dict[str, ServerUrl] = {}
    for server in servers:
        first = kept.setdefault(str(server), server)
        if not server.has_its_own or _credentials(first) == _credentials(server):
            continue
        if first.has_its_own:
            raise ValueError(f"{server} is there twice, with another name or password")
        kept[str(server)] = server
    return tuple(kept.values())


def _credentials(server: ServerUrl) -> tuple[str | None, str | None]:
    password = server.password
    return server.username, None if password is None else password.get_secret_value()
