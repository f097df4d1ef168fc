"""Sessions at work: healthy ones, ones that hang for real, and one that asks what nobody answers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import httpx

from tests.support.opencode import HANGING_TOOL, SILENT_MCP_TOOL, Lab, Server, Session
from tests.support.prompts import QUESTION, bash, sleep
from tests.support.scripted_model import FINAL_TEXT, call, go_silent, say, script, stream, streamed_words, task, use

Json = dict[str, Any]
Role = Literal["healthy", "hung", "question"]

HEALTHY_SESSIONS: Final = 14
HUNG_SESSIONS: Final = 5
PROMPTS_PER_SESSION: Final = 6
PROMPT_SECONDS: Final = 150.0
LOOK_SECONDS: Final = 0.5
ABORTED: Final = "MessageAbortedError"


class ServerKilledError(Exception):
    """The server was killed while a prompt ran."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A prompt, and what a healthy answer to it must hold in its last text and in its tool outputs."""

    kind: str
    prompt: str
    text: str = FINAL_TEXT
    output: str = ""


@dataclass
class Stage:
    """What the sessions, the faults and the audit share."""

    lab: Lab
    server: Server
    up: asyncio.Event = field(default_factory=asyncio.Event)
    calm: asyncio.Event = field(default_factory=asyncio.Event)
    crashes_ms: list[int] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    roles: dict[str, Role] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    hurt: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Session → from the last sight of its server to the sight that nothing is open in it any more."""

    @property
    def generation(self) -> int:
        """How many servers were killed so far."""
        return len(self.crashes_ms)

    def took(self, what: str, seconds: float) -> None:
        """Keep the longest time that something took."""
        self.slowest[what] = max(seconds, self.slowest.get(what, 0.0))

    async def open_session(self, role: Role) -> Session:
        """A new session on the server that is up."""
        while True:
            await self.up.wait()
            generation = self.generation
            try:
                session = await self.server.create_session()
            except httpx.TransportError:
                if generation == self.generation:
                    raise
                continue
            self.roles[session.id] = role
            return session

    async def keep_statuses(self) -> None:
        """Ask the server once for all what is busy, again and again."""
        while True:
            await self.up.wait()
            try:
                self.busy = set(await self.server.status())
            except (httpx.TransportError, AssertionError):  # it is being killed, or begins
                self.busy = set()
            await asyncio.sleep(LOOK_SECONDS)

    async def settled(self, session: Session) -> Session:
        """The session as the next server shows it, once the watchdog has ended what the killed one left open."""
        began, crashed_ms = time.monotonic(), self.crashes_ms[-1]
        while time.monotonic() - began < PROMPT_SECONDS:
            await self.up.wait()
            session = session.on(self.server)
            try:
                if not await session.open_ids():
                    self.took("settle after a crash", time.monotonic() - began)
                    self.hurt.setdefault(session.id, []).append((crashed_ms, int(time.time() * 1000)))
                    return session
            except httpx.TransportError:
                pass
            await asyncio.sleep(LOOK_SECONDS)
        raise AssertionError(f"an orphan was not settled in {PROMPT_SECONDS:g} s: {session.id}")

    async def run(self, session: Session, job: Job) -> list[Json]:
        """Send a prompt and wait until its session is done with it; answer its turns."""
        await self.up.wait()
        session, generation = session.on(self.server), self.generation
        before = len(await self._watching(generation, session.turns))
        await self._watching(generation, lambda: session.prompt(job.prompt))
        deadline = time.monotonic() + PROMPT_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
            if generation != self.generation:
                raise ServerKilledError
            if session.id in self.busy:
                continue
            turns: list[Json] = (await self._watching(generation, session.turns))[before:]
            if turns and _ended(turns[-1]["info"]):
                return turns
        raise AssertionError(f"a {job.kind} prompt did not end in {PROMPT_SECONDS:g} s: {session.id}")

    async def _watching(self, generation: int, ask: Callable[[], Any]) -> Any:  # noqa: ANN401 - as asked
        try:
            return await ask()
        except (httpx.TransportError, AssertionError):
            await asyncio.sleep(0.2)
            if generation != self.generation:
                raise ServerKilledError from None
            raise


def _ended(info: Json) -> bool:
    return "completed" in info["time"] and ("error" in info or info.get("finish") != "tool-calls")


def healthy_job(rng: random.Random, number: int) -> Job:
    """Something that ends well by itself; some of it takes longer than the limit of what hangs."""
    match rng.choice(("text", "text", "stream", "bash", "task", "long stream", "long bash", "task with bash")):
        case "text":
            return Job(kind="text", prompt=script(say(f"Answer {number} of many.")), text=f"Answer {number} of many.")
        case "stream":
            words = stream("text", rng.choice((1, 2, 3)))
            return Job(kind="stream", prompt=script(words), text=streamed_words(words))
        case "long stream":
            words = stream("text", 24)
            return Job(kind="long stream", prompt=script(words), text=streamed_words(words))
        case "bash":
            wanted = bash(f"sleep 1; echo out-{number}-whole", timeout_ms=90_000)
            return Job(kind="bash", prompt=script(use(wanted)), output=f"out-{number}-whole")
        case "long bash":
            wanted = bash(f"sleep 15; echo out-{number}-whole", timeout_ms=90_000)
            return Job(kind="long bash", prompt=script(use(wanted)), output=f"out-{number}-whole")
        case "task":
            words = stream("text", 2)
            prompt = script(use(task(f"healthy {number}", words)))
            return Job(kind="task", prompt=prompt, output=streamed_words(words).strip())
        case _:
            wanted = use(bash(f"sleep 2; echo out-{number}", timeout_ms=90_000))
            prompt = script(use(task(f"healthy {number}", wanted, say(f"child {number} is done"))))
            return Job(kind="task with bash", prompt=prompt, output=f"child {number} is done")


HUNG_JOBS: Final = (
    Job(kind="hung tool", prompt=script(use(call(HANGING_TOOL)))),
    Job(kind="hung mcp", prompt=script(use(call(SILENT_MCP_TOOL)))),
    Job(kind="hung bash", prompt=script(use(sleep()))),
    Job(kind="silent model", prompt=script(go_silent("Let me think."))),
    Job(kind="hung child", prompt=script(use(task("hung", use(call(HANGING_TOOL)))))),
)


async def churn_healthy(stage: Stage, rng: random.Random) -> None:
    """Healthy prompts, one after the other, each of which must come through whole unless its server was killed."""
    session, used = await stage.open_session("healthy"), 0
    while not stage.calm.is_set():
        job = healthy_job(rng, rng.randrange(1_000_000))
        stage.counts["healthy prompts"] += 1
        try:
            turns = await stage.run(session, job)
        except ServerKilledError:
            stage.counts["healthy prompts whose server was killed"] += 1
            session = await stage.settled(session)
        else:
            stage.counts["healthy prompts that came through whole"] += _is_whole(stage, session, job, turns)
        used += 1
        if used % PROMPTS_PER_SESSION == 0:
            session = await stage.open_session("healthy")
        await asyncio.sleep(rng.uniform(0.2, 1.5))


def _is_whole(stage: Stage, session: Session, job: Job, turns: list[Json]) -> bool:
    parts = [part for turn in turns for part in turn["parts"]]
    text = "".join(part["text"] for part in turns[-1]["parts"] if part["type"] == "text")
    states = [part["state"] for part in parts if part["type"] == "tool"]
    outputs = "".join(state.get("output", "") for state in states)
    whole = (
        text.split() == job.text.split()
        and " ".join(job.output.split()) in " ".join(outputs.split())
        and all(state["status"] == "completed" for state in states)
        and not any("error" in turn["info"] for turn in turns)
    )
    if not whole:
        errors = [turn["info"].get("error") for turn in turns]
        stage.wrong.append(f"{job.kind} in {session.id} is not whole: {text!r}, {states}, {errors}")
    return whole


async def churn_hung(stage: Stage, rng: random.Random, first: Job) -> None:
    """Prompts that hang for real, one after the other; each must be ended."""
    session, used, job = await stage.open_session("hung"), 0, first
    while not stage.calm.is_set():
        stage.counts["hung prompts"] += 1
        began = time.monotonic()
        try:
            turns = await stage.run(session, job)
        except ServerKilledError:
            stage.counts["hung prompts whose server was killed"] += 1
            session = await stage.settled(session)
        else:
            stage.took(f"end a {job.kind}", time.monotonic() - began)
            _check_ended(stage, session, job, turns)
        used += 1
        if used % PROMPTS_PER_SESSION == 0:
            session = await stage.open_session("hung")
        job = rng.choice(HUNG_JOBS)
        await asyncio.sleep(rng.uniform(0.2, 1.5))


def _check_ended(stage: Stage, session: Session, job: Job, turns: list[Json]) -> None:
    stage.counts["hung prompts that were ended"] += 1
    last = turns[-1]["info"]
    if job.kind == "hung child":  # only the child is ended; the parent carries on
        right = "error" not in last and any(part.get("text", "") == FINAL_TEXT for part in turns[-1]["parts"])
    else:
        right = last.get("error", {}).get("name") == ABORTED
    if not right:
        stage.wrong.append(f"{job.kind} in {session.id} did not end as it should: {turns}")


async def ask_a_question(stage: Stage) -> Json | None:
    """Ask what nobody answers, and again after each kill of the server; answer the ask that stands at the end."""
    session = await stage.open_session("question")
    while True:
        await stage.up.wait()
        session, generation = session.on(stage.server), stage.generation
        try:
            await stage._watching(generation, lambda: session.prompt(QUESTION))  # noqa: B023 - awaited here
            ask: Json = await stage._watching(generation, session.wait_for_ask)
        except ServerKilledError:
            session = await stage.settled(session)
            continue
        stage.counts["questions asked"] += 1
        while generation == stage.generation:
            if stage.calm.is_set():
                return ask
            await asyncio.sleep(LOOK_SECONDS)
        stage.counts["questions whose server was killed"] += 1
        session = await stage.settled(session)
