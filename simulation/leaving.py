"""What must hold as time passes: what hangs and can be ended is ended, what a crash left is settled, in time."""

from typing import TYPE_CHECKING, Final

from simulation.cutting import FIRST_PING_SECONDS, HOUR, Cutting
from simulation.ledger import SETTLE_SECONDS
from simulation.work import Item, Run, at_work

if TYPE_CHECKING:
    from simulation.world import World

TICK_SECONDS: Final = 5.0
RESET_SECONDS: Final = 15.0
"""Trouble that lasts longer may make the clocks of silences start anew."""
GIVING_UP_SECONDS: Final = 400.0
"""How long the attempts may take after which it is given up."""
_RESETS: Final = frozenset({"step", "reboot", "no watchdog", "forgot", "replaced", "healed", "replica"})


class Leaving(Cutting):
    """Whether anything is left that should have been ended.

    Attributes:
        given_up: the sessions of which people were told that nobody can end them, and when that was.
    """

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.given_up: dict[str, float] = {}
        self._provable_since: dict[str, float] = {}
        self._deaf_since: dict[int, float] = {}
        self._to_next_look = max(SETTLE_SECONDS / 2, world.script.setting.poll)
        """What was wrong at a look is taken to last until the next one."""

    def disturbed(self, kind: str, began: float) -> None:
        """See `Ledger.disturbed`."""
        super().disturbed(kind, began)
        self._provable_since.clear()

    def tick(self) -> None:
        """Look at everything that is unfinished."""
        for run in self.world.runs:
            self._look_at_asks(run)
            if run.may_end_at(self.world.setting) > self.world.now:
                continue
            if self._is_excused(run):
                run.excused_at = self.world.now
            elif run.hangs:
                self._look_at(run)
        if not self.is_calm:
            self._provable_since.clear()
            return
        self._look_at_orphans()

    def _look_at_asks(self, run: Run) -> None:
        """Whether a person is asked for longer than they may take."""
        limit, now, process, session = self.world.setting.human_timeout, self.world.now, run.process, run.session
        held = self.world.held(session) or self.world.is_damaged(session)
        excused = held or session.gone or run.aborts or not process.well
        asking = [(item, item.asking_since) for item in run.items if item.asking_since is not None]
        for number, (item, since) in enumerate(asking, 1):  # one after the other
            if limit is None or excused or process.plan.port is None:
                item.excused_at = now
            elif self.is_calm:
                due = max(self._after(item, since, limit), item.excused_at) + number * self.bound
                if now > due:
                    self.fail("not turned down", f"{session.id} asks since {now - since:.1f} s")

    def _look_at(self, run: Run) -> None:
        """Whether something that hangs was left for too long."""
        process, now = run.process, self.world.now
        if process.trouble == "deaf":
            self._deaf_since.setdefault(id(run), now)
            due = max(self._deadline(run), self._deaf_since[id(run)]) + self.bound + GIVING_UP_SECONDS
            if now > due and self.is_calm_but_for("deaf") and run.session.id not in self.given_up:
                self.fail("not reported", f"{run.session.id} can't be ended, and nobody was told: {self._state(run)}")
            return
        due = max(self._deadline(run), self.eased_at(run), self._next_try(run))
        if self.is_calm and now > due + self.bound:
            self.fail("left hanging", f"{run.session.id} at {process.pid}: {self._state(run)}")

    def _is_excused(self, run: Run) -> bool:
        """Whether a person or a rule stands against ending it, or nobody can be told to."""
        if self.world.held(run.session) or self.world.is_damaged(run.session) or run.session.gone:
            return True
        if run.process.trouble == "deaf":
            return False
        return run.process.plan.port is None or not run.process.well or not self._can_be_ended(run)

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
        """When it is tried again at the latest, where an attempt came to nothing, or was cut short by a crash."""
        given_up = self.given_up.get(run.session.id)
        all_tries = [*run.aborts[-1:], *([] if given_up is None else [given_up])]
        if not all_tries:
            return run.began
        tried = max(all_tries)
        lost = (each.ended - max(each.began, tried) for each in self.disturbances if each.ended > tried)
        return tried + HOUR + sum(seconds + self._to_next_look for seconds in lost)

    def _deadline(self, run: Run) -> float:
        return max(self._item_deadline(run, item) for item in run.items)

    def _item_deadline(self, run: Run, item: Item) -> float:
        """When an item has outlived its limit, by the watchdog's clocks at the latest."""
        due = run.item_may_end_at(item, self.world.setting)
        base = {"stream": max(run.life, run.session.prompted_at), "retry": max(item.due, run.life)}.get(
            item.kind, item.since + item.waited
        )
        # The first status that is heard of a session that began unheard is taken for life, once.
        ping = item.since + FIRST_PING_SECONDS if item.kind == "stream" else base
        return self._after(item, max(base, ping), due - base)

    def _after(self, item: Item, start: float, limit: float) -> float:
        """When a limit that began at some time is over by the watchdog's clocks, whatever was wrong since."""
        more, again = (
            0.0,
            item.due - item.since if item.kind == "retry" else 0.0,
        )  # what was waited for is waited for anew
        for each in self.disturbances:
            if each.ended < item.since:
                continue
            idle = item.kind != "call"
            if each.kind in _RESETS or (idle and each.ended - each.began > RESET_SECONDS):
                start, more = max(start, each.ended + max(35.0, self._to_next_look)), again
            else:
                more += each.ended - max(each.began, item.since) + self._to_next_look
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
        if session.remote or self.world.is_damaged(session) or (session.parent is not None and session.parent.gone):
            return False  # nobody can say on which machine the work of a deleted session runs on
        holders = [each for each in self.world.processes if each.holds]
        return all(each.vouches and each.plan.port is not None and each.well for each in holders)
