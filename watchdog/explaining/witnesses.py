"""Each witness's word on a session: database, feeds, servers, asks, and who has the database open."""

from collections.abc import Iterator

from watchdog.explaining.values import Stance, Testimony, WitnessKind
from watchdog.judging.facts import Case
from watchdog.judging.limits import duration
from watchdog.judging.orphan_proof import Proof, began_ms, born_too_late, claims, denies, describe, stands
from watchdog.judging.session_tree import names
from watchdog.model.report import Holder, ServerReport
from watchdog.model.session import EMBEDDED, Activity, Ask, ServerName, Session, Status, Turn


def testimonies(case: Case, session: Session, *, listening: bool) -> tuple[Testimony, ...]:
    """Every witness's word on a session, in the order in which a person wants to read it."""
    return (
        Testimony(
            kind=WitnessKind.DATABASE,
            who="",
            says="last sign of life in the rows",
            stance=Stance.SILENT,
            since_ms=session.last_life_ms,
        ),
        *(
            _feed(case, report, session, listening=listening)
            for report in case.observation.reports
            if report.witness is not None
        ),
        *(_server(case, report, session) for report in case.observation.reports),
        *_asks(case, session),
        *_holders(case, session),
    )


def server_name(name: ServerName) -> str:
    """A server, for people."""
    return "this server" if name == EMBEDDED else name


def proofs_to_give(case: Case, session: Session) -> list[tuple[Turn, Proof]]:
    """The turns of a session for which it matters whether anybody executes them: no server says so."""
    claimed = any(claims(report, session) for report in case.observation.reports)
    return [(turn, proof) for turn, proof in case.proofs(session) if turn.superseded or not claimed]


def blocking(case: Case, session: Session, turn: Turn) -> list[Holder]:
    """The processes that stand in the way of the proof that nobody executes a turn."""
    holders = case.observation.holders
    return [each for each in holders.known if _exclusion(case, each, session, turn) is None] if holders else []


def only_unheard(case: Case, session: Session) -> bool:
    """Whether only a feed that somebody listens to is missing to judge a session."""
    claim = case.claim(session)
    return (
        claim is not None
        and claim.knows_asks
        and case.idle_seconds(session) is None
        and claim.report.witness is not None
        and not claim.report.witness.connected
        and not case.family.damaged(session)
    )


# -- feeds and servers ---------------------------------------------------------------------------------------------


def _feed(case: Case, report: ServerReport, session: Session, *, listening: bool) -> Testimony:
    witness, heard = report.witness, report.life.get(session.id)
    connected = witness is not None and witness.connected
    since = witness.since if witness is not None else None
    if witness is not None and witness.connected:
        says = "connected"
        if witness.gaps:
            lost = sum(end - start for start, end in witness.gaps)
            says += f", {len(witness.gaps)} gap{'' if len(witness.gaps) == 1 else 's'} of {duration(lost)} in all"
    else:
        says = "not connected" if listening else "not listened to by this look"
    if heard is not None:
        says += f"; last heard of it {duration(max(0.0, case.now - heard))} ago"
    return Testimony(
        kind=WitnessKind.FEED,
        who=server_name(report.name),
        says=says,
        stance=Stance.SILENT,
        since_ms=case.observation.wall_of(since) if connected and since is not None else None,
        pid=report.pid,
    )


def _server(case: Case, report: ServerReport, session: Session) -> Testimony:
    said = report.said.get(session.id, ())
    unheard = [each for each in session.directories if not report.answered(each)]
    if said:
        stance, says = _at_work(case, said[0])
        if unheard:
            says += "; it does not say whether a person is asked for something"
    elif report.not_shown is not None:
        stance, says = Stance.SILENT, f"does not count: {report.not_shown}"
    elif (against := report.against(session)) is not None:
        stance, says = Stance.SILENT, f"no answer: {against}"
    elif unheard:
        stance, says = Stance.SILENT, "was not asked about its folder: nothing is open there"
    else:
        stance, says = _denial(case, report, session)
    return Testimony(kind=WitnessKind.SERVER, who=server_name(report.name), says=says, stance=stance, pid=report.pid)


def _at_work(case: Case, status: Status) -> tuple[Stance, str]:
    if status.activity is not Activity.RETRY:
        return Stance.AT_WORK, "at work on it"
    if status.retry_at_ms is None:
        return Stance.WAITS, "waits to try its provider again"
    left = -case.observation.seconds_since(status.retry_at_ms)
    when = f"in {duration(left)}" if left >= 0 else f"{duration(-left)} ago"
    return Stance.WAITS, f"waits to try its provider again (due {when})"


def _denial(case: Case, report: ServerReport, session: Session) -> tuple[Stance, str]:
    """An answer that does not name the session, and how much it is worth."""
    turns = [turn for turn, _ in proofs_to_give(case, session)]
    if turns and all(denies(report, session, turn, case.observation) for turn in turns):
        return Stance.EXCLUDED, "not at work on it; it serves this database"
    reasons = [why for turn in turns if (why := why_its_answer_is_worth_little(case, report, session, turn))]
    return Stance.SILENT, "; ".join(["not at work on it", *dict.fromkeys(reasons)])


def why_its_answer_is_worth_little(case: Case, report: ServerReport, session: Session, turn: Turn) -> str | None:
    """Why a server's answer does not exclude it; None if it does."""
    if denies(report, session, turn, case.observation):
        return None
    if (against := report.against(session)) is not None:
        return f"no usable answer: {against}"
    if claims(report, session):
        return "it says that it is at work on the session"
    if not report.known:
        return "nobody has measured what its version, or that of a fork, means by silence"
    if not report.vouches:
        return "before version 1.14 that proves nothing"
    if not report.serves(session.id):
        return report.not_shown or "it is not proven to serve this database"
    if any(stands(ask, session) for ask in report.asked.get(session.id, ())):
        return "it asks a person something for it"
    return "it was not asked about every folder of the session"


# -- asks ----------------------------------------------------------------------------------------------------------


def _asks(case: Case, session: Session) -> Iterator[Testimony]:
    seen: set[tuple[str, str]] = set()
    for report in case.observation.reports:
        for ask in report.asked.get(session.id, ()):
            if (report.name, ask.id) not in seen:
                seen.add((report.name, ask.id))
                yield _ask(report, ask, session)


def _ask(report: ServerReport, ask: Ask, session: Session) -> Testimony:
    named = [call for call in session.calls if names(ask, call)]
    if not stands(ask, session):
        stance, says = Stance.SILENT, "left over: what it was for is not open any more"
    elif len(named) == 1:
        stance, says = Stance.WAITS, f"waits for a person, for the {named[0].tool} call {named[0].id}"
    else:
        stance, says = Stance.WAITS, "waits for a person, for anything open in the session"
    return Testimony(
        kind=WitnessKind.ASK,
        who=f"{ask.kind.value} {ask.id}",
        says=f"{says} ({server_name(report.name)})",
        stance=stance,
        call_id=named[0].id if len(named) == 1 else None,
        turn_id=ask.turn_id,
    )


# -- holders -------------------------------------------------------------------------------------------------------


def _holders(case: Case, session: Session) -> Iterator[Testimony]:
    holders, wanted = case.observation.holders, proofs_to_give(case, session)
    if holders is None:
        yield _nobody("not looked up: no proof is needed while a server is at work on it", Stance.SILENT)
        return
    if not holders.known and holders.complete:
        yield _nobody("no process has the database open", Stance.EXCLUDED)
        return
    told: set[tuple[int, str]] = set()
    for turn, _ in wanted:
        for holder in holders.known:
            testimony = _holder(case, holder, session, turn)
            if (holder.pid, testimony.says) not in told:
                told.add((holder.pid, testimony.says))
                yield testimony
    if not wanted:
        yield from (_bystander(case, holder, session) for holder in holders.known)
    if not holders.complete:
        hidden = holders.why_incomplete or "a process that can't be seen may have the database open"
        vouched = all(proof.holds for _, proof in wanted)
        vouch = "; sole_owner vouches that none but the configured servers does" if wanted and vouched else ""
        yield Testimony(
            kind=WitnessKind.HOLDER,
            who="not seen",
            says=f"{hidden}{vouch}",
            stance=Stance.SILENT if vouched else Stance.BLOCKS,
        )


def _nobody(says: str, stance: Stance) -> Testimony:
    return Testimony(kind=WitnessKind.HOLDER, who="", says=says, stance=stance)


def _bystander(case: Case, holder: Holder, session: Session) -> Testimony:
    """A holder if no proof is needed: a server says that it is at work, or nothing is open."""
    worker = any(report.pid == holder.pid and claims(report, session) for report in case.observation.reports)
    says = "the server that is at work on it" if worker else "has the database open; nothing has to be proven"
    stance = Stance.AT_WORK if worker else Stance.SILENT
    return _of(holder, says, stance)


def _holder(case: Case, holder: Holder, session: Session, turn: Turn) -> Testimony:
    excluded = _exclusion(case, holder, session, turn)
    if excluded is not None:
        return _of(holder, excluded, Stance.EXCLUDED, turn)
    birth = _birth_stands_against_it(case, holder, session, turn)
    answer = _answer_stands_against_it(case, holder, session, turn)
    return _of(holder, f"{birth}, and {answer}", Stance.BLOCKS, turn)


def _of(holder: Holder, says: str, stance: Stance, turn: Turn | None = None) -> Testimony:
    return Testimony(
        kind=WitnessKind.HOLDER,
        who=describe(holder),
        says=says,
        stance=stance,
        since_ms=holder.born_ms,
        pid=holder.pid,
        turn_id=turn.id if turn is not None else None,
    )


def _exclusion(case: Case, holder: Holder, session: Session, turn: Turn) -> str | None:
    """How a process is excluded, or None if it is not."""
    began = began_ms(session, turn)
    if born_too_late(holder, began, case.observation, case.policy):
        return f"excluded by birth: born {duration((holder.born_ms - began) / 1000)} after it began"
    for report in case.observation.reports:
        if report.pid == holder.pid and denies(report, session, turn, case.observation):
            return f"excluded by its answer: {server_name(report.name)} is not at work on it"
    return None


def _birth_stands_against_it(case: Case, holder: Holder, session: Session, turn: Turn) -> str:
    began, steady = began_ms(session, turn), case.observation.steady_since_ms
    if holder.embeds_us:
        return "it is the server that the watchdog is part of"
    if began < steady and began < holder.born_ms <= steady + case.policy.birth_margin_seconds * 1000:
        return "the clock may have been set after it began, so births can't be compared"
    if holder.born_ms > began:
        return f"born only {duration((holder.born_ms - began) / 1000)} after it began, within birth_margin"
    return f"born {duration((began - holder.born_ms) / 1000)} before it began"


def _answer_stands_against_it(case: Case, holder: Holder, session: Session, turn: Turn) -> str:
    for report in case.observation.reports:
        if report.pid == holder.pid:
            why = why_its_answer_is_worth_little(case, report, session, turn)
            return f"{server_name(report.name)} does not exclude it: {why}"
    return "no server answers for it"
