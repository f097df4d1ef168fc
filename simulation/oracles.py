"""What must hold after each event. The oracles know the truth from the model, and ask the product for nothing.

The two directions: nothing healthy is ever cut, and what hangs is ended or reported in time. How long that may take
is counted in time in which nothing was wrong: what disturbs the watchdog's clocks gives it as much time more.
"""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulation.work import Item, Run, Session, at_work
from watchdog.alerts.rules import Alert
from watchdog.model.outcome import GuardedWrite, Outcome, Row
from watchdog.model.session import Ask
from watchdog.model.verdict import Verdict
from watchdog.timing.events import Assessment

if TYPE_CHECKING:
    from simulation.product import Product
    from simulation.servers import Process
    from simulation.world import World

TICK_SECONDS: Final = 5.0
RACE_SECONDS: Final = 2.0
"""How old the truth may be that an act rests on: what begins while an abort is under way can't be known."""
SETTLE_SECONDS: Final = 90.0
"""How long after some trouble nothing is demanded: back-offs and probes of the product are not longer."""
RESET_SECONDS: Final = 15.0
"""Trouble that lasts longer may make the clocks of silences start anew."""
GIVING_UP_SECONDS: Final = 400.0
"""How long the attempts may take after which it is given up."""
FIRST_PING_SECONDS: Final = 65.0
HOUR: Final = 3_600.0
_RESETS: Final = frozenset({"step", "reboot", "no watchdog"})
_PER_ROW, _SOME = 6, 16
_TOLD_AN_HOUR: Final = 3
_KNOWN_ERRORS: Final = frozenset({"MessageAbortedError", "UnknownError"})


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never be."""

    kind: str
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Trouble that was, from when to when."""

    kind: str
    began: float
    ended: float


class Broken(Exception):
    """An oracle spoke: the world ends."""


class Oracles:
    """All that is asserted, and the counts for the table.

    Attributes:
        violation: the first one; the world ends with it.
        counts: acts and other figures, by name.
        longest_overrun: how long after its limit the last of what hung was ended, in calm times.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.violation: Violation | None = None
        self.counts: dict[str, int] = {}
        self.longest_overrun = 0.0
        self.given_up: set[str] = set()
        self.degraded = False
        self._disturbances: list[Disturbance] = []
        self._sending: dict[int, int] = {}
        self._provable_since: dict[str, float] = {}
        self._untold_since: dict[str, float] = {}
        self._deaf_since: dict[int, float] = {}
        self._told_at: deque[tuple[str, float]] = deque(maxlen=500)
        setting = world.script.setting
        self.bound = 3 * setting.poll + setting.abort_grace + 30.0

    def fail(self, kind: str, text: str) -> None:
        """Note that something is as it must never be."""
        if self.violation is None:
            self.violation = Violation(kind, self.world.now, text)
            self.world.log("VIOLATION", kind, text)
            self.world.over.set()

    def count(self, what: str) -> None:
        """Count something for the table."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def broken(self, error: BaseException) -> None:
        """The model itself failed."""
        self.fail("model", f"{type(error).__name__}: {error}")
        raise error

    def own_error(self, where: str, error: Exception) -> None:
        """The product failed on its own."""
        parts = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        self.fail("own error", f"{where}: {'; '.join(f'{type(each).__name__}: {each}' for each in parts)}")

    # -- nothing healthy is cut ------------------------------------------------------------------------------------

    def acts(self, number: int) -> None:
        """A watchdog's process is about to act: it has the lock."""
        if self.world.lock_file.holder != number:
            self.fail("two act", f"watchdog {number} acts, and {self.world.lock_file.holder} has the lock")

    def sends_abort(self, port: int, session_id: str) -> None:
        """An abort is sent: so many at a time at one server."""
        self._sending[port] = self._sending.get(port, 0) + 1
        self.world.log("abort", session_id, port)
        if self._sending[port] > self.world.setting.max_concurrency:
            self.fail("cap", f"{self._sending[port]} aborts at a time at port {port}")

    def sent_abort(self, port: int, session_id: str) -> None:
        """It was answered, or not."""
        self._sending[port] -= 1
        self.world.log("aborted", session_id, port)

    def sent(self, process: "Process", what: str, session_id: str) -> bool:
        """Something was sent to a server that is to change something, or to show what was changed."""
        if process.plan.copy:
            self.fail("wrong server", f"{what} for {session_id} was sent to a server of another database")
        return True

    def aborts(self, process: "Process", session: Session) -> None:
        """An abort of a session arrived: all that it ends must have outlived its limit."""
        self.count("aborts")
        for run in process.ended_by_abort(session):
            if self.world.held(run.session):
                self.fail("hold ignored", f"{run.session.id} is on hold, and was ended")
            if not _is_thrown_away(run.session, session) and not self._justified(run):
                self.fail("healthy cut", f"{run.session.id} was ended: {self._state(run)}")
            self._cap(run)
            due = run.may_end_at(self.world.setting)
            if not self._disturbances or self._disturbances[-1].ended < run.began:
                self.longest_overrun = max(self.longest_overrun, self.world.now - due)

    def _justified(self, run: Run) -> bool:
        now, setting, session = self.world.now, self.world.setting, run.session
        if session.gone:
            return now - run.life >= max(setting.idle_timeout, setting.tool_timeout) - run.slack(setting)
        return run.may_end_at(setting) - run.slack(setting) <= now or now - session.ok_until <= RACE_SECONDS

    def _state(self, run: Run) -> str:
        setting, now = self.world.setting, self.world.now
        told = [
            f"{item.kind} since {now - item.since:.1f} s, may end in {run.item_may_end_at(item, setting) - now:.1f} s"
            for item in run.items
        ]
        return "; ".join(told) or f"nothing is open, and it showed life {now - run.life:.1f} s ago"

    def _cap(self, run: Run) -> None:
        """So many attempts, and then one an hour."""
        now = self.world.now
        run.aborts.append(now)
        lately = [at for at in run.aborts if now - at < HOUR - 60.0]
        killed = [each for each in self._disturbances if each.kind == "no watchdog" and now - each.ended < HOUR]
        if len(lately) > self.world.setting.max_attempts + len(killed):
            self.fail("cap", f"{run.session.id} was ended {len(lately)} times within an hour")

    def rejects(self, process: "Process", ask: Ask) -> None:
        """An ask was turned down."""
        self.count("rejections")
        if self.world.setting.human_timeout is None:
            self.fail("healthy cut", f"{ask.id} was turned down at {process.pid}, and nobody set a limit")

    def about_to_write(self, writes: Sequence[GuardedWrite]) -> None:
        """Rows are about to be rewritten: nobody may be at work on them, and the journal has them as they are."""
        kept = [each.row for rows in self.world.journal.rows.values() for each in rows]
        for write in writes:
            turn, session = write.row.message_id, self.world.sessions.get(write.row.session_id)
            run = self.world.executes(turn)
            if run is not None and self.world.rows.get(write.row.table, write.row.id) == write.row.data:
                self.fail("healthy rewritten", f"{write.row.id} is at work at {run.process.pid}: {self._state(run)}")
            if write.row not in kept:
                self.fail("unjournaled", f"{write.row.id} is rewritten, and the journal does not have it")
            if not _reads(write.after):
                self.fail("unreadable", f"{write.row.id} would read as no opencode can: {write.after}")
            every = self.world.sessions.get("*")
            if any(each is not None and each.held_until > self.world.wall_ms for each in (session, every)):
                self.fail("hold ignored", f"{write.row.session_id} is on hold, and was rewritten")

    def wrote(self, writes: Sequence[GuardedWrite], count: int) -> None:
        """Rows were rewritten, or changed before."""
        self.count("settled" if count else "writes that came to nothing")
        self.world.log("wrote", count, *(write.row.id for write in writes))

    def publishes(self, row: Row) -> None:
        """A part was published: only as it is. A real server writes its names in an order of its own."""
        data = self.world.rows.get("part", row.id)
        if data is None or not row.says(data):
            self.fail("changed by publishing", f"{row.id} reads otherwise than what was published")
        elif self.world.executes(row.message_id) is not None:
            self.fail("healthy rewritten", f"{row.id} was published while it is at work")

    # -- what hangs is ended or reported ---------------------------------------------------------------------------

    def disturbed(self, kind: str, began: float) -> None:
        """Trouble is over."""
        self._disturbances.append(Disturbance(kind, began, self.world.now))
        self._provable_since.clear()
        self._untold_since.clear()
        if len(self._disturbances) > 1_000:  # noqa: PLR2004 - more than any item lives through
            del self._disturbances[:500]

    @property
    def is_calm(self) -> bool:
        """Whether nothing is wrong, and nothing was lately."""
        if self.world.troubles:
            return False
        return not self._disturbances or self.world.now - self._disturbances[-1].ended > SETTLE_SECONDS

    def tick(self) -> None:
        """Look at everything that is unfinished."""
        for run in self.world.runs:
            if self.world.held(run.session) or run.session.gone or not run.hangs:
                run.excused_at = self.world.now
            else:
                self._look_at(run)
        if not self.is_calm:
            self._provable_since.clear()
            return
        self._look_at_orphans()

    def _look_at(self, run: Run) -> None:
        """Whether something that hangs was left for too long."""
        process, now = run.process, self.world.now
        if process.trouble == "deaf":
            self._deaf_since.setdefault(id(run), now)
            due = max(self._deadline(run), self._deaf_since[id(run)]) + self.bound + GIVING_UP_SECONDS
            if now > due and self.is_calm_but_for("deaf") and run.session.id not in self.given_up:
                self.fail("not reported", f"{run.session.id} can't be ended, and nobody was told: {self._state(run)}")
            return
        if process.plan.port is None or not process.well or not self._can_be_ended(run):
            run.excused_at = now
        elif self.is_calm and now > max(self._deadline(run), run.excused_at, self._next_try(run)) + self.bound:
            self.fail("left hanging", f"{run.session.id} at {process.pid}: {self._state(run)}")

    def is_calm_but_for(self, kind: str) -> bool:
        """Whether nothing else is wrong."""
        last = self._disturbances[-1].ended if self._disturbances else -SETTLE_SECONDS * 2
        return not (self.world.troubles.keys() - {kind}) and self.world.now - last > SETTLE_SECONDS

    def _can_be_ended(self, run: Run) -> bool:
        """Whether nobody's life stands against it, and no prompt since a first attempt."""
        session = run.session
        if run.aborts and session.prompted_at > run.aborts[0]:
            return False
        orphans = self.world.orphans()
        return not any(
            at_work(each) or each.id in orphans or self.world.waits_for_answer(each) for each in session.below()
        )

    def _next_try(self, run: Run) -> float:
        """When it is tried again at the latest, where an attempt came to nothing."""
        return run.aborts[-1] + HOUR if run.aborts else run.began

    def _deadline(self, run: Run) -> float:
        return max(self._item_deadline(run, item) for item in run.items)

    def _item_deadline(self, run: Run, item: Item) -> float:
        """When an item has outlived its limit, by the watchdog's clocks at the latest."""
        due = run.item_may_end_at(item, self.world.setting)
        base = {"stream": max(run.life, run.session.prompted_at), "retry": max(item.due, run.life)}.get(
            item.kind, item.since + item.waited
        )
        # The first status that is heard of a session that began unheard is taken for life, once.
        limit, more, start = due - base, 0.0, base + (FIRST_PING_SECONDS if item.kind == "stream" else 0.0)
        for each in self._disturbances:
            if each.ended < item.since:
                continue
            idle = item.kind != "call"
            if each.kind in _RESETS or (idle and each.ended - each.began > RESET_SECONDS):
                start, more = max(start, each.ended + 35.0), 0.0
            else:
                more += each.ended - max(each.began, item.since) + SETTLE_SECONDS / 2
        return start + limit + more

    def _look_at_orphans(self) -> None:
        now, found = self.world.now, self.world.orphans()
        since = {}
        for id_, rows in found.items():
            if self._is_provable(id_):
                since[id_] = self._provable_since.get(id_, now)
                if now - since[id_] > self.world.setting.orphan_grace + self.bound + SETTLE_SECONDS:
                    self.fail("orphan left", f"nobody is at work on {', '.join(sorted(rows))} of {id_}")
        self._provable_since = since

    def _is_provable(self, session_id: str) -> bool:
        """Whether it can be shown that nobody is at work on what is open in a session."""
        session = self.world.sessions.get(session_id)
        if session is None or session.gone or session.run is not None or self.world.held(session):
            return False
        holders = [each for each in self.world.processes if each.holds]
        return all(each.vouches and each.plan.port is not None and each.well for each in holders)

    # -- what the product says -------------------------------------------------------------------------------------

    def looked(self, product: "Product", assessment: Assessment, *, acting: bool) -> None:
        """It looked: nothing unfinished may be left out for long, and its memory stays bounded."""
        self.count("looks")
        judgement = assessment.judgement
        for verdict in judgement.verdicts:
            self.world.log("verdict", verdict.kind.value, verdict.session_id, verdict.cancel_session_id, acting)
        self._bounded(product)
        if not acting or not self.is_calm:
            return
        told = {each.session_id for each in judgement.spared}
        told.update(id_ for each in judgement.verdicts for id_ in (each.session_id, each.cancel_session_id))
        told.update(each.session_id for each in assessment.observation.snapshot.damaged)
        runs = [run for run in self.world.runs if run.turn is not None]
        runs = [run for run in runs if not run.session.gone or _is_known(run)]
        unfinished = {*self.world.orphans(), *(run.session.id for run in runs)}
        now, since = self.world.now, {}
        for id_ in unfinished - {str(each) for each in told}:
            since[id_] = self._untold_since.get(id_, now)
            if now - since[id_] > self.bound:
                self.fail("silently spared", f"{id_} is unfinished, and no look has said so")
        self._untold_since = since

    def _bounded(self, product: "Product") -> None:
        memory, rows = product.watch.memory, self.world.rows
        size = len(memory.calls) + len(memory.asks) + len(memory.looks) + len(memory.attempts) + len(memory.let_go)
        size += len(memory.claimed_by) + len(memory.lives.known) + len(memory.stopped) + len(memory.processes)
        asks = sum(len(process.asks) for process in self.world.processes)
        live = len(rows.open["message"]) + len(rows.open["part"]) + len(self.world.runs) + asks
        if size > _SOME + _PER_ROW * live:
            self.fail("memory", f"{size} things are remembered of {live}")

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """It acted."""
        self.count(f"outcome {outcome.result.value}")
        self.world.log("outcome", verdict.kind.value, verdict.cancel_session_id, outcome.result.value, given_up)

    def told(self, alert: Alert) -> None:
        """It told people something."""
        self.count("alerts")
        self.world.log("alert", alert.title)
        words = alert.title.split()
        if "gave up on" in alert.title:
            self.given_up.add(words[-1])
            self._told_at.append((words[-1], self.world.now))
            times = sum(id_ == words[-1] and self.world.now - at < HOUR for id_, at in self._told_at)
            if times > _TOLD_AN_HOUR + len(self._disturbances):
                self.fail("noise", f"{words[-1]} was given up {times} times within an hour")
        elif "no longer given up" in alert.title:
            self.given_up.discard(words[1])
        elif "no longer degraded" in alert.title:
            self.degraded = False
        elif "degraded" in alert.title:
            self.degraded = True

    # -- the end ---------------------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """What is left though all faults ended: what hangs and could be ended, orphans, complaints."""
        runs = [
            run for run in self.world.runs if not self.world.held(run.session) and run.process.plan.port is not None
        ]
        hanging = [f"{run.session.id} hangs" for run in runs if run.hangs and self._can_be_ended(run)]
        orphans = [f"{id_} is an orphan" for id_ in self.world.orphans() if self._is_provable(id_)]
        return [*hanging, *orphans, *(["the watchdog is degraded"] if self.degraded else [])]


def _is_known(run: Run) -> bool:
    """Whether a server is asked though no row names it: of what was deleted before a look nothing else tells."""
    return run.process.plan.port is not None and run.process.plan.configured


def _is_thrown_away(session: Session, ended: Session) -> bool:
    """Whether work was deleted with the session that is ended, or was begun by such: no row tells whose it is."""
    return ended.gone and session is not ended and (session.gone or session.parent is not ended)


def _reads(data: str) -> bool:
    """Whether a settled row reads: any other shape makes a real server answer 400 for the whole session (measured).

    Without a finish the next prompt would run the old subtask or compaction again (measured).
    """
    value = json.loads(data)
    if value.get("type") == "tool":
        state = value["state"]
        return (
            state["status"] == "error"
            and isinstance(state["error"], str)
            and {"start", "end"} <= state["time"].keys()
        )
    error = value["error"]
    known = error["name"] in _KNOWN_ERRORS and isinstance(error["data"]["message"], str)
    return known and bool(value.get("finish")) and "completed" in value["time"]
