"""`status`: one screen of what the running watchdog is doing."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import anyio

from watchdog.composing.files import locate_file
from watchdog.composing.running import RunningWatchdog, running_watchdog
from watchdog.console.exits import Exit
from watchdog.judging.limits import duration
from watchdog.reporting.documents import VERSION, milliseconds
from watchdog.reporting.tables import Cell, Screen, complain
from watchdog.settings.schema import Loaded
from watchdog.shown import stacked

_AGAIN_SECONDS: Final = 2.0
_COLOURS: Final = {"answers": "green", "silent": "red", "deaf": "yellow", "not_shown": "yellow"}
_MANDATES: Final = {
    "acting": "acts",
    "observing": "only observes: another one acts",
    "dry_run": "runs dry: it changes nothing",
}


async def status(loaded: Loaded, screen: Screen, *, watch: bool) -> Exit:
    """Show what it is doing; with `watch`, again whenever that changes, until it is interrupted.

    Raises:
        DatabaseError: there is no database, or its folder can't be used.
        SettingsError: there are several and no choice was made.
    """
    code, said = await _show(loaded, screen, ())
    while watch:
        await anyio.sleep(_AGAIN_SECONDS)
        code, said = await _show(loaded, screen, said)
    return code


async def _show(loaded: Loaded, screen: Screen, said: object) -> tuple[Exit, object]:
    """Show it if it is not what was said last."""
    found = await running_watchdog(loaded)
    document = {"version": VERSION, "running": False} if found is None else {**found.status, "running": True}
    now = _told(document)
    if now != said:
        if screen.as_json:
            screen.document(document)
        elif found is None:
            complain(f"No watchdog of this user answers for {locate_file(loaded)}; `run` starts one.")
        else:
            _draw(screen, found)
    return _code(found), now


def _told(document: dict[str, Any]) -> object:
    """It without what changes at each look."""
    return {name: value for name, value in document.items() if name not in {"now", "observed_at"}}


def _code(found: RunningWatchdog | None) -> Exit:
    if found is None:
        return Exit.UNUSABLE
    return Exit.FINE if found.status["well"] else Exit.STUCK


def _draw(screen: Screen, found: RunningWatchdog) -> None:
    status = found.status
    for sentence in status["degraded"]:
        screen.line("degraded", sentence, "yellow")
    screen.rows("watchdog", ("", ""), list(_facts(status)))
    screen.rows("server", ("server", "state", "at work on", "why"), [_server(each) for each in status["servers"]])
    screen.rows("spared", ("reason", "sessions"), [(name, str(many)) for name, many in status["spared"].items()])
    screen.rows("next", ("when", "what, and why"), [_upcoming(screen, status, each) for each in status["upcoming"]])
    screen.rows(
        "on hold",
        ("session", "until", "why"),
        [
            ("everything" if each["everything"] else each["session_id"], each["until"] or "-", each["why"])
            for each in status["on_hold"]
        ],
    )
    screen.line("summary", _summary(status), "bold green" if status["well"] else "bold yellow")


def _facts(status: dict[str, Any]) -> Iterator[Sequence[str | Cell]]:
    up = (milliseconds(status["now"]) - milliseconds(status["began_at"])) / 1000
    ago = (milliseconds(status["now"]) - milliseconds(status["observed_at"])) / 1000
    yield "pid", str(status["pid"])
    yield "version", status["program"]
    yield "database", status["database"]
    yield "runs since", f"{status['began_at']} ({duration(max(0.0, up))})"
    yield "last look", f"{duration(max(0.0, ago))} ago, one each {duration(status['poll_interval_seconds'])}"
    holder = f" (pid {status['holder_pid']})" if status["holder_pid"] else ""
    yield "mandate", (_MANDATES[status["mandate"]] + holder, "green" if status["mandate"] == "acting" else "yellow")
    if not status["ticking"]:
        yield "loop", ("stands still", "red")
    if status["ending"]:
        yield "ending now", (", ".join(status["ending"]), "red")


def _server(each: dict[str, Any]) -> Sequence[str | Cell]:
    pid = f" (pid {each['pid']})" if each["pid"] else ""
    many = f"{each['sessions']} session{'' if each['sessions'] == 1 else 's'}"
    return each["name"] + pid, (each["state"], _COLOURS[each["state"]]), many, each["why"] or "-"


def _upcoming(screen: Screen, status: dict[str, Any], each: dict[str, Any]) -> Sequence[str | Cell]:
    left = (milliseconds(each["until"]) - milliseconds(status["now"])) / 1000
    when = f"in {duration(left)}" if left > 0 else "at the next look"
    if screen.fancy:
        return when, stacked(f"{each['session_id']} ({each['reason']})", each["why"])
    return when, each["session_id"], each["reason"], each["why"]


def _summary(status: dict[str, Any]) -> str:
    spared = sum(status["spared"].values())
    well = "all is well" if status["well"] else f"{_MANDATES[status['mandate']]}, {len(status['degraded'])} degraded"
    return f"{status['stuck']} stuck, {spared} spared: {well}"
