"""What is installed from the wheel works by itself, away from the checkout."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.database import OpencodeFile

ROOT = Path(__file__).parents[2]
_SECONDS = 120


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program as installed from a wheel, in an environment with its dependencies and without the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    _call(
        sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "dist"), at=ROOT
    )
    (wheel,) = (folder / "dist").iterdir()
    _call(sys.executable, "-m", "venv", str(folder / "venv"), at=folder)
    python = folder / "venv" / "bin" / "python"
    _call(str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel), at=folder)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    _lend_dependencies(Path(sysconfig.get_path("purelib")), site)
    return folder / "venv" / "bin" / "opencode-watchdog"


def _lend_dependencies(theirs: Path, ours: Path) -> None:
    for each in theirs.iterdir():
        if "opencode_watchdog" not in each.name and not (ours / each.name).exists() and each.suffix != ".pth":
            (ours / each.name).symlink_to(each)


def _call(*command: str, at: Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home or at)}
    done = subprocess.run(
        command, cwd=at, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert done.returncode in {0, 3}, done
    return done


def test_check_runs_and_its_own_files_are_there(installed: Path, tmp_path: Path) -> None:
    data = tmp_path / ".local" / "share" / "opencode"
    data.mkdir(parents=True)
    OpencodeFile(data / "opencode.db").close()
    written = _call(str(installed), "config", "init", at=tmp_path)
    assert written.returncode == 0
    checked = _call(str(installed), "check", at=tmp_path)
    assert f"database\tpath\t{data}/opencode.db" in checked.stdout
    assert "Traceback" not in checked.stdout + checked.stderr
    placed = _call(str(installed), "bridge", "install", at=tmp_path)
    assert "current" in placed.stdout
    _call(str(installed), "bridge", "remove", at=tmp_path)


def test_it_shows_itself(installed: Path, tmp_path: Path) -> None:
    shown = _call(str(installed), "demo", at=tmp_path)
    assert shown.returncode == 0, shown
    assert "recovered" in shown.stdout
