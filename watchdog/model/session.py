"""What opencode keeps: sessions, their turns and tool calls, what they wait for, and the rows that can't be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NewType

from watchdog.shown import Telling

SessionId = NewType("SessionId", str)
TurnId = NewType("TurnId", str)
"""The id of a turn: of an assistant message."""
CallId = NewType("CallId", str)
"""The id of a tool call's part (`prt_…`), not the model's `callID`."""
EVERYTHING = SessionId("*")
"""Stands for all sessions in a hold: the watchdog is paused."""
ServerName = NewType("ServerName", str)
"""A server's base URL without credentials, or `embedded`."""
EMBEDDED = ServerName("embedded")

TASK = "task"
"""The tool that starts a subagent."""
QUESTION = "question"
"""The tool that asks a person. Without the word of the server that runs a call of it, its age says nothing."""

EMPTY: Mapping[Any, Any] = MappingProxyType({})


class CallStatus(StrEnum):
    """The states of an open tool call."""

    PENDING = "pending"
    RUNNING = "running"


class Activity(StrEnum):
    """What a server does with a session. One that isn't listed is idle."""

    IDLE = "idle"
    BUSY = "busy"
    RETRY = "retry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What one server says about one session.

    Attributes:
        activity: idle, busy, or waiting out a provider's retry.
        retry_at_ms: when the server will try again, for `retry`.
        last_life_ms: the session's last sign of life as an embedded host knows it; real servers never say it.
    """

    activity: Activity
    retry_at_ms: int | None = None
    last_life_ms: int | None = None


class AskKind(StrEnum):
    """What a session wants from a human."""

    QUESTION = "question"
    PERMISSION = "permission"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A question or a permission that waits for a human.

    Attributes:
        turn_id: the turn that asks, if the server names it.
        call_ref: the model's `callID` of the call that asks, if the server names it.
    """

    id: str
    kind: AskKind
    session_id: SessionId
    turn_id: TurnId | None = None
    call_ref: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """An open tool call: a part of type `tool` whose status is pending or running.

    Attributes:
        call_ref: the model's `callID`, by which asks name the call.
        tool: the tool's name, never empty: a row without one is damaged.
        created_ms: the row's `time_created`, which never moves.
        updated_ms: the row's `time_updated`.
        size: length of the row's JSON in characters; with `updated_ms` it tells whether the row changed.
        declared_timeout_ms: `state.input.timeout`, a duration.
        child_id: `state.metadata.sessionId`: the session that a task call started.
        personal: a person's own command, which no model asked for.
    """

    id: CallId
    turn_id: TurnId
    session_id: SessionId
    tool: str
    status: CallStatus
    created_ms: int
    updated_ms: int
    size: int = 0
    call_ref: str | None = None
    declared_timeout_ms: float | None = None
    child_id: SessionId | None = None
    personal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """An assistant message that is open, or that holds an open call.

    Attributes:
        open: true while `time.completed` is missing.
        cwd: `path.cwd`, the folder that the turn was prompted for, if the row has it.
        superseded: a newer turn of the same session exists.
    """

    id: TurnId
    session_id: SessionId
    created_ms: int
    updated_ms: int
    size: int = 0
    open: bool = True
    cwd: str | None = None
    superseded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A session as the database knows it.

    Attributes:
        turns: its open turns, and its closed turns that hold an open call; oldest first.
        calls: its open calls, oldest first.
        last_life_ms: the last time that the database shows life: a turn created or completed, a prompt
            created, a part written. Titles, summaries and usage counters are not life.
        newest_prompt_id: the id of the newest user message.
        queued_prompts: how many user messages are newer than its newest turn.
        remote: the type of its workspace, if that may be on another machine; `unknown` if the type is not known. None
            for a session that runs here. Its rows are a copy: nobody here can say what it does.
    """

    id: SessionId
    directory: str
    created_ms: int
    parent_id: SessionId | None = None
    turns: tuple[Turn, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    last_life_ms: int = 0
    newest_prompt_id: str | None = None
    queued_prompts: int = 0
    remote: str | None = None

    @property
    def has_open_rows(self) -> bool:
        """Whether it has an open turn or call in the database."""
        return bool(self.calls) or any(turn.open for turn in self.turns)

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories under which a server may hold the session, its own first."""
        found = {self.directory: None}
        for turn in self.turns:
            if turn.cwd:
                found[turn.cwd] = None
        return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage(Telling):
    """A row that can't be read as what it should be. The watchdog reports it, and never touches it.

    Attributes:
        table: `message`, `part` or `session`.
        problem: what is wrong with it, without any of its content.
    """

    told = ("problem",)

    table: str
    id: str
    session_id: SessionId
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the database said in one read transaction.

    Attributes:
        sessions: every session with an open turn or call, all its ancestors, the children of open task
            calls with their own descendants that are open, and the sessions that were asked for by id.
        damaged: the rows that were left out because they can't be read.
        second_generation: how many sessions of opencode 2.x are at work in the same database. Nobody watches them.
    """

    sessions: Mapping[SessionId, Session] = field(default_factory=dict)
    damaged: tuple[Damage, ...] = ()
    second_generation: int = 0

    @property
    def open_rows(self) -> frozenset[str]:
        """The ids of every open call and turn."""
        calls = {call.id for session in self.sessions.values() for call in session.calls}
        turns = {turn.id for session in self.sessions.values() for turn in session.turns if turn.open}
        return frozenset(calls | turns)
