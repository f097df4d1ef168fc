"""Several verdicts at once: so many at each server, none held up by another server, and no session in two hands."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio
import pytest

from tests.fakes.server import AbortBehaviour, FakeServer, endpoint
from tests.unit.loop.test_watch import LADDER, PLACE, POLICY, QUICK, SECONDS, World
from watchdog.errors import ServerSilent
from watchdog.judging.rulings import Dropped
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Holders
from watchdog.model.session import ServerName, SessionId, Status
from watchdog.model.verdict import Verdict

PATIENT = replace(LADDER, abort_timeout_seconds=60)


@dataclass(kw_only=True, eq=False)
class Silent(FakeServer):
    """A server that accepts and never answers: the asker gives up when the test lets it."""

    asked: int = 0
    give_up: anyio.Event = field(default_factory=anyio.Event)

    async def statuses(self, directory: str) -> dict[SessionId, Status]:  # noqa: ARG002
        self.asked += 1
        await self.give_up.wait()
        raise ServerSilent("nothing within 5 s")


class Gate:
    """Aborts that wait until they are let go, counted."""

    def __init__(self, world: World, server: FakeServer) -> None:
        self.world, self.server = world, server
        self.under_way: Counter[SessionId] = Counter()
        self.most = self.most_of_one = 0
        self.may_end = anyio.Event()
        server.on_abort = self

    async def __call__(self, session_id: SessionId) -> None:
        self.under_way[session_id] += 1
        self.most = max(self.most, self.under_way.total())
        self.most_of_one = max(self.most_of_one, *self.under_way.values())
        self.server.busy(session_id, PLACE)  # a server is at work on it until the abort is done
        await self.may_end.wait()
        self.server.statuses_by[PLACE].pop(session_id, None)
        await self.world.end(session_id)
        self.under_way[session_id] -= 1


@pytest.fixture
def world() -> World:
    return World()


def second(world: World, name: str = "http://127.0.0.1:4097") -> FakeServer:
    """One more server on the database."""
    server = FakeServer(name=ServerName(name), leads_to=(endpoint(4097),))
    server.on_abort = world.end
    world.fleet.known.append(server)
    return server


def hang(world: World, server: FakeServer, *names: str) -> list[SessionId]:
    """Sessions that hang at a server."""
    sessions = [world.hang(name, busy=False) for name in names]
    for session in sessions:
        server.busy(session, PLACE)
    return sessions


def ended(world: World) -> set[SessionId]:
    return {outcome.session_id for outcome, _ in world.diary.ends}


async def run_until(world: World, true: Callable[[], object], *, most: int = 8) -> None:
    """Run the loop until something is true, and then end it at once, whatever is under way."""
    watch = world.watch(replace(QUICK, max_concurrency=most), ladder=PATIENT)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.run, anyio.Event())
        await world.diary.until(true)
        group.cancel_scope.cancel()


async def test_a_server_that_hangs_holds_up_only_its_own(world: World) -> None:
    """As many aborts hang at one server as are made there at once, and more wait for their turn."""
    others = [second(world), second(world, "http://127.0.0.1:4098")]
    world.server.abort_behaviour = AbortBehaviour.HANGS
    stuck = hang(world, world.server, *(f"hung{number}" for number in range(12)))
    free = [session for each in others for session in hang(world, each, *(f"{each.name[-1]}{n}" for n in range(12)))]
    await run_until(world, lambda: ended(world) >= set(free))
    assert len(world.server.aborted) == 8
    assert ended(world).isdisjoint(stuck)
    assert world.diary.results() == [Result.RECOVERED] * len(free)


async def test_orphans_wait_for_no_server(world: World) -> None:
    world.server.abort_behaviour = AbortBehaviour.HANGS
    hang(world, world.server, "1", "2", "3")
    world.owners.holders = Holders()
    lost = [world.hang(f"lost{number}", busy=False) for number in range(12)]
    await run_until(world, lambda: ended(world) >= set(lost), most=2)
    assert len(world.server.aborted) == 2


async def test_each_server_has_so_many_at_once_and_each_session_is_in_one_hand(world: World) -> None:
    gates = [Gate(world, server) for server in (world.server, second(world))]
    for gate in gates:
        hang(world, gate.server, *(f"{gate.server.name[-1]}{number}" for number in range(6)))

    async def let_go() -> None:
        await world.diary.until(lambda: all(gate.under_way.total() == 2 for gate in gates))
        await world.diary.looks_more(3)  # which see every one of them as stuck as before
        for gate in gates:
            gate.may_end.set()

    async with world.running(replace(QUICK, max_concurrency=2), ladder=PATIENT), anyio.create_task_group() as group:
        group.start_soon(let_go)
        await world.diary.until(lambda: len(world.diary.ends) == 12)
    assert [(gate.most, gate.most_of_one) for gate in gates] == [(2, 1)] * 2
    assert Counter(session for session, _ in world.server.aborted).most_common(1)[0][1] == 1
    assert world.diary.results() == [Result.RECOVERED] * 12


async def test_a_session_that_moves_to_another_server_is_not_taken_up_there_beside(world: World) -> None:
    gate, other = Gate(world, world.server), second(world)
    (session,) = hang(world, world.server, "1")
    async with world.running(ladder=PATIENT):
        await world.diary.until(lambda: gate.under_way.total() == 1)
        other.busy(session, PLACE)
        await world.diary.looks_more(3)
        other.statuses_by.clear()
        gate.may_end.set()
        await world.diary.until(lambda: world.diary.ends)
    assert other.aborted == []
    assert len(world.diary.finds) == 1


async def test_what_waits_for_its_turn_when_the_watch_is_to_stop_is_not_begun(world: World) -> None:
    gate = Gate(world, world.server)
    hang(world, world.server, *(str(number) for number in range(6)))
    stop = anyio.Event()
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(world.watch(replace(QUICK, max_concurrency=2), ladder=PATIENT).run, stop)
            await world.diary.until(lambda: gate.under_way.total() == 2)
            stop.set()
            gate.may_end.set()
    assert world.diary.results() == [Result.RECOVERED] * 2
    assert (len(world.diary.finds), len(world.server.aborted)) == (2, 2)


async def test_many_orphans_share_the_looks_that_prove_them(world: World) -> None:
    lost = [world.hang(str(number), busy=False) for number in range(60)]
    world.owners.holders = Holders()
    watch, told = world.watch(), list[tuple[Verdict, Outcome]]()
    assessment = await watch.assess()
    world.owners.looks = 0
    await watch.act_on_all(
        assessment, assessment.judgement.verdicts, lambda verdict, outcome: told.append((verdict, outcome))
    )
    assert {verdict.session_id for verdict, _ in told} == set(lost)
    assert {outcome.result for _, outcome in told} == {Result.RECOVERED}
    assert [count for _, count in world.store.written] == [2] * 60
    assert 1 < world.owners.looks <= 15


async def test_a_proof_rests_on_a_look_that_began_after_it_was_asked_for(world: World) -> None:
    """A process that opens the database while a look is under way is seen by whoever asks from then on."""
    early, late = world.hang("1", busy=False), world.hang("2", busy=False)
    world.owners.holders = Holders()
    watch, late_proofs = world.watch(), list[object]()
    orphans = {each.session_id: each for each in (await watch.assess()).judgement.verdicts}
    began, may_go_on = anyio.Event(), anyio.Event()
    look = world.owners.look

    async def slowly() -> Holders:
        found = await look()
        if not began.is_set():
            began.set()
            await may_go_on.wait()
        return found

    world.owners.look = slowly  # type: ignore[method-assign]

    async def ask_late() -> None:
        late_proofs.append(await watch.recheck.again(orphans[late]))

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(watch.recheck.again, orphans[early])
            await began.wait()
            world.owners.holders = Holders(complete=False, why_incomplete="somebody came")
            group.start_soon(ask_late)
            await anyio.wait_all_tasks_blocked()
            may_go_on.set()
    (dropped,) = late_proofs
    assert isinstance(dropped, Dropped)
    assert world.owners.looks == 3


async def test_a_server_that_is_silent_is_waited_for_once_and_the_looks_go_on(world: World) -> None:
    silent = Silent(name=ServerName("http://127.0.0.1:4099"), leads_to=(endpoint(4099),))
    world.fleet.known.append(silent)
    world.hang("1", age=5)
    async with world.running() as watch, anyio.create_task_group() as group:
        group.start_soon(world.diary.until, lambda: world.diary.looks)
        await anyio.wait_all_tasks_blocked()
        assert (silent.asked, world.diary.looks) == (1, [])
        silent.give_up.set()
        await world.diary.looks_more(3)
        assert watch.silences.problem(silent, PLACE) == "nothing within 5 s"
        world.hang("2")
        await world.diary.until(lambda: world.diary.ends)
        assert silent.asked < len(world.diary.looks)
    assert {look.observation.degraded for look, _ in world.diary.looks} == {("nothing within 5 s",)}
    assert world.diary.results() == [Result.RECOVERED]


async def test_a_look_after_each_of_many_outcomes_is_not_taken(world: World) -> None:
    """Each wakes the loop, but a look that took long is followed by a rest; the last outcome ends that rest."""
    sessions = hang(world, world.server, *(str(number) for number in range(100)))
    async with world.running(
        replace(QUICK, poll_interval_seconds=3600), policy=replace(POLICY, idle_timeout_seconds=None)
    ):
        await world.diary.until(lambda: ended(world) == set(sessions))
        await world.diary.until(lambda: not world.diary.looks[-1][0].observation.snapshot.open_rows)
    assert len(world.diary.looks) < 20
