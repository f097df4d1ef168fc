"""A model whose every turn is dictated by the user's prompt: an OpenAI-compatible server on loopback.

A prompt that holds `script(step, step, …)` makes the model take those steps, one for each request of the
turn (the first before any tool result, the second after the first results, …), and then say `FINAL_TEXT`.
A prompt without a script, a title or a summary gets a short text at once; summaries never end while
`holds_summaries` is set.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from tests.support.waiting import wait_until

Json = dict[str, Any]

FINAL_TEXT: Final = "All done."
PLAIN_TEXT: Final = "Understood."
MODEL: Final = "fake"

_MARK: Final = '{"script": '
_FOREVER: Final = 3600.0
_PACE: Final = 0.25


def script(*steps: Json) -> str:
    """A prompt that makes the model take these steps, one a request."""
    return _MARK + json.dumps(list(steps)) + "}"


def say(text: str) -> Json:
    """A step that answers with this text at once."""
    return {"do": "say", "text": text}


def call(tool: str, **arguments: object) -> Json:
    """One tool call, for `use`."""
    return {"tool": tool, "arguments": arguments}


def known_as(wanted: Json, id_: str) -> Json:
    """The same call under an id that the model chooses: some number theirs anew in each turn."""
    return {**wanted, "id": id_}


def task(description: str, *steps: Json) -> Json:
    """A call of the task tool whose child takes these steps, for `use`."""
    return call("task", description=description, prompt=script(*steps), subagent_type="general")


def question(text: str) -> Json:
    """A call of the question tool, for `use`."""
    choices = [{"label": "yes", "description": "do it"}, {"label": "no", "description": "leave it"}]
    return call("question", questions=[{"question": text, "header": "Question", "options": choices}])


def use(*calls: Json, arguments_seconds: float | None = 0.0) -> Json:
    """A step that makes these tool calls in one turn, streaming the arguments over that time.

    None is for as long as it takes until `ScriptedModel.let_finish` is called.
    """
    return {"do": "use", "calls": list(calls), "arguments_seconds": arguments_seconds}


def stream(what: Literal["text", "reasoning"], seconds: float, *, every: float = _PACE) -> Json:
    """A step that streams numbered words for that long; `streamed_words` says which."""
    return {"do": "stream", "what": what, "seconds": seconds, "every": every}


def stream_on(what: Literal["text", "reasoning"]) -> Json:
    """A step that streams numbered words until `ScriptedModel.let_finish`; `ScriptedModel.said` has them."""
    return {"do": "stream", "what": what, "seconds": None, "every": _PACE}


def streamed_words(step: Json) -> str:
    """The whole of what a `stream` step says."""
    count = max(1, round(step["seconds"] / step["every"]))
    return "".join(f"word{number} " for number in range(count))


def go_silent(after: str = "") -> Json:
    """A step that says something, or nothing, and then nothing more while the connection stays open."""
    return {"do": "silent", "after": after}


def refuse(status: int, message: str, **headers: str) -> Json:
    """A step that answers with an HTTP error; underscores in header names become dashes."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"do": "refuse", "status": status, "message": message, "headers": names}


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """One request that the model got: the step it took for it, when, what it was told, and its own words so far."""

    step: Json
    at: float
    told: str = ""
    words: list[str] = field(default_factory=list)


@dataclass
class ScriptedModel:
    """The server; `async with ScriptedModel() as model:` and `model.base_url`."""

    port: int = 0
    requests: list[ModelRequest] = field(default_factory=list)
    holds_summaries: bool = False
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _ids: Iterator[int] = field(default_factory=itertools.count)
    _finish: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        """What goes into a provider's `baseURL`."""
        if self._server is None:
            raise RuntimeError("the scripted model is not running")
        port: int = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 24)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def wait_for_step(self, do: str) -> ModelRequest:
        """The first request for which it took a step of that kind, past or to come."""
        return await wait_until(
            lambda: next((request for request in self.requests if request.step["do"] == do), None),
            f"the model to be asked for a step {do!r}",
        )

    def let_finish(self) -> None:
        """End what streams until it is told to, now and from now on."""
        self._finish.set()

    def said(self, step: Json) -> str:
        """What it has streamed for this step, which only one request may have been for."""
        [words] = [request.words for request in self.requests if request.step == step]
        return "".join(words)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve in a task of our own: asyncio would log the cancellation of its own one as an error."""
        connection = asyncio.create_task(self._serve(reader, writer), name="scripted model connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                request = await _read_request(reader)
                if request is not None:
                    await self._until_hangup(reader, self._answer(request, writer))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _until_hangup(self, reader: asyncio.StreamReader, answer: Any) -> None:  # noqa: ANN401
        """Stop a slow answer when the client hangs up, as a real model's server does."""
        answering = asyncio.create_task(answer)
        hangup = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({answering, hangup}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            for one in (answering, hangup):
                one.cancel()
            await asyncio.gather(answering, hangup, return_exceptions=True)

    async def _answer(self, request: Json, writer: asyncio.StreamWriter) -> None:
        step = _step_for(request)
        if self.holds_summaries and _is_summary(request):
            step = go_silent("So far:")
        taken = ModelRequest(step=step, at=time.time(), told=_told(request))
        self.requests.append(taken)
        if step["do"] == "refuse":
            body = json.dumps({"error": {"message": step["message"], "type": "scripted"}})
            await _respond(writer, step["status"], body, step["headers"])
        elif request.get("stream"):
            await _start_stream(writer)
            async for delta, finish in self._deltas(step, taken.words):
                await self._chunk(writer, delta, finish)
            writer.write(b"data: [DONE]\n\n")
            await writer.drain()
        else:
            message = {"role": "assistant", "content": step.get("text", PLAIN_TEXT)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            await _respond(writer, 200, json.dumps({**self._frame("chat.completion"), "choices": [choice]}), {})

    async def _deltas(self, step: Json, words: list[str]) -> AsyncIterator[tuple[Json, str | None]]:
        """What the step streams, delta by delta, each with the finish reason or None; its words are kept."""
        match step["do"]:
            case "say":
                yield {"content": step["text"]}, None
            case "stream":
                name = "content" if step["what"] == "text" else "reasoning_content"
                for word in self._words(step):
                    words.append(word)
                    yield {name: word}, None
                    await asyncio.sleep(step["every"])
                if name != "content":
                    yield {"content": FINAL_TEXT}, None
            case "silent":
                if step["after"]:
                    yield {"content": step["after"]}, None
                await asyncio.sleep(_FOREVER)
            case "use":
                async for delta in self._tool_calls(step):
                    yield delta, None
                yield {}, "tool_calls"
                return
        yield {}, "stop"

    def _words(self, step: Json) -> Iterator[str]:
        if step["seconds"] is not None:
            yield from (f"{word} " for word in streamed_words(step).split())
            return
        for number in itertools.count():
            yield f"word{number} "
            if self._finish.is_set():
                return

    async def _tool_calls(self, step: Json) -> AsyncIterator[Json]:
        for index, wanted in enumerate(step["calls"]):
            function = {"name": wanted["tool"], "arguments": ""}
            id_ = wanted.get("id") or f"call_{next(self._ids)}"
            head = {"index": index, "id": id_, "type": "function", "function": function}
            yield {"tool_calls": [head]}
            arguments = json.dumps(wanted["arguments"])
            for piece, pause in self._pieces(arguments, step["arguments_seconds"]):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                await asyncio.sleep(pause)

    def _pieces(self, text: str, seconds: float | None) -> Iterator[tuple[str, float]]:
        if seconds is not None:
            yield from _pieces(text, seconds)
            return
        sent = 0
        while not self._finish.is_set() and sent < len(text) - 1:
            yield text[sent], _PACE
            sent += 1
        yield text[sent:], 0.0

    async def _chunk(self, writer: asyncio.StreamWriter, delta: Json, finish: str | None) -> None:
        choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": finish}
        chunk = {**self._frame("chat.completion.chunk"), "choices": [choice]}
        writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await writer.drain()

    def _frame(self, kind: str) -> Json:
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        created = int(time.time())
        return {"id": "chatcmpl-scripted", "object": kind, "created": created, "model": MODEL, "usage": usage}


def _pieces(text: str, seconds: float) -> Iterator[tuple[str, float]]:
    if seconds <= 0:
        yield text, 0.0
        return
    count = max(1, round(seconds / _PACE))
    size = max(1, -(-len(text) // count))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    for piece in pieces:
        yield piece, seconds / len(pieces)


def _step_for(request: Json) -> Json:
    """The step of the last user message's script that this request is for."""
    if not request.get("tools"):
        return say("A short title")
    messages: list[Json] = request["messages"]
    last_user = max(index for index, message in enumerate(messages) if message["role"] == "user")
    text = _text_of(messages[last_user])
    start = text.find(_MARK)
    if start < 0:
        return say(PLAIN_TEXT)
    steps: list[Json] = json.JSONDecoder().raw_decode(text, start)[0]["script"]
    taken = sum(message["role"] == "assistant" for message in messages[last_user:])
    return steps[taken] if taken < len(steps) else say(FINAL_TEXT)


def _is_summary(request: Json) -> bool:
    """Whether it is a compaction: it has no tools, and it is no title."""
    return not request.get("tools") and "title generator" not in _told(request)


def _told(request: Json) -> str:
    return "\n".join(_text_of(message) for message in request["messages"])


def _text_of(message: Json) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))


async def _read_request(reader: asyncio.StreamReader) -> Json | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    document: Json | None = json.loads(body) if body else None
    return document


async def _respond(writer: asyncio.StreamWriter, status: int, body: str, headers: dict[str, str]) -> None:
    data = body.encode()
    lines = [f"HTTP/1.1 {status} Scripted", "content-type: application/json", f"content-length: {len(data)}"]
    lines += ["connection: close", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    await writer.drain()


async def _start_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    await writer.drain()
