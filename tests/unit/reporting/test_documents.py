"""What the program prints as JSON, compared with what `docs/json.md` promises."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.fakes.server import FakeServer, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, rows
from watchdog.model.moments import NEVER
from watchdog.model.outcome import Outcome, Result, Step
from watchdog.model.report import Observation
from watchdog.model.session import CallId, Damage, SessionId, Snapshot, TurnId
from watchdog.model.verdict import Judgement, Spared, SpareReason, Verdict, VerdictKind
from watchdog.reporting import documents as contract
from watchdog.reporting.log import LogListener

__all__ = ["path", "program", "rows"]

PAGE = Path(__file__).parents[3] / "docs/json.md"


def example(title: str) -> dict[str, Any]:
    """The first JSON block below a heading of the documentation."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    found: dict[str, Any] = json.loads(section.split("```json\n")[1].split("```")[0])
    return found


def shape(value: object) -> object:
    """Keys and kinds, without the values; a list is described by its first item."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else "text"


VERDICT = Verdict(
    session_id=SessionId("ses_a"), kind=VerdictKind.STUCK_TOOL, cancel_session_id=SessionId("ses_b"), why="because",
    age_seconds=1834.2345, limit_seconds=1800.0, message_id=TurnId("msg_a"), call_id=CallId("prt_a"), tool="bash",
)  # fmt: skip
OUTCOME = Outcome(
    session_id=SessionId("ses_a"), kind=VerdictKind.ORPHAN, result=Result.RECOVERED, why="because",
    steps=(Step(step="settle", at_ms=1_767_225_600_123, ok=True, detail="2 of 2 rows written"),),
)  # fmt: skip


# By value.


def test_the_document_of_scan_is_the_one_that_is_promised() -> None:
    damage = Damage(table="part", id="prt_x", session_id=SessionId("ses_x"), problem="its JSON is broken")
    observation = Observation(
        at_ms=1_767_225_600_000,
        now=NEVER,
        steady_since_ms=0,
        snapshot=Snapshot(damaged=(damage,)),
        degraded=("the server is down",),
    )
    spared = Spared(session_id=SessionId("ses_c"), reason=SpareReason.WAITING_ON_HUMAN, why="a person is asked")
    judgement = Judgement(verdicts=(VERDICT,), spared=(spared,))
    assert contract.scan_document("/opencode.db", observation, judgement) == {
        "version": 1,
        "database": "/opencode.db",
        "observed_at": "2026-01-01T00:00:00.000Z",
        "degraded": ["the server is down", "part prt_x of session ses_x is left alone: its JSON is broken"],
        "counts": {"unfinished_sessions": 2, "open_tool_calls": 0, "damaged_rows": 1},
        "verdicts": [
            {
                "session_id": "ses_a", "kind": "stuck_tool", "message_id": "msg_a", "part_id": "prt_a",
                "tool": "bash", "age_seconds": 1834.2, "limit_seconds": 1800.0, "cancel_session_id": "ses_b",
                "why": "because",
            }
        ],
        "spared": [
            {"session_id": "ses_c", "reason": "waiting_on_human", "part_id": None, "why": "a person is asked"}
        ],
    }  # fmt: skip


def test_an_outcome_reads_the_same_in_a_document_and_in_the_log() -> None:
    fields = {
        "session_id": "ses_a", "kind": "orphan", "result": "recovered", "why": "because", "dropped_prompts": [],
        "steps": [
            {"step": "settle", "at": "2026-01-01T00:00:00.123Z", "ok": True, "detail": "2 of 2 rows written"}
        ],
    }  # fmt: skip
    assert contract.outcomes_document("/opencode.db", [OUTCOME])["outcomes"] == [fields]
    with capture_logs() as logs:
        LogListener().ended(VERDICT, OUTCOME, given_up=False)
    assert logs == [{"event": "outcome", "log_level": "info", **fields}]


def test_only_recover_says_what_it_left_alone() -> None:
    assert "spared" not in contract.outcomes_document("/opencode.db", [])
    assert contract.outcomes_document("/opencode.db", [], [])["spared"] == []


# As documented.


@pytest.mark.parametrize("kind", [VerdictKind, SpareReason, Result])
def test_every_word_that_may_appear_is_documented(kind: type[VerdictKind | SpareReason | Result]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [word.value for word in kind if f"| `{word.value}` |" not in page] == []


def test_every_step_of_the_ladder_is_documented() -> None:
    folder = Path(contract.__file__).parents[1] / "acting"
    source = "".join(
        (folder / name).read_text(encoding="utf-8") for name in ("attempt.py", "intervention.py", "settling.py")
    )
    steps = set(re.findall(r'_step\(\s*"(\w+)"', source))
    assert steps
    page = PAGE.read_text(encoding="utf-8")
    assert [step for step in sorted(steps) if f"| `{step}` |" not in page] == []


def test_the_examples_are_of_the_version_that_is_printed() -> None:
    versions = re.findall(r'"version": (\d+),', PAGE.read_text(encoding="utf-8"))
    assert set(versions) == {str(contract.VERSION)}


async def test_scan_prints_the_documented_shape(program: Program, rows: OpencodeFile) -> None:
    rows.call(rows.turn(rows.session()))
    rows.turn(rows.session(at=now_ms()), at=now_ms())
    program.settings(tool_timeout="1ms")
    began = now_ms() - 6_000  # the first look of a boot leaves some seconds out, where the clock may have been set
    rows.call(rows.turn(rows.session(at=began), at=began), at=began)
    done = await program.run("scan", "--json", "--database", rows.path, "--server", NOWHERE)
    printed = done.document
    stuck = next(each for each in printed["verdicts"] if each["kind"] == "stuck_tool")
    spared = next(each for each in printed["spared"])
    documented = example("scan")
    assert list(printed) == list(documented)
    assert shape(printed["counts"]) == shape(documented["counts"])
    assert shape(stuck) == shape(documented["verdicts"][0])
    assert list(spared) == list(documented["spared"][0])


async def test_recover_and_release_print_the_documented_shapes(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session("ses_a")))
        rows.call(rows.turn(rows.session("ses_b")))
    where = ("--json", "--database", path, "--server", NOWHERE)
    released = (await program.run("release", "ses_a", *where)).document
    recovered = (await program.run("recover", *where)).document
    assert shape(released) == shape(example("release"))
    assert list(recovered) == list(example("recover"))
    assert shape(recovered["outcomes"]) == shape(example("recover")["outcomes"])


async def test_delete_message_prints_the_documented_shape(program: Program, rows: OpencodeFile) -> None:
    fake = FakeServer()
    turn = rows.turn(rows.session("ses_a"), completed_at=now_ms())
    fake.turns.add((SessionId("ses_a"), turn))
    async with loopback(over_http(fake)) as url:
        done = await program.run("delete-message", "ses_a", turn, "--json", "--database", rows.path, "--server", url)
    printed, documented = done.document, example("delete-message")
    assert list(printed) == list(documented)
    assert {**shape_of(printed), "outcomes": None} == {**shape_of(documented), "outcomes": None}


def shape_of(document: dict[str, Any]) -> dict[str, object]:
    return {key: shape(value) for key, value in document.items()}


async def test_check_prints_the_documented_shape(program: Program, rows: OpencodeFile) -> None:
    async with loopback(over_http(FakeServer())) as url:
        done = await program.run("check", "--json", "--database", rows.path, "--server", url)
    printed, documented = done.document, example("check")
    assert list(printed) == list(documented)
    assert list(printed["database"]) == list(documented["database"])
    assert shape(printed["journal"]) == shape(documented["journal"])
    assert list(printed["servers"][0]) == list(documented["servers"][0])
    assert list(printed["bridge"]) == list(documented["bridge"])
    assert shape(printed["proofs"]) == shape(documented["proofs"])
    assert shape(printed["settings"]["tool_timeout"]) == shape(documented["settings"]["tool_timeout"])


async def test_an_error_prints_nothing_on_standard_output(program: Program, path: Path) -> None:
    done = await program.run("scan", "--json", "--database", path)
    assert (done.code, done.stdout) == (3, "")
