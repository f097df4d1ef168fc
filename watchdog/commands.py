"""What each command but `run` does, once its settings are read. Each returns its exit code."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import anyio

from watchdog.contract import outcomes_document, scan_document
from watchdog.errors import AlreadyWatched, ServerError, ServerUnreachable, UsageError
from watchdog.exits import Exit
from watchdog.family import Family
from watchdog.interventions import Actor
from watchdog.judge import release as release_verdict
from watchdog.limits import duration
from watchdog.model import (
    Observation,
    Outcome,
    Result,
    Session,
    SessionId,
    Spared,
    SpareReason,
    TurnId,
    Verdict,
    VerdictKind,
)
from watchdog.no_journal import NoJournal
from watchdog.ports import Server
from watchdog.progress import busy, countdown
from watchdog.render import Screen, note
from watchdog.settings import Loaded
from watchdog.sidecar import Sidecar, sidecar
from watchdog.streams import is_interactive
from watchdog.watch import Assessment, Watch

_FINE = frozenset({Result.RECOVERED, Result.UNCHANGED})
_BUSY_SECONDS = 5.0
_LOOKING = "looking at the database and its servers, which takes a while"
_ENDING = "ending it, and waiting until the database shows that it ended"
_PATIENCE_IN_GRACES = 4
_MAY_BE_ORPHANS = {SpareReason.NO_WITNESS, SpareReason.FIRST_LOOK, SpareReason.COOLING_DOWN, SpareReason.ON_HOLD}
_SHORTEST_WAIT_SECONDS = 0.25


Confirm = Callable[[str], bool]


async def scan(loaded: Loaded, screen: Screen, *, full: bool) -> Exit:
    """Look once, and print what would be done and what is spared."""
    async with sidecar(loaded, feeds=False, acts=False) as car:
        watch = car.watch()
        watch.policy = replace(watch.policy, orphan_looks=1)
        async with busy(_LOOKING):
            assessment = await watch.assess(full=True, scan_parts=full, fresh=True)
        if isinstance(car.journal, NoJournal) and car.journal.problem:
            note(f"warning: what is on hold is not known. {car.journal.problem}")
        if screen.as_json:
            screen.document(scan_document(str(car.path), assessment.observation, assessment.judgement))
        else:
            screen.judgement(assessment.observation, assessment.judgement)
        return Exit.STUCK if assessment.judgement.verdicts else Exit.FINE


async def recover(loaded: Loaded, screen: Screen, *, dry_run: bool) -> Exit:
    """Settle every orphan once; wait for the second look where a proof needs one."""
    async with sidecar(loaded, feeds=False) as car:
        if not dry_run and not car.mandate.acquire():
            pid = car.mandate.holder()
            raise AlreadyWatched(
                f"Another watchdog ({f'pid {pid}' if pid else 'of unknown pid'}) acts on {car.path} and settles "
                "orphans by itself. Stop it first, or leave the work to it."
            )
        outcomes: list[Outcome] = []
        spared: list[Spared] = []
        whole = False
        watch = car.watch(dry_run=dry_run)
        try:
            if not dry_run:
                await watch.close_begun()
                # A person asks: what was given up, or waits for its next attempt, is tried now.
                watch.memory.forget_settling()
            await _recover(watch, outcomes, spared)
            whole = True
        finally:
            # What was done before an interruption is told all the same.
            if whole or outcomes:
                _print_outcomes(screen, car, outcomes, spared)
        return _exit_for(outcomes)


async def _recover(watch: Watch, outcomes: list[Outcome], spared: list[Spared]) -> None:
    """Settle orphans until none is left, and note what came of each, and what was left alone in the end."""
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
    loaded: Loaded, screen: Screen, session_id: str, *, reason: str | None, confirm: Confirm | None
) -> Exit:
    """End now whatever is open in a session, and in the sessions below it.

    Args:
        confirm: asks a person whether to end something that shows life; None when they already agreed.
    """
    async with sidecar(loaded, feeds=False) as car:
        watch = car.watch()
        outcomes = await _release(watch, SessionId(session_id), reason=reason, confirm=confirm)
        _print_outcomes(screen, car, outcomes)
        return _exit_for(outcomes)


async def _release(
    watch: Watch, session_id: SessionId, *, reason: str | None, confirm: Confirm | None
) -> list[Outcome]:
    # A release is the end of a hold: whoever says "end it" no longer says "leave it".
    await watch.journal.unhold(session_id)
    assessment, session = await _look_at(watch, session_id)
    if _ask_if_alive(assessment, session, confirm):
        # It went on while the person thought.
        assessment, session = await _look_at(watch, session_id)
    outcomes = [await _release_one(watch, assessment, session, reason=reason)]
    # What was below an orphan is an orphan too, and nobody else will end it. What a server ran below the session
    # was ended with it.
    for child_id in sorted(Family(assessment.observation).below(session)):
        assessment = await watch.assess(also=[child_id], fresh=True)
        child = assessment.observation.snapshot.sessions.get(child_id)
        if child is not None and child.has_open_rows and outcomes[0].result is Result.RECOVERED:
            outcomes.append(await _release_one(watch, assessment, child, reason=reason))
    return outcomes


async def _look_at(watch: Watch, session_id: SessionId) -> tuple[Assessment, Session]:
    async with busy(_LOOKING):
        assessment = await watch.assess(also=[session_id], fresh=True)
    return assessment, _existing(assessment.observation, session_id)


def _existing(observation: Observation, session_id: SessionId) -> Session:
    session = observation.snapshot.sessions.get(session_id)
    if session is None:
        raise UsageError(f"There is no session {session_id} in this database; `scan` lists the unfinished ones.")
    return session


def _ask_if_alive(assessment: Assessment, session: Session, confirm: Confirm | None) -> bool:
    """Ask a person before something that shows life is ended. True when a person was asked, and said yes.

    Raises:
        UsageError: they said no, or there is nobody to ask.
    """
    signs = _signs_of_life(assessment, session)
    if confirm is None or not signs:
        return False
    shows = f"Session {session.id} may be alive: {'; '.join(signs)}."
    if not is_interactive():
        raise UsageError(f"{shows} There is no terminal to ask at; --yes ends it all the same.")
    if not confirm(f"{shows} End it all the same?"):
        raise UsageError(f"Session {session.id} was left alone, as you said.")
    return True


def _signs_of_life(assessment: Assessment, session: Session) -> list[str]:
    """Why a session may be alive; nothing if it is stuck, or if nobody could end it anyhow."""
    if any(each.cancel_session_id == session.id for each in assessment.judgement.verdicts):
        return []
    harmless = {SpareReason.FIRST_LOOK}
    if not _is_claimed(assessment.observation, session):
        harmless.add(SpareReason.NO_WITNESS)
    return list(
        dict.fromkeys(
            each.why
            for each in assessment.judgement.spared
            if each.session_id == session.id and each.reason not in harmless
        )
    )


def _is_claimed(observation: Observation, session: Session) -> bool:
    """Whether a server says that it is at work on a session."""
    return any(session.id in found for report in observation.reports for found in report.statuses.values())


async def _release_one(watch: Watch, assessment: Assessment, session: Session, *, reason: str | None) -> Outcome:
    """Climb the ladder for one session; where a proof needs a second look, wait for it."""
    give_up_at = watch.clock.read().awake_seconds + _PATIENCE_IN_GRACES * watch.policy.orphan_grace_seconds
    while True:
        verdict = release_verdict(assessment.observation, watch.policy, session)
        if not verdict.row_ids and not _is_claimed(assessment.observation, session):
            return Outcome(
                session_id=session.id,
                kind=verdict.kind,
                result=Result.UNCHANGED,
                steps=(),
                why="nothing is open in it, and no server is at work on it",
            )
        # A row that keeps changing is never confirmed: the ladder then says that the proof does not hold.
        if verdict.confirmed or watch.clock.read().awake_seconds > give_up_at:
            async with busy(_ENDING):
                return await watch.act(verdict, reason=reason, actor=Actor.PERSON)
        looks = watch.memory.looks
        first = max((looks[row].at_ms for row in verdict.row_ids if row in looks), default=0)
        await _wait_until(watch, first + watch.policy.orphan_grace_seconds * 1000, _sessions(1))
        assessment, session = await _look_at(watch, session.id)


async def delete_message(
    loaded: Loaded, screen: Screen, session_id: str, message_id: str, *, confirm: Confirm | None
) -> Exit:
    """Release the session if it is busy, delete the message through the server that has it, and verify."""
    async with sidecar(loaded, feeds=False) as car:
        watch = car.watch()
        _, session = await _look_at(watch, SessionId(session_id))
        if not await car.store.message_exists(session.id, message_id):
            raise UsageError(f"Session {session_id} has no message {message_id}.")
        outcomes = await _release(watch, session.id, reason="to delete a message", confirm=confirm)
        gone = False
        if _exit_for(outcomes) is Exit.FINE:
            server = await _server_that_has(car, session, message_id)
            await _delete(server, session, message_id)
            gone = not await car.store.message_exists(session.id, message_id)
        _print_deletion(screen, car, outcomes, message_id, gone=gone)
        return Exit.FINE if gone else Exit.STUCK


def _print_deletion(screen: Screen, car: Sidecar, outcomes: list[Outcome], message_id: str, *, gone: bool) -> None:
    if screen.as_json:
        document = outcomes_document(str(car.path), outcomes)
        session_id = outcomes[0].session_id
        screen.document({**document, "session_id": session_id, "message_id": message_id, "deleted": gone})
        return
    screen.outcomes([each for each in outcomes if each.result is not Result.UNCHANGED])
    what = f"{message_id} is {'deleted' if gone else 'still there'}"
    screen.line("summary", what, "bold green" if gone else "bold red")


async def _server_that_has(car: Sidecar, session: Session, message_id: str) -> Server:
    silent: list[str] = []
    for server in car.fleet.servers():
        try:
            if await server.serves(session.id, TurnId(message_id), session.directory):
                return server
        except ServerError as error:
            silent.append(str(error))
    raise ServerUnreachable(
        " ".join(["No server that answers has this message, and only a server can delete it.", *silent])
    )


async def _delete(server: Server, session: Session, message_id: str) -> None:
    """Delete a message; a server may call a session busy for a moment after it let go of it."""
    with anyio.move_on_after(_BUSY_SECONDS):
        while True:
            try:
                return await server.delete_message(session.id, message_id, session.directory)
            except ServerError as error:
                if "busy" not in str(error):
                    raise
            await anyio.sleep(0.2)
    return await server.delete_message(session.id, message_id, session.directory)


async def _wait(watch: Watch, first_looks: list[Spared]) -> None:
    """Wait until a second look may confirm the first, with progress."""
    until = max((each.until_ms or 0 for each in first_looks), default=0)
    await _wait_until(watch, until, _sessions(len({each.session_id for each in first_looks})))


async def _wait_until(watch: Watch, until_ms: float, sessions: str) -> None:
    left = (until_ms - watch.clock.read().wall_ms) / 1000
    if left <= 0:
        await anyio.sleep(_SHORTEST_WAIT_SECONDS)
        return
    async with countdown(f"a second look at {sessions} comes in {duration(left)}", left):
        await anyio.sleep(left + 0.01)


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _print_outcomes(
    screen: Screen, car: Sidecar, outcomes: list[Outcome], spared: list[Spared] | None = None
) -> None:
    """Print what was done; and of what is spared, only what might be an orphan."""
    if screen.as_json:
        screen.document(outcomes_document(str(car.path), outcomes, spared))
        return
    screen.outcomes(outcomes)
    screen.spared([each for each in spared or () if each.reason in _MAY_BE_ORPHANS])
    screen.line("summary", _summary(outcomes), f"bold {'green' if _exit_for(outcomes) is Exit.FINE else 'red'}")


def _summary(outcomes: list[Outcome]) -> str:
    if not outcomes:
        return "nothing to recover"
    counts = Counter(each.result for each in outcomes)
    return ", ".join(f"{counts[result]} {result.value.replace('_', ' ')}" for result in Result if counts[result])


def _exit_for(outcomes: list[Outcome]) -> Exit:
    return Exit.FINE if all(each.result in _FINE for each in outcomes) else Exit.STUCK
