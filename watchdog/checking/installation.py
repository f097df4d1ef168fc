"""Whether the installation is sound: another project's package has the same import name."""

from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

OTHER = "watchdog"
OTHERS_OWN = ("observers", "watchmedo.py", "tricks")
WHAT_TO_DO = (
    "install opencode-watchdog into an environment of its own (pipx install opencode-watchdog does that) or use its "
    "container image"
)


def mixed_installation(*, path: Sequence[str] | None = None, package: Path | None = None) -> str | None:
    """Look for the other `watchdog`, which watches file-system events, beside ours.

    Args:
        path: where to look for installed distributions; the import path by default.
        package: the folder of our package.

    Returns:
        What is wrong and what to do, or None.
    """
    folder = package if package is not None else Path(__file__).parent
    found = distributions(name=OTHER) if path is None else distributions(name=OTHER, path=list(path))
    version = next((distribution.version for distribution in found), None)
    if version is not None:
        return (
            f"the package watchdog {version} (file-system events) is installed in this environment, too; both are "
            f"imported as `watchdog` and overwrite each other's files: {WHAT_TO_DO}."
        )
    strays = [name for name in OTHERS_OWN if (folder / name).exists()]
    if strays:
        return (
            f"files of another package named watchdog (file-system events) lie among ours in {folder} "
            f"({', '.join(strays)}): {WHAT_TO_DO}."
        )
    return None
