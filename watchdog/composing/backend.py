"""Everything that a watch works on, opened from settings: one value for the service, each command and a server."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from watchdog.acting.attempt import Confirm, Ladder, confirmed
from watchdog.acting.ending import Ending
from watchdog.acting.settled import SettledCommands
from watchdog.journal.null import NoJournal
from watchdog.loop.watch import Listener, Pace, Watch
from watchdog.model.mandate import Mandate
from watchdog.observing.memory_store import REPLICAS
from watchdog.ports import Clock, Fleet, History, Owners, Processes, Store
from watchdog.settings.schema import EndLeftovers, Settings
from watchdog.timing.clock import boot_id

if TYPE_CHECKING:
    from watchdog.operating.requests import Leader

Task: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


def _unwoken(watch: Watch) -> None:
    """Only its own polls wake the loop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """The adapters behind a watch, whichever database the sessions are in.

    Attributes:
        place: the database, for people.
        mandate: the right to act.
        confirm: checks, right before an act, that the mandate was not lost in the meantime.
        processes: the commands that an opencode started; None where they can't be seen.
        replicas: the sessions may run on any machine, and the memory outlives each of them.
        leader: acts instead: requests are passed on to it. None if nobody need be asked.
        tasks: what runs beside the loop, until it is cancelled.
        duties: tasks that run beside it and end with it, also when it fails: then another watchdog may act.
        wakes: called with a watch on these adapters, to wake it when something happens.
    """

    settings: Settings
    place: str
    store: Store
    fleet: Fleet
    owners: Owners
    journal: History | NoJournal
    mandate: Mandate
    clock: Clock
    confirm: Confirm = confirmed
    processes: Processes | None = None
    replicas: bool = False
    leader: "Leader | None" = None
    tasks: Sequence[Task] = ()
    duties: Sequence[Task] = ()
    wakes: Callable[[Watch], None] = _unwoken

    def watch(self, *, listeners: Sequence[Listener] = (), dry_run: bool = False) -> Watch:
        """A watch on these adapters, with the settings that they were opened from."""
        settings = self.settings
        retention = settings.journal_retention
        watch = Watch(
            store=self.store,
            fleet=self.fleet,
            owners=self.owners,
            clock=self.clock,
            mandate=self.mandate,
            journal=self.journal,
            boot_id=REPLICAS if self.replicas else boot_id(),
            policy=settings.policy(),
            pace=Pace(
                poll_interval_seconds=settings.poll_interval.total_seconds(),
                full_scan_interval_seconds=settings.full_scan_interval.total_seconds(),
                shutdown_grace_seconds=settings.shutdown_grace.total_seconds(),
                max_attempts=settings.max_attempts,
                max_concurrency=settings.max_concurrency,
                recover_on_start=settings.recover_on_start,
                journal_retention_seconds=retention.total_seconds() if retention else None,
                dry_run=dry_run,
            ),
            ladder=Ladder(
                abort_timeout_seconds=settings.abort_timeout.total_seconds(),
                abort_grace_seconds=settings.abort_grace.total_seconds(),
            ),
            listeners=listeners,
            confirm=self.confirm,
            commands=self._commands(),
        )
        self.wakes(watch)
        return watch

    def _commands(self) -> SettledCommands | None:
        """What looks at the commands of settled calls, and ends them if the settings say so."""
        if self.processes is None:
            return None
        ends = Ending(processes=self.processes, journal=self.journal, clock=self.clock)
        wanted = self.settings.end_leftovers is EndLeftovers.ORPHANS
        return SettledCommands(self.processes, self.clock, ends if wanted else None)
