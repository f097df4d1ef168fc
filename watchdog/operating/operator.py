"""What a person may ask of a running watchdog: to tell, to end, to leave alone, to take back.

There is no HTTP in it.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress

from watchdog.acting.scheduler import STOPPING
from watchdog.acting.undo import Undo
from watchdog.errors import (
    Busy,
    DatabaseError,
    DryRun,
    JournalOff,
    JournalUnusable,
    NoSuchIntervention,
    NoSuchSession,
    NotActing,
    UsageError,
)
from watchdog.explaining.drain import Drain, drain
from watchdog.explaining.overview import overview
from watchdog.explaining.values import Explanation
from watchdog.journal.null import NoJournal
from watchdog.loop.last_look import Latest
from watchdog.loop.watch import Watch
from watchdog.model.interventions import Hold, Intervention, InterventionId, Kept
from watchdog.model.mandate import Mandate, named
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.operating.explained import Telling
from watchdog.operating.glance import Glance, MandateState
from watchdog.operating.holds import HoldChange, in_order, leave_alone, let_go
from watchdog.operating.operations import Answer, Operation, OperationKind, Operations
from watchdog.operating.release import Releasing
from watchdog.operating.requests import Leader, Wanted
from watchdog.ports import Fleet, History, Owners, Store
from watchdog.sharing import SingleFlight


class Operator:
    """Carries out people's requests to one running watchdog.

    Args:
        database: for people.
        watch: the loop.
        latest: the loop's last look; it listens to the loop.
        right: the right to act on the database.
        operations: the requests under way.
        leader: the replica that acts, if that may be another one.
    """

    def __init__(
        self,
        *,
        database: str,
        watch: Watch,
        latest: Latest,
        store: Store,
        fleet: Fleet,
        owners: Owners,
        mandate: Mandate,
        journal: History | NoJournal,
        operations: Operations,
        leader: Leader | None = None,
    ) -> None:
        self.database = database
        self._watch = watch
        self._latest = latest
        self._store = store
        self._fleet = fleet
        self._owners = owners
        self._mandate = mandate
        self._journal = journal
        self.operations = operations
        self._leader = leader
        self._releasing = Releasing(watch, store, fleet)
        self._telling = Telling(fleet=fleet, owners=owners, journal=journal, listening=True)
        self._glances: SingleFlight[Glance] = SingleFlight()
        self._explanations: SingleFlight[Explanation] = SingleFlight()

    # -- telling ---------------------------------------------------------------------------------------------

    async def sessions(self) -> Glance:
        """The last look. It is as old as the loop's interval; only titles and holds are read now. Callers share it.

        Raises:
            Busy: the first look is not over.
            WatchdogError: there was none, because the database or the journal can't be used.
        """
        return await self._glances.ask("sessions", self._glance)

    async def _glance(self) -> Glance:
        assessment, problem = self._latest.assessment, self._latest.problem
        if assessment is None:
            raise problem or Busy("The first look is not over; try again in a moment.")
        lines = overview(assessment.observation, assessment.judgement, self._watch.policy)
        titles: Mapping[SessionId, str] = {}
        with suppress(DatabaseError):  # the loop says so, and the look is shown anyway
            titles = await self._store.titles([line.id for line in lines])
        holds: tuple[Hold, ...] = ()
        try:
            holds = in_order(await self._journal.holds(self._now_ms))
        except JournalUnusable as error:
            problem = problem or error
        mandate = self.mandate
        holder = self._mandate.holder() if mandate is MandateState.OBSERVING else None
        return Glance(
            assessment=assessment,
            lines=lines,
            titles=titles,
            acting=self._watch.acting.scheduled,
            mandate=mandate,
            holder_pid=holder if isinstance(holder, int) else None,
            problem=None if problem is None else str(problem),
            holds=holds,
            now_ms=self._now_ms,
        )

    async def explain(self, session_id: SessionId) -> Explanation:
        """Take a fresh look, and explain one session with all that is known of it. Concurrent callers share it.

        Raises:
            NoSuchSession: the database has none with that id.
            DatabaseError: the database can't be read.
            JournalUnusable: the journal can't be read.
        """

        async def look() -> Explanation:
            assessment = await self._watch.assess(also=[session_id], fresh=True)
            return await self._telling.explanation(assessment, self._watch.policy, session_id)

        return await self._explanations.ask(session_id, look)

    async def drain(self) -> Drain:
        """Take a fresh look, and say what would be lost if the servers were restarted now. It ends nothing.

        Raises:
            DatabaseError: the database can't be read.
            JournalUnusable: the journal can't be read.
        """
        assessment = await self._watch.assess(full=True, fresh=True)
        return drain(assessment.observation, assessment.judgement, await self._owners.look())

    @property
    def mandate(self) -> MandateState:
        """What this watchdog may do, as of its last look."""
        if self._watch.pace.dry_run:
            return MandateState.DRY_RUN
        return MandateState.ACTING if self._latest.acting and self._watch.began_to_act else MandateState.OBSERVING

    @property
    def ticking(self) -> bool:
        """Whether the loop looked, or said why it can't, a short time ago."""
        return self._latest.ticking

    @property
    def began_ms(self) -> int:
        """When it began to watch, by the wall clock."""
        return self._latest.began_ms

    @property
    def poll_interval_seconds(self) -> float:
        """How often the loop looks."""
        return self._watch.pace.poll_interval_seconds

    # -- ending ----------------------------------------------------------------------------------------------

    def release(
        self,
        session_id: SessionId,
        *,
        reason: str | None = None,
        below: bool = False,
        agreed: Collection[SessionId] = (),
        here: bool = False,
    ) -> Operation:
        """End now whatever is open in a session; two at once become one, and join what the loop does on it.

        In a dry run it only says what it would do. If another replica acts, it is passed on to that one.

        Args:
            below: end what lives below it, too.
            agreed: those below it that may end with it, although they have a life of their own.
            here: pass nothing on.

        Raises:
            NotActing: another watchdog acts on the database.
            Busy: too much is under way.
        """
        leader = self._elsewhere(here=here)
        if leader is None and not self._watch.pace.dry_run:
            self._check_right()

        async def work() -> Answer:
            if leader is not None:
                return await leader.release(session_id, reason=reason, below=below)
            return await self._releasing.release(session_id, reason=reason, below=below, consented=agreed)

        key = (session_id, below, *sorted(agreed))
        return self._begin(OperationKind.RELEASE, key, session_id, work, passed_on=leader is not None)

    async def carry_out(self, wanted: Wanted) -> Answer:
        """Do what another replica, or a command, passes on to the leader.

        Raises:
            WatchdogError: as the request itself raises; nothing is passed on once more.
        """
        if wanted.kind is OperationKind.UNDO and wanted.number is not None:
            return await (await self.undo(wanted.number, here=True)).result()
        if wanted.session_id is None:
            raise UsageError("The request names no session and no intervention.")
        operation = self.release(
            wanted.session_id, reason=wanted.reason, below=wanted.below, agreed=wanted.agreed, here=True
        )
        return await operation.result()

    def _elsewhere(self, *, here: bool) -> Leader | None:
        """Whom to ask instead, if this watchdog may not act and another one may."""
        if here or self._watch.pace.dry_run or (self._watch.began_to_act and self._mandate.acquire()):
            return None
        return self._leader

    def delete_message(self, session_id: SessionId, message_id: str) -> Operation:
        """Release a session if it is busy, delete one of its messages, and make sure that it is gone.

        Raises:
            DryRun: this watchdog changes nothing.
            NotActing: another watchdog acts on the database.
            Busy: too much is under way.
        """
        self._check_right()

        async def work() -> Answer:
            return await self._releasing.delete_message(session_id, message_id)

        return self._begin(OperationKind.DELETE_MESSAGE, (session_id, message_id), session_id, work)

    def _begin(
        self,
        kind: OperationKind,
        key: Hashable,
        session_id: SessionId,
        work: Callable[[], Awaitable[Answer]],
        *,
        passed_on: bool = False,
    ) -> Operation:
        """Begin it, or join the same. A request that was passed on and comes back here must not wait for itself."""

        async def and_look() -> Answer:
            try:
                return await work()
            finally:
                self._watch.wake()

        return self.operations.begin(kind, (key, passed_on), session_id, and_look)

    def _check_right(self) -> None:
        if self._watch.pace.dry_run:
            raise DryRun("This watchdog runs with --dry-run: it changes nothing.")
        if self._watch.acting.stopping:
            raise NotActing(STOPPING)
        if self._latest.acting is None:
            raise Busy("The first look is not over; try again in a moment.")
        if not (self._watch.began_to_act and self._mandate.acquire()):
            holder = self._mandate.holder()
            raise NotActing(
                f"Another watchdog ({named(holder)}) acts on {self.database}; ask that one, or stop it first.",
                holder_pid=holder if isinstance(holder, int) else None,
            )

    # -- the journal -----------------------------------------------------------------------------------------

    async def interventions(
        self, *, session_id: SessionId | None, before: InterventionId | None, limit: int
    ) -> tuple[Sequence[Intervention], tuple[Hold, ...]]:
        """Some interventions, the newest first, and what is on hold.

        Raises:
            JournalOff: there is no journal.
            JournalUnusable: it can't be read.
        """
        journal = self._history
        found = await journal.interventions(session_id=session_id, before=before, limit=limit)
        return found, in_order(await journal.holds(self._now_ms))

    async def intervention(self, number: InterventionId) -> tuple[Intervention, Sequence[Kept]]:
        """One intervention, with the rows that it wrote.

        Raises:
            JournalOff: there is no journal.
            NoSuchIntervention: it has none with that number.
            JournalUnusable: it can't be read.
        """
        journal = self._history
        found = await journal.intervention(number)
        if found is None:
            raise NoSuchIntervention(f"The journal has no intervention {number}.")
        return found, await journal.kept(number)

    async def undo(self, number: InterventionId, *, here: bool = False) -> Operation:
        """Put the rows of an intervention back as they were, if nothing happened since.

        If another replica acts, it is passed on to that one.

        Args:
            here: pass nothing on.

        Raises:
            JournalOff: there is no journal.
            NoSuchIntervention: it has none with that number.
            DryRun: this watchdog changes nothing.
            NotActing: another watchdog acts on the database.
            JournalUnusable: the journal can't be read.
        """
        journal = self._history
        leader = self._elsewhere(here=here)
        if leader is None:
            self._check_right()
        found, _ = await self.intervention(number)

        async def work() -> Answer:
            if leader is not None:
                return await leader.undo(number)
            await self._fleet.discover(await self._owners.look())
            undo = Undo(
                store=self._store,
                fleet=self._fleet,
                clock=self._watch.clock,
                journal=journal,
                serving=self._watch.recheck.serving,
            )
            # It may have been undone since it was read.
            return await undo.undo((await self.intervention(number))[0])

        session_id = found.verdict.cancel_session_id
        return self._begin(OperationKind.UNDO, number, session_id, work, passed_on=leader is not None)

    async def hold(self, session_id: SessionId, *, length_ms: int | None = None) -> HoldChange:
        """Leave a session alone, or everything (`EVERYTHING`); for a while, or until somebody ends it.

        Raises:
            JournalOff: there is no journal.
            NoSuchSession: the database has none with that id.
            DatabaseError: the database can't be read.
            JournalUnusable: the journal can't be used.
        """
        journal = self._history
        if session_id != EVERYTHING and await self._store.session(session_id) is None:
            raise NoSuchSession(session_id)
        try:
            return await leave_alone(journal, session_id, length_ms=length_ms, now_ms=self._now_ms)
        finally:
            self._watch.wake()

    async def unhold(self, session_id: SessionId) -> HoldChange:
        """End a hold: of a session, or of everything (`EVERYTHING`).

        Raises:
            JournalOff: there is no journal.
            JournalUnusable: the journal can't be used.
        """
        try:
            return await let_go(self._history, session_id, now_ms=self._now_ms)
        finally:
            self._watch.wake()

    @property
    def _history(self) -> History:
        if isinstance(self._journal, NoJournal):
            raise JournalOff
        return self._journal

    @property
    def _now_ms(self) -> int:
        return self._watch.clock.read().wall_ms
