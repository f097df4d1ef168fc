"""The loop in numbers for Prometheus. Imported only while the HTTP API is on.

Names and units follow Prometheus' conventions (https://prometheus.io/docs/practices/naming/). No label holds anything
that grows: no session, no tool, and of the servers only the configured ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from watchdog.errors import JournalUnusable, WatchdogError
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Observation
from watchdog.model.session import ServerName, SessionId
from watchdog.model.verdict import Judgement, SpareReason, Verdict, VerdictKind
from watchdog.ports import Clock
from watchdog.shown import shown
from watchdog.timing.clock import Advance
from watchdog.timing.events import Assessment

PREFIX = "opencode_watchdog"
STUCK, UNJUDGED = "stuck", "unjudged"
STATES = (STUCK, *(reason.value for reason in SpareReason), UNJUDGED)
"""The states of an unfinished session: stuck, spared for a reason, or open in a way that can't be judged."""
CAUSES = ("database", "journal", "server", "row", "another_database")
"""The causes of a degraded state: the database or the journal can't be used, a server gave no answer, a row can't be
read, a server is not proven to serve this database."""

_TRIED = frozenset({SpareReason.COOLING_DOWN, SpareReason.GIVEN_UP})
_VERSIONS: Mapping[str, Sequence[list[str]]] = {
    "application/openmetrics-text": ([], ["version=1.0.0"]),
    "text/plain": ([], ["version=0.0.4"], ["version=1.0.0"]),
}
"""The available formats."""
_TICK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """A listener that counts, with a registry of its own.

    Args:
        version: the program's.
        servers: the names of the configured servers; those found later get no series.
        clock: says when the loop ticked.
        reads: how often the database was read so far, by kind.
        alerts: how many alerts were sent, failed or dropped so far; None without receivers.
        dry_run: nothing is done, whoever has the right to act.
    """

    def __init__(
        self,
        *,
        version: str,
        servers: Iterable[ServerName],
        clock: Clock,
        reads: Callable[[], Mapping[str, int]],
        alerts: Callable[[], Mapping[str, int]] | None = None,
        dry_run: bool = False,
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._clock = clock
        self._dry_run = dry_run
        self._servers = tuple(servers)
        self._standing: dict[frozenset[str], SessionId] = {}
        self._make_gauges()
        self._make_counters()
        self.registry.register(_Counts("database_reads", "Reads of opencode's database.", "kind", reads))
        if alerts is not None:
            self.registry.register(_Counts("alerts", "Alerts to the receivers in `notify`.", "result", alerts))
        ProcessCollector(registry=self.registry)
        info = Gauge(
            "build_info",
            "1, with the versions as labels.",
            ["version", "python"],
            namespace=PREFIX,
            registry=self.registry,
        )
        info.labels(version, python_version()).set(1)

    def _make_gauges(self) -> None:
        self._sessions = self._gauge("sessions", "Unfinished sessions, by what was judged at the last look.", "state")
        self._calls = self._gauge("open_tool_calls", "Open tool calls.")
        self._oldest = self._gauge(
            "oldest_unfinished_call_age_seconds",
            "Age of the oldest open tool call as its limit counts it; 0 when none is open.",
        )
        self._feeds = self._gauge(
            "feed_connected", "1 while the event feed of a configured server is heard.", "server"
        )
        self._degraded = self._gauge("degraded", "1 while something can't be used, asked or read.", "cause")
        self._ticked = self._gauge("last_tick_timestamp_seconds", "When the loop last ticked.")
        self._acting = self._gauge("acting", "1 while this watchdog has the right to act on its database, and acts.")
        self._under_way = self._gauge("interventions_in_progress", "Verdicts that are being carried out.")
        for state in STATES:
            self._sessions.labels(state)
        for cause in CAUSES:
            self._degraded.labels(cause)
        for server in self._servers:
            self._feeds.labels(shown(server))

    def _make_counters(self) -> None:
        self._verdicts = self._counter("verdicts", "Verdicts, each counted when it is first seen.", "kind")
        self._outcomes = self._counter("outcomes", "How interventions ended.", "kind", "result")
        self._given_up = self._counter("given_up", "Verdicts for which no more attempts will be made.")
        self._held_back = self._counter("looks_held_back", "Looks on which nothing was done: late, or too slow.")
        self._failed = self._counter("internal_errors", "Errors of the watchdog's own that were contained.")
        self._ticks = Histogram(
            "tick_duration_seconds",
            "How long a look and its judgement took.",
            namespace=PREFIX,
            registry=self.registry,
            buckets=_TICK_BUCKETS,
        )
        for kind in VerdictKind:
            self._verdicts.labels(kind.value)
            for result in Result:
                self._outcomes.labels(kind.value, result.value)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, namespace=PREFIX, registry=self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, namespace=PREFIX, registry=self.registry)

    def render(self, accept: str | None) -> tuple[str, bytes]:
        """The content type and the text of all metrics, in the format that an `Accept` header asks for."""
        encode, content_type = choose_encoder(_known(accept or ""))
        return content_type, encode(self.registry)

    # -- what the loop tells ---------------------------------------------------------------------------------

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """Take the numbers of a look."""
        observation, judgement = assessment.observation, assessment.judgement
        self._tick()
        self._ticks.observe(assessment.slow_seconds)
        self._acting.set(acting and not self._dry_run)
        sessions = states(observation, judgement)
        for state in STATES:
            self._sessions.labels(state).set(sessions.get(state, 0))
        self._calls.set(sum(len(session.calls) for session in observation.snapshot.sessions.values()))
        self._oldest.set(oldest_age_seconds(observation))
        connected = {each.name for each in observation.reports if each.witness is not None and each.witness.connected}
        for server in self._servers:
            self._feeds.labels(shown(server)).set(server in connected)
        self._count_verdicts(judgement)
        self._note_degraded(
            server=any(report.trouble is not None or report.is_deaf for report in observation.reports),
            row=bool(observation.snapshot.damaged),
            another=any(report.not_shown is not None for report in observation.reports),
        )

    def held_back(self, advance: Advance, slow_seconds: float) -> None:  # noqa: ARG002 - a listener's
        """Count a look on which nothing was done."""
        self._held_back.inc()

    def found(self, verdict: Verdict) -> None:  # noqa: ARG002
        """An intervention begins."""
        self._under_way.inc()

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:  # noqa: ARG002
        """Count an outcome."""
        self._under_way.dec()
        self._outcomes.labels(outcome.kind.value, outcome.result.value).inc()
        if given_up:
            self._given_up.inc()

    def failed(self, verdict: Verdict, error: Exception) -> None:  # noqa: ARG002
        """Count an error of the watchdog's own."""
        self._failed.inc()

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:  # noqa: ARG002
        """The loop ticked, and could not look."""
        self._tick()
        journal = isinstance(error, JournalUnusable)
        self._degraded.labels("journal" if journal else "database").set(1)

    def _tick(self) -> None:
        self._ticked.set(self._clock.read().wall_ms / 1000)

    def _note_degraded(self, *, server: bool, row: bool, another: bool) -> None:
        for cause, holds in zip(CAUSES, (False, False, server, row, another), strict=True):
            self._degraded.labels(cause).set(holds)

    def _count_verdicts(self, judgement: Judgement) -> None:
        for verdict in judgement.verdicts:
            if verdict.attempt_keys not in self._standing:
                self._verdicts.labels(verdict.kind.value).inc()
        # A verdict that waits for its next attempt, or has none left, is still the same one.
        waiting = {each.session_id for each in judgement.spared if each.reason in _TRIED}
        kept = {keys: session_id for keys, session_id in self._standing.items() if session_id in waiting}
        self._standing = kept | {each.attempt_keys: each.cancel_session_id for each in judgement.verdicts}


class _Counts(Collector):
    """A counter whose numbers somebody else keeps."""

    def __init__(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._documentation = f"{PREFIX}_{name}", documentation
        self._label, self._read = label, read

    def collect(self) -> Iterable[Metric]:
        """The numbers as they are now."""
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, count in sorted(self._read().items()):
            family.add_metric([value], count)
        return [family]


def _known(accept: str) -> str:
    """What an `Accept` header asks for, without the versions that nobody writes: the encoders fail at odd ones."""
    kinds = [[part.strip() for part in kind.split(";")] for kind in accept.split(",")]
    versions = [(kind, [part for part in kind[1:] if part.startswith("version=")]) for kind in kinds]
    return ",".join(";".join(kind) for kind, said in versions if said in _VERSIONS.get(kind[0], ()))


def states(observation: Observation, judgement: Judgement) -> dict[str, int]:
    """How many unfinished sessions there are in each state; of several reasons the first one counts."""
    found = {verdict.session_id: STUCK for verdict in judgement.verdicts}
    for spared in judgement.spared:
        found.setdefault(spared.session_id, spared.reason.value)
    for session in observation.snapshot.sessions.values():
        if session.has_open_rows:
            found.setdefault(session.id, UNJUDGED)
    counts: dict[str, int] = {}
    for state in found.values():
        counts[state] = counts.get(state, 0) + 1
    return counts


def oldest_age_seconds(observation: Observation) -> float:
    """The greatest age of an open call: awake time, without its waits for a human or a provider. 0 without any."""
    return max((observation.now - start for start in observation.call_clocks.values()), default=0.0)
