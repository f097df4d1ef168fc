"""The judge's word on one session: whether a verdict is passed again, what a release amounts to, what lives below.

An act goes by this and by nothing else: there is no second copy of the rules.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from watchdog.judging import verdicts
from watchdog.judging.facts import Case
from watchdog.judging.orphan_proof import deleted_at_work, unclaimed
from watchdog.model.moments import NEVER
from watchdog.model.policy import Policy
from watchdog.model.report import Observation
from watchdog.model.session import EVERYTHING, Session, SessionId
from watchdog.model.verdict import Judgement, SpareReason, Verdict, VerdictKind

_NOT_NOW: Final = {SpareReason.ON_HOLD, SpareReason.FIRST_LOOK, SpareReason.COOLING_DOWN, SpareReason.GIVEN_UP}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """Why a verdict is no longer passed: a clause for people."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Living:
    """A session below another one that shows life.

    Attributes:
        why: a clause for people.
        of_its_own: it does more than a task call above it waits for: a person is involved.
    """

    session_id: SessionId
    why: str
    of_its_own: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Consent:
    """What the person who asked for a release agreed to.

    Attributes:
        below: the sessions below it that may end with it although they have a life of their own; None for all.
        ends_hold: a person who says "end it" no longer says "leave it".
    """

    below: frozenset[SessionId] | None = frozenset()
    ends_hold: bool = True

    def covers(self, session_id: SessionId) -> bool:
        """Whether a session below may end, too."""
        return self.below is None or session_id in self.below


def again(
    observation: Observation, judgement: Judgement, policy: Policy, verdict: Verdict, consent: Consent
) -> Verdict | Dropped:
    """The verdict as the judge passes it again on a later look, or why it no longer does.

    Args:
        observation: the later look.
        judgement: the judgement of that look.
        verdict: what was judged before.
        consent: what the person who asked for it agreed to, if a person did.
    """
    session = observation.snapshot.sessions.get(verdict.cancel_session_id)
    if session is None:
        return _deleted_again(observation, judgement, verdict)
    if session.newest_prompt_id != verdict.newest_prompt_id:
        return Dropped(why="a person has prompted since")
    still_open = open_rows(session)
    if verdict.row_ids and not verdict.row_ids & still_open:
        return Dropped(why="it ended by itself")
    if not verdict.released and not still_open.issuperset(verdict.call_ids):
        return Dropped(why="the call ended by itself")
    passed = (
        _released_again(observation, policy, session, consent)
        if verdict.released
        else _passed_again(judgement, verdict)
    )
    if verdict.kind is VerdictKind.ORPHAN and (isinstance(passed, Dropped) or passed.kind is not verdict.kind):
        return Dropped(why=_no_orphan(observation, judgement, policy, session))
    if isinstance(passed, Dropped):
        return passed
    return passed if _same(verdict, passed) else Dropped(why=_difference(verdict, passed))


def _deleted_again(observation: Observation, judgement: Judgement, verdict: Verdict) -> Verdict | Dropped:
    """The same for a session that is in no table: it has no rows, and so is no orphan."""
    runs_on = runs_deleted(observation, verdict.cancel_session_id)
    if verdict.row_ids or verdict.kind is VerdictKind.ORPHAN or not runs_on:
        return Dropped(why="the session is gone")
    passed = verdict if verdict.released else _passed_again(judgement, verdict)
    if isinstance(passed, Dropped) or _same(verdict, passed):
        return passed
    return Dropped(why=_difference(verdict, passed))


def open_rows(session: Session) -> frozenset[str]:
    """The ids of the open calls and turns of a session."""
    return frozenset([*(call.id for call in session.calls), *(turn.id for turn in session.turns if turn.open)])


def _passed_again(judgement: Judgement, verdict: Verdict) -> Verdict | Dropped:
    found = [each for each in judgement.verdicts if each.cancel_session_id == verdict.cancel_session_id]
    of_its_kind = [each for each in found if each.kind is verdict.kind]
    if found:
        return next((each for each in of_its_kind if _same(verdict, each)), (of_its_kind or found)[0])
    about = {verdict.cancel_session_id, verdict.session_id}
    spared = [each for each in judgement.spared if each.session_id in about]
    return Dropped(why="; ".join(dict.fromkeys(each.why for each in spared)) or "nothing is at work on it any more")


def _same(verdict: Verdict, now: Verdict) -> bool:
    """Whether it is the same verdict: of the same kind, on the same rows and the same ask, and as sure."""
    if not now.confirmed or (verdict.session_id, _ask_id(verdict)) != (now.session_id, _ask_id(now)):
        return False
    if verdict.released and VerdictKind.ORPHAN not in {verdict.kind, now.kind}:
        return not verdict.row_ids or bool(verdict.row_ids & now.row_ids)  # whatever is open in it
    if verdict.kind is not now.kind or _showed_life(verdict, now):
        return False
    # An orphan may leave out rows that must not be touched; everything else ends as a whole.
    if verdict.kind is VerdictKind.ORPHAN:
        return verdict.row_ids <= now.row_ids
    return verdict.row_ids == now.row_ids


def _showed_life(verdict: Verdict, now: Verdict) -> bool:
    """Whether a row or a feed shows life that was not known when it was judged first."""
    if not verdict.rests_on_silence:
        return False
    return now.life_ms > verdict.life_ms or (now.heard or NEVER) > (verdict.heard or NEVER)


def _no_orphan(observation: Observation, judgement: Judgement, policy: Policy, session: Session) -> str:
    """Why the judge does not call it an orphan: because of a person or of earlier attempts, or for lack of proof."""
    spared = [each.why for each in judgement.spared if each.session_id == session.id and each.reason in _NOT_NOW]
    if spared:
        return "; ".join(dict.fromkeys(spared))
    proofs = Case(observation, policy, observation.now).proofs(session)
    why = proofs[-1][1].why if proofs else "what is open in it can't be read"
    return f"the proof no longer holds: {why}"


def _ask_id(verdict: Verdict) -> str | None:
    return None if verdict.ask is None else verdict.ask.id


def _difference(verdict: Verdict, now: Verdict) -> str:
    if verdict.kind is not now.kind:
        return f"it is judged otherwise now: {now.why}"
    if not now.confirmed:
        return f"the proof no longer holds: {now.why}, which a second look has to confirm"
    if _showed_life(verdict, now):
        return "it showed life again"
    if verdict.row_ids - now.row_ids:
        return "a part of it ended by itself"
    return f"it is judged again: {now.why}"


# -- a person's release ------------------------------------------------------------------------------------------


def release(observation: Observation, policy: Policy, session: Session) -> Verdict:
    """The verdict that a person passes: everything open in the session ends now, no matter its age.

    It is an orphan if everything open in it provably is, or if no process can be seen and no host claims it. A
    session without open rows yields a verdict on none.
    """
    case = Case(observation, policy, observation.now)
    proofs = case.proofs(session)
    if proofs and all(proof.holds for _, proof in proofs):
        return replace(verdicts.orphan(case, session, proofs), released=True)
    if proofs and unclaimed(observation, session):
        return replace(verdicts.orphan(case, session, proofs), released=True, confirmed=True)
    return verdicts.released(case, session)


def runs_deleted(observation: Observation, session_id: SessionId) -> bool:
    """Whether a server of this database is at work on a session that is in no table: it was deleted while it ran."""
    found = deleted_at_work(observation.reports, observation.snapshot, for_a_person=True)
    return any(id_ == session_id for _, id_ in found)


def release_deleted(session_id: SessionId) -> Verdict:
    """The verdict that a person passes on a session that was deleted while it ran: it has no rows."""
    return Verdict(
        session_id=session_id,
        kind=VerdictKind.IDLE_SESSION,
        cancel_session_id=session_id,
        why="a person asked for its release; it was deleted while it ran",
        age_seconds=0.0,
        released=True,
    )


def _released_again(
    observation: Observation, policy: Policy, session: Session, consent: Consent
) -> Verdict | Dropped:
    verdict = release(observation, policy, session)
    if verdict.kind is VerdictKind.ORPHAN:
        return verdict  # settling it ends nothing below it
    against = [each for each in living_below(observation, policy, session) if each.of_its_own]
    if left := [each for each in against if not consent.covers(each.session_id)]:
        return Dropped(why=f"{'; '.join(each.why for each in left)}: to end that too takes --below")
    return verdict


def living_below(observation: Observation, policy: Policy, session: Session) -> tuple[Living, ...]:
    """The sessions below this one that show life, or that a person wants to be left alone."""
    case = Case(observation, policy, observation.now)
    family, held = case.family, observation.on_hold
    waited_for = family.waited_for_below(session)
    found = []
    for id_ in sorted(family.below(session)):
        below = observation.snapshot.sessions[id_]
        if id_ in held and id_ != EVERYTHING:
            why = f"session {id_} below it is on hold: {held[id_]}"
        elif family.human_at(below):
            why = f"a person is asked for something in session {id_} below it"
        elif family.waits_for_answer(below):
            why = f"a person has prompted session {id_} below it"
        elif family.at_work(below):
            why = f"session {id_} below it is at work"
        elif below.has_open_rows and not all(proof.holds for _, proof in case.proofs(below)):
            why = f"somebody may be at work on session {id_} below it"
        else:
            continue
        of_its_own = _of_a_person(case, below) or id_ not in waited_for
        found.append(Living(session_id=id_, why=why, of_its_own=of_its_own))
    return tuple(found)


def _of_a_person(case: Case, session: Session) -> bool:
    """Whether a person is involved in a session: it is on hold, asks somebody, or was prompted."""
    held = session.id in case.observation.on_hold
    return held or case.family.human_at(session) or case.family.waits_for_answer(session)


def settled_with(verdict: Verdict, rows: Collection[str]) -> Verdict:
    """The verdict to settle some rows of another verdict, because nobody executes them any more."""
    return replace(
        verdict,
        kind=VerdictKind.ORPHAN,
        session_id=verdict.cancel_session_id,
        call_ids=tuple(id_ for id_ in verdict.call_ids if id_ in rows),
        turn_ids=tuple(id_ for id_ in verdict.turn_ids if id_ in rows),
        ask=None,
    )
