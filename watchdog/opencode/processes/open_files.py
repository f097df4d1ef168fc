"""Who has a database open if the kernel has no list of locks: by the open files of processes (macOS)."""

import os

import psutil

from watchdog.ports import Reading


def holders_by_open_files(database: str, now: Reading) -> tuple[set[int], Reading, str | None]:
    """The processes that can be inspected and have the file open, if the kernel has no list of locks.

    Returns:
        The pids, the moment, and why there may be more: a process of this very user could not be inspected.
    """
    wanted, found, doubt = {database, f"{database}-wal", f"{database}-shm"}, set[int](), None
    for process in psutil.process_iter():
        try:
            if any(each.path in wanted for each in process.open_files()):
                found.add(process.pid)
        except psutil.AccessDenied:
            if _is_of_this_user(process):
                doubt = f"What process {process.pid} of this user has open can't be read."
        except (psutil.Error, OSError):
            continue
    return found, now, doubt


def _is_of_this_user(process: psutil.Process) -> bool:
    try:
        return process.uids().real == os.getuid()
    except (psutil.Error, OSError):
        return False
