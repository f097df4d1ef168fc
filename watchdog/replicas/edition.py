"""The claims of this process as it publishes them: the changes since the last ones known to be written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from watchdog.model.session import Ask, SessionId, Status
from watchdog.replicas.publications import Claims, dump_claim, dump_id
from watchdog.strides import in_strides

_MANY_OVER: Final = 1_000
"""How many finished sessions an edition may have, beside as many unfinished ones: their rows say nothing."""

_LIFE_MS: Final = 10_000
"""How much newer a sign of life has to be to be worth a row, if nobody waits for it."""

_Claim = tuple[Status | None, tuple[Ask, ...]]
_OVER: Final[_Claim] = (None, ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The changes to write to one edition.

    Attributes:
        after: the revision that it changes; -1 for a new edition.
        revision: the revision that it leads to: the same if nothing changed.
        text: see `publications.merged`.
        claims: the claims on the changed sessions.
    """

    edition: str
    after: int
    revision: int
    text: str
    claims: Mapping[SessionId, _Claim]


class Edition:
    """The claims that are known to be written.

    Args:
        process: this process.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        self._number = 0
        self._revision = -1
        self._written: dict[SessionId, _Claim] = {}
        self._over: set[SessionId] = set()
        self._unsure = False  # whether the last change was written down

    async def change(self, claims: Claims | None, *, exact: bool) -> Change:
        """The change that leads to these claims.

        Args:
            claims: all claims; None if nothing new is known.
            exact: somebody waits for them. Otherwise a sign of life soon after the last one is no change: it would
                cost a row for each session at each beat.
        """
        if self._unsure or len(self._over) > max(_MANY_OVER, len(self._written) - len(self._over)):
            self._begin_anew()
        self._unsure = True
        changed: dict[SessionId, _Claim] = {}
        if claims is not None:
            now = claims.statuses.keys() | claims.asks.keys()
            async for id_ in in_strides(now):
                claim = claims.statuses.get(id_), claims.asks.get(id_, ())
                before = self._written.get(id_)
                if before != claim and (exact or before is None or not _shows_life_only(before, claim)):
                    changed[id_] = claim
            changed.update(dict.fromkeys(self._written.keys() - now - self._over, _OVER))
        said = {}
        async for id_, claim in in_strides(changed.items()):
            said[dump_id(id_)] = dump_claim(*claim) if claim is not _OVER else None
        return Change(
            edition=f"{self._process}.{self._number}",
            after=self._revision,
            revision=self._revision + 1 if changed or self._revision < 0 else self._revision,
            text=json.dumps(said),
            claims=changed,
        )

    def confirm(self, change: Change) -> None:
        """The change is written."""
        self._unsure, self._revision = False, change.revision
        self._written.update(change.claims)
        self._over.difference_update(change.claims)
        self._over.update(id_ for id_, claim in change.claims.items() if claim is _OVER)

    def _begin_anew(self) -> None:
        """Begin another edition. As long as nothing is known of the sessions, that is what it says."""
        self._number += 1
        self._revision = -1
        self._written, self._over = {}, set()


def _shows_life_only(before: _Claim, now: _Claim) -> bool:
    """Whether only the last sign of life changed, and not by much."""
    (then, asked), (status, asks) = before, now
    if then is None or status is None or then.last_life_ms is None or status.last_life_ms is None:
        return False
    soon = 0 <= status.last_life_ms - then.last_life_ms < _LIFE_MS
    return soon and asks == asked and replace(status, last_life_ms=then.last_life_ms) == then
