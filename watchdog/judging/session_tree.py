"""Who waits on whom: parents, children and asks in one observation. Broken and cyclic trees are walked once."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from operator import attrgetter
from typing import Self

from watchdog.judging.gradual import Gradual, at_once
from watchdog.judging.orphan_proof import standing
from watchdog.model.report import Observation
from watchdog.model.session import TASK, Activity, Ask, CallId, Session, SessionId, ToolCall, TurnId


class Family:
    """The sessions of an observation as a forest, with the asks that wait for a human."""

    def __init__(self, observation: Observation) -> None:
        at_once(self._gather(observation))

    @classmethod
    def gradually(cls, observation: Observation) -> Gradual[Self]:
        """The same, session by session."""
        self = cls.__new__(cls)
        yield from self._gather(observation)
        return self

    def _gather(self, observation: Observation) -> Gradual[None]:
        by_id = sorted(observation.snapshot.sessions.values(), key=attrgetter("id"))
        by_age = sorted(by_id, key=attrgetter("created_ms"))
        self._sessions = {session.id: session for session in by_age}
        self._children: dict[SessionId, list[Session]] = defaultdict(list)
        naming: list[Session] = []
        for session in by_age:
            yield
            if session.parent_id is not None and session.parent_id != session.id:
                self._children[session.parent_id].append(session)
            for call in session.calls:
                if call.child_id is not None:
                    naming.append(session)
                    break
        self._links = self._all_links(naming)
        self._reports = observation.reports
        self._damaged = {damage.session_id for damage in observation.snapshot.damaged}
        self._busy = {id_ for report in observation.reports for id_ in report.said}
        self._asks: dict[SessionId, list[Ask]] = {}
        for report in observation.reports:
            for id_, asks in report.asked.items():
                yield
                if id_ in self._sessions and (left := standing(asks, self._sessions[id_])):
                    self._asks.setdefault(id_, []).extend(left)
        self._asked: dict[SessionId, frozenset[CallId] | None] = {}
        self._waited_for: dict[SessionId, list[Session]] = {}
        self._parents: dict[SessionId, list[SessionId]] = {}
        self._task_over: dict[SessionId, tuple[Session, ToolCall]] = {}
        self._mattering: AbstractSet[SessionId] = frozenset()
        self._working: AbstractSet[SessionId] = frozenset()
        if self._links:
            yield from self._look_upward()

    def _look_upward(self) -> Gradual[None]:
        """Find out who is above whom, and collect the facts about everything below a session."""
        for id_, children in self._links.items():
            yield
            for child in children:
                self._parents.setdefault(child.id, []).append(id_)
        for parent in self._sessions.values():
            yield
            if parent.id in self._links:
                self._note_task_over(parent)
        mattering = (id_ for id_, each in self._sessions.items() if self._matters(each))
        self._mattering = (yield from self._upward(mattering)).keys()
        self._working = (yield from self._upward([*self._busy, *self._asks])).keys()

    def _all_links(self, naming: list[Session]) -> dict[SessionId, list[Session]]:
        """The children of each session that has any, from the rows and from its open task calls."""
        links = {id_: list(children) for id_, children in self._children.items() if id_ in self._sessions}
        for session in naming:
            named = [self._sessions.get(call.child_id) for call in session.calls if call.child_id is not None]
            children = [*links.get(session.id, ()), *(child for child in named if child is not None)]
            links[session.id] = list({child.id: child for child in children}.values())
        return links

    def damaged(self, session: Session) -> bool:
        """Whether a row of the session can't be read, so it may hold more than it shows."""
        return session.id in self._damaged

    def unfinished(self, session: Session) -> bool:
        """Whether something is open in it, or a server is at work on it."""
        return session.has_open_rows or session.id in self._busy

    def deepest_first(self) -> Iterator[Session]:
        """Every unfinished session, each after all that are below it (in a cycle: in some fixed order)."""
        for session in self._deepest_first():
            if session.calls or self.unfinished(session):
                yield session

    def _deepest_first(self) -> Iterator[Session]:
        depths = self._depths()
        roots = sorted(self._sessions.values(), key=lambda each: depths.get(each.id, 1)) if depths else None
        seen: set[SessionId] = set()
        for root in roots or self._sessions.values():
            if root.id not in self._links:
                if root.id not in seen:
                    seen.add(root.id)
                    yield root
                continue
            stack: list[tuple[Session, bool]] = [(root, False)]
            while stack:
                session, expanded = stack.pop()
                if expanded:
                    yield session
                elif session.id not in seen:
                    seen.add(session.id)
                    stack.append((session, True))
                    stack.extend((child, False) for child in reversed(self._linked(session)))

    def below(self, session: Session) -> frozenset[SessionId]:
        """All sessions below this one, at any depth."""
        return frozenset(child.id for child in self._walk(self._linked(session)) if child.id != session.id)

    def child_of(self, session: Session, call: ToolCall) -> Session | None:
        """The child session that a task call started, finished or not; the newest if there are several."""
        if call.tool != TASK:
            return None
        if call.child_id is not None:
            return self._named(session, call.child_id)
        children = self._children.get(session.id)
        return children[-1] if children and children[-1].created_ms >= call.created_ms else None

    def unfinished_child_of(self, session: Session, call: ToolCall) -> SessionId | None:
        """The session that a task call waits on: its child, while that or anything below it is unfinished.

        An ask alone keeps it waiting, too: the session that asks may be at work although no server says so.
        """
        if call.tool != TASK:
            return None
        if call.child_id is not None:
            child = self._named(session, call.child_id)
            return child.id if child is not None and child.id in self._mattering else None
        waiting = self._waited_for.get(session.id)
        if waiting is None:
            children = self._children.get(session.id, ())
            waiting = self._waited_for[session.id] = [child for child in children if child.id in self._mattering]
        first = bisect_left(waiting, call.created_ms, key=_created)
        return waiting[first].id if first < len(waiting) else None

    def unfinished_child_of_deleted(self, session_id: SessionId) -> SessionId | None:
        """A child of a session that was deleted while it ran, if that or anything below it is unfinished.

        A session that runs on after its deletion may start children, which name it as their parent.
        """
        for child in self._children.get(session_id, ()):
            if any(self._matters(each) for each in self._walk([child])):
                return child.id
        return None

    def unfinished_below(self, session: Session) -> SessionId | None:
        """An unfinished session below this one that its current turn may have started.

        Below a child of an earlier turn only a session that is at work or asks a person counts: the rest was left
        behind.
        """
        children = self._links.get(session.id)
        if not children:
            return None
        began = _began(session)
        named = {call.child_id for call in session.calls if call.child_id}
        for child in children:
            earlier = child.created_ms < began and child.id not in named
            counts, within = (self._at_work, self._working) if earlier else (self._matters, self._mattering)
            for each in self._walk([child], within):
                if each.id != session.id and counts(each):
                    return each.id
        return None

    def prompted_below(self, session: Session) -> SessionId | None:
        """A session below this one with a prompt of this turn's time that has no answer."""
        if session.id not in self._links:
            return None
        began = _began(session)
        for each in self._walk(self._linked(session)):
            if each.id != session.id and self.waits_for_answer(each) and each.last_life_ms >= began:
                return each.id
        return None

    def waited_for_below(self, session: Session) -> AbstractSet[SessionId]:
        """The sessions that open task calls of this one wait for, and those that these wait for, at any depth."""
        found: set[SessionId] = set()
        todo = [session]
        while todo:
            above = todo.pop()
            for call in above.calls:
                child = self.child_of(above, call)
                if child is not None and child.id not in found:
                    found.add(child.id)
                    todo.append(child)
        return found

    def at_work(self, session: Session) -> bool:
        """Whether a server is at work on the session."""
        return session.id in self._busy

    def waits_for_answer(self, session: Session) -> bool:
        """Whether a prompt of the session has no answer, and none has begun."""
        return session.queued_prompts > 0

    def alone(self, session: Session) -> bool:
        """Whether nobody waits on the session, it has no child, and no human is asked for anything in it."""
        id_ = session.id
        return id_ not in self._links and id_ not in self._asks and id_ not in self._task_over

    def has_task_above(self, session: Session) -> bool:
        """Whether an open task call of another session may wait on it."""
        return session.id in self._task_over

    def tasks_above(self, session: Session) -> Iterator[tuple[Session, ToolCall]]:
        """The open task calls above a session that wait on it, the nearest first."""
        seen = {session.id}
        found = self._task_over.get(session.id)
        while found is not None and found[0].id not in seen:
            yield found
            seen.add(found[0].id)
            found = self._task_over.get(found[0].id)

    def asks_for(self, session: Session, call: ToolCall) -> bool:
        """Whether a human is asked about this call. An ask that names no open call counts for every call."""
        if session.id not in self._asks:
            return False
        if session.id not in self._asked:
            self._asked[session.id] = _asked_calls(self._asks[session.id], session)
        asked = self._asked[session.id]
        return asked is None or call.id in asked

    def asks_at(self, session: Session) -> tuple[Ask, ...]:
        """The asks of a session that a human may still answer."""
        return tuple(self._asks.get(session.id, ()))

    def human_at(self, session: Session) -> bool:
        """Whether a human is asked for anything in this session."""
        return session.id in self._asks

    def human_below(self, child_id: SessionId) -> bool:
        """Whether a human is asked for anything in this session or below it."""
        return child_id in self._sessions and child_id in self._asking

    def retry_below(self, child_id: SessionId) -> bool:
        """Whether this session or one below it waits to try its provider again."""
        return child_id in self._retrying

    def first_upward(self, ids: Iterable[SessionId]) -> Mapping[SessionId, SessionId]:
        """For each session that is one of these or above one: the first of them in the given order."""
        return at_once(self._upward(ids))

    def _upward(self, ids: Iterable[SessionId]) -> Gradual[Mapping[SessionId, SessionId]]:
        first: dict[SessionId, SessionId] = {}
        for id_ in ids:
            yield
            todo = [id_]
            while todo:
                reached = todo.pop()
                if reached not in first:
                    first[reached] = id_
                    todo.extend(self.directly_above(reached))
        return first

    def directly_above(self, id_: SessionId) -> Sequence[SessionId]:
        """The sessions that have this one as a child."""
        return self._parents.get(id_, ())

    def _at_work(self, session: Session) -> bool:
        return session.id in self._busy or session.id in self._asks

    def _matters(self, session: Session) -> bool:
        return self.unfinished(session) or self._at_work(session)

    @cached_property
    def _asking(self) -> AbstractSet[SessionId]:
        """The sessions that ask a person, and every session above them."""
        return self.first_upward(self._asks).keys()

    @cached_property
    def _retrying(self) -> AbstractSet[SessionId]:
        """The sessions that wait to try their provider again, and every session above them."""
        retrying = (
            id_
            for report in self._reports
            for id_, said in report.said.items()
            if any(status.activity is Activity.RETRY for status in said)
        )
        return self.first_upward(retrying).keys()

    def _note_task_over(self, parent: Session) -> None:
        """Note for each session the open task call that may have started it: of the oldest parent, the first."""
        superseded = {turn.id for turn in parent.turns if turn.superseded}
        calls = [call for call in parent.calls if call.tool == TASK and call.turn_id not in superseded]
        children = self._children.get(parent.id, [])
        unnamed = len(children)  # from here on, an earlier call may have started them
        for call in calls:
            if call.child_id is None:
                first = bisect_left(children, call.created_ms, hi=unnamed, key=_created)
                started, unnamed = children[first:unnamed], first
            else:
                child = self._named(parent, call.child_id)
                started = [child] if child is not None else []
            for each in started:
                self._task_over.setdefault(each.id, (parent, call))

    def _named(self, session: Session, child_id: SessionId) -> Session | None:
        return self._sessions.get(child_id) if child_id != session.id else None

    def _linked(self, session: Session) -> Sequence[Session]:
        """The children of a session, from the rows and from its open task calls."""
        return self._links.get(session.id, ())

    def _walk(self, roots: Iterable[Session], within: Container[SessionId] | None = None) -> Iterator[Session]:
        """The sessions and all below them, each once; `within` leaves out all others."""
        seen: set[SessionId] = set()
        stack = [*roots][::-1]
        while stack:
            session = stack.pop()
            if session.id not in seen and (within is None or session.id in within):
                seen.add(session.id)
                yield session
                stack.extend(reversed(self._linked(session)))

    def _depths(self) -> Mapping[SessionId, int]:
        """How many sessions are on the way up from each one with a parent, itself included; a cycle counts once."""
        depths: dict[SessionId, int] = {}
        for children in self._children.values():
            for session in children:
                path: dict[SessionId, int] = {}
                current: Session | None = session
                while current is not None and current.id not in path and current.id not in depths:
                    path[current.id] = len(path)
                    current = self._sessions.get(current.parent_id) if current.parent_id is not None else None
                cycle = path.get(current.id, len(path)) if current is not None else len(path)
                above = depths.get(current.id, 0) if current is not None else 0
                depths |= {id_: len(path) - min(index, cycle) + above for id_, index in path.items()}
        return depths


class Ended:
    """The sessions that are to be ended, as those above them see it."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._first_two: dict[SessionId, list[SessionId]] = {}
        """For each session that is ended or has an ended one below it, the first two: one of them may be itself."""

    def add(self, ended: SessionId) -> None:
        """Note a session that is to be ended."""
        todo = [ended]
        while todo:
            id_ = todo.pop()
            known = self._first_two.setdefault(id_, [])
            if len(known) < 2 and ended not in known:  # noqa: PLR2004 - whoever is above these knows two, too
                known.append(ended)
                todo.extend(self._family.directly_above(id_))

    def first_below(self, session: Session) -> SessionId | None:
        """The session below this one that was noted first."""
        return next((id_ for id_ in self._first_two.get(session.id, ()) if id_ != session.id), None)


def _began(session: Session) -> int:
    """When the current turn of a session began, as its row tells."""
    return min([turn.created_ms for turn in session.turns if not turn.superseded], default=session.created_ms)


def _created(session: Session) -> int:
    return session.created_ms


def _asked_calls(asks: Iterable[Ask], session: Session) -> frozenset[CallId] | None:
    """The open calls that the asks of a session name; None if one of these names no open call."""
    by_ref: dict[str | None, list[ToolCall]] = defaultdict(list)
    by_turn: dict[TurnId | None, list[ToolCall]] = defaultdict(list)
    for call in session.calls:
        by_ref[call.call_ref].append(call)
        by_turn[call.turn_id].append(call)
    asked: set[CallId] = set()
    for ask in {(ask.turn_id, ask.call_ref): ask for ask in asks}.values():
        near = by_turn[ask.turn_id] if ask.call_ref is None else by_ref[ask.call_ref]
        named = [call.id for call in near if names(ask, call)]
        if not named:
            return None
        asked.update(named)
    return frozenset(asked)


def names(ask: Ask, call: ToolCall) -> bool:
    """Whether an ask names a call."""
    if ask.call_ref is not None:
        return ask.call_ref == call.call_ref and ask.turn_id in (None, call.turn_id)
    return ask.turn_id is not None and ask.turn_id == call.turn_id
