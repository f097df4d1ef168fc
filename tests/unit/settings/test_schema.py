import json
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from tests.support.properties import ANY_MACHINE
from watchdog.composing.replica import _check as refuse_in_postgres
from watchdog.errors import SettingsError
from watchdog.model.policy import Policy
from watchdog.settings.durations import format_duration, parse_duration
from watchdog.settings.receivers import Occasion
from watchdog.settings.schema import EndLeftovers, Loaded, LogFormat, LogLevel, Settings, effective, load_settings
from watchdog.settings.sources import strip_jsonc

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"
TIMEOUTS = ("tool_timeout", "task_timeout", "idle_timeout", "task_hard_timeout")
NEVER_OFF = (
    "poll_interval",
    "abort_timeout",
    "abort_grace",
    "orphan_grace",
    "birth_margin",
    "full_scan_interval",
    "shutdown_grace",
    "lease_duration",
)
MAY_BE_ZERO = ("declared_timeout_grace", "max_declared_timeout")


class Place:
    """A machine with nothing set: a home, a working folder, an environment."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.cwd = folder / "work"
        self.environ: dict[str, str] = {}
        self.home.mkdir()
        self.cwd.mkdir()

    @property
    def project_file(self) -> Path:
        return self.cwd / "opencode-watchdog.toml"

    def toml(self, text: str, path: Path | None = None) -> Path:
        target = path or self.project_file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return target

    def opencode(self, text: str, name: str = "opencode.json") -> Path:
        return self.toml(text, self.home / ".config" / "opencode" / name)

    def load(self, flags: Mapping[str, object] | None = None) -> Loaded:
        return load_settings(flags=flags or {}, environ=self.environ, cwd=self.cwd, home=self.home)

    def problems(self, flags: Mapping[str, object] | None = None) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            self.load(flags)
        return str(caught.value).splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- durations


@pytest.mark.parametrize(
    ("given_value", "seconds"),
    [
        ("90s", 90),
        ("1.5h", 5400),
        ("30m", 1800),
        ("2h", 7200),
        ("7d", 604800),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        (" 2H ", 7200),
        ("1d2h3m4s5ms", 93784.005),
        ("12", 12),
        ("0.5", 0.5),
        (7, 7),
        (0.25, 0.25),
        (timedelta(minutes=1), 60),
    ],
)
def test_a_duration_is_read(given_value: object, seconds: float) -> None:
    duration = parse_duration(given_value)
    assert duration is not None
    assert duration.total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize("given_value", [0, 0.0, "0", "0s", "0h", "off", "OFF", " off ", None, timedelta(0)])
def test_zero_and_off_are_off(given_value: object) -> None:
    assert parse_duration(given_value) is None


@pytest.mark.parametrize("given_value", [-1, -0.5, "-1", "-30m", timedelta(seconds=-1), float("-inf")])
def test_a_negative_duration_is_refused_as_such(given_value: object) -> None:
    with pytest.raises(ValueError, match="never negative"):
        parse_duration(given_value)


@pytest.mark.parametrize(
    "given_value",
    [
        "",
        " ",
        "-",
        "soon",
        "5 minutes",
        "h",
        "1h1h",
        "30m1h",
        "1e9",
        "\u0661s",
        "5,5s",
        "0x10",
        True,
        [],
        {},
        float("nan"),
    ],
)
def test_what_is_no_duration_is_refused_with_how_to_write_one(given_value: object) -> None:
    with pytest.raises(ValueError, match="write a duration such as"):
        parse_duration(given_value)


@pytest.mark.parametrize("given_value", ["0.1ms", 1e-9, "3651d", 10**400, float("inf"), "9" * 400])
def test_a_duration_out_of_range_is_refused_and_never_becomes_off(given_value: object) -> None:
    with pytest.raises(ValueError, match="at least 1ms and at most 3650d"):
        parse_duration(given_value)


@ANY_MACHINE
@given(st.integers(min_value=1, max_value=3650 * 86_400_000))
def test_a_duration_reads_back_as_it_was_written(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("duration", "text"),
    [(None, "off"), (timedelta(0), "0"), (timedelta(hours=1.5), "1h30m"), (timedelta(seconds=90), "1m30s")],
)
def test_a_duration_is_written_for_people(duration: timedelta | None, text: str) -> None:
    assert format_duration(duration) == text


# --- defaults and what they become


def test_nothing_set_gives_the_defaults_of_the_policy(place: Place) -> None:
    loaded = place.load()
    assert loaded.settings.policy() == Policy()
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.config_file is None
    assert loaded.warnings == ()


def test_the_defaults_are_those_that_are_promised() -> None:
    settings = Settings()
    assert settings.database is None
    assert settings.servers == ("http://127.0.0.1:4096",)
    assert settings.discover is True
    assert settings.server_password is None
    assert settings.poll_interval == timedelta(seconds=5)
    assert settings.tool_timeout == timedelta(minutes=30)
    assert settings.task_timeout == timedelta(hours=2)
    assert settings.idle_timeout == timedelta(minutes=15)
    assert settings.task_hard_timeout is None
    assert settings.tool_timeouts == {}
    assert settings.declared_timeout_grace == timedelta(seconds=60)
    assert settings.max_declared_timeout == timedelta(hours=6)
    assert settings.abort_timeout == settings.abort_grace == settings.shutdown_grace == timedelta(seconds=10)
    assert (settings.orphan_grace, settings.birth_margin) == (timedelta(seconds=30), timedelta(seconds=5))
    assert settings.max_attempts == 3
    assert settings.max_concurrency == 8
    assert settings.recover_on_start is True
    assert settings.sole_owner is False
    assert settings.local_filesystems == ()
    assert settings.full_scan_interval == timedelta(minutes=10)
    assert (settings.log_level, settings.log_format) == (LogLevel.INFO, LogFormat.AUTO)


def test_making_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLL_INTERVAL", "99")
    monkeypatch.setenv("OPENCODE_WATCHDOG_POLL_INTERVAL", "99")
    assert Settings().poll_interval == timedelta(seconds=5)


def test_an_embedding_server_makes_settings_itself() -> None:
    settings = Settings(tool_timeout=timedelta(seconds=2), tool_timeouts={"slow": None}, sole_owner=True)
    policy = settings.policy()
    assert policy.tool_timeout_seconds == 2
    assert policy.tool_timeouts == {"slow": None}
    assert policy.sole_owner is True


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.max_attempts = 5
    with pytest.raises(TypeError):
        settings.tool_timeouts["bash"] = None  # type: ignore[index]


def test_an_error_about_settings_never_shows_what_was_passed() -> None:
    values: dict[str, Any] = {"server_password": b"hush", "poll_interval": 0}
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    assert "hush" not in str(caught.value)


# --- precedence


def test_each_source_gives_way_to_the_stronger_one(place: Place) -> None:
    opencode = place.opencode('{"experimental": {"tool_timeout": 1000, "task_timeout": 2000, "idle_timeout": 3000}}')
    file = place.toml('tool_timeout = "11s"\ntask_timeout = "12s"\npoll_interval = "13s"')
    place.environ = {"OPENCODE_WATCHDOG_TOOL_TIMEOUT": "21s", "OPENCODE_WATCHDOG_POLL_INTERVAL": "23s"}
    loaded = place.load({"poll_interval": "33s"})
    settings = loaded.settings
    assert settings.idle_timeout == timedelta(seconds=3)
    assert settings.task_timeout == timedelta(seconds=12)
    assert settings.tool_timeout == timedelta(seconds=21)
    assert settings.poll_interval == timedelta(seconds=33)
    assert loaded.sources["idle_timeout"] == f"file {opencode}, key experimental.idle_timeout"
    assert loaded.sources["task_timeout"] == f"file {file}, key task_timeout"
    assert loaded.sources["tool_timeout"] == "environment variable OPENCODE_WATCHDOG_TOOL_TIMEOUT"
    assert loaded.sources["poll_interval"] == "flag --poll-interval"
    assert loaded.sources["max_attempts"] == "default"
    assert loaded.config_file == file


def test_a_value_that_gives_way_need_not_be_right(place: Place) -> None:
    place.toml('poll_interval = "soon"')
    place.opencode('{"experimental": {"tool_timeout": "soon"}}')
    assert place.load({"poll_interval": 1, "tool_timeout": "1h"}).settings.poll_interval == timedelta(seconds=1)


def test_flags_that_were_not_given_change_nothing(place: Place) -> None:
    place.environ = {"OPENCODE_WATCHDOG_SERVERS": "http://one:1"}
    loaded = place.load({"servers": [], "database": None, "config": None})
    assert loaded.settings.servers == ("http://one:1",)


def test_the_projects_file_comes_before_the_users(place: Place) -> None:
    users = place.toml("max_attempts = 7", place.home / ".config" / "opencode-watchdog" / "config.toml")
    assert place.load().settings.max_attempts == 7
    assert place.load().config_file == users
    place.toml("sole_owner = true")
    assert place.load().settings.max_attempts == 3
    assert place.load().settings.sole_owner is True


def test_the_config_flag_comes_before_both(place: Place) -> None:
    place.toml("max_attempts = 7")
    named = place.toml("max_attempts = 8", place.cwd / "other" / "mine.toml")
    assert place.load({"config": "other/mine.toml"}).settings.max_attempts == 8
    assert place.load({"config": named}).config_file == named
    at_home = place.toml("max_attempts = 9", place.home / "mine.toml")
    assert place.load({"config": "~/mine.toml"}).config_file == at_home


def test_xdg_config_home_is_the_users_config_folder(place: Place) -> None:
    folder = place.cwd.parent / "xdg"
    place.environ = {"XDG_CONFIG_HOME": str(folder)}
    place.toml("max_attempts = 9", folder / "opencode-watchdog" / "config.toml")
    place.toml('{"experimental": {"idle_timeout": 60000}}', folder / "opencode" / "opencode.json")
    settings = place.load().settings
    assert settings.max_attempts == 9
    assert settings.idle_timeout == timedelta(minutes=1)


def test_name_and_password_fall_back_to_opencodes_own(place: Place) -> None:
    place.environ = {"OPENCODE_SERVER_USERNAME": "me", "OPENCODE_SERVER_PASSWORD": "theirs"}
    loaded = place.load()
    assert loaded.settings.server_username == "me"
    assert loaded.settings.server_password == SecretStr("theirs")
    assert ("server_password", "set", "environment variable OPENCODE_SERVER_PASSWORD") in effective(loaded)
    place.environ.update({"OPENCODE_WATCHDOG_SERVER_PASSWORD": "ours"})
    assert place.load().settings.server_password == SecretStr("ours")


# --- environment


def test_lists_and_tables_from_the_environment(place: Place) -> None:
    place.environ = {
        "OPENCODE_WATCHDOG_SERVERS": "http://a:1, https://b/base/,http://a:1",
        "OPENCODE_WATCHDOG_TOOL_TIMEOUTS": "bash=1h, mcp_*=off",
        "OPENCODE_WATCHDOG_DISCOVER": "false",
        "OPENCODE_WATCHDOG_MAX_ATTEMPTS": "5",
        "OPENCODE_WATCHDOG_MAX_CONCURRENCY": "64",
        "OPENCODE_WATCHDOG_LOG_LEVEL": "DEBUG",
    }
    settings = place.load().settings
    assert settings.servers == ("http://a:1", "https://b/base")
    assert settings.tool_timeouts == {"bash": timedelta(hours=1), "mcp_*": None}
    assert settings.policy().tool_timeouts == {"bash": 3600.0, "mcp_*": None}
    assert settings.discover is False
    assert (settings.max_attempts, settings.max_concurrency) == (5, 64)
    assert settings.log_level is LogLevel.DEBUG


def test_lists_and_tables_as_json(place: Place) -> None:
    place.environ = {
        "OPENCODE_WATCHDOG_SERVERS": '["http://a:1", "http://b:2"]',
        "OPENCODE_WATCHDOG_TOOL_TIMEOUTS": '{"bash": 5, "mcp_[ab]": "off"}',
    }
    settings = place.load().settings
    assert settings.servers == ("http://a:1", "http://b:2")
    assert settings.tool_timeouts == {"bash": timedelta(seconds=5), "mcp_[ab]": None}


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("SERVERS", "[http://a", "starts like JSON but isn't"),
        ("TOOL_TIMEOUTS", '{"bash"', "starts like JSON but isn't"),
        ("TOOL_TIMEOUTS", "bash", "reads like bash=1h,mcp_*=off"),
        ("SERVERS", '["http://a", 7]', "a server is a URL such as"),
    ],
)
def test_a_broken_list_or_table_in_the_environment(place: Place, variable: str, text: str, reason: str) -> None:
    place.environ = {f"OPENCODE_WATCHDOG_{variable}": text}
    (problem,) = place.problems()
    assert problem.startswith(f"environment variable OPENCODE_WATCHDOG_{variable}: ")
    assert reason in problem


def test_an_empty_variable_is_not_set(place: Place) -> None:
    place.environ = {"OPENCODE_WATCHDOG_POLL_INTERVAL": "", "OPENCODE_SERVER_PASSWORD": ""}
    assert place.load().settings == Settings()


@pytest.mark.parametrize("variable", ["OPENCODE_WATCHDOG_TOOL_TIMEOT", "OPENCODE_WATCHDOG_tool_timeout"])
def test_an_unknown_variable_is_an_error_with_the_likely_name(place: Place, variable: str) -> None:
    place.environ = {variable: "hush"}
    (problem,) = place.problems()
    assert problem.startswith(f"environment variable {variable}: ")
    assert 'did you mean "OPENCODE_WATCHDOG_TOOL_TIMEOUT' in problem
    assert "hush" not in problem


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TOOL_TIMEOUTT", "TOOL_TIMEOUT"),
        ("TOL_TIMEUT", "TOOL_TIMEOUT"),
        ("IDEL_TIMEOUT", "IDLE_TIMEOUT"),
        ("IDLE_TIMEOUTS", "IDLE_TIMEOUT"),
        ("SERVER", "SERVERS"),
        ("JOURNALS", "JOURNAL"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("TOOL__TIMEOUT", "TOOL_TIMEOUT"),
        ("TOOL-TIMEOUT", "TOOL_TIMEOUT"),
        ("Tool_Timeout", "TOOL_TIMEOUT"),
        ("TIMEOUT_TOOL", "TOOL_TIMEOUT"),
        ("SERVER_USER_NAME", "SERVER_USERNAME"),
        ("TOOL_TIMEOUT_SECONDS", "TOOL_TIMEOUT"),
        ("DATABASE_URL", "DATABASE"),
        ("JOURNAL_PATH", "JOURNAL"),
    ],
)
def test_a_variable_that_nearly_is_a_setting_is_an_error(place: Place, variable: str, meant: str) -> None:
    place.environ = {f"OPENCODE_WATCHDOG_{variable}": "hush"}
    (problem,) = place.problems()
    assert problem == (
        f"environment variable OPENCODE_WATCHDOG_{variable}: there is no such setting; did you mean "
        f'"OPENCODE_WATCHDOG_{meant}"?'
    )


@pytest.mark.parametrize("variable", ["opencode_watchdog_tool_timeout", "Opencode_Watchdog_Tool_Timeout"])
def test_the_prefix_in_other_letters_is_an_error_where_a_setting_follows(place: Place, variable: str) -> None:
    place.environ = {variable: "5m"}
    assert 'did you mean "OPENCODE_WATCHDOG_TOOL_TIMEOUT"?' in place.problems()[0]
    place.environ = {"opencode_watchdog_home": "/opt"}
    assert place.load().warnings == ()


@pytest.mark.parametrize(
    "variable",
    [
        "PORT", "PORT_4097_TCP", "PORT_4097_TCP_ADDR", "PORT_4097_TCP_PORT", "PORT_4097_TCP_PROTO",
        "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "NAME", "ENV_PATH", "JOURNAL_SERVICE_HOST",
        "DATABASE_PORT_5432_TCP", "CONTROL_PORT", "HOME", "VERSION", "IMAGE", "UID", "", "_", "Ö",
    ],
)  # fmt: skip
def test_a_variable_that_resembles_no_setting_is_a_warning_without_its_value(place: Place, variable: str) -> None:
    place.environ = {f"OPENCODE_WATCHDOG_{variable}": "tcp://hush:4097"}
    loaded = place.load()
    assert loaded.settings == Settings()
    assert loaded.warnings == (
        f"environment variable OPENCODE_WATCHDOG_{variable}: it is ignored, because there is no such setting.",
    )


def test_other_variables_are_nobodys_business(place: Place) -> None:
    place.environ = {"OPENCODE_WATCHDO": "x", "POLL_INTERVAL": "x", "OPENCODE_DB": "x"}
    assert place.load().settings == Settings()


# --- the TOML file


def test_an_unknown_key_is_an_error_with_the_likely_name(place: Place) -> None:
    file = place.toml("tool_timeot = 5\nzzz = 1\n[watchdog]\npoll_interval = 5")
    assert place.problems() == [
        f'file {file}, key tool_timeot: there is no such setting; did you mean "tool_timeout"?',
        f"file {file}, key zzz: there is no such setting.",
        f"file {file}, key watchdog: there is no such setting.",
    ]


def test_a_setting_that_slipped_into_the_table_of_tools_is_an_error(place: Place) -> None:
    file = place.toml('[tool_timeouts]\nbash = "1h"\nidle_timeout = "5m"')
    (problem,) = place.problems()
    assert problem.startswith(f"file {file}, key tool_timeouts.idle_timeout: ")
    assert "move it above the line [tool_timeouts]" in problem


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("max_attempts = 3\npoll_interval 5", 2, 15),
        ("max_attempts = 3\nlog_level = ", 2, 13),
        ('log_level = "info', 1, 18),
        ("a = 1\na = 2\n", 2, 6),
    ],
)
def test_a_syntax_error_names_file_line_and_column(place: Place, text: str, line: int, column: int) -> None:
    file = place.toml(text)
    (problem,) = place.problems()
    assert problem.startswith(f"file {file}, line {line}, column {column}: it isn't TOML: ")


def test_a_file_that_is_not_text_says_so(place: Place) -> None:
    place.project_file.write_bytes(b"max_attempts = 3\nlog_level = '\xff'")
    assert place.problems() == [f"file {place.project_file}, line 2: it isn't UTF-8 text."]


def test_a_byte_order_mark_does_no_harm(place: Place) -> None:
    place.project_file.write_bytes(b"\xef\xbb\xbfmax_attempts = 4")
    assert place.load().settings.max_attempts == 4


def test_a_config_file_that_is_missing_or_a_folder_is_an_error(place: Place) -> None:
    assert place.problems({"config": "gone.toml"}) == [f"flag --config: there is no file {place.cwd / 'gone.toml'}."]
    (problem,) = place.problems({"config": str(place.cwd)})
    assert problem == f"file {place.cwd}: it can't be read (is a directory)."


def test_absurd_nesting_is_an_error_and_no_crash(place: Place) -> None:
    place.toml("a = " + "[" * 100_000)
    assert len(place.problems()) == 1


def test_a_database_path_is_made_absolute(place: Place) -> None:
    file = place.toml('database = "data/opencode.db"', place.cwd / "etc" / "w.toml")
    assert place.load({"config": file}).settings.database == file.parent / "data" / "opencode.db"
    place.environ = {"OPENCODE_WATCHDOG_DATABASE": "~/x.db"}
    assert place.load().settings.database == place.home / "x.db"
    assert place.load({"database": Path("y.db")}).settings.database == place.cwd / "y.db"
    assert place.load({"database": "/abs/z.db"}).settings.database == Path("/abs/z.db")


POSTGRES = "postgresql+asyncpg://me:hush@db.example.org:5433/sessions?ssl=require"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
@pytest.mark.parametrize("name", ["database", "journal"])
def test_a_database_in_postgresql_is_named_by_its_address_which_is_shown_without_its_password(
    place: Place, name: str, scheme: str
) -> None:
    place.environ = {f"OPENCODE_WATCHDOG_{name.upper()}": POSTGRES.replace("postgresql+asyncpg", scheme)}
    loaded = place.load()
    found = getattr(loaded.settings, name)
    assert found.reveal() == POSTGRES
    assert str(found) == "postgresql://db.example.org:5433/sessions"
    shown = [value for setting, value, _ in effective(loaded) if setting == name]
    assert shown == ["postgresql://db.example.org:5433/sessions"]
    assert "hush" not in repr(loaded)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://",
        "postgresql://host",
        "postgresql://host/",
        "postgresql://host:port/name",
        "postgresql://host/a/b",
        "postgresql+psycopg://me:hush@host/name",
        "postgresql://me:s3c/hush@host/name",
        "postgresql://me:12/hush@host",
        "postgresql://me:hu sh/hush@host/name",
        "postgresql://me:hush#x@host/name",
        "postgresql://me:hush@ho st/name",
        "postgresql://[::1/name",
    ],
)
def test_an_address_that_is_none_is_refused_without_showing_its_password(place: Place, address: str) -> None:
    (problem,) = place.problems({"database": address})
    assert problem.startswith("flag --database: database can't be ")
    assert "postgresql+asyncpg://user:password@host:5432/name" in problem
    assert "hush" not in problem


def test_an_address_of_ipv6_is_shown_as_one() -> None:
    settings = Settings(database="postgresql://[::1]:5432/name")  # type: ignore[arg-type] # as people write it
    assert str(settings.database) == "postgresql://[::1]:5432/name"


@pytest.mark.parametrize("secret", ["postgresql://me:hush@host/name", "postgresql://me@host/name?password=hush"])
@pytest.mark.parametrize("name", ["database", "journal"])
def test_an_address_with_a_password_in_a_file_that_others_can_read_is_a_warning(
    place: Place, name: str, secret: str
) -> None:
    file = place.toml(f'{name} = "{secret}"')
    file.chmod(0o640)
    assert place.load().warnings == (f"file {file} holds a password and others can read it: run chmod 600 {file}",)
    place.toml(f'{name} = "postgresql://me@host/name"')
    assert place.load().warnings == ()


@pytest.mark.parametrize("value", ["499ms", "301s", "off", "soon"])
def test_a_lease_lasts_from_half_a_second_to_five_minutes(place: Place, value: str) -> None:
    (problem,) = place.problems({"lease_duration": value})
    assert problem.startswith(f'flag --lease-duration: lease_duration can\'t be "{value}"')
    assert place.load({"lease_duration": "500ms"}).settings.lease_duration == timedelta(milliseconds=500)


def test_a_password_in_a_file_that_others_can_read_is_a_warning(place: Place) -> None:
    file = place.toml('server_password = "hush"')
    file.chmod(0o640)
    (warning,) = place.load().warnings
    assert warning == f"file {file} holds a password and others can read it: run chmod 600 {file}"
    file.chmod(0o600)
    assert place.load().warnings == ()
    file.chmod(0o644)
    place.toml("max_attempts = 3")
    assert place.load().warnings == ()


# --- opencode's own configuration


def test_opencodes_limits_are_milliseconds(place: Place) -> None:
    place.opencode('{"experimental": {"tool_timeout": 90000, "task_timeout": 0, "idle_timeout": 1500.5, "x": 1}}')
    settings = place.load().settings
    assert settings.tool_timeout == timedelta(seconds=90)
    assert settings.task_timeout is None
    assert settings.idle_timeout == timedelta(milliseconds=1500.5)


def test_comments_and_trailing_commas_are_understood(place: Place) -> None:
    place.opencode(
        """// hello
        {
          "url": "http://a//b", /* , } */ "text": "a \\" // no, ] comment",
          "experimental": { "tool_timeout": 1000, // one second
            "list": [1, 2, /* last */ ],
          }, // done
        }
        """,
        "opencode.jsonc",
    )
    assert place.load().settings.tool_timeout == timedelta(seconds=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@ANY_MACHINE
@given(JSON)
def test_plain_json_comes_through_unchanged(document: object) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=1)
    assert json.loads(strip_jsonc(text)) == document


def test_opencode_config_names_the_file_instead(place: Place) -> None:
    place.opencode('{"experimental": {"tool_timeout": 1000}}')
    named = place.toml('{"experimental": {"idle_timeout": 2000}}', place.cwd / "o.json")
    place.environ = {"OPENCODE_CONFIG": "o.json"}
    loaded = place.load()
    assert loaded.settings.idle_timeout == timedelta(seconds=2)
    assert loaded.settings.tool_timeout == timedelta(minutes=30)
    assert loaded.sources["idle_timeout"] == f"file {named}, key experimental.idle_timeout"


def test_an_opencode_config_that_is_missing_is_a_warning(place: Place) -> None:
    place.environ = {"OPENCODE_CONFIG": "gone.json"}
    assert place.load().warnings == (
        f"environment variable OPENCODE_CONFIG: there is no file {place.cwd / 'gone.json'}.",
    )


def test_a_broken_opencode_file_is_a_warning_with_its_place(place: Place) -> None:
    file = place.opencode('{\n  // fine\n  "experimental": {"tool_timeout": 1 2}\n}')
    loaded = place.load()
    assert loaded.settings == Settings()
    (warning,) = loaded.warnings
    assert warning.startswith(f"file {file}, line 3, column 38: the file is ignored, because it isn't JSON: ")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}", "", "/* never closed"])
def test_absurd_opencode_files_are_warnings(place: Place, text: str) -> None:
    place.opencode(text)
    assert len(place.load().warnings) == 1


def test_an_opencode_file_that_is_not_text_is_a_warning(place: Place) -> None:
    file = place.opencode("")
    file.write_bytes(b"\xff")
    assert place.load().warnings == (f"file {file}: it is ignored, because it can't be read (not UTF-8 text).",)


@pytest.mark.parametrize("text", ["[]", "{}", '{"experimental": null}', '{"experimental": {"tool_timeout": null}}'])
def test_an_opencode_file_without_limits_is_fine(place: Place, text: str) -> None:
    place.opencode(text)
    loaded = place.load()
    assert loaded.settings == Settings()
    assert loaded.warnings == ()


@pytest.mark.parametrize("value", ['"30m"', "true", "[]"])
def test_a_limit_of_the_wrong_kind_is_an_error_for_it_was_meant_for_us(place: Place, value: str) -> None:
    file = place.opencode(f'{{"experimental": {{"tool_timeout": {value}}}}}')
    assert place.problems() == [
        f"file {file}, key experimental.tool_timeout: it needs a number of milliseconds, or 0 to turn the limit off."
    ]


@pytest.mark.parametrize("value", ["-5", "-1e300", "1e300", "NaN", "Infinity", "0.0001", "9" * 400])
def test_a_limit_out_of_range_is_an_error_and_never_off(place: Place, value: str) -> None:
    place.opencode(f'{{"experimental": {{"tool_timeout": {value}}}}}')
    (problem,) = place.problems()
    assert "experimental.tool_timeout" in problem


# --- what is wrong


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("off", [0, "0", "off"])
def test_a_limit_can_be_off(place: Place, name: str, off: object) -> None:
    assert getattr(place.load({name: off}).settings, name) is None


@pytest.mark.parametrize("name", NEVER_OFF)
@pytest.mark.parametrize("off", [0, "0", "off"])
def test_what_can_not_be_off_says_so(place: Place, name: str, off: object) -> None:
    flag = "--" + name.replace("_", "-")
    assert place.problems({name: off}) == [
        f"flag {flag}: {name} can't be {json.dumps(off)}: it can't be turned off; give a duration above zero."
    ]


@pytest.mark.parametrize("name", MAY_BE_ZERO)
@pytest.mark.parametrize("off", [0, "0", "off"])
def test_what_can_be_zero_is_zero_when_off(place: Place, name: str, off: object) -> None:
    assert getattr(place.load({name: off}).settings, name) == timedelta(0)


@pytest.mark.parametrize("name", [*TIMEOUTS, *NEVER_OFF, *MAY_BE_ZERO])
def test_no_duration_is_negative(place: Place, name: str) -> None:
    place.toml(f'{name} = "-5m"')
    assert place.problems() == [
        f'file {place.project_file}, key {name}: {name} can\'t be "-5m": a duration is never negative.'
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("poll_interval", "49ms", "at least 50ms"),
        ("max_attempts", 0, "a whole number, 1 or more"),
        ("max_attempts", True, "a whole number, 1 or more"),
        ("max_attempts", 2.5, "a whole number, 1 or more"),
        ("max_attempts", "many", "a whole number, 1 or more"),
        ("max_concurrency", 0, "a whole number from 1 to 64"),
        ("max_concurrency", 65, "a whole number from 1 to 64"),
        ("max_concurrency", True, "a whole number from 1 to 64"),
        ("max_concurrency", "off", "a whole number from 1 to 64"),
        ("discover", 1, "true or false"),
        ("sole_owner", "perhaps", "true or false"),
        ("local_filesystems", 7, "a list of types of file systems"),
        ("local_filesystems", ["fuse.*"], "a word such as ecryptfs or fuse.sshfs"),
        ("local_filesystems", ["/mnt"], "a word such as ecryptfs or fuse.sshfs"),
        ("local_filesystems", [""], "a word such as ecryptfs or fuse.sshfs"),
        ("log_level", "warn", 'one of debug, info, warning, error; did you mean "warning"?'),
        ("log_format", 7, "one of auto, console, json"),
        ("database", "", "the path of a file"),
        ("database", 7, "the path of a file"),
        ("server_username", "", "without a colon"),
        ("server_username", "a:b", "without a colon"),
        ("servers", 7, "a list of URLs"),
        ("servers", ["127.0.0.1:4096"], "a server is a URL such as"),
        ("servers", ["ftp://host"], "a server is a URL such as"),
        ("servers", ["http://"], "a server is a URL such as"),
        ("servers", ["http://host:99999"], "a server is a URL such as"),
        ("servers", ["http://[::1"], "a server is a URL such as"),
        ("servers", ["http://host?x=1"], "a server is a URL such as"),
        ("servers", ["http://ho st"], "a server is a URL such as"),
        ("tool_timeouts", 7, "a table of tools and limits"),
        ("tool_timeouts", {"": 5}, "a pattern is a tool's name"),
        ("tool_timeouts", {"mcp_[a": 5}, "needs its ]"),
        ("tool_timeouts", {"bash": "soon"}, "write a duration such as"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(place: Place, name: str, value: object, reason: str) -> None:
    (problem,) = place.problems({name: value})
    assert problem.startswith(f"flag --{'server' if name == 'servers' else name.replace('_', '-')}: {name}")
    assert reason in problem


@pytest.mark.parametrize("url", ["http://127.0.0.1:4096", "https://host", "http://[::1]:4096", "http://host:1/base"])
def test_a_usable_url_is_taken_as_it_is(place: Place, url: str) -> None:
    assert place.load({"servers": [url + "/"]}).settings.servers == (url,)


def test_all_problems_are_told_at_once(place: Place) -> None:
    place.toml('poll_interval = "soon"\nmax_attempts = 0\nwhat = 1\n[tool_timeouts]\na = -1\nb = -2')
    place.environ = {"OPENCODE_WATCHDOG_JOURNALL": "1", "OPENCODE_WATCHDOG_DISCOVER": "perhaps"}
    problems = place.problems({"abort_grace": "off", "whatever": 1})
    assert len(problems) == 9
    assert len(set(problems)) == 9


def test_a_password_is_never_shown(place: Place) -> None:
    place.environ = {"OPENCODE_WATCHDOG_SERVER_PASSWORD": "hush"}
    loaded = place.load()
    shown = repr(loaded) + str(loaded.settings) + str(effective(loaded)) + loaded.settings.model_dump_json()
    assert "hush" not in shown
    assert ("server_password", "set", "environment variable OPENCODE_WATCHDOG_SERVER_PASSWORD") in effective(loaded)
    problems = place.problems({"servers": ["http://me:hush@host", "http://hush@host"], "server_password": 7311})
    assert "hush" not in str(problems)
    assert "7311" not in str(problems)
    assert "set server_username and server_password" in str(problems)


# --- what `check` prints, and the example


def test_check_sees_every_value_in_words(place: Place) -> None:
    place.environ = {"OPENCODE_WATCHDOG_TOOL_TIMEOUTS": "bash=90m,mcp_*=off"}
    lines = {name: (text, source) for name, text, source in effective(place.load({"sole_owner": True}))}
    assert list(lines) == list(Settings.model_fields)
    assert lines["database"] == ("found as opencode does", "default")
    assert lines["tool_timeout"] == ("30m", "default")
    assert lines["task_hard_timeout"] == ("off", "default")
    assert lines["tool_timeouts"] == ("bash=1h30m, mcp_*=off", "environment variable OPENCODE_WATCHDOG_TOOL_TIMEOUTS")
    assert lines["sole_owner"] == ("true", "flag --sole-owner")
    assert lines["server_password"] == ("not set", "default")
    assert lines["max_attempts"] == ("3", "default")
    assert lines["log_level"] == ("info", "default")


def _uncommented() -> dict[str, Any]:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    return tomllib.loads(
        "\n".join(line[1:] if line[:1] == "#" and line[1:2] not in {"", " "} else "" for line in lines)
    )


def test_the_example_as_it_stands_changes_nothing(place: Place) -> None:
    loaded = place.load({"config": EXAMPLE})
    assert loaded.config_file == EXAMPLE
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}


def test_the_example_shows_every_setting_and_no_other() -> None:
    assert set(_uncommented()) == set(Settings.model_fields)


def test_the_example_shows_the_defaults() -> None:
    without_one = {"database", "journal", "server_password", "control_token", "control_read_token", "tool_timeouts"}
    shown = {name: value for name, value in _uncommented().items() if name not in without_one}
    assert Settings(**shown) == Settings()


def test_each_line_of_the_example_can_be_uncommented(place: Place) -> None:
    for name, value in _uncommented().items():
        place.load({name: value})


# --- the HTTP API


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:4097", "127.0.0.1", 4097), ("[::1]:80", "::1", 80), ("localhost:65535", "localhost", 65535)],
)
def test_an_address_to_listen_at(place: Place, text: str, host: str, port: int) -> None:
    loaded = place.load({"control": text})
    assert loaded.settings.control is not None
    assert (loaded.settings.control.host, loaded.settings.control.port) == (host, port)
    assert ("control", text, "flag --control") in effective(loaded)
    assert place.load({"control": "off"}).settings.control is None


@pytest.mark.parametrize(
    "text", ["4097", ":4097", "::1:80", "127.0.0.1", "127.0.0.1:0", "a.example:1", "127.0.0.1:65536"]
)
def test_what_is_no_address_to_listen_at(place: Place, text: str) -> None:
    wanted = "it is an address and a port, such as 127.0.0.1:4097 or [::1]:4097, or off."
    assert place.problems({"control": text}) == [f'flag --control: control can\'t be "{text}": {wanted}']


def test_names_and_origins_of_the_http_api(place: Place) -> None:
    place.toml('control_hosts = ["Watch.Example.org", "10.0.0.7"]\ncontrol_origins = ["https://UI.example.org:443/"]')
    settings = place.load().settings
    assert settings.control_hosts == ("watch.example.org", "10.0.0.7")
    assert settings.control_origins == ("https://ui.example.org",)
    for wrong in ({"control_hosts": ["a:1"]}, {"control_origins": ["ui.example.org"]}, {"control_origins": ["null"]}):
        assert len(place.problems(wrong)) == 1


def test_a_token_is_a_secret_of_some_length(place: Place) -> None:
    token = "0123456789" + "abcdef"
    loaded = place.load({"control_token": token})
    assert ("control_token", "set", "flag --control-token") in effective(loaded)
    assert token not in repr((loaded, effective(loaded)))
    for wrong in (token[1:], "with a blank in it", "x" * 201):
        (said,) = place.problems({"control_token": wrong})
        assert wrong not in said
        assert "16 to 200 letters" in said


# --- receivers of alerts


def test_receivers_are_secrets_and_show_nowhere(place: Place) -> None:
    place.toml('notify = ["json://me:hush@localhost/x", "slack://hush/hush/hush"]')
    (place.cwd / "opencode-watchdog.toml").chmod(0o644)
    loaded = place.load()
    assert [each.get_secret_value() for each in loaded.settings.notify][1] == "slack://hush/hush/hush"
    assert ("notify", "set", f"file {place.cwd / 'opencode-watchdog.toml'}, key notify") in effective(loaded)
    assert "holds the addresses of receivers and others can read it" in loaded.warnings[0]
    assert "hush" not in repr((loaded, effective(loaded)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("json://a, json://b?to=x,y", ["json://a", "json://b?to=x,y"]),
        ("json://a json://b\njson://a", ["json://a", "json://b"]),
        ('["json://a", "mailto://b"]', ["json://a", "mailto://b"]),
    ],
)
def test_receivers_from_the_environment(place: Place, text: str, found: list[str]) -> None:
    place.environ = {"OPENCODE_WATCHDOG_NOTIFY": text, "OPENCODE_WATCHDOG_NOTIFY_ON": "outcome, Given_Up"}
    settings = place.load().settings
    assert [each.get_secret_value() for each in settings.notify] == found
    assert settings.notify_on == (Occasion.OUTCOME, Occasion.GIVEN_UP)


@pytest.mark.parametrize("given", ['["json://a", "hush"]', '[""]', "7", '["json://a", 7]', '"[hush"', '"hush"'])
def test_a_receiver_that_is_none_is_named_by_its_place_and_not_shown(place: Place, given: str) -> None:
    place.toml(f"notify = {given}")
    with pytest.raises(SettingsError) as caught:
        place.load()
    assert "key notify: notify can't be what was given: " in str(caught.value)
    assert "hush" not in str(caught.value)


def test_what_alerts_are_for_is_a_list_of_what_there_is(place: Place) -> None:
    assert place.load().settings.notify_on == (Occasion.GIVEN_UP, Occasion.DEGRADED)
    place.toml('notify_on = ["given_up", "panic"]')
    with pytest.raises(SettingsError, match="it is a list of given_up, degraded, outcome"):
        place.load()


def test_commands_of_other_machines_are_not_to_be_ended() -> None:
    with pytest.raises(SettingsError, match="end_leftovers can't be set for a database in PostgreSQL"):
        refuse_in_postgres(Settings(end_leftovers=EndLeftovers.ORPHANS))
