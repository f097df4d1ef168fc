"""`tune`: what the history says about the limits. It only reads."""

import os
from functools import partial
from pathlib import Path

import anyio.to_thread

from watchdog.composing.files import locate, open_journal
from watchdog.console.exits import Exit
from watchdog.errors import OutputUnusable, UsageError
from watchdog.journal.null import NoJournal
from watchdog.journal.sqlite import journal_path
from watchdog.loop.garbage import collect_seldom
from watchdog.model.past import Stretch
from watchdog.model.session import SessionId
from watchdog.opencode.db.past import STEP_MESSAGES
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.processes.holders import ProcessOwners
from watchdog.reporting import tune_tables as render
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen, note
from watchdog.reporting.tune_documents import tune_document
from watchdog.reporting.tune_plot import drawn
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.durations import duration_of
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded, Settings
from watchdog.strides import in_strides
from watchdog.timing.clock import Countable, SystemClock, now_ms
from watchdog.tuning.advice import advise
from watchdog.tuning.report import Tuning
from watchdog.tuning.stops import leftovers
from watchdog.tuning.tally import Tally

_READING = "reading the history"
_MOST_TASKS = 1_000
"""So many long tasks are looked into; further ones count as cut, which can only make the advice too cautious."""


async def tune(loaded: Loaded, screen: Screen, *, since: str, show: bool, plot: Path | None) -> Exit:
    """Say what the history says about the limits.

    Raises:
        UsageError: an option can't be used, or the sessions are in PostgreSQL.
        OutputUnusable: the picture can't be written.
    """
    collect_seldom()
    at_ms = now_ms()
    since_ms = at_ms - _milliseconds(since)
    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot can't be {plot}: it draws an SVG, so name a file that ends in .svg.")
    place = locate(loaded)
    if isinstance(place, PostgresUrl):
        raise UsageError(
            f"{place} is in PostgreSQL, and `tune` reads only opencode's own file. Name one with --database."
        )
    found = await _read(loaded.settings, place, since_ms=max(0, since_ms), at_ms=at_ms)
    if plot is not None:
        await anyio.to_thread.run_sync(partial(_write, plot, drawn(found)))
        note(f"the picture is in {plot}")
    if screen.as_json:
        screen.document(tune_document(found, show=show))
    else:
        render.tuning(screen, found, show=show)
    return Exit.FINE


async def _read(settings: Settings, place: Path, *, since_ms: int, at_ms: int) -> Tuning:
    ended = await _ended_by_watchdog(settings, place, since_ms)
    tally = Tally(settings.policy(), by_watchdog=ended)
    async with await OpencodeDatabase.open(place, local_filesystems=settings.local_filesystems) as store:
        steps = -(-await store.messages() // STEP_MESSAGES)
        async with busy(_READING, total=steps) as step:

            async def take(stretch: Stretch) -> None:
                tally.unreadable += stretch.unreadable
                async for turn in in_strides(stretch.turns):
                    tally.take(turn)
                step()

            await store.past(since_ms=since_ms, each=take)
            for number, task in enumerate(tally.long_tasks):
                child = SessionId(task.call.child_id or "") if number < _MOST_TASKS else None
                below = () if child is None else (await store.past_of(child)).turns
                tally.judge_task(task, below)
        owners = ProcessOwners(place, clock=Countable(SystemClock()), embedded=False, disconnect=store.disconnect)
        holders = await owners.look()
    margin_ms = settings.birth_margin.total_seconds() * 1000
    return Tuning(
        database=str(place),
        since_ms=since_ms,
        now_ms=at_ms,
        tally=tally,
        leftovers=leftovers(tally.left_open(), tally.begun, holders, margin_ms=margin_ms),
        advice=advise(tally, reserved=Settings.model_fields),
        holders_unknown=None if holders.complete else holders.why_incomplete,
    )


async def _ended_by_watchdog(settings: Settings, place: Path, since_ms: int) -> frozenset[str]:
    """The calls that the watchdog ended itself, as its journal has it; none if there is no journal yet."""
    path = settings.journal or journal_path(place, os.environ, home())
    if not isinstance(path, Path) or not path.exists():
        return frozenset()
    async with open_journal(settings, place, os.environ, home(), needed=False) as journal:
        if isinstance(journal, NoJournal):
            return frozenset()
        return frozenset(
            call_id for each in await journal.interventions(since_ms=since_ms) for call_id in each.verdict.call_ids
        )


def _milliseconds(since: str) -> int:
    length = duration_of("--since", since)
    if length is None:
        raise UsageError(f"--since can't be {since!r}: say how far back, such as 90d.")
    return round(length.total_seconds() * 1000)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputUnusable(f"{path} can't be written: {error.strerror or type(error).__name__}.") from error
