"""What `drain` prints as JSON, and the HTTP API answers."""

from typing import Any, Literal

from watchdog.explaining import drain
from watchdog.reporting.documents import Document, Moment, Shape, Text


class LostCall(Shape):
    """An open call that would be lost."""

    part_id: Text
    tool: Text


class LostAsk(Shape):
    """What waits for a person, and would be lost."""

    id: Text
    kind: Literal["question", "permission"]


class Loss(Shape):
    """What a session would lose."""

    session_id: Text
    certain: bool
    servers: list[Text]
    calls: list[LostCall]
    asks: list[LostAsk]
    queued_prompts: int
    why: Text


class Drain(Document):
    """What would be lost if the servers were restarted now."""

    observed_at: Moment
    ready: bool
    would_lose: list[Loss]
    problems: list[Text]


def drain_document(database: str, found: drain.Drain) -> dict[str, Any]:
    """What `drain --json` prints."""
    return Drain.told(
        {
            "database": database,
            "observed_at": found.at_ms,
            "ready": found.ready,
            "would_lose": [_told(each) for each in found.losses],
            "problems": [*found.problems],
        }
    )


def _told(loss: drain.Loss) -> dict[str, Any]:
    return {
        "session_id": loss.session_id,
        "certain": loss.certain,
        "servers": [*loss.servers],
        "calls": [{"part_id": call.id, "tool": call.tool} for call in loss.calls],
        "asks": [{"id": ask.id, "kind": ask.kind.value} for ask in loss.asks],
        "queued_prompts": loss.queued_prompts,
        "why": loss.why,
    }
