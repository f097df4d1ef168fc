"""Who is let in: a client that shows the token, and a browser that came by a link of `page`.

`page` asks the listener for a proof that it knows the token. The proof comes with a ticket, and only someone who
knows the token can make a code from a ticket: so neither side ever sends the token. A code works once, within a
minute, in the `run` that gave the ticket. A browser gets a session for its code, which ends with the `run`.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

CODE_SECONDS: Final = 60.0
MOST_SESSIONS: Final = 64
NONCE: Final = r"^[0-9a-f]{64}$"

_Digest = bytes


def proof_of(token: str, *, address: str, nonce: str, ticket: str) -> str:
    """The proof that the listener at an address knows the token. Relayed from another address, it is another one."""
    return _mac(token.encode(), "proof", address, nonce, ticket)


def code_of(token: str, ticket: str) -> str:
    """The code that someone who knows the token can make from a ticket."""
    return f"{ticket}.{_mac(token.encode(), 'code', ticket)}"


class Keys:
    """The keys of a `run`. Pure except for its memory.

    Args:
        token: the token now; None while there is no usable one. When it changes, everything given for the old one is
            worthless.
    """

    def __init__(self, token: Callable[[], str | None]) -> None:
        self._read = token
        self._token = token()
        self._used: dict[str, float] = {}
        self._sessions: OrderedDict[_Digest, None] = OrderedDict()
        self._seal = secrets.token_bytes(32)

    def admits(self, shown: str) -> bool:
        """Whether this is the token, or a browser's session."""
        token, digest = self._current(), _digest(shown)
        if token is not None and secrets.compare_digest(digest, _digest(token)):
            return True
        # It looks up a digest: the time that takes says nothing about what was shown.
        return digest in self._sessions

    def prove(self, *, address: str, nonce: str, now_seconds: float) -> tuple[str, str] | None:
        """A ticket, and the proof for it; None while there is no token."""
        token = self._current()
        if token is None:
            return None
        stub = f"{secrets.token_hex(16)}-{round(now_seconds * 1000)}"
        ticket = f"{stub}-{_mac(self._seal, stub)}"
        return ticket, proof_of(token, address=address, nonce=nonce, ticket=ticket)

    def session(self, code: str, *, now_seconds: float) -> str | None:
        """A session for a code; None if it is no code, is a minute old, or was used."""
        token = self._current()
        ticket = code.rpartition(".")[0]
        stub, _, seal = ticket.rpartition("-")
        if token is None or not same(seal, _mac(self._seal, stub)) or not same(code, code_of(token, ticket)):
            return None
        made_seconds = int(stub.rpartition("-")[2]) / 1000
        self._used = {each: at for each, at in self._used.items() if now_seconds - at <= CODE_SECONDS}
        if now_seconds - made_seconds > CODE_SECONDS or ticket in self._used:
            return None
        self._used[ticket] = made_seconds
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = None
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def _current(self) -> str | None:
        token = self._read()
        if token != self._token:
            self._token, self._seal = token, secrets.token_bytes(32)
            self._used.clear()
            self._sessions.clear()
        return token


def _mac(key: bytes, *parts: str) -> str:
    return hmac.new(key, "\n".join(parts).encode("utf-8", errors="surrogateescape"), "sha256").hexdigest()


def _digest(text: str) -> _Digest:
    """A digest: neither the length nor a part of what is compared shows in the time that it takes."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()


def same(one: str, other: str) -> bool:
    """Whether two secrets are the same; the time that it takes says nothing about them."""
    return secrets.compare_digest(_digest(one), _digest(other))
