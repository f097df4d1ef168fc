"""Who may ask: the token, the names of the API, the pages that may call it, how much and how often. Pure."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.datastructures import Headers

from watchdog.control.access.keys import Keys, same
from watchdog.control.access.problems import Problem
from watchdog.settings.addresses import host_of, is_ip, is_loopback, parse_origin

_TOO_MANY: Final = 429
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
HEALTH: Final = frozenset({"/healthz", "/readyz"})
"""Always answered: a probe that is turned away ends the watchdog. An answer costs no more than a refusal."""
DOORS: Final = frozenset({"/door/proof", "/door/session"})
"""The routes for `page` and its link, both without the token."""
READABLE: Final = frozenset(
    {"/api/v1/state", "/api/v1/state/events", "/api/v1/events", "/api/v1/status", "/api/v1/sessions", "/api/v1/drain"}
    | {"/api/v1/openapi.json", "/metrics"}
)
"""What the token that can only read lets see, and each session: nothing of what was said in one."""
_SESSION: Final = "/api/v1/sessions/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much a client may ask.

    Attributes:
        body_bytes: the most that a request's body may hold.
        rate: requests a second of one client address; `burst` at once.
        doubtful_rate: the same for requests without the right token, `doubtful_burst` at once.
        clients: how many addresses are told apart; the one that was silent longest is forgotten first.
        body_seconds: how long a request's body may take.
        patience_seconds: how long a client waits for an operation before it gets the link to it.
        refusal_seconds: how long a client that asks too often waits for each refusal: an answer at once would be an
            invitation to the next request, and the watchdog would do nothing else.
        health_seconds: how long it waits for an answer about health, which is never refused.
    """

    body_bytes: int = 16 * 1024
    rate: float = 20.0
    burst: float = 200.0
    doubtful_rate: float = 2.0
    doubtful_burst: float = 40.0
    clients: int = 1024
    body_seconds: float = 10.0
    patience_seconds: float = 5.0
    refusal_seconds: float = 1.0
    health_seconds: float = 0.25


class Bucket:
    """A token bucket for each client address: so many at once, and so many a second after that."""

    def __init__(self, *, rate: float, burst: float, clients: int) -> None:
        self._rate, self._burst, self._clients = rate, burst, clients
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now_seconds: float) -> float:
        """Take one. Returns 0, or the seconds after which there is one again."""
        left, at = self._left.pop(client, (self._burst, now_seconds))
        left = min(self._burst, left + max(0.0, now_seconds - at) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._left[client] = (left if wait else left - 1, now_seconds)
        while len(self._left) > self._clients:
            self._left.popitem(last=False)
        return wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The names that this API goes by, and the foreign pages that may call it.

    Attributes:
        hosts: names and addresses beside the loopback ones, in small letters.
        any_address: any IP address counts: a page whose name points here does not use an address.
        origins: of foreign pages, as browsers write them.
    """

    hosts: Collection[str] = ()
    any_address: bool = False
    origins: Collection[str] = ()

    def knows(self, hosts: Sequence[str]) -> bool:
        """Whether a request has exactly one `Host` header, and that names this API."""
        host = host_of(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return False
        return is_loopback(host) or host in self.hosts or (self.any_address and is_ip(host))

    def takes(self, headers: Headers, *, reading: bool) -> bool:
        """Whether a request comes from no page, from this API's own one, or from a listed one."""
        origins = headers.getlist("origin")
        if origins:
            return len(origins) == 1 and (origins[0] in self.origins or _is_own(origins[0], headers.get("host", "")))
        # A browser names no origin when it opens a link, wherever the link is.
        if headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
            return True
        return reading and headers.get("sec-fetch-mode") == "navigate"


def _is_own(origin: str, host: str) -> bool:
    """Whether an origin is that of the API itself. A proxy in front of it may speak TLS."""
    try:
        own = {parse_origin(f"{scheme}://{host}") for scheme in ("http", "https")}
        return parse_origin(origin) in own
    except ValueError:
        return False


@dataclass(kw_only=True)
class Gate:
    """Decides whether to let a request in. Pure except for the counts of its buckets.

    Attributes:
        keys: the keys to show.
        open_paths: paths that need no token; one that ends with `/` stands for everything below it.
        reader: the token that can only read, if there is one.
    """

    keys: Keys = field(repr=False)
    names: Names
    bounds: Bounds
    open_paths: Collection[str]
    reader: str | None = field(default=None, repr=False)
    _known: Bucket = field(init=False)
    _doubtful: Bucket = field(init=False)
    _open: Bucket = field(init=False)

    def __post_init__(self) -> None:
        bounds = self.bounds
        self._known = Bucket(rate=bounds.rate, burst=bounds.burst, clients=bounds.clients)
        self._doubtful = Bucket(rate=bounds.doubtful_rate, burst=bounds.doubtful_burst, clients=bounds.clients)
        self._open = Bucket(rate=bounds.rate, burst=bounds.burst, clients=bounds.clients)
        self._health = Bucket(rate=bounds.rate, burst=bounds.burst, clients=bounds.clients)

    def objection(
        self, *, method: str, path: str, headers: Headers, admitted: bool, client: str, now_seconds: float
    ) -> Problem | None:
        """The objection to a request, or None. `admitted` is what `admits` says of its headers."""
        if not self.names.knows(headers.getlist("host")):
            return Problem(
                name="foreign-host",
                status=403,
                detail="The Host header names neither a loopback address nor a host in control_hosts.",
            )
        reading = method in _READING
        if not self.names.takes(headers, reading=reading):
            return Problem(
                name="foreign-origin",
                status=403,
                detail="The request comes from a page that is not in control_origins.",
            )
        if method == "OPTIONS" and headers.get("origin") in self.names.origins:
            return _too_many(self._open.take(client, now_seconds))  # a preflight request can't show a token
        if reading and path in HEALTH:
            return None
        if reading and self._is_open(path):
            return _too_many(self._open.take(client, now_seconds), closing=True)
        if method == "POST" and path in DOORS:
            return _too_many(self._doubtful.take(client, now_seconds))
        if not admitted:
            return _too_many(self._doubtful.take(client, now_seconds)) or Problem(
                name="unauthorized",
                status=401,
                detail="Send the header Authorization: Bearer TOKEN; for the page, run `opencode-watchdog page`.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return _too_many(self._known.take(client, now_seconds)) or self._beyond_reading(
            headers, path, reading=reading
        )

    def _beyond_reading(self, headers: Headers, path: str, *, reading: bool) -> Problem | None:
        """The objection to what a token that can only read is shown for."""
        if (
            self.reader is None
            or self.keys.admits(_shown(headers))
            or (reading and (path in READABLE or path.startswith(_SESSION)))
        ):
            return None
        return Problem(
            name="read-only",
            status=403,
            detail="control_read_token neither changes anything nor shows the journal: that takes control_token.",
        )

    def pause_seconds(self, problem: Problem | None, *, path: str, client: str, now_seconds: float) -> float:
        """How long an answer waits."""
        if problem is not None:
            return self.bounds.refusal_seconds if problem.status == _TOO_MANY else 0.0
        if path in HEALTH and self._health.take(client, now_seconds):
            return self.bounds.health_seconds
        return 0.0

    def _is_open(self, path: str) -> bool:
        return path in self.open_paths or any(
            path.startswith(each) for each in self.open_paths if each.endswith("/") and each != "/"
        )

    def admits(self, headers: Headers) -> bool:
        """Whether a request shows a token, or what a browser got for a link."""
        shown = _shown(headers)
        return self.keys.admits(shown) or (self.reader is not None and same(shown, self.reader))


def _shown(headers: Headers) -> str:
    """The token that a request shows; an empty text if it shows none."""
    values = headers.getlist("authorization")
    scheme, _, shown = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return shown.strip() if scheme.lower() == "bearer" else ""


class OwnersGate(Gate):
    """The gate of a socket that only its owner can reach: whoever asks there may ask anything, but not endlessly."""

    def objection(self, *, path: str, client: str, now_seconds: float, **_: object) -> Problem | None:
        """There is one only to a process that asks too often."""
        return None if path in HEALTH else _too_many(self._known.take(client, now_seconds), closing=True)

    def admits(self, _: Headers) -> bool:
        """Everybody."""
        return True


def _too_many(wait_seconds: float, *, closing: bool = False) -> Problem | None:
    """The answer to a client that asks too often; with `closing`, its requests in advance end with it."""
    if not wait_seconds:
        return None
    seconds = max(1, int(wait_seconds) + 1)
    return Problem(
        name="too-many-requests",
        status=_TOO_MANY,
        detail=f"Try again in {seconds} s.",
        headers={"Retry-After": str(seconds), **({"Connection": "close"} if closing else {})},
    )
