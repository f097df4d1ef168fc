"""Who has a database open, where the kernel has no list of locks: by the open files of processes (macOS)."""

import os

import psutil

from watchdog.ports import Reading


def holders_by_open_files(database: str, now: Reading) -> tuple[set[int], Reading, str | None]:
    """Where the kernel has no list of locks: the processes whose open files can be read, and that show this one.

    Returns:
        The pids, the moment, and why there may be more: a process of this very user would not be looked into.
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
