"""The journal for people: its list, one intervention with its rows side by side, and the holds."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from watchdog.acting.undo import Undoing, UndoResult
from watchdog.judging.limits import duration
from watchdog.model.interventions import Actor, Hold, Intervention, Kept
from watchdog.model.session import EVERYTHING
from watchdog.reporting.documents import moment
from watchdog.reporting.journal_documents import parsed
from watchdog.reporting.tables import KIND_COLOURS, RESULT_COLOURS, Cell, Screen
from watchdog.shown import Shown, joined, shown, stacked

_LONGEST = 160
_DEEPEST = 8
_MOST_UNCHANGED = 40
_UNDO_COLOURS = {UndoResult.UNDONE: "green", UndoResult.ALREADY_UNDONE: "cyan", UndoResult.NOT_UNDONE: "yellow"}


def history(screen: Screen, interventions: Sequence[Intervention], found: Sequence[Hold]) -> None:
    """Print a list of interventions, and the holds."""
    cells = _told if screen.fancy else _cells
    screen.rows("intervention", ("id", "when", "verdict", "what, and how it ended"), map(cells, interventions))
    _rows_of_holds(screen, found)
    many = len(interventions)
    screen.line("summary", f"{many} intervention{'' if many == 1 else 's'}, {len(found)} on hold", "bold")


def intervention(screen: Screen, found: Intervention, kept: Sequence[Kept]) -> None:
    """Print one intervention: the verdict with its evidence, the steps, and the rows before and after."""
    screen.rows("intervention", ("", ""), list(_facts(found)))
    steps = found.outcome.steps if found.outcome else ()
    screen.rows(
        "step",
        ("step", "", "when", "what was seen"),
        [
            ((each.step, "green" if each.ok else "red"), _ok(each.ok), _when(each.at_ms), each.detail)
            for each in steps
        ],
    )
    for each in kept:
        _row(screen, each)
    rows = f"{len(kept)} row{'' if len(kept) == 1 else 's'} kept"
    screen.line("summary", f"intervention {found.id}: {_result(found)}{_undone(found)}, {rows}", "bold")


def holds(screen: Screen, what: str, found: Sequence[Hold]) -> None:
    """Print the holds after one changed."""
    _rows_of_holds(screen, found)
    screen.line("summary", what, "bold green")


def undoing(screen: Screen, found: Undoing) -> None:
    """Print the result of an undo."""
    screen.rows(
        "step",
        ("step", "", "what was seen"),
        [((each.step, "green" if each.ok else "red"), _ok(each.ok), each.detail) for each in found.steps],
    )
    screen.line("summary", found.why, f"bold {_UNDO_COLOURS[found.result]}")


def hold_sentence(hold: Hold) -> str:
    """A hold in a sentence."""
    what = "everything" if hold.session_id == EVERYTHING else hold.session_id
    until = "until somebody ends it" if hold.until_ms is None else f"until {_when(hold.until_ms)}"
    return f"{what} since {_when(hold.since_ms)}, {until}: {hold.why}"


def intervention_sentence(found: Intervention) -> str:
    """An intervention in a sentence."""
    verdict = found.verdict
    ended = f"{_result(found)}{_undone(found)}"
    return f"{found.id} at {_when(found.began_ms)}: {verdict.kind.value}, {ended}: {verdict.why}"


# -- pieces ----------------------------------------------------------------------------------------------------------


def _rows_of_holds(screen: Screen, found: Iterable[Hold]) -> None:
    cells = [
        (
            ("everything" if each.session_id == EVERYTHING else each.session_id, "cyan"),
            _when(each.since_ms),
            "-" if each.until_ms is None else _when(each.until_ms),
            each.why,
        )
        for each in found
    ]
    screen.rows("on hold", ("session", "since", "until", "why"), cells)


def _cells(found: Intervention) -> Sequence[str | Cell]:
    verdict = found.verdict
    undone = "-" if found.undone_ms is None else _when(found.undone_ms)
    return (
        str(found.id), _when(found.began_ms), verdict.kind.value, verdict.session_id, verdict.tool or "-",
        _result(found), found.actor.value, undone,
    )  # fmt: skip


def _told(found: Intervention) -> Sequence[str | Cell]:
    """An intervention for a person, in 80 columns."""
    verdict = found.verdict
    who = " by a person" if found.actor is Actor.PERSON else ""
    what = stacked(
        f"{verdict.session_id} {verdict.tool or 'no tool'}", f"{_result(found)}{who}{_undone(found)}: {verdict.why}"
    )
    colour = (
        "cyan" if found.undone_ms is not None else RESULT_COLOURS[found.outcome.result] if found.outcome else None
    )
    return (
        (str(found.id), "bold"),
        stacked(*_when(found.began_ms).split(" ")),
        (verdict.kind.value, KIND_COLOURS[verdict.kind]),
        (what, colour),
    )


def _facts(found: Intervention) -> Iterator[Sequence[str | Cell]]:
    verdict, outcome = found.verdict, found.outcome
    yield "id", str(found.id)
    yield "began", _when(found.began_ms)
    yield "ended", "-" if found.ended_ms is None else _when(found.ended_ms)
    yield "who", found.actor.value
    yield "reason", found.reason or "-"
    yield "verdict", (verdict.kind.value, KIND_COLOURS[verdict.kind])
    yield "session", verdict.session_id
    yield "ended session", verdict.cancel_session_id
    yield "turn", verdict.message_id or "-"
    yield "call", " ".join(filter(None, [verdict.call_id, verdict.tool])) or "-"
    yield "why", verdict.why
    yield "age", duration(verdict.age_seconds)
    yield "limit", "-" if verdict.limit_seconds is None else duration(verdict.limit_seconds)
    yield "result", (_result(found), RESULT_COLOURS[outcome.result] if outcome else "yellow")
    yield "because", outcome.why if outcome else "-"
    yield "undone", "-" if found.undone_ms is None else _when(found.undone_ms)


def _row(screen: Screen, kept: Kept) -> None:
    """One row, field by field, before and after."""
    before, after = dict(_fields(parsed(kept.row.data))), dict(_fields(parsed(kept.after)))
    cells: list[Sequence[str | Cell]] = []
    left_out = 0
    for name in dict.fromkeys(chain(before, after)):
        old, new = before.get(name, "-"), after.get(name, "-")
        if old != new:
            cells.append(((name, "bold"), (shortened(old), "red"), (shortened(new), "green")))
        elif len(cells) < _MOST_UNCHANGED:
            cells.append((name, shortened(old), shortened(new)))
        else:
            left_out += 1
    if left_out:
        cells.append((f"… {left_out} more that did not change", "-", "-"))
    if screen.fancy:
        screen.rows(f"{kept.row.table} {kept.row.id}", ("field", "before", "after"), cells)
    else:
        screen.rows("row", (), [(kept.row.table, kept.row.id, *each) for each in cells])


def _fields(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """The values of a JSON document by their path."""
    if isinstance(value, dict | list) and value and depth < _DEEPEST:
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            yield from _fields(each, f"{name}.{key}" if name else str(key), depth + 1)
    else:
        yield name or "data", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shortened(text: str) -> Shown:
    """A value for people: short."""
    seen = shown(text)
    return seen if len(seen) <= _LONGEST else joined(seen[:_LONGEST], f"… ({len(text)} characters)")


def _result(found: Intervention) -> str:
    return found.outcome.result.value if found.outcome else "begun"


def _undone(found: Intervention) -> str:
    return "" if found.undone_ms is None else ", undone"


def _ok(ok: bool) -> str:  # noqa: FBT001 - it is the value itself
    return "yes" if ok else "no"


def _when(at_ms: int) -> str:
    """A moment in UTC, to the second."""
    return moment(at_ms)[:19].replace("T", " ") + "Z"
