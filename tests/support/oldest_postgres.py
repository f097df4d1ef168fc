"""The oldest PostgreSQL that works, which Debian has no more: fetched once from npm, 22 MB."""

import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.binaries import FOLDER, BinaryUnavailable, e2e_required, machine, pack
from tests.support.postgres import reachable_folder, unprivileged

VERSION: Final = "13.23.0-beta.16"
_TARBALL: Final = FOLDER / f"postgres-{VERSION}.tgz"


def fetch() -> None:
    """Fetch it, unless it is there.

    Raises:
        BinaryUnavailable: it can't be had.
    """
    if _TARBALL.exists():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=FOLDER) as scratch:
        pack(f"@embedded-postgres/{machine()}@{VERSION}", Path(scratch)).replace(_TARBALL)


@contextmanager
def programs() -> Iterator[Path]:
    """The folder of its programs, for as long as the block lasts, where PostgreSQL's user may run them.

    Without them the test is skipped, or fails where CI says that they must be there.
    """
    if not _TARBALL.exists():
        why = "PostgreSQL 13 was not fetched: `make tools` does that"
        (pytest.fail if e2e_required() else pytest.skip)(why)
    user = unprivileged()
    with tempfile.TemporaryDirectory(prefix="owpg-", dir=reachable_folder(user)) as name:
        folder = Path(name)
        with tarfile.open(_TARBALL) as archive:
            archive.extractall(folder, filter="data")
        package = folder / "package"
        for link in json.loads((package / "native/pg-symlinks.json").read_text()):
            target = package / link["target"]
            if not target.is_symlink():
                target.symlink_to(package / link["source"])
        for program in (package / "native/bin").iterdir():
            program.chmod(0o755)
        if user:
            shutil.chown(folder, user["user"], user["group"])
        yield package / "native/bin"


def main() -> int:
    """Fetch it; 0 also without it, unless OPENCODE_E2E=required."""
    try:
        fetch()
    except BinaryUnavailable as error:
        sys.stderr.write(f"!!! THE TEST ON POSTGRESQL 13 WILL BE SKIPPED !!! {error}\n")
        return int(e2e_required())
    return 0


if __name__ == "__main__":
    sys.exit(main())
