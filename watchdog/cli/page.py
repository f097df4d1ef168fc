"""The command `page`: checks who listens before it opens anything, and never sends the token."""

import json
import secrets
import webbrowser
from html import escape
from typing import Any, Final

import anyio

from watchdog.cli.serve import allowed, kept_at, noted, secret
from watchdog.console.exits import Exit
from watchdog.control.access.keys import code_of, proof_of
from watchdog.control.access.token import renew_token, write_privately
from watchdog.errors import UsageError
from watchdog.reporting.documents import VERSION
from watchdog.reporting.tables import Screen, note
from watchdog.settings.addresses import Address
from watchdog.settings.schema import Loaded

_SECONDS: Final = 5.0
_MOST_BYTES: Final = 16 * 1024
_HOSTS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104 - where it is reached


async def page(loaded: Loaded, screen: Screen, *, browse: bool, new_token: bool) -> Exit:
    """Print a link to the page that works once, within a minute, and open it in a browser if there is one.

    Without an address in the settings, it uses that of the API that was started last and is up.

    Args:
        browse: open it.
        new_token: make another token first; a `run` that is up uses it at once.

    Raises:
        SettingsError: no address is known, or there is no token.
        UsageError: nothing listens there, or something that can't prove that it knows the token; the token is a
            setting; or no browser can be shown the link.
    """
    if new_token:
        _renew(loaded)
    known = noted() if loaded.settings.control is None else None
    if new_token and known is None and loaded.settings.control is None:
        return Exit.FINE
    at = known or allowed(loaded)
    address = Address(host=_HOSTS.get(at.host, at.host), port=at.port)
    link = f"http://{address}/#code={await code_at(address, secret(loaded.settings))}"
    if screen.as_json:
        screen.document({"version": VERSION, "link": link})
    else:
        screen.verbatim(link)
    note("The link works once, within a minute.")
    if browse and not await anyio.to_thread.run_sync(webbrowser.open, _opening(link)):
        note("There is no browser here that could be opened: open the link in one.")
    return Exit.FINE


def _renew(loaded: Loaded) -> None:
    if loaded.settings.control_token is not None:
        source = loaded.sources.get("control_token", "the settings")
        raise UsageError(f"The token is the setting control_token ({source}): change it there, and restart `run`.")
    renew_token(kept_at())
    note("There is a new token. The old one is worthless, and so is every page that is open.")


async def code_at(address: Address, token: str) -> str:
    """A code that the listener at an address exchanges for a session, if it proves that it knows the token.

    Raises:
        UsageError: nothing listens there, or something that can't prove it.
    """
    nonce = secrets.token_hex(32)
    answer: object = None
    try:
        with anyio.move_on_after(_SECONDS):
            answer = await _asked(address, nonce)
    except OSError as error:
        raise UsageError(
            f"Nothing listens at {address}; start `opencode-watchdog run --control {address}`."
        ) from error
    ticket, proof = (answer.get("ticket"), answer.get("proof")) if isinstance(answer, dict) else (None, None)
    if isinstance(ticket, str) and isinstance(proof, str) and proof.isascii():
        right = proof_of(token, address=str(address), nonce=nonce, ticket=ticket)
        if secrets.compare_digest(proof, right):
            return code_of(token, ticket)
    raise UsageError(
        f"The program at {address} does not show that it knows the token, so nothing is opened, and it was told "
        "nothing. It is another program; or a watchdog with another token (control_token), behind a forwarded "
        "port (ask where it runs), of an earlier version, or asked too often (try again in a minute)."
    )


async def _asked(address: Address, nonce: str) -> Any:  # noqa: ANN401 - JSON of anybody's
    """The answer to a request for a proof; None if it is none."""
    body = json.dumps({"nonce": nonce})
    request = (
        f"POST /door/proof HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    received = b""
    async with await anyio.connect_tcp(address.host, address.port) as stream:
        try:
            await stream.send(request.encode("ascii"))
            while len(received) < _MOST_BYTES:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass  # whatever came is what it said
    head, _, said = received.partition(b"\r\n\r\n")
    try:
        return json.loads(said) if head.startswith(b"HTTP/1.1 200 ") else None
    except (ValueError, RecursionError):
        return None


def _opening(link: str) -> str:
    """A file that leads to the link, as a URL: other users could see a link among a browser's arguments."""
    path = kept_at().with_name("page.html")
    try:
        write_privately(
            path, f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={escape(link)}">\n'
        )
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{path} can't be written ({reason}); open the link above.") from error
    return path.as_uri()
