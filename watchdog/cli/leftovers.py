"""`leftovers`: what outlived its opencode or its call, and the end of it."""

from collections.abc import Callable, Collection, Sequence

from watchdog.acting.ending import Ending
from watchdog.composing.sidecar import Sidecar, sidecar
from watchdog.console.exits import Exit
from watchdog.console.streams import is_interactive
from watchdog.errors import UsageError
from watchdog.model.interventions import Actor
from watchdog.model.leftovers import Asked, LeftOver
from watchdog.model.outcome import Outcome, Result
from watchdog.reporting import leftover_tables as render
from watchdog.reporting.leftover_documents import ended_document, leftovers_document
from watchdog.reporting.progress import busy
from watchdog.reporting.tables import Screen
from watchdog.settings.schema import Loaded

Confirm = Callable[[str], bool]

_MOST_NAMED = 10


async def list_them(loaded: Loaded, screen: Screen) -> Exit:
    """List what is left over, the oldest first."""
    async with sidecar(loaded, feeds=False, needs_journal=False) as car:
        seen = await car.processes.look()
        now_ms = car.clock.read().wall_ms
    if screen.as_json:
        screen.document(leftovers_document(seen, at_ms=now_ms))
    else:
        render.leftovers(screen, seen, at_ms=now_ms)
    return Exit.FINE


async def end_them(loaded: Loaded, screen: Screen, pids: Collection[int] | None, *, confirm: Confirm | None) -> Exit:
    """End some of it, or all, each with all of its processes.

    Args:
        pids: which ones; None for all.
        confirm: asks a person; None if they already agreed.

    Raises:
        UsageError: a process is not left over, or never ended; nobody agreed; or nothing may be ended now.
    """
    async with sidecar(loaded, feeds=False) as car:
        seen = await car.processes.look()
        if seen.refusal is not None:
            raise UsageError(f"{seen.refusal} An opencode may be at work in what is left over: nothing was ended.")
        chosen = _all(seen.left) if pids is None else _chosen(seen.left, pids)
        if chosen:
            _agreed(chosen, confirm)
        outcomes = await _end(car, chosen)
    if screen.as_json:
        screen.document(ended_document(chosen, outcomes))
    else:
        render.ended(screen, chosen, outcomes)
    return Exit.FINE if all(_is_fine(each) for each in outcomes) else Exit.STUCK


def _is_fine(outcome: Outcome) -> bool:
    return outcome.result is Result.RECOVERED


def _all(left: Sequence[LeftOver]) -> list[LeftOver]:
    return [each for each in left if each.command.keep is None]


def _chosen(left: Sequence[LeftOver], pids: Collection[int]) -> list[LeftOver]:
    found = {member.pid: each for each in left for member in each.command.members}
    if unknown := sorted(set(pids) - found.keys()):
        raise UsageError(f"{_processes(unknown)} is not left over, so nothing was ended. `leftovers` lists what is.")
    for each in (found[pid] for pid in sorted(set(pids))):
        if each.command.keep is not None:
            raise UsageError(
                f"Process {each.command.first.pid} is never ended from here: {each.command.keep}. Nothing was ended."
            )
    chosen = {found[pid].identity: found[pid] for pid in pids}
    return [chosen[each] for each in sorted(chosen)]


def _processes(pids: Sequence[int]) -> str:
    return f"Process {' or '.join(map(str, pids))}"


def _agreed(chosen: Sequence[LeftOver], confirm: Confirm | None) -> None:
    """Ask a person before anything is ended.

    Raises:
        UsageError: nobody can be asked, or they said no.
    """
    if confirm is None:
        return
    named = "; ".join(f"{each.command.first.pid} {each.command.name}" for each in chosen[:_MOST_NAMED])
    more = f" and {len(chosen) - _MOST_NAMED} more" if len(chosen) > _MOST_NAMED else ""
    stay = sum(each.stays is not None for each in chosen)
    some = f", {stay} of which may have been started to stay" if stay else ""
    what = f"{render.commands(len(chosen))}{some} ({named}{more})"
    if not is_interactive():
        raise UsageError(f"There is no terminal to ask at whether to end {what}; --yes ends them all the same.")
    if not confirm(f"End {what}? It can't be undone."):
        raise UsageError("Nothing was ended, as you said.")


async def _end(car: Sidecar, chosen: Sequence[LeftOver]) -> list[Outcome]:
    ending = Ending(processes=car.processes, journal=car.journal, clock=car.clock)
    outcomes = []
    async with busy("ending them, and making sure", total=len(chosen)) as step:
        for each in chosen:
            pid, birth = each.identity
            outcomes.append(await ending.end(each, Asked(pid=pid, birth=birth), actor=Actor.PERSON))
            step()
    return outcomes
