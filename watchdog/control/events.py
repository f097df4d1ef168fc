"""The loop's events, as server-sent events for many readers. A reader that does not read is dropped."""

import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from watchdog.errors import Busy, WatchdogError
from watchdog.judging.limits import duration
from watchdog.model.outcome import Outcome
from watchdog.model.session import SessionId
from watchdog.model.verdict import Judgement, Verdict
from watchdog.operating.glance import MandateState
from watchdog.reporting import documents as contract
from watchdog.reporting.documents import damage_sentences, moment
from watchdog.shown import in_json
from watchdog.timing.clock import Advance
from watchdog.timing.events import Assessment

MOST_KEPT: Final = 500
MOST_READERS: Final = 16
MOST_UNREAD: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event.

    Attributes:
        id: a reader resumes after it; None for an event for one reader only.
    """

    id: str | None
    name: str
    data: Mapping[str, Any]

    def encode(self) -> bytes:
        """The event as a stream carries it (HTML, section 9.2: server-sent events)."""
        lines = [] if self.id is None else [f"id: {self.id}"]
        lines += [f"event: {self.name}", f"data: {in_json(self.data)}"]
        return ("\n".join(lines) + "\n\n").encode("ascii")


class Reader:
    """A reader of the events.

    Attributes:
        resumed: nothing is missing since the last event that the reader saw.
        missed: the events since then.
        dropped: it did not read.
        live: the events from now on. It ends when the reader is dropped, or when the API ends.
        scope: cancelled when the reader is dropped: it may hang in a send.
    """

    def __init__(
        self,
        *,
        resumed: bool,
        missed: tuple[Event, ...],
        live: MemoryObjectReceiveStream[Event],
        into: MemoryObjectSendStream[Event],
    ) -> None:
        self.resumed = resumed
        self.missed = missed
        self.dropped = False
        self.live = live
        self.scope = anyio.CancelScope()
        self._into = into

    def offer(self, event: Event) -> bool:
        """Give it an event. False if too much is unread, and the reader is dropped."""
        try:
            self._into.send_nowait(event)
        except (anyio.WouldBlock, anyio.BrokenResourceError):
            self.dropped = True
            self.scope.cancel()
            return False
        return True

    def end(self) -> None:
        """Let it read to the end."""
        self._into.close()


class Events:
    """A listener that keeps the last events, and hands each to every reader without waiting for any.

    Args:
        dry_run: nothing is done, only reported.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self._dry_run = dry_run
        self._run = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[Event] = deque(maxlen=MOST_KEPT)
        self._readers: set[Reader] = set()
        self._ended = False
        self._shown: object = None
        self._degraded: frozenset[str] = frozenset()
        self._unavailable: str | None = None
        self._mandate: MandateState | None = None
        self._on_hold: Mapping[SessionId, str] = {}

    # -- readers ---------------------------------------------------------------------------------------------

    @contextmanager
    def read(self, last_id: str | None) -> Iterator[Reader]:
        """Read after an event, or from now on.

        Raises:
            Busy: too many read already, or the API ends.
        """
        if self._ended or len(self._readers) >= MOST_READERS:
            raise Busy(f"At most {MOST_READERS} clients may read the events at the same time; try again later.")
        into, live = anyio.create_memory_object_stream[Event](MOST_UNREAD)
        missed = self._since(last_id)
        reader = Reader(resumed=missed is not None, missed=missed or (), live=live, into=into)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            into.close()
            live.close()

    def end(self) -> None:
        """End every reader's stream."""
        self._ended = True
        for reader in self._readers:
            reader.end()

    def _since(self, last_id: str | None) -> tuple[Event, ...] | None:
        """The events after one that is kept, or that was the last before there was any; else None."""
        ids = [event.id for event in self._kept]
        if last_id is None or last_id not in ids:
            return None
        return tuple(self._kept)[ids.index(last_id) + 1 :]

    def _tell(self, name: str, data: Mapping[str, Any]) -> None:
        self._number += 1
        event = Event(id=f"{self._run}-{self._number}", name=name, data=data)
        self._kept.append(event)
        self._readers -= {reader for reader in self._readers if not reader.offer(event)}

    # -- what the loop tells ---------------------------------------------------------------------------------

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """Report the changes since the look before."""
        if self._unavailable is not None:
            self._tell("available", {"why": self._unavailable})
            self._unavailable = None
        self._note_mandate(acting=acting)
        self._note_degraded(assessment)
        self._note_holds(assessment.observation.on_hold)
        shown = _shown(assessment.judgement, assessment)
        if shown != self._shown:
            self._shown = shown
            judgement = assessment.judgement
            stuck = {each.session_id for each in judgement.verdicts}
            data = {
                "observed_at": moment(assessment.observation.at_ms),
                "stuck": len(stuck),
                "unfinished": len(stuck | {each.session_id for each in judgement.spared}),
            }
            self._tell("sessions", data)

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        """Report that nothing was done on a look."""
        late = max(advance.late_seconds, advance.slept_seconds, slow_seconds)
        why = f"this look came late or took long ({duration(late)}); nothing is done on it"
        self._tell("held_back", {"why": why})

    def found(self, verdict: Verdict) -> None:
        """Report a verdict that is about to be carried out."""
        self._tell("verdict", contract.Verdict.told(verdict))

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:  # noqa: ARG002
        """Report an outcome."""
        self._tell("outcome", {**contract.Outcome.told(outcome), "given_up": given_up})

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """Report an error of the watchdog's own; only its kind."""
        self._tell("failed", {**contract.Verdict.told(verdict), "error": type(error).__name__})

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:  # noqa: ARG002
        """Report once that the database or the journal can't be used."""
        if self._unavailable is None:
            self._unavailable = str(error)
            self._tell("unavailable", {"why": self._unavailable})

    def _note_mandate(self, *, acting: bool) -> None:
        state = MandateState.ACTING if acting else MandateState.OBSERVING
        state = MandateState.DRY_RUN if self._dry_run else state
        if state is not self._mandate:
            self._mandate = state
            self._tell("mandate", {"mandate": state.value})

    def _note_degraded(self, assessment: Assessment) -> None:
        degraded = frozenset([*assessment.observation.degraded, *damage_sentences(assessment.observation)])
        for sentence in sorted(degraded - self._degraded):
            self._tell("degraded", {"why": sentence})
        for sentence in sorted(self._degraded - degraded):
            self._tell("recovered", {"why": sentence})
        self._degraded = degraded

    def _note_holds(self, holds: Mapping[SessionId, str]) -> None:
        for id_ in sorted(holds.keys() - self._on_hold.keys()):
            self._tell("on_hold", {"session_id": id_, "why": holds[id_]})
        for id_ in sorted(self._on_hold.keys() - holds.keys()):
            self._tell("hold_ended", {"session_id": id_, "why": self._on_hold[id_]})
        self._on_hold = dict(holds)


def _shown(judgement: Judgement, assessment: Assessment) -> object:
    """The changes that a reader would see: the sessions, what is open in them, and their judgement."""
    sessions = assessment.observation.snapshot.sessions.values()
    return (
        frozenset((each.session_id, each.cancel_session_id, each.kind, each.call_id) for each in judgement.verdicts),
        frozenset((each.session_id, each.reason, each.call_id) for each in judgement.spared),
        frozenset((each.id, frozenset((call.id, call.status) for call in each.calls)) for each in sessions),
    )
