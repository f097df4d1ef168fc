"""The journal: what goes in comes out, survives, is private, and is refused when it can't be trusted."""

import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.unit.cli.test_journal import fill, mounted
from watchdog.errors import JournalUnusable
from watchdog.journal.connection import VERSION, _open
from watchdog.journal.sqlite import SqliteJournal, journal_path
from watchdog.model.interventions import Actor, Hold, InterventionId, Kept
from watchdog.model.outcome import GuardedWrite, Outcome, Result, Row, Step
from watchdog.model.session import EVERYTHING, Ask, AskKind, CallId, SessionId, TurnId
from watchdog.model.verdict import Verdict, VerdictKind

SES = SessionId("ses_1")
VERDICT = Verdict(
    session_id=SES,
    kind=VerdictKind.ORPHAN,
    cancel_session_id=SES,
    why="nobody executes it",
    age_seconds=12.5,
    call_ids=(CallId("prt_1"),),
    turn_ids=(TurnId("msg_1"),),
    ask=Ask(id="que_1", kind=AskKind.QUESTION, session_id=SES),
)
OUTCOME = Outcome(
    session_id=SES,
    kind=VerdictKind.ORPHAN,
    result=Result.RECOVERED,
    steps=(Step(step="settle", at_ms=7, ok=True, detail="1 of 1 rows written"),),
    why="nobody executes it",
)
WRITE = GuardedWrite(
    row=Row(
        table="part",
        id="prt_1",
        message_id=TurnId("msg_1"),
        session_id=SES,
        created_ms=1,
        updated_ms=2,
        data='{"type":"tool","a":"ü"}',
    ),
    after='{"type":"tool"}',
)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with await SqliteJournal.open(tmp_path / "state" / "a.journal.db") as opened:
        yield opened


async def test_an_intervention_comes_out_as_it_went_in(journal: SqliteJournal) -> None:
    number = await journal.begin(VERDICT, at_ms=5, actor=Actor.PERSON, reason="because")
    await journal.keep(number, [WRITE])
    (begun,) = await journal.begun()
    assert (begun.verdict, begun.actor, begun.reason, begun.outcome) == (VERDICT, Actor.PERSON, "because", None)
    await journal.end(number, OUTCOME, at_ms=9)

    assert await journal.begun() == ()
    found = await journal.intervention(number)
    assert found is not None
    assert (found.outcome, found.began_ms, found.ended_ms) == (OUTCOME, 5, 9)
    assert await journal.kept(number) == (Kept(row=WRITE.row, after=WRITE.after),)
    assert await journal.intervention(InterventionId(99)) is None


async def test_interventions_are_found_by_session_and_time_the_newest_first(journal: SqliteJournal) -> None:
    first = await journal.begin(VERDICT, at_ms=10)
    other = await journal.begin(replace(VERDICT, session_id=SessionId("ses_2")), at_ms=20)
    last = await journal.begin(VERDICT, at_ms=30)
    assert [each.id for each in await journal.interventions()] == [last, other, first]
    assert [each.id for each in await journal.interventions(session_id=SES)] == [last, first]
    assert [each.id for each in await journal.interventions(since_ms=20)] == [last, other]
    assert [each.id for each in await journal.interventions(limit=1)] == [last]


async def test_what_was_written_is_there_for_another_process_and_after_a_reopen(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    async with await SqliteJournal.open(path) as journal:
        number = await journal.begin(VERDICT, at_ms=5)
        async with await SqliteJournal.open(path) as second:
            assert [each.id for each in await second.begun()] == [number]
    async with await SqliteJournal.open(path) as journal:
        assert [each.id for each in await journal.begun()] == [number]


async def test_old_interventions_are_pruned_with_their_rows_and_begun_ones_are_kept(journal: SqliteJournal) -> None:
    old, begun, young = [await journal.begin(VERDICT, at_ms=at) for at in (1, 2, 100)]
    for number in (old, young):
        await journal.keep(number, [WRITE])
        await journal.end(number, OUTCOME, at_ms=101)
    assert await journal.prune(50) == 1
    assert [each.id for each in await journal.interventions()] == [young, begun]
    assert await journal.kept(old) == ()
    assert len(await journal.kept(young)) == 1


async def test_holds_stand_until_they_end_or_are_taken_back(journal: SqliteJournal) -> None:
    forever = Hold(session_id=SES, since_ms=1, until_ms=None, why="a person said so")
    short = Hold(session_id=EVERYTHING, since_ms=1, until_ms=10, why="a person paused everything")
    await journal.hold(short)
    await journal.hold(forever)
    assert await journal.holds(9) == {SES: forever, EVERYTHING: short}
    assert await journal.holds(10) == {SES: forever}
    await journal.hold(Hold(session_id=SES, since_ms=3, until_ms=None, why="again"))
    assert (await journal.holds(10))[SES].why == "again"
    assert await journal.unhold(SES)
    assert not await journal.unhold(SES)
    assert await journal.holds(10) == {}


async def test_what_was_undone_is_marked_and_held_at_once(journal: SqliteJournal) -> None:
    number = await journal.begin(VERDICT, at_ms=5)
    hold = Hold(session_id=SES, since_ms=7, until_ms=None, why="it was undone")
    await journal.mark_undone(number, hold, at_ms=7)
    found = await journal.intervention(number)
    assert found is not None
    assert found.undone_ms == 7
    assert await journal.holds(8) == {SES: hold}


async def test_values_are_kept_under_their_keys_and_rubbish_reads_as_nothing(journal: SqliteJournal) -> None:
    assert await journal.load("memory") is None
    await journal.save("memory", {"a": 1})
    await journal.save("memory", {"a": 2})
    assert await journal.load("memory") == {"a": 2}
    connection = sqlite3.connect(journal.path)
    connection.execute("UPDATE state SET value = '{'")
    connection.commit()
    connection.close()
    assert await journal.load("memory") is None


async def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.db"
    async with await SqliteJournal.open(path) as journal:
        await journal.begin(VERDICT, at_ms=1)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert modes
        assert set(modes.values()) == {0o600}, modes
    path.chmod(0o644)
    async with await SqliteJournal.open(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_every_write_is_durable_before_it_returns(journal: SqliteJournal) -> None:
    def setting(name: str) -> Callable[[sqlite3.Connection], object]:
        return lambda file: file.execute(f"PRAGMA {name}").fetchall()[0][0]

    assert await journal._file.read(setting("synchronous")) == 2
    assert await journal._file.read(setting("journal_mode")) == "wal"
    assert await journal._file.read(setting("user_version")) == VERSION


def traced(journal: SqliteJournal) -> list[str]:
    """Every statement that the journal's connection runs from now on."""
    seen: list[str] = []
    connection = journal._file._connection
    assert connection is not None
    connection.set_trace_callback(seen.append)
    return seen


def by_another_process(path: Path, statement: str) -> None:
    """Run a statement on a file as another process does."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit(); c.close()"
    subprocess.run([sys.executable, "-c", code, str(path), statement], check=True)


PUT_HOLD = "INSERT INTO hold VALUES ('ses_1', 1, NULL, 'another process said so')"
STANDS = Hold(session_id=SES, since_ms=1, until_ms=None, why="another process said so")


class TestLooking:
    async def test_where_nobody_wrote_the_holds_cost_one_statement_that_reads_no_table(
        self, journal: SqliteJournal
    ) -> None:
        await journal.hold(Hold(session_id=SES, since_ms=1, until_ms=10, why="for a while"))
        for _ in range(3):
            await journal.holds(9)
        seen = traced(journal)
        assert len(await journal.holds(9)) == 1
        assert len(await journal.holds(10)) == 0  # it ended by itself
        assert seen == ["PRAGMA data_version"] * 2

    async def test_what_another_process_says_is_seen_at_the_next_look(self, journal: SqliteJournal) -> None:
        for _ in range(3):
            assert await journal.holds(9) == {}
        by_another_process(journal.path, PUT_HOLD)
        assert await journal.holds(9) == {SES: STANDS}
        by_another_process(journal.path, "DELETE FROM hold")
        assert await journal.holds(9) == {}

    async def test_an_intervention_costs_one_transaction_for_its_begin_and_one_for_its_end(
        self, journal: SqliteJournal
    ) -> None:
        seen = traced(journal)
        await journal.end(await journal.begin(VERDICT, at_ms=1), OUTCOME, at_ms=2)
        assert [statement.split()[0] for statement in seen] == [
            "BEGIN",
            "INSERT",
            "COMMIT",
            "BEGIN",
            "UPDATE",
            "COMMIT",
        ]

    async def test_between_two_calls_nobody_is_kept_waiting(self, journal: SqliteJournal) -> None:
        number = await journal.begin(VERDICT, at_ms=1)
        acts: list[Callable[[], Awaitable[object]]] = [
            lambda: journal.holds(1),
            lambda: journal.keep(number, [WRITE]),
            journal.interventions,
            lambda: journal.save("a", {}),
            lambda: journal.load("a"),
            lambda: journal.kept(number),
            lambda: journal.prune(1),
        ]
        for act in acts:
            await act()
            other = sqlite3.connect(journal.path, timeout=0, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            other.execute("COMMIT")
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # no reader is in its way
            other.close()

    async def test_many_at_once_take_turns(self, journal: SqliteJournal) -> None:
        numbers: list[InterventionId] = []

        async def act(at_ms: int) -> None:
            numbers.append(await journal.begin(VERDICT, at_ms=at_ms))
            await journal.holds(1)

        async with anyio.create_task_group() as group:
            for at_ms in range(50):
                group.start_soon(act, at_ms)
        assert sorted(numbers) == list(range(1, 51))


class TestWhileItRuns:
    """What becomes of the file under a journal that is in use."""

    async def test_the_file_alone_holds_everything_while_nothing_happens(
        self, journal: SqliteJournal, tmp_path: Path
    ) -> None:
        await journal.begin(VERDICT, at_ms=1)
        for _ in range(2):
            await journal.holds(1)
        copy = tmp_path / "copy.db"
        shutil.copy(journal.path, copy)
        async with await SqliteJournal.open(copy) as opened:
            assert [each.verdict for each in await opened.interventions()] == [VERDICT]

    async def test_one_that_is_replaced_by_another_is_the_other_from_then_on(
        self, journal: SqliteJournal, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.db"
        async with await SqliteJournal.open(other) as opened:
            await opened.hold(STANDS)
        await journal.begin(VERDICT, at_ms=1)
        for _ in range(2):
            assert await journal.holds(1) == {}
        other.rename(journal.path)
        assert await journal.holds(1) == {SES: STANDS}
        assert await journal.interventions() == ()
        assert await journal.begin(VERDICT, at_ms=1) == 1

    async def test_one_that_is_taken_away_is_missed_and_taken_up_again_when_it_is_back(
        self, journal: SqliteJournal, tmp_path: Path
    ) -> None:
        await journal.hold(STANDS)
        journal.path.rename(tmp_path / "away.db")
        for act in (lambda: journal.holds(1), lambda: journal.begin(VERDICT, at_ms=1)):
            with pytest.raises(JournalUnusable, match="can't be opened"):
                await act()
        (tmp_path / "away.db").rename(journal.path)
        assert await journal.holds(1) == {SES: STANDS}
        assert await journal.begin(VERDICT, at_ms=1) == 1

    async def test_one_that_is_overwritten_is_seen_by_a_look_and_taken_up_again_when_it_is_mended(
        self, journal: SqliteJournal
    ) -> None:
        await journal.hold(STANDS)
        for _ in range(3):
            await journal.holds(1)
        whole = journal.path.read_bytes()
        journal.path.write_bytes(b"no database any more, and of some length " * 400)
        with pytest.raises(JournalUnusable, match="not a SQLite database"):
            await journal.holds(1)
        journal.path.write_bytes(whole)
        assert await journal.holds(1) == {SES: STANDS}

    async def test_one_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(self, tmp_path: Path) -> None:
        with mounted("-t", "tmpfs", "-o", "size=256k", "none", at=tmp_path):
            async with await SqliteJournal.open(tmp_path / "j.db") as journal:
                await journal.begin(VERDICT, at_ms=1)
                fill(tmp_path)
                large = replace(WRITE, after="x" * 100_000)
                with pytest.raises(JournalUnusable, match="disk"):
                    await journal.keep(InterventionId(1), [large])
                (tmp_path / "filler").unlink()
                noted = await journal.count()
                assert await journal.begin(VERDICT, at_ms=1) == noted + 1

    async def test_a_value_that_this_version_does_not_know_is_a_sentence_and_the_rest_stays_of_use(
        self, journal: SqliteJournal
    ) -> None:
        await journal.begin(VERDICT, at_ms=1)
        by_another_process(journal.path, "UPDATE intervention SET actor = 'a machine'")
        with pytest.raises(JournalUnusable, match="this version can't read"):
            await journal.interventions()
        assert await journal.begin(VERDICT, at_ms=1) == 2


class TestRefusals:
    async def test_a_journal_of_a_newer_version(self, tmp_path: Path) -> None:
        path = tmp_path / "j.db"
        await (await SqliteJournal.open(path)).close()
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.close()
        with pytest.raises(JournalUnusable, match="newer opencode-watchdog"):
            await SqliteJournal.open(path)

    async def test_a_database_of_somebody_else(self, tmp_path: Path) -> None:
        path = tmp_path / "opencode.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE message (id)")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(JournalUnusable, match="no journal"):
            await SqliteJournal.open(path)
        assert sqlite3.connect(path).execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
        assert len(before) == path.stat().st_size

    async def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "j.db"
        path.write_text("this is a text of some length, and no database at all " * 40)
        with pytest.raises(JournalUnusable, match="not a SQLite database"):
            await SqliteJournal.open(path)

    async def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(JournalUnusable, match="is a folder"):
            await SqliteJournal.open(tmp_path)

    async def test_a_place_that_can_not_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(JournalUnusable, match="can't be made or read"):
            await SqliteJournal.open(tmp_path / "file" / "j.db")

    async def test_a_damaged_file_while_in_use(self, tmp_path: Path) -> None:
        path = tmp_path / "j.db"
        journal = await SqliteJournal.open(path)
        _replace_by_text(path)
        with pytest.raises(JournalUnusable):
            await journal.begin(VERDICT, at_ms=1)
        await journal.close()

    async def test_a_locked_journal_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("watchdog.journal.connection._BUSY_SECONDS", 0.05)
        path = tmp_path / "j.db"
        async with await SqliteJournal.open(path) as journal:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalUnusable, match="locked"):
                await journal.begin(VERDICT, at_ms=1)
            other.close()
            await journal.begin(VERDICT, at_ms=1)

    async def test_those_who_stand_in_line_for_a_locked_journal_do_not_wait_one_after_the_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("watchdog.journal.connection._BUSY_SECONDS", 0.5)
        seen: list[str] = []

        def traced_open(path: Path) -> sqlite3.Connection:
            connection = _open(path)
            connection.set_trace_callback(seen.append)
            return connection

        monkeypatch.setattr("watchdog.journal.connection._open", traced_open)
        path, refused = tmp_path / "j.db", 0
        async with await SqliteJournal.open(path) as journal:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            seen.clear()

            async def act() -> None:
                nonlocal refused
                with pytest.raises(JournalUnusable, match="locked"):
                    await journal.begin(VERDICT, at_ms=1)
                refused += 1

            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(act)
            assert refused == 8
            assert seen.count("BEGIN IMMEDIATE") - seen.count("PRAGMA busy_timeout = 0") == 1  # the others try once
            other.close()
            await journal.begin(VERDICT, at_ms=1)


class TestInLine:
    """What those who write at the same time share."""

    async def test_they_share_one_transaction_and_each_gets_its_own_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []

        def traced_open(path: Path) -> sqlite3.Connection:
            connection = _open(path)
            connection.set_trace_callback(seen.append)
            return connection

        monkeypatch.setattr("watchdog.journal.connection._open", traced_open)
        numbers: dict[int, InterventionId] = {}
        async with await SqliteJournal.open(tmp_path / "j.db") as journal:
            seen.clear()

            async def act(at_ms: int) -> None:
                numbers[at_ms] = await journal.begin(VERDICT, at_ms=at_ms)

            async with journal._file._turn, anyio.create_task_group() as group:
                for at_ms in range(8):
                    group.start_soon(act, at_ms)
                await anyio.wait_all_tasks_blocked()
                journal._file._turn.total_tokens += 1
            assert seen.count("COMMIT") == 1
            assert {entry.id: entry.began_ms for entry in await journal.begun()} == {
                number: at_ms for at_ms, number in numbers.items()
            }
            assert len(numbers) == 8

    async def test_one_bad_write_fails_alone_and_leaves_nothing_of_itself(self, tmp_path: Path) -> None:
        def half(file: sqlite3.Connection) -> None:
            file.execute("INSERT INTO state VALUES ('half', '1')")
            file.execute("INSERT INTO state VALUES ('half', '2')")

        async with await SqliteJournal.open(tmp_path / "j.db") as journal:
            bad: list[Callable[[], Awaitable[object]]] = [
                lambda: journal._file.write(lambda file: file.execute("no SQL").fetchall()),
                lambda: journal._file.write(half),
                lambda: journal._write("INSERT INTO state VALUES (?, ?)", [("a", "1"), ("b", object())]),
                lambda: journal._write("INSERT INTO state VALUES (?, ?)", [("only one",)]),
            ]
            failed = await self._in_one_group(
                journal, lambda: journal.begin(VERDICT, at_ms=1), *bad, lambda: journal.save("kept", {"x": 1})
            )
            assert [type(error) for error in failed] == [JournalUnusable] * len(bad)
            assert await journal.count() == 1
            assert [await journal.load(key) for key in ("kept", "half", "a")] == [{"x": 1}, None, None]
            await journal.begin(VERDICT, at_ms=1)
            assert await journal.count() == 2

    async def test_what_is_wrong_with_the_file_fails_all_of_a_group_and_none_is_half_written(
        self, tmp_path: Path
    ) -> None:
        def full(file: sqlite3.Connection) -> None:
            file.execute("PRAGMA max_page_count = 1").fetchall()
            file.execute("INSERT INTO state VALUES ('big', hex(zeroblob(1000000)))")

        async with await SqliteJournal.open(tmp_path / "j.db") as journal:
            failed = await self._in_one_group(
                journal, lambda: journal.begin(VERDICT, at_ms=1), lambda: journal._file.write(full)
            )
            assert ["the disk is full" in str(error) for error in failed] == [True, True]
            assert await journal.count() == 0
            await journal.begin(VERDICT, at_ms=1)
            assert await journal.count() == 1

    @staticmethod
    async def _in_one_group(journal: SqliteJournal, *works: Callable[[], Awaitable[object]]) -> list[JournalUnusable]:
        failed: list[JournalUnusable] = []

        async def act(work: Callable[[], Awaitable[object]]) -> None:
            try:
                await work()
            except JournalUnusable as error:
                failed.append(error)

        async with journal._file._turn, anyio.create_task_group() as group:
            for work in works:
                group.start_soon(act, work)
            await anyio.wait_all_tasks_blocked()
            journal._file._turn.total_tokens += 1
        return failed


def _replace_by_text(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    path.write_text("no database any more, and of some length " * 40)


def test_each_database_has_a_journal_of_its_own(tmp_path: Path) -> None:
    one, two = (journal_path(tmp_path / name / "opencode.db", {}, tmp_path) for name in "ab")
    assert one != two
    assert one.parent == tmp_path / ".local" / "state" / "opencode-watchdog"
    moved = journal_path(tmp_path / "a" / "opencode.db", {"XDG_STATE_HOME": "/state"}, tmp_path)
    assert moved.parent == Path("/state/opencode-watchdog")
