"""Which commands are left over, which call each belongs to, and which may have been started to stay. Pure.

A command is left over if its opencode is gone, or if its opencode lives, has this database open, and its call has
ended. It belongs to a call only if its birth lies within the call's time, it works in the call's folder, it runs what
the call ran, and no other call fits. A command whose opencode lives, and that works in the folder of an open call and
runs what that ran, is at work, whatever the times say: the wall clock may have been set.
"""

import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from posixpath import basename
from typing import Final

from watchdog.model.leftovers import Command, CommandCall, Commands, LeftOver, Member
from watchdog.model.outcome import Row
from watchdog.model.session import CallId

SLACK_MS: Final = 2000
"""How much earlier or later than its call's time a command may seem to be born: the kernel counts in ticks."""

MAY_BE_RUNNING: Final = "A command that it had started may still be running."

_LEAVES: Final = re.compile(
    r"(?<![&>|])&(?![&>])|\b(?:coproc|daemonize|disown|nohup|screen|setsid|systemd-run|tmux)\b"
)
"""What starts something to stay, also inside quotes: that may be a script."""
_WRAPPERS: Final = frozenset(
    {"command", "env", "exec", "ionice", "nice", "nohup", "setsid", "stdbuf", "sudo", "time", "timeout"}
)
"""Words in front of a command that are gone once it runs."""
_SHELLS: Final = frozenset({"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"})
_BOUNDS: Final = frozenset("();&|\n")
_MOST_INTERPRETERS: Final = 2
"""The kernel puts the interpreter of a script, with at most one option, in front of the script's path."""


def left_over(commands: Iterable[Command], calls: Sequence[CommandCall], *, ended_by_ms: int) -> tuple[LeftOver, ...]:
    """The commands that are left over, the oldest first.

    Args:
        calls: every call that may have started one of them.
        ended_by_ms: a call that ended after this may still be ending its command.
    """
    found = [_judged(each, [call for call in calls if _matches(each, call)], ended_by_ms) for each in commands]
    return tuple(sorted(filter(None, found), key=_age))


def _age(left: LeftOver) -> tuple[int, int]:
    return left.command.first.birth, left.command.first.pid


def _judged(command: Command, matching: Sequence[CommandCall], ended_by_ms: int) -> LeftOver | None:
    fitting = [each for each in matching if _in_time(command, each)]
    call = fitting[0] if len(fitting) == 1 else None
    if command.opencode_lives is False:
        why = f"its opencode (process {command.opencode_pid}) is gone"
        return LeftOver(command=command, why=why, call=call, stays=stays(command, call))
    if command.opencode_lives is None or not command.opencode_holds or call is None:
        return None
    if any(each.ended_ms is None or each.ended_ms > ended_by_ms for each in matching):
        return None
    why = f"its call has ended, and its opencode (process {command.opencode_pid}) goes on"
    return LeftOver(command=command, why=why, call=call, stays=stays(command, call))


def fits(command: Command, call: CommandCall) -> bool:
    """Whether a call may have started a command: by time, by folder, and by what runs."""
    return _in_time(command, call) and _matches(command, call)


def _in_time(command: Command, call: CommandCall) -> bool:
    if command.born_ms < call.created_ms - SLACK_MS:
        return False
    return call.ended_ms is None or command.born_ms <= call.ended_ms + SLACK_MS


def _matches(command: Command, call: CommandCall) -> bool:
    return command.first.folder in call.folders and runs(command.first, call.command)


def place(
    commands: Iterable[Command], calls: Sequence[CommandCall]
) -> tuple[Mapping[CallId, tuple[int, ...]], tuple[int, ...]]:
    """The first processes of the commands of each call, and the births of the commands that can't be placed."""
    placed: dict[CallId, tuple[int, ...]] = {}
    unplaced = []
    for each in commands:
        fitting = [call for call in calls if fits(each, call)]
        if len(fitting) == 1:
            placed[fitting[0].id] = (*placed.get(fitting[0].id, ()), each.first.pid)
        else:
            unplaced.append(each.born_ms)
    return placed, tuple(unplaced)


def runs(member: Member, command: str) -> bool:
    """Whether a process runs a command: as the shell that was given it, or as one of the programs that it names."""
    return _runs_any(member, command, simple_commands(command) or ())


def _runs_any(member: Member, command: str, simples: Iterable[Sequence[str]]) -> bool:
    """Whether a process is the shell that was given a whole command, or one of some simple commands."""
    # A program such as npm writes its whole line in the place of its name.
    words = member.words if len(member.words) > 1 else member.words[0].split()
    if not words or not command.strip():
        return False
    if basename(words[0]) in _SHELLS and any(each.strip() == command.strip() for each in words[1:]):
        return True
    return any(_same(words, simple) for simple in simples)


def _same(words: Sequence[str], simple: Sequence[str]) -> bool:
    """Whether a command line is that of a simple command, without what is gone once it runs."""
    scripts = [
        words[count:] for count in range(1, _MOST_INTERPRETERS + 1) if "/" in "".join(words[count : count + 1])
    ]
    for start in range(len(simple)):
        if any(_names(line, simple[start:]) for line in (words, *scripts)):
            return True
        if start == 0 and simple[0] not in _WRAPPERS and "=" not in simple[0]:
            return False
        if "=" not in simple[start] and simple[start] not in _WRAPPERS and not _is_option(simple[start]):
            return False
    return False


def _names(line: Sequence[str], simple: Sequence[str]) -> bool:
    return basename(line[0]) == basename(simple[0]) and list(line[1:]) == list(simple[1:])


def _is_option(word: str) -> bool:
    """Whether a word belongs to a wrapper: an option, or a number, such as the seconds of `timeout`."""
    return word.startswith("-") or word.rstrip("smhd").replace(".", "").isdigit()


def simple_commands(command: str) -> list[list[str]] | None:
    """The words of each simple command, without redirections; None if it can't be read as shell.

    Nothing is expanded: a command with variables or patterns in it has words that no process shows.
    """
    words = _words(command)
    if words is None:
        return None
    found: list[list[str]] = [[]]
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word and set(word) <= _BOUNDS:
            found.append([])
        elif word and set(word) <= {"<", ">", "&", "|"}:
            skip = True
            if found[-1] and found[-1][-1] in {"1", "2"}:
                found[-1].pop()
        else:
            found[-1].append(word)
    return [each for each in found if each]


def _words(command: str) -> list[str] | None:
    lexer = shlex.shlex(command, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    try:
        return list(lexer)
    except ValueError:
        return None


def stays(command: Command, call: CommandCall | None) -> str | None:
    """Why a command may have been started to stay: a clause. None if nothing says so."""
    if call is not None and (says := _says_so(call)):
        return says
    if command.listens:
        return f"it listens on port {', '.join(map(str, command.listens))}"
    if any(each.ignores_hangup for each in command.members) and not command.first.ignores_hangup:
        return "a part of it ignores the hang-up, as `nohup` makes it"
    if not command.led:
        return "what started it has ended, and left it in the background"
    # A shell may become the last of its commands. Any other that leads a session has made itself a daemon.
    if call is not None and not _runs_any(command.first, call.command, (simple_commands(call.command) or [])[-1:]):
        return "it leads a session of its own, as a daemon does"
    return None


def _says_so(call: CommandCall) -> str | None:
    if call.personal:
        return "a person ran it"
    found = _LEAVES.search(call.command)
    return None if found is None else f"its command has `{found.group()}`"


# -- calls that are settled ------------------------------------------------------------------------------------------


def runs_a_command(row: Row) -> bool:
    """Whether a row is a call that runs a command."""
    try:
        part = json.loads(row.data)
        return row.table == "part" and isinstance(part["state"]["input"]["command"], str)
    except (ValueError, RecursionError, KeyError, TypeError):
        return False


def fate(seen: Commands, call_id: CallId, created_ms: int, *, ends: bool) -> str:
    """What is known of the command of a call that nobody executes: a sentence.

    Args:
        created_ms: when the call's row was created.
        ends: a command that was not started to stay is ended once the call is settled.
    """
    if pids := seen.placed.get(call_id):
        ending, _ = to_be_ended(seen, [call_id])
        named = f"process{'' if len(pids) == 1 else 'es'} {' and '.join(map(str, pids))}"
        if ends and {each.command.first.pid for each in ending} == set(pids):
            return f"Its command was still running ({named}), and is ended, too."
        return f"Its command is still running ({named})."
    if not seen.complete or any(born >= created_ms - SLACK_MS for born in seen.unplaced):
        return MAY_BE_RUNNING
    return "No process of its command was found."


def to_be_ended(
    seen: Commands, call_ids: Collection[CallId]
) -> tuple[tuple[LeftOver, ...], tuple[tuple[LeftOver, str], ...]]:
    """What some calls left over: what may be ended with them, and what is left alone, with a clause that says why."""
    found = [(each, each.command.keep or each.stays) for each in seen.of(call_ids)]
    return (
        tuple(left for left, why in found if why is None),
        tuple((left, why) for left, why in found if why is not None),
    )
