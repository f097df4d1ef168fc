"""Short ways to write observations down in tests."""

from collections.abc import Iterable, Mapping
from typing import Any

from watchdog.model.moments import NEVER, Moment
from watchdog.model.policy import Policy
from watchdog.model.report import Holder, Holders, Observation, Served, ServerReport, Shown, Witness
from watchdog.model.session import (
    Activity,
    Ask,
    AskKind,
    CallId,
    CallStatus,
    ServerName,
    Session,
    SessionId,
    Snapshot,
    Status,
    ToolCall,
    Turn,
    TurnId,
)

NOW = 1_800_000_000_000
AT = Moment(50_000.0)
"""The same on the countable clock."""
DIRECTORY = "/work/tree"
SERVER = ServerName("http://127.0.0.1:4096")
POLICY = Policy(tool_timeout_seconds=60, task_timeout_seconds=300, idle_timeout_seconds=30)


def ago(seconds: float) -> int:
    """The moment so many seconds before now."""
    return NOW - int(seconds * 1000)


def back(seconds: float) -> Moment:
    """The same on the countable clock."""
    return AT + -seconds


def moment(wall_ms: float) -> Moment:
    """A wall time on the countable clock, where nothing ever stood still."""
    return AT + (wall_ms - NOW) / 1000


def call(
    id_: str = "prt_1",
    *,
    session: str = "ses_1",
    turn: str = "msg_1",
    tool: str = "bash",
    age: float = 10,
    **more: Any,  # noqa: ANN401
) -> ToolCall:
    """An open call that began `age` seconds ago."""
    fields: dict[str, Any] = {
        "status": CallStatus.RUNNING,
        "created_ms": ago(age),
        "updated_ms": ago(age),
        "call_ref": f"call_{id_}",
        **more,
    }
    return ToolCall(id=CallId(id_), turn_id=TurnId(turn), session_id=SessionId(session), tool=tool, **fields)


def turn(id_: str = "msg_1", *, session: str = "ses_1", age: float = 60, **more: Any) -> Turn:  # noqa: ANN401
    """An open turn that began `age` seconds ago."""
    fields: dict[str, Any] = {"created_ms": ago(age), "updated_ms": ago(age), **more}
    return Turn(id=TurnId(id_), session_id=SessionId(session), **fields)


def session(
    id_: str = "ses_1",
    *,
    turns: Iterable[Turn] | None = None,
    calls: Iterable[ToolCall] = (),
    parent: str | None = None,
    age: float = 100,
    life: float = 20,
    directory: str = DIRECTORY,
) -> Session:
    """A session with one open turn, unless told otherwise."""
    return Session(
        id=SessionId(id_),
        directory=directory,
        created_ms=ago(age),
        parent_id=SessionId(parent) if parent else None,
        turns=tuple(turns) if turns is not None else (turn(f"msg_{id_.removeprefix('ses_')}", session=id_),),
        calls=tuple(calls),
        last_life_ms=ago(life),
        newest_prompt_id="msg_prompt",
    )


def busy(*ids: str, **more: Any) -> ServerReport:  # noqa: ANN401
    """A server that is at work on these sessions, with its feed connected for a long time."""
    return report(statuses={id_: Status(activity=Activity.BUSY) for id_ in ids}, **more)


def report(
    *,
    statuses: Mapping[str, Status] | None = None,
    asks: Iterable[Ask] = (),
    served: Iterable[str] | Served | None = None,
    directories: Iterable[str] = (DIRECTORY,),
    **more: Any,  # noqa: ANN401
) -> ServerReport:
    """What a server that vouches answered for its directories."""
    said = {SessionId(id_): status for id_, status in (statuses or {}).items()}
    asks = tuple(asks)
    shown = bool(served or said or asks or more.get("life"))
    fields: dict[str, Any] = {
        "name": SERVER,
        "pid": 100,
        "vouches": True,
        "statuses": dict.fromkeys(directories, said),
        "asks": dict.fromkeys(directories, tuple(asks)),
        "served": served if isinstance(served, Served) else _served(more.get("pid", 100)) if shown else None,
        "witness": Witness(connected=True, since=back(10_000)),
        **more,
    }
    return ServerReport(**fields)


def _served(pid: int | None) -> Served:
    """It is shown by its process."""
    return Served(server=SERVER, by=Shown.PROCESS, pid=pid)


def question(session_id: str, *, turn: str | None = None, call_ref: str | None = None) -> Ask:
    """A question that waits."""
    return Ask(
        id="que_1",
        kind=AskKind.QUESTION,
        session_id=SessionId(session_id),
        turn_id=TurnId(turn) if turn else None,
        call_ref=call_ref,
    )


def holder(pid: int = 100, *, age: float = 1000, command: str = "opencode serve", **more: Any) -> Holder:  # noqa: ANN401
    """A process that has the database open, born `age` seconds ago."""
    return Holder(pid=pid, born_ms=ago(age), command=command, **more)


def observation(
    *sessions: Session,
    reports: Iterable[ServerReport] = (),
    holders: Holders | Iterable[Holder] | None = None,
    idle: Mapping[str, float] | None = None,
    **more: Any,  # noqa: ANN401
) -> Observation:
    """An observation at `NOW`; `idle` gives the seconds of silence of the sessions that have a witness."""
    if holders is not None and not isinstance(holders, Holders):
        holders = Holders(known=tuple(holders))
    reports = tuple(reports)
    lives = {each.id: moment(each.last_life_ms) for each in sessions}
    retries: dict[SessionId, Moment] = {}
    for told in reports:
        lives |= {id_: max(lives[id_], heard) for id_, heard in told.life.items() if id_ in lives}
        for id_, said in told.said.items():
            for status in said:
                if status.last_life_ms is not None and id_ in lives:
                    lives[id_] = max(lives[id_], moment(status.last_life_ms))
                if status.retry_at_ms is not None:
                    retries[id_] = max(retries.get(id_, NEVER), moment(status.retry_at_ms))
    fields: dict[str, Any] = {
        "call_clocks": {call.id: moment(call.created_ms) for each in sessions for call in each.calls},
        "idle_clocks": {SessionId(id_): back(seconds) for id_, seconds in (idle or {}).items()},
        "lives": lives,
        "retries": retries,
        "steady_since_ms": 0,
        **more,
    }
    return Observation(
        at_ms=NOW,
        now=AT,
        snapshot=Snapshot(sessions={each.id: each for each in sessions}),
        reports=reports,
        holders=holders,
        **fields,
    )
