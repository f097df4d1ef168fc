"""Programs that come as Debian packages, and that some tests need: a browser, promtool, PostgreSQL and others."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

PACKAGES: Final = {
    "chromium": "chromium",
    "pgbouncer": "pgbouncer",
    "postgres": "postgresql",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
}
"""Which package brings which program."""
BESIDE_PATH: Final = {"postgres": Path("/usr/lib/postgresql")}
"""Where Debian puts programs of which there is one for each version, each in VERSION/bin: the newest is taken."""
_FOR_ROOT: Final = "/usr/sbin"
"""Which is in nobody else's PATH."""
INSTALL_SECONDS: Final = 600.0


def required() -> bool:
    """Whether a missing program is a failure rather than a skip (CI says so)."""
    return os.environ.get("DEBIAN_TOOLS", "") == "required"


def find(program: str) -> str | None:
    """The path of a program, or None without it."""
    found = shutil.which(program) or shutil.which(program, path=_FOR_ROOT)
    if found is not None or program not in BESIDE_PATH:
        return found
    beside = BESIDE_PATH[program].glob(f"*/bin/{program}")
    newest = sorted(beside, key=lambda path: [int(number) for number in re.findall(r"\d+", path.parts[-3])])
    return str(newest[-1]) if newest else None


def missing() -> list[str]:
    """The programs that are not there."""
    return [program for program in PACKAGES if find(program) is None]


def require(program: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where CI says that it must be there."""
    found = find(program)
    if found is not None:
        return found
    why = f"no {program}: apt-get install {PACKAGES[program]} brings it"
    if required():
        pytest.fail(why)
    pytest.skip(why)


def install() -> None:
    """Install what is missing, where that is asked for and allowed: by root, with apt-get. Otherwise nothing."""
    packages = _packages(missing())
    if not packages or not required() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    _say(f"Debian packages: installing {', '.join(packages)}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for line in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-qq", *line],
            env=environ,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            _say(f"Debian packages: apt-get {line[0]} ended with {done.returncode}: {last}")


def main() -> int:
    """Say what is there; 0 also without, unless DEBIAN_TOOLS=required, which also installs what is missing."""
    install()
    absent = missing()
    if not absent:
        _say(f"Debian packages: {', '.join(PACKAGES)} are ready")
        return 0
    packages = " ".join(_packages(absent))
    if required():
        _say(f"!!! {', '.join(absent)} are missing and DEBIAN_TOOLS=required !!! apt-get install {packages}")
        return 1
    _say(f"!!! THE TESTS THAT NEED {', '.join(absent)} WILL BE SKIPPED !!! apt-get install {packages} brings them")
    return 0


def _packages(programs: Iterable[str]) -> list[str]:
    return sorted({PACKAGES[program] for program in programs})


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
