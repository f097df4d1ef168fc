"""What must hold of every judgement, whatever the sessions, servers, holders and clocks are.

Hypothesis chooses seeds, and a plain generator builds an observation from each: that is a hundred times faster than
drawing every field, and finds what is rare. `STRANGE` is how often it leaves what a real opencode would do.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.properties import ANY_MACHINE
from tests.unit.observations import AT, DIRECTORY, NOW, ago, back, moment
from watchdog.judging.judge import _Bench, judge
from watchdog.judging.limits import limit_of
from watchdog.judging.rulings import Consent, Dropped, release
from watchdog.judging.rulings import again as passed_again
from watchdog.model.moments import NEVER
from watchdog.model.policy import Policy
from watchdog.model.report import Attempts, Holder, Holders, Observation, Served, ServerReport, Shown, Stopped
from watchdog.model.session import (
    Activity,
    Ask,
    AskKind,
    CallId,
    CallStatus,
    Damage,
    ServerName,
    Session,
    SessionId,
    Snapshot,
    Status,
    ToolCall,
    Turn,
    TurnId,
)
from watchdog.model.verdict import Judgement, Spared, SpareReason, Verdict, VerdictKind

T = TypeVar("T")
MOST = 6
IDS = [SessionId(f"ses_{number}") for number in range(MOST)]
ELSEWHERE = "/work/elsewhere"
KINDS = (VerdictKind.ORPHAN, VerdictKind.STUCK_TOOL, VerdictKind.STUCK_TASK, VerdictKind.IDLE_SESSION)
STRANGE = 0.15
AGES = [-5.0, 0.0, 1.0, 4.0, 29.0, 30.0, 31.0, 59.0, 60.0, 61.0, 90.0, 299.0, 300.0, 301.0, 5000.0]


@dataclass(frozen=True)
class World:
    """A generator of observations, by chance."""

    rng: random.Random

    def strange(self, often: float = STRANGE) -> bool:
        return self.rng.random() < often

    def one(self, *choices: T) -> T:
        return self.rng.choice(choices)

    def some(self, of: Sequence[T], often: float) -> list[T]:
        return [each for each in of if self.rng.random() < often]

    def moment(self) -> int:
        return ago(self.rng.choice(AGES))

    def call(self, turn: TurnId, id_: SessionId, index: int, children: list[SessionId]) -> ToolCall:
        tool = self.one("bash", "task", "question", "mcp_free") if not children else self.one("task", "task", "bash")
        child = self.rng.choice(children) if children else None
        return ToolCall(
            id=CallId(f"prt_{turn[4:]}{index}"),
            turn_id=turn,
            session_id=id_,
            tool=tool,
            status=self.one(*CallStatus),
            created_ms=self.moment(),
            updated_ms=self.moment(),
            call_ref=f"call_{index}",
            declared_timeout_ms=self.one(None, None, None, 100_000.0, float("nan"), -1.0),
            child_id=self.rng.choice(IDS) if self.strange() else child if self.strange(0.8) else None,
        )

    def session(self, id_: SessionId, parent: SessionId | None, children: list[SessionId]) -> Session:
        turns: list[Turn] = []
        calls: list[ToolCall] = []
        count = self.one(0, 1, 1, 1, 1, 2)
        for number in range(count):
            turn = TurnId(f"msg_{id_[4:]}{number}")
            mine = [self.call(turn, id_, index, children) for index in range(self.one(0, 0, 1, 1, 2))]
            calls.extend(mine)
            turns.append(
                Turn(
                    id=turn,
                    session_id=id_,
                    created_ms=self.moment(),
                    updated_ms=NOW,
                    open=not mine or not self.strange(),
                    cwd=self.one(None, DIRECTORY, DIRECTORY, ELSEWHERE),
                    superseded=number < count - 1 or self.strange(0.05),
                )
            )
        return Session(
            id=id_,
            directory=self.one(DIRECTORY, DIRECTORY, ELSEWHERE),
            created_ms=self.moment(),
            parent_id=self.rng.choice(IDS) if self.strange() else parent,
            turns=tuple(turns),
            calls=tuple(calls),
            last_life_ms=self.moment(),
            newest_prompt_id=self.one("msg_p", "msg_p", "msg_p", None),
        )

    def status(self) -> Status:
        return Status(
            activity=Activity.RETRY if self.strange() else Activity.BUSY,
            retry_at_ms=self.one(None, self.moment()),
            last_life_ms=self.one(None, None, self.moment()),
        )

    def ask(self) -> Ask:
        return Ask(
            id="que_1",
            kind=self.one(*AskKind),
            session_id=self.rng.choice(IDS),
            turn_id=self.one(None, TurnId(f"msg_{self.rng.randrange(MOST)}0")),
            call_ref=self.one(None, "call_0", "call_1", "call_of_old"),
        )

    def report(self, number: int) -> ServerReport:
        answered = (DIRECTORY, ELSEWHERE)[: self.one(2, 2, 2, 2, 2, 1, 0)]
        busy = self.some(IDS, self.one(0.0, 0.5, 0.9))
        name = ServerName(f"http://127.0.0.1:{number}")
        pid = self.one(number, number, number, None)
        if self.strange():
            return ServerReport(name=name, not_shown=f"{name} is on another database.")
        covered = frozenset(IDS if not self.strange() else self.some(IDS, 0.5))
        rows = Served(server=name, by=Shown.ROWS, sessions=covered)
        return ServerReport(
            name=name,
            pid=pid,
            vouches=not self.strange(),
            problem="it broke" if self.strange() else None,
            statuses={where: {id_: self.status() for id_ in self.some(busy, 0.8)} for where in answered},
            asks={where: tuple(self.ask() for _ in range(self.one(0, 0, 0, 1))) for where in answered}
            if not self.strange()
            else {},
            served=self.one(Served(server=name, by=Shown.PROCESS, pid=pid), rows),
            life={id_: moment(self.moment()) for id_ in self.some(IDS, 0.3)},
        )

    def holder(self, pid: int) -> Holder:
        return Holder(pid=pid, born_ms=self.moment(), command="opencode serve", embeds_us=self.strange())

    def holders(self) -> Holders | None:
        known = tuple(self.holder(pid) for pid in self.some([1, 2, 3], self.one(0.0, 0.3, 0.6)))
        return self.one(None, *(Holders(known=known, complete=not self.strange()) for _ in range(3)))

    def attempts(self) -> Attempts:
        return Attempts(
            count=self.rng.randrange(4),
            tries=self.rng.randrange(4),
            not_before=moment(self.moment()),
            given_up=self.strange(),
            newest_prompt_id=self.one("msg_p", "msg_p", None),
        )

    def observation(self) -> Observation:
        ids = IDS[: self.rng.randint(1, MOST)]
        parents = {id_: self.rng.choice(ids[:index]) for index, id_ in enumerate(ids) if index and self.strange(0.8)}
        children = {id_: [child for child, parent in parents.items() if parent == id_] for id_ in ids}
        sessions = {id_: self.session(id_, parents.get(id_), children[id_]) for id_ in ids}
        rows = [str(call.id) for each in sessions.values() for call in each.calls]
        rows += [turn.id for each in sessions.values() for turn in each.turns]
        keys = [f"{what}:{id_}" for id_ in (*rows, *ids) for what in ("cancel", "settle")]
        damaged = self.some(ids, 0.03)
        return Observation(
            at_ms=NOW,
            now=AT,
            snapshot=Snapshot(
                sessions=sessions,
                damaged=tuple(Damage(table="part", id="prt_x", session_id=id_, problem="no JSON") for id_ in damaged),
            ),
            reports=tuple(self.report(number) for number in range(1, 1 + self.one(0, 1, 1, 1, 2))),
            holders=self.holders(),
            call_clocks={call.id: moment(self.moment()) for each in sessions.values() for call in each.calls},
            idle_clocks={id_: moment(self.moment()) for id_ in self.some(IDS, 0.8)},
            lives={id_: moment(self.moment()) for id_ in ids},
            retries={id_: moment(self.moment()) for id_ in self.some(ids, 0.3)},
            looks={row: moment(self.moment()) for row in self.some(rows, 0.6)},
            attempts={key: self.attempts() for key in self.some(keys, 0.15)},
            steady_since_ms=self.one(0, 0, 0, self.moment()),
            stopped={id_: Stopped(why="nobody answers", since=moment(self.moment())) for id_ in self.some(ids, 0.1)},
            on_hold=dict.fromkeys(self.some(ids, 0.05), "a person said so"),
            let_go={
                turn.id: ServerName("http://127.0.0.1:1")
                for each in sessions.values()
                for turn in self.some(each.turns, 0.05)
            },
        )

    def policy(self) -> Policy:
        return Policy(
            tool_timeout_seconds=self.one(None, 60.0, 60.0),
            task_timeout_seconds=self.one(None, 60.0, 300.0),
            idle_timeout_seconds=self.one(None, 30.0, 30.0, 30.0),
            task_hard_timeout_seconds=self.one(None, None, 90.0),
            tool_timeouts={"mcp_*": None},
            sole_owner=self.one(True, False),
            orphan_looks=self.one(1, 2, 2),
        )


@dataclass(frozen=True)
class Scene:
    """What a test of a property gets.

    Attributes:
        id_: a session that may exist.
        rng: chance for more.
    """

    seen: Observation
    policy: Policy
    id_: SessionId
    rng: random.Random

    def judged(self, seen: Observation | None = None) -> Judgement:
        return judge(seen or self.seen, self.policy, AT)


def scene(seed: int) -> Scene:
    rng = random.Random(seed)  # noqa: S311 - no secret
    world = World(rng)
    return Scene(seen=world.observation(), policy=world.policy(), id_=rng.choice(IDS), rng=rng)


def on_many_scenes(test: Callable[[Scene], None]) -> Callable[[], None]:
    """Run a test on as many scenes as a second allows."""

    @settings(ANY_MACHINE, max_examples=800)
    @given(seed=st.integers(0, 2**48))
    def run(seed: int) -> None:
        test(scene(seed))

    return run


def cancels(judgement: Judgement) -> list[Verdict]:
    return [verdict for verdict in judgement.verdicts if verdict.kind is not VerdictKind.ORPHAN]


def orphaned_rows(judgement: Judgement) -> set[str]:
    orphans = [verdict for verdict in judgement.verdicts if verdict.kind is VerdictKind.ORPHAN]
    return {row for verdict in orphans for row in verdict.row_ids}


def busy_ids(seen: Observation) -> set[SessionId]:
    return {id_ for report in seen.reports for id_ in report.said}


def below(seen: Observation, id_: SessionId) -> set[SessionId]:
    """Everything below, by the database's word and by that of the open task calls: written anew for the test."""
    known = seen.snapshot.sessions
    children: dict[SessionId, set[SessionId]] = {each: set() for each in known}
    for each in known.values():
        if each.parent_id is not None and each.parent_id in known:
            children[each.parent_id].add(each.id)
        children[each.id] |= {
            call.child_id for call in each.calls if call.child_id is not None and call.child_id in known
        }
    found, todo = set[SessionId](), [id_]
    while todo:
        for child in children[todo.pop()] - found:
            found.add(child)
            todo.append(child)
    return found - {id_}


def family(seen: Observation, id_: SessionId) -> set[SessionId]:
    """What `Store.family` reads."""
    known = seen.snapshot.sessions
    found, todo = {id_}, [id_]
    while todo:
        each_id = todo.pop()
        session = known.get(each_id)
        named = [] if session is None else [session.parent_id, *(call.child_id for call in session.calls)]
        kin = {each.id for each in known.values() if each.parent_id == each_id}
        new = {each for each in {*named, *kin} if each is not None and each in known} - found
        found |= new
        todo += new
    return found


def waiting_on(seen: Observation, id_: SessionId) -> Iterator[SessionId]:
    """The sessions whose open task call names this session, or one that this one is below."""
    for each in seen.snapshot.sessions.values():
        older = {turn.id for turn in each.turns if turn.superseded}
        for call in each.calls:
            child = call.child_id
            waits = call.tool == "task" and call.turn_id not in older and child in seen.snapshot.sessions
            if waits and child is not None and child != each.id and id_ in {child, *below(seen, child)}:
                yield each.id


def heard(scene: Scene) -> ServerReport:
    """A server that is shown to serve the database: the first one, or a new one."""
    first = scene.seen.reports[0] if scene.seen.reports else ServerReport(name=ServerName("http://new"))
    return replace(first, served=Served(server=first.name, by=Shown.PROCESS, pid=first.pid))


def with_server(scene: Scene) -> Observation:
    """The same, but that server is there: what it does not say is heard, too."""
    return replace(scene.seen, reports=(heard(scene), *scene.seen.reports[1:]))


def with_status(scene: Scene, status: Status) -> Observation:
    """The same, but a server says that it is at work on the session."""
    first = heard(scene)
    said = {**first.statuses, DIRECTORY: {**first.statuses.get(DIRECTORY, {}), scene.id_: status}}
    retries = dict(scene.seen.retries)
    if status.retry_at_ms is not None:
        retries[scene.id_] = moment(status.retry_at_ms)
    return replace(scene.seen, reports=(replace(first, statuses=said), *scene.seen.reports[1:]), retries=retries)


def with_ask(scene: Scene) -> Observation:
    """The same, but a server says that a person is asked for something in the session."""
    first = heard(scene)
    ask = Ask(id="que_new", kind=AskKind.QUESTION, session_id=scene.id_)
    where = min(first.asks, default="/somewhere")
    said = {**first.asks, where: (*first.asks.get(where, ()), ask)}
    return replace(scene.seen, reports=(replace(first, asks=said), *scene.seen.reports[1:]))


@on_many_scenes
def test_a_look_at_a_family_alone_judges_it_as_a_look_at_everything_does(scene: Scene) -> None:
    """Of servers that need no other session to show that they serve this database.

    Only why something is spared may be said in other words, where a call of another family names one of its sessions.
    """
    whole = replace(
        scene.seen,
        reports=tuple(
            report
            if report.served is None
            else replace(report, served=Served(server=report.name, by=Shown.PROCESS, pid=report.pid))
            for report in scene.seen.reports
        ),
    )
    tree = family(whole, scene.id_)
    alone = replace(
        whole,
        snapshot=Snapshot(
            sessions={id_: each for id_, each in whole.snapshot.sessions.items() if id_ in tree},
            damaged=tuple(each for each in whole.snapshot.damaged if each.session_id in tree),
        ),
        reports=tuple(report.about(tree) for report in whole.reports),
    )
    everything, narrow = scene.judged(whole), scene.judged(alone)
    assert sorted(map(repr, narrow.verdicts)) == sorted(
        repr(each) for each in everything.verdicts if each.session_id in tree
    )
    others = [each for each in whole.snapshot.sessions.values() if each.id not in tree]
    if not any(call.child_id in tree for each in others for call in each.calls):
        assert sorted(map(repr, narrow.spared)) == sorted(
            repr(each) for each in everything.spared if each.session_id in tree
        )


def test_the_scenes_show_every_verdict_and_every_reason_for_sparing() -> None:
    judgements = [scene(seed).judged() for seed in range(1000)]
    kinds = Counter(verdict.kind for judgement in judgements for verdict in judgement.verdicts)
    reasons = Counter(spared.reason for judgement in judgements for spared in judgement.spared)
    assert min(kinds[kind] for kind in KINDS) >= 5, kinds
    assert min(reasons[reason] for reason in SpareReason) >= 5, reasons


@on_many_scenes
def test_every_unfinished_session_has_a_verdict_or_a_reason_why_it_is_spared(scene: Scene) -> None:
    judgement = scene.judged()
    told = {each.session_id for each in judgement.spared}
    told |= {id_ for each in judgement.verdicts for id_ in (each.session_id, each.cancel_session_id)}
    sessions = scene.seen.snapshot.sessions
    unfinished = {id_ for id_, each in sessions.items() if each.has_open_rows} | (busy_ids(scene.seen) & {*sessions})
    # Beside them, a server whose process is seen may be at work on what was deleted while it ran.
    assert unfinished <= told <= set(sessions) | busy_ids(scene.seen)
    verdicts = [*judgement.verdicts, *(release(scene.seen, scene.policy, each) for each in sessions.values())]
    again = [
        each
        for verdict in verdicts
        if isinstance(each := passed_again(scene.seen, judgement, scene.policy, verdict, Consent()), Dropped)
    ]
    assert all(each.why for each in judgement.spared)
    assert all(each.why for each in verdicts)
    assert all(each.why for each in again)


@on_many_scenes
def test_what_was_passed_is_passed_again_on_the_same_look(scene: Scene) -> None:
    judgement = scene.judged()
    for verdict in judgement.verdicts:
        if verdict.confirmed:
            assert passed_again(scene.seen, judgement, scene.policy, verdict, Consent()) == verdict


@on_many_scenes
def test_every_open_call_is_judged_or_spared_or_named_in_a_verdict_on_its_session(scene: Scene) -> None:
    judgement = scene.judged()
    ended = {verdict.cancel_session_id for verdict in judgement.verdicts}
    spared = {each.call_id for each in judgement.spared}
    whole = {each.session_id for each in judgement.spared if each.call_id is None}
    for session in scene.seen.snapshot.sessions.values():
        for call in session.calls:
            assert call.id in spared or session.id in ended | whole


@on_many_scenes
def test_nothing_is_ended_before_its_limit(scene: Scene) -> None:
    for verdict in cancels(scene.judged()):
        assert verdict.limit_seconds is not None
        assert verdict.age_seconds >= verdict.limit_seconds
        ended = scene.seen.snapshot.sessions[verdict.cancel_session_id]
        assert verdict.row_ids <= {call.id for call in ended.calls} | {turn.id for turn in ended.turns}
        if verdict.kind is VerdictKind.STUCK_TOOL:
            limits = {call.id: limit_of(call, scene.policy) for call in ended.calls}
            for id_ in verdict.call_ids:
                child_ended = scene.policy.tool_timeout_seconds
                limit = limits[id_] if limits[id_] is not None else child_ended
                assert limit is not None
                assert AT - scene.seen.call_clocks[id_] >= min(limit, child_ended or limit)
        if verdict.rests_on_silence:
            assert scene.policy.idle_timeout_seconds is not None
            assert AT - scene.seen.idle_clocks[ended.id] >= scene.policy.idle_timeout_seconds


@on_many_scenes
def test_a_session_with_something_at_work_below_it_is_never_cancelled(scene: Scene) -> None:
    for verdict in cancels(scene.judged()):
        assert not below(scene.seen, verdict.cancel_session_id) & busy_ids(scene.seen)


@on_many_scenes
def test_of_the_sessions_on_one_path_at_most_one_is_cancelled(scene: Scene) -> None:
    cancelled = [verdict.cancel_session_id for verdict in cancels(scene.judged())]
    assert len(set(cancelled)) == len(cancelled)
    assert not any(below(scene.seen, id_) & set(cancelled) for id_ in cancelled)


@on_many_scenes
def test_a_call_beside_a_spared_one_is_never_ended(scene: Scene) -> None:
    judgement = scene.judged()
    spared = {each.call_id for each in judgement.spared}
    for verdict in cancels(judgement):
        session = scene.seen.snapshot.sessions[verdict.cancel_session_id]
        older = {turn.id for turn in session.turns if turn.superseded}
        assert not spared & set(verdict.call_ids)
        assert not older & set(verdict.turn_ids)
        if verdict.session_id == session.id and session.calls:
            current = {call.id for call in session.calls if call.turn_id not in older}
            assert set(verdict.call_ids) >= current - orphaned_rows(judgement) - scene.judged().unclaimed


@on_many_scenes
def test_a_session_with_a_damaged_row_is_never_cancelled(scene: Scene) -> None:
    damaged = {damage.session_id for damage in scene.seen.snapshot.damaged}
    assert not damaged & {verdict.cancel_session_id for verdict in cancels(scene.judged())}


@on_many_scenes
def test_a_sign_of_life_never_adds_a_verdict_that_rests_on_silence(scene: Scene) -> None:
    at = scene.rng.choice([AT, back(29)])
    lively = replace(scene.seen, idle_clocks={**scene.seen.idle_clocks, scene.id_: at})
    before = {each.cancel_session_id for each in scene.judged().verdicts}
    after = {each.cancel_session_id for each in scene.judged(lively).verdicts if each.rests_on_silence}
    assert scene.id_ not in after
    assert after <= before


@on_many_scenes
def test_an_ask_never_adds_a_verdict_and_ends_nothing_that_waits_for_its_answer(scene: Scene) -> None:
    asked = with_ask(scene)
    before, after = scene.judged(with_server(scene)), scene.judged(asked)
    assert orphaned_rows(after) <= before.unclaimed
    if scene.id_ in scene.seen.snapshot.sessions:
        concerned = {scene.id_, *waiting_on(scene.seen, scene.id_)}
        assert not concerned & {verdict.cancel_session_id for verdict in cancels(after)}
        over = {id_ for id_ in scene.seen.snapshot.sessions if scene.id_ in below(scene.seen, id_)}
        ended = {verdict.cancel_session_id for verdict in before.verdicts}
        assert over & {verdict.cancel_session_id for verdict in cancels(after)} <= ended


@on_many_scenes
def test_a_server_at_work_never_adds_an_orphan_or_a_verdict_above_it(scene: Scene) -> None:
    busy = with_status(scene, Status(activity=scene.rng.choice([Activity.BUSY, Activity.RETRY])))
    before, after = scene.judged(with_server(scene)), scene.judged(busy)
    assert orphaned_rows(after) <= before.unclaimed
    if scene.id_ in scene.seen.snapshot.sessions:
        assert not any(scene.id_ in below(busy, verdict.cancel_session_id) for verdict in cancels(after))


@on_many_scenes
def test_a_retry_that_is_not_due_ends_nothing(scene: Scene) -> None:
    retry = Status(activity=Activity.RETRY, retry_at_ms=NOW + 1)
    ended = {verdict.cancel_session_id for verdict in cancels(scene.judged(with_status(scene, retry)))}
    assert scene.id_ not in ended


@on_many_scenes
def test_another_process_that_may_be_at_work_never_adds_an_orphan(scene: Scene) -> None:
    holders = scene.seen.holders or Holders()
    old = Holder(pid=77, born_ms=ago(10_000), command="opencode run")
    held = replace(scene.seen, holders=replace(holders, known=(*holders.known, old)))
    assert not orphaned_rows(scene.judged(held))


@on_many_scenes
def test_the_process_that_embeds_the_watchdog_is_not_excluded_by_its_birth(scene: Scene) -> None:
    ours = Holder(pid=99, born_ms=NOW, command="a server with a watchdog in it", embeds_us=True)
    assert not orphaned_rows(scene.judged(replace(scene.seen, holders=Holders(known=(ours,)))))


@on_many_scenes
def test_what_nobody_executes_is_written_after_a_second_look_or_when_nobody_is_there(scene: Scene) -> None:
    looks, grace = scene.seen.looks, scene.policy.orphan_grace_seconds
    for verdict in scene.judged().verdicts:
        if verdict.kind is VerdictKind.ORPHAN and verdict.confirmed:
            holders = scene.seen.holders
            assert holders is not None
            waited = all(row in looks and AT - looks[row] >= grace for row in verdict.row_ids)
            calls = scene.seen.snapshot.sessions[verdict.session_id].calls
            turns = {*verdict.turn_ids, *(call.turn_id for call in calls if call.id in verdict.call_ids)}
            assert waited or turns <= {*scene.seen.let_go} or (holders.complete and not holders.known)


@on_many_scenes
def test_what_has_to_wait_or_was_prompted_since_is_not_tried_again(scene: Scene) -> None:
    for verdict in scene.judged().verdicts:
        tried = [scene.seen.attempts[key] for key in verdict.attempt_keys if key in scene.seen.attempts]
        assert not any((each.not_before or NEVER) > AT for each in tried)
        if verdict.kind is not VerdictKind.ORPHAN:
            assert {each.newest_prompt_id for each in tried if each.count} <= {verdict.newest_prompt_id}


@on_many_scenes
def test_the_order_in_which_things_are_told_makes_no_difference(scene: Scene) -> None:
    def shuffled(items: Iterable[T]) -> list[T]:
        items = list(items)
        return scene.rng.sample(items, len(items))

    seen = scene.seen
    told = [
        replace(each, statuses=dict(shuffled(each.statuses.items())), asks=dict(shuffled(each.asks.items())))
        for each in seen.reports
    ]
    holders = seen.holders and replace(seen.holders, known=tuple(shuffled(seen.holders.known)))
    mixed = replace(
        seen,
        snapshot=replace(seen.snapshot, sessions=dict(shuffled(seen.snapshot.sessions.items()))),
        reports=tuple(shuffled(told)),
        holders=holders,
    )
    assert scene.judged(mixed) == scene.judged() == scene.judged()


@on_many_scenes
def test_what_a_server_answered_is_found_by_session(scene: Scene) -> None:
    for told in scene.seen.reports:
        for id_ in filter(told.serves, IDS):
            said = [told.statuses[where][id_] for where in sorted(told.statuses) if id_ in told.statuses[where]]
            assert list(told.said.get(id_, ())) == said
            assert list(told.asked.get(id_, ())) == [
                ask for asks in told.asks.values() for ask in asks if ask.session_id == id_
            ]


def test_the_short_way_says_what_the_long_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    short, taken = _Bench._spare_plain, Counter[bool]()

    def counted(bench: _Bench, session: Session) -> list[Spared] | None:
        plain = short(bench, session)
        taken[plain is not None] += 1
        return plain

    for seed in range(1500):
        made = scene(seed)
        seen = replace(with_status(made, Status(activity=Activity.BUSY)), on_hold={})
        with monkeypatch.context() as patched:
            patched.setattr(_Bench, "_spare_plain", counted)
            by_the_short_way = made.judged(seen)
            patched.setattr(_Bench, "_spare_plain", lambda *_: None)
            assert made.judged(seen) == by_the_short_way
    assert min(taken.values()) > 100, taken
