"""opencode's HTTP API. Every error of httpx, and every wrong answer, leaves here as a `ServerError`."""

import json
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import anyio
import httpx

from watchdog.errors import (
    ServerAnswerInvalid,
    ServerError,
    ServerSilent,
    ServerUnreachable,
    SettingsError,
)
from watchdog.model.moments import Moment
from watchdog.model.outcome import Row
from watchdog.model.report import Endpoint, Holders, Listener, Served, Witness
from watchdog.model.session import Activity, Ask, AskKind, ServerName, SessionId, Status, TurnId
from watchdog.observing.endpoints import destinations_of
from watchdog.opencode.http import tls
from watchdog.opencode.http.doors import Door
from watchdog.opencode.http.exchange import Answer, Exchange
from watchdog.opencode.http.feed import Feed
from watchdog.opencode.http.peers import Ends
from watchdog.opencode.http.shapes import heed, message_path, part_of, read_ask, read_status, read_turn, session_path
from watchdog.opencode.http.troubles import refused, translated, unexpected
from watchdog.opencode.http.trust import Credentials, Trust
from watchdog.opencode.http.versions import KNOWN_VERSIONS, VOUCHING_VERSION, number_of
from watchdog.opencode.http.wire import Wire
from watchdog.opencode.processes.listeners import listener_at
from watchdog.ports import Counter
from watchdog.sharing import SingleFlight, gathered

TIMEOUT_SECONDS: Final = 5.0
ABORT_TIMEOUT_SECONDS: Final = 10.0
READ_TIMEOUT_SECONDS: Final = 30.0
"""For a session's messages, which can be megabytes."""

_OK, _BAD_REQUEST, _NOT_FOUND, _CONFLICT, _BROKEN = 200, 400, 404, 409, 500
_MOST_CONNECTIONS: Final = 64
_MOST_URLS: Final = 256
_FIRST_TRY: Final = 0.2  # of the time limit, for the first of two questions
_OLD_REFUSALS: Final = frozenset({_BAD_REQUEST, _BROKEN})
_REFUSALS: Final = frozenset({401, 403})
_HIGHEST_PORT: Final = 65_535
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_TRANSLATED: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict, OSError, ValueError)


class OpencodeServer:
    """One opencode server, asked over HTTP through routes that every supported version has.

    Args:
        url: its base URL; credentials inside it win over the other two, and never show in its name.
        clock: times what its feed hears, and its connections.
        rng: spreads the feed's attempts to connect.
        username: for basic authentication, if there is a password.
        password: never shown, logged or part of an error; sent only to a server that asks for it and may get it.
        trust: who may get it; by default found out from the listener.
        server_ca: a file of certificates to trust besides the usual ones.
        timeout_seconds: for one request as a whole.
        abort_timeout_seconds: for an abort.
        read_timeout_seconds: for reading all the messages of a session.
        on_change: a callback for the feed.
        transport: what carries the requests, instead of the network; it is never a proxy.
        door: a socket that is connected to instead of the URL.

    Raises:
        SettingsError: the URL can't be asked, or the file holds no certificate.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Counter,
        rng: random.Random,
        username: str = "opencode",
        password: str | None = None,
        trust: Trust | None = None,
        server_ca: Path | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        abort_timeout_seconds: float = ABORT_TIMEOUT_SECONDS,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        on_change: Callable[[], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        door: Door | None = None,
    ) -> None:
        base, username, password = _split(url, username, password)
        self._base = base
        self._leads_to = destinations_of(base.host, base.port or _DEFAULT_PORTS[base.scheme])
        self._trust = Trust() if trust is None else trust
        self._timeout_seconds = timeout_seconds
        self._abort_timeout_seconds = abort_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._client = httpx.AsyncClient(
            base_url=base,
            transport=Wire(
                credentials=Credentials(username=username, password=password) if password else None,
                trust=self._trust,
                clock=clock,
                tls=tls.context(server_ca) if base.scheme == "https" else None,
                transport=transport,
                door=door,
            ),
            headers={"accept-encoding": "identity"},
            # A header that it is told to keep would be sent to the next server at its address.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            # A proxy or a .netrc of the environment must not get between here and a server on loopback.
            trust_env=False,
            timeout=timeout_seconds,
        )
        # URLs that are asked again and again; building one takes as long as sending a request.
        self._url = lru_cache(_MOST_URLS)(self._made_url)
        self._version: str | None = None
        self._connections: set[Ends] = set()
        self._statuses = SingleFlight[Mapping[SessionId, Status]]()
        self._pending = SingleFlight[tuple[Ask, ...]]()
        self.feed: Final = Feed(self._client, clock=clock, rng=rng, on_change=on_change)

    def __repr__(self) -> str:
        return f"OpencodeServer({str(self.name)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections; afterwards every question raises `ServerUnreachable`."""
        await self._client.aclose()

    @property
    def name(self) -> ServerName:
        """Its base URL without credentials."""
        return ServerName(str(self._base).rstrip("/"))

    @property
    def leads_to(self) -> tuple[Endpoint, ...]:
        """Where its base URL leads. For a name, that is where its connections went so far."""
        return self._leads_to

    own = None  # it has to be proven that it serves this database
    by_folder = True

    async def listener(self) -> Listener:
        """Who listens at its address."""
        if not self._leads_to:
            with suppress(ServerError):  # only a connection shows where a name leads
                await self.version()
        return await listener_at(self._leads_to)

    async def version(self) -> str:
        """Its version; asked again after an error and on each new connection."""
        if self._version is None:
            self._version = await self._ask_version()
        return self._version

    def know(self, holders: Holders) -> None:
        """Take note of the processes that have the database open: one of them may follow another at its address."""
        self._trust.know(holders)

    async def vouches(self) -> bool:
        """Whether its version is 1.14 or later, and measured."""
        return await self.known() and number_of(await self.version()) >= VOUCHING_VERSION

    async def known(self) -> bool:
        """Whether its version is one of those that were measured: from 1.2 up to 2."""
        return KNOWN_VERSIONS[0] <= number_of(await self.version()) < KNOWN_VERSIONS[1]

    async def statuses(self, directory: str) -> Mapping[SessionId, Status]:
        """The sessions of a directory that are not idle. A status of an unknown kind is busy: in doubt, it lives."""
        return await self._statuses.ask(directory, lambda: self._ask_statuses(directory))

    async def pending_asks(self, directory: str) -> tuple[Ask, ...]:
        """The questions and permissions of a directory that wait for a human."""
        return await self._pending.ask(directory, lambda: self._ask_pending(directory))

    async def abort(self, served: Served, session_id: SessionId, directory: str) -> None:
        """Tell it to end what the session does now. Its answer proves nothing: it agrees to everything."""
        heed(self.name, served, session_id)
        answer = await self._ask(
            "POST", f"{session_path(session_id)}/abort", directory, seconds=self._abort_timeout_seconds
        )
        if self._json(answer) is not True:
            raise ServerAnswerInvalid(f"{self.name} did not agree to the abort.")

    async def reject(self, served: Served, ask: Ask, directory: str) -> None:
        """Turn down a question or a permission, as a person would; only true counts as an answer."""
        heed(self.name, served, ask.session_id)
        if ask.kind is AskKind.QUESTION:
            path, content = f"/question/{quote(ask.id, safe='')}/reject", None
        else:
            path, content = f"/permission/{quote(ask.id, safe='')}/reply", b'{"reply":"reject"}'
        answer = await self._ask("POST", path, directory, content=content)
        if self._json(answer) is not True:
            raise unexpected(answer, name=self.name)

    async def copy(self, session_id: SessionId, turn_id: TurnId, directory: str) -> tuple[Row, ...] | None:
        """A turn with its parts, as it has them; None if it says that it has no such turn."""
        answer = await self._ask("GET", message_path(session_id, turn_id), directory)
        if answer.status == _NOT_FOUND:
            return None
        try:
            return read_turn(self._object(answer))
        except (TypeError, KeyError):
            raise ServerAnswerInvalid(f"{self.name} answered with a turn that can't be read.") from None

    async def publish(self, served: Served, row: Row, directory: str) -> None:
        """Write the identical row of a part once more for its clients to hear.

        Its own copy already reads like that.
        """
        heed(self.name, served, row.session_id)
        part = part_of(row)
        if part is None:
            raise ServerAnswerInvalid(f"{row.id} is no part that could be published through {self.name}.")
        copy = await self.copy(row.session_id, row.message_id, directory) or ()
        if not any(each.id == row.id and each.table == row.table and each.says(row.data) for each in copy):
            raise ServerAnswerInvalid(f"{self.name} was not told of {row.id}: its own copy reads otherwise.")
        path = f"{message_path(row.session_id, row.message_id)}/part/{quote(row.id, safe='')}"
        # ASCII with escapes: half a surrogate pair, which a cut-off output may hold, has no UTF-8.
        self._json(await self._ask("PATCH", path, directory, content=json.dumps(part).encode("ascii")))

    async def readable(self, served: Served, session_id: SessionId, directory: str) -> bool:
        """Whether it can read the session's messages: 200 is yes, 400 is no."""
        heed(self.name, served, session_id)
        path = f"{session_path(session_id)}/message"
        answer = await self._ask("GET", path, directory, seconds=self._read_timeout_seconds, keep=False)
        if answer.status == _BAD_REQUEST:
            return False
        if answer.status != _OK or "json" not in answer.content_type:
            raise unexpected(answer, name=self.name)
        return True

    async def delete_message(self, served: Served, session_id: SessionId, message_id: str, directory: str) -> None:
        """Delete a message; a session that is busy is an error that says so."""
        heed(self.name, served, session_id)
        answer = await self._ask("DELETE", message_path(session_id, message_id), directory)
        busy = answer.status == _CONFLICT or (answer.status in _OLD_REFUSALS and b"is busy" in answer.body)
        if not busy and answer.status == _BAD_REQUEST:
            busy = session_id in await self.statuses(directory)  # 1.15 gives no reason
        if busy:
            raise ServerAnswerInvalid(f"{self.name} can't delete {message_id}: session {session_id} is busy.")
        if answer.status == _NOT_FOUND:
            raise ServerAnswerInvalid(f"{self.name} knows no message {message_id} in session {session_id}.")
        self._json(answer)

    def witness(self) -> Witness:
        """How well its event feed is heard."""
        return self.feed.witness()

    def life(self) -> Mapping[SessionId, Moment]:
        """The last sign of life of each session on its feed."""
        return self.feed.life()

    def forget(self, keep: Collection[SessionId]) -> None:
        """See `Feed.forget`."""
        self.feed.forget(keep)

    def busy_directories(self) -> frozenset[str]:
        """The directories in which its feed shows a session at work."""
        return self.feed.busy_directories()

    async def _ask_version(self) -> str:
        health = self._object(await self._ask("GET", "/global/health", None))
        version = health.get("version")
        if health.get("healthy") is not True or not isinstance(version, str) or not version:
            raise ServerAnswerInvalid(f"{self.name} does not answer as an opencode server does.")
        return version[:64]

    async def _ask_statuses(self, directory: str) -> Mapping[SessionId, Status]:
        found = self._object(await self._get("/session/status", directory))
        statuses = {SessionId(key): read_status(value) for key, value in found.items()}
        return {key: status for key, status in statuses.items() if status.activity is not Activity.IDLE}

    async def _ask_pending(self, directory: str) -> tuple[Ask, ...]:
        questions, permissions = await gathered(
            lambda: self._asks("/question", AskKind.QUESTION, directory),
            lambda: self._asks("/permission", AskKind.PERMISSION, directory),
        )
        return (*questions, *permissions)

    async def _asks(self, path: str, kind: AskKind, directory: str) -> list[Ask]:
        found = self._json(await self._get(path, directory))
        if not isinstance(found, list):
            raise ServerAnswerInvalid(f"{self.name} answered {path} with something that is no list.")
        try:
            return [read_ask(each, kind) for each in found]
        except (TypeError, KeyError):
            raise ServerAnswerInvalid(f"{self.name} answered {path} with an ask that can't be read.") from None

    def _made_url(self, path: str, directory: str | None) -> httpx.URL:
        """The URL of a question. opencode decodes a folder twice: `a%20b` would become `a b`, which is idle."""
        parameters = None if directory is None else {"directory": directory.replace("%", "%25")}
        return self._client.build_request("GET", path, params=parameters).url

    async def _get(self, path: str, directory: str) -> Answer:
        """Ask, and ask again: in the first moments after it listens, a server never answers some questions."""
        for share in (_FIRST_TRY, 1 - _FIRST_TRY):
            try:
                return await self._ask("GET", path, directory, seconds=self._timeout_seconds * share)
            except ServerSilent:
                continue
        raise ServerSilent(f"{self.name} did not answer within {self._timeout_seconds:g} s.")

    async def _ask(
        self,
        method: str,
        path: str,
        directory: str | None,
        *,
        content: bytes | None = None,
        seconds: float | None = None,
        keep: bool = True,
    ) -> Answer:
        """Send one request and read its whole answer, within a time limit for both together."""
        limit = self._timeout_seconds if seconds is None else seconds
        exchange = Exchange()
        try:
            with anyio.fail_after(limit):
                request = self._client.build_request(
                    method,
                    self._url(path, directory),
                    content=content,
                    headers=None if content is None else {"content-type": "application/json"},
                    timeout=limit,
                )
                answer = await exchange.run(self._client, request, keep=keep)
        except (TimeoutError, httpx.TimeoutException) as error:
            self._version = None
            raise ServerSilent(f"{self.name} did not answer within {limit:g} s.") from error
        except _TRANSLATED as error:
            self._version = None
            raise translated(error, name=self.name, host=self._base.host, begun=exchange.begun) from error
        except RuntimeError as error:
            if not self._client.is_closed:
                raise
            raise ServerUnreachable(f"{self.name} is not watched any more.") from error
        self._recognise(exchange.ends)
        if answer.status in _REFUSALS:
            self._version = None
            raise refused(answer, name=self.name)
        return answer

    def _recognise(self, ends: Ends | None) -> None:
        """Another program may answer on a new connection: what is known of the version ends with the old one."""
        if ends is None or ends in self._connections:
            return
        self._connections = {*self._connections, ends} if len(self._connections) < _MOST_CONNECTIONS else {ends}
        self._leads_to = (ends.far,)
        self._version = None

    def _json(self, answer: Answer) -> object:
        if answer.status != _OK:
            raise unexpected(answer, name=self.name)
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            if "html" in answer.content_type:
                raise unexpected(answer, name=self.name) from None
            raise ServerAnswerInvalid(f"{self.name} answered with something that is not JSON.") from None

    def _object(self, answer: Answer) -> dict[str, Any]:
        found = self._json(answer)
        if not isinstance(found, dict):
            raise ServerAnswerInvalid(f"{self.name} answered with JSON that is not an object.")
        return found


def _split(url: str, username: str, password: str | None) -> tuple[httpx.URL, str, str | None]:
    shown = url.rpartition("@")[2]
    try:
        parsed = httpx.URL(url)
        reachable = bool(parsed.host) and (parsed.port is None or 0 < parsed.port <= _HIGHEST_PORT)
        usable = parsed.scheme in _DEFAULT_PORTS and reachable and not parsed.query and not parsed.fragment
    except (httpx.InvalidURL, ValueError, TypeError):
        usable = False
        parsed = httpx.URL("http://localhost")
    if not usable:
        raise SettingsError(f"The server {shown!r} is no address of the form http://HOST:PORT.")
    if parsed.userinfo:
        username, password = parsed.username or username, parsed.password or password
    return parsed.copy_with(userinfo=b""), username, password
