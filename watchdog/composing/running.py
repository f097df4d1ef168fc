"""Asks the watchdog that runs, as one of its own user's programs: it has heard the feeds, and its clocks are older.

Its answers are those of the HTTP API, over its socket; here they become the values that a command shows.
"""

import http.client
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread

from watchdog import errors
from watchdog.acting.undo import Undoing
from watchdog.composing import own_socket
from watchdog.composing.files import locate
from watchdog.composing.own_socket import Running
from watchdog.errors import ServerAnswerInvalid, ServerUnreachable, WatchdogError
from watchdog.explaining.values import Explanation
from watchdog.model.interventions import InterventionId
from watchdog.model.outcome import Outcome
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.operating.problems import OF_ERRORS
from watchdog.operating.release import Deletion
from watchdog.reporting.documents import milliseconds, read_outcomes
from watchdog.reporting.explain_documents import read_explanation
from watchdog.reporting.journal_documents import History, read_undone
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded

if TYPE_CHECKING:
    from watchdog.operating.requests import CarryOut

API: Final = "/api/v1"
_SECONDS: Final = 60.0
"""How long an answer may take: one that takes longer comes as a link."""
_FIRST_SECONDS: Final = 5.0
"""How long it may take to say what it does: it knows that, so one that needs longer stands still."""
_FIRST_LOOK_TRIES: Final = 50
_PAUSE_SECONDS: Final = 0.2
_MOST_POLLS: Final = 10
_PAGE: Final = 200
_LONGEST_REASON: Final = 500
_PERHAPS: Final = "It may have been done: `history` shows it."
_SESSION_ID: Final = r"ses_[A-Za-z0-9_-]{1,60}"
_ERRORS: Final = {name: kind for kind, name, _ in OF_ERRORS}

Document = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningWatchdog:
    """A watchdog that runs, and what it said of itself first."""

    at: Running
    status: Document

    @property
    def acts(self) -> bool:
        """Whether it may act."""
        return bool(self.status["mandate"] == "acting")

    @property
    def words(self) -> str:
        """Whose view the result of a command is."""
        return f"as the running watchdog, pid {self.at.pid}, sees it; --direct takes a look of its own"

    @property
    def deed(self) -> str:
        """Who did what a command asked for."""
        return f"done by the running watchdog, pid {self.at.pid}; --direct does it without that one"

    def check_journal(self, place: str) -> None:
        """Check that it keeps this journal: a number names an intervention of one journal.

        Raises:
            UsageError: it keeps another one.
        """
        if self.status["journal"] != place:
            other = self.status["journal"] or "no journal"
            raise errors.UsageError(
                f"The running watchdog, pid {self.at.pid}, keeps {other}, and this command reads {place}. Name that "
                "one (the setting `journal`), or use --direct."
            )

    @property
    def looks(self) -> bool:
        """Whether its last look is of a short time ago: its loop ticks, and the database can be used."""
        return bool(self.status["ticking"])

    async def sessions(self) -> Document:
        """Its last look.

        Raises:
            WatchdogError: as the API says; `ServerUnreachable` if it gives no answer.
        """
        return await _asked(self.at, "GET", f"{API}/sessions")

    async def explanation(self, session_id: SessionId) -> tuple[Document, Explanation]:
        """Why a session is stuck or left alone, as it sees it.

        Raises:
            WatchdogError: as the API says; `ServerUnreachable` if it gives no answer.
        """
        document = await _asked(self.at, "GET", _route(session_id))
        return document, _read(read_explanation, document)

    async def release(
        self, session_id: SessionId, *, reason: str | None, below: bool, agreed: tuple[SessionId, ...] = ()
    ) -> tuple[Outcome, ...]:
        """See `Leader.release`."""
        if reason is not None and len(reason) > _LONGEST_REASON:
            raise errors.UsageError(f"A reason has at most {_LONGEST_REASON} characters; --direct takes any.")
        path = f"{_route(session_id)}/release"
        body = {"reason": reason, "below": below, "agreed": [*agreed]}
        return _read(read_outcomes, await _asked(self.at, "POST", path, body))

    async def undo(self, number: InterventionId) -> Undoing:
        """See `Leader.undo`."""
        return _read(read_undone, await _asked(self.at, "POST", f"{API}/interventions/{number}/undo", {}))

    async def hold(self, session_id: SessionId, *, length_ms: int | None) -> Document:
        """Have a session left alone, or everything (`EVERYTHING`); for a while, or until somebody ends it.

        Raises:
            WatchdogError: as the API says; `ServerUnreachable` if it gives no answer.
        """
        body = {} if length_ms is None else {"for": length_ms / 1000}
        return await _asked(self.at, "POST", _of(session_id, "hold", "pause"), body)

    async def unhold(self, session_id: SessionId) -> Document:
        """Have a hold ended: of a session, or of everything (`EVERYTHING`).

        Raises:
            WatchdogError: as the API says; `ServerUnreachable` if it gives no answer.
        """
        return await _asked(self.at, "POST", _of(session_id, "unhold", "resume"), {})

    async def delete_message(self, session_id: SessionId, message_id: str) -> Deletion:
        """Have a message deleted, and its session released before that if it is busy.

        Raises:
            WatchdogError: as the API says; `ServerUnreachable` if it gives no answer.
        """
        path = f"{_route(session_id)}/messages/{quote(message_id, safe='')}"
        return _read(_deletion, await _asked(self.at, "DELETE", path))

    async def history(self, session_id: SessionId | None, *, since_ms: int | None) -> Document:
        """What was done, the newest first, and what is on hold: the document of `history --json`.

        Raises:
            WatchdogError: as the API says; `ServerUnreachable` if it gives no answer.
        """
        only = "" if session_id is None else f"&session_id={_route(session_id).rpartition('/')[2]}"
        whole = page = await _asked(self.at, "GET", f"{API}/interventions?limit={_PAGE}{only}")
        found = [*page["interventions"]]
        while page["next"] is not None and (since_ms is None or milliseconds(found[-1]["began_at"]) >= since_ms):
            page = await _asked(self.at, "GET", page["next"])
            found += page["interventions"]
        young = [each for each in found if since_ms is None or milliseconds(each["began_at"]) >= since_ms]
        return {**{name: whole[name] for name in History.model_fields}, "interventions": young}

    async def intervention(self, number: InterventionId) -> Document:
        """One of them with its rows: the document of `history ID --json`.

        Raises:
            WatchdogError: as the API says; `ServerUnreachable` if it gives no answer.
        """
        return await _asked(self.at, "GET", f"{API}/interventions/{number}")

    def answer_for(self, carry_out: "CarryOut") -> None:
        """See `Leader.answer_for`: a command never acts for others."""


def _unheard(_: str) -> None:
    """Nobody is told."""


async def running_watchdog(loaded: Loaded, tell: Callable[[str], None] = _unheard) -> RunningWatchdog | None:
    """The watchdog that runs on the database of the settings; one that acts comes first.

    None if there is none, or if it gives no answer.

    Args:
        tell: is told, in a sentence, of one that gives no answer.

    Raises:
        DatabaseError: there is no database.
        SettingsError: there are several and no choice was made.
    """
    database = locate(loaded)
    if isinstance(database, PostgresUrl):
        return None
    found = [await _first_answer(each, tell) for each in own_socket.running(database, os.environ, home())]
    answering = [each for each in found if each is not None]
    return min(answering, key=lambda each: not each.acts, default=None)


async def _first_answer(at: Running, tell: Callable[[str], None]) -> RunningWatchdog | None:
    """A watchdog that says what it does; one that has just begun gets the time for its first look."""
    for left in range(_FIRST_LOOK_TRIES, -1, -1):
        try:
            return RunningWatchdog(at=at, status=await _asked(at, "GET", f"{API}/status", seconds=_FIRST_SECONDS))
        except errors.Busy as error:
            if not left:
                tell(f"{error} This command looks by itself.")
        except WatchdogError as error:
            if not at.is_left():
                tell(f"{error} This command looks by itself.")
            return None
        await anyio.sleep(_PAUSE_SECONDS)
    return None


async def _asked(
    at: Running, method: str, path: str, body: Document | None = None, *, seconds: float = _SECONDS
) -> Document:
    """The document that answers a request, once what it asks for is over."""
    status, document = await _sent(at, method, path, body, seconds=seconds)
    while status == http.HTTPStatus.ACCEPTED:
        await anyio.sleep(_PAUSE_SECONDS)
        answered, operation = await _polled(at, f"{API}/operations/{document['operation_id']}")
        if answered != http.HTTPStatus.OK:
            raise ServerAnswerInvalid(f"{operation.get('detail', 'It gives no answer.')} {_PERHAPS}")
        if operation.get("problem") is not None:
            status, document = int(operation["problem"]["status"]), operation["problem"]
        elif operation.get("document") is not None:
            status, document = http.HTTPStatus.OK, operation["document"]
    if status != http.HTTPStatus.OK:
        name, says = str(document.get("type", "")).rpartition(":")[2], str(document.get("detail", ""))
        kind = _ERRORS.get(name, ServerAnswerInvalid)
        raise kind.__new__(kind, says or f"The running watchdog, pid {at.pid}, answers with status {status}.")
    return document


async def _polled(at: Running, path: str) -> tuple[int, Document]:
    """How something is that goes on, whoever asks about it."""
    for left in range(_MOST_POLLS, -1, -1):
        try:
            return await _sent(at, "GET", path)
        except ServerUnreachable as error:
            if not left:
                raise ServerUnreachable(f"{error} {_PERHAPS}") from error
        await anyio.sleep(_PAUSE_SECONDS)
    raise AssertionError("the last try answers or raises")


async def _sent(
    at: Running, method: str, path: str, body: Document | None = None, *, seconds: float = _SECONDS
) -> tuple[int, Document]:
    """The status and the document of one answer.

    Raises:
        ServerUnreachable: it gives none.
        ServerAnswerInvalid: it is no document.
    """
    connection = _Connection(at, seconds)
    who = f"The running watchdog, pid {at.pid},"
    try:
        status, content = await anyio.to_thread.run_sync(
            _exchange, connection, method, path, body, abandon_on_cancel=True
        )
        document: Document = dict(json.loads(content))
    except anyio.get_cancelled_exc_class():
        connection.hang_up()  # else its thread would wait on
        raise
    except TimeoutError as error:
        perhaps = connection.perhaps(method)
        raise ServerUnreachable(f"{who} has given no answer for {connection.timeout:g} s.{perhaps}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ServerUnreachable(f"{who} gives no answer: {reason}.{connection.perhaps(method)}") from error
    except (ValueError, TypeError) as error:
        raise ServerAnswerInvalid(f"{who} answers what can't be read.{connection.perhaps(method)}") from error
    return status, document


def _route(session_id: SessionId) -> str:
    """The route of a session.

    Raises:
        NoSuchSession: no session has such an id.
    """
    if not re.fullmatch(_SESSION_ID, session_id):
        raise errors.NoSuchSession(session_id)
    return f"{API}/sessions/{session_id}"


def _of(session_id: SessionId, one: str, everything: str) -> str:
    """The route for a session, or for everything."""
    if session_id == EVERYTHING:
        return f"{API}/{everything}"
    return f"{_route(session_id)}/{one}"


def _deletion(document: Document) -> Deletion:
    return Deletion(
        session_id=SessionId(document["session_id"]),
        message_id=document["message_id"],
        outcomes=read_outcomes(document),
        gone=document["deleted"],
    )


class _Connection(http.client.HTTPConnection):
    """HTTP over the socket of a watchdog."""

    def __init__(self, at: Running, seconds: float) -> None:
        super().__init__("opencode-watchdog", timeout=seconds)
        self._at = at
        self._reached = False
        self.sock: socket.socket

    def connect(self) -> None:
        """Connect to its socket."""
        self.sock = self._at.connect()
        self._reached = True
        self.sock.settimeout(self.timeout)

    def perhaps(self, method: str) -> str:
        """What a lost answer leaves open, after a space: a question changes nothing."""
        return f" {_PERHAPS}" if self._reached and method != "GET" else ""

    def hang_up(self) -> None:
        """Have whoever waits for an answer wait no more."""
        with suppress(OSError, AttributeError):  # it is not connected
            self.sock.shutdown(socket.SHUT_RDWR)


def _exchange(connection: _Connection, method: str, path: str, body: Document | None) -> tuple[int, bytes]:
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, body=sent, headers={"Content-Type": "application/json"} if sent else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _read(read: Callable[[Document], Value], document: Document) -> Value:
    """A value from a document.

    Raises:
        ServerAnswerInvalid: it is of another version.
    """
    try:
        return read(document)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerAnswerInvalid(
            "The running watchdog is of another version, and its answer can't be read: restart it, or use --direct."
        ) from error
