"""Whatever prevented an answer, as a `ServerError` that says what to do.

The text of an httpx error is left out: it may hold an address with credentials.
"""

import socket
import ssl
from collections.abc import Iterator
from typing import Final

import httpx

from watchdog.errors import ServerAnswerInvalid, ServerError, ServerRefused, ServerUnreachable, ServerUntrusted
from watchdog.opencode.http import tls
from watchdog.opencode.http.exchange import Answer, Compressed
from watchdog.opencode.http.trust import Stranger
from watchdog.opencode.http.wire import NONE, SENT

_LONGEST_SHOWN: Final = 200
_SILENT_END: Final = "Server disconnected without sending"
_TLS_ALERT: Final = "\\x15\\x03"


def translated(error: Exception, *, name: str, host: str, begun: bool) -> ServerError:
    """The meaning of an error of the wire.

    Args:
        begun: an answer had begun.
    """
    kind = type(error).__name__
    if isinstance(error, Stranger):
        return ServerUnreachable(f"{name} is not the server that it was: {error}.")
    if isinstance(error, Compressed):
        return ServerAnswerInvalid(f"{name} answered with something compressed, which it was not asked for.")
    causes = [each for each in _chain(error) if not isinstance(each, ssl.SSLWantReadError | ssl.SSLWantWriteError)]
    of_tls = next((each for each in causes if isinstance(each, ssl.SSLError)), None)
    if of_tls is not None and not begun:
        return ServerUntrusted(f"{name} {tls.sentence(of_tls, host)}")
    if any(isinstance(each, socket.gaierror) for each in causes):
        return ServerUnreachable(f"{name} can't be reached: the name {host} can't be resolved.")
    if begun and isinstance(error, httpx.NetworkError | httpx.ProtocolError | OSError):
        return ServerAnswerInvalid(f"{name} broke off in the middle of its answer ({kind}).")
    if isinstance(error, httpx.RemoteProtocolError) and not str(error).startswith(_SILENT_END):
        return ServerAnswerInvalid(f"{name} does not speak HTTP ({kind}){_hint(error)}.")
    if isinstance(error, httpx.TransportError | httpx.InvalidURL | OSError):
        return ServerUnreachable(f"{name} can't be reached ({kind}).")
    return ServerAnswerInvalid(f"{name} gave an answer that can't be read ({kind}).")


def refused(answer: Answer, *, name: str) -> ServerRefused:
    """The meaning of a 401 or 403, and how to give the password."""
    how = (
        "`server_password` (or OPENCODE_SERVER_PASSWORD), or for this server alone "
        f'`servers = [{{ url = "{name}", username = "…", password = "…" }}]`'
    )
    if answer.status != httpx.codes.UNAUTHORIZED:
        return ServerRefused(f"{name} answered {answer.status}: it, or what is in front of it, refuses the password.")
    if answer.credentials == NONE:
        return ServerRefused(f"{name} answered 401: it asks for a password, and none is set. Set {how}.")
    if answer.credentials == SENT:
        return ServerRefused(f"{name} answered 401: the password that is set is wrong. Correct {how}.")
    return ServerRefused(f"{name} answered 401, and the password is not sent to it: {answer.credentials}.")


def unexpected(answer: Answer, *, name: str) -> ServerAnswerInvalid:
    """An answer with a status or of a kind that opencode's API does not know."""
    if answer.location is not None:
        return ServerAnswerInvalid(
            f"{name} answered {answer.status}, a redirect to {shown(answer.location, name)}, which is not followed: "
            "name the server by the address that it is at."
        )
    kind = "".join(filter(str.isprintable, answer.content_type.partition(";")[0].strip()))[:40] or "nothing"
    if "html" in kind:
        return ServerAnswerInvalid(
            f"{name} answered {answer.status} with a page ({kind}): another program, or a portal, answers there."
        )
    return ServerAnswerInvalid(f"{name} answered {answer.status} ({kind}), which its API does not promise.")


def shown(location: str, name: str) -> str:
    """Where a redirect leads, without credentials, query and anything that a terminal would obey."""
    try:
        parsed = httpx.URL(name).join(location)
        found = str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
    except (httpx.InvalidURL, ValueError, TypeError):
        return "an address that can't be read"
    return "".join(filter(str.isprintable, found))[:_LONGEST_SHOWN]


def _hint(error: Exception) -> str:
    text = str(error)
    if _TLS_ALERT in text or "\x15\x03" in text:
        return ": it speaks TLS; is it https:// instead of http://?"
    return ": the head of its answer has no end" if "too long" in text else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all its causes."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
