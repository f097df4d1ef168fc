"""Takes an intervention back: its rows read as before again, if nothing has happened since."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import anyio

from watchdog.acting.attempt import names
from watchdog.acting.recheck import Serving
from watchdog.errors import DatabaseError, ServerError
from watchdog.model.interventions import Hold, Intervention, InterventionId, Kept
from watchdog.model.outcome import GuardedWrite, Row, Step
from watchdog.model.report import Served
from watchdog.model.session import CallId, Session, SessionId, TurnId
from watchdog.model.verdict import VerdictKind
from watchdog.ports import Clock, Fleet, History, Server, Store

_FINISH_SECONDS = 30.0


class UndoResult(StrEnum):
    """The result of an undo."""

    UNDONE = "undone"
    ALREADY_UNDONE = "already_undone"
    NOT_UNDONE = "not_undone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Undoing:
    """How an undo ended. `why` is a sentence."""

    id: InterventionId
    session_id: SessionId
    result: UndoResult
    why: str
    steps: tuple[Step, ...] = ()


class Undo:
    """Takes interventions back on one database and its servers."""

    def __init__(self, *, store: Store, fleet: Fleet, clock: Clock, journal: History, serving: Serving) -> None:
        self.store = store
        self.fleet = fleet
        self.clock = clock
        self.journal = journal
        self.serving = serving

    async def undo(self, intervention: Intervention) -> Undoing:
        """Put the rows of an intervention back if they still read as the watchdog left them.

        Nothing is touched unless every row reads so and the session has no later turn. From then on the session is on
        hold: otherwise what is open again would be settled again.

        Raises:
            DatabaseError: opencode's database can't be used.
            JournalUnusable: the journal can't be used.
        """
        attempt = _Attempt(self, intervention)
        return await attempt.run(await self.journal.kept(intervention.id))


class _Attempt:
    """One undo, with its steps."""

    def __init__(self, undo: Undo, intervention: Intervention) -> None:
        self.store = undo.store
        self.fleet = undo.fleet
        self.clock = undo.clock
        self.journal = undo.journal
        self.serving = undo.serving
        self.intervention = intervention
        self.session_id = intervention.verdict.cancel_session_id
        self.steps: list[Step] = []

    async def run(self, kept: Sequence[Kept]) -> Undoing:
        if self.intervention.undone_ms is not None:
            return self._ended(UndoResult.ALREADY_UNDONE, "It was undone before; nothing was touched.")
        if self.intervention.outcome is None:
            return self._refused("it is not over: a watchdog is at work on it, or `run` or `recover` will close it")
        if self.intervention.verdict.kind is VerdictKind.LEFT_OVER:
            return self._refused("it ended a command, and a process that has ended can't be brought back")
        if not kept:
            return self._refused(
                "it wrote no row; what a server ended at its request stays ended, and can only be asked for again"
            )
        now = {row.id: row for row in await self._rows(kept)}
        if all(_reads(now, each, each.row.data) for each in kept):
            await self._mark()
            return self._ended(UndoResult.UNDONE, "Its rows read as they did before it; nothing had to be written.")
        newest = await self.store.newest_turn(self.session_id)
        if changed := _changes(kept, now, newest):
            return self._refused(changed)
        # Once begun, it is published and noted even if the command has to stop.
        with anyio.move_on_after(_FINISH_SECONDS, shield=True):
            return await self._write(kept, now, newest)
        return self._refused(f"it took longer than {_FINISH_SECONDS:g} s")

    async def _write(self, kept: Sequence[Kept], found: dict[str, Row], newest: TurnId | None) -> Undoing:
        # The hold comes first: otherwise a watchdog at work would settle an orphan again as soon as it is open.
        before = (await self.journal.holds(self.clock.read().wall_ms)).get(self.session_id)
        await self.journal.hold(self._hold())
        try:
            changed = await self.store.write(_writes(found, _before(kept)), while_newest=newest)
        except DatabaseError:
            await self._let_go(before)
            raise
        self._step("write", ok=changed > 0, detail=f"{changed} of {len(kept)} rows put back")
        if not changed:
            await self._let_go(before)
            return self._refused("a row changed, or a turn began, at the last moment")
        session = await self.store.session(self.session_id)
        if session is not None and await self._unreadable_after(session, kept):
            again = await self._write_again(kept, found, newest)
            self._step("write_again", ok=again > 0, detail=f"{again} of {len(kept)} rows as the watchdog left them")
            await self._let_go(before)
            return self._refused("its messages did not read afterwards, so the rows are as the watchdog left them")
        await self._mark()
        return self._ended(
            UndoResult.UNDONE,
            f"Its rows read as they did before it. Session {self.session_id} is on hold from now on.",
        )

    async def _write_again(self, kept: Sequence[Kept], found: dict[str, Row], newest: TurnId | None) -> int:
        """Write the rows as they were found, unless somebody else has written one since.

        Returns how many were written.
        """
        before = _before(kept)
        now = {row.id: row for row in await self._rows(kept)}
        if not all(id_ in now and now[id_].says(data) for id_, data in before.items()):
            return 0
        return await self.store.write(
            _writes(now, {id_: row.data for id_, row in found.items()}), while_newest=newest
        )

    # -- showing it --------------------------------------------------------------------------------------------

    async def _unreadable_after(self, session: Session, kept: Sequence[Kept]) -> bool:
        """Publish the rows through a server, and ask it whether it can read the messages.

        True only for its clear no.
        """
        serving = await self._serving(session)
        if serving is None:
            return False
        server, served = serving
        try:
            for row in await self._rows([each for each in kept if each.row.table == "part"]):
                await server.publish(served, row, session.directory)
            self._step("publish", ok=True, detail=f"{server.name} told its clients")
            readable = await server.readable(served, session.id, session.directory)
        except ServerError as error:
            self._step("publish", ok=False, detail=str(error))
            return False
        self._step("read_back", ok=readable, detail="the messages read" if readable else "the messages do not read")
        return not readable

    async def _serving(self, session: Session) -> tuple[Server, Served] | None:
        for server, served in await self.serving(session.id):
            return server, served
        self._step("publish", ok=True, detail="no server is up to show it")
        return None

    # -- the journal -------------------------------------------------------------------------------------------

    def _hold(self) -> Hold:
        return Hold(
            session_id=self.session_id,
            since_ms=self.clock.read().wall_ms,
            until_ms=None,
            why=f"it was undone (intervention {self.intervention.id}), and is left alone until somebody releases it",
        )

    async def _mark(self) -> None:
        await self.journal.mark_undone(self.intervention.id, self._hold(), at_ms=self.clock.read().wall_ms)
        self._step("hold", ok=True, detail=f"session {self.session_id} is on hold")

    async def _let_go(self, before: Hold | None) -> None:
        if before is not None:
            await self.journal.hold(before)
        else:
            await self.journal.unhold(self.session_id)

    # -- words -------------------------------------------------------------------------------------------------

    async def _rows(self, kept: Sequence[Kept]) -> tuple[Row, ...]:
        return await self.store.rows(
            call_ids=[CallId(each.row.id) for each in kept if each.row.table == "part"],
            turn_ids=[TurnId(each.row.id) for each in kept if each.row.table == "message"],
        )

    def _step(self, step: str, *, ok: bool, detail: str) -> None:
        self.steps.append(Step(step=step, at_ms=self.clock.read().wall_ms, ok=ok, detail=detail))

    def _refused(self, why: str) -> Undoing:
        return self._ended(UndoResult.NOT_UNDONE, f"Intervention {self.intervention.id} was not undone: {why}.")

    def _ended(self, result: UndoResult, why: str) -> Undoing:
        return Undoing(
            id=self.intervention.id, session_id=self.session_id, result=result, why=why, steps=tuple(self.steps)
        )


def _reads(now: dict[str, Row], kept: Kept, data: str) -> bool:
    return kept.row.id in now and now[kept.row.id].says(data)


def _changes(kept: Sequence[Kept], now: dict[str, Row], newest: TurnId | None) -> str:
    """What stands in the way of an undo; empty if nothing does."""
    found = []
    if gone := [each.row.id for each in kept if each.row.id not in now]:
        found.append(f"{names(gone)} is gone")
    if other := [each.row.id for each in kept if each.row.id in now and not _reads(now, each, each.after)]:
        found.append(f"{names(other)} was written since")
    if newest not in {each.row.message_id for each in kept}:
        found.append(f"the session went on with turn {newest}" if newest else "the session has no turn any more")
    return "; ".join(found)


def _before(kept: Sequence[Kept]) -> dict[str, str]:
    return {each.row.id: each.row.data for each in kept}


def _writes(found: dict[str, Row], wanted: dict[str, str]) -> tuple[GuardedWrite, ...]:
    """The writes that turn what was found into what is wanted."""
    return tuple(GuardedWrite(row=found[id_], after=data) for id_, data in wanted.items())
