"""The messages that people get: one when something begins that needs a person, and one when it is over."""

from collections.abc import Callable, Collection, Iterable, Mapping

from watchdog.alerts.alert import Alert, Severity
from watchdog.alerts.begun import Waiting, stuck
from watchdog.errors import JournalUnusable, WatchdogError
from watchdog.judging.limits import duration
from watchdog.model.outcome import Outcome, Result
from watchdog.model.session import SessionId
from watchdog.model.verdict import Judgement, SpareReason, Verdict
from watchdog.ports import Clock
from watchdog.settings.receivers import Occasion
from watchdog.shown import stacked
from watchdog.timing.events import Assessment, Bystander


class GivenUp:
    """The sessions that are left to a person. An earlier run reported those that it gave up."""

    def __init__(self) -> None:
        self._told: frozenset[SessionId] | None = None
        self._seen: set[SessionId] = set()

    def see(self, session_id: SessionId) -> None:
        """This run gave it up: the next look reports it, even if it is the first one."""
        self._seen.add(session_id)

    def forget(self) -> None:
        """Start over: somebody else acts, and reports."""
        self._told = None

    def look(self, judgement: Judgement) -> list[Alert]:
        """The messages after a look.

        A session that is tried once more stays given up until that has helped, and so does one that waits for that.
        """
        given_up = {each.session_id: each.why for each in judgement.spared if each.reason is SpareReason.GIVEN_UP}
        told = given_up.keys() - self._seen if self._told is None else self._told
        self._seen.clear()
        tried = told & {each.session_id for each in judgement.verdicts}
        self._told = frozenset(given_up) | (told & _findings(judgement).keys() if tried else frozenset())
        begun = [
            Alert(
                title=f"gave up on {id_}",
                body=f"{given_up[id_]}. It needs a person: opencode-watchdog explain {id_}",
                severity=Severity.FAILURE,
                occasion=Occasion.GIVEN_UP,
            )
            for id_ in sorted(given_up.keys() - told)
        ]
        return begun + [_no_longer_given_up(id_, judgement) for id_ in sorted(told - self._told)]


def _no_longer_given_up(session_id: SessionId, judgement: Judgement) -> Alert:
    title = f"{session_id} is no longer given up"
    now = _findings(judgement).get(session_id)
    if now is not None:
        body, severity = f"it is not finished: {now}", Severity.INFO
    else:
        body, severity = "nothing of it is open any more", Severity.SUCCESS
    return Alert(title=title, body=body, severity=severity, occasion=Occasion.GIVEN_UP)


def _findings(judgement: Judgement) -> dict[SessionId, str]:
    """Every session that is not finished, with a sentence about it."""
    spared = {each.session_id: each.why for each in judgement.spared}
    return spared | {each.session_id: each.why for each in judgement.verdicts}


class Degraded:
    """What can't be used, asked or read, reported once it has lasted.

    Args:
        after_seconds: how long it must last, in awake time.
    """

    def __init__(self, after_seconds: float) -> None:
        self._after_seconds = after_seconds
        self._since: dict[str, float] = {}
        self._told: frozenset[str] = frozenset()

    def forget(self) -> None:
        """Start over: somebody else acts, and reports."""
        self._since, self._told = {}, frozenset()

    def look(self, causes: Mapping[str, str], now_seconds: float, *, whole: bool = True) -> list[Alert]:
        """The messages after a tick.

        Args:
            causes: what is degraded, by a short name, with a sentence.
            now_seconds: the awake clock.
            whole: `causes` is complete; otherwise earlier causes still hold.
        """
        kept = self._since if not whole else {name: at for name, at in self._since.items() if name in causes}
        self._since = {**dict.fromkeys(causes, now_seconds), **kept}
        over = self._told - self._since.keys()
        due = {name for name in causes.keys() - self._told if now_seconds - self._since[name] >= self._after_seconds}
        self._told = (self._told - over) | due
        alerts = []
        if due:
            body = stacked(*(causes[name] for name in sorted(due)))
            title = f"degraded for {duration(max(now_seconds - self._since[name] for name in due))}"
            alerts.append(_about_health(title, body, Severity.WARNING))
        if over:
            alerts.append(_about_health("no longer degraded", ", ".join(sorted(over)), Severity.SUCCESS))
        return alerts


def _about_health(title: str, body: str, severity: Severity) -> Alert:
    return Alert(title=title, body=body, severity=severity, occasion=Occasion.DEGRADED)


class Once:
    """Tells the first of what is alike from the others, while its session is unfinished."""

    def __init__(self) -> None:
        self._told: set[tuple[SessionId, tuple[str, ...]]] = set()

    def forget_but(self, unfinished: Collection[SessionId]) -> None:
        """Forget what was reported about finished sessions."""
        self._told = {key for key in self._told if key[0] in unfinished}

    def is_first(self, session_id: SessionId, *what: str) -> bool:
        """Whether that was not asked yet about this session."""
        key = session_id, what
        if key in self._told:
            return False
        self._told.add(key)
        return True


def ended(outcome: Outcome) -> Alert:
    """The message after an intervention."""
    severity = {
        Result.RECOVERED: Severity.SUCCESS,
        Result.UNCHANGED: Severity.INFO,
        Result.DRY_RUN: Severity.INFO,
    }.get(outcome.result, Severity.WARNING)
    title = f"{outcome.session_id}: {outcome.kind.value}, {outcome.result.value}"
    return Alert(title=title, body=outcome.why, severity=severity, occasion=Occasion.OUTCOME)


class Alerts(Bystander):
    """A listener that decides what to report.

    Args:
        tell: takes a message at once; must not raise.
        clock: times what lasts.
        occasions: the occasions for messages.
        degraded_after_seconds: how long something must be degraded before it is reported.
        waiting_after_seconds: how long a person must have been asked before it is reported.
    """

    def __init__(
        self,
        tell: Callable[[Alert], None],
        *,
        clock: Clock,
        occasions: Collection[Occasion],
        degraded_after_seconds: float,
        waiting_after_seconds: float,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._occasions = frozenset(occasions)
        self._given_up = GivenUp()
        self._degraded = Degraded(degraded_after_seconds)
        self._outcomes = Once()
        self._waiting = Waiting(waiting_after_seconds)
        self._stuck = Once()
        self._acting = True

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """Report what began and what is over.

        A watchdog that only observes reports nothing: the one that acts does.
        """
        self._acting = acting
        if not acting:
            self._given_up.forget()
            self._degraded.forget()
            self._waiting.forget()
            return
        judgement = assessment.judgement
        if Occasion.GIVEN_UP in self._occasions:
            self._send(self._given_up.look(judgement))
        if Occasion.WAITING in self._occasions:
            self._send(self._waiting.look(assessment.observation))
        self._look_at_health(degraded_causes(assessment), whole=True)
        unfinished = _findings(judgement).keys()
        self._outcomes.forget_but(unfinished)
        self._stuck.forget_but(unfinished)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:  # noqa: ARG002 - a listener's
        """Report an outage that lasts."""
        if self._acting:
            what = "the journal" if isinstance(error, JournalUnusable) else "the database"
            self._look_at_health({what: str(error)}, whole=False)

    def found(self, verdict: Verdict) -> None:
        """Report what is stuck, before anything is done about it, if that was asked for."""
        if Occasion.STUCK in self._occasions and self._stuck.is_first(verdict.session_id, verdict.kind):
            self._send([stuck(verdict)])

    def left_over(self, alert: Alert) -> None:
        """Report what outlived its opencode, if that was asked for and this watchdog acts."""
        if self._acting and Occasion.LEFTOVERS in self._occasions:
            self._send([alert])

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:  # noqa: ARG002
        """Report an outcome, if that was asked for."""
        if given_up:
            self._given_up.see(outcome.session_id)
        told = outcome.kind, outcome.result
        if Occasion.OUTCOME in self._occasions and self._outcomes.is_first(outcome.session_id, *told):
            self._send([ended(outcome)])

    def _look_at_health(self, causes: Mapping[str, str], *, whole: bool) -> None:
        if Occasion.DEGRADED in self._occasions:
            self._send(self._degraded.look(causes, self._clock.read().awake_seconds, whole=whole))

    def _send(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            self._tell(alert)


def degraded_causes(assessment: Assessment) -> dict[str, str]:
    """What could not be asked, read or timed at a look: by server, all damaged rows as one, and by session."""
    observation = assessment.observation
    causes = {str(each.name): each.trouble for each in observation.reports if each.trouble is not None}
    damaged = len(observation.snapshot.damaged)
    if damaged:
        causes["damaged rows"] = f"{damaged} rows can't be read, and their sessions are left alone"
    for each in assessment.judgement.spared:
        if each.reason is SpareReason.CLOCK_STOPPED and each.uneasy:
            causes[f"the clock of {each.session_id}"] = f"{each.session_id}: {each.why}"
    return causes
