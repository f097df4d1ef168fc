"""The socket of a running watchdog: whose it is, whose database, and what never counts."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.composing import own_socket
from watchdog.composing.own_socket import OwnSocket
from watchdog.errors import SettingsError

HERE = os.getpid()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "opencode.db"
    path.touch()
    return path


@pytest.fixture
def opened(tmp_path: Path, database: Path) -> Iterator[OwnSocket]:
    found = own_socket.listen(database, {}, tmp_path)
    yield found
    found.close()


def pids(database: Path, home: Path, environ: dict[str, str] | None = None) -> list[int]:
    return [each.pid for each in own_socket.running(database, environ or {}, home)]


def test_it_is_this_users_alone_is_found_and_leads_to_its_process(
    opened: OwnSocket, tmp_path: Path, database: Path
) -> None:
    assert stat.S_IMODE(opened.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(opened.path.parent.stat().st_mode) == 0o700
    (found,) = own_socket.running(database, {}, tmp_path)
    assert (found.pid, found.path) == (HERE, opened.path)
    with found.connect() as connection:
        taken, _ = opened.listener.accept()
        with taken:
            connection.sendall(b"x")
            assert taken.recv(1) == b"x"


def test_a_link_to_the_database_is_that_database_and_another_file_is_not(
    opened: OwnSocket, tmp_path: Path, database: Path
) -> None:
    link, other = tmp_path / "link.db", tmp_path / "other.db"
    link.symlink_to(database)
    other.touch()
    assert opened.path.exists()
    assert (pids(link, tmp_path), pids(other, tmp_path)) == ([HERE], [])


def test_a_closed_one_is_gone(tmp_path: Path, database: Path) -> None:
    own_socket.listen(database, {}, tmp_path).close()
    assert pids(database, tmp_path) == []


def test_it_lies_in_the_runtime_folder_if_there_is_one_and_the_state_is_looked_through_too(
    tmp_path: Path, database: Path
) -> None:
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
    (tmp_path / "runtime").mkdir(mode=0o700)
    for variables in (runtime, {}):  # a `run` may have been started with other variables than a command
        opened = own_socket.listen(database, variables, tmp_path)
        assert (opened.path.parent == tmp_path / "runtime" / "opencode-watchdog") == (variables == runtime)
        assert pids(database, tmp_path, runtime) == [HERE]
        opened.close()


def test_what_a_dead_process_left_is_swept_and_no_other_file(tmp_path: Path, database: Path) -> None:
    first = own_socket.listen(database, {}, tmp_path)
    dead = first.path.with_name(first.path.name.replace(str(HERE), "4194304"))  # no pid is as large
    first.path.rename(dead)
    first.listener.close()
    beside = dead.with_name("run-notes.sock")
    beside.touch()
    second = own_socket.listen(database, {}, tmp_path)
    try:
        assert not dead.exists()
        assert beside.exists()
        assert pids(database, tmp_path) == [HERE]
    finally:
        second.close()


def test_what_another_machine_left_in_a_home_that_both_share_is_not_swept(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here can tell it from a socket that is listened to over there."""
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "another machine")
        there.setattr(os, "getpid", lambda: 4194304)
        theirs = own_socket.listen(database, {}, tmp_path)
        theirs.listener.close()
    ours = own_socket.listen(database, {}, tmp_path)
    assert theirs.path.exists()
    assert [each.path for each in own_socket.running(database, {}, tmp_path)] == [ours.path]
    ours.close()


def test_a_socket_that_is_listened_to_is_never_swept_whatever_its_number(
    opened: OwnSocket, tmp_path: Path, database: Path
) -> None:
    """The process may be in another pid namespace."""
    living = opened.path.with_name(opened.path.name.replace(str(HERE), "4194304"))
    opened.path.rename(living)
    second = own_socket.listen(database, {}, tmp_path)
    second.close()
    assert living.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_no_folder_is_made_in_somebody_elses_home(tmp_path: Path, database: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 4711, 4711)
    with pytest.raises(SettingsError, match="home is another user's"):
        own_socket.listen(database, {}, home)
    assert [*home.iterdir()] == []


def test_a_long_path_is_no_obstacle(tmp_path: Path, database: Path) -> None:
    home = tmp_path / ("a" * 100) / ("b" * 100)
    opened = own_socket.listen(database, {}, home)
    try:
        (found,) = own_socket.running(database, {}, home)
        found.connect().close()
    finally:
        opened.close()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707])
def test_a_folder_that_others_can_enter_is_refused_and_holds_no_socket_that_counts(
    tmp_path: Path, database: Path, mode: int
) -> None:
    opened = own_socket.listen(database, {}, tmp_path)
    try:
        opened.path.parent.chmod(mode)
        assert pids(database, tmp_path) == []
        with pytest.raises(SettingsError, match="is not this user's alone: remove it, or `chmod 700` it"):
            own_socket.listen(database, {}, tmp_path)
    finally:
        opened.path.parent.chmod(0o700)
        opened.close()


def test_a_folder_that_others_may_replace_is_refused(tmp_path: Path, database: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(SettingsError, match=r"Others may write to .*home, so they may replace"):
        own_socket.listen(database, {}, home)


def test_what_only_looks_like_one_is_none(opened: OwnSocket, tmp_path: Path, database: Path) -> None:
    opened.path.with_name(opened.path.name.replace(str(HERE), "12")).touch()  # a file
    opened.path.with_name(opened.path.name.replace(str(HERE), "x")).touch()
    assert pids(database, tmp_path) == [HERE]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens")
def test_a_socket_that_bears_another_processs_number_is_not_spoken_to(
    opened: OwnSocket, tmp_path: Path, database: Path
) -> None:
    named = opened.path.with_name(opened.path.name.replace(str(HERE), "1"))
    with socket.socket(socket.AF_UNIX) as listener:
        descriptor = os.open(named.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{descriptor}/{named.name}")
        os.close(descriptor)
        listener.listen()
        found = {each.pid: each for each in own_socket.running(database, {}, tmp_path)}
        with pytest.raises(ConnectionRefusedError, match="is another process's than pid 1"):
            found[1].connect()


def test_without_a_home_there_is_none(database: Path) -> None:
    with pytest.raises(SettingsError, match="No home folder of this user is known"):
        own_socket.listen(database, {}, None)
