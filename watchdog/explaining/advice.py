"""What a person can do about a session that is stuck, or that nobody can judge."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from watchdog.explaining.witnesses import (
    blocking,
    only_unheard,
    proofs_to_give,
    server_name,
    why_its_answer_is_worth_little,
)
from watchdog.judging.facts import Case
from watchdog.judging.limits import duration
from watchdog.judging.orphan_proof import claims, describe
from watchdog.model.report import Holder
from watchdog.model.session import Session, Turn, TurnId
from watchdog.model.verdict import Judgement, Spared, SpareReason, VerdictKind


def advice(case: Case, judgement: Judgement, sessions: Iterable[Session], *, listening: bool) -> tuple[str, ...]:
    """What to do, the most useful first, each once."""
    sessions = list(sessions)
    found: list[str] = []
    for session in sessions:
        found.extend(_about_verdicts(case, judgement, session))
        found.extend(_about_looks(case, judgement, session))
    found.extend(_about_proofs(case, sessions))
    ids = {session.id for session in sessions}
    by_id = {session.id: session for session in sessions}
    for spared in judgement.spared:
        unheard = not listening and spared.reason is SpareReason.NO_WITNESS
        if spared.session_id in ids and not (unheard and only_unheard(case, by_id[spared.session_id])):
            found.extend(_about_spared(case, spared, by_id[spared.session_id]))
    return tuple(dict.fromkeys(found))


def _about_verdicts(case: Case, judgement: Judgement, session: Session) -> Iterator[str]:
    """A person can do by hand what a running watchdog does by itself."""
    for verdict in judgement.verdicts:
        if verdict.cancel_session_id != session.id or not verdict.confirmed:
            continue
        if verdict.kind is VerdictKind.ORPHAN:
            yield "A running watchdog settles it by itself; `opencode-watchdog recover` settles it now."
        elif case.claim(session) is not None:
            yield f"A running watchdog ends it by itself; `opencode-watchdog release {session.id}` ends it now."


def _about_looks(case: Case, judgement: Judgement, session: Session) -> Iterator[str]:
    """A proof that needs a second look."""
    left: float | None = None
    for verdict in judgement.verdicts:
        if verdict.cancel_session_id == session.id and not verdict.confirmed:
            left = case.policy.orphan_grace_seconds
    for spared in judgement.spared:
        if spared.session_id == session.id and spared.reason is SpareReason.FIRST_LOOK and spared.until is not None:
            left = max(0.0, spared.until - case.now)
    if left is not None:
        yield (
            f"Wait {duration(left)} for the second look: a running watchdog takes it by itself, and so does "
            "`opencode-watchdog recover`."
        )


def _about_proofs(case: Case, sessions: Iterable[Session]) -> Iterator[str]:
    """Each process that stands in the way of a proof, what removes it, and everything it may be at work on."""
    found: dict[tuple[str, str], list[TurnId]] = defaultdict(list)
    for session in sessions:
        for turn, proof in proofs_to_give(case, session):
            if not proof.holds:
                for blocker in _blockers(case, session, turn):
                    found[blocker].append(turn.id)
    for (who, remedy), turns in found.items():
        more = f" and {len(turns) - 1} more" if len(turns) > 1 else ""
        yield f"{who} may be at work on {turns[0]}{more}{remedy}"


def _blockers(case: Case, session: Session, turn: Turn) -> Iterator[tuple[str, str]]:
    """What stands in the way of a proof, and what to do about it, as the end of a sentence."""
    left = blocking(case, session, turn)
    for holder in left:
        yield describe(holder), _about_blocker(case, holder, session, turn)
    holders = case.observation.holders
    if not left and holders is not None and not holders.complete:
        yield "A process that can't be seen", _about_hidden(case)


def _about_blocker(case: Case, holder: Holder, session: Session, turn: Turn) -> str:
    report = next((each for each in case.observation.reports if each.pid == holder.pid), None)
    if report is not None:
        name = server_name(report.name)
        if (against := report.against(session)) is not None:
            return f": make {name} answer. {against}"
        if not report.known:
            return f", and {name} can't exclude it: nobody has measured what its version means by silence."
        if not report.vouches:
            return (
                f", and {name} can't exclude it before version 1.14: upgrade it, or restart it when it is idle; what "
                "was born later excludes itself."
            )
        why = why_its_answer_is_worth_little(case, report, session, turn)
        return f": {name} does not exclude it ({why}). Restart it when it is idle."
    if holder.endpoints:
        ports = " or ".join(dict.fromkeys(each.url for each in holder.endpoints))
        return f": if it is a server, name it (`servers` or --server {ports}), so its answer counts."
    return (
        ", and it can't be asked: look there. If nothing runs there, quit it; what it leaves open is then settled. "
        "With `opencode-watchdog bridge install` the next one can be asked."
    )


def _about_hidden(case: Case) -> str:
    if case.observation.holders is not None and case.observation.holders.elsewhere:
        return ": a release settles it, once every host says that it is not at work on it."
    if case.policy.sole_owner:
        return (
            ", and no configured server excludes itself: name the server that uses this database (`servers` or "
            "--server)."
        )
    return (
        ": run the watchdog where it sees all processes; or, if only the configured servers use this database, set "
        "`sole_owner = true`."
    )


def _about_spared(case: Case, spared: Spared, session: Session) -> Iterator[str]:
    claimed = any(claims(report, session) for report in case.observation.reports)
    release = f"`opencode-watchdog release {session.id}`"
    if spared.reason is SpareReason.WAITING_ON_HUMAN and case.family.human_at(session):
        yield f"Answer what session {session.id} asks, in its client; or end it: {release}."
    elif spared.reason is SpareReason.GIVEN_UP:
        yield f"Look at session {session.id}; if it should end, {release} tries again."
    elif spared.reason is SpareReason.WAITING_ON_SIBLING and claimed:
        yield f"{release} ends session {session.id} with all that it does."
    elif spared.reason is SpareReason.NO_WITNESS and claimed:
        yield from _about_silence(case, session, release)
    elif spared.reason is SpareReason.CLOCK_STOPPED:
        who = case.observation.stopped[session.id].why
        yield f"Make it answer: {who}. If you know that session {session.id} should end, {release} ends it."


def _about_silence(case: Case, session: Session, release: str) -> Iterator[str]:
    claim = case.claim(session)
    if claim is not None and (against := claim.report.against(session)) is not None:
        yield f"Make {server_name(claim.report.name)} answer. {against}"
    yield f"If you know that session {session.id} should end, {release} ends it."
