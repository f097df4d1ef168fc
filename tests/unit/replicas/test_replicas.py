"""Replicas that say what their hosts do, on a real PostgreSQL: asked, aborted at, cut off, stopped and dead."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.support.postgres import Cluster
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from watchdog.embedding.host_server import EmbeddedServer
from watchdog.errors import (
    DatabaseUnavailable,
    LeaseLost,
    ServerAnswerInvalid,
    ServerDeclined,
    ServerError,
    ServerSilent,
    ServerUnreachable,
)
from watchdog.model.outcome import Row
from watchdog.model.report import EVERYWHERE, Holders, Served, Shown
from watchdog.model.session import EMBEDDED, Activity, Ask, AskKind, SessionId, Status, TurnId
from watchdog.ports import Hosting, Reading
from watchdog.postgres import own
from watchdog.postgres.connection import own_engine
from watchdog.postgres.lease import Lease
from watchdog.postgres.line import Line
from watchdog.replicas import errands
from watchdog.replicas.publications import Claims, Publication, Saying, beginning, dump, load, merged
from watchdog.replicas.register import Heard, Register
from watchdog.replicas.remote import RemoteHost
from watchdog.replicas.replica import Replicas
from watchdog.timing.clock import Countable, SystemClock

PLACE: Final = "/srv/project"
ONE, TWO = SessionId("ses_1"), SessionId("ses_2")
BUSY: Final = Status(activity=Activity.BUSY)
PATIENCE: Final = 60.0
FOR_EVER: Final = 600.0
"""A lease that does not run out during a test."""


class Jumping(SystemClock):
    """The machine's clocks, set ahead by a test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def read(self) -> Reading:
        now = super().read()
        return Reading(
            wall_ms=now.wall_ms,
            awake_seconds=now.awake_seconds + self.ahead,
            running_seconds=now.running_seconds + self.ahead,
        )


class SomeHost:
    """A host whose sessions a test begins. An abort ends one, unless it fails or hangs."""

    def __init__(self) -> None:
        self.busy: dict[SessionId, Status] = {}
        self.asks: list[Ask] = []
        self.aborted: list[SessionId] = []
        self.asked = 0
        self.hangs = False
        self.at_abort: Callable[[], Awaitable[None]] | None = None

    async def statuses(self) -> dict[SessionId, Status]:
        self.asked += 1
        if self.hangs:
            await anyio.sleep_forever()
        return dict(self.busy)

    async def pending_asks(self) -> Sequence[Ask]:
        return list(self.asks)

    async def abort(self, session_id: SessionId) -> None:
        self.aborted.append(session_id)
        if self.at_abort is not None:
            await self.at_abort()
        self.busy.pop(session_id, None)


class Member:
    """One replica: its host, its lease, and a proxy between it and the database."""

    def __init__(self, name: str, url: str, proxy: TcpProxy) -> None:
        self.proxy = proxy
        self.host = SomeHost()
        self.clock = Jumping()
        self.broken = False
        self.limits = {"tool_timeout": "30m"}
        self.engine: AsyncEngine = own_engine(_through(url, proxy))
        self.aside: AsyncEngine = own_engine(_through(url, proxy))
        self.lease_engine: AsyncEngine = own_engine(url)
        self.lease = Lease(self.lease_engine, clock=self.clock, name=name, seconds=FOR_EVER)
        self.server = EmbeddedServer(self.host, Countable(self.clock))
        self.replicas = self.made(name, self.server)
        self.task: asyncio.Task[None] | None = None

    def made(
        self, name: str, server: Hosting | None, *, acts: bool = True, abort_seconds: float = PATIENCE
    ) -> Replicas:
        return Replicas(
            self.engine,
            aside=self.aside,
            own=server,
            name=name,
            clock=self.clock,
            lease=self.lease,
            limits=self.limits,
            acts=acts,
            abort_seconds=abort_seconds,
        )

    def serve(self) -> None:
        self.task = asyncio.create_task(self.replicas.serve())

    async def sees(self, *names: str) -> None:
        """Wait until it knows exactly these others."""
        await wait_until(lambda: self.others() == sorted(names), f"the others {names}", seconds=PATIENCE)

    def others(self) -> list[str]:
        return sorted(each.name.removeprefix("replica ") for each in self.remote())

    def remote(self) -> list[RemoteHost]:
        return [each for each in self.replicas.servers() if isinstance(each, RemoteHost)]

    def other(self, name: str) -> RemoteHost:
        return next(each for each in self.remote() if each.name == f"replica {name}")

    async def stop(self) -> None:
        if (task := self.task) is not None:
            self.task = None
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError), anyio.fail_after(PATIENCE):
                await task


class Crew:
    """Replicas of one server on one database. A context manager that stops them."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        self.url = url
        self.members: list[Member] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            member.proxy.thaw()
            await member.stop()
            await member.lease.close()
            await member.engine.dispose()
            await member.aside.dispose()
            await member.lease_engine.dispose()
            await member.proxy.__aexit__(None, None, None)

    async def join(self, name: str, *, serve: bool = True) -> Member:
        """A new replica; the first one has the lease."""
        proxy = await TcpProxy(self.cluster.port).__aenter__()
        member = Member(name, self.url, proxy)
        self.members.append(member)
        await member.lease.open()
        if serve:
            member.serve()
        return member

    async def pair(self, *sessions: SessionId) -> tuple[Member, Member]:
        """A leader, and another replica that it sees, which is at work on some sessions."""
        leader, other = await self.join("a"), await self.join("b")
        other.host.busy = dict.fromkeys(sessions, BUSY)
        await leader.sees("b")
        return leader, other

    def run(self, statement: str, *values: object) -> list[Any]:
        return self.cluster.run(statement, *values, database=self.url.rpartition("/")[2])

    def names(self) -> list[str]:
        return [row[0] for row in self.run("SELECT name FROM opencode_watchdog.replica ORDER BY name")]

    def age(self, name: str, seconds: float) -> None:
        """Let a replica's last publication be older than it is."""
        self.run(
            "UPDATE opencode_watchdog.replica SET seen_at = seen_at - make_interval(secs => $2) WHERE name = $1",
            name,
            seconds,
        )

    def errands(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.run("SELECT * FROM opencode_watchdog.errand ORDER BY id")]

    def at_claim(self, member: Member, act: Callable[[], None]) -> None:
        """Do something right before a replica sends the claim of an errand."""
        line = member.replicas._line
        fetch = line.fetch

        async def watched(statement: str, *values: object) -> Sequence[Any]:
            if "RETURNING errand.term" in statement:
                line.fetch = fetch  # type: ignore[method-assign]
                act()
            return await fetch(statement, *values)

        line.fetch = watched  # type: ignore[method-assign]

    async def claimed(self, leader: Member, other: Member) -> asyncio.Task[None]:
        """Ask for an abort whose claim reaches the database while its reply does not come back."""
        other.host.busy = {ONE: BUSY, TWO: BUSY}
        await leader.other("b").abort(leader.other("b").own, TWO)  # so that the statement is prepared
        other.host.aborted.clear()
        self.at_claim(other, other.proxy.freeze_answers)
        asking = asyncio.create_task(leader.other("b").abort(leader.other("b").own, ONE))
        await wait_until(lambda: len(self.errands()) == 2 and self.errands()[1]["answer"], "it", seconds=PATIENCE)
        assert other.host.aborted == []
        return asking

    async def silence(self, member: Member) -> None:
        """Cut a replica off. Nothing of it is on its way to the database any more."""
        member.proxy.freeze()
        await wait_until(lambda: member.proxy.kept_back, "something that is kept back", seconds=PATIENCE)


def _through(url: str, proxy: TcpProxy) -> str:
    before, _, rest = url.rpartition(":")
    return f"{before}:{proxy.port}/{rest.rpartition('/')[2]}"


@pytest.fixture
async def crew(postgres: Cluster, postgres_url: str) -> AsyncIterator[Crew]:
    async with Crew(postgres, postgres_url) as crew:
        yield crew


@pytest.fixture
async def fragile(own_cluster: Cluster) -> AsyncIterator[Crew]:
    """On a server that a test may stop."""
    async with Crew(own_cluster, own_cluster.fresh_database()) as crew:
        yield crew


async def answered(work: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
    """The first answer that is none of a server in trouble."""

    async def ask() -> list[Any] | None:
        try:
            return [await work()]
        except ServerError:
            return None

    return (await wait_until(ask, "an answer", seconds=PATIENCE))[0]


async def refused(work: Callable[[], Awaitable[Any]], words: str) -> ServerError:
    """The first refusal with these words in it."""

    async def ask() -> ServerError | None:
        try:
            await work()
        except ServerError as error:
            return error if words in str(error) else None
        return None

    return await wait_until(ask, words, seconds=PATIENCE)


class TestWhatIsSaid:
    async def test_others_see_what_a_host_is_at_work_on_and_who_is_asked(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        retrying = Status(activity=Activity.RETRY, retry_at_ms=5, last_life_ms=7)
        other.host.busy = {ONE: BUSY, TWO: retrying}
        full = Ask(id="1", kind=AskKind.QUESTION, session_id=ONE, turn_id=TurnId("msg_1"), call_ref="call_1")
        bare = Ask(id="2", kind=AskKind.PERMISSION, session_id=TWO)
        other.host.asks = [full, bare]
        host = leader.other("b")
        assert await host.statuses() == {ONE: BUSY, TWO: retrying}
        assert sorted(await host.pending_asks(), key=lambda ask: ask.id) == [full, bare]
        assert host.life() == {}
        await other.sees("a")
        assert await other.other("a").statuses() == {}

    async def test_another_replica_is_a_server_like_the_own_host(self, crew: Crew) -> None:
        leader, _ = await crew.pair()
        own_host, host = leader.replicas.servers()
        assert (own_host.name, host.name) == (EMBEDDED, "replica b")
        assert (host.leads_to, host.witness(), host.busy_directories()) == ((), None, ())
        assert await host.vouches()
        assert host.own == Served(server=host.name, by=Shown.HOST)
        assert await host.readable(host.own, ONE, EVERYWHERE)
        host.forget([])
        row = Row(table="part", id="1", message_id=TurnId("m"), session_id=ONE, created_ms=1, updated_ms=1, data="{}")
        await host.publish(host.own, row, PLACE)
        with pytest.raises(ServerAnswerInvalid, match="turns down its asks itself"):
            await host.reject(host.own, Ask(id="1", kind=AskKind.QUESTION, session_id=ONE), PLACE)
        with pytest.raises(ServerAnswerInvalid, match="deletes its messages itself"):
            await host.delete_message(host.own, ONE, "msg_1", PLACE)

    async def test_only_the_claims_that_changed_are_written_and_read(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        host, many = leader.other("b"), [SessionId(f"ses_{number}") for number in range(500)]
        other.host.busy = dict.fromkeys(many, BUSY)
        assert await host.statuses() == dict.fromkeys(many, BUSY)
        revisions = "SELECT revision, count(*) FROM opencode_watchdog.claim GROUP BY revision ORDER BY revision"
        ((first, written),) = crew.run(revisions)
        assert written == 500
        learned: list[str] = []
        learn = leader.replicas._register._learn

        async def noted(row: Any) -> None:  # noqa: ANN401
            learned.append(row["changes"])
            await learn(row)

        leader.replicas._register._learn = noted  # type: ignore[method-assign]
        other.host.busy = dict.fromkeys(many[1:], BUSY)
        other.host.asks = [Ask(id="1", kind=AskKind.QUESTION, session_id=ONE)]
        assert await host.statuses() == other.host.busy
        assert await host.pending_asks() == other.host.asks
        assert [tuple(row) for row in crew.run(revisions)] == [(first, 498), (first + 1, 2)]
        changed = [each for each in map(json.loads, learned) if each]
        assert [each.keys() for each in changed] == [{many[0], ONE}]
        assert await host.statuses() == other.host.busy
        assert len([each for each in learned if each != "{}"]) == 1

    async def test_a_claim_that_was_lost_on_its_way_is_made_again(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host, register = leader.other("b"), other.replicas._register
        assert await host.statuses() == {ONE: BUSY}
        publish = register.publish

        async def loses_the_answer(*values: Any, **more: Any) -> bool:  # noqa: ANN401
            register.publish = publish  # type: ignore[method-assign]
            assert await publish(*values, **more)
            raise DatabaseUnavailable("cut")

        register.publish = loses_the_answer  # type: ignore[method-assign]
        other.host.busy = {TWO: BUSY}
        await wait_until(lambda: register.publish is publish, "the loss", seconds=PATIENCE)
        other.host.busy = {ONE: BUSY}
        assert await answered(host.statuses) == {ONE: BUSY}
        late = "SELECT count(*) FROM opencode_watchdog.claim JOIN opencode_watchdog.edition USING (edition)"
        await wait_until(lambda: crew.run(late)[0][0] == 1, "that the old edition is gone", seconds=PATIENCE)

    async def test_a_database_that_lost_the_last_claims_is_told_all_of_them_again(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")
        assert await host.statuses() == {ONE: BUSY}
        before = crew.run("SELECT max(revision) FROM opencode_watchdog.edition WHERE process = $1", host.process)
        other.host.busy = {TWO: BUSY}
        assert await host.statuses() == {TWO: BUSY}
        crew.run(  # as after a switch to a copy of the database that lags behind
            "UPDATE opencode_watchdog.edition SET revision = $2 WHERE process = $1", host.process, before[0][0]
        )
        crew.run("UPDATE opencode_watchdog.claim SET revision = 0, said = $1 WHERE session_id = $2", "null", TWO)
        assert await answered(host.statuses) == {TWO: BUSY}

    async def test_sessions_that_are_over_do_not_stay_for_ever(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        for number in range(3):
            other.host.busy = {SessionId(f"ses_{number}_{each}"): BUSY for each in range(700)}
            assert await leader.other("b").statuses() == other.host.busy
        other.host.busy = {ONE: BUSY}
        assert await leader.other("b").statuses() == {ONE: BUSY}
        count = "SELECT count(*) FROM opencode_watchdog.claim"
        await wait_until(lambda: crew.run(count)[0][0] < 10, "that they are forgotten", seconds=PATIENCE)
        assert await answered(leader.other("b").statuses) == {ONE: BUSY}

    async def test_whatever_a_session_is_called_it_is_claimed(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        odd = [SessionId(each) for each in ("", "\x00", "\ud800", 'a"b\\', "ü🐕", "null")]
        other.host.busy = dict.fromkeys(odd, BUSY)
        other.host.asks = [Ask(id="\x00", kind=AskKind.QUESTION, session_id=each) for each in odd]
        assert await leader.other("b").statuses() == other.host.busy
        assert sorted(ask.session_id for ask in await leader.other("b").pending_asks()) == sorted(odd)

    async def test_a_session_that_begins_and_one_that_ends_are_seen(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        host = leader.other("b")
        assert await host.statuses() == {}
        other.host.busy = {ONE: BUSY}

        async def busy() -> bool:
            return ONE in await host.statuses()

        async def idle() -> bool:
            return ONE not in await host.statuses()

        await wait_until(busy, "that it is at work", seconds=PATIENCE)
        other.host.busy.clear()
        await wait_until(idle, "that it is idle", seconds=PATIENCE)

    async def test_a_host_that_hangs_is_no_idle_one(self, crew: Crew) -> None:
        leader, other = await crew.join("a"), await crew.join("b", serve=False)
        other.host.hangs = True
        other.serve()
        await leader.sees("b")
        host = leader.other("b")
        with pytest.raises(ServerUnreachable, match="replica b has not said yet"):
            await host.statuses()
        error = await refused(host.statuses, "could not answer within 5 s")
        assert str(error).startswith("replica b: the host's statuses")
        other.host.hangs = False
        assert await answered(host.statuses) == {}

    async def test_a_host_that_answered_once_and_hangs_since_grows_old(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        host = leader.other("b")
        assert await host.statuses() == {}
        other.host.hangs = True
        await refused(host.statuses, "The host of replica b has not answered for")

    async def test_a_host_that_raises_is_a_sentence_without_its_words(self, crew: Crew) -> None:
        leader, other = await crew.pair()

        async def fails() -> dict[SessionId, Status]:
            raise RuntimeError("secret")

        other.host.statuses = fails  # type: ignore[method-assign]
        error = await refused(lambda: leader.other("b").statuses(), "RuntimeError")
        assert "secret" not in str(error)
        assert "replica b: the host's statuses" in str(error)

    async def test_a_replica_without_a_host_asks_and_publishes_nothing(self, crew: Crew) -> None:
        other = await crew.join("b")
        other.host.busy = {ONE: BUSY}
        reader = await crew.join("reader", serve=False)
        reader.replicas = reader.made("reader", None)
        reader.serve()
        await reader.sees("b")
        assert await answered(lambda: reader.other("b").statuses()) == {ONE: BUSY}
        assert crew.names() == ["b"]


class TestWhoIsThere:
    async def test_before_anything_was_read_somebody_may_be_there_who_does_not_answer(self, crew: Crew) -> None:
        member = await crew.join("a", serve=False)
        member.proxy.freeze()
        member.serve()
        _, unknown = member.replicas.servers()
        assert unknown.name == "the other replicas"
        with pytest.raises(ServerUnreachable, match="can't be read from the database"):
            await unknown.statuses(EVERYWHERE)
        member.proxy.thaw()
        await member.sees()

    async def test_a_look_that_discovers_knows_who_came(self, crew: Crew) -> None:
        leader = await crew.join("a")
        await leader.sees()
        crew.run(
            "INSERT INTO opencode_watchdog.replica VALUES ('b', clock_timestamp(), $1)",
            dump(Publication(process="x")),
        )
        leader.clock.ahead += 2
        await leader.replicas.discover(Holders(known=(), complete=True))
        assert leader.others() == ["b"]

    async def test_one_that_stops_is_gone_at_once(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        host = leader.other("b")
        await other.stop()
        assert crew.names() == ["a"]
        await leader.sees()
        with pytest.raises(ServerUnreachable, match="replica b was stopped or restarted"):
            await host.statuses()

    async def test_one_that_is_cut_off_answers_nothing_and_then_is_gone(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        other.host.busy = {ONE: BUSY}
        host = leader.other("b")
        assert await host.statuses() == {ONE: BUSY}
        await crew.silence(other)
        crew.age("b", 5)
        await refused(host.statuses, "replica b was not heard of for")
        assert leader.others() == ["b"]
        crew.age("b", 6)
        await leader.sees()
        other.proxy.thaw()
        await leader.sees("b")
        assert await answered(lambda: leader.other("b").statuses()) == {ONE: BUSY}

    async def test_another_process_of_the_same_name_is_another_replica(self, crew: Crew) -> None:
        first = await crew.join("same")
        await wait_until(lambda: crew.names() == ["same"], "the first one", seconds=PATIENCE)
        first.host.busy = {ONE: BUSY}
        with capture_logs() as logs:
            second = await crew.join("same")
            await wait_until(lambda: first.others() and second.others(), "each other", seconds=PATIENCE)
        assert [each["event"] for each in logs if each["log_level"] == "warning"] == ["replicas.name_taken"]
        assert await second.other("same").statuses() == {ONE: BUSY}
        assert len(crew.names()) == 2
        second.host.busy = {TWO: BUSY}
        await first.remote()[0].abort(first.remote()[0].own, TWO)
        assert (first.host.aborted, second.host.aborted) == ([], [TWO])
        await second.stop()
        assert crew.names() == ["same"]

    async def test_one_that_is_started_anew_is_another_one(self, crew: Crew) -> None:
        leader, other = await crew.pair()
        before = leader.other("b")
        await crew.silence(other)
        crew.age("b", 11)
        anew = await crew.join("b")
        await wait_until(lambda: leader.others() == ["b"] and leader.other("b") is not before, "it", seconds=PATIENCE)
        assert crew.names() == ["a", "b"]
        with pytest.raises(ServerUnreachable, match="replica b was stopped or restarted"):
            await before.statuses()
        assert await answered(lambda: leader.other("b").statuses()) == {}
        assert anew.host.asked

    async def test_only_the_one_that_acts_removes_what_is_old(self, crew: Crew) -> None:
        leader = await crew.join("a", serve=False)
        other = await crew.join("b")
        said = dump(Publication(process="x"))
        for name, age in (("old", "25 hours"), ("young", "23 hours")):
            crew.run(
                "INSERT INTO opencode_watchdog.replica VALUES ($1, clock_timestamp() - $2::text::interval, $3)",
                name,
                age,
                said,
            )
            crew.run(
                "INSERT INTO opencode_watchdog.errand (replica, term, asked_at, question)"
                " VALUES ($1, 0, clock_timestamp() - $2::text::interval, '')",
                name,
                age,
            )
        await wait_until(lambda: crew.names() == ["b", "old", "young"], "the other one", seconds=PATIENCE)
        other.clock.ahead += 2
        await other.replicas.discover(Holders(known=(), complete=True))
        assert crew.names() == ["b", "old", "young"]
        assert other.others() == []
        leader.serve()
        await wait_until(lambda: crew.names() == ["a", "b", "young"], "that it is removed", seconds=PATIENCE)
        await wait_until(
            lambda: [each["replica"] for each in crew.errands()] == ["young"], "the same", seconds=PATIENCE
        )


class TestAborts:
    async def test_it_is_carried_out_once_by_the_one_that_runs_the_session(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        third = await crew.join("c")
        await leader.sees("b", "c")
        other.host.busy = {ONE: BUSY}
        host = leader.other("b")
        assert await host.statuses() == {ONE: BUSY}
        await host.abort(host.own, ONE)
        assert await host.statuses() == {}
        assert other.host.aborted == [ONE]
        assert leader.host.aborted == third.host.aborted == []
        (errand,) = crew.errands()
        assert (errand["replica"], errand["term"]) == ("b", leader.lease.term)

    async def test_what_is_said_after_an_abort_was_asked_after_it(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")
        for number in range(20):
            session = SessionId(f"ses_{number}")
            other.host.busy = {session: BUSY}
            await host.abort(host.own, session)
            assert session not in await answered(host.statuses)

    async def test_what_was_said_before_an_abort_is_no_answer_after_it(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")
        assert await host.statuses() == {ONE: BUSY}

        async def says_nothing_more() -> None:
            other.host.hangs = True

        other.host.at_abort = says_nothing_more
        await host.abort(host.own, ONE)
        with pytest.raises(ServerUnreachable, match="has not answered for"):
            await host.statuses()

    async def test_one_that_changes_nothing_leaves_the_session_at_work(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")

        async def begins_anew() -> None:
            asyncio.get_running_loop().call_soon(other.host.busy.update, {ONE: BUSY})

        other.host.at_abort = begins_anew
        await host.abort(host.own, ONE)
        assert await host.statuses() == {ONE: BUSY}

    async def test_a_host_that_raises_is_the_answer(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)

        async def fails() -> None:
            raise RuntimeError("secret")

        other.host.at_abort = fails
        with pytest.raises(ServerUnreachable) as caught:
            await leader.other("b").abort(leader.other("b").own, ONE)
        assert str(caught.value).startswith("replica b did not end it. the host's abort (")
        assert "RuntimeError at test_replicas.py" in str(caught.value)
        assert "secret" not in str(caught.value)

    async def test_several_at_once_do_not_wait_for_one_that_hangs(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        hangs, host = anyio.Event(), leader.other("b")
        more = [SessionId(f"ses_more_{number}") for number in range(5)]
        other.host.busy = dict.fromkeys([ONE, *more], BUSY)

        async def first_hangs() -> None:
            if len(other.host.aborted) == 1:
                await hangs.wait()

        other.host.at_abort = first_hangs
        async with anyio.create_task_group() as group:
            group.start_soon(host.abort, host.own, ONE)
            await wait_until(lambda: other.host.aborted, "the first one", seconds=PATIENCE)
            async with anyio.create_task_group() as rest:
                for session in more:
                    rest.start_soon(host.abort, host.own, session)
            hangs.set()
        assert len(other.host.aborted) == len(set(other.host.aborted)) == 6

    async def test_one_whom_another_watchdog_replaced_asks_nothing(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        await other.sees("a")
        host = leader.other("b")
        crew.run("UPDATE opencode_watchdog.lease SET holder = 'b', term = term + 1")
        with pytest.raises(LeaseLost):
            await host.abort(host.own, ONE)
        with pytest.raises(LeaseLost):
            await other.other("a").abort(other.other("a").own, ONE)
        assert crew.errands() == []

    async def test_what_was_asked_before_another_watchdog_took_over_is_refused(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        await crew.silence(other)
        asking = asyncio.create_task(leader.other("b").abort(leader.other("b").own, ONE))
        await wait_until(crew.errands, "the errand", seconds=PATIENCE)
        crew.run("UPDATE opencode_watchdog.lease SET holder = 'c', term = term + 1")
        other.proxy.thaw()
        with pytest.raises(ServerUnreachable, match=r"replica b did not end it\. Another watchdog took over"):
            await asking
        assert other.host.aborted == []

    async def test_what_was_asked_too_long_ago_is_refused(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        await crew.silence(other)
        asking = asyncio.create_task(leader.other("b").abort(leader.other("b").own, ONE))
        await wait_until(crew.errands, "the errand", seconds=PATIENCE)
        crew.run("UPDATE opencode_watchdog.errand SET asked_at = asked_at - interval '61 s'")
        other.proxy.thaw()
        with pytest.raises(ServerUnreachable, match=r"It was asked more than \d+(\.\d)? s ago"):
            await asking
        assert other.host.aborted == []

    async def test_a_process_that_stood_still_since_it_claimed_it_refuses_it(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        asking = await crew.claimed(leader, other)
        other.clock.ahead += 61
        other.proxy.thaw()
        with pytest.raises(ServerUnreachable, match=r"It was asked more than \d+(\.\d)? s ago"):
            await asking
        assert other.host.aborted == []

    async def test_nobody_waits_for_ever_for_an_answer(self, crew: Crew) -> None:
        leader, other = await crew.join("a", serve=False), await crew.join("b")
        leader.replicas = leader.made("a", leader.server, abort_seconds=0.5)
        leader.serve()
        await leader.sees("b")
        await crew.silence(other)
        with pytest.raises(ServerSilent, match=r"replica b did not answer within 0\.5 s"):
            await leader.other("b").abort(leader.other("b").own, ONE)
        old = "SELECT clock_timestamp() - asked_at > interval '0.5 s' FROM opencode_watchdog.errand"
        await wait_until(lambda: crew.run(old)[0][0], "that it is too old", seconds=PATIENCE)
        other.proxy.thaw()
        await wait_until(lambda: "s ago" in (crew.errands()[0]["answer"] or ""), "the refusal", seconds=PATIENCE)
        assert other.host.aborted == []

    async def test_what_can_not_be_read_is_answered_all_the_same(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        crew.run(
            "INSERT INTO opencode_watchdog.errand (replica, term, asked_at, question)"
            " VALUES ('b', $1, clock_timestamp(), '{\"other\": 1}')",
            leader.lease.term,
        )
        await wait_until(
            lambda: "different versions" in (crew.errands()[0]["answer"] or ""), "an answer", seconds=PATIENCE
        )
        assert other.host.aborted == []

    async def test_an_answer_that_can_not_be_read_is_none(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        await crew.silence(other)
        asking = asyncio.create_task(leader.other("b").abort(leader.other("b").own, ONE))
        await wait_until(crew.errands, "the errand", seconds=PATIENCE)
        crew.run("UPDATE opencode_watchdog.errand SET answer = '[1]'")
        with pytest.raises(ServerAnswerInvalid, match="different versions"):
            await asking


class TestTrouble:
    async def test_a_claim_whose_reply_is_lost_is_carried_out_once(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        asking = await crew.claimed(leader, other)
        assert other.host.aborted == []
        other.proxy.cut()
        other.proxy.thaw()
        await asking
        assert other.host.aborted == [ONE]

    async def test_a_connection_that_is_cut_between_abort_and_answer_changes_nothing(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)

        async def cut() -> None:
            other.proxy.cut()

        other.host.at_abort = cut
        await leader.other("b").abort(leader.other("b").own, ONE)
        assert other.host.aborted == [ONE]

    async def test_one_that_is_stopped_while_it_carries_it_out_says_so(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        asking = await self.under_way(leader, other)
        await other.stop()
        with pytest.raises(ServerUnreachable, match=r"replica b did not end it\. It was stopped in the meantime"):
            await asking
        assert crew.names() == ["a"]

    async def test_what_another_process_of_that_name_claimed_is_carried_out_by_nobody(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        asking = await self.under_way(leader, other)
        await crew.silence(other)
        crew.age("b", 11)
        anew = await crew.join("b")
        before = leader.other("b") if leader.others() else None
        await wait_until(
            lambda: leader.others() == ["b"] and leader.other("b") is not before, "the new one", seconds=PATIENCE
        )
        anew.host.busy = {TWO: BUSY}
        await leader.other("b").abort(leader.other("b").own, TWO)
        assert anew.host.aborted == [TWO]
        assert other.host.aborted == [ONE]
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking

    async def under_way(self, leader: Member, other: Member) -> asyncio.Task[None]:
        """Ask for an abort that the host begins and does not end."""
        reached = anyio.Event()

        async def hangs() -> None:
            reached.set()
            await anyio.sleep_forever()

        other.host.at_abort = hangs
        asking = asyncio.create_task(leader.other("b").abort(leader.other("b").own, ONE))
        await reached.wait()
        return asking

    async def test_without_notifications_it_takes_a_little_longer(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        for member in (leader, other):
            line = member.replicas._line
            async with line._turn:
                await (await line._kept.driver()).execute("UNLISTEN *")
        other.host.busy = {ONE: BUSY}
        host = leader.other("b")
        assert await answered(host.statuses) == {ONE: BUSY}
        await host.abort(host.own, ONE)
        assert await answered(host.statuses) == {}
        assert other.host.aborted == [ONE]

    async def test_a_restart_of_the_server_is_said_once_and_outlived(self, fragile: Crew) -> None:
        leader, other = await fragile.pair()
        host = leader.other("b")
        assert await host.statuses() == {}
        with capture_logs() as logs:
            fragile.cluster.stop("immediate")
            await refused(host.statuses, "can't be read from the database")
            with pytest.raises(ServerUnreachable, match="could not be passed on to replica b"):
                await host.abort(host.own, ONE)

            def said_by_both() -> bool:
                return [each["event"] for each in logs].count("replicas.read.failing") == 2

            await wait_until(said_by_both, "what both say", seconds=PATIENCE)
            fragile.cluster.start()
            other.host.busy = {ONE: BUSY}

            async def busy() -> bool:
                return ONE in await answered(lambda: leader.other("b").statuses())

            await wait_until(busy, "that it is at work", seconds=PATIENCE)

            def over() -> bool:
                events = [each["event"] for each in logs]
                failing = [event for event in events if event.endswith(".failing")]
                return len(failing) == len([event for event in events if event.endswith(".working")])

            await wait_until(over, "the end of each episode", seconds=PATIENCE)
        assert leader.other("b") is host
        await host.abort(host.own, ONE)
        assert await answered(host.statuses) == {}
        events = [each["event"] for each in logs]
        for event in ("replicas.read.failing", "replicas.read.working"):
            assert events.count(event) == 2, events  # once for each of the two
        assert events.count("replicas.publish.failing") == events.count("replicas.publish.working") <= 2, events

    async def test_a_database_that_takes_no_more_connections_is_waited_for(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")
        database = crew.url.rpartition("/")[2]
        crew.run(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
        leader.proxy.cut()
        error = await refused(host.statuses, "can't be read from the database")
        assert "replica b" in str(error)
        with pytest.raises(ServerUnreachable, match="too many connections"):
            await host.abort(host.own, ONE)
        crew.run(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        assert await answered(host.statuses) == {ONE: BUSY}
        await host.abort(host.own, ONE)
        assert other.host.aborted == [ONE]

    async def test_a_database_that_stands_still_is_given_up_and_holds_up_no_stop(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")
        assert await host.statuses() == {ONE: BUSY}
        await crew.silence(leader)
        await refused(host.statuses, "can't be read from the database")
        with pytest.raises(ServerUnreachable, match="did not answer in time"):
            await host.abort(host.own, ONE)
        await leader.stop()
        assert crew.errands() == []
        assert other.host.aborted == []

    async def test_questions_that_are_given_up_leave_nothing_behind(self, crew: Crew) -> None:
        leader, other = await crew.pair(ONE)
        host = leader.other("b")
        given_up = [SessionId(f"ses_given_up_{number}") for number in range(30)]
        other.host.busy |= dict.fromkeys(given_up, BUSY)
        for number, session in enumerate(given_up):
            with anyio.move_on_after(number / 100):
                await host.statuses()
            with anyio.move_on_after(number / 100):
                await host.abort(host.own, session)
        assert ONE in await answered(host.statuses)
        await host.abort(host.own, ONE)
        assert len(other.host.aborted) == len(set(other.host.aborted))

        def connections() -> list[Any]:
            statement = (
                "SELECT state, query, now() - state_change FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = 'opencode'"
            )
            return [tuple(row) for row in crew.run(statement)]

        await wait_until(
            lambda: len(connections()) <= 6,
            "two lines, two leases, and what the pools keep",
            seconds=PATIENCE,
            explain=lambda: repr(connections()),
        )

    async def test_an_error_of_the_program_is_said_and_ends_nothing(self, crew: Crew) -> None:
        leader, other = await crew.join("a"), await crew.join("b", serve=False)

        class Broken(EmbeddedServer):
            async def statuses(self, directory: str = EVERYWHERE) -> dict[SessionId, Status]:  # noqa: ARG002
                if other.broken:
                    raise KeyError("secret")
                return {ONE: BUSY}

        other.replicas = other.made("b", Broken(other.host, Countable(other.clock)))
        errors, other.broken = [], True
        with capture_logs() as logs:
            other.serve()
            await leader.sees("b")
            host = leader.other("b")
            for _ in range(3):
                errors.append(await refused(host.statuses, "KeyError at test_replicas"))
                with pytest.raises(ServerDeclined, match="KeyError"):
                    await host.abort(host.own, ONE)
            other.broken = False
            assert await answered(host.statuses) == {ONE: BUSY}
        said = [each for each in logs if each["log_level"] == "error"]
        assert [each["event"] for each in said] == ["replicas.ask.failing", "errand.failing"]
        assert all("KeyError at test_replicas.py:" in each["why"] for each in said)
        assert "secret" not in f"{said} {errors}"

    @pytest.mark.parametrize("loop", ["_register.read", "_publisher._publish"])
    async def test_an_error_of_the_program_in_a_loop_is_said_once_and_the_loop_goes_on(
        self, crew: Crew, loop: str
    ) -> None:
        leader, other = await crew.pair(ONE)
        where, _, name = loop.partition(".")
        broken = getattr(other.replicas, where)
        works, failures = getattr(broken, name), 0

        async def fails(**_: object) -> None:
            nonlocal failures
            failures += 1
            raise OverflowError("secret")

        with capture_logs() as logs:
            setattr(broken, name, fails)
            await wait_until(lambda: failures >= 3, "failures", seconds=PATIENCE)
            setattr(broken, name, works)
            assert await answered(lambda: leader.other("b").statuses()) == {ONE: BUSY}
            await wait_until(lambda: any("working" in each["event"] for each in logs), "its end", seconds=PATIENCE)
        (said,) = [each for each in logs if each["log_level"] == "error"]
        assert "OverflowError at test_replicas.py:" in said["why"]
        assert "secret" not in str(said)


async def publish(register: Register, publication: Publication | None = None) -> bool:
    said = publication or Publication(process="x", edition="x.1", revision=0)
    return await register.publish("b", said, "{}", after=-1)


class TestRegister:
    @pytest.fixture
    async def line(self, postgres_url: str) -> AsyncIterator[Line]:
        engine = own_engine(postgres_url)
        await own.prepare(engine)
        line = Line(engine, channel="x", heard=lambda _: None)
        yield line
        await line.close()
        await engine.dispose()

    async def test_after_an_outage_everybody_has_the_time_to_say_something(self, line: Line) -> None:
        clock = Jumping()
        register = Register(line, clock)
        assert await publish(register)
        assert not await self.there(register) - {"b"}
        await self.make_old(line)
        clock.ahead += 60  # the outage
        assert await self.there(register) == {"b"}
        for _ in range(4):
            clock.ahead += 2
            assert await self.there(register) == {"b"}
        clock.ahead += 2
        assert await self.there(register) == set()
        assert register.heard.keys() == {"b"}

    async def test_while_it_can_be_read_a_silent_one_is_gone_in_time(self, line: Line) -> None:
        clock = Jumping()
        register = Register(line, clock)
        await publish(register)
        for _ in range(6):
            assert await self.there(register) == {"b"}
            clock.ahead += 2
        await self.make_old(line)
        assert await self.there(register) == set()

    async def test_one_that_was_silent_when_a_process_began_to_read_is_there_and_does_not_answer(
        self, crew: Crew
    ) -> None:
        said = dump(Publication(process="x"))
        leader = await crew.join("a", serve=False)
        for name, seconds in (("b", 12), ("gone", 150)):
            crew.run(
                "INSERT INTO opencode_watchdog.replica VALUES ($1, clock_timestamp() - $2::int * interval '1 s', $3)",
                name,
                seconds,
                said,
            )
        leader.serve()
        await leader.sees("b")
        host = leader.other("b")
        with pytest.raises(ServerUnreachable, match="replica b was not heard of for"):
            await host.statuses()
        await leader.sees()
        with pytest.raises(ServerUnreachable, match="replica b was not heard of for"):
            await host.statuses()

    async def test_what_was_held_up_on_its_way_replaces_nothing_newer(self, line: Line) -> None:
        clock = Jumping()
        register = Register(line, clock)
        await register.read()
        late = Publication(process="x", edition="late", revision=0)
        assert await publish(register)
        clock.ahead -= 5  # as if it had been put together five seconds ago
        assert not await publish(register, late)
        await register.read()
        assert register.heard["b"].publication == Publication(process="x", edition="x.1", revision=0)

    async def test_what_is_published_late_is_as_old_as_it_is(self, line: Line) -> None:
        clock = Jumping()
        register = Register(line, clock)
        await register.read()
        clock.ahead -= 5
        await publish(register)
        clock.ahead += 5
        await register.read()
        assert 5 <= register.heard["b"].age_seconds < 5 + PATIENCE

    async def test_a_clock_of_the_database_that_is_set_back_stops_nobody(self, line: Line) -> None:
        register = Register(line, Jumping())
        await publish(register)
        await line.fetch("UPDATE opencode_watchdog.replica SET seen_at = seen_at + interval '1 hour'")
        await register.read()
        assert register.heard["b"].age_seconds > 3000
        assert register.present == {}
        assert await publish(register)
        assert await self.there(register) == {"b"}

    async def test_what_another_version_published_is_somebody_who_can_not_be_understood(self, crew: Crew) -> None:
        leader = await crew.join("a")
        for name, said in (("b", "not JSON"), ("c", "[]"), ("d", '{"process": "x"}')):
            crew.run("INSERT INTO opencode_watchdog.replica VALUES ($1, clock_timestamp(), $2)", name, said)
        await leader.sees("b", "c", "d")
        for host in leader.remote():
            with pytest.raises(ServerAnswerInvalid, match=f"What {host.name} published can't be read"):
                await host.statuses()
            assert host.life() == {}

    async def there(self, register: Register) -> set[str]:
        await register.read()
        return set(register.present)

    async def make_old(self, line: Line) -> None:
        await line.fetch("UPDATE opencode_watchdog.replica SET seen_at = seen_at - interval '1 minute'")


class TestPublications:
    def test_they_are_read_as_they_were_written(self) -> None:
        for saying in (None, Saying(asked_at=3.25, age_seconds=0.5), Saying(asked_at=4.0, problem="It hangs.\ud800")):
            said = Publication(process="x", edition="x.1", revision=7, saying=saying, clock_ahead_seconds=-0.5)
            assert load(dump(said)) == said
            assert dump(said).startswith(beginning("x"))
            assert dump(said).isascii()

    @pytest.mark.parametrize(
        "change", [{"saying": {}}, {"saying": [1]}, {"saying": [[], 1, None]}, {"revision": "x"}, {"edition": None}]
    )
    def test_what_is_none_is_refused(self, change: dict[str, Any]) -> None:
        value = json.loads(dump(Publication(process="x"))) | change
        if change == {"edition": None}:
            del value["edition"]
        with pytest.raises(ValueError, match=r".+"):
            load(json.dumps(value))

    @pytest.mark.parametrize(
        "changes",
        [
            "[]",
            '{"a": []}',
            '{"a": "[]"}',
            '{"a": "[[\\"asleep\\", null, null], []]"}',
            '{"a": "[[\\"busy\\", \\"soon\\", null], []]"}',
            '{"a": "[null, [[\\"1\\", \\"question\\"]]]"}',
            '{"\\\\": null}',
        ],
    )
    async def test_claims_that_are_none_are_refused(self, changes: str) -> None:
        with pytest.raises(ValueError, match=r".+"):
            await merged(Claims(), changes)

    def test_deep_nesting_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no publication"):
            load("[" * 100_000)


def test_one_that_can_not_be_read_has_no_process() -> None:
    assert Heard(name="b", age_seconds=1.0, publication=None).process == ""


async def test_what_is_open_is_found_by_its_index_beside_many_that_are_closed(crew: Crew) -> None:
    await crew.join("a", serve=False)
    crew.run(
        "INSERT INTO opencode_watchdog.errand (replica, term, asked_at, question, answer)"
        " SELECT 'b', 1, now(), 'a question', 'an answer' FROM generate_series(1, 20000)"
    )
    crew.run("ANALYZE opencode_watchdog.errand")
    plan = "\n".join(row[0] for row in crew.run(f"EXPLAIN {errands._OPEN}", "b", "a claim", [1, 2]))
    assert "errand_open" in plan
    assert "Seq Scan" not in plan, plan
