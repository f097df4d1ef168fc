"""The files in docs/deploy, and what the program knows that they speak of."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from watchdog.settings.schema import Settings
from watchdog.settings.sources import PREFIX

PROJECT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = PROJECT / "docs" / "deploy"


def documents(name: str) -> list[Any]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def run(*line: object, folder: Path = FOLDER) -> tuple[int, str]:
    """Run a tool: its exit code and all that it said."""
    done = subprocess.run([str(each) for each in line], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def settings_of(environ: Mapping[str, str]) -> Settings:
    """What the variables of a container set; one that the program does not know, or a wrong value, is an error."""
    values: dict[str, Any] = {
        name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name.startswith(PREFIX)
    }
    return Settings(**values)
