"""The database's file as one value: proven to be the file that all its users have open under the same name.

SQLite finds the `-wal` and the `-shm` by the name under which a process opened the main file. Opened under two names
(a hard link, a mount of the file alone, a container that has only the file), one file has two of each: readers miss
what was written, and a second writer damages it. The main file's own locks show everybody who has it open, under any
name; those who hold no lock on our `-shm` are strangers. With a stranger nobody knows anything.

Only `shown` here makes a `OneFile`; every write needs one.
"""

import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchdog.errors import DatabaseUnavailable, DatabaseUnsupported, OpenElsewhere
from watchdog.opencode.file.identity import FileIdentity, mounts
from watchdog.opencode.file.locks import QuestionFailed, identity_of
from watchdog.opencode.file.strangers import Sight, Stranger, described, former, shm_of

PLATFORM: str = sys.platform
_PAUSE_SECONDS: Final = 0.15
_SHORT_PAUSE_SECONDS: Final = 0.02
_MOST_LOOKS: Final = 10
"""A process that opens or closes the file holds one lock without the other for a moment, and is looked at again."""
_MOST_UNEXPLAINED: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """The facts about a database's file at one moment.

    Attributes:
        real: its path without links.
        mounted: those of its three files that are mount points of their own.
        links: how many names it has.
        strangers: the processes that have it open under another name.
        sight: whose locks are on it; None if that can't be asked.
        doubt: why there may be holders that are not seen: a sentence.
        refusal: why nothing can be known of it, and what to do.
        lasting: the refusal is about the place itself: it stands until somebody changes that.
    """

    real: Path
    mounted: tuple[str, ...] = ()
    links: int = 1
    strangers: tuple[Stranger, ...] = ()
    sight: Sight | None = None
    doubt: str | None = None
    refusal: str | None = None
    lasting: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class OneFile:
    """A database's file that is proven to be one: nobody has it open under another name. Only `shown` makes it."""

    real: Path
    identity: FileIdentity

    def check(self) -> None:
        """Look once more, at the facts that take next to no time.

        Raises:
            DatabaseUnavailable: another file has taken its place.
            OpenElsewhere: somebody has opened it under another name in the meantime.
        """
        if FileIdentity.of(self.real) != self.identity:
            raise DatabaseUnavailable(f"The database {self.real} was replaced at this moment.")
        glance(self.real, pause_seconds=_SHORT_PAUSE_SECONDS)


def shown(path: Path) -> OneFile:
    """Prove that a file is one, or refuse it. Blocks for as long as a child process takes.

    Raises:
        DatabaseUnsupported: it is a mount point of its own, a layer of an overlay, or its path leads elsewhere.
        OpenElsewhere: somebody has it open under another name, or a file with several names can't be checked.
        DatabaseUnavailable: it is gone.
    """
    found = examine(path)
    if found.refusal is not None:
        raise DatabaseUnsupported(found.refusal) if found.lasting else OpenElsewhere(found.refusal)
    return OneFile(real=found.real, identity=FileIdentity.of(found.real))


def glance(path: Path, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
    """The part of `shown` that takes next to no time, unless somebody is just opening or closing the file.

    Raises:
        DatabaseUnsupported: it is a mount point of its own.
        OpenElsewhere: somebody has it open under another name.
    """
    real = Path(os.path.realpath(path))
    if mounted := _mounted(real):
        raise DatabaseUnsupported(_refusal_of_mount(real, mounted))
    told: tuple[Stranger, ...] = ()
    for _ in range(_MOST_LOOKS):
        try:
            told = described(real, Sight.glance(real, shm_of(real)))
        except OSError:
            return  # no such list here: `examine` says what that means
        if not told:
            return
        _pause(pause_seconds)
    if told:
        raise OpenElsewhere(told[0].sentence(real))


def examine(path: Path) -> Examined:
    """Look at all the facts about a file. Never raises for what it finds.

    Raises:
        DatabaseUnavailable: the file is gone, or this user may not look at it.
    """
    real = Path(os.path.realpath(path))
    identity = FileIdentity.of(path)
    if not _leads_there(path, real):
        return Examined(
            real=real,
            lasting=True,
            refusal=f"The path {path} leads to another file than {real}, which SQLite would open. Name the database "
            "by a path without links of /proc in it.",
        )
    links, mounted = real.stat().st_nlink, _mounted(real)
    if mounted:
        return Examined(
            real=real, mounted=mounted, links=links, refusal=_refusal_of_mount(real, mounted), lasting=True
        )
    if (layer := _refusal_of_layer(real)) is not None:
        return Examined(real=real, links=links, refusal=layer, lasting=True)
    if PLATFORM != "linux":
        return Examined(real=real, links=links, refusal=_refusal_of_links(real, links, "Only Linux can tell."))
    try:
        sight = _sight(real)
    except (QuestionFailed, OSError) as error:
        why = (
            str(error) if isinstance(error, QuestionFailed) else f"the kernel's list can't be read ({error.strerror})"
        )
        doubt = f"Locks can't be asked about: {why}."
        return Examined(real=real, links=links, doubt=doubt, refusal=_refusal_of_links(real, links, doubt))
    strangers = described(real, sight)
    refusal = strangers[0].sentence(real) if strangers else None
    if refusal is None and ((sight.main.pid is not None and sight.main.pid <= 0) or not sight.explained):
        refusal = _refusal_of_links(real, links, "A process that can't be seen from here has it open.")
    return Examined(
        real=real,
        links=links,
        strangers=strangers,
        sight=sight,
        doubt=former(real, sight, identity),
        refusal=refusal or _refusal_of_leftover(real, links, identity),
    )


def _sight(real: Path) -> Sight:
    """Look until nothing moves. A process that can't be named stays so, and is looked at only a few times."""
    shm = shm_of(real)
    sight = Sight.take(real, shm)
    for looks in range(1, _MOST_LOOKS):
        stands = sight.explained and identity_of(shm) == sight.shm.file and identity_of(real) == sight.main.file
        if sight.strangers:
            _pause()
        elif stands or looks >= _MOST_UNEXPLAINED:
            break
        sight = Sight.take(real, shm)
    return sight


def _pause(seconds: float = _PAUSE_SECONDS) -> None:
    threading.Event().wait(seconds)


def _leads_there(path: Path, real: Path) -> bool:
    """Whether a path means the same file to the kernel and to SQLite, which follows links by their texts."""
    return identity_of(path) == identity_of(real)


def _mounted(real: Path) -> tuple[str, ...]:
    """The files among the three that are mount points of their own."""
    table = mounts()
    names = [real.name, f"{real.name}-wal", f"{real.name}-shm"]
    return tuple(name for name in names if table.is_mounted(real.with_name(name)))


def _refusal_of_mount(real: Path, mounted: tuple[str, ...]) -> str:
    return (
        f"The database {real} is mounted without its folder ({mounted[0]} is a mount point of its own): the `-wal` "
        "and `-shm` beside it are not those that opencode uses. Mount the folder that they are all in, not the file."
    )


def _refusal_of_layer(real: Path) -> str | None:
    """Refuse a file in the upper folder of an overlay: the same file has no locks there."""
    over = mounts().overlay_on(real)
    if over is None:
        return None
    return (
        f"The database {real} is in a folder of which the overlay at {over} is made, as those of containers are: "
        "who has it open through that can't be seen here. Name it by its path there, or run the watchdog in the "
        "container."
    )


def _refusal_of_links(real: Path, links: int, why: str) -> str | None:
    if links <= 1:
        return None
    return (
        f"The database {real} has {links} names (hard links), and it can't be told under which of them it is open. "
        f"{why} Remove the other names, or make copies of them."
    )


def _refusal_of_leftover(real: Path, links: int, identity: FileIdentity) -> str | None:
    """A hard link beside it that has a `-wal`: what is in that is missing here, and would be written over ours."""
    if links <= 1:
        return None
    for name in sorted(os.listdir(real.parent)):  # noqa: PTH208 - names are all that is needed
        wal = real.with_name(f"{name}-wal")
        if name != real.name and identity_of(real.with_name(name)) == identity and _size(wal):
            return (
                f"The database {real} is also {name}, which has a `-wal` of its own: what is in that can't be seen "
                "here. Name the one that opencode uses, and remove the other name once its `-wal` is gone."
            )
    return None


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
