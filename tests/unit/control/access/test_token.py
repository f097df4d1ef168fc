"""The token of the API: made once, and nobody else's to read."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from watchdog.control.access.token import KeptToken, renew_token, token_at, token_path, write_privately
from watchdog.errors import SettingsError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "opencode-watchdog" / "control-token"


def test_it_is_made_once_and_only_its_owner_can_read_it(place: Path) -> None:
    token = token_at(place)
    assert len(token) >= 40
    assert token_at(place) == token
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert [each.name for each in place.parent.iterdir()] == ["control-token"]


def test_no_two_are_the_same(place: Path) -> None:
    assert token_at(place) != token_at(place.with_name("other"))


def test_of_several_who_make_it_at_once_all_get_the_same(place: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: token_at(place), range(40)))
    assert len(set(tokens)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_one_that_others_can_read_is_refused(place: Path, mode: int) -> None:
    token = token_at(place)
    place.chmod(mode)
    with pytest.raises(SettingsError, match="Others can read or write") as caught:
        token_at(place)
    assert token not in str(caught.value)


def test_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x" * 40)
    other.chmod(0o600)
    place.parent.mkdir(parents=True)
    place.symlink_to(other)
    with pytest.raises(SettingsError, match="can't be kept"):
        token_at(place)


@pytest.mark.parametrize("content", ["", "short", "with blanks in between it", "x" * 300, "\x00" * 40])
def test_what_is_no_token_is_told_and_not_used(place: Path, content: str) -> None:
    place.parent.mkdir(parents=True)
    write_privately(place, content)
    with pytest.raises(SettingsError, match="holds no token"):
        token_at(place)


def test_a_pipe_in_its_place_does_not_hang(place: Path) -> None:
    place.parent.mkdir(parents=True)
    os.mkfifo(place, 0o600)
    with pytest.raises(SettingsError, match="is not a file of this user"):
        token_at(place)


def test_a_folder_that_can_not_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SettingsError, match=r"can't be kept at .*: file exists\. Fix that, or set control_token"):
        token_at(tmp_path / "state" / "control-token")


def test_it_is_kept_in_the_user_s_state_folder(tmp_path: Path) -> None:
    assert token_path({}, tmp_path) == tmp_path / ".local/state/opencode-watchdog/control-token"
    assert token_path({"XDG_STATE_HOME": "/s"}, tmp_path) == Path("/s/opencode-watchdog/control-token")
    assert token_path({"XDG_STATE_HOME": "s"}, tmp_path) == tmp_path / ".local/state/opencode-watchdog/control-token"


def test_a_private_file_replaces_an_open_one(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("old")
    file.chmod(0o644)
    write_privately(file, "new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [file]


def test_another_token_in_its_place_counts_at_once_and_without_one_nobody_gets_in(place: Path) -> None:
    kept = KeptToken(place)
    first = kept()
    assert first == token_at(place)
    renew_token(place)
    second = kept()
    assert second == token_at(place)
    assert second not in {None, first}
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    place.chmod(0o644)
    assert kept() is None
    place.chmod(0o600)
    assert kept() == second
    place.unlink()
    assert kept() is None
    assert token_at(place) == kept() != second


def test_a_token_that_can_not_be_renewed_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SettingsError, match=r"can't be kept at .*: file exists"):
        renew_token(tmp_path / "state" / "control-token")
