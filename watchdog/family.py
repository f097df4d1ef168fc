"""Who waits on whom: parents, children and asks in one observation. Broken and cyclic trees are walked once."""

from collections import defaultdict
from collections.abc import Iterator

from watchdog.model import Ask, Observation, Session, SessionId, ToolCall
from watchdog.proof import claims, stands

TASK = "task"


class Family:
    """The sessions of an observation as a forest, with the asks that wait for a human."""

    def __init__(self, observation: Observation) -> None:
        by_age = sorted(observation.snapshot.sessions.values(), key=lambda each: (each.created_ms, each.id))
        self._sessions = {session.id: session for session in by_age}
        self._children: dict[SessionId, list[Session]] = defaultdict(list)
        for session in by_age:
            if session.parent_id is not None and session.parent_id != session.id:
                self._children[session.parent_id].append(session)
        self._damaged = {damage.session_id for damage in observation.snapshot.damaged}
        self._busy = {
            session.id
            for session in self._sessions.values()
            if any(claims(report, session) for report in observation.reports)
        }
        self._asks: dict[SessionId, list[Ask]] = defaultdict(list)
        for report in observation.reports:
            for asks in report.asks.values():
                for ask in asks:
                    asking = self._sessions.get(ask.session_id)
                    if asking is not None and stands(ask, asking):
                        self._asks[asking.id].append(ask)

    def damaged(self, session: Session) -> bool:
        """Whether a row of the session can't be read, so that it may hold more than it shows."""
        return session.id in self._damaged

    def unfinished(self, session: Session) -> bool:
        """Whether something is open in it, or a server is at work on it."""
        return session.has_open_rows or session.id in self._busy

    def deepest_first(self) -> list[Session]:
        """Every unfinished session, each after all that are below it (in a cycle: in some fixed order)."""
        order: list[Session] = []
        seen: set[SessionId] = set()
        for root in sorted(self._sessions.values(), key=lambda each: (self._depth(each), each.created_ms, each.id)):
            stack: list[tuple[Session, bool]] = [(root, False)]
            while stack:
                session, expanded = stack.pop()
                if expanded:
                    order.append(session)
                elif session.id not in seen:
                    seen.add(session.id)
                    stack.append((session, True))
                    stack.extend((child, False) for child in reversed(self._linked(session)))
        return [session for session in order if self.unfinished(session)]

    def below(self, session: Session) -> frozenset[SessionId]:
        """All sessions below this one, at any depth."""
        return frozenset(child.id for child in self._walk(self._linked(session)) if child.id != session.id)

    def child_of(self, session: Session, call: ToolCall) -> Session | None:
        """The child session that a task call started, finished or not; the newest if there are several."""
        candidates = self._candidates(session, call)
        return candidates[-1] if candidates else None

    def unfinished_child_of(self, session: Session, call: ToolCall) -> SessionId | None:
        """The session that a task call waits on: its child, while that or anything below it is unfinished.

        An ask alone keeps it waiting, too: who asks may be at work where no server says so.
        """
        for child in self._candidates(session, call):
            if any(self._matters(each) for each in self._walk([child])):
                return child.id
        return None

    def unfinished_below(self, session: Session) -> SessionId | None:
        """An unfinished session below this one that its current turn may have started.

        Below a child of an earlier turn only what is at work or asks a person counts: the rest was left behind.
        """
        began = min([turn.created_ms for turn in session.turns if not turn.superseded], default=session.created_ms)
        named = {call.child_id for call in session.calls if call.child_id}
        for child in self._linked(session):
            earlier = child.created_ms < began and child.id not in named
            for each in self._walk([child]):
                counts = self._at_work(each) if earlier else self._matters(each)
                if each.id != session.id and counts:
                    return each.id
        return None

    def tasks_above(self, session: Session) -> Iterator[tuple[Session, ToolCall]]:
        """The open task calls above a session that wait on it, the nearest first."""
        seen = {session.id}
        lower = session
        while True:
            found = self._task_over(lower)
            if found is None or found[0].id in seen:
                return
            yield found
            lower = found[0]
            seen.add(lower.id)

    def asks_for(self, session: Session, call: ToolCall) -> bool:
        """Whether a human is asked for this call. An ask that names no open call counts for every call."""
        for ask in self._asks[session.id]:
            named = [each.id for each in session.calls if names(ask, each)]
            if call.id in named or not named:
                return True
        return False

    def asks_at(self, session: Session) -> tuple[Ask, ...]:
        """The asks of a session that a human may still answer."""
        return tuple(self._asks[session.id])

    def human_at(self, session: Session) -> bool:
        """Whether a human is asked for anything in this session."""
        return bool(self._asks[session.id])

    def human_below(self, child_id: SessionId) -> bool:
        """Whether a human is asked for anything in this session or below it."""
        child = self._sessions.get(child_id)
        return child is not None and any(self._asks[each.id] for each in self._walk([child]))

    def _at_work(self, session: Session) -> bool:
        return session.id in self._busy or bool(self._asks[session.id])

    def _matters(self, session: Session) -> bool:
        return self.unfinished(session) or self._at_work(session)

    def _task_over(self, session: Session) -> tuple[Session, ToolCall] | None:
        for parent in self._sessions.values():
            superseded = {turn.id for turn in parent.turns if turn.superseded}
            for call in parent.calls:
                waits = call.turn_id not in superseded and any(
                    child.id == session.id for child in self._candidates(parent, call)
                )
                if waits and parent.id != session.id:
                    return parent, call
        return None

    def _candidates(self, session: Session, call: ToolCall) -> list[Session]:
        """The sessions that a task call may have started."""
        if call.tool != TASK:
            return []
        if call.child_id is not None:
            child = self._sessions.get(call.child_id)
            return [child] if child is not None and child.id != session.id else []
        return [child for child in self._children[session.id] if child.created_ms >= call.created_ms]

    def _linked(self, session: Session) -> list[Session]:
        """The children of a session, by the database's word and by that of its open task calls."""
        named = [self._sessions.get(call.child_id) for call in session.calls if call.child_id is not None]
        children = [*self._children[session.id], *(child for child in named if child is not None)]
        return list({child.id: child for child in children}.values())

    def _walk(self, roots: list[Session]) -> Iterator[Session]:
        """The sessions and all below them, each once."""
        seen: set[SessionId] = set()
        stack = list(reversed(roots))
        while stack:
            session = stack.pop()
            if session.id not in seen:
                seen.add(session.id)
                yield session
                stack.extend(reversed(self._linked(session)))

    def _depth(self, session: Session) -> int:
        """How many sessions are above it; in a cycle, how many until it repeats."""
        seen: set[SessionId] = set()
        current: Session | None = session
        while current is not None and current.id not in seen:
            seen.add(current.id)
            current = self._sessions.get(current.parent_id) if current.parent_id is not None else None
        return len(seen)


def names(ask: Ask, call: ToolCall) -> bool:
    """Whether an ask names a call."""
    if ask.call_ref is not None:
        return ask.call_ref == call.call_ref and ask.turn_id in (None, call.turn_id)
    return ask.turn_id is not None and ask.turn_id == call.turn_id
