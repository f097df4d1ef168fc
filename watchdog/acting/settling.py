"""Rungs 4 to 6: settle what nobody executes, publish it, read it back, and put it back if opencode can't read it."""

from collections.abc import Iterable
from functools import partial

import anyio

from watchdog.acting.attempt import Attempt, names, still_open
from watchdog.acting.recheck import Rechecked, Seen
from watchdog.acting.settled import Fates, unseen
from watchdog.errors import GaveWay, ServerError
from watchdog.judging.rulings import Dropped
from watchdog.judging.settled_rows import settle
from watchdog.model.leftovers import Settled
from watchdog.model.outcome import GuardedWrite, Outcome, Result
from watchdog.model.report import Served
from watchdog.model.session import CallId, Session
from watchdog.model.verdict import Verdict
from watchdog.ports import Server
from watchdog.sharing import first

_SETTLE_SECONDS = 30.0


class Settling(Attempt):
    """An attempt that can settle."""

    async def _settle(self, verdict: Verdict, again: Rechecked) -> Outcome:
        """Write the end of rows that nobody executes, proven once more right before.

        Args:
            verdict: says that nobody executes them.
            again: the judge passed it again a moment ago.
        """
        self._step("prove", ok=True, detail=again.verdict.why)
        # Read before the last proof: any change from here on makes the guarded write change nothing.
        rows = await self.tools.store.rows(call_ids=verdict.call_ids, turn_ids=verdict.turn_ids)
        commands = self.tools.commands
        fates = unseen(rows) if commands is None else await commands.fates(rows)
        now_ms = self.tools.clock.read().wall_ms
        writes = settle(rows, text=self._text(), now_ms=now_ms, fates=fates.sentences)
        left = still_open(await self.tools.store.session(again.session.id), verdict)
        if broken := left - {write.row.id for write in writes}:
            return self.outcome(Result.FAILED, f"{names(broken)} can't be written in a shape that opencode reads")
        if not writes or not left >= {write.row.id for write in writes}:
            return self.outcome(Result.UNCHANGED, "it ended by itself")
        if self.dry_run:
            return self.outcome(Result.DRY_RUN, f"would settle {len(writes)} rows: {self.verdict.why}")
        await self.tools.journal.keep(await self._begin(), writes)
        last = await self._rechecked(verdict)
        if isinstance(last, Dropped):
            return self._drop(last)
        # Once begun, the write is published and read back even if the watchdog has to stop.
        outcome = self.outcome(Result.FAILED, f"settling took longer than {_SETTLE_SECONDS:g} s")
        with anyio.move_on_after(_SETTLE_SECONDS, shield=True):
            outcome = await self._write(last, writes)
        return await self._end_commands(outcome, writes, fates) if outcome.result is Result.RECOVERED else outcome

    async def _end_commands(self, outcome: Outcome, writes: tuple[GuardedWrite, ...], fates: Fates) -> Outcome:
        """End what the settled calls have left over, if that may be ended."""
        if self.tools.commands is None:
            return outcome
        settled = Settled(call_ids=frozenset(CallId(each.row.id) for each in writes if each.row.table == "part"))
        for ok, detail in await self.tools.commands.end(settled, fates, actor=self.actor):
            self._step("end_command", ok=ok, detail=detail)
        return self.outcome(outcome.result, outcome.why)

    async def _write(self, again: Rechecked, writes: tuple[GuardedWrite, ...]) -> Outcome:
        acted, self.acted = self.acted, True
        try:
            changed = await self.tools.store.write(writes)
        except GaveWay:
            self.acted = acted
            raise
        self.told = True
        self._step("settle", ok=changed > 0, detail=f"{changed} of {len(writes)} rows written")
        if not changed:
            return await self._unwritten(writes)
        await self._end_hold()
        return await self._show(again.session, again, writes)

    async def _unwritten(self, writes: tuple[GuardedWrite, ...]) -> Outcome:
        """Why a guarded write changed nothing: usually a row changed; otherwise one can't be compared."""
        rows = await self.tools.store.rows(call_ids=self.verdict.call_ids, turn_ids=self.verdict.turn_ids)
        now = {row.id: row.data for row in rows}
        if all(now.get(write.row.id) == write.row.data for write in writes):
            return self.outcome(Result.FAILED, "a row can't be compared with what was read, so nothing was written")
        return self.outcome(Result.UNCHANGED, "a row changed at the last moment, so nothing was written")

    async def _show(self, session: Session, seen: Seen, writes: tuple[GuardedWrite, ...]) -> Outcome:
        """Have a server publish the settled calls and read the session; put all back if it can't be read."""
        serving = await self._serving(seen)
        if serving is not None:
            await self._publish(*serving, session, writes)
            if await self._unreadable(*serving, session):
                return await self._put_back(serving[0], session, writes)
        left = still_open(await self.tools.store.session(session.id), self.verdict)
        if left:
            self._step("verify", ok=False, detail=f"still open: {names(left)}")
            return self.outcome(Result.INEFFECTIVE, f"{names(left)} is open again")
        self._step("verify", ok=True, detail="everything that was observed is closed")
        return self.outcome(Result.RECOVERED, self.verdict.why)

    async def _serving(self, seen: Seen) -> tuple[Server, Served] | None:
        """A server that is proven to serve this database, and still up."""

        async def up(server: Server, served: Served) -> tuple[Server, Served] | None:
            try:
                await server.vouches()
            except ServerError:
                return None  # a server that is down publishes nothing
            return server, served

        found = await first(*(partial(up, *each) for each in seen.serving))
        if found is None:
            self._step("publish", ok=True, detail="no server is up to show it")
        return found

    async def _publish(
        self, server: Server, served: Served, session: Session, writes: Iterable[GuardedWrite]
    ) -> None:
        parts = [write.row.id for write in writes if write.row.table == "part"]
        rows = await self.tools.store.rows(call_ids=[id_ for id_ in self.verdict.call_ids if id_ in parts])
        after = {write.row.id: write.after for write in writes}
        try:
            for row in rows:
                if row.says(after[row.id]):
                    await server.publish(served, row, session.directory)
        except ServerError as error:
            self._step("publish", ok=False, detail=str(error))
        else:
            self._step("publish", ok=True, detail=f"{server.name} told its clients of {len(rows)} calls")

    async def _unreadable(self, server: Server, served: Served, session: Session) -> bool:
        """Whether the server says that it can't read the session's messages."""
        try:
            readable = await server.readable(served, session.id, session.directory)
        except ServerError as error:
            self._step("read_back", ok=False, detail=str(error))
            return False
        self._step("read_back", ok=readable, detail="the messages read" if readable else "the messages do not read")
        return not readable

    async def _put_back(self, server: Server, session: Session, writes: tuple[GuardedWrite, ...]) -> Outcome:
        """Undo the write, except where somebody has written since."""
        ours = {write.row.id: write for write in writes}
        rows = await self.tools.store.rows(call_ids=self.verdict.call_ids, turn_ids=self.verdict.turn_ids)
        back = [
            GuardedWrite(row=row, after=ours[row.id].row.data)
            for row in rows
            if row.id in ours and row.says(ours[row.id].after)
        ]
        changed = await self.tools.store.write(back)
        self._step("put_back", ok=changed > 0, detail=f"{changed} of {len(back)} rows put back")
        return self.outcome(
            Result.FAILED, f"{server.name} could not read session {session.id} afterwards, so its rows were put back"
        )
