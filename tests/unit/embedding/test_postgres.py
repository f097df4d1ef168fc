"""The watchdog inside servers on one database in PostgreSQL, on the servers' own engines; and the commands beside."""

import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import Mock

import anyio
import anyio.lowlevel
import pytest
import structlog
from anyio.abc import TaskStatus
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import watchdog
from tests.support.postgres import ADMIN, Cluster, PostgresRows
from tests.support.program import Program, program
from tests.support.waiting import SECONDS, wait_until
from tests.support.watchdog_run import Finished
from tests.unit.embedding.test_embed import PLACE, InProcessHost, Notes
from watchdog.acting.undo import Undo, UndoResult
from watchdog.embedding.host_server import EmbeddedFleet, EmbeddedServer
from watchdog.errors import DatabaseUnsupported, JournalUnusable, NoSuchSession, SettingsError, WatchdogError
from watchdog.model.interventions import Actor, Hold
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Served
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status, TurnId
from watchdog.model.verdict import SpareReason, VerdictKind
from watchdog.ports import Server
from watchdog.postgres.connection import APPLICATION
from watchdog.postgres.journal import PostgresJournal
from watchdog.postgres.store import PostgresStore
from watchdog.settings.schema import Settings
from watchdog.timing.clock import Countable, SystemClock
from watchdog.timing.events import Assessment

__all__ = ["program"]

CLOCK: Final = Countable(SystemClock())
GUEST: Final = "guest of a server"
OWN_TABLES: Final = "SELECT to_regnamespace('opencode_watchdog') IS NOT NULL AS there"
HOLDER: Final = "SELECT holder FROM opencode_watchdog.lease WHERE expires_at > clock_timestamp()"
TAKEN_BY_ANOTHER: Final = """
    UPDATE opencode_watchdog.lease
    SET holder = 'another', term = term + 1, expires_at = clock_timestamp() + interval '5 seconds'
"""
PRESENT: Final = "SELECT name FROM opencode_watchdog.replica ORDER BY name"
NOBODY: Final = "no live host says that it is at work on it; only a release settles it"
SOON: Final = timedelta(seconds=1)
"""A limit for what hangs in another replica: its age counts from when that one is first heard to run it."""
OWN_CONNECTIONS: Final = 2
"""Of a watchdog, beside those of the server's pool."""
LONG: Final = timedelta(minutes=5)
"""A lease that nobody waits for in a test: whoever gets it got it back."""


class Heard(Notes):
    """A listener of a replica that may act or observe."""

    def __init__(self) -> None:
        super().__init__()
        self.acting: list[bool] = []
        self.problems: list[str] = []
        self.breaks = False

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        if self.breaks:
            raise ZeroDivisionError
        self.looks.append(assessment)
        self.acting.append(acting)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:  # noqa: ARG002
        self.problems.append(str(error))


@dataclass
class Replica:
    """A server on the database: its sessions, its engine, and what its watchdog tells."""

    rows: PostgresRows
    engine: AsyncEngine
    host: InProcessHost
    notes: Heard = field(default_factory=Heard)

    def settings(self, **more: Any) -> Settings:  # noqa: ANN401 - settings of many types
        fields: dict[str, Any] = {
            "poll_interval": timedelta(milliseconds=100),
            "tool_timeout": timedelta(seconds=60),
            "idle_timeout": timedelta(seconds=60),
            "orphan_grace": timedelta(seconds=1),
            "abort_timeout": timedelta(seconds=60),
            "abort_grace": timedelta(seconds=60),
            **more,
        }
        return Settings(**fields)

    @asynccontextmanager
    async def running(self, *, dry_run: bool = False, **more: Any) -> AsyncIterator[watchdog.Watchdog]:  # noqa: ANN401
        async with watchdog.running(
            self.settings(**more), host=self.host, engine=self.engine, listeners=[self.notes], dry_run=dry_run
        ) as dog:
            yield dog

    def begin(self, name: str, *, tool: str | None = "bash", age: float = 3600, busy: bool = True) -> SessionId:
        """A session with an open turn, and an open call if a tool is given; this server is at work on it."""
        began = int((time.time() - age) * 1000)
        session = self.rows.session(f"ses_{name}", at=began, directory=PLACE)
        self.rows.prompt(session, at=began)
        turn = self.rows.turn(session, f"msg_{name}", at=began)
        if busy:  # before its call is there: what is open and claimed by nobody is another matter
            self.host.busy[session] = Status(activity=Activity.BUSY, last_life_ms=began)
        if tool is not None:
            self.rows.call(turn, f"prt_{name}", at=began, tool=tool)
        return session

    def call(self, name: str) -> str:
        """How the call of a session reads."""
        return str(json.loads(self.rows.get("part", f"prt_{name}"))["state"]["status"])

    async def outcome(self, session: SessionId) -> Outcome:
        """What came of a session."""
        found = await wait_until(
            lambda: [each for each in self.notes.ends if each.session_id == session],
            f"an outcome of {session}",
            explain=lambda: repr(self.notes.problems),
        )
        return found[0]

    async def looked(self, fits: Callable[[], bool], what: str) -> None:
        """Wait until a whole look later something is so."""
        looks = len(self.notes.looks)
        await wait_until(lambda: len(self.notes.looks) > looks + 1 and fits(), what)


@dataclass
class World:
    """A database, and the servers on it."""

    cluster: Cluster
    url: str
    rows: PostgresRows
    stack: AsyncExitStack

    @property
    def database(self) -> str:
        return self.url.rpartition("/")[2]

    def replica(self, url: str | None = None, **options: Any) -> Replica:  # noqa: ANN401 - an engine's
        engine = create_async_engine(url or self.url, **options)
        self.stack.push_async_callback(engine.dispose)
        return Replica(self.rows, engine, InProcessHost(self.rows))

    def holder(self) -> str | None:
        """The replica that acts, as the database says."""
        found = self.rows.run(HOLDER)
        return found[0]["holder"] if found else None

    def connections(self) -> int:
        """How many there are on this database, but for that of the test."""
        count = "SELECT count(*) AS number FROM pg_stat_activity WHERE datname = $1"
        return int(self.cluster.run(count, self.database)[0]["number"]) - 1

    def has_own_tables(self) -> bool:
        return bool(self.rows.run(OWN_TABLES)[0]["there"])

    def count(self, table: str) -> int:
        return int(self.rows.run(f"SELECT count(*) AS number FROM opencode_watchdog.{table}")[0]["number"])  # noqa: S608


@pytest.fixture
async def world(postgres: Cluster, postgres_url: str, postgres_rows: PostgresRows) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(postgres, postgres_url, postgres_rows, stack)


class TestGuest:
    """One server alone; what is its own stays its own."""

    @pytest.mark.parametrize("way", ["an engine", "the setting"])
    async def test_what_hangs_is_ended_on_an_engine_of_the_servers_or_on_the_address_alone(
        self, world: World, way: str
    ) -> None:
        server = world.replica()
        session = server.begin("1")
        question = server.begin("2", tool="question")
        server.host.asks = [Ask(id="q", kind=AskKind.QUESTION, session_id=question, turn_id=TurnId("msg_2"))]
        settings = server.settings(database=world.url if way == "the setting" else None)
        engine = server.engine if way == "an engine" else None
        async with watchdog.running(settings, host=server.host, engine=engine, listeners=[server.notes]) as dog:
            outcome = await server.outcome(session)
            assert dog.failure is None
            named = "SELECT application_name FROM pg_stat_activity WHERE datname = $1 AND application_name = $2"
            own = world.cluster.run(named, world.database, APPLICATION)
            assert bool(own) == (way == "the setting")
        assert (outcome.result, outcome.kind) == (Result.RECOVERED, VerdictKind.STUCK_TOOL)
        assert [step.step for step in outcome.steps] == ["reread", "find", "about_to_abort", "abort", "verify"]
        assert (server.host.aborted, server.call("1"), server.call("2")) == ([session], "completed", "running")
        assert server.notes.reasons(question) == {SpareReason.WAITING_ON_HUMAN}
        assert world.count("intervention") == 1

    async def test_the_pool_is_shared_and_neither_used_up_nor_disposed(self, world: World) -> None:
        server = world.replica(pool_size=1, max_overflow=0)
        pool, asked = server.engine.pool, 0
        session = server.begin("1")
        async with server.running() as dog:
            while not server.notes.ends:  # as the server's own requests do
                async with server.engine.connect() as connection:
                    await connection.execute(text("SELECT count(*) FROM session"))
                asked += 1
                await anyio.sleep(0.02)
            assert (await dog.release(session))[0].result is Result.UNCHANGED
            assert server.notes.problems == []
            assert world.connections() <= 1 + OWN_CONNECTIONS
        assert asked > 1
        assert server.engine.pool is pool
        async with server.engine.connect() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
        await server.engine.dispose()
        await wait_until(lambda: world.connections() == 0, "the end of every connection")

    async def test_logging_stays_as_the_server_set_it_up(self, world: World) -> None:
        server = world.replica()
        before = structlog.get_config(), list(logging.root.handlers), logging.root.level
        async with server.running():
            await wait_until(lambda: server.notes.looks, "a look")
        assert (structlog.get_config(), list(logging.root.handlers), logging.root.level) == before

    async def test_a_start_with_something_unfinished_is_no_trouble(self, world: World) -> None:
        server = world.replica()
        session = server.begin("1", age=1)
        with structlog.testing.capture_logs() as logs:
            async with server.running():
                await server.looked(lambda: server.notes.reasons(session) == {SpareReason.WITHIN_LIMIT}, "a look")
                degraded = {sentence for look in server.notes.looks for sentence in look.observation.degraded}
        assert degraded == set()
        # A machine that is slow blocks the loop, and that is said, too.
        assert {line["event"] for line in logs if line["log_level"] == "warning"} <= {"loop.blocked"}

    async def test_a_dry_run_acts_on_nothing_takes_no_lease_and_makes_no_tables(self, world: World) -> None:
        server = world.replica()
        session = server.begin("1")
        async with server.running(dry_run=True):
            assert (await server.outcome(session)).result is Result.DRY_RUN
        assert (server.host.aborted, server.call("1"), world.has_own_tables()) == ([], "running", False)
        async with server.running(lease_duration=LONG, tool_timeout=SOON):
            holder = await wait_until(world.holder, "the one that acts")
            other = world.replica()
            async with other.running(dry_run=True):
                await wait_until(lambda: other.notes.looks, "a look")
                assert world.holder() == holder
                hangs = other.begin("2")  # it answers for its sessions all the same, and ends none
                outcome = await server.outcome(hangs)
                assert (outcome.result, "It makes a dry run" in outcome.why) == (Result.UNREACHABLE, True)
            assert other.host.aborted == []

    async def test_without_a_journal_it_acts_and_keeps_nothing(self, world: World) -> None:
        server = world.replica()
        session = server.begin("1")
        async with server.running(journal="off"):
            assert (await server.outcome(session)).result is Result.RECOVERED
        assert (world.count("intervention"), world.count("state")) == (0, 0)

    async def test_a_journal_in_another_database_is_kept_there(self, world: World) -> None:
        server = world.replica()
        session = server.begin("1")
        elsewhere = world.cluster.fresh_database()
        async with server.running(journal=elsewhere):
            assert (await server.outcome(session)).result is Result.RECOVERED
        with PostgresRows(elsewhere) as rows:
            assert len(rows.run("SELECT FROM opencode_watchdog.intervention WHERE ended_ms IS NOT NULL")) == 1
        assert world.count("intervention") == 0


class TestRefused:
    """What can't be meant or done is said when it starts, and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("setting", "sentence"),
        [
            ({"sole_owner": True}, "sole_owner can't be set for a database in PostgreSQL"),
            ({"journal": Path("watchdog.journal")}, r"journal can't be the file watchdog.journal: .* PostgreSQL"),
        ],
    )
    async def test_a_setting_of_files(self, world: World, setting: dict[str, Any], sentence: str) -> None:
        server = world.replica()
        with pytest.raises(SettingsError, match=sentence):
            async with server.running(**setting):
                pass
        assert not world.has_own_tables()
        async with server.running():
            await wait_until(lambda: server.notes.looks, "a look")

    async def test_a_database_without_the_tables(self, world: World) -> None:
        server = world.replica(world.cluster.fresh_database())
        with pytest.raises(DatabaseUnsupported, match="has no table `session`") as caught:
            async with server.running():
                pass
        assert "SELECT" not in str(caught.value)
        async with server.engine.connect() as connection:
            assert not (await connection.execute(text(OWN_TABLES))).scalar_one()

    async def test_a_role_that_may_not_make_the_own_schema_until_somebody_made_it(
        self, world: World, program: Program
    ) -> None:
        if not world.cluster.run("SELECT FROM pg_roles WHERE rolname = $1", GUEST):
            world.cluster.run(f'CREATE ROLE "{GUEST}" LOGIN')
        with PostgresRows(world.cluster.url(world.database, ADMIN)) as admin:
            admin.script(f'GRANT SELECT, UPDATE ON session, message, part TO "{GUEST}"')
            server = world.replica(world.cluster.url(world.database, GUEST.replace(" ", "%20")))
            session = server.begin("1")
            with pytest.raises(JournalUnusable, match="`opencode-watchdog sql schema` prints") as caught:
                async with server.running():
                    pass
            assert "CREATE" not in str(caught.value)
            done = await program.run("sql", "schema", "--role", GUEST)
            admin.script(done.stdout)
        async with server.running():
            assert (await server.outcome(session)).result is Result.RECOVERED


class TestReplicas:
    """Two servers on the database: one acts for both."""

    @asynccontextmanager
    async def pair(
        self,
        world: World,
        **more: Any,  # noqa: ANN401
    ) -> AsyncIterator[tuple[Replica, watchdog.Watchdog, Replica, watchdog.Watchdog]]:
        """The one that acts, then the one that observes, and both know it."""
        leader, follower = world.replica(), world.replica()
        async with leader.running(lease_duration=LONG, **more) as acting:
            await wait_until(lambda: leader.notes.looks, "a look")
            async with follower.running(lease_duration=LONG, **more) as observing:
                await wait_until(lambda: follower.notes.looks, "a look")
                await wait_until(lambda: len(world.rows.run(PRESENT)) == 2, "two replicas")
                yield leader, acting, follower, observing

    async def test_what_hangs_in_the_other_one_is_ended_there_and_a_touch_there_is_a_sign_of_life(
        self, world: World
    ) -> None:
        async with self.pair(world, tool_timeout=SOON) as (leader, _, follower, observing):
            streams = follower.begin("1", tool=None)
            follower.host.busy[streams] = Status(activity=Activity.BUSY)
            observing.touch(streams)
            hangs = follower.begin("2")
            silent = follower.begin("3", tool=None)
            asked = SessionId("ses_4")
            follower.host.asks = [Ask(id="q", kind=AskKind.QUESTION, session_id=asked, turn_id=TurnId("msg_4"))]
            follower.begin("4", tool="question")  # whoever hears that it is at work on it hears what it asks, too
            assert (await leader.outcome(hangs)).kind is VerdictKind.STUCK_TOOL
            assert (await leader.outcome(silent)).kind is VerdictKind.IDLE_SESSION
            spared = {SpareReason.RECENTLY_ACTIVE}, {SpareReason.WAITING_ON_HUMAN}
            await leader.looked(
                lambda: (leader.notes.reasons(streams), leader.notes.reasons(asked)) == spared, "what is spared"
            )
        assert {each.result for each in leader.notes.ends} == {Result.RECOVERED}
        assert sorted(follower.host.aborted) == [hangs, silent]
        assert (leader.host.aborted, follower.notes.ends) == ([], [])
        assert not any(follower.notes.acting)

    async def test_a_release_asked_of_one_that_observes_is_done_by_the_one_that_acts(self, world: World) -> None:
        async with self.pair(world) as (leader, _, follower, observing):
            mine, theirs = follower.begin("1", age=1), leader.begin("2", age=1)
            (outcome,) = await observing.release(mine, reason="the user pressed stop")
            assert (outcome.result, outcome.session_id) == (Result.RECOVERED, mine)
            assert (await observing.release(theirs))[0].result is Result.RECOVERED
            assert (follower.host.aborted, leader.host.aborted) == ([mine], [theirs])
            with pytest.raises(NoSuchSession, match="There is no session ses_none in this database"):
                await observing.release("ses_none")
            journal = await PostgresJournal.open(follower.engine)
            noted = [(each.actor, each.reason) for each in await journal.interventions(session_id=mine)]
            assert noted == [(Actor.PERSON, "the user pressed stop")]

    async def test_a_release_goes_on_though_whoever_asked_one_that_observes_is_cancelled(self, world: World) -> None:
        async with self.pair(world) as (leader, _, follower, observing):
            session = follower.begin("1", age=1)
            async with anyio.create_task_group() as group:
                group.start_soon(observing.release, session)
                await wait_until(lambda: follower.host.aborted, "the abort")
                group.cancel_scope.cancel()
            assert (await leader.outcome(session)).result is Result.RECOVERED
            assert follower.host.aborted == [session]

    async def test_one_that_is_cancelled_gives_the_lease_back_and_the_next_one_takes_it_at_once(
        self, world: World
    ) -> None:
        first, second = world.replica(), world.replica()
        async with anyio.create_task_group() as group:
            dog = watchdog.Watchdog(first.settings(lease_duration=LONG), host=first.host, engine=first.engine)
            assert await group.start(dog.serve) is dog
            before = await wait_until(world.holder, "the one that acts")
            session = first.begin("1", age=1)
            assert (await dog.release(session))[0].result is Result.RECOVERED
            group.cancel_scope.cancel()
        assert world.holder() is None
        assert world.rows.run(PRESENT) == []
        async with second.running(lease_duration=LONG):
            await wait_until(lambda: second.notes.acting, "a look")
            assert second.notes.acting[0]
            assert world.holder() not in {None, before}
        await first.engine.dispose()
        await second.engine.dispose()
        await wait_until(lambda: world.connections() == 0, "the end of every connection")

    async def test_one_whose_loop_fails_answers_for_its_sessions_and_leaves_the_acting_to_another(
        self, world: World
    ) -> None:
        leader, follower = world.replica(), world.replica()
        lease = timedelta(seconds=3)  # it is tried for every sixth of that
        async with leader.running(lease_duration=lease) as failing:
            await wait_until(lambda: leader.notes.looks, "a look")
            with structlog.testing.capture_logs():
                leader.notes.breaks = True
                await wait_until(lambda: failing.failure, "the failure")
            async with follower.running(lease_duration=lease, tool_timeout=SOON):
                await wait_until(lambda: follower.notes.looks, "a look")
                hangs = leader.begin("1")
                assert (await follower.outcome(hangs)).result is Result.RECOVERED
                assert leader.host.aborted == [hangs]
                assert (await failing.release(hangs))[0].result is Result.UNCHANGED
            failure, failing.failure = failing.failure, None
            assert isinstance(failure, ExceptionGroup)
            assert failure.subgroup(ZeroDivisionError) is not None

    async def test_what_one_passes_on_and_then_takes_on_itself_is_done_once_and_waits_for_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica = world.replica()
        session = replica.begin("1", age=1)
        async with replica.running() as dog:
            await wait_until(lambda: replica.notes.looks, "a look")
            operator = dog._running()._operator
            assert operator is not None
            answers = iter([False])  # the lease comes right after the operator asked for it
            right = Mock(wraps=operator._mandate)
            right.acquire.side_effect = lambda: next(answers, True)
            monkeypatch.setattr(operator, "_mandate", right)
            with anyio.fail_after(SECONDS):
                outcomes = await operator.release(session).result()
        assert isinstance(outcomes, tuple)
        assert [each.result for each in outcomes] == [Result.RECOVERED]
        assert right.acquire.call_count > 1

    async def test_one_that_has_just_got_the_lease_does_not_send_people_to_itself(self, world: World) -> None:
        leader, follower = world.replica(), world.replica()
        lease, gone, go_on = timedelta(seconds=3), anyio.Event(), anyio.Event()
        answer = follower.host.statuses

        async def leads(*, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            async with leader.running(lease_duration=lease):
                await wait_until(lambda: leader.notes.looks, "a look")
                task_status.started()
                await gone.wait()

        async def waits() -> dict[SessionId, Status]:
            await go_on.wait()
            return await answer()

        async with anyio.create_task_group() as group:
            await group.start(leads)
            before = world.holder()
            async with follower.running(lease_duration=lease, poll_interval=timedelta(minutes=1)) as dog:
                await wait_until(lambda: follower.notes.looks, "a look")
                session = follower.begin("1", age=1)
                follower.host.statuses = waits  # type: ignore[method-assign] # the next look is not over before that
                gone.set()
                await wait_until(lambda: world.holder() not in {None, before}, "another one that acts")
                outcomes: list[Outcome] = []

                async def release() -> None:
                    outcomes.extend(await dog.release(session))

                async with anyio.create_task_group() as asking:
                    asking.start_soon(release)
                    await anyio.lowlevel.checkpoint()
                    go_on.set()
        assert [each.result for each in outcomes] == [Result.RECOVERED]

    async def test_one_that_gets_the_lease_back_closes_what_another_one_left_begun_meanwhile(
        self, world: World
    ) -> None:
        server = world.replica()
        session = server.begin("1")
        async with server.running(lease_duration=timedelta(seconds=3)):
            await server.outcome(session)
            journal = await PostgresJournal.open(server.engine)
            (done,) = await journal.interventions()
            world.rows.run(TAKEN_BY_ANOTHER)
            await wait_until(lambda: not server.notes.acting[-1], "a look without the right")
            left = await journal.begin(done.verdict, at_ms=done.began_ms)  # and then it dies
            await wait_until(lambda: server.notes.acting[-1], "the right to act")
            acted = len(server.notes.looks)
            await wait_until(lambda: len(server.notes.looks) > acted + 2, "two more looks")
            found = await journal.intervention(left)
        assert found is not None
        assert found.outcome is not None


class TestHolds:
    async def test_what_one_replica_holds_the_one_that_acts_leaves_alone(self, world: World) -> None:
        leader, other = world.replica(), world.replica()
        session = leader.begin("1")
        journal = await PostgresJournal.open(other.engine)
        await journal.hold(Hold(session_id=session, since_ms=1, until_ms=None, why="a person is at it"))
        async with leader.running():
            await leader.looked(lambda: leader.notes.reasons(session) == {SpareReason.ON_HOLD}, "a hold")
            assert leader.host.aborted == []
            assert await journal.unhold(session)
            assert (await leader.outcome(session)).result is Result.RECOVERED


class TestJournal:
    async def test_what_was_settled_is_in_the_journal_and_can_be_undone(self, world: World) -> None:
        server = world.replica()
        session = server.begin("1", busy=False)
        before = json.loads(server.rows.get("part", "prt_1")), json.loads(server.rows.get("message", "msg_1"))
        async with server.running() as dog:
            await server.looked(lambda: session in unclaimed(server), "word that nobody is at work on it")
            (outcome,) = await dog.release(session, reason="nobody ran it")
            assert (outcome.result, server.call("1")) == (Result.RECOVERED, "error")
            journal = await PostgresJournal.open(server.engine)
            (intervention,) = await journal.interventions()
            assert (intervention.reason, intervention.outcome) == ("nobody ran it", outcome)
            store = await PostgresStore.open(server.engine, clock=SystemClock())
            own = EmbeddedServer(server.host, CLOCK)

            async def serving(_: SessionId) -> Sequence[tuple[Server, Served]]:
                return [(own, own.own)]

            undo = Undo(store=store, fleet=EmbeddedFleet(own), clock=CLOCK, journal=journal, serving=serving)
            undoing = await undo.undo(intervention)
            assert undoing.result is UndoResult.UNDONE, undoing
            await server.looked(lambda: server.notes.reasons(session) == {SpareReason.ON_HOLD}, "its hold")
        after = json.loads(server.rows.get("part", "prt_1")), json.loads(server.rows.get("message", "msg_1"))
        assert after == before
        assert server.host.aborted == []


def unclaimed(server: Replica) -> set[str]:
    """The sessions of which the last look of a server says that nobody is at work on them."""
    return {each.session_id for each in server.notes.looks[-1].judgement.spared if each.why == NOBODY}


class TestCommands:
    """What people ask for beside the servers."""

    async def test_they_are_passed_on_while_a_server_acts_and_act_once_it_is_gone(
        self, world: World, program: Program
    ) -> None:
        server = world.replica()

        async def run(*arguments: str) -> Finished:
            return await program.run(*arguments, "--database", world.url)

        hung, left = server.begin("1"), server.begin("2", busy=False)
        async with server.running(lease_duration=LONG):
            await server.outcome(hung)
            holder = world.holder()
            checked = await run("check", "--json")
            assert (checked.code, checked.document["database"]["watched_by"]) == (0, holder), checked
            assert checked.document["replicas"] == [holder]
            listed = await run("history", "--json")
            assert [each["verdict"]["session_id"] for each in listed.document["interventions"]] == [hung]
            scanned = await run("scan", "--json")
            assert [(each["session_id"], each["reason"], each["why"]) for each in scanned.document["spared"]] == [
                (left, "no_witness", NOBODY)
            ]
            explained = await run("explain", left)
            assert NOBODY in " ".join(explained.stdout.split()), explained
            held = await run("hold", left, "--json")
            assert held.document["was_on_hold"] is False
            await server.looked(lambda: server.notes.reasons(left) == {SpareReason.ON_HOLD}, "its hold")
            assert (await run("unhold", left)).code == 0
            passed_on = await run("release", left, "--yes", "--json")
            assert (passed_on.code, server.call("2")) == (0, "error"), passed_on
            assert [each["result"] for each in passed_on.document["outcomes"]] == ["recovered"]
            undone = await run("undo", "2", "--json")
            assert (undone.code, undone.document["result"], server.call("2")) == (0, "undone", "running"), undone
            assert world.holder() == holder
        released = await run("release", left, "--yes", "--json")
        assert (released.code, server.call("2")) == (0, "error"), released
        shown = await run("history", "3", "--json")
        assert [row["id"] for row in shown.document["rows"]] == ["prt_2", "msg_2"]
        undone = await run("undo", "3", "--json")
        assert (undone.code, server.call("2")) == (0, "running"), undone
        assert world.holder() is None

    async def test_the_printed_indexes_are_those_that_check_misses(self, world: World, program: Program) -> None:
        before = await program.run("check", "--json", "--database", world.url)
        assert {each["of"] for each in before.document["indexes"] if each["name"] is None} == {
            "open turns",
            "open calls",
        }
        printed = await program.run("sql", "index")
        lines = [line for line in printed.stdout.splitlines() if not line.startswith("--")]
        for statement in " ".join(lines).split(";")[:-1]:  # one by one, as CONCURRENTLY wants it
            world.rows.run(statement)
        after = await program.run("check", "--json", "--database", world.url)
        assert [each["of"] for each in after.document["indexes"] if each["name"] is None] == []


@pytest.mark.parametrize("database", ["/nowhere/opencode.db", "postgresql://127.0.0.1/other"])
async def test_an_engine_and_a_setting_that_name_different_kinds_are_refused(database: str, tmp_path: Path) -> None:
    on_file = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    elsewhere = create_async_engine("postgresql+asyncpg://127.0.0.1/other")
    engine = elsewhere if database.startswith("/") else on_file
    settings = Settings(database=database)  # type: ignore[arg-type] # as people write it
    nobody = watchdog.CallableHost(statuses=dict, pending_asks=list, abort=lambda _: None)
    with pytest.raises(SettingsError, match="Leave one of the two out"):
        async with watchdog.running(settings, host=nobody, engine=engine):
            raise AssertionError("it ran")
    await on_file.dispose()
    await elsewhere.dispose()
