"""Many messages become one, quiet hours are kept, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from tests.fakes.clock import FakeClock
from watchdog.alerts.alert import Alert, Severity
from watchdog.alerts.desk import FEW, FOLDING_SECONDS, RESTING_SECONDS, Desk, fold
from watchdog.errors import DatabaseUnavailable
from watchdog.model.session import SessionId
from watchdog.settings.quiet import QuietHours, quiet_hours
from watchdog.settings.receivers import Occasion
from watchdog.shown import stacked


def alert(number: int, occasion: Occasion = Occasion.STUCK, severity: Severity = Severity.INFO) -> Alert:
    return Alert(
        title=f"message {number}", body=stacked(f"why {number}", "more"), severity=severity, occasion=occasion
    )


@asynccontextmanager
async def desk(
    quiet: QuietHours | None = None, *, at: str = "12:00", titles: Mapping[SessionId, str] | None = None
) -> AsyncIterator[tuple[Desk, FakeClock, list[Alert]]]:
    """A desk at work, from this time of the day on."""
    clock = FakeClock(wall_ms=datetime.fromisoformat(f"2026-11-28 {at}").timestamp() * 1000)
    told: list[Alert] = []

    async def look_up(_: Collection[SessionId]) -> Mapping[SessionId, str]:
        if titles is None:
            raise DatabaseUnavailable("it is locked")
        return titles

    it = Desk(told.append, titles=look_up, clock=clock, quiet=quiet, origin="box", database="/data/x.db")
    task = asyncio.create_task(it.run())
    yield it, clock, told
    task.cancel()


async def pass_time(clock: FakeClock, seconds: float, *, step: float = 10.0) -> None:
    """Let time pass, with whoever sleeps waking in between."""
    left = seconds
    while left > 0:
        clock.advance(min(step, left))
        left -= step
        for _ in range(5):
            await asyncio.sleep(0)


async def test_one_message_comes_alone_with_its_sender_and_the_database() -> None:
    async with desk() as (it, clock, told):
        it.take(alert(1))
        await clock.until_sleeping()
        assert told == []
        await pass_time(clock, FOLDING_SECONDS)
    assert [(each.title, each.body) for each in told] == [("box: message 1", "why 1\nmore\n/data/x.db")]


async def test_many_at_once_become_one_and_what_comes_at_their_heels_waits() -> None:
    async with desk() as (it, clock, told):
        for number in range(14):
            it.take(alert(number, severity=Severity.WARNING if number == 12 else Severity.INFO))
        it.take(alert(99, Occasion.OUTCOME))
        await clock.until_sleeping()
        await pass_time(clock, FOLDING_SECONDS)
        folded, alone = told
        assert (folded.title, folded.severity) == ("box: 14 messages about what is stuck", Severity.WARNING)
        assert folded.body.split("\n") == [
            *(f"message {number}: why {number}" for number in range(10)),
            "and 4 more: opencode-watchdog status, history",
            "/data/x.db",
        ]
        assert alone.title == "box: message 99"
        it.take(alert(20))
        await pass_time(clock, FOLDING_SECONDS, step=FOLDING_SECONDS)
        assert len(told) == 2
        await pass_time(clock, RESTING_SECONDS + FOLDING_SECONDS, step=FOLDING_SECONDS)
    assert told[-1].title == "box: message 20"


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 3000])
async def test_of_very_many_the_number_is_right(count: int) -> None:
    async with desk() as (it, clock, told):
        for number in range(count):
            it.take(alert(number))
        await clock.until_sleeping()
        await pass_time(clock, FOLDING_SECONDS)
    if count <= FEW:
        assert len(told) == count
    else:
        assert [each.title for each in told] == [f"box: {count} messages about what is stuck"]


def test_a_test_message_is_never_folded() -> None:
    tests = [Alert(title=str(number), body="", severity=Severity.INFO) for number in range(9)]
    assert fold(tests, {}) == tests


async def test_in_quiet_hours_nothing_is_sent_and_afterwards_everything() -> None:
    quiet = quiet_hours("22:00-07:00")
    async with desk(quiet, at="23:30") as (it, clock, told):
        it.take(alert(1))
        await clock.until_sleeping()
        await pass_time(clock, 7 * 3600)
        it.take(alert(2))
        assert told == []
        await pass_time(clock, 1800 + 60)
        assert [each.title for each in told] == ["box: message 1", "box: message 2"]
        it.take(alert(3))
        await pass_time(clock, 60)
    assert len(told) == 3


async def test_at_the_end_what_waits_is_sent_in_quiet_hours_too() -> None:
    async with desk(quiet_hours("00:00-23:59")) as (it, _, told):
        it.take(alert(1))
        await it.flush()
    assert len(told) == 1


async def test_a_message_about_who_waits_has_the_title_or_goes_without() -> None:
    waits = Alert(title="t", body="b", severity=Severity.INFO, occasion=Occasion.WAITING, waits=SessionId("ses_1"))
    bodies = []
    for titles in ({SessionId("ses_1"): "Paint\x1b[2J it"}, {}, None):
        async with desk(titles=titles) as (it, _, told):
            it.take(waits)
            await it.flush()
        bodies.append(told[0].body)
    assert bodies == ["“Paint\\x1b[2J it”\nb\n/data/x.db", "b\n/data/x.db", "b\n/data/x.db"]


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("22:00-07:00", ["22:00", "23:59", "00:00", "06:59"], ["07:00", "12:00", "21:59"]),
        ("12:30 - 13:15", ["12:30", "13:14"], ["12:29", "13:15", "00:00"]),
        ("9:00–17:00", ["09:00"], ["17:00", "08:59"]),  # noqa: RUF001 - as people type it
        ("23:00-00:00", ["23:30"], ["00:00", "22:59"]),
    ],
)
def test_quiet_hours_may_go_over_midnight(hours: str, inside: list[str], outside: list[str]) -> None:
    quiet = quiet_hours(hours)
    assert quiet is not None
    assert all(quiet.covers(datetime.fromisoformat(f"2026-11-28 {at}")) for at in inside)
    assert not any(quiet.covers(datetime.fromisoformat(f"2026-11-28 {at}")) for at in outside)
    assert quiet_hours(str(quiet)) == quiet


@pytest.mark.parametrize(
    "value", ["22-7", "25:00-07:00", "22:60-07:00", "", "22:00", "7:00-7:00", 5, "22:00-07:00 UTC"]
)
def test_what_are_no_quiet_hours_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"22:00-07:00|same time"):
        quiet_hours(value)
