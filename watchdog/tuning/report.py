"""What the history says, all of it: the value that is printed, as a table, as JSON or as a picture."""

from dataclasses import dataclass

from watchdog.model.policy import Policy
from watchdog.tuning.advice import Advice
from watchdog.tuning.stops import Leftovers
from watchdog.tuning.tally import Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """The history of a database since a moment.

    Attributes:
        holders_unknown: why nobody knows who has the database open; None if that is known.
    """

    database: str
    since_ms: int
    now_ms: int
    tally: Tally
    leftovers: Leftovers
    advice: Advice
    holders_unknown: str | None = None

    @property
    def policy(self) -> Policy:
        """Today's limits."""
        return self.tally.policy
