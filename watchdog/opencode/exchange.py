"""One request over HTTP and its answer, read whole."""

from dataclasses import dataclass
from typing import Final

import httpx

MOST_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back."""

    status: int
    content_type: str
    body: bytes


class Exchange:
    """One request and its answer; tells afterwards how far it came."""

    def __init__(self) -> None:
        self.begun = False
        self.connection: object = None
        self.peer: tuple[str, int] | None = None

    async def run(
        self,
        client: httpx.AsyncClient,
        request: httpx.Request,
        *,
        auth: httpx.BasicAuth | None,
        keep: bool,
    ) -> Answer:
        """Send it, and read the answer; without `keep` the body is read and dropped.

        Raises:
            httpx.HTTPError: it came to nothing; `begun` says whether an answer had begun.
        """
        response = await client.send(request, stream=True, auth=auth)
        self.begun = True
        try:
            stream = response.extensions.get("network_stream")
            if stream is not None:
                self.connection, self.peer = (
                    stream.get_extra_info("client_addr"),
                    stream.get_extra_info("server_addr"),
                )
            body = bytearray()
            async for chunk in response.aiter_bytes():
                if keep:
                    body += chunk
                if len(body) > MOST_BYTES:
                    raise httpx.DecodingError("an answer without an end")
        finally:
            await response.aclose()
        return Answer(
            status=response.status_code, content_type=response.headers.get("content-type", ""), body=bytes(body)
        )
