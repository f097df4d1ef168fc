"""Programs that come as Debian packages, and that some tests need: promtool, systemd-analyze, chromium."""

import os
import shutil
from typing import Final

import pytest

PACKAGES: Final = {"chromium": "chromium", "promtool": "prometheus", "systemd-analyze": "systemd"}
"""Which package brings which program."""


def require(program: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where `DEBIAN_TOOLS=required` says so."""
    found = shutil.which(program)
    if found is not None:
        return found
    why = f"{program} is not installed (apt-get install {PACKAGES[program]})"
    if os.environ.get("DEBIAN_TOOLS", "") == "required":
        pytest.fail(why)
    pytest.skip(why)
