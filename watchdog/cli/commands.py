"""What each command except `run` does after its settings are read. Each returns its exit code."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import anyio

from watchdog.composing.backend import Backend
from watchdog.composing.command import backend
from watchdog.composing.damage import refuse_damaged
from watchdog.composing.files import locate
from watchdog.composing.running import running_watchdog
from watchdog.composing.sidecar import Sidecar, sidecar
from watchdog.console.exits import Exit
from watchdog.console.streams import is_interactive
from watchdog.errors import AlreadyWatched, UsageError
from watchdog.journal.null import NoJournal
from watchdog.judging.limits import duration
from watchdog.judging.rulings import Living
from watchdog.loop.watch import Assessment, Watch
from watchdog.model.mandate import named
from watchdog.model.moments import Moment
from watchdog.model.outcome import Outcome, Result
from watchdog.model.session import Session, SessionId
from watchdog.model.verdict import Spared, SpareReason, Verdict, VerdictKind
from watchdog.operating.release import Agreed, Deletion, Releasing, signs_of_life
from watchdog.reporting.documents import (
    Scan,
    damage_sentences,
    deletion_document,
    outcomes_document,
    read_judgement,
    scan_document,
)
from watchdog.reporting.progress import busy, countdown
from watchdog.reporting.tables import Screen, note
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.schema import Loaded

_FINE = frozenset({Result.RECOVERED, Result.UNCHANGED})
_LOOKING = "looking at the database and its servers, which takes a while"
_ENDING = "ending it, and waiting until the database shows that it ended"
_PASSED_ON = "it is passed on to the watchdog that acts, which ends it and makes sure"
_PATIENCE_IN_GRACES = 4
_MAY_BE_ORPHANS = {SpareReason.NO_WITNESS, SpareReason.FIRST_LOOK, SpareReason.COOLING_DOWN, SpareReason.ON_HOLD}
_SHORTEST_WAIT_SECONDS = 0.25


Confirm = Callable[[str], bool]


async def scan(loaded: Loaded, screen: Screen, *, full: bool, direct: bool) -> Exit:
    """Print what would be done and what is spared: as the running watchdog sees it, or as one look shows it.

    Args:
        full: look at every part.
        direct: take a look of its own in any case.
    """
    running = None if direct or full else await running_watchdog(loaded, note)
    document = None if running is None or not running.looks else await running.sessions()
    if running is not None and document is not None and document["unavailable"] is None:
        note(running.words)
        judgement = read_judgement(document)
        if screen.as_json:
            screen.document({name: document[name] for name in Scan.model_fields})
        else:
            screen.judgement(document["degraded"], judgement)
        return Exit.STUCK if judgement.verdicts else Exit.FINE
    async with backend(loaded, acts=False, needs_journal=False) as car:
        watch = car.watch()
        watch.policy = replace(watch.policy, orphan_looks=1)
        async with busy(_LOOKING):
            assessment = await watch.assess(full=True, scan_parts=full, fresh=True)
        if isinstance(car.journal, NoJournal) and car.journal.problem:
            note(f"warning: the holds are not known. {car.journal.problem}")
        if screen.as_json:
            screen.document(scan_document(car.place, assessment.observation, assessment.judgement))
        else:
            observation = assessment.observation
            screen.judgement([*observation.degraded, *damage_sentences(observation)], assessment.judgement)
        return Exit.STUCK if assessment.judgement.verdicts else Exit.FINE


async def recover(loaded: Loaded, screen: Screen, *, dry_run: bool) -> Exit:
    """Settle every orphan once; wait for the second look if a proof needs one."""
    async with sidecar(loaded, feeds=False) as car:
        await refuse_damaged(car.journal, car.path)
        if not dry_run and not car.mandate.acquire():
            raise AlreadyWatched(
                f"Another watchdog ({named(car.mandate.holder())}) acts on {car.path} and settles "
                "orphans by itself. Stop it first, or leave the work to it."
            )
        outcomes: list[Outcome] = []
        spared: list[Spared] = []
        whole = False
        watch = car.watch(dry_run=dry_run)
        try:
            if not dry_run:
                await watch.close_begun()
                # A person asks: sessions that were given up, or wait for their next attempt, are tried now.
                watch.memory.forget_settling()
            await _recover(watch, outcomes, spared)
            whole = True
        finally:
            # After an interruption, too, it prints what was done.
            if whole or outcomes:
                _print_outcomes(screen, car, outcomes, spared)
        return _exit_for(outcomes)


async def _recover(watch: Watch, outcomes: list[Outcome], spared: list[Spared]) -> None:
    """Settle orphans until none is left, and note the outcomes, and what was left alone in the end."""
    patience = _PATIENCE_IN_GRACES * watch.policy.orphan_grace_seconds
    give_up_at = watch.clock.read().awake_seconds + patience
    settled: set[str] = set()
    async with busy(_LOOKING):
        assessment = await watch.assess(full=True, scan_parts=True, fresh=True)
    while True:
        orphans = _orphans(assessment, settled)
        async with busy(f"settling {_sessions(len(orphans))}", total=len(orphans)) as step:

            def ended(verdict: Verdict, outcome: Outcome) -> None:
                outcomes.append(outcome)
                settled.update(verdict.row_ids)
                step()

            await watch.act_on_all(assessment, orphans, ended)
        first_looks = [each for each in assessment.judgement.spared if each.reason is SpareReason.FIRST_LOOK]
        # A row that keeps changing gets a first look again and again: somebody is at work on it after all.
        if not first_looks or watch.clock.read().awake_seconds > give_up_at:
            break
        await _wait(watch, first_looks)
        async with busy(_LOOKING):
            assessment = await watch.assess(fresh=True)
    spared.extend(assessment.judgement.spared)


def _orphans(assessment: Assessment, settled: set[str]) -> list[Verdict]:
    return [
        verdict
        for verdict in assessment.judgement.verdicts
        if verdict.kind is VerdictKind.ORPHAN and not verdict.row_ids <= settled
    ]


async def release(
    loaded: Loaded,
    screen: Screen,
    session_id: str,
    *,
    reason: str | None,
    confirm: Confirm | None,
    below: bool = False,
    direct: bool = False,
) -> Exit:
    """End now whatever is open in a session, and what nobody executes below it.

    Args:
        direct: do it here, even if a watchdog runs.
        confirm: asks a person whether to end something that shows life; None if they already agreed.
        below: end what lives below it, too.
    """
    async with backend(loaded, acts=True, direct=direct) as car:
        releasing = Releasing(car.watch(), car.store, car.fleet, progress=_Shown())
        id_, agreed = SessionId(session_id), _agreed(confirm)
        if car.leader is None:
            outcomes = await releasing.release(id_, reason=reason, agreed=agreed, below=below)
        else:
            saw = await releasing.ask_first(id_, agreed, below=below)
            async with busy(_PASSED_ON):
                outcomes = await car.leader.release(id_, reason=reason, below=below, agreed=saw)
        _print_outcomes(screen, car, outcomes)
        return _exit_for(outcomes)


class _Shown:
    """Progress on standard error."""

    def looking(self) -> AbstractAsyncContextManager[object]:
        return busy(_LOOKING)

    def ending(self) -> AbstractAsyncContextManager[object]:
        return busy(_ENDING)

    def waiting(self, seconds: float) -> AbstractAsyncContextManager[object]:
        return countdown(f"a second look at {_sessions(1)} comes in {duration(seconds)}", seconds)


def _agreed(confirm: Confirm | None) -> Agreed | None:
    """Ask a person before ending something that shows life; None if they already agreed."""
    if confirm is None:
        return None

    def ask(assessment: Assessment, session: Session, below: Sequence[Living]) -> bool:
        signs = [*signs_of_life(assessment, session), *(each.why for each in below)]
        if not signs:
            return False
        shows = f"Session {session.id} may be alive: {'; '.join(signs)}."
        if not is_interactive():
            raise UsageError(f"{shows} There is no terminal to ask at; --yes ends it all the same.")
        if not confirm(f"{shows} End it all the same?"):
            raise UsageError(f"Session {session.id} was left alone, as you said.")
        return True

    return ask


async def delete_message(
    loaded: Loaded, screen: Screen, session_id: str, message_id: str, *, confirm: Confirm | None, direct: bool
) -> Exit:
    """Release the session if it is busy, delete the message through the server that has it, and verify.

    Args:
        confirm: asks a person whether to end something that shows life; None if they already agreed.
        direct: do it here, even if a watchdog runs.

    Raises:
        UsageError: the session is in PostgreSQL, where a host has no function for that.
    """
    if isinstance(found := locate(loaded), PostgresUrl):
        raise UsageError(
            f"No message in {found} can be deleted from here: a Python server's host has no function for that, and "
            f"the watchdog itself deletes nothing. End what goes on with `release {session_id}`, and delete the "
            "message by your server."
        )
    async with sidecar(loaded, feeds=False) as car:
        releasing = Releasing(car.watch(), car.store, car.fleet, progress=_Shown())
        id_, agreed = SessionId(session_id), _agreed(confirm)
        running = None if direct else await running_watchdog(loaded, note)
        if running is None or not running.acts:
            deletion = await releasing.delete_message(id_, message_id, agreed=agreed)
        elif await releasing.ask_first(id_, agreed, below=False):
            deletion = await releasing.delete_message(id_, message_id)  # with what lives below it, as they agreed
        else:
            note(running.deed)
            async with busy(_ENDING):
                deletion = await running.delete_message(id_, message_id)
        _print_deletion(screen, car, deletion)
        return Exit.FINE if deletion.gone else Exit.STUCK


def _print_deletion(screen: Screen, car: Sidecar, deletion: Deletion) -> None:
    if screen.as_json:
        screen.document(
            deletion_document(
                str(car.path),
                session_id=deletion.session_id,
                message_id=deletion.message_id,
                outcomes=deletion.outcomes,
                gone=deletion.gone,
            )
        )
        return
    screen.outcomes([each for each in deletion.outcomes if each.result is not Result.UNCHANGED])
    what = f"{deletion.message_id} is {'deleted' if deletion.gone else 'still there'}"
    screen.line("summary", what, "bold green" if deletion.gone else "bold red")


async def _wait(watch: Watch, first_looks: list[Spared]) -> None:
    """Wait, with progress, until a second look may confirm the first."""
    until = max((each.until for each in first_looks if each.until is not None), default=watch.clock.now())
    await _wait_until(watch, until, _sessions(len({each.session_id for each in first_looks})))


async def _wait_until(watch: Watch, until: Moment, sessions: str) -> None:
    left = until - watch.clock.now()
    if left <= 0:
        await anyio.sleep(_SHORTEST_WAIT_SECONDS)
        return
    async with countdown(f"a second look at {sessions} comes in {duration(left)}", left):
        await anyio.sleep(left + 0.01)


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _print_outcomes(
    screen: Screen, car: Backend, outcomes: Sequence[Outcome], spared: list[Spared] | None = None
) -> None:
    """Print what was done; of what is spared, only what might be an orphan."""
    if screen.as_json:
        screen.document(outcomes_document(car.place, outcomes, spared))
        return
    screen.outcomes(outcomes)
    screen.spared([each for each in spared or () if each.reason in _MAY_BE_ORPHANS])
    screen.line("summary", _summary(outcomes), f"bold {'green' if _exit_for(outcomes) is Exit.FINE else 'red'}")


def _summary(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "nothing to recover"
    counts = Counter(each.result for each in outcomes)
    return ", ".join(f"{counts[result]} {result.value.replace('_', ' ')}" for result in Result if counts[result])


def _exit_for(outcomes: Sequence[Outcome]) -> Exit:
    return Exit.FINE if all(each.result in _FINE for each in outcomes) else Exit.STUCK
