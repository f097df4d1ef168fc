"""The benchmark's own arithmetic, its databases and its server: a figure is worth what these are worth."""

import asyncio
import io
import json
import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import mean

import anyio
import pytest
from rich.console import Console

from benchmarks import crowd, guest, leader, report, scans
from benchmarks import postgres as in_postgres
from benchmarks.__main__ import IN_POSTGRES, MEASUREMENTS, measurable
from benchmarks.bench import Bench
from benchmarks.cluster import connected, drop_indexes, fill, make_indexes
from benchmarks.figures import Figure, Result, Target, at_least, at_most, percentile, ratios, under
from benchmarks.generate import cache_folder, cached, generate, reserved
from benchmarks.postgres import explained
from benchmarks.processes import claim
from benchmarks.server import Server, close
from benchmarks.work import DIRECTORY, Changes, clear, opened
from benchmarks.writer import write
from tests.fakes.server import loopback
from tests.support.debian import require
from tests.support.postgres import Cluster
from tests.support.waiting import wait_until
from watchdog.model.report import Served, Shown
from watchdog.model.session import SessionId, TurnId
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.http.client import OpencodeServer
from watchdog.postgres import queries
from watchdog.postgres.connection import own_engine
from watchdog.postgres.store import PostgresStore
from watchdog.timing.clock import Countable, SystemClock

PARTS = 4_000
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated database, which a test leaves as it found it."""
    path = tmp_path_factory.mktemp("generated") / "opencode.db"
    generate(path, PARTS, seed=7)
    return path


@pytest.fixture
def plain(generated: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(generated, isolation_level=None)) as connection:
        yield connection


# --- the arithmetic


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (under(3), 2.999, True),
        (under(3), 3.0, False),
        (at_most(1.3), 1.3, True),
        (at_most(1.3), 1.301, False),
        (at_least(2_000), 2_000, True),
        (at_least(2_000), 1_999.9, False),
        (under(3), float("nan"), False),
        (at_least(3), float("nan"), False),
    ],
)
def test_a_target_is_met_on_its_side_of_the_limit_only(target: Target, value: float, met: bool) -> None:
    assert Figure.of("it", [value], "ms", target=target).met is met


def test_a_figure_is_the_median_of_its_rounds() -> None:
    assert Figure.of("it", [9.0, 1.0, 2.0], "ms").value == 2.0


def test_a_figure_without_a_target_is_neither_met_nor_missed() -> None:
    assert Figure.of("it", [1.0], "ms").met is None


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Figure.of("it", [], "ms")


def test_a_ratio_is_taken_round_by_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == (2.0, 3.0)
    with pytest.raises(ValueError, match="shorter"):
        ratios([2.0, 9.0], [1.0])


@pytest.mark.parametrize(("percent", "value"), [(0.5, 1), (1, 2), (50, 100), (99, 198), (99.5, 199), (100, 200)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([float(each) for each in range(200, 0, -1)], percent) == value


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 99)


def test_the_targets_are_judged_at_a_million_parts_if_they_were_measured(tmp_path: Path) -> None:
    def bench(*sizes: int) -> Bench:
        return Bench(databases=dict.fromkeys(sizes, tmp_path), folder=tmp_path, step=lambda _: None)

    assert bench(10_000, 1_000_000, 5_000_000).reference == 1_000_000
    assert bench(10_000, 100_000).reference == 100_000


# --- the report


MET = Figure.of("a tick", [0.25, 0.4, 0.3], "ms CPU", target=under(0.5), beside="a scan")
MISSED = Figure.of("a | look", [1_234.5], "ms", target=at_most(1_000))
COMPARED = Figure.of("p50", [12.3], "ms")


def test_a_row_says_whether_the_target_was_met() -> None:
    assert report.row(MET) == ("a tick", "< 0.5 ms CPU", "0.300 ms CPU", "a scan", "met")
    assert report.row(MISSED) == ("a | look", "≤ 1,000 ms", "1,234 ms", "", "missed")
    assert report.row(COMPARED) == ("p50", "-", "12.3 ms", "", "-")


def test_into_a_pipe_a_row_is_a_line_with_tabs() -> None:
    out = io.StringIO()
    report.show([MET, MISSED], Console(file=out, width=20))
    lines = [line.split("\t") for line in out.getvalue().splitlines()]
    assert lines == [list(report.COLUMNS), list(report.row(MET)), list(report.row(MISSED))]


def test_on_a_terminal_it_is_a_table() -> None:
    out = io.StringIO()
    report.show([MET, MISSED], Console(file=out, width=100, force_terminal=True))
    assert "missed" in out.getvalue()
    assert "\t" not in out.getvalue()


def test_a_run_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    result = Result(
        figures=(MET, MISSED), lines={"a tick": {10_000: 0.3, 100_000: 0.31}}, on_clock={"a look": {10_000: 4.0}}
    )
    whole = report.Report(
        results={"idle": result}, seconds={"idle": 1.26}, parts=(10_000, 100_000), seed=7, began="now", commit="abc"
    )
    report.write(whole, tmp_path)
    document = json.loads((tmp_path / "latest.json").read_text(encoding="utf-8"))
    figure = document["figures"][0]
    assert (figure["measurement"], figure["measured"], figure["rounds"], figure["met"]) == ("idle", 0.3, 3, True)
    assert (figure["lowest"], figure["highest"], figure["bound"], figure["limit"]) == (0.25, 0.4, "under", 0.5)
    assert [figure["met"] for figure in document["figures"]] == [True, False]
    assert document["lines"] == {"a tick": {"10000": 0.3, "100000": 0.31}}
    assert document["on_clock"] == {"a look": {"10000": 4.0}}
    assert document["machine"]["sqlite"] == sqlite3.sqlite_version
    page = (tmp_path / "latest.md").read_text(encoding="utf-8").splitlines()
    assert "| a \\| look | ≤ 1,000 ms | 1,234 ms |  | missed |" in page


def test_each_measurement_is_in_the_documents() -> None:
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert [name for name in MEASUREMENTS if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("name", "results"), [("docs/performance.md", ""), ("docs/scaling.md", "postgres")])
def test_the_pages_quote_the_last_run(name: str, results: str) -> None:
    page = (DOCS.parent / name).read_text(encoding="utf-8")
    quoted = page.partition(report.QUOTE_BEGINS)[2].partition(report.QUOTE_ENDS)[0]
    assert quoted == "\n" + (DOCS.parent / "benchmarks/results" / results / "latest.md").read_text(encoding="utf-8")


def test_the_front_page_quotes_three_lines_of_the_last_run() -> None:
    page = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    quoted = page.partition(report.BEST_BEGINS)[2].partition(report.BEST_ENDS)[0]
    assert quoted == "\n" + report.best((DOCS.parent / "benchmarks/results/latest.md").read_text(encoding="utf-8"))
    assert len(quoted.splitlines()) == len(("", "head", "rule", *report.BEST))


def test_make_bench_runs_each_measurement_once() -> None:
    lines = (DOCS.parent / "Makefile").read_text(encoding="utf-8").splitlines()
    (on_files,) = [line.partition(":=")[2].split() for line in lines if line.startswith("ON_FILES")]
    assert [*on_files, "postgres", "leader", "crowd"] == list(MEASUREMENTS)


def test_a_newer_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Above\n\n{report.QUOTE_BEGINS}\n{report.QUOTE_ENDS}\nBelow\n", encoding="utf-8")
    for table in ("| old |\n", "| new |\n"):
        report.quote(table, page)
    assert page.read_text(encoding="utf-8") == (
        f"Above\n\n{report.QUOTE_BEGINS}\n| new |\n{report.QUOTE_ENDS}\nBelow\n"
    )


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Above\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no place"):
        report.quote("| new |\n", page)
    assert page.read_text(encoding="utf-8") == "Above\n"


# --- the databases


def _rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()  # noqa: S608
            for table in ("session", "message", "part")
        }


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path: Path, generated: Path) -> None:
    for seed in (7, 8):
        generate(tmp_path / f"{seed}.db", PARTS, seed)
    assert _rows(tmp_path / "7.db") == _rows(generated)
    assert _rows(tmp_path / "8.db") != _rows(generated)


def test_a_generated_database_has_opencodes_shape(generated: Path, plain: sqlite3.Connection) -> None:
    rows = _rows(generated)
    assert len(rows["part"]) == PARTS
    assert len(rows["message"]) == PARTS // 8
    messages = {id_: session for id_, session, *_ in rows["message"]}
    assert all(messages[message] == session for _, message, session, *_ in rows["part"])
    sessions = {row[0]: row[2] for row in rows["session"]}
    assert set(messages.values()) == set(sessions)
    parents = [parent for parent in sessions.values() if parent is not None]
    assert parents
    assert set(parents) <= set(sessions)
    kinds = {json.loads(str(row[5]))["type"] for row in rows["part"]}
    assert kinds == {"text", "reasoning", "tool", "step-start", "step-finish"}
    assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert plain.execute("SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchone() == (0,)


def test_parts_are_as_large_as_real_ones_with_a_long_tail(generated: Path) -> None:
    sizes = sorted(len(str(row[5])) for row in _rows(generated)["part"])
    assert 1_500 < mean(sizes) < 2_500  # 2.5 GB for a million with indexes
    assert sizes[len(sizes) // 2] < mean(sizes) / 2
    assert sizes[-1] > 20 * mean(sizes)


async def test_the_watchdog_reads_a_generated_database_and_finds_nothing_open(generated: Path) -> None:
    async with await OpencodeDatabase.open(generated) as database:
        snapshot = await database.look(full=True)
    assert snapshot.sessions == {}
    assert snapshot.damaged == ()


def test_a_database_is_made_once(tmp_path: Path) -> None:
    told: list[int] = []
    first = cached(tmp_path, 100, 1, told.append)
    assert cached(tmp_path, 100, 1, told.append) == first
    assert told == [100]
    assert cached(tmp_path, 100, 2, told.append) != first


def test_a_database_that_could_not_be_finished_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, 100, 1, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_one_benchmark_at_a_time_has_the_databases(tmp_path: Path) -> None:
    for _ in range(2):  # what had them gives them back
        with reserved(tmp_path / "cache"), pytest.raises(BlockingIOError), reserved(tmp_path / "cache"):
            pytest.fail("both have them")


def test_the_cache_is_where_it_is_told_to_be(tmp_path: Path) -> None:
    assert cache_folder({"BENCH_FOLDER": str(tmp_path)}, Path("/home/dev")) == tmp_path
    assert cache_folder({"XDG_CACHE_HOME": "/cache"}, Path("/home/dev")).parent == Path("/cache")
    assert cache_folder({}, Path("/home/dev")).parent == Path("/home/dev/.cache")


# --- open work


async def test_open_work_is_found_by_each_scan_and_taken_away_again(generated: Path) -> None:
    before = _rows(generated)
    with opened(generated, 3) as (_, work), closing(scans.connect(generated)) as reader:
        calls = sorted(each.call for each in work)
        assert sorted(await scans.scan_parts(reader)) == calls
        assert sorted(await scans.scan_sessions(reader)) == calls
        assert sorted(await scans.scan_messages(reader)) == sorted(each.turn for each in work)
        async with await OpencodeDatabase.open(generated) as database:
            assert sorted((await database.look()).sessions) == sorted(each.session for each in work)
    assert _rows(generated) == before


async def test_each_change_is_one_commit_that_leaves_the_work_open(generated: Path) -> None:
    with opened(generated, 2) as (file, work), closing(scans.connect(generated)) as reader:
        changes, versions = Changes(file, work), []
        for _ in range(7):
            versions.append(reader.execute("PRAGMA data_version").fetchone()[0])
            before = file.connection.total_changes
            changes.commit()
            assert file.connection.total_changes == before + 1
        assert all(one != next_ for one, next_ in pairwise(versions))
        assert len(await scans.scan_parts(reader)) == 2


async def test_an_abort_of_the_scripted_server_closes_what_is_open_in_that_session(generated: Path) -> None:
    with opened(generated, 2) as (file, work):
        close(file, work[0].session)
        async with await OpencodeDatabase.open(generated) as database:
            snapshot = await database.look(full=True)
        assert list(snapshot.sessions) == [work[1].session]
        assert snapshot.damaged == ()


async def test_the_scripted_server_tells_its_listeners_what_it_is_at_work_on(generated: Path) -> None:
    with opened(generated, 1) as (file, work):
        server, session = Server(file=file), SessionId(work[0].session)
        rng = random.Random(1)  # noqa: S311 - spreads attempts to connect
        async with (
            loopback(server.handle) as url,
            OpencodeServer(url, clock=Countable(SystemClock()), rng=rng) as asked,
            anyio.create_task_group() as group,
        ):
            group.start_soon(asked.feed.run)
            await wait_until(lambda: asked.witness().connected, "the feed to be heard")
            await asyncio.to_thread(claim, url, {DIRECTORY: [session]})
            await wait_until(lambda: asked.busy_directories() == {DIRECTORY}, "the session to begin")
            assert set(await asked.statuses(DIRECTORY)) == {session}
            copy = await asked.copy(session, TurnId(work[0].turn), DIRECTORY)
            assert copy is not None
            assert copy[0].id == work[0].turn
            await asked.abort(Served(server=asked.name, by=Shown.PROCESS), session, DIRECTORY)
            await wait_until(lambda: not asked.busy_directories(), "the session to end")
            assert await asked.statuses(DIRECTORY) == {}
            assert await asked.pending_asks(DIRECTORY) == ()
            group.cancel_scope.cancel()


def test_the_writer_leaves_nothing_that_is_not_taken_away(generated: Path, plain: sqlite3.Connection) -> None:
    before = _rows(generated)
    with opened(generated, 2):
        assert write(generated, seconds=0.5, sessions=2) > 0
        assert _rows(generated) != before
    clear(plain)
    assert _rows(generated) == before


# --- PostgreSQL


async def test_a_filled_database_holds_the_rows_of_the_file_and_the_work(postgres: Cluster, generated: Path) -> None:
    url, work = await fill(postgres, "filled", generated, 3)
    async with connected(url) as connection:
        for table, rows in _rows(generated).items():
            found = await connection.fetch(f"SELECT * FROM {table} WHERE id NOT LIKE '%bench%' ORDER BY id")  # noqa: S608
            assert [_as_stored(row) for row in found] == [
                _as_stored(row) for row in sorted(rows, key=lambda r: str(r[0]))
            ]
    engine = own_engine(url)
    store = await PostgresStore.open(engine, clock=SystemClock())
    snapshot = await store.look()
    assert sorted(snapshot.sessions) == sorted(each.session for each in work)
    assert sorted(call.id for session in snapshot.sessions.values() for call in session.calls) == sorted(
        each.call for each in work
    )
    assert snapshot.damaged == ()
    await engine.dispose()


async def test_rows_that_are_copied_are_other_rows_that_belong_together(postgres: Cluster, generated: Path) -> None:
    url, work = await fill(postgres, "copied", generated, 2, copies=3)
    async with connected(url) as connection:
        for table, rows in _rows(generated).items():
            found = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE id NOT LIKE '%bench%'")  # noqa: S608
            assert found == 3 * len(rows)
        strays = "SELECT count(*) FROM part LEFT JOIN message ON message.id = message_id WHERE message.id IS NULL"
        assert await connection.fetchval(strays) == 0
    engine = own_engine(url)
    assert sorted((await (await PostgresStore.open(engine, clock=SystemClock())).look()).sessions) == sorted(
        each.session for each in work
    )
    await engine.dispose()


def _as_stored(row: Iterable[object]) -> list[object]:
    """A row whose JSON is compared as a value: `jsonb` keeps no text."""
    return [json.loads(value) if isinstance(value, str) and value.startswith("{") else value for value in row]


async def test_the_plans_of_a_look_tell_a_scan_from_an_index(postgres: Cluster, generated: Path) -> None:
    url, _ = await fill(postgres, "explained", generated, 3)
    engine = own_engine(url)
    async with connected(url) as owner:
        bare = await explained(engine)
        await make_indexes(owner)
        indexed = await explained(engine)
        await drop_indexes(owner)
    await engine.dispose()
    statement = queries.dialect("jsonb").look.open_parts  # the other tables are so small that a scan is the best plan
    assert [plan.scans for plan in bare if plan.statement == statement] == [("part",)]
    assert [plan.scans for plan in indexed if plan.statement == statement] == [()]
    assert 0 < sum(plan.buffers for plan in indexed) < sum(plan.buffers for plan in bare)


async def test_the_rows_of_postgresql_are_measured(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("postgres")
    for name, value in {"ROUNDS": 1, "LOOKS": 2, "TICKS": 2, "SCANS": 1, "WRITE_SECONDS": 0.2, "_WARM": 1}.items():
        monkeypatch.setattr(in_postgres, name, value)
    bench = Bench(databases={PARTS: generated}, folder=tmp_path, step=lambda _: None)
    result = await in_postgres.postgres(bench)
    assert all(figure.value > 0 for figure in result.figures)
    assert [list(points) for points in result.on_clock.values()] == [[PARTS]] * 4


async def test_a_leader_is_measured(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("postgres")
    for name, value in {"MANY": 20, "FEW": 10, "ROUNDS": 1, "STUCK": 10, "_PATIENCE_SECONDS": 60.0}.items():
        monkeypatch.setattr(leader, name, value)
    monkeypatch.setattr(guest, "FOLDERS", {10: (1, 5)})
    monkeypatch.setattr(guest, "LOOKS", 1)
    bench = Bench(databases={PARTS: generated}, folder=tmp_path, step=lambda _: None)
    result = await leader.leader(bench)
    assert all(figure.value > 0 for figure in result.figures)


async def test_a_crowd_is_measured(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("postgres")
    small = {
        "MANY": 3,
        "FEW": 2,
        "SESSIONS": 4,
        "SECONDS": 2.0,
        "HUNG": 2,
        "_AHEAD_MS": 4000,
        "_PATIENCE_SECONDS": 60.0,
    }
    for name, value in small.items():
        monkeypatch.setattr(crowd, name, value)
    bench = Bench(databases={PARTS: generated}, folder=tmp_path, step=lambda _: None)
    result = await crowd.crowd(bench)
    assert all(figure.value > 0 for figure in result.figures)


def test_without_postgresql_its_rows_are_left_out_and_the_others_are_not() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200)
    assert measurable(["idle", "postgres", "leader"], "no postgres", console) == ["idle"]
    assert out.getvalue().splitlines() == ["postgres, leader: left out, no postgres"]
    assert measurable(list(MEASUREMENTS), None, console) == list(MEASUREMENTS)
    assert set(MEASUREMENTS) >= IN_POSTGRES
