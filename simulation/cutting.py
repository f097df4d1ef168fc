"""What must hold whenever something is sent or written: nothing healthy is cut, and no limit of acts is passed."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from simulation.ledger import SETTLE_SECONDS, Ledger
from simulation.replicas import name_of
from simulation.work import Run, Session
from watchdog.model.outcome import GuardedWrite, Row

if TYPE_CHECKING:
    from simulation.servers import Listed, Process
    from simulation.world import World

RACE_SECONDS: Final = 2.0
"""How old the truth may be that an act rests on: what begins while an abort is under way can't be known."""
ACT_SECONDS: Final = 30.0
"""How long it takes at most from a verdict to an abort: a fresh look, and turns behind others at the same server."""
FIRST_PING_SECONDS: Final = 65.0
"""The first status that is heard of a session that began unheard is taken for life, once; it is told each minute."""
HOUR: Final = 3_600.0
_KNOWN_ERRORS: Final = frozenset({"MessageAbortedError", "UnknownError"})


class Cutting(Ledger):
    """Whether acts are justified.

    Attributes:
        longest_overrun: how long after it might have been ended anything was ended, in calm times.
        bound: how long that may take: until the next look, until an act has ended, and a while for the act itself.
    """

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.longest_overrun = 0.0
        setting = world.script.setting
        self.bound = setting.poll + setting.abort_grace + ACT_SECONDS
        self._sending: dict[int, int] = {}

    def acts(self, number: int) -> None:
        """A watchdog's process is about to act: it has the lock, or the lease by the word of the database."""
        if self.world.setting.replicas:
            self._has_the_lease(number)
        elif self.world.lock_file.holder != number:
            self.fail("two act", f"watchdog {number} acts, and {self.world.lock_file.holder} has the lock")

    def _has_the_lease(self, number: int) -> None:
        database = self.world.database
        if self.world.now - database.set_at <= RACE_SECONDS:
            return  # the clock of the database was set while an answer was on its way
        if database.row.holder != name_of(number):
            self.fail("two act", f"{name_of(number)} acts, and {database.row.holder} has the lease")
        elif database.row.expires <= database.now:
            self.fail("act after the end", f"{name_of(number)} acts, and its term ended")

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
        if process.elsewhere:
            self.fail("wrong server", f"{what} for {session_id} was sent to a server of another database")
        return True

    def aborts(self, process: "Process", session: Session) -> None:
        """An abort of a session arrived: all that it ends must have outlived its limit."""
        self.count("aborts")
        for run in process.ended_by_abort(session):
            if self._wanted(session):
                self._is_agreed(run)
                continue
            if self.world.held(run.session):
                self.fail("hold ignored", f"{run.session.id} is on hold, and was ended")
            if not _is_thrown_away(run.session, session) and not self._justified(run):
                self.fail("healthy cut", f"{run.session.id} was ended: {self._state(run)}")
            self._note_overrun(run)
            self._cap(run)

    def _note_overrun(self, run: Run) -> None:
        """How long after it might have been ended it is ended, where nothing was wrong in its life."""
        calm = not self.world.troubles and (
            not self.disturbances or self.disturbances[-1].ended < run.began - SETTLE_SECONDS
        )
        if calm and not run.aborts:
            due = max(run.may_end_at(self.world.setting), self.eased_at(run))
            overrun = self.world.now - due
            self.longest_overrun = max(self.longest_overrun, overrun)
            if overrun > self.bound + FIRST_PING_SECONDS * any(item.kind == "stream" for item in run.items):
                self.fail("late", f"{run.session.id} was ended {overrun:.1f} s after it might have been")

    def _wanted(self, session: Session) -> bool:
        """Whether a person said that a session is to end, or one above it with all that is below."""
        for each in session.above():
            lately = self.world.now - each.released_at <= RACE_SECONDS
            said = [*each.releases, *([each.released_below] if lately else [])]
            if said and (each is session or any(said)):
                return True
        return False

    def _is_agreed(self, run: Run) -> None:
        """With a session that a person released ends what its calls wait for, unless another person is involved."""
        session, before = run.session, self.world.now - RACE_SECONDS
        if self._wanted(session):
            return
        asks = any(item.asking_since is not None and item.asking_since < before for item in run.items)
        prompted = self.world.waits_for_answer(session) and session.prompted_at < before
        if asks or prompted or session.held_until > self.world.wall_ms:
            self.fail("healthy cut", f"{session.id} was ended with one above it, and a person waits for it")

    def eased_at(self, run: Run) -> float:
        """When the last that stood against ending it was over.

        After the clock was set back, a turn seems older than one before it. Its calls are spared then while the
        session shows life: nobody can tell which turn is at work.
        """
        seems_older = self.world.seems_older(run)
        return max(run.excused_at, run.eased_at, run.life + self.world.setting.idle_timeout * seems_older)

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
        since = Counter(each.kind for each in self.disturbances if now - each.ended < HOUR)
        if len(lately) > self.world.setting.max_attempts * (1 + since["forgot"]) + since["no watchdog"]:
            self.fail("cap", f"{run.session.id} was ended {len(lately)} times within an hour")

    def rejects(self, listed: "Listed") -> None:
        """An ask was turned down."""
        self.count("rejections")
        limit, id_ = self.world.setting.human_timeout, listed.ask.id
        if limit is None:
            self.fail("healthy cut", f"{id_} was turned down, and nobody set a limit")
        elif listed.item in listed.run.items and listed.item.asking_since is not None:
            if self.world.now - listed.item.asking_since < limit:
                since = self.world.now - listed.item.asking_since
                self.fail("healthy cut", f"{id_} was turned down after {since:.1f} s, and {limit:g} are allowed")
            if self.world.held(listed.run.session):
                self.fail("hold ignored", f"{listed.run.session.id} is on hold, and {id_} was turned down")

    def about_to_write(self, writes: Sequence[GuardedWrite]) -> None:
        """Rows are about to be rewritten: nobody may be at work on them, and the journal has them as they are."""
        kept = [each.row for rows in self.world.journal.rows.values() for each in rows]
        for write in writes:
            run = self.world.executes(write.row.message_id)
            if run is not None and self.world.rows.get(write.row.table, write.row.id) == write.row.data:
                self.fail("healthy rewritten", f"{write.row.id} is at work at {run.process.pid}: {self._state(run)}")
            if (write.row.table, write.row.id) in self.world.rows.damaged:
                self.fail("damage rewritten", f"{write.row.id} can't be read, and is rewritten")
            if self._takes_back(write):
                continue
            if write.row not in kept:
                self.fail("unjournaled", f"{write.row.id} is rewritten, and the journal does not have it")
            if not _reads(write.after):
                self.fail("unreadable", f"{write.row.id} would read as no opencode can: {write.after}")
            self._is_free(self.world.sessions.get(write.row.session_id))

    def _takes_back(self, write: GuardedWrite) -> bool:
        """Whether a row is put back as it was, as a person asked: only over what the watchdog itself wrote."""
        for number in self.world.undoing:
            for each in self.world.journal.rows.get(number, ()):
                if each.row.id == write.row.id and each.row.data == write.after:
                    newest = self.world.newest_turn(write.row.session_id)
                    if not write.row.says(each.after) or newest not in {None, write.row.message_id}:
                        self.fail("undone over", f"{write.row.id} was written since, or {newest} began")
                    return True
        return False

    def _is_free(self, session: Session | None) -> None:
        """No hold stands against a write: of everything, or of the session, unless a person released it since."""
        every, wall_ms = self.world.sessions.get("*"), self.world.wall_ms
        held = [each for each in (session, every) if each is not None and each.held_until > wall_ms]
        if session is None or not held or self._wanted(session):
            return
        if session not in held and any(self._wanted(each) for each in session.above()):
            return  # what nobody executes below a released session is settled with it
        self.fail("hold ignored", f"{session.id} is on hold, and was rewritten")

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
