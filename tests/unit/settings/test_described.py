"""The schema and the file to start from: both say what the program takes."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.program import Program, program
from watchdog.settings.described import example, explanations, json_schema
from watchdog.settings.durations import parse_duration
from watchdog.settings.schema import Settings, load_settings

__all__ = ["program"]

VALIDATOR = Draft202012Validator(json_schema())


def fits(**settings: Any) -> bool:  # noqa: ANN401
    return bool(VALIDATOR.is_valid(settings))


def loads(folder: Path, **settings: Any) -> bool:  # noqa: ANN401
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (folder / "x.toml").write_text("\n".join(lines), encoding="utf-8")
    try:
        load_settings(flags={"config": folder / "x.toml"}, environ={}, cwd=folder, home=folder)
    except Exception as error:  # noqa: BLE001 - whatever refuses it
        return "can't be" not in str(error)
    return True


def test_each_setting_is_described_in_the_words_of_the_example() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert [*schema["properties"]] == [*Settings.model_fields]
    assert all(len(each["description"]) > 10 for each in schema["properties"].values())
    assert "A call that declares a longer timeout" in schema["properties"]["tool_timeout"]["description"]


def test_the_example_fits_as_it_is_and_with_each_line_uncommented() -> None:
    text = example()
    assert fits(**tomllib.loads(text))
    names = [name for name, _ in explanations(text)]
    assert sorted(names) == sorted(Settings.model_fields)
    lines = [line[1:] for line in text.splitlines() if line.startswith(("#", '#"')) and not line.startswith("# ")]
    assert fits(**tomllib.loads("\n".join(lines)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tool_timeout", ["30m", "1h30m", "1.5h", "250ms", "OFF", "off", " 5s ", 0, 90, 0.5]),
        ("poll_interval", ["5s", "1m", 5, "1D"]),
        ("tool_timeouts", [{"bash": "1h", "mcp_*": "off"}, {}]),
        ("servers", [["http://127.0.0.1:1"], [{"url": "http://127.0.0.1:1", "password": "x"}]]),
        ("notify_on", [["waiting", "stuck"], []]),
        ("notify_quiet", ["off", "22:00-07:00", "9:00 - 17:30"]),
        ("max_concurrency", [1, 64]),
        ("control", ["127.0.0.1:4097", "off"]),
        ("log_level", ["debug"]),
        ("end_leftovers", ["off", "orphans"]),
    ],
)
def test_what_the_program_takes_fits(tmp_path: Path, name: str, values: list[Any]) -> None:
    assert [value for value in values if not fits(**{name: value})] == []
    toml = [value for value in values if not isinstance(value, dict | list)]
    assert [value for value in toml if not loads(tmp_path, **{name: value})] == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tool_timeout", ["soon", "30 minutes", "-5m", "", "m", -1, True, ["30m"]]),
        ("poll_interval", ["off", 0, "5x"]),
        ("discover", ["perhaps", 1.5]),
        ("max_concurrency", [0, 65, 1.5]),
        ("notify_quiet", ["22-7", 5]),
        ("log_level", ["loud"]),
        ("no_such_setting", [1]),
    ],
)
def test_what_the_program_refuses_does_not_fit(tmp_path: Path, name: str, values: list[Any]) -> None:
    assert [value for value in values if fits(**{name: value})] == []
    toml = [value for value in values if not isinstance(value, dict | list)]
    if name in Settings.model_fields:
        assert [value for value in toml if loads(tmp_path, **{name: value})] == []


@pytest.mark.parametrize("text", ["1h30m", "90", "2d 3h", "1.5h2ms", " 30m ", "30 m", "h", "1h1h", "1m1h", "", "٣m"])
def test_a_duration_fits_if_it_can_be_read(text: str) -> None:
    try:
        read = parse_duration(text) is not None
    except ValueError:
        read = False
    assert fits(tool_timeout=text) == read


async def test_init_writes_a_file_that_can_be_used_with_its_schema_and_replaces_nothing(program: Program) -> None:
    done = await program.run("config", "init")
    folder = program.home / ".config" / "opencode-watchdog"
    written = folder / "config.toml"
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"written\t{written}.schema.json", f"written\t{written}"]
    assert written.read_text(encoding="utf-8").startswith("#:schema ./config.toml.schema.json\n")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert json.loads((folder / "config.toml.schema.json").read_text(encoding="utf-8")) == json_schema()
    checked = await program.run("check", "--json")
    assert checked.document["config_file"] == str(written)
    written.write_text("tool_timeout = '1h'", encoding="utf-8")
    again = await program.run("config", "init")
    assert (again.code, written.read_text(encoding="utf-8")) == (2, "tool_timeout = '1h'")
    assert again.stderr == (
        f"error: {written} is there already, and nothing was written. Name another file, or remove it.\n"
    )
    elsewhere = await program.run("config", "init", "/proc/nowhere/x.toml")
    assert elsewhere.code == 2
    assert elsewhere.stderr.startswith("error: /proc/nowhere/x.toml")


async def test_the_schema_is_printed(program: Program) -> None:
    done = await program.run("config", "schema")
    assert (done.code, json.loads(done.stdout)) == (0, json_schema())


async def test_a_file_that_can_not_be_written_whole_is_not_left_behind(program: Program, tmp_path: Path) -> None:
    line = ["sh", "-c", 'ulimit -f 4; trap "" XFSZ; exec "$@"', "sh", *program.line]
    more = {"PYTHONDONTWRITEBYTECODE": "1"}  # otherwise its modules would not fit either
    done = await Program(home=program.home, line=line, more=more).run(
        "config", "init", str(tmp_path / "new" / "x.toml")
    )
    assert done.code == 2
    assert done.stderr == f"error: {tmp_path}/new/x.toml can't be written (file too large).\n"
    assert [*(tmp_path / "new").iterdir()] == []
