"""The world: it lives through its script, and the product lives in it."""

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from simulation.leases import Database
from simulation.loop import SimulatedLoop
from simulation.machine import Machine
from simulation.oracles import Oracles
from simulation.product import Product
from simulation.records import LockFile
from simulation.rows import IndexedRows
from simulation.script import Plan, Script
from simulation.servers import Process
from simulation.work import Run, Session
from tests.fakes.journal import FakeJournal
from watchdog.errors import ServerAnswerInvalid
from watchdog.model.interventions import InterventionId
from watchdog.model.outcome import Row
from watchdog.model.session import Ask, SessionId, TurnId

_ABORT_TAKES_SECONDS = 0.3
_FIRST_PID = 100


class World:
    """Everything there is, and the truth about it.

    Attributes:
        processes: all that are alive.
        sessions: by id, also those that were deleted.
        troubles: what is wrong just now, so that nothing is demanded of the product.
        stirred: set when work begins.
        landed: how often each kind of event did what it was planned for; `missed` where it could not.
        next_event_at: when the script goes on.
    """

    def __init__(self, loop: SimulatedLoop, script: Script) -> None:
        self.loop = loop
        self.script = script
        self.setting = script.setting
        self.machine = Machine(loop, steady=script.setting.steady, drift=script.setting.drift)
        self.rows = IndexedRows()
        self.backup: IndexedRows | None = None
        self.journal = FakeJournal()
        self.lock_file = LockFile()
        self.database = Database(loop.time)
        self.locked = self.journal_locked = False
        self.processes: list[Process] = []
        self.sessions: dict[str, Session] = {}
        self.troubles: dict[str, int] = {}
        self.landed: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.products: list[Product] = []
        self.hurt: set[int] = set()
        """The replicas to which something happens just now."""
        self.undoing: list[InterventionId] = []
        self.stirred = asyncio.Event()
        self.calm = asyncio.Event()
        self.over = asyncio.Event()
        self.next_event_at = 0.0
        self.pids = _FIRST_PID
        self._rng = random.Random(script.seed)  # noqa: S311 - how long answers take
        self._digest = hashlib.blake2b(digest_size=16)
        self.lines: list[str] = []
        self._ends: dict[int, list[asyncio.Event]] = {}
        self._copies: dict[str, Row] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._numbers = 0
        self.oracles = Oracles(self)

    # -- time and chance -------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The awake clock since the world began."""
        return self.loop.time()

    @property
    def wall_ms(self) -> int:
        """The wall clock."""
        return self.machine.wall_ms

    @property
    def undisturbed_until(self) -> float:
        """Until when nothing goes wrong for certain."""
        return self.now if self.troubles or self.hurt else self.next_event_at

    def latency(self) -> float:
        """How long an answer takes."""
        return self.setting.latency * (0.5 + self._rng.random())

    def log(self, *words: object) -> None:
        """Write down what happened: two runs of one script write the same."""
        line = f"{self.now:.6f} " + " ".join(map(str, words))
        self._digest.update(line.encode())
        self.lines.append(line)
        if len(self.lines) > 2_000:  # noqa: PLR2004 - enough to see what led to a failure
            del self.lines[:1_000]

    @property
    def digest(self) -> str:
        """Everything that was written down, as one short text."""
        return self._digest.hexdigest()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something at the side. What it raises ends the world."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.oracles.broken(error)

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something later."""
        self.loop.call_later(seconds, do)

    async def for_ever(self) -> None:
        """Never come back."""
        await self.loop.create_future()

    async def first_of(self, *work: Coroutine[Any, Any, Any]) -> None:
        """Wait for whichever ends first, and do no more of the others."""
        tasks = [self.loop.create_task(each) for each in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def until_calm(self) -> None:
        """Wait until all trouble is over for good."""
        await self.calm.wait()

    # -- trouble ---------------------------------------------------------------------------------------------------

    def trouble(self, kind: str) -> None:
        """Something begins to be wrong."""
        self.troubles[kind] = self.troubles.get(kind, 0) + 1
        self.log("trouble", kind)

    def no_trouble(self, kind: str) -> None:
        """It is over."""
        self.troubles[kind] -= 1
        if not self.troubles[kind]:
            del self.troubles[kind]
        self.log("no trouble", kind)

    async def troubled(self, kind: str, seconds: float) -> None:
        """Let something be wrong for a while, or until all is calm."""
        self.trouble(kind)
        began = self.now
        await self.first_of(self.calm.wait(), asyncio.sleep(seconds))
        self.no_trouble(kind)
        self.oracles.disturbed(kind, began)

    async def mended(self, kind: str, seconds: float, mend: Callable[[], object]) -> None:
        """Let something be wrong for a while, and then mend it."""
        await self.troubled(kind, seconds)
        mend()

    async def started_again(self, process: Process, down: float) -> None:
        """Start a process again that ended."""
        await self.troubled("another server" if process.elsewhere else "server down", down)
        self.start_process(process.plan)
        await self.troubled("server young", 40.0)

    # -- processes and sessions ------------------------------------------------------------------------------------

    def start_process(self, plan: Plan) -> Process:
        """Start a process, and let it listen if its port is free."""
        self.pids += 1
        process = Process(self, self.pids, plan)
        self.processes.append(process)
        self.log("start", process.pid, plan.port)
        return process

    def end_process(self, process: Process) -> None:
        """Kill a process."""
        self.log("crash", process.pid)
        self.processes.remove(process)
        process.crash()

    def listening(self, port: int) -> Process | None:
        """Who listens at a port."""
        return next((each for each in self.processes if each.plan.port == port), None)

    def new_id(self, prefix: str) -> str:
        """An id that nothing else has."""
        self._numbers += 1
        return f"{prefix}_x{self._numbers:06d}"

    def new_session(
        self, directory: str, *, parent: Session | None = None, id_: str | None = None, remote: bool = False
    ) -> Session:
        """Make a session."""
        made = self.rows.session(
            id_, parent=None if parent is None else parent.id, directory=directory, at=self.wall_ms
        )
        session = self.sessions[made] = Session(made, directory, parent, remote)
        if parent is not None:
            session.remote = parent.remote  # the row of a child need not say so
        elif remote:
            self.rows.set("session", made, workspace="cloud")
        if parent is not None:
            parent.children.append(session)
        return session

    def prompt_row(self, session: Session) -> str:
        """Write a prompt."""
        session.prompted_at = self.now
        return self.rows.prompt(session.id, at=self.wall_ms)

    def prompt(self, process: Process, session: Session, steps: Sequence[Mapping[str, Any]]) -> None:
        """A person prompts a session at a process: it begins at once, or waits for the end of what runs."""
        id_ = self.prompt_row(session)
        self.log("prompt", session.id, process.pid)
        process.tell(session, "message.part.updated")
        if session.run is None:
            process.begin(session, steps)
            return
        self.note_justified(session.run)
        session.run.life = self.now
        session.queue.append((id_, [dict(step) for step in steps]))

    def call_ref(self, call: str) -> str:
        """The model's own name of a call."""
        data = self.rows.get("part", call)
        return str(json.loads(data)["callID"]) if data else call

    async def end_of(self, run: Run) -> None:
        """Wait for the end of a run, however it ends."""
        while run.session.run is run:
            ended = asyncio.Event()
            self._ends.setdefault(id(run), []).append(ended)
            await ended.wait()

    def note_end(self, run: Run) -> None:
        """Tell whoever waits for a run."""
        for each in self._ends.pop(id(run), ()):
            each.set()

    def note_justified(self, run: Run) -> None:
        """Remember that a run might have been ended until now, though it goes on with something healthy."""
        if run.may_end_at(self.setting) - run.slack(self.setting) <= self.now:
            run.session.ok_until = self.now

    # -- what the product sends ------------------------------------------------------------------------------------

    def take_abort(self, process: Process, session_id: SessionId) -> None:
        """An abort arrives: it answers `true` at once, and ends what it ends a moment later."""
        self.oracles.sent(process, "an abort", session_id)
        session = self.sessions.get(session_id)
        if session is None:
            return
        self.oracles.aborts(process, session)
        if process.trouble == "deaf":
            return
        self.later(_ABORT_TAKES_SECONDS * self._rng.random(), lambda: self._abort(process, session))

    def _abort(self, process: Process, session: Session) -> None:
        if process.alive:
            process.abort(session)

    def take_reject(self, process: Process, ask: Ask) -> None:
        """An ask is turned down."""
        self.oracles.sent(process, "a rejection", ask.session_id)
        listed = next((each for each in process.asks if each.ask.id == ask.id), None)
        if listed is None:
            raise ServerAnswerInvalid(f"{process.pid} answered 404.")
        self.oracles.rejects(listed)
        if process.trouble != "deaf":
            listed.turned_down.set()
            process.answered(listed, "rejected")

    def take_publish(self, process: Process, row: Row) -> None:
        """A part is written again as it is, to be shown."""
        self.oracles.sent(process, "a part", row.session_id)
        self.oracles.publishes(row)

    def copy_of(self, process: Process, turn_id: TurnId) -> Sequence[Row] | None:
        """What a process has of a turn. One on a copy of the file has the same ids, and other words."""
        ids = [turn_id, *self.rows.parts.get(turn_id, ())]
        found = [(table, self.rows.tables[table][id_]) for id_ in ids for table in ("message", "part")
                 if id_ in self.rows.tables[table]]  # fmt: skip
        if not found:
            return None
        return [_row(table, row, other=process.elsewhere) for table, row in found]

    # -- living ----------------------------------------------------------------------------------------------------

    def start_product(self, machine: Machine | None = None) -> Product:
        """Start a watchdog, on this machine or on another one."""
        self.pids += 1
        product = Product(self, self.pids, machine or self.machine)
        self.products.append(product)
        self.log("watchdog", product.number)
        return product

    @property
    def product(self) -> Product | None:
        """The watchdog that runs; of several the one that acts, or the first one."""
        alive = [each for each in self.products if not each.line.dead]
        acting = (each for each in alive if each.lease is not None and each.lease.acquire())
        return next(acting, alive[0] if alive else None)

    def kill_product(self, product: Product) -> None:
        """Kill a watchdog, wherever it is."""
        self.log("killed", product.number)
        product.kill()
        self.oracles.degraded.discard(product.number)  # the next one does not know what this one told
        if self.lock_file.holder == product.number:
            self.lock_file.holder = None

    @property
    def runs(self) -> list[Run]:
        """What is done just now."""
        return [run for process in self.processes for run in process.runs.values()]

    @property
    def is_unfinished(self) -> bool:
        """Whether anybody is at work, or anything is open."""
        return any(process.runs for process in self.processes) or any(self.rows.open.values())

    def executes(self, turn_id: str) -> Run | None:
        """Who is at work on a turn."""
        return next((run for run in self.runs if run.turn == turn_id), None)

    def seems_older(self, run: Run) -> bool:
        """Whether a message of before seems newer than the turn that is at work, as after the clock was set back."""
        rows, turn = self.rows.tables["message"], self.rows.tables["message"].get(run.turn or "")
        messages = self.rows.messages.get(run.session.id, ())
        return turn is not None and any(rows[id_]["time_created"] > turn["time_created"] for id_ in messages)

    def held(self, session: Session) -> bool:
        """Whether a person wants a session left alone, or one below it, or one above it that it works for."""
        every = self.sessions.get("*")
        around: list[Session] = [session, *session.below()] + ([every] if every is not None else [])
        return any(each.held_until > self.wall_ms for each in around)

    def is_damaged(self, session: Session) -> bool:
        """Whether a row of a session, or of one that is related to it, can't be read."""
        if not self.rows.damaged:
            return False
        *_, root = session.above()
        family = {root.id, *(each.id for each in root.below())}
        column = {"message": "session_id", "part": "session_id", "session": "id"}
        return any(self.rows.get(table, id_, column[table]) in family for table, id_ in self.rows.damaged)

    def waits_for_answer(self, session: Session) -> bool:
        """Whether the newest message of a session is a person's: whoever was to answer it may have died."""
        newest = next(reversed(self.rows.messages.get(session.id, {})), None)
        if newest is None or ("message", newest) in self.rows.damaged:
            return False
        return bool(json.loads(self.rows.tables["message"][newest]["data"])["role"] == "user")

    def newest_turn(self, session_id: str) -> str | None:
        """The turn of a session that was begun last."""
        for id_ in reversed(self.rows.messages.get(session_id, {})):
            if ("message", id_) in self.rows.damaged:
                return None
            if json.loads(self.rows.tables["message"][id_]["data"])["role"] == "assistant":
                return id_
        return None

    def orphans(self) -> dict[str, list[str]]:
        """The open rows that nobody is at work on, by session."""
        turns = {run.turn for run in self.runs}
        found: dict[str, list[str]] = {}
        for id_ in self.rows.open["message"]:
            row = self.rows.tables["message"][id_]
            if id_ not in turns and ("message", id_) not in self.rows.damaged:
                found.setdefault(row["session_id"], []).append(id_)
        for id_ in self.rows.open["part"]:
            row = self.rows.tables["part"][id_]
            if row["message_id"] not in turns and ("part", id_) not in self.rows.damaged:
                found.setdefault(row["session_id"], []).append(id_)
        return found


def _row(table: str, row: Mapping[str, Any], *, other: bool) -> Row:
    data = json.loads(row["data"])
    if other:
        data["elsewhere"] = True
    return Row(
        table=table,
        id=row["id"],
        message_id=TurnId(row["message_id"] if table == "part" else row["id"]),
        session_id=row["session_id"],
        created_ms=row["time_created"],
        updated_ms=row["time_updated"],
        data=json.dumps(data),
    )
