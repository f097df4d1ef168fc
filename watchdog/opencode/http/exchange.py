"""One request over HTTP and its answer, read in full."""

from dataclasses import dataclass
from typing import Final

import httpx

from watchdog.opencode.http.lines import ENDS
from watchdog.opencode.http.peers import Ends
from watchdog.opencode.http.wire import CREDENTIALS, LOCATION, NONE

MOST_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer that came back.

    Attributes:
        location: where it redirects to.
        credentials: see `wire.CREDENTIALS`.
    """

    status: int
    content_type: str
    body: bytes
    location: str | None = None
    credentials: str = NONE


class Compressed(httpx.DecodingError):
    """The answer is compressed, which nobody asked for, and could be of any size."""


class Exchange:
    """One request and its answer; says afterwards how far it came."""

    def __init__(self) -> None:
        self.begun = False
        self.ends: Ends | None = None

    async def run(self, client: httpx.AsyncClient, request: httpx.Request, *, keep: bool) -> Answer:
        """Send it, and read the answer; without `keep` the body is read and dropped.

        Raises:
            httpx.HTTPError: it failed; `begun` says whether an answer had begun.
        """
        response = await client.send(request, stream=True)
        self.begun = True
        try:
            self.ends = response.extensions.get(ENDS)
            refuse_compression(response)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                if keep:
                    body += chunk
                if len(body) > MOST_BYTES:
                    raise httpx.DecodingError("an answer without an end")
        finally:
            await response.aclose()
        return Answer(
            status=response.status_code,
            content_type=response.headers.get("content-type", ""),
            body=bytes(body),
            location=response.extensions.get(LOCATION) if httpx.codes.is_redirect(response.status_code) else None,
            credentials=response.extensions.get(CREDENTIALS, NONE),
        )


def refuse_compression(response: httpx.Response) -> None:
    """Check that an answer is as large as it looks.

    Raises:
        Compressed: it is not.
    """
    if response.headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
        raise Compressed("an answer that is compressed")
