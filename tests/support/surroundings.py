"""Every command of the program, found in the program, as a process in surroundings that something is wrong with.

A command that is new is run like the others: what it needs is read from its own parameters.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer

from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE
from tests.support.watchdog_run import _environment
from watchdog.cli.main import app

SECONDS: Final = 60.0
SESSION: Final = "ses_lost"
_KEPT: Final = ("PATH", "LANG", "LC_ALL")
_GIVEN: Final = {"SESSION": SESSION, "MESSAGE": "msg_1", "ID": "1", "[ID]": "1"}
"""What a command is given for an argument that it can't do without, by what its help calls it."""


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, each in inner.items():
        yield from _leaves(each, (*path, name))


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of the program with what it needs."""

    words: tuple[str, ...]
    arguments: tuple[str, ...]
    as_json: bool

    @property
    def name(self) -> str:
        """What it is called."""
        return " ".join(self.words)


def _command(words: tuple[str, ...], found: Any) -> Command:  # noqa: ANN401
    options = {option for each in found.params for option in each.opts}
    needed = [each for each in found.params if each.param_type_name == "argument" and each.required]
    arguments = [_GIVEN[each.metavar] for each in needed]
    arguments += [option for option in ("--yes", "--no-browser") if option in options or _is_off(found, option)]
    return Command(words=words, arguments=tuple(arguments), as_json="--json" in options and words != ("run",))


def _is_off(found: Any, option: str) -> bool:  # noqa: ANN401
    return any(option in each.secondary_opts for each in found.params)


COMMANDS: Final = tuple(_command(words, found) for words, found in _leaves(typer.main.get_command(app)))
EVERY: Final = frozenset(command.name for command in COMMANDS)
ALWAYS: Final = ("scan", "recover", "run")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of a command. `stdout` and `stderr` are what reached this process, if anything could."""

    name: str
    code: int
    stdout: str
    stderr: str


@dataclass(kw_only=True)
class Place:
    """A home, a working folder and a database for one command.

    Attributes:
        line: what `sh` runs; `"$@"` is the program in it.
        more: variables of the environment; None takes one away.
        preamble: Python that runs before the program.
        streams: other streams than pipes, by name.
    """

    folder: Path
    line: str = 'exec "$@"'
    more: dict[str, str | None] = field(default_factory=dict)
    preamble: str = ""
    streams: dict[str, Any] = field(default_factory=dict)
    tool: str = "größe"

    @property
    def home(self) -> Path:
        """The home."""
        return self.folder / "home"

    @property
    def database(self) -> Path:
        """The database, with one call that a crash left open."""
        return self.folder / "opencode.db"

    def prepare(self) -> None:
        """Make it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with OpencodeFile(self.database) as rows:
            if rows.get("session", SESSION, "id") is not None:
                return
            turn = rows.turn(rows.session(SESSION), "msg_1")
            rows.call(turn, "prt_1", tool=self.tool)

    def environ(self, notify: str) -> dict[str, str]:
        """The whole environment."""
        ours = {
            "DATABASE": str(self.database), "SERVERS": NOWHERE, "DISCOVER": "false", "POLL_INTERVAL": "200ms",
            "ORPHAN_GRACE": "100ms", "SHUTDOWN_GRACE": "3s", "ABORT_GRACE": "200ms",
        }  # fmt: skip
        found: dict[str, str | None] = {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            **_environment(),
            **{f"OPENCODE_WATCHDOG_{name}": value for name, value in ours.items()},
            "HOME": str(self.home),
            "NOTIFY_SOCKET": notify,
            **self.more,
        }
        return {name: value for name, value in found.items() if value is not None}

    def run(self, command: Command, *, as_json: bool = False) -> Seen:
        """Run a command to its end. One that watches is told to stop once it says that it is ready."""
        self.prepare()
        more = {"OPENCODE_WATCHDOG_CONTROL": "127.0.0.1:9"} if command.name == "page" else {}
        self.more = {**more, **self.more}
        program = [sys.executable, "-m", "watchdog"]
        if self.preamble:
            program = [sys.executable, "-c", f"{self.preamble}\nfrom watchdog.__main__ import main\nmain()"]
        line = [*program, *command.words, *command.arguments, *(["--json"] if as_json else [])]
        notify = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(notify)
            return self._run(command, line, self.environ(notify), ready)

    def _run(self, command: Command, line: Sequence[str], environ: Mapping[str, str], ready: socket.socket) -> Seen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **self.streams}
        process = subprocess.Popen(["sh", "-c", self.line, "sh", *line], cwd=self.home, env=environ, **pipes)
        try:
            _stop_when_ready(process, ready)
            out, err = process.communicate(timeout=SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        stdout, stderr = ((each or b"").decode(errors="surrogateescape") for each in (out, err))
        return Seen(name=command.name, code=process.returncode, stdout=stdout, stderr=stderr)


def _stop_when_ready(process: "subprocess.Popen[bytes]", ready: socket.socket) -> None:
    """Tell it to stop once it says that it is ready, as systemd would hear it; or wait for its end."""
    watcher = os.pidfd_open(process.pid)
    try:
        while ready.fileno() in select.select([ready.fileno(), watcher], [], [], SECONDS)[0]:
            if b"READY=1" in ready.recv(4096):
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                return
    finally:
        os.close(watcher)


NO_ENTRY = "import os, pwd\nos.environ.pop('HOME', None)\ndef none(_): raise KeyError(_)\npwd.getpwuid = none"


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """Something that is wrong with the surroundings.

    Attributes:
        line: see `Place`.
        alike: nothing of it matters to any command.
        streams: makes other streams than pipes, for as long as the command runs.
    """

    line: str = 'exec "$@"'
    more: dict[str, str | None] = field(default_factory=dict)
    preamble: str = ""
    alike: bool = False
    streams: Callable[[], Any] | None = None
    make: Callable[[Place], None] | None = None


@contextmanager
def _no_reader(*names: str) -> Iterator[dict[str, int]]:
    """Pipes that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield dict.fromkeys(names, writing)
    finally:
        os.close(writing)


def _home_is_a_file(place: Place) -> None:
    (place.folder / "file").write_text("", encoding="utf-8")
    place.more["HOME"] = str(place.folder / "file")


SURROUNDINGS = {
    "standard output is full": Wrong(line='exec "$@" >/dev/full'),
    "standard error is full": Wrong(line='exec "$@" 2>/dev/full'),
    "both are full": Wrong(line='exec "$@" >/dev/full 2>&1'),
    "nobody reads standard output": Wrong(streams=lambda: _no_reader("stdout")),
    "nobody reads standard error": Wrong(streams=lambda: _no_reader("stderr")),
    "nobody reads either": Wrong(streams=lambda: _no_reader("stdout", "stderr")),
    "standard output is closed": Wrong(line='exec "$@" >&-'),
    "standard error is closed": Wrong(line='exec "$@" 2>&-'),
    "standard input is closed": Wrong(line='exec "$@" <&-', alike=True),
    "all three are closed": Wrong(line='exec "$@" <&- >&- 2>&-'),
    "standard output is open for reading only": Wrong(line='exec "$@" 1</dev/null'),
    "the working folder is gone": Wrong(line='mkdir gone && cd gone && rmdir ../gone && exec "$@"', alike=True),
    "no HOME, and no entry of the user": Wrong(preamble=NO_ENTRY, more={"HOME": None}),
    "no HOME, no entry, and no working folder": Wrong(
        preamble=NO_ENTRY, more={"HOME": None}, line='mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    ),
    "HOME is a file": Wrong(make=_home_is_a_file),
    "HOME is nowhere, and can't be made": Wrong(more={"HOME": "/proc/nowhere"}),
    "HOME can't be written": Wrong(more={"HOME": "/proc"}),
    "HOME is empty": Wrong(more={"HOME": ""}),
    "HOME is no whole path": Wrong(more={"HOME": "here"}),
    "TERM is of no terminal": Wrong(more={"TERM": "no-such-terminal", "FORCE_COLOR": "1"}),
    "TERM is empty": Wrong(more={"TERM": ""}, alike=True),
    "the terminal has one column": Wrong(more={"COLUMNS": "1", "LINES": "1", "FORCE_COLOR": "1"}),
    "the terminal has no columns": Wrong(more={"COLUMNS": "0", "LINES": "-1", "FORCE_COLOR": "1"}),
    "COLUMNS is no number": Wrong(more={"COLUMNS": "wide", "LINES": "", "FORCE_COLOR": "1"}),
    "the locale is C": Wrong(more={"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    "the locale is none": Wrong(more={"LANG": "xx_YY.KOI9", "LC_ALL": None}),
    "the streams are ASCII": Wrong(more={"PYTHONIOENCODING": "ascii"}),
    "the XDG variables are no whole paths": Wrong(
        more=dict.fromkeys(("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"), "here")
    ),
    "the XDG variables are empty": Wrong(
        more=dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"), ""), alike=True
    ),
    "XDG_DATA_HOME is no whole path": Wrong(more={"XDG_DATA_HOME": "here", "OPENCODE_WATCHDOG_DATABASE": None}),
    "TMPDIR is gone": Wrong(more={"TMPDIR": "/nowhere/at/all"}, alike=True),
    "no file may grow": Wrong(line='ulimit -f 0; exec "$@"'),
    "the folder of the journal can't be written": Wrong(
        more={"OPENCODE_WATCHDOG_JOURNAL": "/proc/nowhere/journal.db"}
    ),
    "the journal is a folder": Wrong(more={"OPENCODE_WATCHDOG_JOURNAL": "/"}),
    "the journal is a full disk": Wrong(more={"OPENCODE_WATCHDOG_JOURNAL": "/dev/full"}),
    "the state folder can't be written": Wrong(more={"XDG_STATE_HOME": "/proc/nowhere"}),
}  # fmt: skip


def _in(wrong: Wrong, folder: Path, command: Command, *, as_json: bool) -> Seen:
    place = Place(folder=folder, line=wrong.line, more=dict(wrong.more), preamble=wrong.preamble)
    if wrong.make is not None:
        folder.mkdir(parents=True)
        wrong.make(place)
    if wrong.streams is None:
        return place.run(command, as_json=as_json)
    with wrong.streams() as streams:
        place.streams = streams
        return place.run(command, as_json=as_json)


def all_in(wrong: Wrong, folder: Path, *, as_json: bool = False, only: Container[str] = EVERY) -> dict[str, Seen]:
    """The commands, each in a place of its own."""
    wanted = [command for command in COMMANDS if command.name in only and (command.as_json or not as_json)]
    with ThreadPoolExecutor(2) as pool:
        seen = [
            pool.submit(_in, wrong, folder / str(number), command, as_json=as_json)
            for number, command in enumerate(wanted)
        ]
    return {each.result().name: each.result() for each in seen}


def drawn_for(surroundings: str) -> AbstractSet[str]:
    """The commands to try in surroundings: one that looks, one that writes, one that watches, and one in turn.

    Together they bring each command into several surroundings. `SURROUNDINGS=all` tries each in each.
    """
    if os.environ.get("SURROUNDINGS") == "all":
        return EVERY
    others = [command.name for command in COMMANDS if command.name not in ALWAYS]
    return {*ALWAYS, others[list(SURROUNDINGS).index(surroundings) % len(others)]}
