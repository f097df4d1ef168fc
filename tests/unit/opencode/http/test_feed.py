"""The event stream: what is a sign of life, what is not, and how well it was heard."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import Handler, loopback, read_request
from tests.support.waiting import wait_until
from watchdog.model.session import SessionId
from watchdog.opencode.http import feed as feed_module
from watchdog.opencode.http.feed import Feed

S1, S2 = SessionId("ses_1"), SessionId("ses_2")
FOLDER = "/home/someone/project"
CONNECTED = {"payload": {"type": "server.connected", "properties": {}}}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def event(kind: str, *, directory: str = FOLDER, **properties: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"directory": directory, "payload": {"type": kind, "properties": properties}}


def status(kind: str, session: str = S1, **more: object) -> dict[str, Any]:
    return event("session.status", sessionID=session, status={"type": kind, **more})


def line(found: object) -> bytes:
    return b"data: " + json.dumps(found).encode() + b"\n\n"


class Ear:
    """A feed on a wire of its own: what is told to it, and when."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.changes = 0
        self.feed = Feed(
            httpx.AsyncClient(),
            clock=self.clock,
            rng=random.Random(7),  # noqa: S311
            on_change=self._count,
        )
        self.tell(CONNECTED)

    def _count(self) -> None:
        self.changes += 1

    def tell(self, found: object, *, after: float = 1.0) -> bool:
        """Whether it was a sign of life of the first session."""
        self.clock.advance(after)
        self.feed._hear(json.dumps(found) if not isinstance(found, str) else found)
        return self.feed.life().get(S1) == self.clock.now()

    def cut(self, seconds: float) -> None:
        self.feed._connected = False
        self.clock.advance(seconds)


@pytest.mark.parametrize(
    "found",
    [
        event("message.part.updated", part={"id": "prt_1", "sessionID": S1, "type": "tool"}),
        event("message.part.updated", sessionID=S1, part={"id": "prt_1", "sessionID": S1}),
        event("message.part.delta", sessionID=S1, messageID="m", partID="p", field="text", delta="x"),
        event("message.part.removed", sessionID=S1, messageID="m", partID="p"),
        event("permission.asked", sessionID=S1, id="per_1"),
        event("permission.replied", sessionID=S1, requestID="per_1"),
        event("question.asked", sessionID=S1, id="que_1"),
        event("question.replied", sessionID=S1),
        event("question.rejected", sessionID=S1),
        event("session.error", sessionID=S1, error={}),
        status("busy"),
        status("retry", attempt=1, next=5),
        status("something new"),
    ],
    ids=lambda found: str(found["payload"]["type"]),
)
def test_a_sign_of_life(found: dict[str, Any]) -> None:
    assert Ear().tell(found)


@pytest.mark.parametrize(
    "found",
    [
        event("session.updated", sessionID=S1, info={"id": S1}),
        event("message.updated", sessionID=S1, info={"id": "msg_1", "sessionID": S1}),
        event("session.diff", sessionID=S1),
        event("todo.updated", sessionID=S1),
        event("server.heartbeat"),
        event("session.idle", sessionID=S1),
        status("idle"),
        event("session.error", error={}),
        event("message.part.delta", sessionID="", delta="x"),
        event("message.part.delta", sessionID=None),
        event("message.part.delta", sessionID=S2),
        event("file.edited", file="/x"),
        event("some.new.kind", sessionID=S1),
    ],
    ids=lambda found: str(found["payload"]["type"]),
)
def test_no_sign_of_life(found: dict[str, Any]) -> None:
    ear = Ear()
    assert not ear.tell(found)
    assert ear.feed.malformed == 0


def test_status_pings_every_two_seconds_do_not_start_the_idle_clock_anew() -> None:
    ear = Ear()
    assert ear.tell(status("busy"))
    assert not any(ear.tell(status("busy"), after=2) for _ in range(500))
    assert ear.changes == 1


def test_pings_after_each_new_connection_are_no_life_either() -> None:
    ear = Ear()
    assert ear.tell(status("busy"))
    for _ in range(10):
        ear.cut(5)
        assert not ear.tell(CONNECTED)
        assert not ear.tell(status("busy"))


def test_a_change_of_status_is_a_sign_once() -> None:
    ear = Ear()
    assert ear.tell(status("busy"))
    assert ear.tell(status("retry", attempt=1, next=1))
    assert not ear.tell(status("retry", attempt=1, next=2))
    assert ear.tell(status("retry", attempt=2, next=3))
    assert ear.tell(status("busy"))
    assert ear.tell(event("session.idle", sessionID=S1))
    assert not ear.tell(event("session.idle", sessionID=S1))
    assert not ear.tell(status("idle"))
    assert ear.tell(status("busy"))
    assert ear.changes == 6


def test_the_directories_at_work() -> None:
    ear = Ear()
    ear.tell(status("busy"))
    ear.tell(event("session.status", directory="/b", sessionID=S2, status={"type": "retry"}))
    assert ear.feed.busy_directories() == {FOLDER, "/b"}
    ear.tell(event("session.idle", sessionID=S1))
    assert ear.feed.busy_directories() == {"/b"}
    ear.feed.forget({S1})
    assert ear.feed.busy_directories() == {"/b"}  # what is at work is not forgotten, known or not
    assert set(ear.feed.life()) == {S1, S2}
    ear.tell(event("session.idle", directory="/b", sessionID=S2))
    ear.feed.forget({S1})
    assert ear.feed.busy_directories() == set()
    assert set(ear.feed.life()) == {S1}


def test_asks_and_changes_wake_the_loop_and_deltas_do_not() -> None:
    ear = Ear()
    ear.tell(event("message.part.delta", sessionID=S1))
    assert ear.changes == 0
    ear.tell(event("permission.asked", sessionID=S1))
    ear.tell(event("question.replied", sessionID=S1))
    ear.tell(status("busy"))
    assert ear.changes == 3


GARBAGE = [
    "{", "null", "3", "[]", '"x"', "{}", '{"payload":null}', '{"payload":{}}', '{"payload":{"type":3}}',
    '{"payload":{"type":"x","properties":[]}}',
    '{"payload":{"type":"session.status","properties":{"sessionID":"s"}}}',
    '{"payload":{"type":"session.status","properties":{"sessionID":"s","status":null}}}',
    '{"payload":{"type":"session.status","properties":{"sessionID":"s","status":{}}}}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_counted_and_contained(text: str) -> None:
    ear = Ear()
    assert not ear.tell(text)
    assert ear.feed.malformed == 1
    assert ear.tell(status("busy"))


def test_an_attempt_that_cannot_be_compared_is_still_a_status() -> None:
    ear = Ear()
    assert ear.tell(status("retry", attempt=[1]))
    assert not ear.tell(status("retry", attempt=[1]))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MOST_SESSIONS", 3)
    ear = Ear()
    for number in range(10):
        ear.tell(status("busy", f"ses_{number}"))
        ear.tell(event("message.part.delta", sessionID="ses_0"))
    assert len(ear.feed.life()) == 3
    assert "ses_0" in ear.feed.life()


# --- how well it was heard ---------------------------------------------------------------------------------------


def test_before_anything_was_heard_there_is_no_witness() -> None:
    feed = Feed(httpx.AsyncClient(), clock=FakeClock(), rng=random.Random(1))  # noqa: S311
    assert (feed.witness().connected, feed.witness().since) == (False, None)


def test_a_short_gap_is_kept_and_counts_from_what_was_last_heard() -> None:
    ear = Ear()
    since = ear.clock.now()
    ear.tell(status("busy"), after=10)
    heard = ear.clock.now()
    ear.cut(59)
    assert not ear.feed.witness().connected
    ear.tell(CONNECTED)
    witness = ear.feed.witness()
    assert (witness.connected, witness.since, witness.gaps) == (True, since, ((heard, heard + 60),))


def test_a_gap_of_more_than_a_minute_starts_anew() -> None:
    ear = Ear()
    ear.cut(5)
    ear.tell(CONNECTED)
    ear.cut(59.001)
    ear.tell(CONNECTED)
    assert ear.feed.witness().since == ear.clock.now()
    assert ear.feed.witness().gaps == ()


@pytest.mark.parametrize("step", [-100, 100])
def test_a_wall_clock_that_is_set_during_a_gap_makes_it_neither_longer_nor_shorter(step: float) -> None:
    ear = Ear()
    since, heard = ear.clock.now(), ear.clock.now()
    ear.cut(1)
    ear.clock.step(step)
    ear.tell(CONNECTED, after=1)
    assert (ear.feed.witness().since, ear.feed.witness().gaps) == (since, ((heard, heard + 2),))


def test_a_gap_in_which_the_machine_slept_starts_anew() -> None:
    ear = Ear()
    ear.cut(1)
    ear.clock.sleep_machine(100)
    ear.tell(CONNECTED)
    assert (ear.feed.witness().since, ear.feed.witness().gaps) == (ear.clock.now(), ())


def test_gaps_that_are_dropped_do_not_count_as_heard() -> None:
    ear = Ear()
    ends = []
    for _ in range(105):
        ear.cut(1)
        ear.tell(CONNECTED)
        ends.append(ear.clock.now())
    witness = ear.feed.witness()
    assert len(witness.gaps) == 100
    assert witness.since == ends[4]
    assert witness.gaps[0][0] >= ends[4]


# --- on a real socket --------------------------------------------------------------------------------------------


@asynccontextmanager
async def following(
    handler: Handler, *, silence: float = 60.0, clock: FakeClock | None = None
) -> AsyncIterator[tuple[Feed, FakeClock]]:
    hands = clock or FakeClock()
    async with loopback(handler) as url, httpx.AsyncClient(base_url=url) as client:
        feed = Feed(client, clock=hands, rng=random.Random(7), silence_seconds=silence)  # noqa: S311
        async with anyio.create_task_group() as group:
            await group.start(feed.run)
            yield feed, hands
            group.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    await wait_until(condition, "the feed")


def streams(*chunks: bytes, hold: bool = True) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        assert request.path == ("global", "event")
        for chunk in (HEAD, *chunks):
            writer.write(chunk)
            await writer.drain()
        if hold:
            await asyncio.Event().wait()

    return handle


async def test_it_listens() -> None:
    async with following(streams(line(CONNECTED), line(status("busy")))) as (feed, _):
        await until(lambda: S1 in feed.life())
        assert feed.witness().connected
        assert feed.life() == {S1: FakeClock().now()}
        assert (feed.problem, feed.connections) == (None, 1)


async def test_an_event_of_two_megabytes_in_small_pieces_and_a_comment() -> None:
    big = line(event("message.part.updated", part={"sessionID": S1, "text": "x" * 2_000_000}))
    pieces = [big[at : at + 70_000] for at in range(0, len(big), 70_000)]
    async with following(streams(b": hello\n\n", *pieces, b"event: x\n\n", line(status("busy", S2)))) as (feed, _):
        await until(lambda: S2 in feed.life())
        assert S1 in feed.life()
        assert feed.malformed == 0


async def test_an_event_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MOST_EVENT_BYTES", 100_000)
    async with following(streams(line(CONNECTED), b"data: ", *[b"x" * 60_000] * 3)) as (feed, _):
        await until(lambda: feed.problem is not None and "DecodingError" in feed.problem)
        assert not feed.witness().connected


async def test_silence_counts_as_broken_and_it_connects_again() -> None:
    async with following(streams(line(CONNECTED)), silence=0.5) as (feed, clock):
        await until(lambda: clock.sleepers == 1)
        assert feed.problem == "its event stream was silent for 0.5 s"
        assert not feed.witness().connected
        clock.advance(30)
        await until(lambda: feed.connections == 2)
        assert feed.witness().gaps


async def test_bytes_that_are_no_events_are_silence_too() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HEAD + line(CONNECTED))
        while True:
            writer.write(b": keep-alive\n\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with following(trickle, silence=0.5) as (feed, clock):
        await until(lambda: clock.sleepers == 1)
        assert "silent" in str(feed.problem)


HTML = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", "answered 401"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "answered 500"),
        (HTML, "no event stream"),
        (b"", "RemoteProtocolError"),
        (b"hello\r\n\r\n", "RemoteProtocolError"),
        (HEAD, "ended"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\nda", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\nda", "Compressed"),
    ],
)
async def test_what_is_no_event_stream_is_tried_again(raw: bytes, problem: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await writer.drain()

    async with following(handle) as (feed, clock):
        await until(lambda: clock.sleepers == 1)
        assert problem in str(feed.problem)
        assert feed.witness().since is None


async def test_the_pauses_grow_to_half_a_minute_are_spread_and_never_end() -> None:
    clock = FakeClock(auto=True)
    async with following(streams(hold=False), clock=clock):
        await until(lambda: len(clock.sleeps) >= 200)
    limits = [min(30.0, 0.5 * 2**number) for number in range(200)]
    assert all(0 <= slept <= limit for slept, limit in zip(clock.sleeps, limits, strict=False))
    assert max(clock.sleeps) > 25
    assert min(clock.sleeps[10:]) < 5


async def test_a_reset_in_the_middle_of_an_event() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HEAD + line(CONNECTED) + b"data: {")
        await writer.drain()
        writer.transport.abort()

    async with following(handle) as (feed, clock):
        await until(lambda: clock.sleepers == 1)
        assert feed.problem is not None
        assert not feed.witness().connected
