"""Ends a command that is left over: asks each of its processes to end, ends those that don't, and makes sure.

Only the judge's proof leads to a signal, and it is made afresh right before the first one. Each signal goes to a
process whose pid and birth are those that were looked at. Nothing of this can be undone.
"""

from collections.abc import Sequence
from typing import Final

import anyio

from watchdog.model.interventions import Actor
from watchdog.model.leftovers import LeftOver, Member, Warrant
from watchdog.model.outcome import Outcome, Result, Step
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict, VerdictKind
from watchdog.ports import Clock, Journal, Processes

NOBODY: Final = SessionId("")
"""Stands in the place of a session where none can be shown."""
_POLL_SECONDS: Final = 0.05
_ROUNDS: Final = 5
"""A process may start another one while it is ended."""
_FINISH_SECONDS: Final = 30.0


class Ending:
    """Ends commands that are left over.

    Args:
        grace_seconds: how long a command may take to end after it was asked to.
    """

    def __init__(self, *, processes: Processes, journal: Journal, clock: Clock, grace_seconds: float = 5.0) -> None:
        self._processes = processes
        self._journal = journal
        self._clock = clock
        self._grace_seconds = grace_seconds

    async def end(self, left: LeftOver, warrant: Warrant, *, actor: Actor, reason: str | None = None) -> Outcome:
        """End a command with all of its processes, and say what was seen.

        Args:
            warrant: why it may be ended; it must cover the command as it is found in a fresh look.

        Raises:
            DatabaseError: the database can't be read.
            JournalUnusable: the journal can't be used; then nothing was done.
        """
        attempt = _Attempt(self._processes, self._clock, self._grace_seconds)
        again = await attempt.again(left)
        if again is None or again.command.keep is not None or not warrant.covers(again):
            why = "it has ended, or is at work" if again is None else again.command.keep or _not_covered(again)
            return attempt.outcome(left, Result.UNCHANGED, f"process {left.command.first.pid} is left alone: {why}")
        number = await self._journal.begin(
            verdict_of(again, self._clock), at_ms=self._clock.read().wall_ms, actor=actor, reason=reason
        )
        # Once begun, it is brought to its end and noted even if the program has to stop.
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_FINISH_SECONDS):
                await attempt.end(again)
            gone = not await self._processes.members(again)
            outcome = attempt.ended(again, gone=gone)
            await self._journal.end(number, outcome, at_ms=self._clock.read().wall_ms)
        return outcome


class _Attempt:
    """One command on its way to its end, with the steps that were taken."""

    def __init__(self, processes: Processes, clock: Clock, grace_seconds: float) -> None:
        self._processes = processes
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._steps: list[Step] = []

    async def again(self, left: LeftOver) -> LeftOver | None:
        """The same command in a fresh look; None if it is left over no more."""
        seen = await self._processes.look(since_ms=left.command.born_ms)
        same = next((each for each in seen.left if each.identity == left.identity), None)
        self._step("reread", ok=same is not None, detail="still left over" if same else "it is left over no more")
        return same

    async def end(self, left: LeftOver) -> None:
        """TERM, a grace, and KILL for what is left."""
        members = await self._processes.members(left)
        await self._send(left, members, kill=False)
        deadline = self._clock.read().awake_seconds + self._grace_seconds
        while (members := await self._processes.members(left)) and self._clock.read().awake_seconds < deadline:
            await self._clock.sleep(_POLL_SECONDS)
        for _ in range(_ROUNDS):
            if not members:
                return
            await self._send(left, members, kill=True)
            await self._clock.sleep(_POLL_SECONDS)
            members = await self._processes.members(left)

    async def _send(self, left: LeftOver, members: Sequence[Member], *, kill: bool) -> None:
        # The first process of a command comes first: a shell must not go on to its next line.
        sent = [each.pid for each in members if await self._processes.send(left, each, kill=kill)]
        name = "KILL" if kill else "TERM"
        detail = f"{name} to {' '.join(map(str, sent))}" if sent else f"no process took {name}"
        self._step("kill" if kill else "terminate", ok=bool(sent), detail=detail)

    def ended(self, left: LeftOver, *, gone: bool) -> Outcome:
        """How it ended, as seen."""
        detail = "none of its processes is there any more" if gone else "some of its processes are still there"
        self._step("verify", ok=gone, detail=detail)
        pid = left.command.first.pid
        if gone:
            return self.outcome(left, Result.RECOVERED, f"process {pid} was ended: {left.why}")
        return self.outcome(left, Result.INEFFECTIVE, f"process {pid} goes on, whatever it was sent")

    def outcome(self, left: LeftOver, result: Result, why: str) -> Outcome:
        return Outcome(
            session_id=_session_of(left),
            kind=VerdictKind.LEFT_OVER,
            result=result,
            steps=tuple(self._steps),
            why=why,
        )

    def _step(self, step: str, *, ok: bool, detail: str) -> None:
        self._steps.append(Step(step=step, at_ms=self._clock.read().wall_ms, ok=ok, detail=detail))


def _not_covered(left: LeftOver) -> str:
    return left.stays or "it belongs to no call that was settled"


def _session_of(left: LeftOver) -> SessionId:
    return NOBODY if left.call is None else left.call.session_id


def verdict_of(left: LeftOver, clock: Clock) -> Verdict:
    """A command that is left over, in the journal's form."""
    command = left.command
    return Verdict(
        session_id=_session_of(left),
        kind=VerdictKind.LEFT_OVER,
        cancel_session_id=_session_of(left),
        why=f"process {command.first.pid} ({command.name}): {left.why}",
        age_seconds=left.age_seconds(clock.read().wall_ms),
        call_id=None if left.call is None else left.call.id,
        tool=None if left.call is None else left.call.tool,
        claimed=False,
    )
