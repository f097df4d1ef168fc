"""A person's request to the leader, and its answer, as one replica passes it on to another."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from watchdog import errors
from watchdog.acting.undo import Undoing, UndoResult
from watchdog.errors import ServerAnswerInvalid, WatchdogError
from watchdog.journal.codec import known, read_outcome
from watchdog.model.interventions import InterventionId
from watchdog.model.outcome import Outcome, Step
from watchdog.model.session import SessionId
from watchdog.operating.operations import Answer, OperationKind

_PASSED_ON: Final = (OperationKind.RELEASE, OperationKind.UNDO)
UNREAD: Final = "The answer can't be read: the replicas may be of different versions. `history` shows it."


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The request.

    Attributes:
        kind: a release, or an undo.
        session_id: of a release.
        number: the number of the intervention to undo.
        reason: the person's words.
        below: whatever lives below the session may end with it.
        agreed: those sessions below it that the person saw, and said may end with it.
    """

    kind: OperationKind
    session_id: SessionId | None = None
    number: InterventionId | None = None
    reason: str | None = None
    below: bool = False
    agreed: tuple[SessionId, ...] = ()

    def dump(self) -> str:
        """In stored form."""
        return json.dumps(asdict(self))


CarryOut = Callable[[Wanted], Awaitable[Answer]]


class Leader(Protocol):
    """The replica that acts, whichever it is: it gets the request, and the caller waits for its answer.

    It raises the errors of that replica; `NotActing` if nobody took the request on, so nothing was done; and
    `ServerUnreachable` if somebody did and gave no answer, so it may have been done.
    """

    async def release(
        self, session_id: SessionId, *, reason: str | None, below: bool, agreed: tuple[SessionId, ...] = ()
    ) -> tuple[Outcome, ...]:
        """Have a session released; see `Wanted`."""
        ...

    async def undo(self, number: InterventionId) -> Undoing:
        """Have an intervention undone."""
        ...

    def answer_for(self, carry_out: CarryOut) -> None:
        """Carry out others' requests, while this process acts."""
        ...


def read_wanted(text: str) -> Wanted | None:
    """The request; None if another version wrote it, and it can't be read."""
    try:
        value: Mapping[str, Any] = json.loads(text)
        kind = OperationKind(value["kind"])
        if kind not in _PASSED_ON:
            return None
        return Wanted(
            kind=kind,
            session_id=None if value["session_id"] is None else SessionId(str(value["session_id"])),
            number=None if value["number"] is None else InterventionId(int(value["number"])),
            reason=None if value["reason"] is None else str(value["reason"]),
            below=bool(value["below"]),
            agreed=tuple(SessionId(str(each)) for each in value["agreed"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def dump_answer(answer: Answer) -> str:
    """A result in stored form."""
    if isinstance(answer, Undoing):
        return json.dumps({"undoing": asdict(answer)})
    if isinstance(answer, tuple):
        return json.dumps({"outcomes": [asdict(each) for each in answer]})
    raise TypeError(f"{type(answer).__name__} is passed on by nobody")


def dump_error(error: WatchdogError) -> str:
    """An error in stored form."""
    return json.dumps({"error": type(error).__name__, "says": str(error)})


def read_answer(text: str) -> Answer:
    """The result.

    Raises:
        WatchdogError: its error there.
        ServerAnswerInvalid: it can't be read.
    """
    try:
        value: Mapping[str, Any] = json.loads(text)
        if "error" in value:
            raise _error(str(value["error"]), str(value["says"]))
        if "undoing" in value:
            return _undoing(value["undoing"])
        return _outcomes(value["outcomes"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerAnswerInvalid(UNREAD) from error


def _outcomes(values: list[dict[str, Any]]) -> tuple[Outcome, ...]:
    return tuple(read_outcome(each) for each in values)


def _undoing(value: dict[str, Any]) -> Undoing:
    return Undoing(
        id=InterventionId(int(value["id"])),
        session_id=SessionId(str(value["session_id"])),
        result=UndoResult(value["result"]),
        why=str(value["why"]),
        steps=tuple(Step(**known(Step, step)) for step in value["steps"]),
    )


def _error(name: str, says: str) -> WatchdogError:
    """The error with that name; of one that only another version knows, its words."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, WatchdogError)):
        kind = errors.ServerError
    return kind.__new__(kind, says)
