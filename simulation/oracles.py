"""What must hold after each event. The oracles know the truth from the model, and ask the product for nothing.

The two directions: nothing healthy is ever cut, and what hangs is ended or reported in time. How long that may take
is counted in time in which nothing was wrong: what disturbs the watchdog's clocks gives it as much time more.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from simulation.cutting import HOUR
from simulation.leaving import Leaving
from simulation.work import Run
from watchdog.alerts.alert import Alert
from watchdog.model.outcome import Outcome
from watchdog.model.verdict import Verdict
from watchdog.timing.events import Assessment

if TYPE_CHECKING:
    from simulation.product import Product
    from simulation.world import World

_PER_ROW, _SOME = 6, 16
_TOLD_AN_HOUR: Final = 3


class Oracles(Leaving):
    """All that is asserted.

    Attributes:
        degraded: the watchdogs that said that they are. One that no longer acts leaves it to the next one to say.
    """

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.degraded: set[int] = set()
        self._old_since: float | None = None
        self._untold_since: dict[str, float] = {}
        self._told_at: deque[tuple[str, float]] = deque(maxlen=500)

    def disturbed(self, kind: str, began: float) -> None:
        """See `Ledger.disturbed`."""
        super().disturbed(kind, began)
        self._untold_since.clear()
        self._old_since = None

    def looked(self, product: "Product", assessment: Assessment, *, acting: bool) -> None:
        """It looked: nothing unfinished may be left out for long, and its memory stays bounded."""
        self.count("looks")
        if not acting:
            self.degraded.discard(product.number)
        judgement = assessment.judgement
        for verdict in judgement.verdicts:
            self.world.log("verdict", verdict.kind.value, verdict.session_id, verdict.cancel_session_id, acting)
        self._bounded(product)
        if not acting or not self.is_calm:
            return
        self._pruned()
        told = {each.session_id for each in judgement.spared}
        told.update(id_ for each in judgement.verdicts for id_ in (each.session_id, each.cancel_session_id))
        told.update(each.session_id for each in assessment.observation.snapshot.damaged)
        runs = [run for run in self.world.runs if run.turn is not None]
        runs = [run for run in runs if not run.session.gone or self._is_known(run)]
        unfinished = {*self.world.orphans(), *(run.session.id for run in runs)}
        now, since = self.world.now, {}
        for id_ in unfinished - {str(each) for each in told}:
            since[id_] = self._untold_since.get(id_, now)
            if now - since[id_] > self.bound:
                self.fail("silently spared", f"{id_} is unfinished, and no look has said so")
        self._untold_since = since

    def _pruned(self) -> None:
        """The journal keeps what ended for as long as is said, and no longer than until the next full look."""
        setting, world = self.world.setting, self.world
        before = world.wall_ms - round(setting.retention * 1000)
        old = [
            each.id for each in world.journal.noted.values() if each.ended_ms is not None and each.began_ms < before
        ]
        if not old and world.journal.rows.keys() - world.journal.noted.keys():
            self.fail("journal", "rows are kept of interventions that are not")
        self._old_since = None if not old else world.now if self._old_since is None else self._old_since
        if self._old_since is not None and world.now - self._old_since > setting.full_scan + self.bound:
            self.fail("journal", f"{len(old)} interventions are kept for longer than {setting.retention:g} s")

    def _is_known(self, run: Run) -> bool:
        """Whether a server is asked though no row names it: of what was deleted before a look nothing else tells.

        If the memory was lost, too, nobody knows its folder until it shows life.
        """
        plan = run.process.plan
        forgot = any(each.kind in {"forgot", "replaced"} and each.ended > run.life for each in self.disturbances)
        return plan.port is not None and plan.configured and not forgot

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

    def told(self, number: int, alert: Alert) -> None:
        """It told people something."""
        self.count("alerts")
        self.world.log("alert", alert.title)
        words = alert.title.split()
        if "gave up on" in alert.title:
            self.given_up[words[-1]] = self.world.now
            self._told_at.append((words[-1], self.world.now))
            times = sum(id_ == words[-1] and self.world.now - at < HOUR for id_, at in self._told_at)
            if times > _TOLD_AN_HOUR + len(self.disturbances):
                self.fail("noise", f"{words[-1]} was given up {times} times within an hour")
        elif "no longer given up" in alert.title:
            self.given_up.pop(words[0], None)
        elif "no longer degraded" in alert.title:
            self.degraded.discard(number)
        elif "degraded" in alert.title:
            self.degraded.add(number)

    # -- the end ---------------------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """What is left though all faults ended: what hangs and could be ended, orphans, complaints."""
        runs = [
            run for run in self.world.runs if not self.world.held(run.session) and run.process.plan.port is not None
        ]
        hanging = [f"{run.session.id} hangs" for run in runs if run.hangs and self._can_be_ended(run)]
        orphans = [f"{id_} is an orphan" for id_ in self.world.orphans() if self._is_provable(id_)]
        return [*hanging, *orphans, *(["the watchdog is degraded"] if self.degraded else [])]
