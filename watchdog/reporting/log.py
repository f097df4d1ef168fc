"""Logs what the loop does: ids, tool names and times, never content."""

from collections.abc import Iterable, Mapping

from watchdog.console.logger import debugs, logger
from watchdog.errors import WatchdogError
from watchdog.loop.watch import Assessment
from watchdog.model.outcome import Outcome, Result
from watchdog.model.session import SessionId
from watchdog.model.verdict import Spared, SpareReason, Verdict
from watchdog.reporting import documents as contract
from watchdog.reporting.documents import damage_sentences
from watchdog.timing.clock import Advance


class LogListener:
    """Writes the loop's events to the log; a lasting state is logged once when it begins and once when it ends."""

    def __init__(self) -> None:
        self._degraded: frozenset[str] = frozenset()
        self._unavailable = False
        self._acting: bool | None = None
        self._told: frozenset[frozenset[str]] = frozenset()
        self._uneasy: frozenset[tuple[SessionId, SpareReason]] = frozenset()
        self._on_hold: dict[SessionId, str] = {}

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """Log a look (debug), and every change in what can be seen or done."""
        self._note_mandate(acting=acting)
        self._note_health(assessment)
        self._note_holds(assessment.observation.on_hold)
        judgement = assessment.judgement
        self._note_uneasy(judgement.spared)
        if debugs():
            logger().debug(
                "watch.looked",
                verdicts=len(judgement.verdicts),
                spared=[
                    {"session_id": each.session_id, "reason": each.reason.value, "part_id": each.call_id}
                    for each in judgement.spared
                ],
                seconds=round(assessment.slow_seconds, 4),
            )
        if not acting:
            self._tell_once(judgement.verdicts)

    def held_back(self, advance: Advance, slow_seconds: float) -> None:
        """Log a look on which nothing was done."""
        logger().warning(
            "watch.held_back",
            why="this look came late or took long; nothing is done on it",
            late_seconds=round(advance.late_seconds, 1),
            slept_seconds=round(advance.slept_seconds, 1),
            slow_seconds=round(slow_seconds, 1),
        )

    def found(self, verdict: Verdict) -> None:
        """Log a verdict that is about to be carried out."""
        logger().info("verdict.found", **contract.Verdict.told(verdict))

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:
        """Log an outcome; giving up is an alert."""
        fine = outcome.result in {Result.RECOVERED, Result.UNCHANGED, Result.DRY_RUN}
        log = logger().info if fine else logger().warning
        log("outcome", **contract.Outcome.told(outcome))
        if given_up:
            logger().error("verdict.given_up", **contract.Verdict.told(verdict))

    def failed(self, verdict: Verdict, error: Exception) -> None:
        """Log an error of the watchdog's own, with where it happened."""
        logger().error("verdict.failed", exc_info=error, **contract.Verdict.told(verdict))

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """Log that the database or the journal can't be used, once."""
        if not self._unavailable:
            logger().warning("database.unavailable", why=str(error), retry_seconds=retry_seconds)
        self._unavailable = True

    def _note_mandate(self, *, acting: bool) -> None:
        if acting != self._acting:
            if not acting:
                logger().warning("watch.observing", why="another watchdog acts on this database; this one only looks")
            elif self._acting is not None:
                logger().info("watch.acting", why="the other watchdog is gone")
            self._acting = acting

    def _note_health(self, assessment: Assessment) -> None:
        if self._unavailable:
            logger().info("database.recovered")
            self._unavailable = False
        degraded = frozenset([*assessment.observation.degraded, *damage_sentences(assessment.observation)])
        for sentence in sorted(degraded - self._degraded):
            logger().warning("watch.degraded", why=sentence)
        for sentence in sorted(self._degraded - degraded):
            logger().info("watch.recovered", was=sentence)
        self._degraded = degraded

    def _note_holds(self, holds: Mapping[SessionId, str]) -> None:
        for session_id in sorted(holds.keys() - self._on_hold.keys()):
            logger().info("watch.on_hold", session_id=session_id, why=holds[session_id])
        for session_id in sorted(self._on_hold.keys() - holds.keys()):
            logger().info("watch.hold_ended", session_id=session_id, was=self._on_hold[session_id])
        self._on_hold = dict(holds)

    def _note_uneasy(self, spared: Iterable[Spared]) -> None:
        """Log, once for each session and reason, what is spared although a person may want to know."""
        uneasy = {(each.session_id, each.reason): each for each in spared if each.uneasy}
        for key in sorted(uneasy.keys() - self._uneasy):
            logger().info("session.spared", session_id=key[0], reason=key[1].value, why=uneasy[key].why)
        self._uneasy = frozenset(uneasy)

    def _tell_once(self, verdicts: Iterable[Verdict]) -> None:
        """Log, once each, the verdicts that this watchdog will not carry out."""
        verdicts = tuple(verdicts)
        for verdict in verdicts:
            if verdict.attempt_keys not in self._told:
                logger().info("verdict.observed", **contract.Verdict.told(verdict))
        self._told = frozenset(verdict.attempt_keys for verdict in verdicts)
