"""Whose word counts. Each test is named by the pitfall; its number is in the docstring."""

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fakes.server import FakeServer
from tests.pitfalls.stage import ELSEWHERE, HOUR, MINUTE, PLACE, Stage
from tests.unit.observations import POLICY, SERVER, call, holder, observation, question, report, session
from watchdog.comparing import Likeness, compared
from watchdog.endpoints import own_addresses
from watchdog.errors import ServerSilent
from watchdog.judge import judge
from watchdog.memory import Memory
from watchdog.model import (
    Ask,
    AskKind,
    Endpoint,
    Holder,
    Holders,
    Listener,
    Observation,
    Result,
    Row,
    Served,
    ServerName,
    SessionId,
    Shown,
    SpareReason,
    TurnId,
)
from watchdog.opencode.listeners import listener_at
from watchdog.proof import prove
from watchdog.serving import Doubt, NotShown, by_process


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
