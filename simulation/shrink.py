"""Makes a failing script as short as can be, while it fails in the same way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from simulation.play import play
from simulation.script import Event, Script, Setting

Fails = Callable[[Script], bool]


def fails_as(kind: str) -> Fails:
    """Whether a script breaks the same rule."""

    def fails(script: Script) -> bool:
        violation = play(script).violation
        return violation is not None and violation.kind == kind

    return fails


def shrink(script: Script, fails: Fails, *, most: int = 400) -> Script:
    """The shortest script that is found.

    Args:
        script: one that fails.
        fails: whether another one fails in the same way.
        most: how many scripts are tried.
    """
    return _Shrinking(script, fails, most).run()


class _Shrinking:
    def __init__(self, script: Script, fails: Fails, most: int) -> None:
        self.best = script
        self._fails = fails
        self._left = most

    def run(self) -> Script:
        while self._round():
            pass
        return self.best

    def _round(self) -> bool:
        """One pass of everything. Returns whether it made the script shorter."""
        before = self.best
        self._drop_events()
        for candidates in (self._simpler_steps, self._simpler_setting):
            while self._first_that_fails(candidates()):
                pass
        return self.best != before and self._left > 0

    def _drop_events(self) -> None:
        """Leave out runs of events, long ones first."""
        size = max(1, len(self.best.events) // 2)
        while size:
            start = 0
            while start < len(self.best.events):
                events = self.best.events
                fewer = replace(self.best, events=events[:start] + events[start + size :])
                if not self._take(fewer):
                    start += size
            size //= 2

    def _simpler_steps(self) -> Iterator[Script]:
        for number, event in enumerate(self.best.events):
            for args in _simpler(event.args):
                events = list(self.best.events)
                events[number] = Event(event.at, event.what, args)
                yield replace(self.best, events=tuple(events))

    def _simpler_setting(self) -> Iterator[Script]:
        setting = self.best.setting
        for name in Setting.__dataclass_fields__:
            usual: Any = {name: getattr(Setting(), name)}
            if getattr(setting, name) != usual[name]:
                yield replace(self.best, setting=replace(setting, **usual))
        if len(setting.plans) > 1:
            yield replace(self.best, setting=replace(setting, plans=setting.plans[:-1]))

    def _first_that_fails(self, candidates: Iterator[Script]) -> bool:
        return any(self._take(each) for each in candidates)

    def _take(self, script: Script) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        if not self._fails(script):
            return False
        self.best = script
        return True


def _simpler(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of an event, each time with one thing less somewhere in them."""
    for name, inner in value.items():
        for less in _less(inner):
            yield {**value, name: less}


def _less(value: object) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from _simpler(value)
        for name in [each for each in value if each in {"ask", "pending", "output", "timeout", "forever"}]:
            yield {key: each for key, each in value.items() if key != name}
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number in range(len(value)):
            if len(value) > 1:
                yield [*value[:number], *value[number + 1 :]]
            for less in _less(value[number]):
                yield [*value[:number], less, *value[number + 1 :]]


def until(script: Script, at: float) -> Script:
    """A script that ends soon after a moment."""
    seconds = min(script.seconds, at + 60.0)
    return replace(script, seconds=seconds, events=tuple(each for each in script.events if each.at <= at))
