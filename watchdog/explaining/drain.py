"""What would be lost if the servers were restarted now. Pure.

A server keeps three things in its memory alone: what it is at work on, what it asks people, and the prompts that wait
behind a turn. What nobody executes is lost already, and what another process is at work on is not lost by that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from watchdog.judging.orphan_proof import standing
from watchdog.model.report import Holders, Observation, ServerReport
from watchdog.model.session import EVERYTHING, Ask, ServerName, Session, SessionId, ToolCall
from watchdog.model.verdict import Judgement
from watchdog.shown import Telling


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss(Telling):
    """What a session would lose.

    Attributes:
        certain: a server says so; otherwise nobody can say who is at work on it.
        servers: those that are at work on it, or ask for it.
        calls: its open calls.
        asks: what waits for a person.
        queued_prompts: how many prompts wait behind its turn.
        why: a clause for people.
    """

    told = ("why",)

    session_id: SessionId
    certain: bool
    why: str
    servers: tuple[ServerName, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    asks: tuple[Ask, ...] = ()
    queued_prompts: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Drain:
    """What would be lost, and what can't be told.

    Attributes:
        problems: why something may be lost that is not among the losses, a sentence each.
    """

    at_ms: int
    losses: tuple[Loss, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether nothing would be lost, as far as everybody who would know has answered."""
        return not self.losses and not self.problems


def drain(observation: Observation, judgement: Judgement, holders: Holders) -> Drain:
    """What would be lost if the servers were restarted at this look.

    Args:
        holders: who has the database open: if provably nobody, only what a server says of itself can be lost.
    """
    serving = [each for each in observation.reports if each.not_shown is None]
    problems = [each.trouble for each in serving if each.trouble is not None]
    if beyond := observation.snapshot.second_generation:
        problems.append(f"{_many(beyond, 'session')} of opencode 2.x may be at work, which are not watched.")
    problems += [
        f"{damage.table} {damage.id} of session {damage.session_id} can't be read: {damage.problem}."
        for damage in observation.snapshot.damaged
    ]
    found = [_loss(observation, judgement, serving, id_) for id_ in _sessions(observation, serving)]
    losses = tuple(filter(None, found))
    if holders.complete and not holders.known:
        return Drain(at_ms=observation.at_ms, losses=tuple(each for each in losses if each.certain))
    return Drain(at_ms=observation.at_ms, losses=losses, problems=tuple(problems))


def _sessions(observation: Observation, serving: Sequence[ServerReport]) -> Iterator[SessionId]:
    found = {id_: None for id_, each in observation.snapshot.sessions.items() if each.has_open_rows}
    for report in serving:
        found.update(dict.fromkeys([*report.said, *report.asked]))
    found.pop(EVERYTHING, None)
    yield from found


def _loss(
    observation: Observation, judgement: Judgement, serving: Sequence[ServerReport], id_: SessionId
) -> Loss | None:
    session = observation.snapshot.sessions.get(id_)
    asks = tuple(ask for report in serving for ask in _asks(report, id_, session))
    at_work = tuple(each.name for each in serving if id_ in each.said or any(_asks(each, id_, session)))
    calls = session.calls if session is not None else ()
    if at_work:
        queued = session.queued_prompts if session is not None else 0
        why = f"{' and '.join(at_work)} is at work on it{_details(calls, asks, queued)}"
        return Loss(
            session_id=id_, certain=True, why=why, servers=at_work, calls=calls, asks=asks, queued_prompts=queued
        )
    if (
        session is None
        or not session.has_open_rows
        or _is_elsewhere(session, serving)
        or _nobodys(session, judgement)
    ):
        return None
    why = f"nobody can say who is at work on it{_details(calls, (), session.queued_prompts)}"
    return Loss(session_id=id_, certain=False, why=why, calls=calls, queued_prompts=session.queued_prompts)


def _asks(report: ServerReport, id_: SessionId, session: Session | None) -> Sequence[Ask]:
    """What a server asks for a session: it goes on listing the asks of work that was aborted."""
    asks = report.asked.get(id_, ())
    return asks if session is None else standing(asks, session)


def _is_elsewhere(session: Session, serving: Sequence[ServerReport]) -> bool:
    """Whether every server says that it is not at work on a session: then another process is."""
    return bool(serving) and all(
        each.vouches and each.against(session) is None and each.serves(session.id) for each in serving
    )


def _nobodys(session: Session, judgement: Judgement) -> bool:
    """Whether provably nobody executes what is open in a session: that is lost already."""
    rows = {call.id for call in session.calls} | {turn.id for turn in session.turns if turn.open}
    return rows <= judgement.unclaimed


def _details(calls: Sequence[ToolCall], asks: Sequence[Ask], queued: int) -> str:
    said = [
        *(
            [f"{_many(len(calls), 'open call')} ({', '.join(sorted({call.tool for call in calls}))})"]
            if calls
            else []
        ),
        *([f"{_many(len(asks), 'ask')} for a person"] if asks else []),
        *([_many(queued, "queued prompt")] if queued else []),
    ]
    return f": {', '.join(said)}" if said else ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
