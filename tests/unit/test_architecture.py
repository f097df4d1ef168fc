"""The rules of the house that contracts in `pyproject.toml` can't say, read from the sources.

Each rule is also shown to see what it forbids, the contracts included.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "watchdog"

PROC = {
    "timing.clock": r"/proc/sys/kernel/random/boot_id",
    "timing.witness": r"/proc/1(/stat)?",
    "settings.sockets": r"/proc/self/fd/",
    "opencode.processes.listeners": r"/proc(?![a-z])",
    "opencode.processes.commands": r"/proc(?![a-z])",
    "opencode.processes.holders": r"/proc(?![a-z])",
    "opencode.processes.leftovers": r"/proc hides",
    "opencode.processes.stat": r"/proc(?![a-z])",
    "opencode.file.identity": r"/proc/self/mountinfo",
    "opencode.file.locks": r"/proc(?![a-z])",
    "opencode.file.one_file": r"of /proc in it",
    "opencode.file.strangers": r"/proc(?![a-z])",
}
TIME = {"timing.clock", "cli.main", "__main__", "loop.assembly", "composing.sidecar", "strides"}
CLOCKS = {"datetime", "date", "anyio"}
MAKERS: Mapping[str, tuple[str, ...]] = {
    "Shown": ("shown",),
    "Console": (),
    "StreamHandler": (),
    "logging.StreamHandler": ("console.formats",),
}
"""What makes a text fit to be shown, or a way to where people read; and who may."""
LATE_IMPORTS = {
    "",
    "cli.main",
    "cli.options",
    "cli.holds",
    "cli.processes",
    "cli.sql",
    "cli.bridge",
    "cli.config",
    "cli.looking_back",
    "console.late",
    "__main__",
    "cli.commands",
    "cli.journal",
    "reporting.tables",
    "reporting.progress",
    "alerts.setup",
    "cli.serve",
    "composing.in_postgres",
    "checking.check",
}
"""Start-up cost: a command imports what only it needs, and what is for a terminal when there is one."""

LONGEST_MODULE = 400
LONGEST_FUNCTION = 50


@dataclass(frozen=True)
class Module:
    """One source file. `name` is without the package: `judge`, `opencode.server`, and `` for the package itself."""

    name: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, filename=f"{PACKAGE}.{self.name}", feature_version=(3, 11))

    @cached_property
    def imports(self) -> frozenset[str]:
        return frozenset(_imports(self.tree))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every name that is imported, `from` imports as module.name, because a name may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules() -> dict[str, Module]:
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path.read_text(encoding="utf-8"))
    return found


MODULES = _modules()


def readings_of_time(module: Module) -> Iterator[str]:
    """Uses of the machine's clock or of chance. A `random.Random` may be passed in, but not made."""
    for imported in module.imports:
        if imported.startswith(("time.", "random.")) or imported == "time":
            yield f"{module.name} imports {imported}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).rpartition(".")[0].rpartition(".")[2] in CLOCKS:
            if node.attr in {"now", "utcnow", "today", "current_time"}:
                yield f"{module.name} line {node.lineno} uses {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("random."):
            yield f"{module.name} line {node.lineno} calls {ast.unparse(node.func)}"


def mentions_of_proc(module: Module) -> Iterator[str]:
    """Texts with a path below /proc; docstrings may name it."""
    prose = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            rest = re.sub(PROC.get(module.name, r"(?!)"), "", node.value)
            if re.search(r"/proc(?![a-z])", rest):
                yield f"{module.name} line {node.lineno}: {node.value!r}"


READINGS = {"now_ms", "at_ms", "wall_ms", "_now_ms"}
"""What a reading of the wall clock is called."""
WALL: Mapping[str, str] = {
    "timing.clock": "the one place in which wall time becomes countable time",
    "model.report": "`seconds_since`, which tells people how long ago something is",
    "journal.sqlite": "a person says until when a hold lasts, and means the clock on the wall",
    "model.leftovers": "shows people how long ago a process started",
    "reporting.explain_tables": "shows people how long ago something is",
    "observing.memory_store": "how long ago another machine looked, where two minutes count at most",
    "timing.version_one": "reads what the first version kept in wall time",
}
FOR_PEOPLE: Mapping[str, str] = {
    "model.report": "defines it",
    "judging.verdicts": "says how long ago an orphan began: no limit is compared with it",
    "explaining.explain": "shows the age of a row",
    "explaining.clocks": "shows how much of the age of a row does not count",
    "explaining.witnesses": "shows when a provider is tried again",
    "observing.memory": "the age of a process, which can only make a call younger",
}
"""Who may ask how long ago a wall time is."""


def _called(node: ast.AST) -> set[str]:
    """The last names of all names and attributes in an expression."""
    inner = list(ast.walk(node))
    names = {each.id for each in inner if isinstance(each, ast.Name)}
    return names | {each.attr for each in inner if isinstance(each, ast.Attribute)}


def _sides(node: ast.AST) -> list[ast.expr]:
    """What a comparison compares, or a difference is of."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return [node.left, node.right]
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"max", "min"}:
        return node.args
    return []


def reckonings_with_the_wall_clock(module: Module) -> Iterator[str]:
    """Comparisons and differences of a time in wall milliseconds with a reading of the wall clock."""
    for node in ast.walk(module.tree):
        sides = [_called(side) for side in _sides(node)]
        timed = [names for names in sides if any(name.endswith("_ms") for name in names)]
        if len(timed) > 1 and any(names & READINGS for names in timed):
            yield f"{module.name}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and node.attr == "seconds_since" and module.name not in FOR_PEOPLE:
            yield f"{module.name} line {node.lineno}: {ast.unparse(node)}"


def late_imports(module: Module) -> Iterator[str]:
    """Imports inside functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for name in _imports(node):
                yield f"{module.name} imports {name} inside a function"


def bare_words(module: Module) -> Iterator[str]:
    """What reaches people past the one place: `Shown` made elsewhere, writing to a standard stream, markup."""
    for imported in module.imports:
        if imported.startswith(("rich.markup", "rich.print")) or imported in {"rich", "rich.print", "click"}:
            yield f"{module.name} imports {imported}"
    for node in ast.walk(module.tree):
        where = f"{module.name} line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"print", "input"} or called in {"os.write", "typer.echo", "typer.secho", "rich.print"}:
                yield f"{where} calls {called}"
            if called.startswith(("traceback.print", "warnings.warn", "sys.stdout.write", "sys.stderr.write")):
                yield f"{where} calls {called}"
            if called in MAKERS and module.name not in MAKERS[called]:
                yield f"{where} calls {called}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.__stdout__", "sys.__stderr__"}:
            yield f"{where} uses {ast.unparse(node)}"


def giants(module: Module) -> Iterator[str]:
    """Modules and functions that are too long to be read in one go."""
    length = len(module.source.splitlines())
    if length > LONGEST_MODULE:
        yield f"{module.name} has {length} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{module.name}.{node.name} has {length} lines"


def _files() -> list[Path]:
    """Every file of the repository that isn't ignored; of an unpacked archive, every file."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def mentions(text: str) -> list[str]:
    """Hosts of package registries, and places of the machine that this was written on."""
    names = {
        "org": ("pypi", "pythonhosted", "npmjs", "golang", "anaconda", "rubygems"),
        "com": ("npmjs", "yarnpkg", "anaconda"),
        "io": ("crates",),
    }
    hosts = [f"{name}.{domain}" for domain, each in names.items() for name in each]
    places = [("..", "shared"), ("", "work", "shared"), ("", "work", "main")]
    wanted = hosts + ["/".join(place) for place in places]
    return [each for each in wanted if re.search(rf"(?<![\w-]){re.escape(each)}\b", text)]


# --- the package


def test_only_the_clock_and_the_programs_own_modules_read_the_time() -> None:
    inner = [module for name, module in MODULES.items() if name not in TIME]
    assert [problem for module in inner for problem in readings_of_time(module)] == []


def test_only_one_place_reckons_with_the_wall_clock() -> None:
    inner = [module for name, module in MODULES.items() if name not in WALL]
    assert [problem for module in inner for problem in reckonings_with_the_wall_clock(module)] == []
    for name in WALL:
        assert list(reckonings_with_the_wall_clock(MODULES[name])), f"{name} has no need to be allowed any more"


@pytest.mark.parametrize(
    "wrong",
    [
        "age = now_ms - call.created_ms",
        "old = self._clock.read().wall_ms - turn.created_ms > limit * 1000",
        "due = status.retry_at_ms <= observation.at_ms",
        "due = status.retry_at_ms + limit * 1000 <= case.now_ms",
        "start = max(call.created_ms, observation.at_ms)",
        "idle = (observation.at_ms - (session.last_life_ms or 0)) / 1000",
        "idle = observation.seconds_since(session.last_life_ms)",
    ],
)
def test_a_reckoning_with_the_wall_clock_is_seen(wrong: str) -> None:
    assert list(reckonings_with_the_wall_clock(Module("judge", wrong)))


@pytest.mark.parametrize(
    "right", ["age = case.now - start", "newest = max(turn.created_ms, call.created_ms)", "left = until - now"]
)
def test_what_reckons_with_moments_or_orders_rows_is_left_alone(right: str) -> None:
    assert not list(reckonings_with_the_wall_clock(Module("judge", right)))


def test_only_the_owners_look_into_proc() -> None:
    assert [problem for module in MODULES.values() for problem in mentions_of_proc(module)] == []


def test_no_word_reaches_people_past_the_one_place() -> None:
    assert [problem for module in MODULES.values() for problem in bare_words(module)] == []


def test_no_import_hides_inside_a_function() -> None:
    inner = [module for name, module in MODULES.items() if name not in LATE_IMPORTS]
    assert [problem for module in inner for problem in late_imports(module)] == []


def test_nothing_is_too_long() -> None:
    assert [problem for module in MODULES.values() for problem in giants(module)] == []


SIGNALS = {"kill", "killpg", "pidfd_send_signal"}


def signals(module: Module) -> Iterator[str]:
    """Signals to processes; 0 only asks whether one is there."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SIGNALS:
            asks = isinstance(node.args[-1], ast.Constant) and node.args[-1].value == 0
            yield from () if asks else (f"{module.name} line {node.lineno}: {ast.unparse(node)}",)


def test_only_what_ends_left_over_commands_sends_a_signal() -> None:
    assert {name for name, module in MODULES.items() if any(signals(module))} == {"opencode.processes.commands"}
    assert list(signals(Module("loop.watch", "os.kill(pid, signal.SIGTERM)")))
    assert not list(signals(Module("loop.watch", "os.kill(pid, 0)")))


SHOWING = {"observing.serving", "replicas.plain_host"}
"""Who may say that a server serves this database: from what its process or its copy shows, or for a host that speaks
through it."""


def test_nobody_else_says_that_a_server_serves_this_database() -> None:
    assert {name for name, module in MODULES.items() if makes(module, "Served")} == SHOWING


@pytest.mark.parametrize(
    ("value", "maker"),
    [("LeftOver", "judging.leftovers"), ("Asked", "cli.leftovers"), ("Settled", "acting.settling")],
)
def test_nobody_else_says_that_a_command_is_left_over_or_may_be_ended(value: str, maker: str) -> None:
    assert {name for name, module in MODULES.items() if makes(module, value)} == {maker}


def test_making_a_value_is_seen() -> None:
    assert makes(Module("remedy", "served = Served(server=name, by=Shown.HOST)"), "Served")
    assert makes(Module("remedy", "served = model.Served(server=name)"), "Served")
    assert not makes(Module("remedy", "def act(served: Served) -> Served: return served"), "Served")


def makes(module: Module, name: str) -> bool:
    """Whether a module makes a value of a class."""
    called = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    return any(name in {getattr(func, "id", None), getattr(func, "attr", None)} for func in called)


def test_no_file_names_a_registry_or_a_place_of_this_machine() -> None:
    found = {}
    for path in _files():
        if wanted := mentions(path.read_text(encoding="utf-8", errors="replace")):
            found[str(path.relative_to(ROOT))] = wanted
    assert found == {}


# --- the rules themselves

TRESPASSES: Mapping[str, str] = {
    "judging/judge.py": "from watchdog.ports import Clock",
    "opencode/file/mounts.py": "from watchdog.opencode.db import rows",
    "control/access/token.py": "from watchdog.control import app",
    "judging/limits.py": "import pathlib",
    "loop/garbage.py": "import sqlalchemy, asyncpg, httpx, psutil, fastapi, pydantic, apprise",
    "loop/systemd.py": "import prometheus_client, structlog, aiosqlite, typer, rich",
    "errors.py": "from watchdog import shown",
    "shown.py": "from watchdog import errors",
}
"""For each contract something that breaks it: a line that is put at the end of a module."""


def test_each_contract_sees_what_it_forbids(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = [contract["name"] for contract in project["tool"]["importlinter"]["contracts"]]
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, line in TRESPASSES.items():
        with (tmp_path / PACKAGE / name).open("a", encoding="utf-8") as module:
            module.write(f"\n{line}\n")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache", "--no-logo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert [name for name in contracts if f"{name} BROKEN" not in done.stdout] == [], done.stdout


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "from random import random",
        "import random\nrandom.random()",
        "import random\nrng = random.Random()",
        "datetime.now(UTC)",
        "datetime.datetime.utcnow()",
        "date.today()",
    ],
)
def test_readings_of_time_are_seen(source: str) -> None:
    assert list(readings_of_time(Module("judging.judge", source)))


def test_harmless_uses_are_not_readings_of_time() -> None:
    source = "from datetime import datetime, timedelta\ndatetime.fromtimestamp(now)\nstate.now\n"
    source += "import random\ndef wait(rng: random.Random) -> float:\n    return rng.random()\n"
    assert not list(readings_of_time(Module("judging.judge", source)))


def test_mentions_of_proc_are_seen() -> None:
    assert list(mentions_of_proc(Module("loop.watch", "x = f'/proc/{pid}/fd'")))
    assert list(mentions_of_proc(Module("opencode.file.identity", "x = '/proc/locks'")))
    assert not list(mentions_of_proc(Module("opencode.file.identity", "x = '/proc/self/mountinfo'")))
    assert not list(mentions_of_proc(Module("opencode.processes.holders", "x = '/proc/locks'")))
    assert not list(mentions_of_proc(Module("loop.watch", '"""Reads /proc."""\nx = "/process"')))


@pytest.mark.parametrize(
    "source",
    [
        "print(tool)",
        "sys.stdout.write(tool)",
        "import typer\ntyper.echo(tool)",
        "from rich import print",
        "from rich.markup import escape",
        "x = Shown(tool)",
        "console = Console()",
        "sys.__stderr__.flush()",
        "traceback.print_exception(error)",
    ],
)
def test_bare_words_are_seen(source: str) -> None:
    assert list(bare_words(Module("loop.watch", source)))


def test_words_that_go_the_right_way_are_fine() -> None:
    assert not list(bare_words(Module("shown", "Shown(text)")))
    assert not list(
        bare_words(Module("reporting.tables", "write(sys.stdout, shown(text))\nfrom rich.text import Text"))
    )


def test_late_imports_are_seen() -> None:
    assert list(late_imports(Module("loop.watch", "def f():\n    if x:\n        from watchdog import cli")))
    assert not list(late_imports(Module("loop.watch", "import math\ndef f(): pass")))


def test_giants_are_seen() -> None:
    assert list(giants(Module("loop.watch", "x = 1\n" * 401)))
    assert not list(giants(Module("loop.watch", "x = 1\n" * 400)))
    assert list(giants(Module("loop.watch", "async def f():\n" + "    x = 1\n" * 50)))
    assert not list(giants(Module("loop.watch", "def f():\n" + "    x = 1\n" * 49)))


def test_mentions_are_seen() -> None:
    assert mentions("https://x.{}.org/x".format("npmjs"))
    assert mentions("https://files.{}.org/x".format("pythonhosted"))
    assert mentions("see ..|shared|x.md".replace("|", "/"))
    assert not mentions("shared work, in crates of io")
