"""`bridge install`, `status` and `remove`: the file, where opencode finds it, and what is left of it."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.database import OpencodeFile
from tests.support.program import Program, path, program, rows
from watchdog.bridge import plugin
from watchdog.bridge.plugin import State
from watchdog.errors import SettingsError

__all__ = ["path", "program", "rows"]

NAME = "opencode-watchdog-bridge.js"


def files(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


@pytest.fixture
def home(program: Program) -> Path:
    program.more = {"XDG_RUNTIME_DIR": str(program.home / "run")}
    return program.home


async def test_it_is_installed_shown_and_removed_without_a_trace(
    program: Program, home: Path, rows: OpencodeFile
) -> None:
    before = files(home)
    done = await program.run("bridge", "status", "--database", rows.path)
    assert done.code == 0
    assert done.stdout.splitlines()[-1] == (
        "summary\tThe bridge is not installed: `opencode-watchdog bridge install` installs it."
    )
    done = await program.run("bridge", "install", "--json", "--database", rows.path)
    where = home / ".config" / "opencode" / "plugin" / NAME
    assert done.document["installed"] is done.document["current"] is True
    assert done.document["places"] == [{"path": str(where), "state": "current"}]
    assert [each["pid"] for each in done.document["processes"] if each["restart"]] == [os.getpid()]
    assert done.document["warnings"] == []
    assert where.read_bytes() == plugin.shipped()
    assert stat.S_IMODE(where.stat().st_mode) == 0o644

    where.write_text("// of an older version")
    done = await program.run("bridge", "status", "--json", "--database", rows.path)
    assert (done.document["current"], done.document["places"][0]["state"]) == (False, "different")
    assert (await program.run("bridge", "install", "--database", rows.path)).code == 0
    assert where.read_bytes() == plugin.shipped()

    done = await program.run("bridge", "remove", "--json", "--database", rows.path)
    assert (done.code, done.document["installed"]) == (0, False)
    assert [each for each in files(home) if each not in {*before, "stdout", "stderr", ".config"}] == []


async def test_without_a_database_it_is_installed_all_the_same(program: Program, home: Path) -> None:
    done = await program.run("bridge", "install", "--json")
    assert (done.code, done.document["installed"]) == (0, True)
    assert "There is no opencode database" in done.document["warnings"][0]
    assert (home / ".config" / "opencode" / "plugin" / NAME).is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cant_be_written_is_one_sentence(program: Program, home: Path) -> None:
    (home / ".config").mkdir(mode=0o500)
    done = await program.run("bridge", "install")
    assert (done.code, done.stdout) == (2, "")
    assert "The bridge can't be written to" in done.stderr


async def test_a_file_in_the_place_of_the_folder_is_one_sentence(program: Program, home: Path) -> None:
    (home / ".config").write_text("no folder")
    done = await program.run("bridge", "install")
    assert (done.code, done.stdout) == (2, "")
    assert "can't be written to" in done.stderr
    assert "Traceback" not in done.stderr


def test_opencodes_own_folder_counts_and_the_one_that_is_named_beside_it(tmp_path: Path) -> None:
    usual = tmp_path / ".config" / "opencode" / "plugin" / NAME
    named = tmp_path / "named"
    assert [place.path for place in plugin.places({}, tmp_path)] == [usual]
    environ = {"OPENCODE_CONFIG_DIR": str(named), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    first, second = plugin.places(environ, tmp_path)
    assert first.path == named / "plugin" / NAME
    assert second.path == tmp_path / "xdg" / "opencode" / "plugin" / NAME
    plugin.install(first)
    plugin.install(second)
    assert [place.state for place in plugin.places(environ, tmp_path)] == [State.CURRENT, State.CURRENT]
    plugin.remove(plugin.places(environ, tmp_path))
    assert files(tmp_path) == ["xdg"]


def test_a_plugin_of_somebody_else_stays(tmp_path: Path) -> None:
    (place,) = plugin.places({}, tmp_path)
    plugin.install(place)
    (place.path.parent / "mine.js").write_text("")
    plugin.remove(plugin.places({}, tmp_path))
    assert [path.name for path in place.path.parent.iterdir()] == ["mine.js"]


def test_a_relative_configuration_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="OPENCODE_CONFIG_DIR is mine"):
        plugin.places({"OPENCODE_CONFIG_DIR": "mine"}, tmp_path)
