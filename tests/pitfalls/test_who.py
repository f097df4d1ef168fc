"""Whose word counts. Each test is named by the pitfall; its number is in the docstring."""

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.server import AbortBehaviour, FakeServer
from tests.pitfalls.stage import ELSEWHERE, HOUR, MINUTE, OLD_SERVER, PLACE, Stage
from tests.unit.observations import POLICY, SERVER, call, holder, observation, question, report, session
from watchdog.errors import ServerSilent
from watchdog.judging.judge import judge
from watchdog.judging.orphan_proof import prove
from watchdog.model.outcome import Result, Row
from watchdog.model.report import Endpoint, Holder, Holders, Listener, Observation, Served, Shown
from watchdog.model.session import Activity, Ask, AskKind, ServerName, SessionId, Status, TurnId
from watchdog.model.verdict import SpareReason
from watchdog.observing.comparing import Likeness, compared
from watchdog.observing.endpoints import own_addresses
from watchdog.observing.memory import Memory
from watchdog.observing.serving import Doubt, NotShown, by_process
from watchdog.opencode.processes.listeners import listener_at
from watchdog.operating.holds import leave_alone


def test_a_fork_or_an_unknown_version_that_says_it_is_idle_proves_nothing() -> None:
    """39: not for the operator's word either, and not after an abort of ours."""
    lost = session(calls=[call(age=1000)])
    unknown = report(served=["msg_1"], vouches=False, known=False)
    for policy in (POLICY, replace(POLICY, sole_owner=True)):
        for holders in ([holder()], Holders(complete=False)):
            for let_go in ({}, {TurnId("msg_1"): SERVER}):
                seen = observation(lost, reports=[unknown], holders=holders, let_go=let_go)
                assert not prove(seen, policy, lost, lost.turns[0]).holds


def test_of_a_session_of_a_remote_workspace_nobody_here_can_say() -> None:
    """40."""
    remote = replace(session(calls=[call(age=1000)]), remote="cloud")
    for reports in ([report(served=["msg_1"])], [], [report(statuses={})]):
        for holders in ([], [holder()]):
            judged = judge(observation(remote, reports=reports, holders=holders), POLICY, observation().now)
            assert judged.verdicts == ()
            assert [spared.reason for spared in judged.spared] == [SpareReason.NO_WITNESS]
            assert "workspace of type cloud" in judged.spared[0].why


@pytest.mark.parametrize("depth", [1, 2])
def test_what_a_session_of_a_remote_workspace_started_runs_where_that_runs(depth: int) -> None:
    """40: whatever the child's own row says of a workspace."""
    remote = replace(session(calls=[call(age=1000)]), remote="cloud")
    below = [session(f"ses_{number}", parent=f"ses_{number - 1}", age=900) for number in range(2, 2 + depth)]
    for holders in ([], [holder()]):
        seen = observation(remote, *below, reports=[report(served=["msg_1"])], holders=holders)
        judged = judge(seen, POLICY, seen.now)
        assert judged.verdicts == ()
        told = {spared.session_id: spared.why for spared in judged.spared}
        assert "workspace of type cloud" in told[below[-1].id]


def addresses() -> Iterator[tuple[str, str]]:
    """Where a server may listen, and where it is asked."""
    yield from (("127.0.0.1", "127.0.0.1"), ("127.0.0.5", "127.0.0.5"), ("0.0.0.0", "127.0.0.1"))  # noqa: S104
    if socket.has_ipv6 and "::1" in own_addresses():
        yield from (("::1", "::1"), ("::", "127.0.0.1"), ("::", "::1"))
    yield from ((each, each) for each in sorted(own_addresses()) if "." in each and not each.startswith("127."))


@pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="there is no /proc")  # noqa: PTH112 - of the system
@pytest.mark.parametrize(("listens", "asked"), list(addresses()))
async def test_a_server_on_any_address_of_this_machine_is_matched_with_its_process(listens: str, asked: str) -> None:
    """41."""
    server = await asyncio.start_server(lambda _r, _w: None, listens, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        found = await listener_at([Endpoint(address=asked, port=port)])
        assert (found.pids, found.hidden) == (frozenset([os.getpid()]), False)
        assert await listener_at([Endpoint(address="192.0.2.1", port=port)]) == Listener()
    finally:
        server.close()


ONE = Holder(pid=1, born_ms=5, command="opencode serve")
TWO = Holder(pid=2, born_ms=6, command="opencode serve")


@pytest.mark.parametrize(
    ("listener", "known", "shown"),
    [
        (Listener(sockets=(frozenset([1]),), hidden=False, databases=frozenset([1])), [ONE, TWO], (Shown.PROCESS, 1)),
        (Listener(sockets=(frozenset([1]),), hidden=False), [ONE], (Shown.PROCESS, 1)),
        (
            Listener(sockets=(frozenset([1, 2]),), hidden=False, databases=frozenset([1, 2])),
            [ONE, TWO],
            (Shown.PROCESS, None),
        ),
        (Listener(sockets=(frozenset([1]),), hidden=True, databases=frozenset([1])), [ONE], None),
        (Listener(sockets=(frozenset([3]),), hidden=False), [ONE], None),
        # A tunnel beside it, on the other address of the same name; and one that was given its very socket.
        (Listener(sockets=(frozenset([1]), frozenset([3])), hidden=False, databases=frozenset([1])), [ONE], None),
        (Listener(sockets=(frozenset([1, 3]),), hidden=False, databases=frozenset([1])), [ONE], (Shown.PROCESS, 1)),
        (Listener(), [ONE], None),
        (Listener(sockets=(frozenset([3]),), hidden=False, databases=frozenset([3])), [ONE], Doubt.ANOTHER_DATABASE),
        (
            Listener(sockets=(frozenset([1, 3]),), hidden=False, databases=frozenset([1, 3])),
            [ONE],
            Doubt.ANOTHER_DATABASE,
        ),
    ],
)
def test_the_process_at_an_address_shows_which_database_its_server_serves(
    listener: Listener, known: list[Holder], shown: tuple[Shown, int | None] | Doubt | None
) -> None:
    """36: a tunnel has no database at all, and shows nothing either way."""
    found = by_process(FakeServer(), listener, Holders(known=tuple(known)))
    if isinstance(found, Served):
        assert (found.by, found.pid) == shown
    else:
        assert (found.doubt if isinstance(found, NotShown) else None) == shown


def rows(output: str, *, status: str = "running", more: str = "") -> list[Row]:
    """A turn with a call whose output grows."""
    data = f'{{"status":"{status}","output":"{output}","n":{len(output)}{more}}}'
    ids = {"message_id": TurnId("msg_1"), "session_id": SessionId("ses_1"), "created_ms": 0, "updated_ms": 0}
    return [
        Row(table="message", id="msg_1", data='{"role":"assistant","time":{"created":1}}', **ids),  # type: ignore[arg-type]  # of several types
        Row(table="part", id="prt_1", data=data, **ids),  # type: ignore[arg-type]  # the same
    ]


@pytest.mark.parametrize(
    ("before", "copy", "after", "likeness"),
    [
        (rows("a"), rows("a"), rows("a"), Likeness.SAME),
        (rows("a"), rows("b"), rows("a"), Likeness.OTHER),
        (rows("a"), rows("a", status="completed"), rows("a"), Likeness.OTHER),
        (rows("a"), rows("a")[:1], rows("a"), Likeness.OTHER),
        (rows("a"), [], rows("a"), Likeness.OTHER),
        ([], rows("a"), [], Likeness.OTHER),
        (rows("a"), [replace(each, session_id=SessionId("ses_2")) for each in rows("a")], rows("a"), Likeness.OTHER),
        (rows("a"), rows("a", more=',"title":"x"'), rows("a"), Likeness.OTHER),
        (rows("a"), rows("ab"), rows("abc"), Likeness.SAME),
        (rows("a"), rows("abc"), rows("abc"), Likeness.SAME),
        (rows("a"), rows("ax"), rows("abc"), Likeness.UNSURE),
        (rows("a")[:1], rows("a"), rows("a"), Likeness.SAME),
        (rows("a"), rows("a", status="done"), rows("a", status="completed"), Likeness.UNSURE),
    ],
)
def test_a_copy_reads_as_the_rows_do_or_as_something_between_them_while_they_change(
    before: list[Row], copy: list[Row], after: list[Row], likeness: Likeness
) -> None:
    """36."""
    assert compared(before, copy, after) is likeness


async def test_one_folder_that_a_server_cant_answer_for_stops_nothing_in_another(stage: Stage) -> None:
    """49."""
    bad = stage.work("bad", directory=ELSEWHERE, age=MINUTE)
    hung = stage.work("hung", directory=PLACE, age=MINUTE)
    statuses = stage.server.statuses

    async def half(directory: str) -> object:
        if directory == ELSEWHERE:
            raise ServerSilent("it did not answer about that folder")
        return await statuses(directory)

    async with stage.watching(tool_timeout=5 * MINUTE) as play:
        await play.look()
        stage.server.statuses = half  # type: ignore[method-assign, assignment]  # the test's own
        await play.pass_time(HOUR / 2)
        assert play.diary.results == [Result.RECOVERED]
        assert play.diary.outcomes[0].session_id == hung.session
        assert play.reason(bad.session) == {SpareReason.CLOCK_STOPPED}
        stage.server.statuses = statuses  # type: ignore[method-assign]  # it answers again
        await play.pass_time(HOUR / 2)
        assert [each.session_id for each in play.diary.outcomes] == [hung.session, bad.session]


async def test_looking_asks_about_no_folder_in_which_nothing_can_be_at_work(stage: Stage) -> None:
    """50."""
    for number in range(20):
        stage.rows.session(f"ses_old{number}", directory=f"/old{number}")
    work = stage.work(age=MINUTE)
    asked: set[str] = set()
    statuses = stage.server.statuses

    async def counted(directory: str) -> object:
        asked.add(directory)
        return await statuses(directory)

    stage.server.statuses = counted  # type: ignore[method-assign, assignment]  # the test's own
    async with stage.watching() as play:
        await play.pass_time(2 * HOUR)
    assert asked == {PLACE}
    assert work.session


def test_asks_of_a_server_that_is_up_are_forgotten_when_they_are_gone_though_another_is_silent() -> None:
    """59."""
    memory = Memory()
    other = ServerName("http://127.0.0.1:5000")
    asks = [question("ses_1")]
    theirs = Ask(id="que_2", kind=AskKind.QUESTION, session_id=SessionId("ses_2"))
    far = Served(server=other, by=Shown.PROCESS, pid=200)
    both = (session(), session("ses_2"))

    def look(*reports: object) -> Observation:
        seen = observation(*both, reports=reports)  # type: ignore[arg-type]  # reports
        memory._note_asks(seen)
        return seen

    look(report(asks=asks), report(name=other, pid=200, served=far, asks=[theirs]))
    assert set(memory.asks) == {"que_1", "que_2"}
    silent = report(name=other, pid=200, served=far, problem="it is silent", asks=(), directories=())
    look(report(served=["msg_1"]), silent)
    assert set(memory.asks) == {"que_2"}


DELETED = SessionId("ses_deleted")
LIMITS: dict[str, Any] = {"idle_timeout": 15 * MINUTE, "tool_timeout": 30 * MINUTE}


def _at_work_on_a_deleted_session(stage: Stage, *, silent: float) -> None:
    """A server whose process is seen is at work on a session that is in no table."""
    stage.owners.holders = Holders(known=(OLD_SERVER,))
    stage.server.shown = False
    stage.server.listens = Listener(sockets=(frozenset([OLD_SERVER.pid]),), hidden=False)
    stage.server.busy(DELETED, PLACE)
    stage.server.signs[DELETED] = stage.back(silent)


@pytest.mark.parametrize(("silent", "ends"), [(29 * MINUTE, False), (30 * MINUTE, True)])
async def test_a_session_that_was_deleted_while_it_ran_is_ended_once_it_is_silent_for_the_longest_limit(
    stage: Stage, silent: float, *, ends: bool
) -> None:
    """54: nothing tells of its calls, so it is given as long as any of them would be."""
    _at_work_on_a_deleted_session(stage, silent=silent)
    async with stage.watching(**LIMITS) as play:
        assessment = await play.look()
        await play.calm()
        (told,) = assessment.observation.degraded
        assert f"at work on session {DELETED}, which is not in this database any more" in told
        assert stage.server.aborted == ([(DELETED, PLACE)] if ends else [])
        assert [each.reason for each in assessment.judgement.spared] == (
            [] if ends else [SpareReason.RECENTLY_ACTIVE]
        )


@pytest.mark.parametrize("what", ["an ask", "a retry", "no feed", "a hold", "a host's word", "a child"])
async def test_a_session_that_was_deleted_while_it_ran_is_spared_where_any_other_one_would_be(
    stage: Stage, what: str
) -> None:
    """54."""
    _at_work_on_a_deleted_session(stage, silent=9 * HOUR)
    if what == "an ask":
        stage.server.asks_by[PLACE] = [Ask(id="que_1", kind=AskKind.QUESTION, session_id=DELETED)]
    elif what == "a retry":
        stage.server.statuses_by[PLACE][DELETED] = _retrying(stage, 40 * MINUTE)
    elif what == "no feed":
        stage.server.heard = None
    elif what == "a hold":
        await leave_alone(stage.journal, DELETED, length_ms=None, now_ms=stage.hands.now_ms)
    elif what == "a child":  # it was started after the deletion, and names its parent
        child = stage.rows.session(parent=DELETED, directory=PLACE, at=stage.hands.now_ms)
        stage.rows.call(stage.rows.turn(child, at=stage.hands.now_ms), at=stage.hands.now_ms)
        stage.server.busy(child, PLACE)
    else:
        stage.server.shown = True  # a host may run sessions that it has not stored yet
    async with stage.watching(**LIMITS) as play:
        await play.look()
        await play.pass_time(20 * MINUTE if what == "a child" else HOUR)
        assert stage.server.aborted == []


async def test_a_session_that_was_deleted_while_it_ran_is_ended_if_it_never_tries_its_provider_again(
    stage: Stage,
) -> None:
    """54: it has the longest limit from then on."""
    _at_work_on_a_deleted_session(stage, silent=9 * HOUR)
    stage.server.statuses_by[PLACE][DELETED] = _retrying(stage, 20 * MINUTE)
    async with stage.watching(**LIMITS) as play:
        (spared,) = (await play.look()).judgement.spared
        assert spared.reason is SpareReason.RETRYING
        await play.pass_time(49 * MINUTE)
        assert stage.server.aborted == []
        await play.pass_time(2 * MINUTE)
        assert stage.server.aborted == [(DELETED, PLACE)]


def _retrying(stage: Stage, seconds: float) -> Status:
    """A server's word that a session tries its provider again after so many seconds."""
    return Status(activity=Activity.RETRY, retry_at_ms=stage.hands.now_ms + round(seconds * 1000))


async def test_what_was_deleted_and_ignores_its_aborts_is_told_so_often_and_no_more(stage: Stage) -> None:
    """54 and 20."""
    _at_work_on_a_deleted_session(stage, silent=9 * HOUR)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    async with stage.watching(max_attempts=2, **LIMITS) as play:
        await play.pass_time(20 * MINUTE)
        assert len(stage.server.aborted) == 2
        assert [each.cancel_session_id for each in play.diary.alerts] == [DELETED]
