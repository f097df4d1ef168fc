"""One contract for the stores, SQLite, PostgreSQL and a fake one, each checked against another on random rows."""

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulation.rows import RowStore
from tests.fakes.store import FakeStore
from tests.support.database import NOW, OpencodeFile, OpencodeRows
from tests.support.postgres import Cluster, PostgresRows
from watchdog.model.outcome import GuardedWrite
from watchdog.model.session import CallId, CallStatus, Session, SessionId, Snapshot, TurnId
from watchdog.opencode.db.store import Limits, OpencodeDatabase
from watchdog.ports import Store
from watchdog.postgres.connection import own_engine
from watchdog.postgres.store import PostgresStore
from watchdog.timing.clock import SystemClock

Case = tuple[Store, OpencodeRows]


@asynccontextmanager
async def opened(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    """A store of a kind, and the rows behind it."""
    if kind == "fake":
        fake = FakeStore()
        yield fake, fake.content
    elif kind == "simulated":
        simulated = RowStore()
        yield simulated, simulated.content
    elif kind == "sqlite":
        path = request.getfixturevalue("tmp_path") / "opencode.db"
        with OpencodeFile(path) as rows:
            async with await OpencodeDatabase.open(path, limits=Limits(step_rows=3, search_rows=3)) as store:
                yield store, rows
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.opencode_database("jsonb" if kind == "jsonb" else "json")
        engine = own_engine(url)
        try:
            with PostgresRows(url) as rows_:
                yield await PostgresStore.open(engine, clock=SystemClock()), rows_
        finally:
            await engine.dispose()
            cluster.drop(url.rpartition("/")[2])


@pytest.fixture(params=["fake", "simulated", "sqlite", "jsonb", "json"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    """Each store."""
    async with opened(request.param, request) as found:
        yield found


@pytest.fixture(params=["fake", "simulated", "sqlite"])
async def text_case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    """Each store whose columns take any text or bytes, and whose rows have an order of insertion."""
    async with opened(request.param, request) as found:
        yield found


async def test_the_first_look_is_due_and_a_second_only_after_a_commit(case: Case) -> None:
    store, rows = case
    assert await store.changed()
    assert await store.changed()
    await store.look()
    assert not await store.changed()
    rows.session()
    assert await store.changed()
    await store.look()
    assert not await store.changed()


async def test_a_session_with_nothing_open_is_left_out_unless_asked_for(case: Case) -> None:
    store, rows = case
    session = rows.session()
    turn = rows.turn(session, completed_at=NOW + 5)
    rows.call(turn, status="completed")
    assert (await store.look()).sessions == {}
    found = (await store.look(also=[session, SessionId("ses_gone")])).sessions
    assert set(found) == {session}
    assert not found[session].has_open_rows
    assert found[session].last_life_ms == NOW + 5


async def test_an_open_turn_and_its_open_calls_are_found_with_all_that_is_known_of_them(case: Case) -> None:
    store, rows = case
    session = rows.session(directory="/home/a", at=NOW - 9)
    prompt = rows.prompt(session, at=NOW)
    turn = rows.turn(session, at=NOW + 1, cwd="/home/b")
    rows.text(turn)
    late = rows.call(turn, at=NOW + 4, updated_at=NOW + 7, input={"timeout": 5000})
    long = rows.call(turn, at=NOW + 5, input={"command": "x" * 1000})
    early = rows.call(turn, at=NOW + 2, tool="edit", status="pending")
    rows.call(turn, status="error")
    found = (await store.look()).sessions[session]
    assert (found.directory, found.created_ms, found.newest_prompt_id) == ("/home/a", NOW - 9, prompt)
    assert found.directories == ("/home/a", "/home/b")
    assert [t.id for t in found.turns] == [turn]
    assert found.turns[0].open
    assert not found.turns[0].superseded
    assert [call.id for call in found.calls] == [early, late, long]
    assert [call.status for call in found.calls] == [CallStatus.PENDING, CallStatus.RUNNING, CallStatus.RUNNING]
    assert found.calls[1].declared_timeout_ms == 5000
    assert found.calls[2].size > found.calls[1].size > 0
    assert found.last_life_ms == NOW + 7
    assert await store.session(session) == found


async def test_a_session_that_does_not_exist_reads_as_none(case: Case) -> None:
    assert await case[0].session(SessionId("ses_gone")) is None


async def test_ancestors_and_the_children_of_task_calls_come_along(case: Case) -> None:
    store, rows = case
    top = rows.session("ses_top")
    middle = rows.session("ses_middle", parent=top)
    low = rows.session("ses_low", parent=middle)
    turn = rows.turn(low)
    named = rows.session("ses_named", parent=None)
    rows.task(turn, child=named, at=NOW + 5)
    rows.task(turn, child=None, at=NOW + 5)
    later = rows.session("ses_later", parent=low, at=NOW + 5)
    rows.session("ses_earlier", parent=low, at=NOW + 4)
    rows.session("ses_aunt", parent=top)
    assert set((await store.look()).sessions) == {top, middle, low, named, later}


@pytest.mark.parametrize("length", [1, 2, 3])
async def test_a_cycle_of_parents_ends(case: Case, length: int) -> None:
    store, rows = case
    ids = [f"ses_{number}" for number in range(length)]
    for number, id_ in enumerate(ids):
        rows.session(id_, parent=ids[(number + 1) % length])
    rows.turn(ids[0])
    assert set((await store.look()).sessions) == set(ids)


async def test_what_is_newer_is_told_by_time_and_not_by_ids_that_sort_backwards(case: Case) -> None:
    store, rows = case
    session = rows.session()
    rows.prompt(session, "msg_z", at=NOW)
    old = rows.turn(session, "msg_y", at=NOW + 1)
    rows.prompt(session, "msg_x", at=NOW + 2)
    new = rows.turn(session, "msg_w", at=NOW + 3)
    rows.prompt(session, "msg_u", at=NOW + 4)
    found = (await store.look()).sessions[session]
    assert [(turn.id, turn.superseded) for turn in found.turns] == [(old, True), (new, False)]
    assert found.newest_prompt_id == "msg_u"
    assert found.queued_prompts == 1


async def test_what_is_newer_within_a_millisecond_is_told_by_the_order_of_insertion(text_case: Case) -> None:
    store, rows = text_case
    session = rows.session()
    new = rows.turn(session, "msg_w", at=NOW + 3)
    twin = rows.turn(session, "msg_v", at=NOW + 3)
    found = (await store.look()).sessions[session]
    assert [(turn.id, turn.superseded) for turn in found.turns] == [(new, True), (twin, False)]


async def test_of_two_turns_of_one_millisecond_just_one_is_superseded(case: Case) -> None:
    store, rows = case
    session = rows.session()
    rows.turn(session, "msg_w", at=NOW + 3)
    rows.turn(session, "msg_v", at=NOW + 3)
    found = (await store.look()).sessions[session]
    assert sorted(turn.superseded for turn in found.turns) == [False, True]
    assert [turn.id for turn in found.turns if not turn.superseded] == [await store.newest_turn(session)]


async def test_prompts_after_the_newest_turn_are_queued(case: Case) -> None:
    store, rows = case
    session = rows.session()
    rows.prompt(session, at=NOW)
    rows.turn(session, at=NOW + 1)
    rows.prompt(session, at=NOW + 2)
    rows.prompt(session, at=NOW + 3)
    assert (await store.look()).sessions[session].queued_prompts == 2


async def test_the_prompts_that_are_queued_are_told_by_their_ids_the_oldest_first(case: Case) -> None:
    store, rows = case
    session = rows.session()
    assert await store.queued(session) == ()
    rows.prompt(session, "msg_z", at=NOW)
    assert await store.queued(session) == ("msg_z",)
    rows.turn(session, at=NOW + 1)
    assert await store.queued(session) == ()
    rows.prompt(session, "msg_y", at=NOW + 2)
    rows.message(session, "[]", at=NOW + 3)
    rows.prompt(session, "msg_x", at=NOW + 3)
    rows.prompt(rows.session(), at=NOW + 9)
    assert await store.queued(session) == ("msg_y", "msg_x")


async def test_what_is_below_is_found_at_any_depth_whether_or_not_it_is_finished_and_in_a_cycle(case: Case) -> None:
    store, rows = case
    root = rows.session("ses_root")
    child = rows.session("ses_child", parent=root)
    deep = rows.session("ses_deep", parent=child)
    rows.turn(deep)
    rows.session("ses_other")
    assert await store.below([root]) == {child, deep}
    assert await store.below([deep, child]) == {deep}
    assert await store.below([]) == await store.below([SessionId("ses_nowhere")]) == set()
    one = rows.session("ses_one", parent=SessionId("ses_two"))
    two = rows.session("ses_two", parent=one)
    assert await store.below([one]) == {one, two}


async def test_a_family_is_all_that_is_above_and_below_and_nothing_else(case: Case) -> None:
    store, rows = case
    root = rows.session("ses_root")
    middle = rows.session("ses_middle", parent=root)
    sibling = rows.session("ses_sibling", parent=root)
    deep = rows.session("ses_deep", parent=middle)
    elsewhere, other = rows.session("ses_elsewhere"), rows.session("ses_other")
    turns = {id_: rows.turn(id_, at=NOW) for id_ in (root, middle, deep, elsewhere, other)}
    task = rows.task(turns[deep], at=NOW + 1, child=elsewhere)
    rows.turn(sibling, at=NOW, completed_at=NOW + 9)
    seen = await store.look()
    family = {root, middle, sibling, deep, elsewhere}
    for asked in (root, middle, deep, sibling):
        found = (await store.family([asked])).sessions
        assert set(found) == family
        assert all(found[id_] == seen.sessions[id_] for id_ in (root, middle, deep, elsewhere))
    assert [call.id for call in (await store.family([deep])).sessions[deep].calls] == [task]
    assert set((await store.family([other, sibling])).sessions) == family | {other}
    assert (await store.family([])).sessions == (await store.family([SessionId("ses_gone")])).sessions == {}


async def test_a_family_in_a_cycle_ends_and_one_of_its_rows_that_cannot_be_read_is_reported(case: Case) -> None:
    store, rows = case
    one = rows.session("ses_one", parent=SessionId("ses_two"))
    two = rows.session("ses_two", parent=one)
    bad, other = rows.part(rows.turn(two), json.dumps({"type": "tool", "state": 7})), rows.session("ses_other")
    rows.part(rows.turn(other), json.dumps({"type": "tool", "state": 7}))
    await store.look()
    found = await store.family([one])
    assert set(found.sessions) == {one, two}
    assert [(each.table, each.id, each.session_id) for each in found.damaged] == [("part", bad, two)]


async def test_to_read_a_family_hides_no_change_from_the_next_look(case: Case) -> None:
    store, rows = case
    await store.look()
    session = rows.session()
    rows.turn(session)
    assert set((await store.family([session])).sessions) == {session}
    assert await store.changed()
    assert set((await store.look()).sessions) == {session}


async def test_a_turn_row_that_is_merely_rewritten_shows_no_life(case: Case) -> None:
    store, rows = case
    session = rows.session()
    turn = rows.turn(session)
    rows.set("message", turn, time_updated=NOW + 60_000)
    rows.set("session", session, time_updated=NOW + 60_000)
    assert (await store.look()).sessions[session].last_life_ms == NOW


async def test_an_open_call_in_a_closed_turn_is_found_by_a_full_look_and_remembered_until_it_closes(
    case: Case,
) -> None:
    store, rows = case
    session = rows.session()
    for _ in range(4):
        rows.text(rows.turn(session, completed_at=NOW + 1))
    turn = rows.turn(session, completed_at=NOW + 1)
    call = rows.call(turn)
    for found in (await store.look(scan_parts=True), await store.look()):
        assert [(c.id, c.turn_id) for c in found.sessions[session].calls] == [(call, turn)]
        assert [(t.id, t.open) for t in found.sessions[session].turns] == [(turn, False)]
    rows.finish_call(call)
    assert (await store.look()).sessions == {}


BROKEN_PARTS: dict[str, dict[str, Any] | str] = {
    "no object": "[1]",
    "missing state": {"type": "tool", "tool": "bash"},
    "unknown status": {"type": "tool", "tool": "bash", "state": {"status": "napping"}},
    "missing tool": {"type": "tool", "state": {"status": "running"}},
    "a time that is a string": {
        "type": "tool",
        "tool": "x",
        "state": {"status": "running", "time": {"start": "now"}},
    },
    "a negative time": {"type": "tool", "tool": "x", "state": {"status": "running", "time": {"start": -1}}},
}


@pytest.mark.parametrize("name", BROKEN_PARTS)
async def test_a_part_that_cannot_be_read_is_reported_and_left_out(case: Case, name: str) -> None:
    await _check_that_a_part_is_reported(*case, BROKEN_PARTS[name])


async def test_a_part_that_is_no_json_is_reported_and_left_out(text_case: Case) -> None:
    await _check_that_a_part_is_reported(*text_case, '{"type": "tool", ')


async def _check_that_a_part_is_reported(store: Store, rows: OpencodeRows, data: dict[str, Any] | str) -> None:
    session = rows.session()
    turn = rows.turn(session)
    good = rows.call(turn)
    bad = rows.part(turn, data)
    for full in (False, True):
        found = await store.look(full=full)
        assert [call.id for call in found.sessions[session].calls] == [good]
        assert [(d.table, d.id, d.session_id) for d in found.damaged] == [("part", bad, session)]


async def test_what_is_amiss_in_closed_turns_costs_a_file_a_search(text_case: Case) -> None:
    store, rows = text_case
    turn = rows.turn(rows.session(), completed_at=NOW)
    rows.call(turn)
    rows.part(turn, "{")
    assert await store.look() == Snapshot()
    found = await store.look(scan_parts=True)
    assert (len(found.sessions), len(found.damaged)) == (1, 1)


async def test_a_full_look_reports_broken_parts_of_finished_turns_too(case: Case) -> None:
    store, rows = case
    bad = rows.part(rows.turn(rows.session(), completed_at=NOW), "[1]")
    assert [damage.id for damage in (await store.look(scan_parts=True)).damaged] == [bad]
    assert [damage.id for damage in (await store.look()).damaged] == [bad]
    rows.delete("part", bad)
    assert (await store.look()).damaged == ()


BROKEN_MESSAGES: dict[str, dict[str, Any] | str] = {
    "no object": '"assistant"',
    "missing role": {"time": {"created": NOW}},
    "completed at a string": {"role": "assistant", "time": {"created": NOW, "completed": "now"}},
    "created at a string": {"role": "assistant", "time": {"created": "now"}},
    "created before the epoch": {"role": "assistant", "time": {"created": -5}},
}


@pytest.mark.parametrize("name", BROKEN_MESSAGES)
async def test_a_message_that_cannot_be_read_is_reported_and_left_out(case: Case, name: str) -> None:
    await _check_that_a_message_is_reported(*case, BROKEN_MESSAGES[name])


async def test_a_message_that_is_no_json_is_reported_and_left_out(text_case: Case) -> None:
    await _check_that_a_message_is_reported(*text_case, '{"role": "assistant"')


async def _check_that_a_message_is_reported(store: Store, rows: OpencodeRows, data: dict[str, Any] | str) -> None:
    session = rows.session()
    good = rows.turn(session)
    bad = rows.message(session, data)
    found = await store.look()
    assert [turn.id for turn in found.sessions[session].turns] == [good]
    assert [(d.table, d.id) for d in found.damaged] == [("message", bad)]


async def test_a_row_whose_own_time_is_no_time_is_reported(case: Case) -> None:
    await _check_that_a_time_is_reported(*case, -1)


async def test_a_row_whose_own_time_is_a_word_is_reported(text_case: Case) -> None:
    await _check_that_a_time_is_reported(*text_case, "yesterday")


async def _check_that_a_time_is_reported(store: Store, rows: OpencodeRows, time: object) -> None:
    session = rows.session()
    turn = rows.turn(session)
    call = rows.call(turn)
    rows.set("part", call, time_created=time)
    other = rows.turn(session)
    rows.set("message", other, time_created=time)
    found = await store.look()
    assert {damage.id for damage in found.damaged} == {call, other}
    assert [(turn.id, turn.superseded) for turn in found.sessions[session].turns] == [(turn, False)]


async def test_times_in_the_future_are_kept(case: Case) -> None:
    store, rows = case
    session = rows.session()
    rows.call(rows.turn(session, at=NOW * 2), at=NOW * 2)
    found = await store.look()
    assert found.damaged == ()
    assert found.sessions[session].calls[0].created_ms == NOW * 2


async def test_rows_whose_session_or_turn_is_missing_are_reported(text_case: Case) -> None:
    store, rows = text_case
    stray = rows.turn("ses_gone")
    session = rows.session()
    elsewhere = rows.call(rows.turn(session), session="ses_other")
    found = await store.look()
    assert {(d.table, d.id) for d in found.damaged} == {("message", stray), ("part", elsewhere)}
    assert set(found.sessions) == {session}


async def test_rows_are_read_whole_and_those_that_are_gone_are_left_out(case: Case) -> None:
    store, rows = case
    session = rows.session()
    turn = rows.turn(session)
    call = rows.call(turn, at=NOW + 1, updated_at=NOW + 2)
    found = await store.rows(call_ids=[CallId("prt_gone"), call], turn_ids=[turn, TurnId("msg_gone")])
    assert [(row.table, row.id, row.message_id) for row in found] == [("part", call, turn), ("message", turn, turn)]
    assert (found[0].created_ms, found[0].updated_ms, found[0].data) == (NOW + 1, NOW + 2, rows.get("part", call))


async def test_a_write_changes_all_rows_that_still_read_as_observed(case: Case) -> None:
    store, rows = case
    turn = rows.turn(rows.session())
    call = rows.call(turn)
    observed = await store.rows(call_ids=[call], turn_ids=[turn])
    await store.look()
    assert await store.write([GuardedWrite(row=row, after='{"é": 1}') for row in observed]) == 2
    assert rows.get("part", call) == rows.get("message", turn) == '{"é": 1}'
    assert await store.changed()


async def test_a_write_changes_nothing_when_one_row_was_written_meanwhile(case: Case) -> None:
    store, rows = case
    turn = rows.turn(rows.session())
    call = rows.call(turn)
    observed = await store.rows(call_ids=[call], turn_ids=[turn])
    rows.finish_turn(turn)
    before = rows.get("part", call), rows.get("message", turn)
    assert await store.write([GuardedWrite(row=row, after="{}") for row in observed]) == 0
    assert (rows.get("part", call), rows.get("message", turn)) == before
    assert await store.write([]) == 0


async def test_the_newest_turn_is_told_by_time_and_never_by_prompts(case: Case) -> None:
    store, rows = case
    session = rows.session()
    assert await store.newest_turn(session) is None
    rows.turn(session, "msg_z", at=NOW + 1, completed_at=NOW + 2)
    rows.turn(session, "msg_y", at=NOW)
    assert await store.newest_turn(session) == "msg_z"
    rows.turn(session, "msg_a", at=NOW + 2)
    rows.prompt(session, at=NOW + 9)
    rows.message(session, "[]", at=NOW + 9)
    rows.turn(rows.session(), at=NOW + 9)
    assert await store.newest_turn(session) == "msg_a"


async def test_a_write_for_the_newest_turn_changes_nothing_once_there_is_a_later_one(case: Case) -> None:
    store, rows = case
    session = rows.session()
    turn = rows.turn(session)
    (row,) = await store.rows(turn_ids=[turn])
    later = rows.turn(session, at=NOW + 1)
    assert await store.write([GuardedWrite(row=row, after="{}")], while_newest=turn) == 0
    assert rows.get("message", turn) == row.data
    rows.delete("message", later)
    assert await store.write([GuardedWrite(row=row, after="{}")], while_newest=turn) == 1
    assert rows.get("message", turn) == "{}"


async def test_a_message_exists_only_in_its_own_session(case: Case) -> None:
    store, rows = case
    session = rows.session()
    prompt, turn = rows.prompt(session), rows.turn(session)
    assert await store.message_exists(session, prompt)
    assert await store.message_exists(session, turn)
    assert not await store.message_exists(rows.session(), turn)
    assert not await store.message_exists(session, "msg_gone")


async def test_titles_are_those_of_the_sessions_that_have_one_and_never_long(case: Case) -> None:
    store, rows = case
    named, long, other = (rows.session() for _ in range(3))
    rows.set("session", named, title="<b>Mend & build</b>")
    rows.set("session", long, title="x" * 301)
    found = await store.titles([named, long, SessionId("ses_gone")])
    assert found == {named: "<b>Mend & build</b>", long: "x" * 300}
    assert await store.titles([other]) == {other: "A session"}


async def test_a_title_that_is_no_text_is_none(text_case: Case) -> None:
    store, rows = text_case
    broken = rows.session()
    rows.set("session", broken, title=b"\xff")
    assert await store.titles([broken]) == {}


async def test_directories_come_once_the_most_recently_used_first_and_only_those_used_since(case: Case) -> None:
    store, rows = case
    rows.session(directory="/a", updated_at=NOW)
    rows.session(directory="/b", updated_at=NOW + 1)
    rows.session(directory="/a", updated_at=NOW + 2)
    rows.session(directory="/c", updated_at=NOW - 1)
    assert await store.directories(since_ms=NOW) == ("/a", "/b")
    assert await store.directories(since_ms=NOW + 2) == ("/a",)


IDS = ["ses_c", "ses_b", "ses_a"]
TIMES = st.integers(NOW, NOW + 6)
JUNK = st.sampled_from(["{", "[]", "{}", '{"type":"tool"}', '{"role":"assistant"}', '{"role":"user"}'])
ROWS = st.lists(
    st.one_of(
        st.tuples(st.just("prompt"), st.sampled_from([*IDS, "ses_x"]), TIMES),
        st.tuples(st.just("turn"), st.sampled_from([*IDS, "ses_x"]), TIMES, st.none() | TIMES),
        st.tuples(st.just("message"), st.sampled_from(IDS), TIMES, JUNK),
        st.tuples(st.just("text"), st.integers(0, 8), TIMES),
        st.tuples(st.just("part"), st.integers(0, 8), TIMES, JUNK),
        st.tuples(st.just("task"), st.integers(0, 8), TIMES, st.none() | st.sampled_from([*IDS, "ses_x"])),
        st.tuples(
            st.just("call"), st.integers(0, 8), TIMES, st.sampled_from(["pending", "running", "completed", "error"])
        ),
    ),
    max_size=24,
)
PARENTS = st.lists(st.none() | st.sampled_from([*IDS, "ses_x"]), min_size=3, max_size=3)


def _fill(rows: OpencodeRows, parents: list[str | None], plan: list[tuple[Any, ...]]) -> None:
    for number, (id_, parent) in enumerate(zip(IDS, parents, strict=True)):
        rows.session(id_, parent=parent, at=NOW + number)
    messages: list[str] = [rows.message("ses_a", json.dumps({"role": "user"}))]
    for kind, where, at, *more in plan:
        match kind:
            case "prompt":
                messages.append(rows.prompt(where, at=at))
            case "turn":
                messages.append(rows.turn(where, at=at, completed_at=more[0]))
            case "message":
                messages.append(rows.message(where, more[0], at=at))
            case "text":
                rows.text(messages[where % len(messages)], at=at)
            case "part":
                rows.part(messages[where % len(messages)], more[0], at=at)
            case "task":
                rows.task(messages[where % len(messages)], at=at, child=more[0])
            case _:
                rows.call(messages[where % len(messages)], at=at, status=more[0])


def _comparable(found: Snapshot) -> tuple[dict[SessionId, Any], set[tuple[str, str, str]]]:
    return dict(found.sessions), {(d.table, d.id, d.session_id) for d in found.damaged}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parents=PARENTS, plan=ROWS, full=st.booleans())
async def test_the_real_store_and_the_fake_one_see_the_same_in_any_rows(
    tmp_path_factory: pytest.TempPathFactory, parents: list[str | None], plan: list[tuple[Any, ...]], full: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "opencode.db"
    fake = FakeStore()
    _fill(fake.content, parents, plan)
    with OpencodeFile(path) as rows:
        rows.connection.execute("PRAGMA synchronous = OFF")
        rows.connection.execute("BEGIN")
        _fill(rows, parents, plan)
        rows.connection.execute("COMMIT")
        async with await OpencodeDatabase.open(path, limits=Limits(step_rows=2, search_rows=2)) as store:
            assert _comparable(await store.look(scan_parts=full)) == _comparable(await fake.look(scan_parts=full))
            for id_ in map(SessionId, IDS):
                assert await store.session(id_) == await fake.session(id_)
                assert _comparable(await store.family([id_])) == _comparable(await fake.family([id_]))


@settings(max_examples=100, deadline=None)
@given(parents=PARENTS, plan=ROWS, full=st.booleans())
async def test_the_store_of_the_simulation_and_the_fake_one_see_the_same_in_any_rows(
    parents: list[str | None], plan: list[tuple[Any, ...]], full: bool
) -> None:
    fake, simulated = FakeStore(), RowStore()
    _fill(fake.content, parents, plan)
    _fill(simulated.content, parents, plan)
    assert _comparable(await simulated.look(scan_parts=full)) == _comparable(await fake.look(scan_parts=full))
    for id_ in map(SessionId, IDS):
        assert await simulated.session(id_) == await fake.session(id_)
        assert _comparable(await simulated.family([id_])) == _comparable(await fake.family([id_]))
        assert await simulated.queued(id_) == await fake.queued(id_)
        assert await simulated.newest_turn(id_) == await fake.newest_turn(id_)
        assert await simulated.below([id_]) == await fake.below([id_])


def _without_sizes(found: Snapshot | Session | None) -> object:
    """What was read, but for the sizes of rows: PostgreSQL's are those of its own storage."""
    if found is None:
        return None
    if isinstance(found, Snapshot):
        sessions = {id_: _without_sizes(session) for id_, session in found.sessions.items()}
        return sessions, {(damage.table, damage.id, damage.session_id) for damage in found.damaged}
    return replace(
        found,
        calls=tuple(replace(call, size=0) for call in found.calls),
        turns=tuple(replace(turn, size=0) for turn in found.turns),
    )


@pytest.fixture(scope="module")
def rows_in_postgres(postgres: Cluster) -> Iterator[PostgresRows]:
    with PostgresRows(postgres.opencode_database()) as rows:
        yield rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parents=PARENTS, plan=ROWS)
async def test_the_store_in_postgresql_and_the_fake_one_see_the_same_in_any_rows_that_it_can_hold(
    rows_in_postgres: PostgresRows, parents: list[str | None], plan: list[tuple[Any, ...]]
) -> None:
    fake, rows = FakeStore(), rows_in_postgres
    possible = [row for row in plan if row[1] != "ses_x" and "{" not in row[3:]]
    # Within a millisecond there is no order there.
    plan = [(kind, where, at + 10 * number, *more) for number, (kind, where, at, *more) in enumerate(possible, 1)]
    rows.run("TRUNCATE session, message, part")
    rows._numbers = itertools.count(1)
    _fill(fake.content, parents, plan)
    _fill(rows, parents, plan)
    engine = own_engine(rows.url)
    try:
        store = await PostgresStore.open(engine, clock=SystemClock())
        # It sees open calls of closed turns at once; the others after a search.
        assert _without_sizes(await store.look()) == _without_sizes(await fake.look(scan_parts=True))
        for id_ in IDS:
            found, expected = await store.session(SessionId(id_)), await fake.session(SessionId(id_))
            assert _without_sizes(found) == _without_sizes(expected)
            of_store, of_fake = await store.family([SessionId(id_)]), await fake.family([SessionId(id_)])
            assert _without_sizes(of_store) == _without_sizes(of_fake)
    finally:
        await engine.dispose()
