"""Every error that the watchdog raises on purpose.

```
WatchdogError
├── SettingsError           a setting is wrong: what, where, and what to do        exit code 2
├── HostUnfit               an embedding server's host can't be asked
├── UsageError              a command was asked for something it can't do          exit code 2
│   ├── NoSuchSession           the database has no such session
│   ├── NoSuchMessage           the session has no such message
│   ├── NoSuchIntervention      the journal has no such intervention
│   ├── JournalOff              there is no journal, by choice
│   ├── NotActing               this watchdog may not act: another one does, or it is stopping
│   ├── DryRun                  this watchdog changes nothing
│   └── Busy                    too much is under way, or the first look is not over; a moment later it can be done
├── DatabaseError           opencode's database can't be used                      exit code 3
│   ├── DatabaseMissing         there is no such file
│   ├── DatabaseUnsupported     it is of a kind or a generation that is not known
│   ├── WriteRefused            it refuses a write, and will until a person changes it: a trigger, a constraint
│   └── DatabaseUnavailable     it can't be read or written just now: trying again may help
│       ├── DatabaseDamaged         it is damaged, as SQLite says, or as `check --deep` found
│       ├── OpenElsewhere           a process has it open under another name: nobody knows what is in it
│       ├── GaveWay                 others want the rows that were to be written: nothing was
│       └── LeaseLost               another watchdog took over: this one may no longer write
├── ServerError             a server gave no usable answer: no evidence of anything exit code 3
│   ├── ServerUnreachable       nothing answered: refused, cut, or too late
│   │   ├── ServerSilent            nothing within the time limit
│   │   ├── ServerUntrusted         its certificate is not believed, or TLS could not be agreed on
│   │   └── ServerUntold            it never heard what it was to do
│   ├── ServerDeclined          it was to end something, and found itself that it is to be spared
│   ├── ServerRefused           it answered 401 or 403: the password is missing or wrong
│   └── ServerAnswerInvalid     it answered, but not with what its API promises
├── OutputUnusable          the result can't be written to standard output         exit code 3
├── JournalUnusable         the watchdog's own journal can't be used              exit code 3
├── AlreadyWatched          another watchdog acts on this database                 exit code 3
└── ShutdownTimedOut        work was still going on when the grace ended           exit code 70
```
"""

from collections.abc import Sequence
from typing import Self

_LONGEST_NAME = 80


class WatchdogError(Exception):
    """The root: its text is a sentence for a person, and says what to do if something can be done."""


class SettingsError(WatchdogError):
    """A setting is wrong: the text names the setting, where it came from, and what to do."""


class HostUnfit(WatchdogError):
    """An embedding server's host can't be asked: it lacks a function, or has one of another form."""


class UsageError(WatchdogError):
    """A command was asked for something that it can't do."""


class NoSuchSession(UsageError):
    """The database has no session with that id.

    Args:
        at_work: the server that is still at work on it: it was deleted while it ran.
    """

    def __init__(self, session_id: str, *, at_work: str | None = None) -> None:
        more = "; `scan` lists the unfinished ones."
        if at_work is not None:
            more = (
                f" any more: it was deleted while it ran, and {at_work} is still at work on it. "
                f"`release {session_id}` ends it."
            )
        super().__init__(f"There is no session {session_id} in this database{more}")


class NoSuchMessage(UsageError):
    """The session has no message with that id."""


class NoSuchIntervention(UsageError):
    """The journal has no intervention with that number."""


class JournalOff(UsageError):
    """There is no journal, because the settings say so; the request needs one."""

    def __init__(self) -> None:
        super().__init__(
            'There is no journal: the setting `journal` is "off". Without one nothing is kept, so nothing can be '
            "listed, undone or held."
        )


class NotActing(UsageError):
    """This watchdog may not act: another one does, or it is stopping.

    Attributes:
        holder_pid: the pid of the watchdog that acts, if that is another one and its pid is known.
    """

    holder_pid: int | None = None

    def __init__(self, sentence: str, *, holder_pid: int | None = None) -> None:
        super().__init__(sentence)
        self.holder_pid = holder_pid


class DryRun(UsageError):
    """This watchdog makes a dry run: it changes nothing."""


class Busy(UsageError):
    """Too much is under way, or the first look is not over. A moment later it will work."""


class DatabaseError(WatchdogError):
    """opencode's database can't be used."""


class DatabaseMissing(DatabaseError):
    """There is no database where one was expected."""


class DatabaseUnsupported(DatabaseError):
    """It isn't an opencode database, or it is of a generation or in a place that the watchdog can't watch."""


class DatabaseUnavailable(DatabaseError):
    """The database can't be read or written just now (locked, replaced, an I/O error): trying again may help."""


class OpenElsewhere(DatabaseUnavailable):
    """A process has the file open under another name, with a log of its own: nobody knows what is in it."""


class WriteRefused(DatabaseError):
    """The database refuses the write, because of a trigger or a constraint of its own.

    It will refuse it again as long as that is there.
    """

    @classmethod
    def by(cls, table: str, what: str, triggers: Sequence[str]) -> Self:
        """The error for a write that something in the table itself prevents.

        Args:
            table: its name.
            what: what happens to the write: it is refused, ignored, or changed.
            triggers: the names of those that may have done it; without one it is a constraint.
        """
        names = " and ".join(f"`{name[:_LONGEST_NAME]}`" for name in triggers)
        who = f"The trigger {names}" if len(triggers) == 1 else f"One of the triggers {names}"
        who = who if triggers else "A constraint"
        return cls(
            f"{who} on the table `{table}` {what}, so nothing was written. It is none of opencode's; nothing can be "
            "settled until it is gone."
        )


class DatabaseDamaged(DatabaseUnavailable):
    """The file is damaged: reads may be wrong, and a write may make it worse. Nothing is written."""


class GaveWay(DatabaseUnavailable):
    """Somebody else has the rows, or would wait too long for them: certainly nothing was written."""


class LeaseLost(DatabaseUnavailable):
    """The lease expired or another watchdog has it: nothing was written, and nothing may be done."""


class ServerError(WatchdogError):
    """A server gave no usable answer. That is never evidence about a session."""


class ServerUnreachable(ServerError):
    """Nothing answered at the server's address: refused, cut off, or too late."""


class ServerSilent(ServerUnreachable):
    """Nothing answered within the time limit: each question to such a server costs the whole of it."""


class ServerUntrusted(ServerUnreachable):
    """Its certificate is not believed, or TLS could not be agreed on: nothing was sent."""


class ServerUntold(ServerUnreachable):
    """It never heard the order, or did not take it: nothing was done, and that counts as no attempt."""


class ServerDeclined(ServerError):
    """It was told to end something, and found right before that it has to spare it. Nothing was done."""


class ServerRefused(ServerError):
    """The server answered 401 or 403."""


class ServerAnswerInvalid(ServerError):
    """The server answered something that its API does not promise: another status, not JSON, half a reply."""


class OutputUnusable(WatchdogError):
    """The result can't be written to standard output, for instance on a full disk. A reader that left is no error."""


class JournalUnusable(WatchdogError):
    """The watchdog's own journal can't be made, read or written. Without it nothing is done."""


class AlreadyWatched(WatchdogError):
    """Another watchdog holds the lock of this database."""


class ShutdownTimedOut(WatchdogError):
    """Work was still going on when the shutdown's grace ended."""


def sentences(error: BaseException) -> list[str]:
    """The sentences of an error, or of each error of a group."""
    if isinstance(error, BaseExceptionGroup):
        return [sentence for each in error.exceptions for sentence in sentences(each)]
    return [str(error)]
