"""What people want of the one that acts, passed on by a real PostgreSQL: done once, answered, or told why not."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

from tests.support.postgres import Cluster
from tests.support.waiting import wait_until
from watchdog import errors
from watchdog.acting.undo import Undoing, UndoResult
from watchdog.errors import (
    Busy,
    DatabaseUnavailable,
    NoSuchSession,
    NotActing,
    ServerAnswerInvalid,
    ServerError,
    ServerUnreachable,
    WatchdogError,
)
from watchdog.model.interventions import InterventionId
from watchdog.model.outcome import Outcome, Result, Step
from watchdog.model.session import SessionId
from watchdog.model.verdict import VerdictKind
from watchdog.operating.operations import Answer, OperationKind
from watchdog.operating.requests import Wanted, dump_answer, dump_error, read_answer, read_wanted
from watchdog.postgres.connection import own_engine
from watchdog.postgres.lease import Lease
from watchdog.postgres.line import ANSWERED, CHANNEL, Line
from watchdog.replicas import passed_on
from watchdog.replicas.passed_on import PassedOn
from watchdog.timing.clock import SystemClock

ONE, TWO = SessionId("ses_1"), SessionId("ses_2")
DONE = (
    Outcome(
        session_id=ONE,
        kind=VerdictKind.STUCK_TOOL,
        result=Result.RECOVERED,
        steps=(Step(step="abort", at_ms=1, ok=True, detail="ü"),),
        why="it ended",
        dropped_prompts=("msg_2",),
    ),
    Outcome(session_id=TWO, kind=VerdictKind.ORPHAN, result=Result.UNCHANGED, steps=(), why="nothing was open"),
)
UNDOING = Undoing(id=InterventionId(3), session_id=ONE, result=UndoResult.UNDONE, why="so", steps=DONE[0].steps)
TAKEN_OVER = """
    UPDATE opencode_watchdog.lease
    SET holder = 'another', term = term + 1, expires_at = clock_timestamp() + interval '10 minutes'
"""
ROWS = "SELECT * FROM opencode_watchdog.request ORDER BY id"


class Party:
    """What a replica has for it. It looks for what is wanted again and again, and wakes for answers."""

    def __init__(self, name: str, url: str) -> None:
        self.engine, self.lease_engine = own_engine(url), own_engine(url)
        self.lease = Lease(self.lease_engine, clock=SystemClock(), name=name, seconds=600)
        self.line = Line(self.engine, channel=CHANNEL, heard=self._heard)
        self.passed_on = PassedOn(self.line, self.lease, SystemClock(), name=name)
        self.wanted: list[Wanted] = []
        self.answer: Answer | Exception = DONE
        self.may_end = anyio.Event()
        self.may_end.set()
        self.task: asyncio.Task[None] | None = None

    async def carry_out(self, wanted: Wanted) -> Answer:
        self.wanted.append(wanted)
        await self.may_end.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def acts(self) -> None:
        await self.lease.open()
        assert self.lease.acquire()
        self.passed_on.answer_for(self.carry_out)
        self.task = asyncio.create_task(self._look())

    async def release(self, session_id: SessionId = ONE) -> tuple[Outcome, ...]:
        return await self.passed_on.release(session_id, reason="so", below=False, agreed=(TWO,))

    async def _look(self) -> None:
        async with anyio.create_task_group() as group:
            while True:
                with suppress(DatabaseUnavailable):
                    await self.passed_on.look(group)
                await anyio.sleep(0.02)

    def _heard(self, said: str) -> None:
        if said == ANSWERED:
            self.passed_on.told.beat()

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def close(self) -> None:
        await self.stop()
        await self.line.close()
        await self.lease.close()
        await self.engine.dispose()
        await self.lease_engine.dispose()


class Parties:
    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self.url = url
        self.all: list[Party] = []

    def party(self, name: str) -> Party:
        self.all.append(Party(name, self.url))
        return self.all[-1]

    async def pair(self) -> tuple[Party, Party]:
        """The one that acts, and one that does not."""
        leader, other = self.party("a"), self.party("b")
        await leader.acts()
        return leader, other

    def run(self, statement: str) -> list[Any]:
        return self.cluster.run(statement, database=self.url.rpartition("/")[2])

    async def taken(self) -> None:
        await wait_until(lambda: [row for row in self.run(ROWS) if row["taken_by"]], "that it is taken on")


@pytest.fixture
async def parties(postgres: Cluster, postgres_url: str) -> AsyncIterator[Parties]:
    made = Parties(postgres, postgres_url)
    yield made
    for party in made.all:
        await party.close()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TAKE_SECONDS", "_LOST_SECONDS"):
        monkeypatch.setattr(passed_on, name, 0.3)
    monkeypatch.setattr(passed_on, "_ASK_SECONDS", 0.05)


class TestAnswers:
    async def test_what_is_wanted_reaches_the_one_that_acts_and_its_answer_comes_back(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        assert await other.release() == DONE
        leader.answer = UNDOING
        assert await other.passed_on.undo(InterventionId(3)) == UNDOING
        assert leader.wanted == [
            Wanted(kind=OperationKind.RELEASE, session_id=ONE, reason="so", agreed=(TWO,)),
            Wanted(kind=OperationKind.UNDO, number=InterventionId(3)),
        ]
        assert [row["asked_by"] for row in parties.run(ROWS)] == ["b", "b"]
        leader.answer = DONE
        assert await leader.release() == DONE  # one that has just begun to act asks itself

    @pytest.mark.parametrize("error", [NoSuchSession(ONE), Busy("no"), NotActing("n"), DatabaseUnavailable("gone")])
    async def test_what_it_raises_is_raised(self, parties: Parties, error: WatchdogError) -> None:
        leader, other = await parties.pair()
        leader.answer = error
        with pytest.raises(type(error)) as caught:
            await other.release()
        assert str(caught.value) == str(error)

    async def test_an_error_of_its_own_is_told_without_its_words(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        leader.answer = ZeroDivisionError("a secret")
        with pytest.raises(ServerUnreachable, match=r"ZeroDivisionError at .*`history` shows it") as caught:
            await other.release()
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("question", ["{", "[]", '{"kind": "dance"}', '{"kind": "delete_message"}', "null"])
    async def test_what_can_not_be_read_is_refused(self, parties: Parties, question: str) -> None:
        leader, _ = await parties.pair()
        put = "INSERT INTO opencode_watchdog.request (asked_by, asked_at, question) VALUES ('c', now(), $1)"
        parties.cluster.run(put, question, database=parties.url.rpartition("/")[2])
        await wait_until(lambda: parties.run(ROWS)[0]["answer"], "an answer")
        with pytest.raises(NotActing, match="of different versions"):
            read_answer(parties.run(ROWS)[0]["answer"])
        assert leader.wanted == []


@pytest.mark.usefixtures("hurry")
class TestLimits:
    async def test_nobody_acts(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        await leader.stop()
        await leader.lease.close()
        with pytest.raises(NotActing, match=r"No watchdog acts on .* at this moment"):
            await other.release()
        await leader.acts()
        assert await other.release() == DONE
        assert len(leader.wanted) == 1  # what was withdrawn is done by nobody, however late

    async def test_the_one_that_acts_does_not_take_it_on(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        await leader.stop()
        with pytest.raises(NotActing, match=r"\(replica a\) acts on .* older version\. Nothing was done"):
            await other.release()

    async def test_it_loses_the_right_before_it_answers(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        leader.may_end = anyio.Event()
        asking = asyncio.create_task(other.release())
        await parties.taken()
        parties.run(TAKEN_OVER)
        with pytest.raises(ServerUnreachable, match=r"Replica a took it on, and lost the right .*`history` shows it"):
            await asking
        assert len(leader.wanted) == 1

    async def test_an_answer_that_comes_although_it_lost_the_right_counts(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        leader.may_end = anyio.Event()
        asking = asyncio.create_task(other.release())
        await parties.taken()
        parties.run(TAKEN_OVER)
        leader.may_end.set()
        assert await asking == DONE

    async def test_what_its_end_left_is_carried_out_by_nobody_once_more(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        leader.may_end = anyio.Event()
        asking = asyncio.create_task(other.release())
        await parties.taken()
        await leader.stop()
        await leader.passed_on.give_up()
        await leader.lease.close()
        next_one = parties.party("c")
        await next_one.acts()
        with pytest.raises(ServerUnreachable, match=r"stopped before that was over\. .*`history` shows it"):
            await asking
        assert await other.release(TWO) == DONE
        assert [each.session_id for each in (*leader.wanted, *next_one.wanted)] == [ONE, TWO]

    async def test_whoever_is_killed_while_waiting_has_nothing_done_late(self, parties: Parties) -> None:
        leader, _ = await parties.pair()
        wanted = Wanted(kind=OperationKind.RELEASE, session_id=ONE)
        put = "INSERT INTO opencode_watchdog.request (asked_by, asked_at, question) VALUES ('b', $2, $1)"
        long_ago = parties.run("SELECT now() - interval '1 minute'")[0][0]
        parties.cluster.run(put, wanted.dump(), long_ago, database=parties.url.rpartition("/")[2])
        await wait_until(lambda: parties.run(ROWS)[0]["answer"], "an answer")
        assert leader.wanted == []

    async def test_whoever_is_cancelled_takes_it_back_unless_it_was_taken_on(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        await leader.stop()
        asking = asyncio.create_task(other.release())
        await wait_until(lambda: parties.run(ROWS), "the row")
        await cancelled(asking)
        leader.may_end = anyio.Event()
        await leader.acts()
        taken = asyncio.create_task(other.release(TWO))
        await wait_until(lambda: leader.wanted, "what is wanted")
        await cancelled(taken)
        leader.may_end.set()
        await wait_until(lambda: parties.run(ROWS)[1]["answer"], "an answer that nobody waits for")
        assert [each.session_id for each in leader.wanted] == [TWO]

    @pytest.mark.parametrize("lost", ["before", "after"])
    async def test_a_claim_whose_reply_is_lost_is_carried_out_once(
        self, parties: Parties, monkeypatch: pytest.MonkeyPatch, lost: str
    ) -> None:
        monkeypatch.setattr(passed_on, "TAKE_SECONDS", 60)
        leader, other = await parties.pair()
        fetch, losses = leader.line.fetch, [1, 2, 3]

        async def fails(statement: str, *values: object) -> Sequence[Any]:
            if "SET taken_by = $2" in statement and losses:
                losses.pop()
                if lost == "after":
                    await fetch(statement, *values)
                raise DatabaseUnavailable("the reply was lost")
            return await fetch(statement, *values)

        leader.line.fetch = fails  # type: ignore[method-assign]
        assert await other.release() == DONE
        assert (len(leader.wanted), losses) == (1, [])

    async def test_two_at_once_that_hold_the_same_term_do_it_once(self, parties: Parties) -> None:
        leader, other = await parties.pair()
        twin = parties.party("d")
        twin.lease.term = leader.lease.term  # as a replica believes that was stopped, and goes on
        twin.passed_on.answer_for(twin.carry_out)
        twin.task = asyncio.create_task(twin._look())
        for _ in range(5):
            assert await other.release() == DONE
        assert len(leader.wanted) + len(twin.wanted) == 5

    async def test_a_database_that_can_not_be_asked(self, parties: Parties) -> None:
        _, other = await parties.pair()
        await other.engine.dispose()
        other.line._kept._engine = own_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
        with pytest.raises(DatabaseUnavailable, match=r"Whether it was passed on is not known.*`history` shows it"):
            await other.release()


async def cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def errors_of_ours() -> list[type[WatchdogError]]:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, WatchdogError)]
    return sorted(kinds, key=lambda kind: kind.__name__)


class TestWritten:
    @pytest.mark.parametrize("kind", errors_of_ours())
    def test_each_error_comes_back_as_it_was(self, kind: type[WatchdogError]) -> None:
        error = kind.__new__(kind, "a sentence")
        with pytest.raises(kind) as caught:
            read_answer(dump_error(error))
        assert (type(caught.value), str(caught.value)) == (kind, "a sentence")
        assert getattr(caught.value, "holder_pid", None) is None

    def test_an_error_of_another_version_keeps_its_words(self) -> None:
        for name in ("Sequence", "SomethingNew", "__name__"):
            with pytest.raises(ServerError, match="a sentence"):
                read_answer(json.dumps({"error": name, "says": "a sentence"}))

    @pytest.mark.parametrize("answer", [DONE, UNDOING, ()])
    def test_each_answer_comes_back_as_it_was(self, answer: Answer) -> None:
        assert read_answer(dump_answer(answer)) == answer

    def test_what_a_newer_version_says_besides_is_left_out(self) -> None:
        value = json.loads(dump_answer(DONE))
        value["outcomes"][0]["more"] = value["outcomes"][0]["steps"][0]["more"] = 1
        assert read_answer(json.dumps(value)) == DONE

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"outcomes": 1}', '{"undoing": {}}', '{"outcomes": [{}]}']
    )
    def test_an_answer_that_can_not_be_read_says_so(self, text: str) -> None:
        with pytest.raises(ServerAnswerInvalid, match="`history` shows it"):
            read_answer(text)

    def test_what_is_wanted_comes_back_as_it_was(self) -> None:
        wanted = Wanted(kind=OperationKind.RELEASE, session_id=ONE, reason="ü\n", below=True, agreed=(TWO,))
        assert read_wanted(wanted.dump()) == wanted
