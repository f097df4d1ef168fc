"""`history`, `undo`, `hold`, `unhold`, `pause` and `resume`: people read the journal, and add to it."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watchdog.acting.undo import Undo, Undoing, UndoResult
from watchdog.composing import own_socket
from watchdog.composing.files import locate, open_journal
from watchdog.console.exits import Exit
from watchdog.errors import JournalOff, NoSuchIntervention, NoSuchSession
from watchdog.journal.null import NoJournal
from watchdog.model.interventions import Hold, Intervention, InterventionId
from watchdog.model.session import EVERYTHING, SessionId
from watchdog.operating.holds import HoldChange, in_order, leave_alone, let_go
from watchdog.ports import History
from watchdog.reporting import journal_tables as render_journal
from watchdog.reporting.documents import moment
from watchdog.reporting.journal_documents import (
    history_document,
    holds_document,
    intervention_document,
    read_holds,
    read_intervention,
    read_interventions,
    undo_document,
)
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen, note
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.durations import duration_of
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded
from watchdog.timing.clock import SystemClock, now_ms

if TYPE_CHECKING:
    from watchdog.composing.backend import Backend
    from watchdog.composing.running import RunningWatchdog

_PUTTING_BACK = "looking at the rows and who has the database open, and putting them back"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Book:
    """The journal of a database, opened.

    Attributes:
        knows: whether the database has a session.
    """

    database: str
    journal: History
    knows: Callable[[SessionId], Awaitable[bool]]

    @property
    def names(self) -> tuple[str, str]:
        return self.database, self.journal.place

    async def holds(self) -> tuple[Hold, ...]:
        """The holds that stand now, everything first."""
        return in_order(await self.journal.holds(now_ms()))


@asynccontextmanager
async def _opened(loaded: Loaded) -> AsyncIterator[_Book]:
    place = locate(loaded)
    if isinstance(place, PostgresUrl):
        from watchdog.composing.command import backend

        async with backend(loaded, acts=False) as car:

            async def is_there(session_id: SessionId) -> bool:
                return await car.store.session(session_id) is not None

            yield _Book(database=car.place, journal=_needed(car.journal), knows=is_there)
        return

    async def is_in_file(session_id: SessionId) -> bool:
        from watchdog.opencode.db.store import OpencodeDatabase

        local = loaded.settings.local_filesystems
        async with await OpencodeDatabase.open(place, local_filesystems=local) as store:
            return await store.session(session_id) is not None

    async with open_journal(loaded.settings, place, os.environ, home()) as journal:
        yield _Book(database=str(place), journal=_needed(journal), knows=is_in_file)


def _needed(journal: History | NoJournal) -> History:
    if isinstance(journal, NoJournal):
        raise JournalOff
    return journal


async def history(
    loaded: Loaded, screen: Screen, *, session_id: str | None, since: str | None, direct: bool = False
) -> Exit:
    """List what was done, the newest first.

    Args:
        direct: read the journal here, even if a watchdog runs.
    """
    ago = _milliseconds("--since", since)
    since_ms, only = None if ago is None else now_ms() - ago, SessionId(session_id) if session_id else None
    if (running := await _reader(loaded, direct=direct)) is not None:
        document = await running.history(only, since_ms=since_ms)
        if screen.as_json:
            screen.document(document)
        else:
            render_journal.history(screen, read_interventions(document), read_holds(document))
        return Exit.FINE
    async with _opened(loaded) as book:
        found = await book.journal.interventions(session_id=only, since_ms=since_ms)
        holds = await book.holds()
        if screen.as_json:
            screen.document(history_document(*book.names, found, holds))
        else:
            render_journal.history(screen, found, holds)
    return Exit.FINE


async def intervention(loaded: Loaded, screen: Screen, number: int, *, direct: bool = False) -> Exit:
    """Show one intervention, with the rows before and after; see `history`.

    Raises:
        UsageError: there is no such intervention.
    """
    if (running := await _reader(loaded, direct=direct)) is not None:
        document = await running.intervention(InterventionId(number))
        if screen.as_json:
            screen.document(document)
        else:
            render_journal.intervention(screen, *read_intervention(document))
        return Exit.FINE
    async with _opened(loaded) as book:
        found = await _existing(book.journal, number)
        kept = await book.journal.kept(found.id)
        if screen.as_json:
            screen.document(intervention_document(*book.names, found, kept))
        else:
            render_journal.intervention(screen, found, kept)
    return Exit.FINE


async def _existing(journal: History, number: int) -> Intervention:
    found = await journal.intervention(InterventionId(number))
    if found is None:
        raise NoSuchIntervention(
            f"The journal {journal.place} has no intervention {number}; `history` lists what it has."
        )
    return found


async def undo(loaded: Loaded, screen: Screen, number: int, *, direct: bool = False) -> Exit:
    """Put the rows of an intervention back as they were, if nothing happened since.

    Args:
        direct: do it here, even if a watchdog runs.

    Raises:
        UsageError: there is no such intervention, or no journal.
    """
    from watchdog.composing.command import backend

    async with backend(loaded, acts=True, direct=direct) as car:
        journal = _needed(car.journal)
        found = await _existing(journal, number)
        async with busy(_PUTTING_BACK):
            undoing = await _undone(car, journal, found)
        if screen.as_json:
            screen.document(undo_document(car.place, journal.place, undoing))
        else:
            render_journal.undoing(screen, undoing)
    return Exit.STUCK if undoing.result is UndoResult.NOT_UNDONE else Exit.FINE


async def _undone(car: "Backend", journal: History, found: Intervention) -> Undoing:
    if car.leader is not None:
        from watchdog.composing.running import RunningWatchdog

        if isinstance(car.leader, RunningWatchdog):
            car.leader.check_journal(journal.place)
            note(car.leader.deed)
        return await car.leader.undo(found.id)
    await car.fleet.discover(await car.owners.look())
    serving = car.watch().recheck.serving
    return await Undo(store=car.store, fleet=car.fleet, clock=SystemClock(), journal=journal, serving=serving).undo(
        found
    )


async def hold(loaded: Loaded, screen: Screen, session_id: str, *, lasts: str | None, direct: bool = False) -> Exit:
    """Leave a session alone, for a while or until `unhold`.

    Args:
        direct: do it here, even if a watchdog runs.

    Raises:
        UsageError: there is no such session, or no journal.
    """
    length = _milliseconds("--for", lasts)
    if (running := await _running(loaded, direct=direct)) is not None:
        document = await running.hold(SessionId(session_id), length_ms=length)
        return _print_change(screen, document, _on_hold(SessionId(session_id), length))
    async with _opened(loaded) as book:
        if not await book.knows(SessionId(session_id)):
            raise NoSuchSession(session_id)
        await _hold(book, screen, SessionId(session_id), length)
    return Exit.FINE


async def pause(loaded: Loaded, screen: Screen, *, lasts: str | None, direct: bool = False) -> Exit:
    """Leave everything alone, for a while or until `resume`; see `hold`."""
    length = _milliseconds("--for", lasts)
    if (running := await _running(loaded, direct=direct)) is not None:
        document = await running.hold(EVERYTHING, length_ms=length)
        return _print_change(screen, document, _on_hold(EVERYTHING, length))
    async with _opened(loaded) as book:
        await _hold(book, screen, EVERYTHING, length)
    return Exit.FINE


async def _hold(book: _Book, screen: Screen, session_id: SessionId, length_ms: int | None) -> None:
    change = await leave_alone(book.journal, session_id, length_ms=length_ms, now_ms=now_ms())
    _print_holds(book, screen, change, _on_hold(session_id, length_ms))


def _on_hold(session_id: SessionId, length_ms: int | None) -> str:
    lasts = "until somebody ends it" if length_ms is None else f"until {moment(now_ms() + length_ms)}"
    return f"{_named(session_id)} is on hold {lasts}"


async def unhold(loaded: Loaded, screen: Screen, session_id: str, *, direct: bool = False) -> Exit:
    """End a hold: of a session, or of everything; see `hold`."""
    id_ = SessionId(session_id)
    if (running := await _running(loaded, direct=direct)) is not None:
        document = await running.unhold(id_)
        what = _no_longer(id_, document["was_on_hold"], read_holds(document))
        return _print_change(screen, document, what)
    async with _opened(loaded) as book:
        change = await let_go(book.journal, id_, now_ms=now_ms())
        _print_holds(book, screen, change, _no_longer(id_, change.was_on_hold, change.holds))
    return Exit.FINE


def _no_longer(session_id: SessionId, was_on_hold: object, holds: Sequence[Hold]) -> str:
    what = f"{_named(session_id)} is no longer on hold" if was_on_hold else f"{_named(session_id)} was not on hold"
    if any(hold.session_id == EVERYTHING for hold in holds):
        what += "; everything still is: `resume` ends that"
    return what


async def resume(loaded: Loaded, screen: Screen, *, direct: bool = False) -> Exit:
    """End a pause; see `hold`."""
    return await unhold(loaded, screen, EVERYTHING, direct=direct)


async def _running(loaded: Loaded, *, direct: bool) -> "RunningWatchdog | None":
    """The watchdog that runs and does it, unless nobody wants it."""
    if (found := await _found(loaded, direct=direct)) is not None:
        note(found.deed)
    return found


async def _reader(loaded: Loaded, *, direct: bool) -> "RunningWatchdog | None":
    """The watchdog that runs and keeps a journal, unless nobody wants it."""
    found = await _found(loaded, direct=direct)
    if found is None or found.status["journal"] is None:
        return None
    note(found.words)
    return found


async def _found(loaded: Loaded, *, direct: bool) -> "RunningWatchdog | None":
    place = locate(loaded)
    if direct or isinstance(place, PostgresUrl) or not own_socket.running(place, os.environ, home()):
        return None
    from watchdog.composing.running import running_watchdog

    return await running_watchdog(loaded, note)


def _print_change(screen: Screen, document: dict[str, Any], what: str) -> Exit:
    if screen.as_json:
        screen.document(document)
    else:
        render_journal.holds(screen, what, read_holds(document))
    return Exit.FINE


def _print_holds(book: _Book, screen: Screen, change: HoldChange, what: str) -> None:
    if screen.as_json:
        screen.document(holds_document(*book.names, change.session_id, change.holds, was_on_hold=change.was_on_hold))
    else:
        render_journal.holds(screen, what, change.holds)


def _named(session_id: SessionId) -> str:
    return "everything" if session_id == EVERYTHING else f"session {session_id}"


def _milliseconds(flag: str, value: str | None) -> int | None:
    length = duration_of(flag, value)
    return None if length is None else round(length.total_seconds() * 1000)
