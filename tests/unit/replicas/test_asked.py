"""Whom a look asks among the replicas, and whose word of a moment ago it takes; counted by what hosts are asked."""

from collections.abc import Collection, Sequence

import pytest

from tests.fakes.store import FakeStore
from tests.support.waiting import wait_until
from tests.unit.observations import session
from tests.unit.replicas.test_replicas import BUSY, ONE, PATIENCE, TWO, Crew, Member, crew
from watchdog.model.report import EVERYWHERE, ServerReport
from watchdog.model.session import Ask, AskKind, Session, SessionId, Snapshot
from watchdog.observing.answers import Hearing, Lookup, ShownBefore
from watchdog.observing.slow_servers import Silences
from watchdog.replicas import publisher, remote
from watchdog.replicas import replica as replicas
from watchdog.replicas.elsewhere import Elsewhere
from watchdog.timing.clock import SystemClock

__all__ = ["crew"]

ENDED = SessionId("ses_ended")
NEVER: float = 600.0


@pytest.fixture(autouse=True)
def no_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody publish of its own accord after the first time, and take that for recent."""
    monkeypatch.setattr(publisher, "BEAT_SECONDS", NEVER)
    monkeypatch.setattr(remote, "LATELY_SECONDS", NEVER)


class Team:
    """One that acts, and two others, of which each has published once."""

    def __init__(self, crew: Crew, members: Sequence[Member]) -> None:
        self.crew = crew
        self.leader, self.b, self.c = members
        self.forget()

    @classmethod
    async def of(cls, crew: Crew, **busy: Collection[SessionId]) -> "Team":
        """Whose hosts are at work on some sessions from the start, and acts on the first publication of each."""
        members = [await crew.join(name, serve=False) for name in ("a", "b", "c")]
        for name, member in zip("abc", members, strict=True):
            member.host.busy = dict.fromkeys(busy.get(name, ()), BUSY)
            member.serve()
        team = cls(crew, members)
        await wait_until(team.published, "what each says", seconds=PATIENCE)
        team.forget()
        return team

    def published(self) -> bool:
        """Whether each knows what both others say."""
        return all(
            len(heard := member.replicas._register.heard) == 3
            and all(each.publication is not None and each.publication.saying is not None for each in heard.values())
            for member in (self.leader, self.b, self.c)
        )

    def forget(self) -> None:
        """Count from here on."""
        self._rows = self._versions()
        for member in (self.leader, self.b, self.c):
            member.host.asked = 0

    def asked(self) -> list[str]:
        """Whose hosts were asked since, by way of the database."""
        return [name for name, member in (("b", self.b), ("c", self.c)) if member.host.asked]

    def written(self) -> list[str]:
        """Whose rows were written since."""
        return [name for name, version in self._versions().items() if version != self._rows[name]]

    def _versions(self) -> dict[str, int]:
        return {row[0]: row[1] for row in self.crew.run("SELECT name, xmin::text FROM opencode_watchdog.replica")}


async def look(
    member: Member,
    *sessions: Session,
    about: Collection[SessionId] = (),
    fresh: bool = False,
    first: bool = False,
) -> dict[str, ServerReport]:
    """The reports of one look, by name."""
    hearing = Hearing(
        store=FakeStore(),
        fleet=member.replicas,
        silences=Silences(SystemClock()),
        lookup=Lookup(Elsewhere()),
        before=ShownBefore(),
        fresh=fresh,
    )
    reports = await hearing.reports(
        Snapshot(sessions={each.id: each for each in sessions}), named=about, search=first
    )
    return {report.name.removeprefix("replica "): report for report in reports}


async def test_a_look_asks_nobody_and_has_nothing_written_where_everything_is_claimed(crew: Crew) -> None:
    team = await Team.of(crew, b=[ONE], c=[TWO])
    for first in (True, False, False):
        reports = await look(team.leader, session(ONE), session(TWO), first=first)
        assert [list(reports[name].said) for name in "bc"] == [[ONE], [TWO]]
        assert {report.trouble for report in reports.values()} == {None}
    assert (team.asked(), team.written()) == ([], [])


async def test_what_began_since_is_found_by_asking_all(crew: Crew) -> None:
    team = await Team.of(crew, b=[ONE])
    team.c.host.busy = {TWO: BUSY}
    reports = await look(team.leader, session(ONE), session(TWO))
    assert list(reports["c"].said) == [TWO]
    assert team.asked() == ["b", "c"]


async def test_who_may_have_let_go_of_what_is_closed_is_asked(crew: Crew) -> None:
    team = await Team.of(crew, b=[ONE], c=[TWO])
    team.b.host.busy = {}
    reports = await look(team.leader, session(ONE, turns=()), session(TWO))
    assert not reports["b"].said
    assert (team.asked(), team.written()) == (["b"], ["b"])


async def test_one_that_only_looks_on_asks_nobody(crew: Crew) -> None:
    team = await Team.of(crew, b=[ONE])
    team.c.host.busy = {TWO: BUSY}
    team.b.lease.acquire = lambda: False  # type: ignore[method-assign]
    reports = await look(team.b, session(TWO))
    assert not reports["c"].said
    assert team.asked() == ["b"]  # its own, in its own process


async def test_what_an_act_rests_on_is_asked_of_those_whom_it_concerns(crew: Crew) -> None:
    team = await Team.of(crew, b=[ONE], c=[TWO])
    team.b.host.asks = [Ask(id="1", kind=AskKind.QUESTION, session_id=ONE)]
    reports = await look(team.leader, session(ONE), session(TWO), about=[ONE], fresh=True)
    assert list(reports["b"].said) == [ONE]
    assert reports["b"].asks[EVERYWHERE] == tuple(team.b.host.asks)
    assert list(reports["c"].said) == [TWO]
    assert (team.asked(), team.written()) == (["b"], ["b"])


async def test_who_is_at_work_below_is_asked_and_what_has_ended_below_concerns_nobody(crew: Crew) -> None:
    team = await Team.of(crew, b=[ONE], c=[TWO])
    parent, below = session(ONE), session(TWO, parent=ONE)
    ended = session(ENDED, turns=(), parent=ONE)
    await look(team.leader, parent, ended, about=[ONE, ENDED], fresh=True)
    assert team.asked() == ["b"]
    team.forget()
    await look(team.leader, parent, below, ended, about=[ONE, TWO, ENDED], fresh=True)
    assert team.asked() == ["b", "c"]


@pytest.mark.parametrize("known", [True, False], ids=["open", "not in the database"])
async def test_that_nobody_is_at_work_on_it_is_asked_of_all(crew: Crew, *, known: bool) -> None:
    team = await Team.of(crew, b=[ONE])
    there = [session(ONE), *([session(TWO)] if known else [])]
    await look(team.leader, *there, about=[TWO], fresh=True)
    assert team.asked() == ["b", "c"]
    team.forget()
    team.c.host.hangs = True
    reports = await look(team.leader, *there, about=[TWO], fresh=True)
    assert reports["c"].trouble is not None
    assert "has not answered" in reports["c"].trouble


async def test_without_a_session_that_it_is_about_all_are_asked(crew: Crew) -> None:
    team = await Team.of(crew, b=[ONE])
    await look(team.leader, session(ONE), fresh=True)
    assert team.asked() == ["b", "c"]


async def test_whose_word_is_too_old_is_asked(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    team = await Team.of(crew, b=[ONE], c=[TWO])
    monkeypatch.setattr(remote, "LATELY_SECONDS", 5.0)
    crew.age("c", 20)
    await wait_until(lambda: team.leader.replicas._register.heard["c"].age_seconds > 5, "it", seconds=PATIENCE)
    reports = await look(team.leader, session(ONE), session(TWO))
    assert list(reports["c"].said) == [TWO]
    assert team.asked() == ["c"]


async def test_a_question_to_one_is_put_to_no_other(crew: Crew) -> None:
    team = await Team.of(crew)
    team.b.host.busy = {ONE: BUSY}
    for _ in range(3):
        assert await team.leader.other("b").statuses() == {ONE: BUSY}
    assert (team.asked(), team.written()) == (["b"], ["b"])


def counted(member: Member) -> list[float]:
    """An entry for each reading of a replica from here on."""
    register, readings = member.replicas._register, list[float]()
    read = register.read

    async def noted() -> None:
        readings.append(register.age_seconds)
        await read()

    register.read = noted  # type: ignore[method-assign]
    return readings


async def rests(member: Member, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let a replica read only when it is woken, and count that."""
    monkeypatch.setattr(replicas, "ASIDE_SECONDS", NEVER)
    readings = counted(member)
    member.replicas._wake.ring()
    await wait_until(lambda: readings, "that it reads", seconds=PATIENCE)
    readings.clear()
    return readings


async def test_one_that_does_not_act_reads_seldom_and_when_it_is_told_to(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = await Team.of(crew, b=[ONE])
    aside, acting = await rests(team.b, monkeypatch), counted(team.leader)
    await wait_until(lambda: len(acting) >= 3, "that the one that acts reads", seconds=PATIENCE)
    assert not aside
    await team.leader.other("b").abort(team.leader.other("b").own, ONE)
    assert team.b.host.aborted == [ONE]
    assert aside


async def test_an_errand_wakes_only_the_one_that_it_is_for(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    team = await Team.of(crew, b=[ONE])
    others = await rests(team.c, monkeypatch)
    await team.leader.other("b").abort(team.leader.other("b").own, ONE)
    assert team.b.host.aborted == [ONE]
    await team.leader.other("c").statuses()  # by now it has heard of everything before
    assert not others


async def test_where_too_many_are_to_be_named_all_are_asked(crew: Crew) -> None:
    team = await Team.of(crew)
    await team.leader.replicas._register.ask("x", [f"{number:032x}" for number in range(300)])
    await wait_until(lambda: team.asked() == ["b", "c"], "both", seconds=PATIENCE)
