"""Writes a world's script from a seed: who does what, when, and what goes wrong."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from simulation.script import Event, Plan, Script, Setting

DAY: Final = 86_400.0
_BACKUP_SECONDS: Final = 1_500.0
"""How often the database is copied. A copy that another one follows, before one is put back, is left out."""
Step = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mix:
    """What a world is full of, where that is not left to its seed.

    Attributes:
        faults: the kinds of faults, by their names below, and how many happen `an_hour`.
        busy: how many sessions are prompted an hour.
        more: how much likelier than usual some of what people do is, by the name of the action.
        asks, hangs, children: how many calls ask a person, hang, or start a subagent, of one.
        setting: fields of the `Setting`.
    """

    faults: tuple[str, ...] = ()
    an_hour: float | None = None
    busy: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)
    asks: float | None = None
    hangs: float | None = None
    children: float | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)


ANY: Final = Mix()


def write(seed: int, days: float = 1.0, mix: Mix = ANY) -> Script:
    """The world of a seed."""
    return Writer(seed, days, mix).script()


class Writer:
    """Draws a world from its seed; what is drawn first does not change when something is added at the end."""

    def __init__(self, seed: int, days: float, mix: Mix) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - a world, no secret
        self.end = days * DAY
        self.more = mix.more
        self.setting = replace(self._setting(), **mix.setting)
        self.busy = self._drawn(mix.busy, [2.0, 6.0, 12.0])
        self.faulty = self._drawn(mix.an_hour, [0.0, 1.0, 4.0, 12.0])
        # Not everything in each world: what is rare beside everything else is common in some.
        self.steps = [self.rng.choice([0, 1, 4]) or 0.2 for _ in range(5)]
        self.asks, self.hangs, self.children = (
            self._drawn(each, [0.02, 0.1, 0.4]) for each in (mix.asks, mix.hangs, mix.children)
        )
        self.sessions: dict[str, float] = {}
        """When each was first prompted."""
        possible = _OF_REPLICAS if self.setting.replicas else _FAULTS.keys() - _OF_REPLICAS - _ASKED_FOR | _OF_ANY
        if not any(each.copy for each in self.setting.plans):
            possible = possible - {"pretend"}
        kinds = self.rng.sample(sorted(possible), k=self.rng.randint(3, len(possible)))
        self.kinds = [*mix.faults] or kinds

    def _drawn(self, given: float | None, of: Sequence[float]) -> float:
        drawn = self.rng.choice(of)
        return drawn if given is None else given

    def script(self) -> Script:
        """The world."""
        events = [*self._people(), *self._faults()]
        restores = [each.at for each in events if each.what == "restore" and each.at >= _BACKUP_SECONDS]
        events += [Event(at - at % _BACKUP_SECONDS, "backup") for at in restores]
        events += [Event(at, "tidy") for at in range(86_400, int(self.end), 86_400)]
        calm = Event(self.end, "calm")
        events = [each for each in sorted(events, key=_when) if each.at < calm.at]
        return Script(self.seed, self.end, self.setting, (*events, calm))

    # -- the setting -----------------------------------------------------------------------------------------------

    def _setting(self) -> Setting:
        rng = self.rng
        servers = rng.choice([1, 1, 1, 2])
        plans = [
            Plan(
                port=4096 + number,
                version=rng.choice(["1.18", "1.18", "1.15", "1.2.27"]),
                configured=rng.random() < 0.8,
            )
            for number in range(servers)
        ]
        if rng.random() < 0.3:
            plans.append(Plan(port=None))
        if rng.random() < 0.15:
            plans.append(Plan(port=None, remote=True))
        if rng.random() < 0.3:
            plans.append(Plan(port=4200, copy=True))
        return Setting(
            poll=rng.choice([5.0, 10.0, 20.0, 20.0, 30.0, 30.0, 60.0, 60.0]),
            tool_timeout=rng.choice([300.0, 600.0, 1_800.0]),
            task_timeout=rng.choice([1_200.0, 7_200.0]),
            idle_timeout=rng.choice([200.0, 300.0, 900.0]),
            human_timeout=rng.choice([None, None, 400.0, 1_500.0]),
            tool_timeouts=rng.choice([{}, {"slow": 7_200.0}, {"slow": 3_600.0, "read": 60.0}]),
            orphan_grace=rng.choice([10.0, 30.0, 60.0]),
            max_attempts=rng.choice([1, 3, 3]),
            max_concurrency=rng.choice([1, 8]),
            retention=rng.choice([1_200.0, 7_200.0, 604_800.0]),
            latency=rng.choice([0.002, 0.02, 0.2]),
            steady=rng.random() < 0.7,
            plans=tuple(plans),
        )

    # -- people ----------------------------------------------------------------------------------------------------

    def _times(self, an_hour: float) -> list[float]:
        """Moments at which something happens that happens so often."""
        times: list[float] = []
        at = self.rng.expovariate(an_hour / 3600) if an_hour else self.end
        while at < self.end:
            times.append(round(at, 3))
            at += self.rng.expovariate(an_hour / 3600)
        return times

    def _people(self) -> list[Event]:
        events: list[Event] = []
        for at in self._times(self.busy):
            events.extend(self._visit(at))
        return events

    def _visit(self, at: float) -> list[Event]:
        """A person comes, prompts, and may do more."""
        rng = self.rng
        if self.sessions and rng.random() < 0.4:
            session = rng.choice([*self.sessions][-8:])
        else:
            session = f"ses_{len(self.sessions):05d}"
            self.sessions[session] = at
        usable = [number for number, plan in enumerate(self.setting.plans) if not plan.copy]
        place = {"plan": rng.choice(usable), "directory": rng.choice(["/project", "/project", "/other"])}
        events = [Event(at, "prompt", {"session": session, **place, "steps": self._steps(0)})]
        more: Sequence[tuple[float, Callable[[], Event]]] = (
            (0.10, lambda: Event(self._after(at), "prompt", {"session": session, **place, "steps": self._steps(0)})),
            (0.06, lambda: Event(self._after(at), "user_abort", {"session": session, "steps": self._steps(1)})),
            (0.05, lambda: Event(self._after(at), "prompt_below", {"session": session, "steps": self._steps(1)})),
            (0.03, lambda: Event(self._after(at), "delete", {"session": session})),
            (0.06, lambda: Event(self._after(at), "hold", {"session": session, "seconds": self._long()})),
            (0.03, lambda: Event(self._after(at), "unhold", {"session": session})),
            (0.04, lambda: Event(self._after(at), "release", {"session": session, "below": rng.random() < 0.3})),
            (0.03, lambda: Event(self._after(at), "undo", {"back": rng.choice([0, 0, 0, 1, 3])})),
            (0.004, lambda: Event(self._after(at), "hold", {"session": "*", "seconds": self._long()})),
        )
        if any(plan.copy for plan in self.setting.plans) and rng.random() < 0.4:
            events.append(_pretend(self, self._after(at)))
        return events + [each for chance, make in more for each in self._maybe(chance, make)]

    def _maybe(self, chance: float, make: Callable[[], Event]) -> list[Event]:
        drawn, event = self.rng.random(), make()
        return [event] if drawn < chance * self.more.get(event.what, 1.0) else []

    def _after(self, at: float) -> float:
        return round(at + self.rng.choice([0.5, 30.0, 300.0, 1_500.0]) * self.rng.uniform(0.5, 2.0), 3)

    def _long(self) -> float:
        return round(self.rng.choice([60.0, 900.0, 7_200.0]) * self.rng.uniform(0.5, 2.0), 1)

    # -- work ------------------------------------------------------------------------------------------------------

    def _within(self, limit: float) -> float:
        """A healthy duration: well within a limit, and sometimes close to it."""
        return round(limit * self.rng.choice([self.rng.uniform(0.01, 0.2), self.rng.uniform(0.2, 0.9), 0.93]), 2)

    def _steps(self, depth: int) -> list[Step]:
        rng = self.rng
        steps = [self._step(depth) for _ in range(rng.randint(1, 4))]
        if rng.random() < self.hangs:
            steps.append(rng.choice([{"do": "hang"}, {"do": "calls", "calls": [self._hung_call()]}]))
        return steps

    def _step(self, depth: int) -> Step:
        rng, idle = self.rng, self.setting.idle_timeout
        kind = rng.choices(["text", "silent", "compact", "retry", "calls"], [*self.steps[:4], 4 + self.steps[4]])[0]
        if kind in {"text", "compact"}:
            gap = min(max(15.0, self._within(idle)), 90.0) if rng.random() < 0.8 else self._within(idle)
            return {"do": kind, "seconds": round(rng.uniform(5, 900), 2), "gap": gap}
        if kind == "silent":
            return {"do": "silent", "seconds": self._within(idle)}
        if kind == "retry":
            return {"do": "retry", "seconds": round(rng.choice([20.0, 300.0, 1_500.0]) * rng.uniform(0.5, 1.5), 1),
                    **({"forever": True} if rng.random() < 0.1 else {})}  # fmt: skip
        return {"do": "calls", "calls": [self._call(depth) for _ in range(rng.choice([1, 1, 1, 2, 3]))]}

    def _call(self, depth: int) -> Step:
        rng, setting = self.rng, self.setting
        if depth < 4 and rng.random() < self.children / (1 + depth):
            hangs = rng.random() < self.hangs / 2
            return {
                "tool": "task",
                "child": self._steps(depth + 1),
                "run": None if hangs else round(rng.uniform(0, 5), 2),
            }
        tool = rng.choice(["bash", "bash", "write", "slow", "slow", "webfetch", "question", "read"])
        call: Step = {"tool": tool}
        limit = setting.tool_timeouts.get(tool, setting.tool_timeout) or setting.tool_timeout
        if tool in {"bash", "webfetch"} and rng.random() < 0.3:
            call["timeout"] = round(rng.choice([60.0, 1_200.0, 7_200.0]) * rng.uniform(0.5, 1.5))
            limit = max(limit, call["timeout"] + 60.0)
        if call.get("timeout", 0) > 2 * setting.tool_timeout and rng.random() < 0.4:
            # Its arguments stream for longer than a call may run that declares nothing.
            return {**call, "pending": round(1.3 * setting.tool_timeout), "run": round(0.4 * call["timeout"])}
        pending = round(min(rng.expovariate(1 / 30), limit / 3), 2) if rng.random() < 0.3 else 0.0
        if tool == "question" or rng.random() < self.asks:
            call["ask"] = round(rng.choice([2.0, 30.0, 900.0, 2_000.0, 20_000.0]) * rng.uniform(0.5, 2.0), 1)
        call["run"] = None if rng.random() < self.hangs / 3 else max(0.0, self._within(limit) - pending)
        if rng.random() < 0.03:
            call["run"] = round(limit * rng.uniform(1.05, 2.0), 1)
        if pending:
            call["pending"] = pending
        if rng.random() < 0.1:
            call["late"] = round(rng.choice([0.2, 3.0, 60.0]) * rng.uniform(0.5, 2.0), 2)
        if rng.random() < 0.2:
            call["output"] = round(rng.uniform(5, 60), 1)
        return call

    def _hung_call(self) -> Step:
        call: Step = {"tool": self.rng.choice(["bash", "slow", "write", "webfetch"]), "run": None}
        if self.rng.random() < 0.15:
            call["pending"] = "forever"
        if self.rng.random() < 0.2:
            call["late"] = round(self.rng.choice([0.2, 3.0, 60.0]) * self.rng.uniform(0.5, 2.0), 2)
        return call

    # -- faults ----------------------------------------------------------------------------------------------------

    def _faults(self) -> list[Event]:
        return [_FAULTS[self.rng.choice(self.kinds)](self, at) for at in self._times(self.faulty)]

    def plan(self) -> int:
        """One of the processes."""
        return self.rng.randrange(len(self.setting.plans))

    def lately(self, at: float) -> str:
        """A session that was prompted for the first time not long before."""
        return self.rng.choice([id_ for id_, since in self.sessions.items() if since <= at][-3:] or ["ses_00000"])

    def short(self) -> float:
        """How long something is wrong: seconds mostly, and minutes at times."""
        return round(self.rng.choice([1.0, 8.0, 45.0, 400.0]) * self.rng.uniform(0.5, 2.0), 2)


def _when(event: Event) -> float:
    return event.at


def _sleep(writer: Writer, at: float) -> Event:
    return Event(at, "sleep", {"seconds": writer.rng.choice([5.0, 540.0, 30_000.0])})


def _step(writer: Writer, at: float) -> Event:
    return Event(at, "step", {"seconds": writer.rng.choice([-3_600.0, -30.0, 0.4, 2.0, 600.0, 7_200.0])})


def _wedge(writer: Writer, at: float) -> Event:
    how = writer.rng.choice(["silent", "broken", "garbage", "deaf", "deaf"])
    return Event(
        at, "wedge", {"plan": writer.plan(), "how": how, "seconds": writer.short() * writer.rng.choice([1, 20])}
    )


def _deaf(writer: Writer, at: float) -> Event:
    """A server that takes aborts and does nothing, for longer than all attempts take."""
    seconds = round(writer.rng.choice([1_200.0, 4_800.0]) * writer.rng.uniform(0.5, 2.0), 1)
    return Event(at, "wedge", {"plan": writer.plan(), "how": "deaf", "seconds": seconds})


def _feed(writer: Writer, at: float) -> Event:
    how = writer.rng.choice(["cut", "cut", "held"])
    seconds = round(writer.short() * writer.rng.choice([1, 3]), 2)
    return Event(at, "feed", {"plan": writer.plan(), "how": how, "seconds": seconds})


def _folder(writer: Writer, at: float) -> Event:
    where = writer.rng.choice(["/project", "/other"])
    return Event(at, "bad_folder", {"plan": writer.plan(), "directory": where, "seconds": writer.short()})


def _pretend(writer: Writer, at: float) -> Event:
    copies = [number for number, plan in enumerate(writer.setting.plans) if plan.copy] or [0]
    busy = writer.rng.random() < 0.7
    return Event(at, "pretend", {"plan": copies[0], "session": writer.lately(at), "busy": busy})


def _damage(writer: Writer, at: float) -> Event:
    seconds = writer.short() * writer.rng.choice([1, 10])
    table, how = writer.rng.choice(["message", "part", "part"]), writer.rng.randrange(4)
    return Event(at, "damage", {"session": writer.lately(at), "table": table, "how": how, "seconds": seconds})


def _other_journal(writer: Writer, at: float) -> Event:
    how = writer.rng.choice(["first", "later", "none"])
    return Event(at, "other_journal", {"how": how, "down": writer.short()})


def _replica(writer: Writer, at: float) -> Event:
    rng = writer.rng
    how, amid = rng.choice(["stop", "doze", "cut", "clock", "kill"]), rng.random() < 0.5
    which = -1 if amid else rng.choice([-1, 0, 1, 2])
    return Event(at, "replica", {"which": which, "how": how, "seconds": writer.short(), "amid": amid})


_FAULTS: Final[dict[str, Callable[[Writer, float], Event]]] = {
    "crash": lambda writer, at: Event(at, "crash", {"plan": writer.plan(), "down": writer.short()}),
    "wedge": _wedge,
    "deaf": _deaf,
    "bad_folder": _folder,
    "feed": _feed,
    "sleep": _sleep,
    "step": _step,
    "reboot": lambda writer, at: Event(at, "reboot", {"down": 5.0 + writer.short()}),
    "freeze": lambda writer, at: Event(at, "freeze", {"seconds": writer.short()}),
    "kill": lambda writer, at: Event(at, "kill", {"down": writer.short()}),
    "second": lambda writer, at: Event(at, "second", {"seconds": writer.short()}),
    "lock": lambda writer, at: Event(at, "lock", {"seconds": writer.short()}),
    "lock_journal": lambda writer, at: Event(at, "lock_journal", {"seconds": writer.short()}),
    "pretend": _pretend,
    "restore": lambda writer, at: Event(at, "restore", {"seconds": writer.short()}),
    "damage": _damage,
    "other_journal": _other_journal,
    "replica": _replica,
    "database_clock": lambda writer, at: Event(
        at, "database_clock", {"seconds": writer.rng.choice([-600.0, -3.0, 5.0])}
    ),
}
_OF_ANY: Final = frozenset({"crash", "wedge", "bad_folder", "feed", "lock", "lock_journal"})
_ASKED_FOR: Final = frozenset({"deaf"})
"""What happens only where a `Mix` wants it: other worlds have as much of it among their `wedge`."""
_OF_REPLICAS: Final = _OF_ANY | {"replica", "database_clock"}
FAULTS: Final = frozenset(_FAULTS)
