"""The opencode binaries that the end-to-end tests run, fetched once into a git-ignored folder."""

import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

NEWEST: Final = "1.18.33"
VERSIONS: Final = (NEWEST, "1.15.3", "1.2.27")
FORK: Final = "kilo-7.0.33"
"""A fork of opencode 1.2, with a number and a folder of its own."""

FOLDER: Final = Path(__file__).resolve().parents[2] / ".opencode-binaries"
DOWNLOAD_SECONDS: Final = 600.0

_SYSTEMS: Final = {"Linux": "linux", "Darwin": "darwin"}
_MACHINES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


class BinaryUnavailable(Exception):
    """A binary could not be fetched; the message says why in one line."""


def e2e_required() -> bool:
    """Whether a missing binary is a failure rather than a skip (CI says so)."""
    return os.environ.get("OPENCODE_E2E", "") == "required"


def opencode_binary(version: str) -> Path | None:
    """The fetched binary of that version, or None; never downloads."""
    path = FOLDER / version / "opencode"
    return path if path.is_file() and os.access(path, os.X_OK) else None


def fetch(version: str) -> Path:
    """Fetch one version from npm unless it is there already.

    Raises:
        BinaryUnavailable: npm is missing, the platform is not built for, or the download failed.
    """
    present = opencode_binary(version)
    if present is not None:
        return present
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=FOLDER) as scratch:
        package = f"{_package(version)}@{number_of(version)}"
        binary = _extract(pack(package, Path(scratch)), Path(scratch), program_of(version))
        _prove(binary, number_of(version))
        target = FOLDER / version
        target.mkdir(exist_ok=True)
        return binary.replace(target / "opencode")


def program_of(version: str) -> str:
    """What the program of a version is called, and the folder of its data."""
    return version.partition("-")[0] if version == FORK else "opencode"


def number_of(version: str) -> str:
    """The number that a version tells of itself."""
    return version.removeprefix(f"{program_of(version)}-")


def fetch_all(versions: Sequence[str] = (*VERSIONS, FORK)) -> dict[str, str]:
    """Fetch what is missing, with a line for each step; answers version → why it is missing."""
    missing = [version for version in versions if opencode_binary(version) is None]
    if not missing:
        _say(f"opencode binaries: {', '.join(versions)} are ready")
        return {}
    _say(f"opencode binaries: fetching {', '.join(missing)} from npm (once, about 50 MB each)")
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=len(missing)) as pool:
        waiting = [(version, pool.submit(fetch, version)) for version in missing]
        for version, future in waiting:
            try:
                _say(f"opencode binaries: {version} is ready in {future.result().parent}")
            except BinaryUnavailable as error:
                failures[version] = str(error)
    return failures


def main() -> int:
    """Fetch all of them; 0 also without them, unless OPENCODE_E2E=required."""
    failures = fetch_all()
    if not failures:
        return 0
    reason = "; ".join(f"{version}: {why}" for version, why in failures.items())
    if e2e_required():
        _say(f"!!! opencode binaries are missing and OPENCODE_E2E=required !!! {reason}")
        return 1
    _say(f"!!! THE END-TO-END TESTS OF THESE OPENCODE VERSIONS WILL BE SKIPPED !!! {reason}")
    return 0


def _package(version: str) -> str:
    return f"@kilocode/cli-{machine()}" if version == FORK else f"opencode-{machine()}"


def machine() -> str:
    """This machine, as packages of npm name it.

    Raises:
        BinaryUnavailable: nothing is built for it.
    """
    system, processor = _SYSTEMS.get(platform.system()), _MACHINES.get(platform.machine().lower())
    if system is None or processor is None:
        raise BinaryUnavailable(f"nothing is built for {platform.system()} {platform.machine()}")
    return f"{system}-{processor}"


def pack(package: str, folder: Path) -> Path:
    """Have npm download a package into an empty folder.

    Raises:
        BinaryUnavailable: it did not.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise BinaryUnavailable("npm is not installed")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--loglevel", "error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise BinaryUnavailable(f"npm pack {package} took longer than {DOWNLOAD_SECONDS:.0f} s") from None
    except OSError as error:
        raise BinaryUnavailable(f"npm could not be started: {error}") from None
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(tarballs) != 1:
        raise BinaryUnavailable(f"npm pack {package} failed: {_last_line(done.stderr or done.stdout)}")
    return tarballs[0]


def _extract(tarball: Path, folder: Path, program: str) -> Path:
    """Copy the one file wanted out of the tarball, so that no other name in it matters."""
    target = folder / "opencode"
    try:
        with tarfile.open(tarball) as archive:
            source = archive.extractfile(f"package/bin/{program}")
            if source is None:
                raise BinaryUnavailable(f"{tarball.name} holds no bin/{program}")
            with source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise BinaryUnavailable(f"{tarball.name} can't be unpacked: {error}") from None
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return target


def _prove(binary: Path, version: str) -> None:
    """Run it once: a cut-off download or a foreign libc shows here, not in forty tests."""
    with tempfile.TemporaryDirectory(prefix="opencode-home-") as home:
        environment = {"HOME": home, "PATH": os.environ.get("PATH", os.defpath)}
        try:
            done = subprocess.run(
                [str(binary), "--version"], env=environment, cwd=home,
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BinaryUnavailable(f"the binary does not run: {error}") from None
    if done.stdout.strip() != version:
        said = _last_line(done.stdout + done.stderr)
        raise BinaryUnavailable(f"the binary says {said!r} for its version")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
