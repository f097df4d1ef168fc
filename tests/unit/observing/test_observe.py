"""One look: who is asked what, what is read again, and what is missing when somebody does not answer."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeFleet
from tests.fakes.owners import FakeOwners
from tests.fakes.server import FakeServer, endpoint
from tests.fakes.store import FakeStore
from watchdog.errors import DatabaseUnavailable, ServerUnreachable
from watchdog.judging.gradual import at_once
from watchdog.model.moments import Moment
from watchdog.model.outcome import Row
from watchdog.model.report import Endpoint, Holder, Holders, Listener, Observation, Served, Shown
from watchdog.model.session import EMBEDDED, Activity, ServerName, SessionId, Snapshot, Status, TurnId
from watchdog.observing.memory import Memory
from watchdog.observing.observe import Observer
from watchdog.observing.slow_servers import Silences
from watchdog.timing.clock import Countable
from watchdog.timing.sightings import Convert

PLACE = "/project"
SERVER_NAME = ServerName("http://127.0.0.1:4096")
SERVER = Holder(pid=100, born_ms=0, command="opencode serve", endpoints=(endpoint(4096),))


class Listening(FakeServer):
    """A server that keeps what it was asked."""

    def __init__(self, name: str = "http://127.0.0.1:4096", *leads_to: Endpoint) -> None:
        super().__init__(name=ServerName(name), leads_to=leads_to or (endpoint(4096),))
        self.asked: list[tuple[str, str]] = []
        self.eventless = False

    def busy_directories(self) -> frozenset[str]:
        return frozenset() if self.eventless else super().busy_directories()

    async def statuses(self, directory: str) -> dict[SessionId, Status]:
        self.asked.append(("statuses", directory))
        return await super().statuses(directory)

    async def vouches(self) -> bool:
        self.asked.append(("vouches", ""))
        return await super().vouches()

    def take(self, what: str) -> list[str]:
        """What it was asked of this since the last time."""
        taken = sorted(detail for kind, detail in self.asked if kind == what)
        self.asked = [each for each in self.asked if each[0] != what]
        return taken


class CountingStore(FakeStore):
    """A store that keeps the sessions that each look was also for."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[set[SessionId], bool]] = []

    async def look(
        self, *, also: Collection[SessionId] = (), full: bool = False, scan_parts: bool = False
    ) -> Snapshot:
        self.looks.append((set(also), scan_parts))
        return await super().look(also=also, full=full, scan_parts=scan_parts)


@dataclass(kw_only=True)
class World:
    """An observer on a database, a server and its processes, all in memory."""

    store: CountingStore = field(default_factory=CountingStore)
    server: Listening = field(default_factory=Listening)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    owners: FakeOwners = field(default_factory=lambda: FakeOwners(Holders(known=(SERVER,))))
    memory: Memory = field(default_factory=Memory)
    clock: FakeClock = field(default_factory=lambda: FakeClock(wall_ms=1_790_000_100_000))

    def __post_init__(self) -> None:
        self.fleet.known.append(self.server)
        self.silences = Silences(self.clock)
        self.observer = Observer(
            store=self.store,
            fleet=self.fleet,
            owners=self.owners,
            fold=self.fold,
            complete=self.fold,
            silences=self.silences,
            reuse_holders_seconds=10,
        )
        self.counter = Countable(self.clock)

    async def fold(self, observation: Observation, convert: Convert) -> Observation:
        return at_once(self.memory.fold_gradually(observation, convert))

    async def look(
        self, *, also: Collection[SessionId] = (), full: bool = False, scan: bool = False, fresh: bool = False
    ) -> Observation:
        return await self.observer.look(self.counter.look(), also=also, full=full, scan_parts=scan, fresh=fresh)

    def unfinished(
        self, name: str = "1", *, directory: str = PLACE, cwd: str | None = None, busy: bool = False
    ) -> SessionId:
        session = self.store.content.session(f"ses_{name}", directory=directory)
        turn = self.store.content.turn(session, f"msg_{name}", cwd=cwd)
        self.store.content.call(turn, f"prt_{name}")
        if busy:
            self.server.busy(session, directory)
        return session


@pytest.fixture
def world() -> World:
    return World()


class TestAsking:
    async def test_only_folders_with_something_unfinished_are_asked_for(self, world: World) -> None:
        world.unfinished("1", directory="/a", cwd="/a/deep", busy=True)
        done = world.store.content.session("ses_done", directory="/b")
        world.store.content.turn(done, completed_at=1)
        parent = world.store.content.session("ses_parent", directory="/c")
        world.store.content.set("session", "ses_1", parent_id=parent)
        await world.look()
        assert world.server.take("statuses") == ["/a", "/a/deep"]

    async def test_a_quiet_system_causes_no_request_and_no_look_at_processes(self, world: World) -> None:
        world.store.content.turn(world.store.content.session(), completed_at=1)
        for _ in range(3):
            assert (await world.look()).snapshot.sessions == {}
        assert world.server.asked == []
        assert world.owners.looks == 0
        assert len(world.store.looks) == 1

    async def test_what_the_feed_shows_at_work_is_asked_for_although_nothing_is_open(self, world: World) -> None:
        session = world.store.content.session("ses_busy", directory="/c")
        world.server.busy(session, "/c")
        seen = await world.look()
        assert world.server.take("statuses") == ["/c"]
        assert session in seen.snapshot.sessions
        assert world.store.looks[-1] == ({session}, False)
        assert session in seen.idle_clocks

    async def test_a_full_look_asks_for_no_folder_in_which_nothing_is_open(self, world: World) -> None:
        world.store.content.session("ses_1", directory="/a")
        world.store.content.session("ses_2", directory="/b")
        await world.look()
        await world.look(full=True)
        assert world.server.take("statuses") == []
        assert len(world.store.looks) == 2

    async def test_nothing_is_read_again_while_nothing_was_committed(self, world: World) -> None:
        world.unfinished(busy=True)
        first = await world.look()
        second = await world.look()
        assert len(world.store.looks) == 1
        assert first.snapshot == second.snapshot
        world.store.content.text("msg_1")
        await world.look()
        assert len(world.store.looks) == 2

    async def test_a_scan_of_all_parts_is_handed_on(self, world: World) -> None:
        await world.look(scan=True)
        assert world.store.looks == [(set(), True)]

    async def test_sessions_that_are_asked_for_are_read(self, world: World) -> None:
        session = world.store.content.session("ses_1")
        await world.look()
        assert session in (await world.look(also=[session])).snapshot.sessions

    async def test_what_a_server_says_is_in_the_report(self, world: World) -> None:
        session = world.unfinished(busy=True)
        world.server.signs[session] = Moment(5.0)
        (report,) = (await world.look()).reports
        assert report.statuses == {PLACE: {session: Status(activity=Activity.BUSY)}}
        assert report.asks == {PLACE: ()}
        assert (report.vouches, report.problem, report.life) == (True, None, {session: Moment(5.0)})
        assert report.witness == world.server.heard


class TestFailing:
    async def test_a_server_that_does_not_answer_is_reported_and_missing_from_the_evidence(
        self, world: World
    ) -> None:
        world.unfinished(busy=True)
        world.server.problem = ServerUnreachable("nobody answers")
        seen = await world.look()
        assert seen.degraded == ("nobody answers",)
        (report,) = seen.reports
        assert (report.statuses, report.asks, report.vouches) == ({}, {}, False)
        assert seen.idle_clocks == {}

    async def test_a_folder_that_is_not_answered_is_missing_and_the_others_are_there(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.unfinished("1", directory="/a")
        world.unfinished("2", directory="/b")
        statuses = world.server.statuses

        async def half(directory: str) -> dict[SessionId, Status]:
            if directory == "/b":
                raise ServerUnreachable("too late")
            return await statuses(directory)

        monkeypatch.setattr(world.server, "statuses", half)
        seen = await world.look()
        (report,) = seen.reports
        assert "/b" not in report.statuses
        assert "/b" not in report.asks
        assert "/a" in report.statuses
        assert report.vouches
        assert (report.problem, report.problems) == (None, {"/b": "too late"})
        assert seen.degraded == ("too late It answers about other folders; this is about /b.",)

    async def test_asks_that_are_not_answered_are_missing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.unfinished(busy=True)

        async def fail(_: str) -> tuple[()]:
            raise ServerUnreachable("too late")

        monkeypatch.setattr(world.server, "pending_asks", fail)
        (report,) = (await world.look()).reports
        assert set(report.statuses) == {PLACE}
        assert report.asks == {}

    async def test_a_version_that_is_not_told_vouches_for_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.unfinished()

        async def fail() -> bool:
            raise ServerUnreachable("no version")

        monkeypatch.setattr(world.server, "vouches", fail)
        (report,) = (await world.look()).reports
        assert (report.vouches, report.problem) == (False, "no version")

    async def test_one_server_that_fails_hides_no_other(self, world: World) -> None:
        dead = Listening("http://127.0.0.1:1", endpoint(1))
        dead.problem = ServerUnreachable("dead")
        world.fleet.known.insert(0, dead)
        session = world.unfinished(busy=True)
        seen = await world.look()
        assert [report.trouble for report in seen.reports] == ["dead", None]
        assert session in seen.reports[1].statuses[PLACE]

    async def test_a_database_that_fails_is_raised_and_read_again_afterwards(self, world: World) -> None:
        world.unfinished(busy=True)
        world.store.failure = DatabaseUnavailable("locked")
        with pytest.raises(DatabaseUnavailable):
            await world.look()
        world.store.failure = None
        assert (await world.look()).snapshot.sessions

    @pytest.mark.parametrize("servers", [1, 2])
    async def test_a_database_that_fails_while_servers_are_asked_is_raised_as_it_is(
        self, world: World, servers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*, since_ms: int) -> tuple[str, ...]:
            raise DatabaseUnavailable(f"locked, and asked for what was touched since {since_ms}")

        more = [Listening(f"http://127.0.0.1:{port}", endpoint(4096)) for port in range(1, servers)]
        world.fleet.known.extend(more)
        for server in (world.server, *more):
            server.shown, server.listens = False, AT_4096
        world.unfinished(busy=True)
        monkeypatch.setattr(world.store, "directories", fail)
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await world.look()


class TestHolders:
    async def test_while_a_server_claims_everything_nobody_is_looked_up(self, world: World) -> None:
        world.unfinished(busy=True)
        seen = await world.look()
        assert (seen.holders, world.owners.looks, world.server.take("serves")) == (None, 0, [])

    async def test_holders_are_reused_while_nothing_changes_and_for_a_while_only(self, world: World) -> None:
        world.unfinished()
        await world.look()
        await world.look()
        assert world.owners.looks == 1
        world.clock.advance(10)
        await world.look()
        assert world.owners.looks == 2

    async def test_holders_are_looked_up_anew_when_a_row_changed_or_a_proof_is_acted_on(self, world: World) -> None:
        world.unfinished()
        await world.look()
        world.store.content.set("message", "msg_1", time_updated=1_790_000_000_500)
        await world.look()
        assert world.owners.looks == 2
        await world.look(fresh=True)
        assert world.owners.looks == 3
        await world.look()
        assert world.owners.looks == 3

    async def test_what_was_claimed_in_between_is_looked_up_anew(self, world: World) -> None:
        session = world.unfinished()
        await world.look()
        world.server.busy(session, PLACE)
        assert (await world.look()).holders is None
        world.server.statuses_by.clear()
        await world.look()
        assert world.owners.looks == 2

    async def test_a_turn_that_a_newer_one_superseded_is_unclaimed_although_its_session_is_busy(
        self, world: World
    ) -> None:
        session = world.unfinished(busy=True)
        world.store.content.turn(session, "msg_newer", at=1_790_000_000_500)
        assert (await world.look()).holders is not None

    async def test_the_process_behind_a_server_is_named_by_its_port(self, world: World) -> None:
        world.unfinished()
        other = Holder(pid=7, born_ms=0, command="opencode run")
        world.owners.holders = Holders(known=(other, SERVER))
        far = Listening("http://10.0.0.1:4096", endpoint(4096, "10.0.0.1"))
        world.fleet.known.append(far)
        assert [report.pid for report in (await world.look()).reports] == [100, None]

    async def test_the_embedded_server_is_this_process(self, world: World) -> None:
        world.unfinished()
        world.fleet.known = [Listening(EMBEDDED)]
        ours = Holder(pid=42, born_ms=0, command="a server", embeds_us=True)
        world.owners.holders = Holders(known=(SERVER, ours))
        assert [report.pid for report in (await world.look()).reports] == [42]

    async def test_a_server_that_is_found_among_the_holders_is_asked_in_the_same_look(self, world: World) -> None:
        session = world.unfinished()
        found = Listening("http://127.0.0.1:5", endpoint(5))
        found.busy(session, PLACE)
        world.fleet.hidden.append(found)
        seen = await world.look()
        assert world.fleet.discovered == [world.owners.holders]
        assert session in seen.reports[1].statuses[PLACE]


AT_4096 = Listener(
    sockets=(frozenset([100]),), hidden=False, databases=frozenset([100]), what="opencode serve (pid 100)"
)


class TestServed:
    async def test_a_server_whose_process_has_the_database_open_is_shown_to_serve_it(self, world: World) -> None:
        session = world.unfinished(busy=True)
        world.server.shown, world.server.listens = False, AT_4096
        (report,) = (await world.look()).reports
        assert report.served == Served(server=SERVER_NAME, by=Shown.PROCESS, pid=100, born_ms=0)
        assert session in report.said

    async def test_a_server_whose_process_has_another_database_open_is_asked_nothing(self, world: World) -> None:
        world.unfinished(busy=True)
        world.server.shown, world.server.listens = False, AT_4096
        world.owners.holders = Holders(known=(Holder(pid=7, born_ms=0, command="opencode"),))
        seen = await world.look()
        (report,) = seen.reports
        assert (report.served, dict(report.said), dict(report.life), report.vouches) == (None, {}, {}, False)
        assert report.not_shown is not None
        assert "opencode serve (pid 100), but on another database" in report.not_shown
        assert world.server.asked == []

    @pytest.mark.parametrize("alike", [True, False])
    async def test_where_no_process_is_seen_its_copy_of_the_turn_decides(self, world: World, *, alike: bool) -> None:
        session = world.unfinished(busy=True)
        world.server.shown = False
        world.server.copies = world.store.turn_rows
        if not alike:
            rows = await world.store.turn_rows(TurnId("msg_1"))
            world.server.copies = answer([replace(rows[0], data='{"role":"assistant"}'), *rows[1:]])
        (report,) = (await world.look()).reports
        rows_alike = Served(server=SERVER_NAME, by=Shown.ROWS, sessions=frozenset([session]))
        assert report.served == (rows_alike if alike else None)
        assert (session in report.said) is alike
        assert (world.server.take("statuses") == [PLACE]) is alike

    async def test_where_nobody_has_the_database_open_a_copy_that_reads_alike_shows_nothing(
        self, world: World
    ) -> None:
        world.unfinished(busy=True)
        world.server.shown, world.server.copies = False, world.store.turn_rows
        world.owners.holders = Holders()
        (report,) = (await world.look()).reports
        assert report.served is None
        assert report.not_shown == (
            f"{SERVER_NAME} is opencode, but on another database: no process has this one open."
        )

    async def test_a_server_that_was_just_killed_is_down_and_on_no_other_database(self, world: World) -> None:
        world.unfinished(busy=True)
        world.server.shown, world.owners.holders = False, Holders()

        async def down(_: TurnId) -> Sequence[Row] | None:
            raise ServerUnreachable("it is down")

        world.server.copies = down  # its version was known before
        (report,) = (await world.look()).reports
        assert (report.served, report.not_shown, report.problem) == (None, None, "it is down")

    async def test_a_server_that_opens_the_database_at_its_first_question_is_shown_by_its_process(
        self, world: World
    ) -> None:
        session = world.unfinished(busy=True)
        world.server.shown, world.owners.holders = False, Holders()

        async def opens(turn_id: TurnId) -> Sequence[Row] | None:
            world.owners.holders, world.server.listens = Holders(known=(SERVER,)), AT_4096
            return await world.store.turn_rows(turn_id)

        world.server.copies = opens
        (report,) = (await world.look()).reports
        assert report.served == Served(server=SERVER_NAME, by=Shown.PROCESS, pid=100, born_ms=0)
        assert session in report.said

    async def test_a_session_that_was_deleted_while_it_ran_is_named(self, world: World) -> None:
        world.unfinished(busy=True)
        world.server.busy(SessionId("ses_deleted"), PLACE)
        world.server.shown, world.server.listens = False, AT_4096
        seen = await world.look()
        (sentence,) = seen.degraded
        assert sentence.startswith(f"{SERVER_NAME} is at work on session ses_deleted, which is not in this database")
        world.owners.holders = Holders(known=(Holder(pid=7, born_ms=0, command="opencode"),))
        assert "ses_deleted" not in " ".join((await world.look(fresh=True)).degraded)

    async def test_what_the_feed_told_of_a_session_is_kept_though_it_was_deleted_while_it_ran(
        self, world: World
    ) -> None:
        session = world.unfinished(busy=True)
        world.server.busy(SessionId("ses_deleted"), PLACE)
        world.server.shown, world.server.listens = False, AT_4096
        await world.look()
        assert world.server.kept == {session, "ses_deleted"}

    async def test_a_session_that_is_deleted_while_it_runs_is_named_though_no_event_told_that_it_runs(
        self, world: World
    ) -> None:
        session = world.unfinished(busy=True)
        world.server.shown, world.server.listens, world.server.eventless = False, AT_4096, True
        assert (await world.look()).degraded == ()
        for table, id_ in (("part", "prt_1"), ("message", "msg_1"), ("session", session)):
            world.store.content.delete(table, id_)
        for _ in range(3):
            (sentence,) = (await world.look()).degraded
            assert f"at work on session {session}, which is not in this database" in sentence
        world.server.problem = ServerUnreachable("it is silent")
        await world.look()
        world.server.problem = None
        assert f"session {session}" in " ".join((await world.look()).degraded)
        world.server.statuses_by.clear()
        assert (await world.look()).degraded == ()
        world.server.take("statuses")
        await world.look()
        assert world.server.take("statuses") == []

    async def test_one_that_was_deleted_before_the_first_look_is_found_where_sessions_were_touched_since_the_birth(
        self, world: World
    ) -> None:
        world.owners.holders = Holders(known=(replace(SERVER, born_ms=50),))
        world.server.shown, world.server.listens, world.server.eventless = False, AT_4096, True
        world.server.busy(SessionId("ses_deleted"), PLACE)
        world.store.content.session("ses_new", directory=PLACE, updated_at=50)
        world.store.content.session("ses_old", directory="/old", updated_at=49)
        for _ in range(2):
            assert "work on session ses_deleted" in " ".join((await world.look()).degraded)
        assert set(world.server.take("statuses")) == {PLACE}
        world.server.statuses_by.clear()
        await world.look()
        world.server.take("statuses")
        await world.look()
        assert world.server.take("statuses") == []
        await world.look(also=[SessionId("ses_deleted")], fresh=True)
        assert world.server.take("statuses") == [PLACE]

    async def test_a_session_in_which_nothing_is_open_is_compared_by_its_newest_turn(self, world: World) -> None:
        session = world.store.content.session("ses_9", directory=PLACE)
        world.store.content.turn(session, "msg_9", completed_at=1)
        world.server.busy(session, PLACE)
        world.server.shown, world.server.copies = False, world.store.turn_rows
        (report,) = (await world.look()).reports
        assert report.serves(session)
        world.server.copies = answer(None)
        (report,) = (await world.look(fresh=True)).reports
        assert not report.serves(session)

    async def test_a_fresh_look_compares_again(self, world: World) -> None:
        world.unfinished(busy=True)
        world.server.shown, world.server.copies = False, world.store.turn_rows
        assert (await world.look()).reports[0].served is not None
        world.server.copies = answer(None)
        assert (await world.look()).reports[0].served is not None
        assert (await world.look(fresh=True)).reports[0].served is None

    async def test_a_process_is_looked_up_once_for_some_seconds_and_by_each_fresh_look(self, world: World) -> None:
        world.unfinished(busy=True)
        world.server.shown, world.server.listens = False, AT_4096
        for looks, fresh in ((1, False), (1, False), (2, True)):
            await world.look(fresh=fresh)
            assert world.owners.looks == looks
        world.clock.advance(10)
        await world.look()
        assert world.owners.looks == 3

    async def test_an_old_server_that_let_go_at_our_abort_is_believed(self, world: World) -> None:
        world.unfinished()
        world.server.vouching = False
        world.memory.let_go[TurnId("msg_1")] = world.server.name
        assert (await world.look()).let_go == {"msg_1": world.server.name}


def answer(rows: Sequence[Row] | None) -> Callable[[TurnId], Awaitable[Sequence[Row] | None]]:
    """What a server has for any turn."""

    async def copy(_: TurnId) -> Sequence[Row] | None:
        return rows

    return copy


async def test_a_server_that_is_busy_with_sessions_of_another_database_costs_no_read_at_each_look(
    world: World,
) -> None:
    world.unfinished(busy=True)
    world.server.busy(SessionId("ses_elsewhere"), PLACE)
    for _ in range(4):
        assert "ses_elsewhere" not in (await world.look()).snapshot.sessions
    assert len(world.store.looks) == 2


async def test_a_session_at_work_in_which_nothing_is_open_costs_one_read_at_each_change(world: World) -> None:
    world.unfinished(busy=True)
    session = world.store.content.session("ses_between", directory=PLACE)
    world.server.busy(session, PLACE)
    await world.look()
    world.store.looks.clear()
    world.store.content.text("msg_1")
    assert session in (await world.look()).snapshot.sessions
    assert len(world.store.looks) == 1
