"""The standard streams: what passes, and what becomes of them when they take no more."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter, RawIOBase, TextIOWrapper

import pytest

from watchdog.console.streams import Guarded, tell, write
from watchdog.errors import OutputUnusable
from watchdog.shown import shown


class Disk(RawIOBase):
    """A file on a disk that may be full."""

    def __init__(self, *, error: int | None = None, takes: int = 1 << 20) -> None:
        super().__init__()
        self.error = error
        self.takes = takes
        self.kept = b""
        self.descriptor = os.open(os.devnull, os.O_WRONLY)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def write(self, data: object, /) -> int:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        taken = bytes(data)[: self.takes]  # type: ignore[call-overload] # whatever has bytes
        self.kept += taken
        if self.takes < len(bytes(data)):  # type: ignore[call-overload] # as above
            self.error = errno.ENOSPC
        return len(taken)

    def close(self) -> None:
        if not self.closed:
            os.close(self.descriptor)
        super().close()


@contextmanager
def guarded(disk: Disk, *, owed: bool) -> Iterator[Guarded]:
    stream = Guarded(TextIOWrapper(BufferedWriter(disk), "utf-8"), owed=owed)
    yield stream
    disk.error, disk.takes = None, 1 << 20
    stream.close()


def test_a_result_that_does_not_fit_is_an_error_with_its_reason() -> None:
    with guarded(Disk(error=errno.ENOSPC), owed=True) as stream, pytest.raises(OutputUnusable, match="no space left"):
        write(stream, shown("a result"))


def test_a_result_of_which_a_part_fits_is_an_error() -> None:
    with guarded(Disk(takes=10), owed=True) as stream, pytest.raises(OutputUnusable):
        write(stream, shown("more than ten characters"))


def test_a_reader_that_left_is_no_error() -> None:
    with guarded(Disk(error=errno.EPIPE), owed=True) as stream:
        write(stream, shown("a result"))


def test_a_log_on_a_full_disk_goes_on_once_there_is_room() -> None:
    disk = Disk(error=errno.ENOSPC)
    with guarded(disk, owed=False) as stream:
        for number in range(10_000):
            tell(stream, shown(f"lost {number}"))
        disk.error = None
        tell(stream, shown("there is room"))
        assert disk.kept.decode().endswith("there is room\n")


def test_whoever_writes_past_the_one_place_steers_nothing() -> None:
    disk = Disk()
    with guarded(disk, owed=True) as stream:
        print("\x1b[2J\x9b\u202etool\tcell", file=stream, flush=True)
        assert disk.kept.decode() == "\\x1b[2J\\x9b\\u202etool\tcell\n"
