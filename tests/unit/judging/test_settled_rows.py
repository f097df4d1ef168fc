"""How open rows read once they are settled."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.properties import ANY_MACHINE
from watchdog.judging.settled_rows import settle, settled_call, settled_turn
from watchdog.model.outcome import Row
from watchdog.model.session import SessionId, TurnId

CREATED, NOW = 1_000, 9_000
TEXT = "Ended by opencode-watchdog after 31 minutes."

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def row(data: object, *, table: str = "part", text: str | None = None) -> Row:
    return Row(
        table=table,
        id="row_1",
        message_id=TurnId("msg_1"),
        session_id=SessionId("ses_1"),
        created_ms=CREATED,
        updated_ms=CREATED,
        data=json.dumps(data) if text is None else text,
    )


def call(**state: object) -> dict[str, Any]:
    return {"type": "tool", "tool": "bash", "callID": "call_1", "state": {"status": "running", **state}}


def settle_call(data: object) -> Any:  # noqa: ANN401 - JSON
    text = settled_call(row(data), text=TEXT, now_ms=NOW)
    return None if text is None else json.loads(text)


def settle_turn(data: object) -> Any:  # noqa: ANN401 - JSON
    text = settled_turn(row(data, table="message"), text=TEXT, now_ms=NOW)
    return None if text is None else json.loads(text)


def test_a_running_call_keeps_its_input_and_metadata_and_loses_what_an_error_may_not_have() -> None:
    open_call = call(
        input={"command": "x"}, title="t", output="o", raw="r", metadata={"output": "so far"}, time={"start": 5}
    )
    assert settle_call({**open_call, "metadata": {"openai": 1}}) == {
        "type": "tool",
        "tool": "bash",
        "callID": "call_1",
        "metadata": {"openai": 1},
        "state": {
            "status": "error",
            "input": {"command": "x"},
            "error": TEXT,
            "time": {"start": 5, "end": NOW},
            "metadata": {"output": "so far"},
        },
    }


def test_a_pending_call_starts_when_its_row_was_created_and_has_no_metadata() -> None:
    settled = settle_call({"type": "tool", "tool": "x", "state": {"status": "pending", "input": {}, "raw": ""}})
    assert settled["state"] == {"status": "error", "input": {}, "error": TEXT, "time": {"start": CREATED, "end": NOW}}


@pytest.mark.parametrize("start", [None, "5", True, -5, [], {}])
def test_a_start_that_is_no_time_falls_back_to_the_row(start: object) -> None:
    assert settle_call(call(input={}, time={"start": start}))["state"]["time"] == {"start": CREATED, "end": NOW}


@pytest.mark.parametrize("time", [None, 5, "now", []])
def test_a_time_that_is_no_object_falls_back_to_the_row(time: object) -> None:
    assert settle_call(call(input={}, time=time))["state"]["time"]["start"] == CREATED


@pytest.mark.parametrize("given", [None, "ls", 5, ["ls"]])
def test_an_input_that_is_no_object_becomes_an_empty_one(given: object) -> None:
    assert settle_call(call(input=given))["state"]["input"] == {}


def test_a_metadata_that_is_no_object_is_left_out() -> None:
    assert "metadata" not in settle_call(call(metadata="x"))["state"]


def test_a_call_never_ends_before_its_start() -> None:
    assert settle_call(call(time={"start": NOW + 0.5}))["state"]["time"] == {"start": NOW + 0.5, "end": NOW + 0.5}


@pytest.mark.parametrize(
    "data",
    [
        call(status="completed"),
        call(status="error"),
        call(status="napping"),
        call(status=None),
        call(status=["running"]),
        {"type": "tool", "tool": "x"},
        {"type": "tool", "state": "running"},
        {"type": "text", "state": {"status": "running"}},
        [],
        None,
    ],
)
def test_what_is_no_open_call_is_not_settled(data: object) -> None:
    assert settle_call(data) is None


def test_an_open_turn_is_completed_with_an_error_that_every_version_knows() -> None:
    turn = {"role": "assistant", "time": {"created": 7}, "parentID": "msg_0", "cost": 0.25}
    assert settle_turn(turn) == {
        **turn,
        "time": {"created": 7, "completed": NOW},
        "error": {"name": "MessageAbortedError", "data": {"message": TEXT}},
        "finish": "tool-calls",
    }


@pytest.mark.parametrize("finish", [None, "", 7])
def test_a_turn_gets_a_finish_where_it_has_none_that_counts(finish: object) -> None:
    assert settle_turn({"role": "assistant", "time": {"created": 7}, "finish": finish})["finish"] == "tool-calls"


def test_a_finish_that_a_turn_has_is_kept() -> None:
    assert settle_turn({"role": "assistant", "time": {"created": 7}, "finish": "stop"})["finish"] == "stop"


def test_an_error_that_a_turn_has_is_kept() -> None:
    error = {"name": "UnknownError", "data": {"message": "it broke"}}
    assert settle_turn({"role": "assistant", "time": {"created": 7}, "error": error})["error"] == error


@pytest.mark.parametrize("time", [None, {}, {"created": "7"}, "now"])
def test_a_turn_without_a_readable_time_gets_the_time_of_its_row(time: object) -> None:
    assert settle_turn({"role": "assistant", "time": time})["time"] == {"created": CREATED, "completed": NOW}


def test_a_turn_never_completes_before_it_was_created() -> None:
    turn = {"role": "assistant", "time": {"created": NOW + 5}}
    assert settle_turn(turn)["time"]["completed"] == NOW + 5


@pytest.mark.parametrize(
    "data",
    [
        {"role": "assistant", "time": {"created": 7, "completed": 8}},
        {"role": "user", "time": {"created": 7}},
        {"time": {"created": 7}},
        "assistant",
    ],
)
def test_what_is_no_open_turn_is_not_settled(data: object) -> None:
    assert settle_turn(data) is None


@pytest.mark.parametrize(
    "text",
    ['{"type": "tool", ', "", "NaN", '{"type":"tool","state":{"status":"running","x":1e999},"y":1e999}', "[" * 5000],
)
def test_a_row_that_cannot_be_read_or_written_as_json_is_not_settled(text: str) -> None:
    assert settled_call(row(None, text=text), text=TEXT, now_ms=NOW) is None
    assert settled_turn(row(None, table="message", text=text), text=TEXT, now_ms=NOW) is None


def test_text_outside_ascii_stays_as_it_is_and_a_lone_surrogate_stays_an_escape() -> None:
    plain = settled_call(row(call(input={"command": "é"})), text=TEXT, now_ms=NOW)
    assert plain is not None
    assert "é" in plain
    broken = settled_call(row(call(input={"command": "\ud800é"})), text=TEXT, now_ms=NOW)
    assert broken is not None
    assert "\\ud800" in broken
    assert broken.isascii()


def test_of_several_rows_only_the_open_ones_are_written() -> None:
    rows = [row(call()), row(call(status="error")), row({"role": "assistant"}, table="message")]
    writes = settle(rows, text=TEXT, now_ms=NOW)
    assert [write.row for write in writes] == [rows[0], rows[2]]
    assert writes[0].after == settled_call(rows[0], text=TEXT, now_ms=NOW)
    assert writes[1].after == settled_turn(rows[2], text=TEXT, now_ms=NOW)


@ANY_MACHINE
@given(value=json_values)
def test_nothing_crashes_it(value: object) -> None:
    settle_call(value)
    settle_turn(value)


@ANY_MACHINE
@given(
    state=st.dictionaries(st.sampled_from(["input", "metadata", "time", "title", "raw"]), json_values),
    more=json_values,
)
def test_a_settled_call_has_a_shape_that_opencode_reads_and_is_settled_once(
    state: dict[str, Any], more: object
) -> None:
    settled = settle_call({**call(**state), "more": more})
    assert settled["more"] == more
    after = settled["state"]
    assert set(after) - {"metadata"} == {"status", "input", "error", "time"}
    assert isinstance(after["input"], dict)
    assert isinstance(after.get("metadata", {}), dict)
    assert 0 <= after["time"]["start"] <= after["time"]["end"]
    assert settle_call(settled) is None
