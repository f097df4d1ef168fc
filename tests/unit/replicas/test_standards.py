"""Replicas that would judge by different limits: one of them says so once, and `check` says who differs in what."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

import watchdog
from tests.support.program import Program, path, program, rows
from tests.support.waiting import wait_until
from tests.unit.checking.test_check import said
from tests.unit.checking.test_postgres import NOBODY
from tests.unit.replicas.test_replicas import PATIENCE, Crew, crew
from watchdog import Settings
from watchdog.replicas.standards import difference, disagreements, read

__all__ = ["crew", "path", "program", "rows"]

LIMITS = {"tool_timeout": "30m", "tool_timeouts": "mcp_*=1h"}
STANDARDS = "SELECT count(*) FROM opencode_watchdog.standard"


async def test_the_one_that_acts_says_once_whose_limits_differ(crew: Crew) -> None:
    members = [await crew.join(name, serve=False) for name in ("a", "b", "c")]
    for member, more in zip(members, ({}, {"tool_timeout": "10m"}, {}), strict=True):
        member.limits = LIMITS | more
        member.replicas = member.made(member.replicas.leader._name, member.server)
    with capture_logs() as logs:
        for member in reversed(members):
            member.serve()
            await wait_until(lambda: member.replicas._register.has_read, "it", seconds=PATIENCE)  # noqa: B023
        leader = members[0]
        await leader.sees("b", "c")
        await wait_until(lambda: crew.run(STANDARDS)[0][0] == 3, "all of them", seconds=PATIENCE)
        for _ in range(3):
            await leader.replicas._standards.compare()
    told = [each for each in logs if each["event"] == "replicas.limits_differ"]
    assert [(each["replica"], each["differs"]) for each in told] == [("b", "tool_timeout 10m, here 30m")]
    await members[1].stop()
    assert crew.run(STANDARDS)[0][0] == 2


async def test_what_is_left_of_one_that_is_gone_is_removed(crew: Crew) -> None:
    leader = await crew.join("a", serve=False)
    crew.run("INSERT INTO opencode_watchdog.standard VALUES ('gone', '{}')")
    leader.serve()
    left = "SELECT 1 FROM opencode_watchdog.standard WHERE process = 'gone'"
    await wait_until(lambda: not crew.run(left), "that it is removed", seconds=PATIENCE)


async def test_check_says_which_replicas_differ_in_what(program: Program, postgres_url: str) -> None:
    engine = create_async_engine(postgres_url)
    settings = [Settings(), Settings(tool_timeout=timedelta(minutes=10), tool_timeouts={"bash": None})]
    async with watchdog.running(settings[0], host=NOBODY, engine=engine) as one:
        alone = await program.run("check", "--database", postgres_url)
        assert "different limits" not in alone.stdout
        async with watchdog.running(settings[1], host=NOBODY, engine=engine):
            done = await program.run("check", "--database", postgres_url)
    await engine.dispose()
    assert one.failure is None
    (warning,) = [line for line in said(done, "warning") if "different limits" in line]
    first, second = sorted(said(done, "replicas"), key=lambda name: f"30m for {name}" not in warning)
    assert f"tool_timeout is 30m for {first}, 10m for {second}" in " ".join(warning.split()) or (
        f"tool_timeout is 10m for {second}, 30m for {first}" in " ".join(warning.split())
    )
    assert f"bash=off for {second}" in warning
    assert "idle_timeout" not in warning


def test_only_what_both_know_is_compared() -> None:
    assert difference(LIMITS, LIMITS | {"new": "1s"}) == []
    assert difference(LIMITS, {}) == []
    assert difference(LIMITS, {"tool_timeouts": "none"}) == ["tool_timeouts none, here mcp_*=1h"]
    assert disagreements({"a": LIMITS, "b": {}, "c": LIMITS}) == []
    assert disagreements({"a": LIMITS, "b": {"tool_timeout": "off"}, "c": LIMITS}) == [
        "tool_timeout is 30m for a and c, off for b"
    ]


def test_what_another_version_published_is_nothing_to_compare() -> None:
    assert [read(text) for text in ("", "[]", "null", "1")] == [{}] * 4
