"""What each command does, once its settings are read. Each returns its exit code."""

import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from enum import IntEnum

import anyio
import structlog
from anyio.abc import TaskStatus

from watchdog.contract import outcomes_document, scan_document
from watchdog.errors import AlreadyWatched, ServerError, ServerUnreachable, UsageError
from watchdog.family import Family
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
from watchdog.ports import Server
from watchdog.record import LogListener
from watchdog.render import Screen, is_interactive, note
from watchdog.settings import Loaded
from watchdog.sidecar import Sidecar, sidecar
from watchdog.watch import Assessment, Watch

_BUSY_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 1.0


class Exit(IntEnum):
    """The exit codes, as documented."""

    FINE = 0
    STUCK = 1
    USAGE = 2
    UNUSABLE = 3
    INTERNAL = 70


Confirm = Callable[[str], bool]


async def run(loaded: Loaded, *, dry_run: bool) -> Exit:
    """Watch until SIGTERM or SIGINT; a second signal kills."""
    log = structlog.get_logger("watchdog")
    async with sidecar(loaded, feeds=True) as car:
        watch = car.watch(listeners=[LogListener()], dry_run=dry_run)
        stop = anyio.Event()
        settings = loaded.settings
        log.info(
            "watch.started",
            database=str(car.path),
            servers=[server.name for server in car.fleet.servers()],
            dry_run=dry_run,
            poll_seconds=settings.poll_interval.total_seconds(),
        )
        for warning in loaded.warnings:
            log.warning("settings.warning", why=warning)
        async with anyio.create_task_group() as group:
            await group.start(_stop_on_signal, stop, name="wait for a signal")
            await watch.run(stop)
            group.cancel_scope.cancel()
        log.info("watch.stopped")
    return Exit.FINE


async def _stop_on_signal(stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    """Set `stop` at the first signal; then the handlers are as before, so that a second one kills."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for received in signals:
            structlog.get_logger("watchdog").info("watch.stopping", signal=received.name)
            break
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stop.set()


async def scan(loaded: Loaded, screen: Screen, *, full: bool) -> Exit:
    """Look once, and print what would be done and what is spared."""
    async with sidecar(loaded, feeds=False) as car:
        watch = car.watch()
        watch.policy = replace(watch.policy, orphan_looks=1)
        assessment = await watch.assess(full=True, scan_parts=full, fresh=True)
        if screen.as_json:
            screen.document(scan_document(str(car.path), assessment.observation, assessment.judgement))
        else:
            screen.judgement(assessment.observation, assessment.judgement)
        return Exit.STUCK if assessment.judgement.verdicts else Exit.FINE


async def recover(loaded: Loaded, screen: Screen, *, dry_run: bool) -> Exit:
    """Settle every orphan once; wait for the second look where a proof needs one."""
    async with sidecar(loaded, feeds=False) as car:
        if not dry_run and not car.mandate.acquire():
            raise AlreadyWatched(
                f"another watchdog (pid {car.mandate.holder()}) acts on {car.path} and settles orphans by itself; "
                "stop it first, or leave the work to it"
            )
        watch = car.watch(dry_run=dry_run)
        outcomes: list[Outcome] = []
        assessment = await watch.assess(full=True, scan_parts=True, fresh=True)
        settled: set[str] = set()
        while True:
            for verdict in _orphans(assessment, settled):
                outcomes.append(await watch.act(verdict))
                settled |= verdict.row_ids
            first_looks = [each for each in assessment.judgement.spared if each.reason is SpareReason.FIRST_LOOK]
            if not first_looks and not _orphans(assessment, settled):
                break
            await _wait(watch, first_looks, screen)
            assessment = await watch.assess(fresh=True)
        _print_outcomes(screen, car, outcomes)
        left = [each for each in assessment.judgement.spared if each.reason is SpareReason.NO_WITNESS]
        if left and not screen.as_json:
            screen.judgement(assessment.observation, replace(assessment.judgement, verdicts=(), spared=tuple(left)))
        return _exit_for(outcomes)


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
        outcomes = await _release(watch, SessionId(session_id), screen, reason=reason, confirm=confirm)
        _print_outcomes(screen, car, outcomes)
        return _exit_for(outcomes)


async def _release(
    watch: Watch, session_id: SessionId, screen: Screen, *, reason: str | None, confirm: Confirm | None
) -> list[Outcome]:
    assessment = await watch.assess(also=[session_id], fresh=True)
    session = _existing(assessment.observation, session_id)
    _ask_if_alive(assessment, session, confirm)
    outcomes = [await _release_one(watch, assessment, session, screen, reason=reason)]
    # What was below an orphan is an orphan too, and nobody else will end it. What a server ran below the session
    # was ended with it.
    for child_id in sorted(Family(assessment.observation).below(session)):
        assessment = await watch.assess(also=[child_id], fresh=True)
        child = assessment.observation.snapshot.sessions.get(child_id)
        if child is not None and child.has_open_rows and outcomes[0].result is Result.RECOVERED:
            outcomes.append(await _release_one(watch, assessment, child, screen, reason=reason))
    return outcomes


def _existing(observation: Observation, session_id: SessionId) -> Session:
    session = observation.snapshot.sessions.get(session_id)
    if session is None:
        raise UsageError(f"there is no session {session_id} in this database; `scan` lists the unfinished ones")
    return session


def _ask_if_alive(assessment: Assessment, session: Session, confirm: Confirm | None) -> None:
    """Ask a person before something that shows life is ended."""
    signs = [
        each.why
        for each in assessment.judgement.spared
        if each.session_id == session.id and each.reason not in {SpareReason.FIRST_LOOK, SpareReason.NO_WITNESS}
    ]
    stuck = any(each.cancel_session_id == session.id for each in assessment.judgement.verdicts)
    if confirm is None or stuck or not signs:
        return
    if not is_interactive():
        raise UsageError(
            f"session {session.id} shows life ({'; '.join(signs)}) and there is no terminal to ask at; --yes ends it "
            "all the same"
        )
    if not confirm(f"Session {session.id} shows life: {'; '.join(signs)}. End it all the same?"):
        raise UsageError("left alone, as you said")


async def _release_one(
    watch: Watch, assessment: Assessment, session: Session, screen: Screen, *, reason: str | None
) -> Outcome:
    """Climb the ladder for one session; where a proof needs a second look, wait for it."""
    while True:
        verdict = release_verdict(assessment.observation, watch.policy, session)
        claimed = any(
            session.id in found for each in assessment.observation.reports for found in each.statuses.values()
        )
        if not verdict.row_ids and not claimed:
            return Outcome(
                session_id=session.id,
                kind=verdict.kind,
                result=Result.UNCHANGED,
                steps=(),
                why="nothing is open in it, and no server is at work on it",
            )
        if verdict.confirmed:
            return await watch.act(verdict, reason=reason)
        await _wait(watch, [each for each in assessment.judgement.spared if each.session_id == session.id], screen)
        assessment = await watch.assess(also=[session.id], fresh=True)
        session = _existing(assessment.observation, session.id)


async def delete_message(
    loaded: Loaded, screen: Screen, session_id: str, message_id: str, *, confirm: Confirm | None
) -> Exit:
    """Release the session if it is busy, delete the message through the server that has it, and verify."""
    async with sidecar(loaded, feeds=False) as car:
        watch = car.watch()
        assessment = await watch.assess(also=[SessionId(session_id)], fresh=True)
        session = _existing(assessment.observation, SessionId(session_id))
        if not await car.store.message_exists(session.id, message_id):
            raise UsageError(f"session {session_id} has no message {message_id}")
        outcomes = await _release(watch, session.id, screen, reason="to delete a message", confirm=confirm)
        if _exit_for(outcomes) is not Exit.FINE:
            _print_outcomes(screen, car, outcomes)
            return Exit.STUCK
        server = await _server_that_has(car, session, message_id)
        await _delete(server, session, message_id)
        gone = not await car.store.message_exists(session.id, message_id)
        if screen.as_json:
            screen.document(
                {
                    **outcomes_document(str(car.path), outcomes),
                    "session_id": session.id,
                    "message_id": message_id,
                    "deleted": gone,
                }
            )
        else:
            screen.line(f"{message_id} is {'deleted' if gone else 'still there'}", "green" if gone else "red")
        return Exit.FINE if gone else Exit.STUCK


async def _server_that_has(car: Sidecar, session: Session, message_id: str) -> Server:
    silent: list[str] = []
    for server in car.fleet.servers():
        try:
            if await server.serves(session.id, TurnId(message_id), session.directory):
                return server
        except ServerError as error:
            silent.append(str(error))
    raise ServerUnreachable(
        "; ".join(["no server that answers has this message, and only a server can delete it", *silent])
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


async def _wait(watch: Watch, first_looks: list[Spared], screen: Screen) -> None:
    """Wait until a second look may confirm the first, with progress."""
    until = max((each.until_ms or 0 for each in first_looks), default=0)
    left = (until - watch.clock.read().wall_ms) / 1000
    if left <= 0:
        await anyio.sleep(0.05)
        return
    async with _progress(f"a second look at {len(first_looks)} session(s) comes in {duration(left)}", left, screen):
        await anyio.sleep(left + 0.01)


@contextlib.asynccontextmanager
async def _progress(text: str, seconds: float, screen: Screen) -> AsyncIterator[None]:
    """Show a bar on a terminal while something takes longer than two seconds; else say it once."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - rarely needed

    if not screen.fancy:
        note(text)
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen.console, transient=True) as progress:
        task = progress.add_task(text, total=seconds)

        async def advance() -> None:
            while True:
                await anyio.sleep(0.1)
                progress.advance(task, 0.1)

        async with anyio.create_task_group() as group:
            group.start_soon(advance)
            yield
            group.cancel_scope.cancel()


def _print_outcomes(screen: Screen, car: Sidecar, outcomes: list[Outcome]) -> None:
    if screen.as_json:
        screen.document(outcomes_document(str(car.path), outcomes))
    elif outcomes:
        screen.outcomes(outcomes)
    else:
        screen.line("nothing to recover", "green")


def _exit_for(outcomes: list[Outcome]) -> Exit:
    fine = {Result.RECOVERED, Result.UNCHANGED}
    return Exit.FINE if all(each.result in fine for each in outcomes) else Exit.STUCK
