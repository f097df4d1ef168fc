from pathlib import Path

from watchdog.checking.installation import mixed_installation


def test_an_environment_of_its_own_is_fine() -> None:
    assert mixed_installation() is None


def test_the_other_package_is_found_by_its_distribution(tmp_path: Path) -> None:
    info = tmp_path / "watchdog-6.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watchdog\nVersion: 6.0.0\n", encoding="utf-8")
    problem = mixed_installation(path=[str(tmp_path)])
    assert problem is not None
    assert "watchdog 6.0.0 (file-system events)" in problem
    assert "pipx install opencode-watchdog" in problem
    assert "container image" in problem


def test_our_own_distribution_is_not_mistaken_for_it(tmp_path: Path) -> None:
    info = tmp_path / "opencode_watchdog-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: opencode-watchdog\nVersion: 0.1.0\n", encoding="utf-8"
    )
    assert mixed_installation(path=[str(tmp_path)]) is None


def test_files_that_it_left_among_ours_are_found(tmp_path: Path) -> None:
    (tmp_path / "observers").mkdir()
    problem = mixed_installation(path=[], package=tmp_path)
    assert problem is not None
    assert f"lie among ours in {tmp_path} (observers)" in problem
