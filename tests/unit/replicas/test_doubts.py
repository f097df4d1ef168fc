"""What another replica's host says counts from the moment of the question on, and it looks once more itself."""

import json
import math
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.unit.replicas.test_replicas import BUSY, ONE, TWO, Crew, answered, crew
from watchdog.embedding.host_calls import CallableHost
from watchdog.embedding.host_server import LATEST_MS, EmbeddedServer
from watchdog.errors import ServerAnswerInvalid, ServerDeclined, ServerUnreachable
from watchdog.model.deputies import Deputy
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status, TurnId
from watchdog.ports import Reading
from watchdog.postgres.connection import beside
from watchdog.replicas.publications import Publication, Saying, dump, load
from watchdog.timing.clock import Countable, SystemClock

__all__ = ["crew"]

ASK = Ask(id="1", kind=AskKind.QUESTION, session_id=ONE)


class Wrong(SystemClock):
    """A machine whose wall clock is wrong."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def read(self) -> Reading:
        now = super().read()
        return Reading(
            wall_ms=now.wall_ms + round(self.seconds * 1000),
            awake_seconds=now.awake_seconds,
            running_seconds=now.running_seconds,
        )


class TestFreshAnswers:
    async def test_each_answer_is_from_a_question_that_was_put_after_this_one(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        host = leader.other("b")
        for number in range(30):
            session = SessionId(f"ses_{number}")
            other.host.busy = {session: BUSY}
            assert await host.statuses() == {session: BUSY}
            ask = Ask(id=str(number), kind=AskKind.QUESTION, session_id=session)
            other.host.asks = [ask]
            assert await host.pending_asks() == [ask]

    async def test_what_was_said_before_a_host_hung_is_no_answer(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        host = leader.other("b")
        assert await host.statuses() == {}
        other.host.hangs = True
        with pytest.raises(ServerUnreachable, match="The host of replica b has not answered for"):
            await host.statuses()

    async def test_a_slow_host_is_published_as_soon_as_it_answered(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        clock, statuses = SystemClock(), other.host.statuses

        async def slow() -> dict[SessionId, Status]:
            await clock.sleep(0.8)
            return await statuses()

        other.host.statuses = slow  # type: ignore[method-assign]
        assert await answered(lambda: leader.other("b").statuses()) == {ONE: BUSY}
        for _ in range(3):
            assert await answered(lambda: leader.other("b").statuses()) == {ONE: BUSY}

    async def test_a_wall_clock_that_is_wrong_is_said_and_nothing_counts(self, crew: Crew) -> None:
        leader, other = await crew.join("a"), await crew.join("b", serve=False)
        other.clock = Wrong(120)  # type: ignore[assignment]
        other.replicas = other.made("b", other.server)
        other.serve()
        await leader.sees("b")
        await other.sees("a")
        with pytest.raises(ServerUnreachable, match="replica b is 120 s ahead of this one's: set the clocks"):
            await leader.other("b").statuses()
        with pytest.raises(ServerUnreachable, match="replica a is 120 s behind this one's: set the clocks"):
            await other.other("a").pending_asks()
        other.clock.seconds = 1.0  # type: ignore[attr-defined]
        assert await answered(lambda: leader.other("b").statuses()) == {}


class TestTheLastMoment:
    async def test_a_session_that_it_is_not_at_work_on_is_spared(self, crew: Crew) -> None:
        leader, other = await crew.pair(TWO)
        with pytest.raises(ServerDeclined, match="replica b spared it: it is not at work on it any more"):
            await leader.other("b").abort(leader.other("b").own, ONE)
        assert other.host.aborted == []

    async def test_a_person_who_was_asked_meanwhile_spares_it(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")
        assert isinstance(host, Deputy)
        other.host.asks = [Ask(id="0", kind=AskKind.QUESTION, session_id=TWO), ASK]
        with pytest.raises(ServerDeclined, match="replica b spared it: a person is asked for something in it"):
            await host.abort_unless(host.own, ONE, asks=["2"], life_ms=None)
        assert other.host.aborted == []
        await host.abort_unless(host.own, ONE, asks=["1"], life_ms=None)
        assert other.host.aborted == [ONE]

    async def test_a_sign_of_life_spares_what_rests_on_silence(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        other.host.busy = {ONE: Status(activity=Activity.BUSY, last_life_ms=8)}
        host = leader.other("b")
        with pytest.raises(ServerDeclined, match="replica b spared it: it showed life again"):
            await host.abort_unless(host.own, ONE, asks=[], life_ms=7)
        assert other.host.aborted == []
        await host.abort_unless(host.own, ONE, asks=[], life_ms=8)
        assert other.host.aborted == [ONE]

    async def test_a_replica_that_runs_dry_ends_nothing(self, crew: Crew) -> None:
        leader, other = await crew.join("a"), await crew.join("b", serve=False)
        other.host.busy = {ONE: BUSY}
        other.replicas = other.made("b", other.server, acts=False)
        other.serve()
        await leader.sees("b")
        with pytest.raises(ServerUnreachable, match=r"replica b did not end it\. It makes a dry run"):
            await leader.other("b").abort(leader.other("b").own, ONE)
        assert other.host.aborted == []

    async def test_one_connection_is_enough_for_each_engine(self, crew: Crew) -> None:
        leader, other = await crew.join("a", serve=False), await crew.join("b")
        other.host.busy = {ONE: BUSY}
        given = create_async_engine(crew.url, pool_size=1, max_overflow=0, pool_timeout=1)
        kept = leader.engine, leader.aside
        leader.engine, leader.aside = beside(given), beside(given)
        leader.replicas = leader.made("a", leader.server)
        leader.serve()
        await leader.sees("b")
        await leader.other("b").abort(leader.other("b").own, ONE)
        assert other.host.aborted == [ONE]
        for engine in (given, *kept):
            await engine.dispose()


def hosting(**functions: Any) -> CallableHost:  # noqa: ANN401 - good and bad ones
    return CallableHost(**{"statuses": dict, "pending_asks": list, "abort": lambda _: None, **functions})


class TestOddAnswers:
    @pytest.mark.parametrize(
        ("id_", "change"),
        [
            (1, {}),
            (ONE, {"activity": "asleep"}),
            (ONE, {"retry_at_ms": []}),
            *((ONE, {"last_life_ms": value}) for value in (math.inf, math.nan, 10**400, "1", True, LATEST_MS + 1)),
        ],
    )
    async def test_a_status_that_can_not_be_is_no_answer_and_says_whose(
        self, id_: object, change: dict[str, Any]
    ) -> None:
        values: dict[str, Any] = {"activity": Activity.BUSY}
        answer = {id_: Status(**values | change)}

        server = EmbeddedServer(hosting(statuses=lambda: answer), Countable(SystemClock()))
        with pytest.raises(ServerAnswerInvalid, match=r"the host's statuses .* can't be"):
            await server.statuses()

    @pytest.mark.parametrize(
        "change", [{"id": 1}, {"kind": "question?"}, {"session_id": None}, {"turn_id": 5}, {"call_ref": b"x"}]
    )
    async def test_an_ask_that_can_not_be_is_no_answer_and_says_whose(self, change: dict[str, Any]) -> None:
        values: dict[str, Any] = {"id": "1", "kind": AskKind.QUESTION, "session_id": ONE, "turn_id": TurnId("m")}

        server = EmbeddedServer(hosting(pending_asks=lambda: [Ask(**values | change)]), Countable(SystemClock()))
        with pytest.raises(ServerAnswerInvalid, match=r"the host's pending_asks .* can't be"):
            await server.pending_asks()

    async def test_others_are_told_so_and_no_replica_ends(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        other.host.busy = {ONE: Status(activity=Activity.BUSY, last_life_ms=math.inf)}  # type: ignore[arg-type]
        with pytest.raises(ServerUnreachable, match=r"replica b: the host's statuses .* can't be"):
            await leader.other("b").statuses()
        other.host.busy = {ONE: BUSY}
        assert await answered(lambda: leader.other("b").statuses()) == {ONE: BUSY}

    @pytest.mark.parametrize("value", [math.inf, math.nan, 10**400])
    @pytest.mark.parametrize("place", [0, 1, None])
    def test_what_can_not_be_a_number_is_no_publication(self, place: int | None, value: float) -> None:
        said = json.loads(dump(Publication(process="x", saying=Saying(asked_at=1.0, age_seconds=1.0))))
        if place is None:
            said["clock_ahead_seconds"] = value
        else:
            said["saying"][place] = value
        with pytest.raises(ValueError, match=r".+"):
            load(json.dumps(said))
