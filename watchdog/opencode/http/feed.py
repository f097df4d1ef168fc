"""opencode's event stream, the witness of life: it shows text long before the text is stored."""

import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any, Final, NoReturn

import anyio
import anyio.abc
import httpx
import httpx_sse

from watchdog.model.moments import Moment
from watchdog.model.report import Witness
from watchdog.model.session import Activity, SessionId
from watchdog.opencode.http.exchange import refuse_compression
from watchdog.opencode.http.trust import Stranger
from watchdog.ports import Counter

PATH: Final = "/global/event"
SILENCE_SECONDS: Final = 35.0
"""Three and a half heartbeats, which come about every 10 s."""
SHORT_GAP_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
MOST_GAPS: Final = 100
MOST_SESSIONS: Final = 5_000
MOST_EVENT_BYTES: Final = 64 * 1024 * 1024

_PART_EVENTS: Final = frozenset({"message.part.updated", "message.part.delta", "message.part.removed"})
_ASK_PREFIXES: Final = ("permission.", "question.")


class Feed:
    """The events of one server's `/global/event`. It reconnects by itself, forever.

    Args:
        client: asks the server; its base URL and its credentials are used.
        clock: times what is heard, and waits between two attempts.
        rng: spreads the attempts.
        on_change: called, in the feed's task, when a status changes or an ask comes or goes.
        silence_seconds: after how much silence the connection counts as broken.

    Attributes:
        malformed: how many events could not be read.
        connections: how many connections were made so far.
        problem: why nothing is heard just now, as a sentence without secrets; None while connected.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        clock: Counter,
        rng: random.Random,
        on_change: Callable[[], None] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._client = client
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._silence_seconds = silence_seconds
        self._connected = False
        self._since: Moment | None = None
        self._heard: tuple[Moment, float] | None = None
        """When anything was heard last, and the reading then of a clock that runs on while the machine sleeps."""
        self._gaps: list[tuple[Moment, Moment]] = []
        self._life: dict[SessionId, Moment] = {}
        self._silent_since: float | None = None  # awake seconds: when it was last heard, or began to listen
        self._states: dict[SessionId, tuple[str, Any]] = {}
        self._directories: dict[SessionId, str] = {}
        self.malformed = 0
        self.connections = 0
        self.problem: str | None = "not connected yet"

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> NoReturn:
        """Listen until cancelled. Reports itself started at once: the server may be down for long."""
        task_status.started()
        self._silent_since = self._clock.read().awake_seconds
        failures = 0
        while True:
            began = self._clock.read().awake_seconds
            try:
                await self._listen()
            finally:
                self._connected = False
            lasted = self._clock.read().awake_seconds - began
            failures = 0 if lasted >= LONGEST_PAUSE_SECONDS else failures + 1
            limit = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(max(failures - 1, 0), 10))
            await self._clock.sleep(self._rng.uniform(0.0, limit))

    def witness(self) -> Witness:
        """How well the server has been heard."""
        return Witness(connected=self._connected, since=self._since, gaps=tuple(self._gaps), deaf=self._why_deaf())

    async def sample(self, seconds: float) -> str | None:
        """Listen for a moment, to see whether anything is delivered; why not, as the end of a sentence, or None."""
        with anyio.move_on_after(seconds):
            async with aclosing(self._events()) as events:
                async for _ in events:
                    return None
            return self.problem
        return f"its event stream delivered nothing within {seconds:g} s (a proxy that holds it back, perhaps)"

    def life(self) -> Mapping[SessionId, Moment]:
        """The last sign of life of each session that showed one."""
        return dict(self._life)

    def busy_directories(self) -> frozenset[str]:
        """The directories in which the feed last showed a session at work."""
        return frozenset(self._directories.values())

    def forget(self, keep: Collection[SessionId]) -> None:
        """Drop every session that is not in `keep`, except those that the feed last showed at work."""
        kept = frozenset(keep) | self._directories.keys()
        for known in (self._life, self._states):
            for session_id in [each for each in known if each not in kept]:
                known.pop(session_id, None)

    async def _listen(self) -> None:
        """Follow one connection to its end."""
        async with aclosing(self._events()) as events:
            async for text in events:
                self._hear(text)

    async def _events(self) -> AsyncGenerator[str]:
        """The events of one connection, until it ends; `problem` then says why it did."""
        try:
            async with httpx_sse.aconnect_sse(
                self._client, "GET", PATH, timeout=httpx.Timeout(5.0, read=self._silence_seconds)
            ) as source:
                if source.response.status_code != httpx.codes.OK:
                    self.problem = f"its event stream answered {source.response.status_code}"
                    return
                refuse_compression(source.response)
                body = source.response.stream = _Bounded(source.response.stream)
                async with aclosing(source.aiter_sse()) as events:
                    while True:
                        with anyio.fail_after(self._silence_seconds):
                            event = await anext(events)
                        body.length = 0
                        yield event.data
        except TimeoutError:
            self.problem = f"its event stream was silent for {self._silence_seconds:g} s"
        except StopAsyncIteration:
            self.problem = "its event stream ended"
        except httpx_sse.SSEError:
            self.problem = "it has no event stream at its address"
        except Stranger as error:
            self.problem = f"its event stream is not asked for: {error}"
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
            self.problem = f"its event stream can't be read ({type(error).__name__})"

    def _why_deaf(self) -> str | None:
        """Why nothing has been heard for as long as a connection may be silent."""
        now = self._clock.read().awake_seconds
        if self._connected or self._silent_since is None or now - self._silent_since < self._silence_seconds:
            return None
        held_back = ", as if a proxy held it back" if self.connections == 0 and "silent" in str(self.problem) else ""
        return f"{self.problem or 'its event stream is silent'}{held_back}"

    def _hear(self, text: str) -> None:
        now, reading = self._clock.now(), self._clock.read()
        if not self._connected:
            self._reconnected(now, reading.running_seconds)
        self._heard = now, reading.running_seconds
        self._silent_since = reading.awake_seconds
        if not text:
            return
        try:
            self._take(text, now)
        except (ValueError, TypeError, KeyError, RecursionError):
            self.malformed += 1

    def _reconnected(self, now: Moment, running_seconds: float) -> None:
        """Judge the gap by the last event: a cut line may have been noticed late."""
        self._connected = True
        self.problem = None
        self.connections += 1
        if self._since is None or self._heard is None or running_seconds - self._heard[1] > SHORT_GAP_SECONDS:
            self._since = now
            self._gaps.clear()
            return
        self._gaps.append((self._heard[0], now))
        if len(self._gaps) > MOST_GAPS:
            # A dropped gap must not count as heard: hearing starts where the oldest dropped gap ended.
            self._since = self._gaps[-MOST_GAPS - 1][1]
            del self._gaps[:-MOST_GAPS]

    def _take(self, text: str, now: Moment) -> None:
        event = json.loads(text)
        payload = event["payload"]
        kind, properties = payload["type"], payload.get("properties", {})
        if not isinstance(kind, str) or not isinstance(properties, dict):
            raise TypeError(kind)
        session_id = _session_of(properties)
        if session_id is None:
            return
        if kind in _PART_EVENTS or kind == "session.error":
            self._lives(session_id, now)
        elif kind.startswith(_ASK_PREFIXES):
            self._lives(session_id, now)
            self._changed()
        elif kind in {"session.status", "session.idle"}:
            status = properties["status"] if kind == "session.status" else {"type": Activity.IDLE.value}
            directory = event.get("directory")
            self._status(session_id, status, directory if isinstance(directory, str) else None, now)

    def _status(self, session_id: SessionId, status: Mapping[str, Any], directory: str | None, now: Moment) -> None:
        """Take a status; the same one again is a ping, which is nothing new."""
        idle = (Activity.IDLE.value, None)
        state = (str(status["type"]), status.get("attempt"))
        if state == self._states.get(session_id, idle):
            return
        self._lives(session_id, now)
        if state == idle:
            self._states.pop(session_id, None)
            self._directories.pop(session_id, None)
        else:
            self._states[session_id] = state
            if directory is not None:
                self._directories[session_id] = directory
        self._changed()

    def _lives(self, session_id: SessionId, now: Moment) -> None:
        """Note a sign of life; if there are too many, those that were silent longest make room."""
        self._life.pop(session_id, None)
        self._life[session_id] = now
        if len(self._life) > MOST_SESSIONS:
            oldest = next(iter(self._life))
            for known in (self._life, self._states, self._directories):
                known.pop(oldest, None)

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()


class _Bounded(httpx.AsyncByteStream):
    """A body that may be endless, but not within one event.

    Attributes:
        length: how many bytes came since the last event.
    """

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        if not isinstance(stream, httpx.AsyncByteStream):
            raise TypeError(stream)
        self._stream = stream
        self.length = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self.length += len(chunk)
            if self.length > MOST_EVENT_BYTES:
                raise httpx.DecodingError("an event without an end")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _session_of(properties: Mapping[str, Any]) -> SessionId | None:
    for holder in (properties, properties.get("part"), properties.get("info")):
        found = holder.get("sessionID") if isinstance(holder, dict) else None
        if isinstance(found, str) and found:
            return SessionId(found)
    return None
