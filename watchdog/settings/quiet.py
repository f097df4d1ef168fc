"""The hours in which nobody wants a message."""

import re
from dataclasses import dataclass
from datetime import datetime, time

_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*[-–]\s*([0-9]{1,2}):([0-9]{2})")  # noqa: RUF001 - people type that, too
_HOW = 'it is two times of the day, such as "22:00-07:00", or off'


@dataclass(frozen=True, kw_only=True, slots=True)
class QuietHours:
    """From one time of the day until another, perhaps over midnight; the end does not belong to it."""

    start: time
    end: time

    def covers(self, at: datetime) -> bool:
        """Whether it is quiet then."""
        now = at.time()
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


def quiet_hours(value: object) -> QuietHours | None:
    """Quiet hours as people write them.

    Raises:
        ValueError: they are none.
    """
    if value is None or isinstance(value, QuietHours):
        return value
    text = str(value).strip()
    if text.lower() == "off":
        return None
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(_HOW)
    hours, minutes, until_hours, until_minutes = map(int, found.groups())
    try:
        quiet = QuietHours(start=time(hours, minutes), end=time(until_hours, until_minutes))
    except ValueError:
        raise ValueError(_HOW) from None
    if quiet.start == quiet.end:
        raise ValueError("it begins and ends at the same time: give two times, or off")
    return quiet
