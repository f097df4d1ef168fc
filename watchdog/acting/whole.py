"""Looks that judge what is to be ended together with everything below it, finished sessions and holds included."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final, Protocol

from watchdog.model.session import EVERYTHING, SessionId
from watchdog.model.verdict import VerdictKind
from watchdog.ports import Store
from watchdog.timing.events import Assessment

_MOST_LOOKS_MORE: Final = 3
_END_NOTHING_BELOW: Final = frozenset({VerdictKind.ORPHAN, VerdictKind.UNANSWERED})


class OneLook(Protocol):
    """Looks once, and judges what was seen."""

    async def __call__(
        self, also: Collection[SessionId], /, *, full: bool = False, scan_parts: bool = False, fresh: bool = False
    ) -> Assessment:
        """Look.

        Args:
            also: sessions to read even if nothing is open in them.
            full: read again even if nothing changed.
            scan_parts: search closed turns for open calls, too.
            fresh: reuse no earlier answer.
        """
        ...


class WholeLook:
    """Looks, and looks again if something that matters to a verdict was not read because it seemed finished.

    Args:
        look: looks once.
    """

    def __init__(self, look: OneLook, store: Store) -> None:
        self._look = look
        self._store = store
        self._on_hold: frozenset[SessionId] = frozenset()
        """The holds of the last look, without those of sessions that do not exist."""
        self._gone: frozenset[SessionId] = frozenset()
        """Holds of sessions that do not exist: these need not be read again and again."""

    async def __call__(self, also: Collection[SessionId], *, full: bool, scan_parts: bool, fresh: bool) -> Assessment:
        """Look. Sessions that need a fresh look are read with everything below them."""
        read = {*also, *self._on_hold, *(await self._store.below(also) if fresh and also else ())}
        assessment = await self._look(read, full=full, scan_parts=scan_parts, fresh=fresh)
        for _ in range(_MOST_LOOKS_MORE):
            missing = await self._missing(assessment) - read
            if not missing:
                break
            read |= missing
            later = await self._look(read, fresh=fresh)
            slow = max(assessment.slow_seconds, later.slow_seconds)
            # It is as old as the first look.
            assessment = replace(later, advance=assessment.advance, began_at=assessment.began_at, slow_seconds=slow)
        on_hold, known = {*assessment.observation.on_hold}, assessment.observation.snapshot.sessions.keys()
        self._on_hold, self._gone = frozenset(on_hold & known), frozenset(on_hold - known)
        return assessment

    async def _missing(self, assessment: Assessment) -> set[SessionId]:
        """Sessions that were not read, and are on hold or below something that is to be ended."""
        ended = [
            each.cancel_session_id for each in assessment.judgement.verdicts if each.kind not in _END_NOTHING_BELOW
        ]
        below = await self._store.below(ended) if ended else frozenset[SessionId]()
        known = assessment.observation.snapshot.sessions.keys()
        return ({*assessment.observation.on_hold, *below} - known) - self._gone - {EVERYTHING}
