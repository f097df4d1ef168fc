"""Real opencode servers, each laboratory with a home, a database and a scripted model of its own.

```python
async with Lab.open(tmp_path, version="1.18.33") as lab:
    server = await lab.serve()
    session = await server.create_session()
    await session.prompt(script(use(call("bash", command="sleep 600", description="wait"))))
    await session.wait_for_call("bash")
    server.kill9()
```

Every process that a laboratory starts carries the laboratory's mark in its environment, and so do the
children of those; closing the laboratory ends exactly the processes that carry it, by pid.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.support.binaries import number_of, opencode_binary, program_of
from tests.support.events import EventRecorder
from tests.support.forked import Process, start
from tests.support.rows import Rows, child_sessions, read_rows
from tests.support.scripted_model import MODEL, ScriptedModel
from tests.support.waiting import SECONDS, wait_until
from watchdog.timing.clock import SystemClock

Json = dict[str, Any]

MARK: Final = "WATCHDOG_TEST_LAB"  # no OPENCODE_ prefix: programs read those
HANGING_TOOL: Final = "hang"
STALLING_TOOL: Final = "stall"
SILENT_MCP_TOOL: Final = "silent_never"
GATED: Final = "echo gated"
STARTED: Final = "started"
READY_SECONDS: Final = 120.0

_PROJECT: Final = Path(__file__).resolve().parents[2]
_HANGING_TOOL_SOURCE: Final = """\
export default {
  description: "Waits for something that never happens, and does not listen when it is told to stop.",
  args: {},
  async execute() {
    await new Promise((resolve) => setTimeout(resolve, 1 << 30))
    return "never"
  },
}
"""
_STALLING_TOOL_SOURCE: Final = """\
export default {
  description: "Waits for something that never happens; told to stop, it stops the whole server, until SIGCONT.",
  args: {},
  async execute(_, context) {
    context.abort.addEventListener("abort", () => process.kill(process.pid, "SIGSTOP"))
    await new Promise((resolve) => setTimeout(resolve, 1 << 30))
    return "never"
  },
}
"""
_CLOSED_NETWORK: Final = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_SHARE": "1",
    "npm_config_offline": "true",
}
_NO_MODELS: Final = "models.json"
_LITTLE_COMPILED: Final = {f"BUN_JSC_use{tier}JIT": "0" for tier in ("FTL", "BBQ", "OMG")}
"""For its engine: to compile anything at the highest tiers takes longer than these servers live."""


@dataclass
class Lab:
    """One home with one database, its model, and the processes started in it."""

    home: Path
    version: str
    binary: Path
    model: ScriptedModel
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    servers: list["Server"] = field(default_factory=list)
    guest_of: "Lab | None" = None
    """Whose servers and database it uses; see `tests.support.house`."""
    runtime: Path | None = None
    """The runtime folder of its user; None if there is none."""
    _clients: list[httpx.AsyncClient] = field(default_factory=list)
    _processes: list[Process] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, *, version: str, mcp: bool = False) -> AsyncIterator["Lab"]:
        """A laboratory under that folder; whatever happens, its processes end with it."""
        binary = opencode_binary(version)
        if binary is None:
            raise RuntimeError(f"no opencode {version}: run `python -m tests.support.binaries`")
        async with ScriptedModel() as model:
            lab = cls(home=existing(folder), version=version, binary=binary, model=model)
            lab.configure(mcp=mcp)
            try:
                yield lab
            finally:
                await lab.close()

    @property
    def database(self) -> Path:
        """Where opencode keeps its database in this home, or in its host's."""
        if self.guest_of is not None:
            return self.guest_of.database
        program = program_of(self.version)
        return self.home / ".local" / "share" / program / f"{program}.db"

    def rows(self) -> Rows:
        """What is stored now; see the warning in `tests.support.rows`."""
        return read_rows(self.database)

    def children_of(self, session: "Session") -> list[str]:
        """The child sessions' ids, oldest first."""
        return child_sessions(self.database, session.id)

    def project(self, name: str = "project") -> Path:
        """A folder for sessions to work in."""
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        return folder

    def environment(self) -> dict[str, str]:
        """What every program here gets: this home, the mark, and nothing of the developer's own."""
        passed = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "SHELL") if name in os.environ}
        runtime = {} if self.runtime is None else {"XDG_RUNTIME_DIR": str(self.runtime)}
        return {**passed, **runtime, "HOME": str(self.home), MARK: self.mark}

    async def serve(
        self, *, port: int | None = None, hostname: str = "127.0.0.1", password: str | None = None
    ) -> "Server":
        """Start `opencode serve` in this home, wait until it is healthy, and answer it."""
        if self.guest_of is not None:
            return self.visit(await self.guest_of.serve(port=port, hostname=hostname, password=password))
        chosen = free_port() if port is None else port
        log = self.home / f"server-{chosen}-{len(self.servers)}.log"
        command = [str(self.binary), "serve", "--hostname", hostname, "--port", str(chosen)]
        secret = {} if password is None else {"OPENCODE_SERVER_PASSWORD": password}
        process = self.start(command, log, extra=self.surroundings() | secret)
        client = self._client(chosen, hostname=hostname, password=password)
        server = Server(lab=self, port=chosen, process=process, client=client, log=log)
        self.servers.append(server)
        await server.wait_healthy()
        return server

    def visit(self, server: "Server") -> "Server":
        """A server of the laboratory whose guest this one is, as this one's."""
        client = self._client(server.port)
        own = Server(lab=self, port=server.port, process=server.process, client=client, log=server.log)
        self.servers.append(own)
        return own

    def _client(self, port: int, *, hostname: str = "127.0.0.1", password: str | None = None) -> httpx.AsyncClient:
        host = f"[{hostname}]" if ":" in hostname else hostname
        client = httpx.AsyncClient(
            base_url=f"http://{host}:{port}",
            auth=None if password is None else ("opencode", password),
            timeout=SECONDS,
            trust_env=False,
        )
        return self.keep(client)

    def keep(self, client: httpx.AsyncClient) -> httpx.AsyncClient:
        """Close a client when everything here ends."""
        self._clients.append(client)
        return client

    def opencode_run(self, prompt: str, *, name: str = "run") -> Process:
        """Start `opencode run PROMPT`, which executes its session itself and listens on no port."""
        words = self.home / f"{name}.prompt"
        words.write_text(prompt)  # by way of stdin: it puts quotes of its own around arguments
        command, log = [str(self.binary), "run"], self.home / f"{name}.log"
        return self.start(command, log, extra=self.surroundings(), folder=self.project(name), stdin=words)

    def start(
        self,
        command: list[str],
        log: Path,
        *,
        extra: dict[str, str] | None = None,
        folder: Path | None = None,
        output: Path | None = None,
        stdin: Path = Path(os.devnull),
    ) -> Process:
        """Start a program in a process group of its own, stderr (and stdout, without `output`) to the log."""
        with log.open("ab") as errors, (output or log).open("ab") as sink, stdin.open("rb") as source:
            process = start(
                command,
                folder=folder or self.project(),
                environment={**self.environment(), **(extra or {})},
                stdin=source,
                stdout=sink,
                stderr=errors,
                new_session=True,
            )
        self._processes.append(process)
        return process

    async def wait_for_orphan_age(self, margin: float) -> None:
        """Wait until a process that starts now is born more than `margin` seconds after all open rows.

        Birth times are in whole ticks since a boot time in whole seconds, so add more than a second; and at a first
        look some seconds are in doubt, for which the wall clock may have been set since the boot.
        """
        newest = self.rows().newest_open_ms / 1000
        doubt = 1.5 + SystemClock().read().steady_slack_seconds
        await asyncio.sleep(max(0.0, newest + margin + doubt - time.time()))

    async def close(self) -> None:
        """End all that was started here, the children of killed servers included."""
        await self.hang_up()
        await asyncio.to_thread(self.end_processes)

    async def hang_up(self) -> None:
        """Close the clients of its servers."""
        for client in self._clients:
            await client.aclose()
        self._clients.clear()

    def end_processes(self) -> None:
        """End all processes that were started here."""
        for process in self._processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=SECONDS)
        self.end_strays(but=None)

    def end_strays(self, *, but: Process | None) -> None:
        """End what killed servers started, and all else that was started here, but for one process."""
        for _ in range(20):  # a child may be forked while we look; a killed one may take a moment to die
            if not _kill_marked(self.mark, but=None if but is None else but.pid):
                return
            time.sleep(0.02)

    def surroundings(self) -> dict[str, str]:
        """What keeps a server off the network and starts it soon: to read of the world's models takes seconds."""
        return {**_CLOSED_NETWORK, **_LITTLE_COMPILED, "OPENCODE_MODELS_PATH": str(self.home / _NO_MODELS)}

    def configure(self, *, mcp: bool = False) -> None:
        """Write what opencode reads at its start in this home."""
        (self.home / _NO_MODELS).write_text("{}")
        config = self.home / ".config" / "opencode"
        (config / "tool").mkdir(parents=True)
        (config / "tool" / f"{HANGING_TOOL}.ts").write_text(_HANGING_TOOL_SOURCE)
        (config / "tool" / f"{STALLING_TOOL}.ts").write_text(_STALLING_TOOL_SOURCE)
        self._pretend_installed(config)
        model = {"name": "Fake", "tool_call": True, "reasoning": True, "limit": {"context": 200000, "output": 8192}}
        options = {"baseURL": self.model.base_url, "apiKey": "none"}
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Fake",
            "options": options,
            "models": {MODEL: model},
        }
        document: Json = {
            "provider": {"fake": provider},
            "model": f"fake/{MODEL}",
            "small_model": f"fake/{MODEL}",
            "permission": {"bash": {"*": "allow", f"{GATED}*": "ask"}, "edit": "allow", "question": "allow"},
            "share": "disabled",
            "autoupdate": False,
        }
        if mcp:
            command = [sys.executable, "-m", "tests.support.silent_mcp"]
            environment = {"PYTHONPATH": str(_PROJECT)}
            document["mcp"] = {"silent": {"type": "local", "command": command, "environment": environment}}
        (config / "opencode.json").write_text(json.dumps(document, indent=2))

    def _pretend_installed(self, config: Path) -> None:
        """Opencode installs its plugin package beside custom tools, for 6 s, unless it seems to be there."""
        dependencies = {"dependencies": {"@opencode-ai/plugin": self.version}}
        (config / "node_modules").mkdir()
        (config / "package.json").write_text(json.dumps(dependencies))
        lock = {"lockfileVersion": 3, "packages": {"": dependencies}}
        (config / "package-lock.json").write_text(json.dumps(lock))


@dataclass
class Server:
    """One running `opencode serve`."""

    lab: Lab
    port: int
    process: Process
    client: httpx.AsyncClient
    log: Path

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return str(self.client.base_url).rstrip("/")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def generation(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(number) for number in self.lab.version.split("."))

    @property
    def forgets(self) -> bool:
        """Whether an abort leaves open what does not listen to it, in the database: it did so before 1.14."""
        return self.generation < (1, 14)

    async def wait_healthy(self) -> None:
        """Wait until it answers, and is what it should be."""
        # A request that comes in the first moments after it listens is never answered: others are sent after it.
        asked: list[asyncio.Task[Json | None]] = []

        async def look() -> Json | None:
            assert self.process.poll() is None, f"opencode ended with {self.process.returncode}\n{self.tail()}"
            asked.append(asyncio.create_task(self._health(), name="health"))
            return next((answer for each in asked if each.done() and (answer := each.result())), None)

        try:
            health = await wait_until(
                look, f"opencode {self.lab.version} on {self.url}", seconds=READY_SECONDS, explain=self.tail
            )
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        assert health.get("version") == number_of(self.lab.version), health

    async def _health(self) -> Json | None:
        try:
            response = await self.client.get("/global/health", timeout=READY_SECONDS)
        except httpx.TransportError:
            return None
        document: Json | None = response.json() if response.is_success else None
        return document

    def tail(self) -> str:
        """The last lines that it wrote, for a failure's message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def kill9(self) -> None:
        """Crash it: SIGKILL to the server alone; what it started lives on."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=SECONDS)

    async def stop(self) -> None:
        """End it as a service manager would."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        await asyncio.to_thread(self.process.wait, SECONDS)

    async def restart(self, *, port: int | None = None) -> "Server":
        """A new server in the same home, on the same port unless told otherwise; the old one must be dead."""
        assert self.process.poll() is not None, "end the old one first: kill9() or stop()"
        return await self.lab.serve(port=self.port if port is None else port)

    def events(self) -> EventRecorder:
        """`async with server.events() as events:` records its `/global/event`."""
        return EventRecorder(self.url)

    async def get(self, path: str, directory: Path | None = None) -> Any:  # noqa: ANN401
        """The JSON document at that path, which must answer 2xx."""
        response = await self.client.get(path, params=_where(directory))
        assert response.is_success, f"GET {path}: {response.status_code} {response.text[:500]}"
        return response.json()

    async def create_session(self, directory: Path | None = None, *, title: str = "A test's session") -> "Session":
        """A new session in that folder (the default project otherwise)."""
        folder = self.lab.project() if directory is None else directory
        response = await self.client.post("/session", params=_where(folder), json={"title": title})
        assert response.is_success, response.text
        return Session(server=self, id=response.json()["id"], directory=folder)

    def session(self, session_id: str, directory: Path | None = None) -> "Session":
        """A session that exists already."""
        folder = self.lab.project() if directory is None else directory
        return Session(server=self, id=session_id, directory=folder)

    async def status(self, directory: Path | None = None) -> dict[str, Json]:
        """Session id → what it does; idle ones are absent."""
        folder = self.lab.project() if directory is None else directory
        statuses: dict[str, Json] = await self.get("/session/status", folder)
        return statuses

    async def questions(self, directory: Path | None = None) -> list[Json]:
        """The questions that wait for a human."""
        asks: list[Json] = await self.get("/question", directory or self.lab.project())
        return asks

    async def permissions(self, directory: Path | None = None) -> list[Json]:
        """The permissions that wait for a human."""
        asks: list[Json] = await self.get("/permission", directory or self.lab.project())
        return asks


@dataclass(frozen=True)
class Session:
    """One session as one server shows it."""

    server: Server
    id: str
    directory: Path

    def on(self, server: Server) -> "Session":
        """The same session as another server (a restarted one, say) shows it."""
        return Session(server=server, id=self.id, directory=self.directory)

    async def prompt(self, text: str) -> None:
        """Send a prompt; the turn goes on by itself."""
        body = {"parts": [{"type": "text", "text": text}]}
        path = f"/session/{self.id}/prompt_async"
        response = await self.server.client.post(path, params=_where(self.directory), json=body)
        assert response.is_success, f"{response.status_code} {response.text}"

    async def prompt_subtask(self, description: str, prompt: str) -> None:
        """Send a prompt that is a task for a subagent, as a command can be; the turn goes on by itself."""
        part = {"type": "subtask", "agent": "general", "description": description, "prompt": prompt}
        await self._post("prompt_async", {"parts": [part]})

    async def compact(self) -> None:
        """Have it compacted; this takes as long as the model does."""
        await self._post("summarize", {"providerID": "fake", "modelID": MODEL})

    async def _post(self, route: str, body: Json) -> None:
        path = f"/session/{self.id}/{route}"
        response = await self.server.client.post(path, params=_where(self.directory), json=body, timeout=600)
        assert response.is_success, f"{response.status_code} {response.text}"

    async def messages(self) -> list[Json]:
        """All messages, oldest first, each `{"info", "parts"}`; a bricked session fails here."""
        messages: list[Json] = await self.server.get(f"/session/{self.id}/message", self.directory)
        return sorted(messages, key=lambda message: int(message["info"]["time"]["created"]))

    async def status(self) -> Json:
        """What the server says that it does: `{"type": "idle" | "busy" | "retry", …}`."""
        statuses = await self.server.status(self.directory)
        return statuses.get(self.id, {"type": "idle"})

    async def abort(self) -> bool:
        """Abort it, and what the server answered."""
        response = await self.server.client.post(f"/session/{self.id}/abort", params=_where(self.directory))
        assert response.is_success, response.text
        answer: bool = response.json()
        return answer

    async def delete_message(self, message_id: str) -> httpx.Response:
        """Ask the server to delete a message; whatever it answers."""
        path = f"/session/{self.id}/message/{message_id}"
        return await self.server.client.delete(path, params=_where(self.directory))

    async def turns(self) -> list[Json]:
        """The assistant's messages, oldest first."""
        return [message for message in await self.messages() if message["info"]["role"] == "assistant"]

    async def calls(self, tool: str | None = None) -> list[Json]:
        """The tool parts, oldest first, of one tool or of all."""
        parts = [part for message in await self.messages() for part in message["parts"]]
        return [part for part in parts if part["type"] == "tool" and tool in {None, part["tool"]}]

    async def text(self) -> str:
        """All that the model said in the last turn."""
        parts = (await self.turns())[-1]["parts"]
        return "".join(part["text"] for part in parts if part["type"] == "text")

    async def open_ids(self) -> list[str]:
        """The open turns and calls as the server shows them."""
        turns = [turn["info"]["id"] for turn in await self.turns() if "completed" not in turn["info"]["time"]]
        calls = [call["id"] for call in await self.calls() if call["state"]["status"] in {"pending", "running"}]
        return turns + calls

    async def wait_for_call(self, tool: str, status: str = "running", *, seconds: float = SECONDS) -> Json:
        """Wait until a call of that tool is in that state, and answer its part."""

        async def look() -> Json | None:
            calls = await self.calls(tool)
            return next((call for call in calls if call["state"]["status"] == status), None)

        what = f"a {status} call of {tool} in {self.id}"
        return await wait_until(look, what, seconds=seconds, explain=self.server.tail)

    async def wait_for_turn(self, *, seconds: float = SECONDS) -> Json:
        """Wait until the model has begun to answer, and give that turn."""

        async def look() -> Json | None:
            return next((turn for turn in await self.turns() if turn["parts"]), None)

        return await wait_until(look, f"a turn of {self.id}", seconds=seconds, explain=self.server.tail)

    async def wait_for_bash(self, *, count: int = 1, seconds: float = SECONDS) -> list[Json]:
        """Wait until that many bash calls have said `STARTED`: their commands really run, and can be ended."""

        async def look() -> list[Json] | None:
            calls = [call for call in await self.calls("bash") if call["state"]["status"] == "running"]
            started = [call for call in calls if STARTED in call["state"].get("metadata", {}).get("output", "")]
            return started if len(started) >= count else None

        what = f"{count} started bash calls in {self.id}"
        return await wait_until(look, what, seconds=seconds, explain=self.server.tail)

    async def wait_for_ask(self, *, seconds: float = SECONDS) -> Json:
        """Wait until it waits for a human, and answer the question or the permission asked for."""

        async def look() -> Json | None:
            asks = await self.server.questions(self.directory) + await self.server.permissions(self.directory)
            return next((ask for ask in asks if ask["sessionID"] == self.id), None)

        what = f"{self.id} to ask a human"
        return await wait_until(look, what, seconds=seconds, explain=self.server.tail)

    async def wait_for_status(self, kind: str, *, seconds: float = SECONDS) -> Json:
        """Wait until the server says that of it: `idle`, `busy` or `retry`."""

        async def look() -> Json | None:
            status = await self.status()
            return status if status["type"] == kind else None

        return await wait_until(look, f"{self.id} to be {kind}", seconds=seconds, explain=self.server.tail)

    async def allow(self, permission: Json) -> None:
        """Say yes, once, to a permission that it asked for."""
        await self._reply(f"/permission/{permission['id']}/reply", {"reply": "once"})

    async def answer(self, question: Json, label: str = "yes") -> None:
        """Answer a question that it asked."""
        await self._reply(f"/question/{question['id']}/reply", {"answers": [[label]]})

    async def _reply(self, path: str, body: Json) -> None:
        response = await self.server.client.post(path, params=_where(self.directory), json=body)
        assert response.is_success, f"{response.status_code} {response.text}"

    async def wait_closed(self, *, seconds: float = SECONDS) -> None:
        """Wait until no turn and no call of it is open."""

        async def look() -> bool:
            return not await self.open_ids()

        await wait_until(look, f"{self.id} to have nothing open", seconds=seconds, explain=self.server.tail)

    async def wait_finished(self, *, turns: int = 1, seconds: float = SECONDS) -> Json:
        """Wait until it is idle with at least that many turns and the last one ended; answer that."""

        async def look() -> Json | None:
            found = await self.turns()
            ended = len(found) >= turns and "completed" in found[-1]["info"]["time"]
            return found[-1] if ended and (await self.status())["type"] == "idle" else None

        return await wait_until(look, f"{self.id} to finish", seconds=seconds, explain=self.server.tail)

    async def finish_prompt(self, text: str, *, seconds: float = SECONDS) -> Json:
        """Send a prompt and wait for its last turn, which must have ended well."""
        before = len(await self.turns())
        await self.prompt(text)
        turn = await self.wait_finished(turns=before + 1, seconds=seconds)
        assert "error" not in turn["info"], turn["info"]
        return turn

    async def wait_for_child(self, description: str, *, seconds: float = SECONDS) -> "Session":
        """Wait until its task call of that description started its child, and answer that."""

        async def look() -> str | None:
            children: list[Json] = await self.server.get(f"/session/{self.id}/children", self.directory)
            return next((child["id"] for child in children if child["title"].startswith(description)), None)

        what = f"the child {description!r} of {self.id}"
        found = await wait_until(look, what, seconds=seconds, explain=self.server.tail)
        return Session(server=self.server, id=found, directory=self.directory)


def existing(folder: Path) -> Path:
    """That folder, made."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()  # opencode resolves the folders it is given


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _where(directory: Path | None) -> dict[str, str]:
    return {} if directory is None else {"directory": str(directory)}


def _kill_marked(mark: str, *, but: int | None) -> int:
    """Kill what carries the mark in its environment: what this laboratory started, and nothing else."""
    killed = 0
    for process in psutil.process_iter():
        try:
            if process.pid != but and process.environ().get(MARK) == mark:
                process.kill()
                killed += 1
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or somebody else's
    return killed
