"""The watchdog on the other Pythons of this machine: the demo is a whole embedded run, in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OTHERS = [f"3.{minor}" for minor in (11, 12, 13, 14) if minor != sys.version_info.minor]
_IMPORTS = "import aiosqlite, anyio, httpx, psutil, pydantic_settings, rich, sqlalchemy, structlog"


@pytest.mark.parametrize("version", OTHERS)
def test_the_demo_ends_well(version: str) -> None:
    """Skipped where that Python is missing or lacks what the watchdog needs; PYTHON_3_12=… names one that has it."""
    python = os.environ.get(f"PYTHON_{version.replace('.', '_')}") or shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"there is no python{version}")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    can = subprocess.run([python, "-c", _IMPORTS], env=environ, capture_output=True, text=True, check=False)
    if can.returncode:
        pytest.skip(f"{python} can't run it: {(can.stderr.strip() or 'no reason given').splitlines()[-1]}")
    demo = [python, "-m", "watchdog.demo"]
    done = subprocess.run(demo, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
