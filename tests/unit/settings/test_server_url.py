"""Servers in the settings: URLs, and tables with a name and a password, which show nowhere."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.database import OpencodeFile
from tests.support.program import Program, path, program, rows
from tests.unit.settings.test_schema import Place, place
from watchdog.settings.certificates import problem_with
from watchdog.settings.schema import Settings, effective
from watchdog.settings.server_url import ServerUrl

__all__ = ["path", "place", "program", "rows"]

SECRET = "hush-hush-7311"  # noqa: S105 - it must show nowhere
A, B = "http://a:1", "https://b/base"
TABLE = f'{{ url = "{A}/", username = "me", password = "{SECRET}" }}'


def test_a_table_and_a_url_in_a_file(place: Place) -> None:
    file = place.toml(f'server_password = "shared"\nservers = [{TABLE}, "{B}"]\n')
    file.chmod(0o600)
    settings = place.load().settings
    assert settings.servers == (A, B)
    assert settings.credentials_of(settings.servers[0]) == ("me", SECRET)
    assert settings.credentials_of(settings.servers[1]) == ("opencode", "shared")
    assert settings.credentials_of("http://127.0.0.1:5") == ("opencode", "shared")


def test_an_array_of_tables_in_a_file(place: Place) -> None:
    place.toml(f'[[servers]]\nurl = "{A}"\nusername = "me"\n[[servers]]\nurl = "{B}"\n').chmod(0o600)
    settings = place.load().settings
    assert [(str(each), each.username) for each in settings.servers] == [(A, "me"), (B, None)]
    assert settings.credentials_of(settings.servers[0]) == ("me", None)


@pytest.mark.parametrize("many", [True, False])
def test_json_in_the_environment(place: Place, many: bool) -> None:
    table = {"url": A, "password": SECRET}
    place.environ["OPENCODE_WATCHDOG_SERVERS"] = json.dumps([table, B] if many else table)
    settings = place.load().settings
    assert settings.servers == ((A, B) if many else (A,))
    assert settings.credentials_of(settings.servers[0]) == ("opencode", SECRET)


def test_the_password_shows_nowhere(place: Place) -> None:
    place.toml(f"servers = [{TABLE}]\n").chmod(0o600)
    loaded = place.load()
    assert {name: value for name, value, _ in effective(loaded)}["servers"] == (f"{A} (with a password of its own)")
    shown = (repr(loaded), str(loaded.settings), repr(loaded.settings.servers), loaded.settings.model_dump_json())
    assert not any(SECRET in each for each in shown)


def test_a_file_with_one_that_others_can_read_is_a_warning(place: Place) -> None:
    file = place.toml(f"servers = [{TABLE}]\n")
    file.chmod(0o644)
    assert place.load().warnings == (f"file {file} holds a password and others can read it: run chmod 600 {file}",)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (f'{{ url = "{A}", passwrd = "{SECRET}" }}', 'a server has no "passwrd"; did you mean "password"?'),
        (f'{{ url = "{A}", token = "{SECRET}" }}', 'a server has no "token"'),
        (f'{{ password = "{SECRET}" }}', "a server has a url"),
        (f'{{ url = 7, password = "{SECRET}" }}', "a server is a URL such as"),
        (f'{{ url = "ftp://x", password = "{SECRET}" }}', "a server is a URL such as"),
        (f'{{ url = "http://me:{SECRET}@x" }}', "a name and a password don't belong in the URL"),
        (f'{{ url = "{A}", username = "a:b", password = "{SECRET}" }}', "without a colon"),
        (f'{{ url = "{A}", username = "", password = "{SECRET}" }}', "not empty"),
        (f'{{ url = "{A}", password = "" }}', "its password is a text in quotes, and not empty"),
        (f'{{ url = "{A}", password = 7311 }}', "its password is a text in quotes, and not empty"),
        (f'{TABLE}, {{ url = "{A}", password = "other" }}', f"{A} is there twice, with another name or password"),
        (f'"http://me:{SECRET}@x"', "a name and a password don't belong in the URL"),
        (f'"me:{SECRET}@x:4096"', "a server is a URL such as"),
        (f'["{SECRET}"]', "a server is a URL such as"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(place: Place, entry: str, why: str) -> None:
    file = place.toml(f"servers = [{entry}]\n")
    file.chmod(0o600)
    (problem,) = place.problems()
    assert problem.startswith(f"file {file}, key servers: ")
    assert why in problem
    assert SECRET not in problem
    assert "7311" not in problem


@pytest.mark.parametrize(
    "text", ['[{"url": "http://a", "password": "hush-hush-7311"', '{"password": "hush-hush-7311"}']
)
def test_json_that_is_none_is_not_shown(place: Place, text: str) -> None:
    place.environ["OPENCODE_WATCHDOG_SERVERS"] = text
    (problem,) = place.problems()
    assert SECRET not in problem


def test_a_table_where_a_list_belongs(place: Place) -> None:
    place.toml(f'[servers]\nurl = "{A}"\npassword = "{SECRET}"\n').chmod(0o600)
    (problem,) = place.problems()
    assert "[[servers]] begins a table of it" in problem
    assert SECRET not in problem


def test_of_a_server_that_is_there_twice_the_one_with_a_password_counts() -> None:
    own = ServerUrl(A, password=SecretStr(SECRET))
    for servers in ((ServerUrl(A), own), (own, ServerUrl(A)), (own, own)):
        settings = Settings(servers=servers)
        assert settings.servers == (A,)
        assert settings.credentials_of(settings.servers[0])[1] == SECRET


class TestCertificates:
    def test_a_file_of_them_starts_from_the_folder_of_the_settings(self, place: Place) -> None:
        file = place.toml('server_ca = "ca.pem"\n')
        assert place.load().settings.server_ca == file.parent / "ca.pem"
        place.toml('server_ca = "off"\n')
        assert place.load().settings.server_ca is None

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (None, "there is no such file"),
            ("", "it holds no certificate in PEM form"),
            ("hello", "it holds no certificate in PEM form"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it holds no certificate in PEM form"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "it holds no certificate in PEM form"),
        ],
    )
    async def test_a_file_that_holds_none_stops_the_program(
        self, program: Program, rows: OpencodeFile, content: str | None, why: str
    ) -> None:
        there = program.home / "ca.pem"
        if content is not None:
            there.write_text(content, encoding="ascii")
        program.settings(database=str(rows.path), server_ca="ca.pem")
        done = await program.run("scan")
        assert done.code == 2
        assert f"key server_ca: server_ca can't be {there}: {why}" in done.stderr
        checked = await program.run("check")
        assert f"server_ca can't be {there}: {why}" in checked.stdout

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        assert problem_with(tmp_path) is not None

    def test_a_file_of_the_environment_that_openssl_would_pass_over_is_a_warning(self, place: Place) -> None:
        place.environ["SSL_CERT_FILE"] = "/nowhere/ca.pem"
        assert place.load().warnings == ()
        (warning,) = place.load({"servers": ["https://b"]}).warnings
        assert warning == "environment variable SSL_CERT_FILE: /nowhere/ca.pem is not used: there is no such file."
