"""What was done: results, steps, and rows as they are written."""

import json
from dataclasses import dataclass
from enum import StrEnum

from watchdog.model.session import SessionId, TurnId
from watchdog.model.verdict import VerdictKind
from watchdog.shown import Telling


class Result(StrEnum):
    """What was really seen after an intervention, never what was asked for."""

    RECOVERED = "recovered"
    UNCHANGED = "unchanged"
    INEFFECTIVE = "ineffective"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    DRY_RUN = "dry_run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step(Telling):
    """One rung of the ladder as it went.

    Attributes:
        step: `reread`, `find`, `about_to_abort`, `abort`, `about_to_reject`, `reject`, `verify`, `prove`, `settle`,
            `publish`, `read_back`, `put_back`, `journal`.
    """

    told = ("detail",)

    step: str
    at_ms: int
    ok: bool
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Telling):
    """How an intervention ended.

    Attributes:
        dropped_prompts: the ids of the queued prompts that an abort dropped.
    """

    told = ("why",)

    session_id: SessionId
    kind: VerdictKind
    result: Result
    steps: tuple[Step, ...]
    why: str
    dropped_prompts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A complete row of opencode's `message` or `part` table, as it is in the database.

    Attributes:
        table: `message` or `part`.
        message_id: the turn of a part; of a message its own id.
        data: the JSON text, exactly as stored.
    """

    table: str
    id: str
    message_id: TurnId
    session_id: SessionId
    created_ms: int
    updated_ms: int
    data: str

    def says(self, data: str) -> bool:
        """Whether that is the same JSON: a server that publishes a part stores its names in another order."""
        return self.data == data or (_ordered(self.data) is not None and _ordered(self.data) == _ordered(data))


def _ordered(data: str) -> str | None:
    """JSON with its names in order; None if it is no JSON."""
    try:
        return json.dumps(json.loads(data), sort_keys=True)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardedWrite:
    """A change of one row that happens only if the row still reads as it was observed."""

    row: Row
    after: str
